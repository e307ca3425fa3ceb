"""What several test files share: small models and data, a quick monitor, and several ranks in one process."""

from __future__ import annotations

import itertools
import pickle
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_interactions import InteractionsWarning, PhaseDetector, PhaseEvent, TwoPhaseMonitor
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.model.model import Model

# -- networks ---------------------------------------------------------------------------------------------------------


def mlp(features: int = 5, classes: int = 3, seed: int = 0) -> nn.Sequential:
    """A small network on columns."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, classes)).eval()


def cnn(seed: int = 0) -> nn.Sequential:
    """A small network on ``(B, 1, 8, 8)`` images; module ``"1"`` is the first activation, written in place."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * 16, 3),
        ).eval()


class Words(nn.Module):
    """A small causal language model."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = (
            nn.Embedding(tokens, 8),
            nn.GRU(8, 8, batch_first=True),
            nn.Linear(8, tokens),
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(ids))[0])


class Recorder(nn.Module):
    """Calls a model and keeps the number of rows of every call; pretends that more than `limit` need too much memory.

    Args:
        model: The model.
        limit: Largest number of rows that fit.
        error: What to raise beyond.
    """

    def __init__(self, model: nn.Module, limit: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.model = model
        self.limit = limit
        self.error = error or torch.OutOfMemoryError("out of memory")
        rows: list[int] = []
        self.note = rows.append  # not an attribute itself: the monitor would put it back as it was

    @property
    def rows(self) -> list[int]:
        return self.note.__self__  # type: ignore

    def forward(self, inputs: Tensor) -> Tensor:
        self.note(len(inputs))
        if self.limit is not None and len(inputs) > self.limit:
            raise self.error
        return self.model(inputs)


# -- Lightning modules and their data ---------------------------------------------------------------------------------


def column_data(size: int = 48, columns: int = 5, classes: int = 3, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, columns, generator=generator)
    score = x[:, 0] * x[:, 1] + x[:, 2].abs() - x[:, 3]
    return TensorDataset(x, torch.bucketize(score, torch.tensor([-0.5, 0.8])[: classes - 1]))


def loaders(train: int = 64, val: int = 48, batch_size: int = 16) -> dict[str, DataLoader[Any]]:
    return {
        "train_dataloaders": DataLoader(column_data(train, seed=1), batch_size=batch_size, shuffle=True),
        "val_dataloaders": DataLoader(column_data(val, seed=2), batch_size=batch_size),
    }


class ColumnNet(L.LightningModule):
    """Batch norm, dropout, a scheduler, and metrics logged in three ways."""

    def __init__(self, columns: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(columns, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}


class QuietNet(ColumnNet):
    """Logs nothing: ``self.log`` inside a compiled module fails on this pair of versions, with or without a monitor."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self(batch[0])


class ManualNet(ColumnNet):
    """Manual optimisation with two optimizers; the outputs of a step are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        first, last = self.net[0].parameters(), self.net[4].parameters()
        return [torch.optim.SGD(first, lr=0.05, momentum=0.9), torch.optim.Adam(last, lr=0.01)]


class SkippingNet(ColumnNet):
    """Skips every third step."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        return None if batch_idx % 3 == 2 else super().training_step(batch, batch_idx)


class PlateauNet(ColumnNet):
    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "strict": False}}


class LbfgsNet(ColumnNet):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class TwoLoadersNet(ColumnNet):
    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


class LoggingForward(ColumnNet):
    """Logs inside forward, which our passes must not reach, and draws random numbers there."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.trainer.state.stage != "sanity_check":
            self.log("seen_in_forward", out.mean() + torch.rand(()) + random.random() + np.random.rand())
        return out


class HookedNet(ColumnNet):
    """Hooks that change what passes and draw random numbers, and a buffer that counts in every mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.net[0].register_forward_pre_hook(lambda module, args: (args[0] + 0.01 * torch.randn(()),))
        self.net.register_forward_hook(lambda module, args, output: 2 * output)
        torch.nn.utils.spectral_norm(self.net[4])

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class ModeChanging(ColumnNet):
    """Monte Carlo dropout: switches modes inside forward; and keeps its batch norm frozen in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        self.net[3].train()
        return super().forward(x)

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()

    def on_validation_model_train(self) -> None:
        self.net[0].train()
        self.net[4].train()


class PictureNet(ColumnNet):
    """Convolutions on (1, 8, 8) images; the first batch norm is frozen by the user."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(144, 3)
        )

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()


def picture_loaders() -> dict[str, DataLoader[Any]]:
    generator = torch.Generator().manual_seed(3)
    data = TensorDataset(torch.randn(48, 1, 8, 8, generator=generator), torch.arange(48) % 3)
    return {"train_dataloaders": DataLoader(data, 16, shuffle=True), "val_dataloaders": DataLoader(data, 16)}


class Stream(IterableDataset[Any]):
    """A data set without a length."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return (self.data[i] for i in range(len(self.data)))


def stream_loaders() -> dict[str, DataLoader[Any]]:
    return {
        "train_dataloaders": DataLoader(Stream(column_data(64, seed=1)), 16),
        "val_dataloaders": DataLoader(Stream(column_data(40, seed=2)), 16),
    }


class Endless(IterableDataset[Any]):
    """Samples without end, dealt to the ranks in turn; as a stream, it cannot say how many."""

    def __init__(self, size: int = 64) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        data, ranks = column_data(self.size, seed=1), dist.get_world_size() if dist.is_initialized() else 1
        return (data[i % self.size] for i in itertools.count(rank(), ranks))


def endless_loaders(size: int = 64) -> dict[str, DataLoader[Any]]:
    return loaders() | {"train_dataloaders": DataLoader(Endless(size), 16)}


class TaskNet(L.LightningModule):
    """Any network on tuples or dicts, with any loss."""

    def __init__(
        self, net: nn.Module, loss: Any = F.cross_entropy, keys: tuple[Any, Any] = (0, 1), lr: float = 0.01
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.keys = keys
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self(batch[self.keys[0]]), batch[self.keys[1]])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self(batch[self.keys[0]]), batch[self.keys[1]]), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class AnyBatch(ColumnNet):
    """Trains without looking at the batch, so that only the monitor can object."""

    trained = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.trained += 1
        return self(torch.randn(4, 5)).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    @staticmethod
    def strange_batches() -> dict[str, DataLoader[Any]]:
        loader: DataLoader[Any] = DataLoader([{"name": f"sample {i}", "size": i} for i in range(12)], 4)
        return {"train_dataloaders": loader, "val_dataloaders": loader}


# -- runs with the monitor --------------------------------------------------------------------------------------------


class ScriptedDetector(PhaseDetector):
    """Says what it is told to, at the epochs it is told to; by default a boundary at 1 and overfitting at 2."""

    def __init__(self, **kinds: int) -> None:
        super().__init__()
        self.kinds = {epoch: kind for kind, epoch in (kinds or {"boundary": 1, "overfitting": 2}).items()}

    def update(self, epoch: int, *args: Any, step: int = 0, **kwargs: Any) -> list[PhaseEvent]:
        kind: Any = self.kinds.get(epoch)
        retracts = ""
        if kind == "boundary":
            self.boundary_epoch = epoch
        if kind == "overfitting":
            self.overfitting_epoch = epoch
        if kind == "retracted":
            retracts = "overfitting" if self.boundary_epoch is None else "boundary"
            self.boundary_epoch = self.overfitting_epoch = None
        return [PhaseEvent(kind, epoch, epoch, step, {}, f"{kind} at {epoch}", retracts)] if kind else []


class Asks(L.Callback):
    """Someone else who wants the run to stop, once, at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or trainer.current_epoch == self.epoch


def small_monitor(**options: Any) -> TwoPhaseMonitor:
    """A monitor that is quick and hides nothing; it measures at every validation, whatever that costs."""
    defaults: dict[str, Any] = {
        "num_samples": 6, "num_players": 4, "on_error": "raise", "verbose": False, "every_n_epochs": 1,
        "max_overhead": None,
    }  # fmt: skip
    return TwoPhaseMonitor(**(defaults | options))


def fit(
    monitor: L.Callback | None,
    folder: Path | None = None,
    *,
    model: nn.Module | Callable[[], nn.Module] = ColumnNet,
    data: dict[str, Any] | None = None,
    ckpt_path: str | None = None,
    callbacks: tuple[L.Callback, ...] = (),
    seed: int = 0,
    **options: Any,
) -> L.Trainer:
    """Train on the CPU, quietly; a model given as a function is made after the seed, so runs are alike."""
    L.seed_everything(seed, verbose=False)
    defaults: dict[str, Any] = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    listed = [*([monitor] if monitor is not None else []), *callbacks]
    trainer = L.Trainer(callbacks=listed, **(defaults | options))
    module = model if isinstance(model, nn.Module) else model()
    trainer.fit(module, **(data or loaders()), ckpt_path=ckpt_path)
    return trainer


@contextmanager
def listening() -> Iterator[list[str]]:
    """The package's own warnings of a block, known at its end; those of others are swallowed."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    told += [str(w.message) for w in caught if issubclass(w.category, InteractionsWarning)]


def told_during(run: Callable[[], object]) -> list[str]:
    """The package's own warnings while a function runs."""
    with listening() as told:
        run()
    return told


class FullDisk(TensorBoardLogger):
    """The disk of rank 0 is full, but Lightning's own scalars get through."""

    class Writer:
        def __getattr__(self, name: str) -> Any:
            raise OSError(28, "No space left on device")

    @property
    def experiment(self) -> Any:
        return self.Writer() if rank() == 0 else super().experiment

    log_metrics = log_graph = log_hyperparams = finalize = save = lambda self, *args, **kwargs: None  # type: ignore


# -- several ranks ----------------------------------------------------------------------------------------------------


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@dataclass
class Exchange:
    """Gathers over threads, one for each rank: every rank waits for the others, as processes do."""

    world_size: int
    parts: dict[int, Any] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.world_size)

    def ranks(self, rank: int) -> Ranks:
        def swap(item: Any) -> list[Any]:
            self.calls.append(rank)
            self.parts[rank] = item
            self.barrier.wait(timeout=60)
            everyone = [self.parts[i] for i in range(self.world_size)]
            self.barrier.wait(timeout=60)
            return everyone

        def gather_objects(item: Any) -> list[Any]:
            return [pickle.loads(sent) for sent in swap(pickle.dumps(item))]

        return Ranks(rank, self.world_size, lambda local: torch.cat(swap(local.cpu())), gather_objects)


def on_ranks(world_size: int, work: Callable[[Ranks], Any], exchange: Exchange | None = None) -> list[Any]:
    """What every rank returned, or the error it ended with. Networks are built before: they draw random numbers."""
    between, results = exchange or Exchange(world_size), [None] * world_size

    def run(rank: int) -> None:
        try:
            results[rank] = work(between.ranks(rank))
        except Exception as error:  # handed to the test
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


_ONE_AT_A_TIME = threading.RLock()


class Asked(Model):
    """A model that ranks in threads can share: `quiet` changes the process, so only one of them is in it at a time.

    Whoever waited for another rank inside `quiet` would wait in vain.
    """

    @contextmanager
    def quiet(self) -> Iterator[None]:
        with _ONE_AT_A_TIME, super().quiet():
            yield
