"""Run by test_strategies.py in its own processes: several trainings on 2 ranks; each rank saves what it found.

Usage: python ddp_run.py FOLDER
"""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from identity import Spy, outcome
from lightning.pytorch.callbacks import ModelCheckpoint
from models import (
    Asks,
    ColumnNet,
    Endless,
    FullDisk,
    ScriptedDetector,
    column_data,
    loaders,
    rank,
    small_monitor,
)
from stateful import STATEFUL
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lightning_interactions import TabularFeatures
from lightning_interactions.monitor.actions import STOP_AFTER
from lightning_interactions.monitor.auto import AutoMonitor


class FixedNet(ColumnNet):
    """Never learns, so that its weights do not depend on how many processes share the batches."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.net.eval()
        loss = super().training_step(batch, batch_idx)
        if self.global_rank == 0:
            self.log("train_loss_of_rank_0", loss, on_epoch=True, rank_zero_only=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.global_rank == 0:
            self.log("val_loss_of_rank_0", float(batch[0].mean()), rank_zero_only=True)


def fails_on_rank_1(logits: Tensor, targets: Tensor) -> Tensor:
    if rank() == 1 and len(logits) > 4:
        raise ValueError("this score fails on rank 1")
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


def fails_on_rank_1_while_training(logits: Tensor, targets: Tensor) -> Tensor:
    fails_on_rank_1_while_training.calls += len(logits) > 4  # type: ignore[attr-defined]
    if rank() == 1 and fails_on_rank_1_while_training.calls > 8:  # type: ignore[attr-defined]
        raise ValueError("this score fails on rank 1")
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


fails_on_rank_1_while_training.calls = 0  # type: ignore[attr-defined]


def unreadable_on_rank_1(batch: list[Tensor]) -> Tensor:
    if rank() == 1:
        raise KeyError("no target on rank 1")
    return batch[1]


def first_columns(module: Any, inputs: Tensor) -> Tensor:
    return module(inputs[:, :5])


def many_columns(batch: list[Tensor]) -> Tensor:
    return batch[0].repeat(1, 400)


def more_columns_on_rank_1(batch: list[Tensor]) -> Tensor:
    return batch[0].repeat(1, 1 + rank())


class Counted(TabularFeatures):
    """Counts the pairs of sample and coalition that this rank evaluates."""

    pairs = 0

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        Counted.pairs += len(samples) * len(coalitions)
        return super().mask_batch(samples, players, coalitions)


class Uneven(Sampler[int]):
    """Three batches on rank 0, two on the others; nothing is repeated to make them equal."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, 33) if rank() == 0 else range(33, 49))

    def __len__(self) -> int:
        return 33 if rank() == 0 else 16


SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stopped": {},
    "both": {"watch": "both"},
    "shared": {"num_samples": 9, "num_players": 5, "players": Counted()},
    "few": {"num_samples": 3, "num_players": 5},
    # Chunks of one size: else all that the frozen network's curve does is to be rounded differently.
    "sampled": {"num_pairs": 16, "num_players": 5, "chunk_size": 34},
    "sampled_both": {"num_pairs": 16, "num_players": 5, "chunk_size": 34, "watch": "both"},
    "logged_loss": {"monitor": "val_loss", "stop_on": "overfitting", "detector": ScriptedDetector()},
    "rank_zero_only": {"monitor": "val_loss_of_rank_0"},
    "uneven": {},
    "fault": {"score": fails_on_rank_1, "on_error": "warn"},
    "unreadable": {"target_fn": unreadable_on_rank_1, "on_error": "warn"},
    "withdrawn": {"stop_on": "boundary", "detector": ScriptedDetector(boundary=0, retracted=1 + STOP_AFTER)},
    "wide": {"input_fn": many_columns, "forward_fn": first_columns},
    "shapes": {"input_fn": more_columns_on_rank_1, "forward_fn": first_columns, "on_error": "warn"},
    "disk_full": {"stop_on": "boundary", "detector": ScriptedDetector(boundary=0), "on_error": "warn"},
    "inside": {"every_n_epochs": None},
    "inside_both": {"every_n_epochs": None, "watch": "both"},
    "inside_fault": {"every_n_epochs": None, "score": fails_on_rank_1_while_training, "on_error": "warn"},
    "steps": {"every_n_epochs": None},
    "steps_alone": {"every_n_epochs": None, "watch": "train"},
}
"""The monitor's options. 'logged_loss' is logged without ``sync_dist``: the ranks have different values."""


COMPARED: dict[str, dict[str, Any]] = {
    "float32": {"precision": "32-true", "val_check_interval": 0.5},
    "mixed": {"precision": "bf16-mixed", "accumulate_grad_batches": 2},
    "bfloat16": {"precision": "bf16-true", "gradient_clip_val": 0.5},
    "float64": {"precision": "64-true", "check_val_every_n_epoch": 2},
    "inside": {"accumulate_grad_batches": 2, "check_val_every_n_epoch": 2, "gradient_clip_val": 0.5},
}
"""The Trainer's options of the runs that are compared bit by bit."""

REMEMBERING = ("counter", "own-generators", "metrics", "cache", "features-outside", "averaged-copy")
"""Models that keep something in forward, compared in the same way."""


@contextmanager
def collectives(pickled: list[int]) -> Iterator[list[str]]:
    """Collect the names of all collective calls, and the sizes of the objects exchanged."""
    names = ("all_gather", "all_gather_object", "all_reduce", "barrier", "broadcast", "broadcast_object_list")
    called: list[str] = []
    originals = {name: getattr(dist, name) for name in names}

    def noted(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            if name == "all_gather_object":
                pickled.append(len(pickle.dumps(args[1])))
            return originals[name](*args, **kwargs)

        return call

    for name in names:
        setattr(dist, name, noted(name))
    try:
        yield called
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def main(devices: int, folder: Path, scenario: str) -> None:
    L.seed_everything(0, verbose=False)
    Counted.pairs = 0
    told: list[str] = []
    options = {"num_samples": 7, "on_event": lambda event: told.append(event.kind)} | SCENARIOS[scenario]
    # Where one rank cannot read its batches, an explicit monitor raises there; that of the environment steps aside.
    make = partial(AutoMonitor, num_players=4, verbose=False) if scenario == "unreadable" else small_monitor
    monitor = make(**options)
    uneven, strategy = scenario == "uneven", "ddp" if devices > 1 else "auto"
    inside = scenario.startswith(("inside", "steps"))  # the same batches on one rank and on two together
    endless: dict[str, Any] = {"max_epochs": -1, "max_steps": 16, "val_check_interval": 8, "log_every_n_steps": 8}
    if scenario == "steps_alone":
        endless |= {"val_check_interval": 1.0, "limit_val_batches": 0}
    steps = scenario.startswith("steps")
    epochs = 3 + STOP_AFTER if scenario in ("withdrawn", "disk_full") else 3
    trainer = L.Trainer(
        **(endless if steps else {"max_epochs": epochs}),
        min_epochs=2 + STOP_AFTER if scenario == "withdrawn" else None,
        accelerator="cpu", devices=devices, strategy=strategy,
        logger=FullDisk(folder) if scenario == "disk_full" else False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
        num_sanity_val_steps=2 // devices if inside else 1,
        use_distributed_sampler=not uneven,
        callbacks=[monitor, Asks(1 if scenario == "stopped" else -1), ModelCheckpoint(folder, filename=scenario)],
    )  # fmt: skip
    validation = column_data(49, seed=2)  # on 2 ranks the sampler repeats one of them
    pickled: list[int] = []
    with collectives(pickled) as called:
        trainer.fit(
            FixedNet(),
            DataLoader(
                Endless() if steps else column_data(64, seed=1), 16 // devices if inside else 16, shuffle=not steps
            ),
            DataLoader(validation, 16, sampler=Uneven() if uneven and devices > 1 else None),
        )
    state = monitor.state_dict()
    found = {
        "history": monitor.history.to_dict(),
        "events": state["events"],
        "keys": {split: probe.keys for split, probe in monitor._loop.watchlist.watched.items()},
        "weights": trainer.lightning_module.state_dict(),
        "told": told,
        "state": state,
        "epochs": trainer.current_epoch,
        "collectives": called,
        "pickled": pickled,
        "pairs": Counted.pairs,
        "samples": monitor.history.samples,
    }
    torch.save(found, folder / f"{scenario}_{devices}.rank{trainer.global_rank}")


def compare(folder: Path) -> None:
    """Trainings with dropout and batch norm, with the monitor and without: each rank saves what is left of them."""
    for name, options in COMPARED.items():
        for monitored in (True, False):
            L.seed_everything(0, verbose=False)
            rhythm = {"every_n_epochs": None, "on_event": None} if name == "inside" else {"watch": "both"}
            spy, monitor = Spy(), small_monitor(**rhythm)
            trainer = L.Trainer(
                accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
                enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
                callbacks=[monitor, spy] if monitored else [spy], **({"max_epochs": 2} | options),
            )  # fmt: skip
            trainer.fit(ColumnNet(), **loaders())
            found = {"left": outcome(trainer, spy), "measured": len(monitor.history)}
            torch.save(found, folder / f"{name}_{monitored}.rank{trainer.global_rank}")


def compare_stateful(folder: Path) -> None:
    """Trainings of models that remember, with the monitor and without: the ranks make different forward passes."""
    for name in REMEMBERING:
        for monitored in (True, False):
            L.seed_everything(0, verbose=False)
            spy, monitor = Spy(), small_monitor(num_samples=7)
            trainer = L.Trainer(
                max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
                enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
                callbacks=[monitor, spy] if monitored else [spy],
            )  # fmt: skip
            model = STATEFUL[name]()
            trainer.fit(model, **loaders())
            found = {"left": outcome(trainer, spy) | {"memory": model.memory()}, "measured": len(monitor.history)}
            torch.save(found, folder / f"{name}_{monitored}.rank{trainer.global_rank}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for scenario_ in SCENARIOS:
        main(2, Path(sys.argv[1]), scenario_)
    compare(Path(sys.argv[1]))
    compare_stateful(Path(sys.argv[1]))
