"""Run by test_ddp.py in its own process: one training on 1 or 2 processes; rank 0 saves what it found.

Usage: python ddp_run.py DEVICES SCENARIO OUTPUT
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from models import ColumnNet, column_data, small_monitor
from torch.utils.data import DataLoader

from lightning_interactions import PhaseDetector, PhaseEvent

warnings.filterwarnings("ignore")


class FixedNet(ColumnNet):
    """Never learns, so that its weights do not depend on how many processes share the batches."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.net.eval()
        return super().training_step(batch, batch_idx)


def fails_on_rank_1(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 and len(logits) > 4:
        raise ValueError("this score fails on rank 1")
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


class BoundaryAtOne(PhaseDetector):
    def update(self, epoch: int, *args: Any, **kwargs: Any) -> list[PhaseEvent]:
        return [PhaseEvent("boundary", 1, 1)] if epoch == 1 else []


class FailsToWrite(TensorBoardLogger):
    """Fails on rank 0, the only one that writes, at the first histogram."""

    @property
    def experiment(self) -> Any:
        writer = super().experiment
        writer.add_histogram_raw = None
        return writer


SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "both": {"watch": "both"},
    "logged_loss": {"monitor": "val_loss"},  # logged without sync_dist: ranks differ
    "stop": {"stop_on": "boundary", "detector": BoundaryAtOne(), "on_error": "warn"},
    "fault": {"score": fails_on_rank_1, "on_error": "warn"},
}


def main(devices: int, scenario: str, output: Path) -> None:
    L.seed_everything(0, verbose=False)
    told: list[str] = []
    monitor = small_monitor(
        **{"num_samples": 7, "on_event": lambda event: told.append(event.kind)} | SCENARIOS[scenario]
    )
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto",
        logger=FailsToWrite(output.parent) if scenario == "stop" else False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=output.parent,
        enable_checkpointing=False, num_sanity_val_steps=1, callbacks=[monitor],
    )  # fmt: skip
    # 49 samples on 2 ranks: the sampler repeats one of them.
    trainer.fit(
        FixedNet(),
        DataLoader(column_data(64, seed=1), 16, shuffle=True),
        DataLoader(column_data(49, seed=2), 16),
    )
    state = monitor.state_dict()
    torch.save(
        {
            "history": monitor.history.to_dict(),
            "samples": monitor.history.samples,
            "events": state["events"],
            "keys": {split: probe["keys"] for split, probe in state["watchlist"].get("watched", {}).items()},
            "weights": trainer.lightning_module.state_dict(),
            "told": told,
            "state": state,
        },
        output.with_suffix(f".rank{trainer.global_rank}"),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
