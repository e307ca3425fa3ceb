"""Training with the monitor is bit-identical to training without it."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from models import ColumnNet, fit, small_monitor
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import ImagePatches


class ImageNet(ColumnNet):
    """Convolutions; the first batch norm is frozen by the user."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(144, 3)
        )

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()


class LoggingForward(ColumnNet):
    """Logs inside forward, which our passes must not reach, and draws random numbers there."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.trainer.state.stage != "sanity_check":
            self.log("seen_in_forward", out.mean() + torch.rand(()) + random.random() + np.random.rand())
        return out


def image_loaders() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    data = TensorDataset(torch.randn(48, 1, 8, 8, generator=generator), torch.arange(48) % 3)
    return {"train_dataloaders": DataLoader(data, 16, shuffle=True), "val_dataloaders": DataLoader(data, 16)}


class Spy(L.Callback):
    """Collects what a user sees during training."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.modes: list[list[bool]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.modes.append([m.training for m in module.modules()])

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        seen = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("interactions/")}
        self.metrics.append(seen)


def run(model: type[ColumnNet], with_monitor: bool, monitor_options: dict[str, Any], **options: Any) -> dict[str, Any]:
    spy = Spy()
    monitor = small_monitor(**monitor_options) if with_monitor else None
    data = image_loaders() if model is ImageNet else None
    trainer = fit(monitor, model=model, data=data, callbacks=(spy,), seed=7, **options)
    if monitor is not None:
        assert len(monitor.history) == 3, "the monitor must have measured, or the comparison says nothing"
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "metrics": spy.metrics,
        "modes": spy.modes,
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }


def assert_identical(first: Any, second: Any, where: str = "") -> None:
    assert type(first) is type(second), where
    if isinstance(first, Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, np.ndarray):
        assert np.array_equal(first, second), where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_identical(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_identical(a, b, f"{where}/{i}")
    else:
        assert first == second, where


@pytest.mark.parametrize(
    ("model", "precision", "options"),
    [
        pytest.param(ColumnNet, "32-true", {}, id="float32"),
        pytest.param(ColumnNet, "bf16-mixed", {}, id="bf16-mixed"),
        pytest.param(ColumnNet, "bf16-mixed", {"precision": "inherit"}, id="bf16-mixed-inherited"),
        pytest.param(ColumnNet, "bf16-true", {}, id="bf16-true"),
        pytest.param(ColumnNet, "64-true", {}, id="float64"),
        pytest.param(ColumnNet, "32-true", {"watch": "both"}, id="both-splits"),
        pytest.param(ColumnNet, "32-true", {"resample": True}, id="resampled"),
        pytest.param(ColumnNet, "32-true", {"layer": "net.2", "chunk_size": 8}, id="inner-layer"),
        pytest.param(ImageNet, "32-true", {"players": ImagePatches(grid=4)}, id="images-frozen-batch-norm"),
        pytest.param(LoggingForward, "32-true", {}, id="log-and-random-numbers-in-forward"),
    ],
)
def test_training_is_bit_identical(model: type[ColumnNet], precision: Any, options: dict[str, Any]) -> None:
    without = run(model, False, options, precision=precision)
    with_monitor = run(model, True, options, precision=precision)
    assert without["metrics"], "the user's metrics were seen"
    assert_identical(without, with_monitor)


def test_the_comparison_can_fail() -> None:
    class Careless(L.Callback):
        def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            torch.rand(())

    without, spoiled = ({} for _ in range(2))
    for target, callbacks in ((without, ()), (spoiled, (Careless(),))):
        trainer = fit(None, callbacks=callbacks)
        target.update(trainer.model.state_dict())
    with pytest.raises(AssertionError):
        assert_identical(dict(without), dict(spoiled))
