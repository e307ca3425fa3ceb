"""A fault inside the monitor never stops or changes a training run, and is told once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from models import ColumnNet, fit, small_monitor
from torch import Tensor

from lightning_interactions import Alert, InteractionsWarning, PhaseEvent, TabularFeatures, scores, writers


def our_warnings(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in caught if issubclass(w.category, InteractionsWarning)]


def weights(trainer: L.Trainer) -> list[Tensor]:
    return list(trainer.lightning_module.state_dict().values())


def fit_and_listen(monitor: L.Callback | None, **options: Any) -> tuple[L.Trainer, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(monitor, **options)
    return trainer, our_warnings(caught)


class ScoreThatBreaks:
    """Works on the first batch, which is checked before training, and breaks in the first measurement."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if len(logits) > 2:
            raise ZeroDivisionError("a user's mistake")
        return scores.log_odds(logits, targets)


class PlayersThatBreak(TabularFeatures):
    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        raise KeyError("a user's mistake")


@pytest.mark.parametrize(
    "options", [{"score": ScoreThatBreaks()}, {"players": PlayersThatBreak()}], ids=["score", "players"]
)
def test_user_code_that_raises_leaves_training_untouched(options: dict[str, Any]) -> None:
    plain = fit(None, max_epochs=5)
    monitor = small_monitor(on_error="warn", **options)
    trainer, told = fit_and_listen(monitor, max_epochs=5)
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(trainer), strict=True))
    assert len([text for text in told if "a user's mistake" in text]) == 1, "the fault is told once"
    assert any("switched off" in text for text in told)
    assert [event.kind for event in monitor.events] == ["probe_failed"]
    assert "Training is not affected" in monitor.events[0].message


def test_on_error_raise_shows_the_fault() -> None:
    with pytest.raises(Exception, match="a user's mistake"):
        fit(small_monitor(score=ScoreThatBreaks()))


def test_samples_with_nan_outputs_are_skipped_and_counted() -> None:
    class SometimesNan(ColumnNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return (
                torch.where((x[:, :1] > 0.5) & (self.current_epoch >= 1), torch.nan, out) if not self.training else out
            )

    monitor = small_monitor(num_samples=12, on_event=None)
    trainer = fit(monitor, model=SometimesNan, max_epochs=4)
    skipped = monitor.history.column("skipped_samples")
    assert trainer.current_epoch == 4
    assert skipped[0] == 0 < skipped[1] < 12
    assert [(e.kind, e.epoch) for e in monitor.events] == [("probe_failed", 1)], "told when it begins, once"
    assert all(x == x for x in monitor.history.column("mean_order")), "the other samples still count"


def test_a_model_that_only_returns_nan_trains_on() -> None:
    class Dead(ColumnNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.nan if self.current_epoch >= 1 else super().forward(x)

    monitor = small_monitor(on_event=None, num_samples=6)
    trainer = fit(monitor, model=Dead, max_epochs=3)
    assert trainer.current_epoch == 3
    assert monitor.history.column("skipped_samples") == [0, 6, 6]


class AlertThatBreaks(Alert):
    def send(self, event: PhaseEvent) -> None:
        raise ConnectionError("no network")


def test_alert_that_raises() -> None:
    class Nan(ColumnNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.nan

    monitor = small_monitor(on_event=[AlertThatBreaks()], on_error="warn")
    trainer, told = fit_and_listen(monitor, model=Nan)
    assert trainer.current_epoch == 3
    assert any("AlertThatBreaks" in text and "no network" in text for text in told)


def test_drawing_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writers, "write_figures", broken)
    monitor = small_monitor(on_error="warn")
    trainer, told = fit_and_listen(monitor, logger=TensorBoardLogger(tmp_path))
    assert trainer.current_epoch == 3
    assert len(monitor.history) == 3, "measuring goes on"
    assert any("disk full" in text for text in told)


def test_keyboard_interrupt_in_a_measurement_leaves_the_model_as_it_was() -> None:
    class Interrupts:
        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            if len(logits) > 2:
                raise KeyboardInterrupt
            return scores.log_odds(logits, targets)

    model = ColumnNet()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(small_monitor(score=Interrupts(), on_error="warn"), model=model)
    assert "log" not in vars(model)
    assert torch.is_grad_enabled()


def test_out_of_memory_in_a_chunk_is_worked_around() -> None:
    class Limited(ColumnNet):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training and len(x) > 20:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    limited, free = small_monitor(train_monitor="train_loss", monitor="val_loss"), small_monitor()
    fit(limited, model=Limited)
    fit(free)
    assert limited.history.column("mean_order") == pytest.approx(free.history.column("mean_order"), rel=1e-5)


def test_warnings_as_errors_do_not_stop_training() -> None:
    monitor = small_monitor(on_error="warn", score=ScoreThatBreaks())
    with warnings.catch_warnings():
        warnings.simplefilter("error", InteractionsWarning)
        trainer = fit(monitor)
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(("precision", "noisy"), [("inherit", True), ("32-true", False)])
def test_noise_that_looks_like_high_orders_is_told(precision: Any, noisy: bool) -> None:
    """A nearly additive model has no high orders; in bfloat16 it seems to."""

    class NearlyAdditive(ColumnNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(5, 3)

    monitor = small_monitor(precision=precision, num_players=5)
    _, told = fit_and_listen(monitor, model=NearlyAdditive, precision="bf16-mixed")
    assert any("rounding noise" in text for text in told) == noisy
    floor = [monitor.history.column(f"noise_floor/order_{k:02d}")[-1] for k in range(1, 6)]
    strength = sum(map(sum, monitor.history.last["strength"]))
    assert (sum(floor) > 0.01 * strength) == noisy
