"""Everything a training run leaves behind, to compare a run with the monitor to one without it, bit by bit."""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

OURS = ("interactions/", "interactions_detail/")


class Spy(L.Callback):
    """Collects what a user sees during training."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.modes: list[list[bool]] = []
        self.losses: list[Any] = []
        self.gradients: list[Tensor] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.modes.append([m.training for m in module.modules()])

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        self.gradients += [p.grad.double().norm() for p in module.parameters() if p.grad is not None]

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(outputs)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        seen = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith(OURS)}
        self.metrics.append(seen)


def outcome(trainer: L.Trainer, spy: Spy) -> dict[str, Any]:
    """What is left of a run: weights, buffers, optimizers, schedulers, random states, and what the user saw."""
    others = [c.state_dict() for c in trainer.callbacks if type(c).__module__.startswith("lightning.")]
    return {
        "model": dict(trainer.lightning_module.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "callbacks": others,
        "progress": (trainer.current_epoch, trainer.global_step, trainer.should_stop),
        "metrics": spy.metrics,
        "modes": spy.modes,
        "losses": spy.losses,
        "gradients": spy.gradients,
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }


def assert_identical(first: Any, second: Any, where: str = "") -> None:
    """Compare nested containers bit by bit; ``nan`` equals ``nan``."""
    assert type(first) is type(second), where
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first.nan_to_num(1.5), second.nan_to_num(1.5)), where
        assert torch.equal(first.isnan(), second.isnan()), where
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
    elif isinstance(first, float):
        assert first == second or (first != first and second != second), where
    elif not callable(first):
        assert first == second, where
