"""Situations of users: their own step beside one without the monitor, what it measured and what it told."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import pytest
import torch
from models import fit, listening, small_monitor
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions import TwoPhaseMonitor

EPOCHS = 2


class StepNet(L.LightningModule):
    """One loss for both steps, made of the whole batch: `judge`, which a test writes as its user would."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        if net is not None:
            self.net = net

    def judge(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.judge(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.judge(batch), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class ForwardNet(StepNet):
    """The usual forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def layers(inputs: int = 5, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, outputs))


def columns(size: int = 48, count: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(size, count, generator=torch.Generator().manual_seed(seed))


def thirds(x: Tensor) -> Tensor:
    """Three classes that columns, or images, decide together."""
    flat = x.flatten(1)
    return torch.bucketize(flat[:, 0] * flat[:, 1] + flat[:, 2], torch.tensor([-0.5, 0.5]))


def pictures(size: int = 48, side: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(size, 1, side, side, generator=torch.Generator().manual_seed(seed))


def both(items: Sequence[Any], val: Sequence[Any] | None = None, size: int = 16, **options: Any) -> dict[str, Any]:
    """Loaders for training and validation."""
    return {
        "train_dataloaders": DataLoader(items, size, shuffle=True, **options),  # type: ignore[arg-type]
        "val_dataloaders": DataLoader(items if val is None else val, size, **options),  # type: ignore[arg-type]
    }


def pairs(x: Tensor | None = None, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    x = columns() if x is None else x
    return list(zip(x, thirds(x) if y is None else y, strict=True))


@dataclass
class Run:
    """What a user has after a run with the monitor."""

    monitor: TwoPhaseMonitor
    trainer: L.Trainer
    told: list[str]

    @property
    def logged(self) -> float:
        return float(self.trainer.callback_metrics["val_loss"])


def watch(
    model: Callable[[], L.LightningModule],
    data: dict[str, Any] | None = None,
    monitor: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Train with the monitor as users have it, and without: the weights must not differ in a bit."""
    own = small_monitor(**{"on_error": "warn", "on_event": None} | (monitor or {}))
    options = {"max_epochs": EPOCHS} | options
    data = both(pairs()) if data is None else data
    with listening() as told:
        trainer = fit(own, model=model, data=data, **options)
    with listening() as nothing:
        without = fit(None, model=model, data=data, **options)
    assert not nothing
    assert trainer.state.finished
    assert trainer.global_step == without.global_step
    ours, theirs = (t.lightning_module.state_dict() for t in (trainer, without))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    return Run(own, trainer, told)


def assert_measured(run: Run, *words: str, key: str = "val_loss", rel: float = 1e-3, train: bool = True) -> None:
    """Everything was measured, with the user's own loss; told was nothing but one sentence with each of the words."""
    assert_told(run, *words)
    history = run.monitor.history.to_dict()
    assert history["epoch"] == list(range(EPOCHS))
    assert all(1 <= order <= 4 for order in history["mean_order"])
    assert history["val_loss"][-1] == pytest.approx(float(run.trainer.callback_metrics[key]), rel=rel)
    assert all((value == value) == train for value in history["train_loss"])
    assert not [event for event in run.monitor.events if event.kind == "probe_failed"]


def assert_told(run: Run, *words: str) -> None:
    """One sentence for each of the words, and no other."""
    assert len(run.told) == len(words), run.told
    for text, word in zip(run.told, words, strict=True):
        assert re.search(word, text), text
        assert text.startswith("TwoPhaseMonitor")


def assert_off(run: Run, words: str) -> None:
    """Switched off, in one sentence that says why."""
    assert_told(run, f"switched off for this run: .*{words}")
    assert not len(run.monitor.history)
