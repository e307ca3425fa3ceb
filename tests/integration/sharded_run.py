"""Run by test_sharded.py in its own processes: trainings of a model that is split over 2 ranks.

Each rank saves what it found.

Usage: python sharded_run.py FOLDER [CASE ...]
"""

from __future__ import annotations

import faulthandler
import random
import sys
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from identity import Spy, outcome
from lightning.pytorch.strategies import ModelParallelStrategy
from models import column_data, listening, rank, small_monitor
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, Options, TabularFeatures, compute_interactions
from lightning_interactions.measure.processes import process_ranks

BATCH = 16
"""Rows of the user's own batches: passes with more are the monitor's."""


class Trap(nn.Module):
    """Fails on one rank, in evaluation mode: in passes of more rows than it can bear, or of ``exactly`` so many."""

    def __init__(
        self,
        rank: int | None = None,
        rows: int = BATCH,
        error: type[Exception] = MemoryError,
        exactly: int | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.rows, self.error, self.exactly = rank, rows, error, exactly

    def forward(self, x: Tensor) -> Tensor:
        fails = len(x) > self.rows if self.exactly is None else len(x) == self.exactly
        if not self.training and rank() == self.rank and fails:
            raise self.error(f"no pass of {len(x)} rows")
        return x


class Deep(L.LightningModule):
    """Four blocks with batch norm and dropout; a trap after one of them.

    ``cut`` says how the model is split: as a "whole", by its "blocks", in "pairs" of them, or by "kept" blocks that
    give nothing back after their forward pass.
    """

    def __init__(
        self,
        cut: str = "blocks",
        trap: Trap | None = None,
        after: int = 1,
        rate: float = 0.1,
        policy: MixedPrecisionPolicy | None = None,
        norm: type[nn.Module] = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        sizes = [5, 12, 10, 12]
        blocks = [
            nn.Sequential(nn.Linear(a, b), norm(b), nn.Tanh(), nn.Dropout(0.2 if rate else 0.0))
            for a, b in pairwise(sizes)
        ]
        blocks.insert(after, nn.Sequential(trap or Trap()))
        self.net = nn.Sequential(*blocks, nn.Linear(12, 3))
        self.cut, self.rate, self.policy = cut, rate, policy or MixedPrecisionPolicy()

    def configure_model(self) -> None:
        if self.trainer.world_size == 1 or any(isinstance(module, FSDPModule) for module in self.modules()):
            return
        how: dict[str, Any] = {"mesh": self.device_mesh["data_parallel"], "mp_policy": self.policy}
        blocks = [block for block in self.net if any(True for _ in block.parameters())]
        if self.cut == "pairs":
            fully_shard(blocks[:2], **how)
            fully_shard(blocks[2:], **how)
        elif self.cut != "whole":
            for block in blocks:
                fully_shard(block, reshard_after_forward=self.cut != "kept", **how)
        fully_shard(self.net, **how)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if not self.rate:
            self.net.eval()
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


class Tensored(Deep):
    """The same, with each layer's arithmetic shared by both ranks."""

    def configure_model(self) -> None:
        if self.trainer.world_size > 1:
            mesh = self.device_mesh["tensor_parallel"]
            parallelize_module(self.net, mesh, {"0.0": ColwiseParallel(output_layouts=_replicated())})
            parallelize_module(self.net, mesh, {"4": RowwiseParallel(input_layouts=_replicated())})


def _replicated() -> Any:
    from torch.distributed.tensor import Replicate

    return Replicate()


class FailsOnRank1:
    """A score that works when it is tried, and then does not."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if rank() == 1 and len(logits) > BATCH:
            raise ValueError("this score fails on rank 1")
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


class NoTargetsAtFirst:
    """Labels of which rank 1 knows none in its first batches."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: list[Tensor]) -> Tensor:
        self.calls += 1
        return torch.full_like(batch[1], -100) if rank() == 1 and self.calls <= 2 else batch[1]


class PlayersFail(TabularFeatures):
    """Players that cannot be drawn on rank 1, once there are as many samples as are watched."""

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        if rank() == 1:
            raise KeyError("no mask on rank 1")
        return super().mask_batch(samples, players, coalitions)


@dataclass
class Case:
    """A training: options of the model, of the monitor, and of the Trainer."""

    model: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    kind: type[Deep] = Deep
    tensor_parallel: int = 1


INSIDE = {"every_n_epochs": None}
CASES = {
    "fixed": Case({"rate": 0.0}),
    "fixed_layer": Case({"rate": 0.0}, {"layer": "net.2"}),
    "fixed_both": Case({"rate": 0.0}, {"watch": "both", "num_samples": 5}),
    "fixed_few": Case({"rate": 0.0}, {"num_samples": 2, "num_players": 2}),
    "fixed_tensor": Case({"rate": 0.0}, kind=Tensored, tensor_parallel=2),
    "inside": Case(monitor=INSIDE, trainer={"accumulate_grad_batches": 2}),
    "off": Case(monitor={"sharded": "off"}),
    "late": Case(monitor={"target_fn": NoTargetsAtFirst()}),
    "score": Case(monitor={"score": FailsOnRank1()}),
    "masks": Case(monitor={"players": PlayersFail()}),
    "memory_0": Case({"trap": Trap(0, 20), "after": 1}),
    "memory_1": Case({"trap": Trap(1, 20), "after": 3}, INSIDE),
    "memory_kept": Case({"trap": Trap(1, 20), "after": 2, "cut": "kept"}),
    "memory_pairs": Case({"trap": Trap(0, 20), "after": 2, "cut": "pairs"}),
    "memory_whole": Case({"trap": Trap(1, 20), "after": 2, "cut": "whole"}),
    "broken": Case({"trap": Trap(1, BATCH, ValueError), "after": 2}),
    "broken_first": Case({"trap": Trap(0, error=ValueError, exactly=2), "after": 0}),
    "bfloat16": Case({"policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16), "norm": nn.LayerNorm}),
    "bfloat16_weights": Case({"norm": nn.LayerNorm}, trainer={"precision": "bf16-true"}),
}
"""By name; those that begin with "fixed" never learn, so that one process has the same weights."""

FUZZED = 20

LOOPS = "fully_shard", "wrapped"
"""Ways in which a loop without Lightning splits its model."""


def fuzzed(number: int) -> Case:
    """Draw a configuration."""
    draw = random.Random(number)
    faults: list[dict[str, Any]] = [
        {}, {},
        {"trap": Trap(draw.randrange(2), draw.choice([17, 20, 33]))},
        {"trap": Trap(draw.randrange(2), draw.choice([17, 40]), ValueError)},
    ]  # fmt: skip
    model = {"cut": draw.choice(["whole", "blocks", "pairs", "kept"]), "after": draw.randrange(4)} | draw.choice(faults)
    monitor = {
        "num_samples": draw.randint(2, 9), "num_players": draw.randint(2, 5), "watch": draw.choice(["val", "both"]),
        "every_n_epochs": draw.choice([None, 1, 2]), "layer": draw.choice([None, None, "net.0"]),
        "chunk_size": draw.choice([None, None, 7]), "resample": draw.choice([False, False, True]),
        "keep_samples": draw.choice(["keys", "inputs"]),
    }  # fmt: skip
    if model["after"] == 0:
        monitor["layer"] = None  # a trap is no layer
    trainer = {
        "accumulate_grad_batches": draw.choice([1, 2]), "val_check_interval": draw.choice([1.0, 0.5]),
        "gradient_clip_val": draw.choice([None, 0.5]), "num_sanity_val_steps": draw.choice([0, 2]),
    }  # fmt: skip
    if draw.random() < 0.2:
        monitor["score"] = FailsOnRank1()
    return Case(model, monitor, trainer)


def all_cases() -> dict[str, Case]:
    """Return the cases by name."""
    return CASES | {f"fuzzed_{number}": fuzzed(number) for number in range(FUZZED)}


def run(case: Case, folder: Path, devices: int, *, monitored: bool) -> dict[str, Any]:
    """Train; return what is left, and what the monitor found."""
    L.seed_everything(0, verbose=False)
    monitor, spy = small_monitor(**{"num_samples": 7, "on_error": "warn"} | case.monitor), Spy()
    fixed = case.model.get("rate") == 0
    parallel = devices // case.tensor_parallel if devices > 1 else 1
    strategy: Any = "auto"
    if devices > 1:
        strategy = ModelParallelStrategy(data_parallel_size=parallel, tensor_parallel_size=case.tensor_parallel)
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
        callbacks=[monitor, spy] if monitored else [spy], **{"max_epochs": 2} | case.trainer,
    )  # fmt: skip
    size = BATCH // parallel if fixed else BATCH
    with listening() as told:
        trainer.fit(
            case.kind(**case.model),
            DataLoader(column_data(64, seed=1), size, shuffle=True), DataLoader(column_data(48, seed=2), size),
        )  # fmt: skip
    return {
        "left": _local(outcome(trainer, spy)),
        "history": monitor.history.to_dict(),
        "events": [event.to_dict() for event in monitor.events],
        "told": told,
        "epochs": trainer.current_epoch,
    }


def _local(found: Any) -> Any:
    """Replace tensors that are split by this rank's part of them."""
    if isinstance(found, dict):
        return {key: _local(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return type(found)(map(_local, found))
    return found.to_local().detach().clone() if hasattr(found, "to_local") else found


def plain_loop(how: str) -> dict[str, Any]:
    """Train without Lightning on the ranks of the process group; ask for interactions by the function too."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    several = dist.is_initialized()
    if several and how == "fully_shard":
        fully_shard(net[0])  # type: ignore[index]
        fully_shard(net)
    elif several:
        net = FullyShardedDataParallel(net, device_id=torch.device("cpu"))
    monitor = InteractionMonitor(Options(num_samples=6, num_players=4), ranks=process_ranks())
    data = column_data(32, seed=2)
    own = data[rank() :: dist.get_world_size()] if several else data[:]
    for epoch in range(2):
        monitor.observe("val", list(own))
        monitor.measure(net, epoch)
    inputs, targets = data[:4]
    found = compute_interactions(net, inputs, targets, num_players=4)
    return {"history": monitor.history.to_dict(), "values": found.values}


def main(folder: Path, names: list[str]) -> None:
    cases = all_cases()
    for name, case in cases.items() if not names else [(name, cases[name]) for name in names]:
        for monitored in (True, False):
            found = run(case, folder, 2, monitored=monitored)
            torch.save(found, folder / f"{name}_{monitored}.rank{rank()}")
    for how in LOOPS:
        torch.save(plain_loop(how), folder / f"{how}.rank{rank()}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    faulthandler.dump_traceback_later(300, exit=True)  # who waits for whom, if they do
    main(Path(sys.argv[1]), sys.argv[2:])
