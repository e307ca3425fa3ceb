"""Small but real models and data for the integration tests: batch norm, dropout, images or columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import PhaseDetector, PhaseEvent, TwoPhaseMonitor


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


class ScriptedDetector(PhaseDetector):
    """Announces a boundary at epoch 1 and overfitting at epoch 2, whatever it is shown."""

    def update(self, epoch: int, *args: Any, **kwargs: Any) -> list[PhaseEvent]:
        kind = {1: "boundary", 2: "overfitting"}.get(epoch)
        if kind == "boundary":
            self.boundary_epoch = epoch
        return [PhaseEvent(kind, epoch, epoch, message=f"{kind} at {epoch}")] if kind else []


def small_monitor(**options: Any) -> TwoPhaseMonitor:
    """A monitor that is quick and hides nothing."""
    defaults: dict[str, Any] = {"num_samples": 6, "num_players": 4, "on_error": "raise", "verbose": False}
    return TwoPhaseMonitor(**(defaults | options))


def fit(
    monitor: L.Callback | None,
    folder: Path | None = None,
    *,
    model: L.LightningModule | type[L.LightningModule] = ColumnNet,
    data: dict[str, Any] | None = None,
    ckpt_path: str | None = None,
    callbacks: tuple[L.Callback, ...] = (),
    seed: int = 0,
    **options: Any,
) -> L.Trainer:
    """Train on the CPU, quietly; a model given as a class is made after the seed, so runs are alike."""
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
    trainer.fit(model() if isinstance(model, type) else model, **(data or loaders()), ckpt_path=ckpt_path)
    return trainer
