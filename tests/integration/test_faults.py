"""A fault inside the monitor never stops or changes a training run, and is told once."""

from __future__ import annotations

import math
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from identity import Spy, assert_identical, outcome
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from models import (
    ColumnNet,
    FullDisk,
    ScriptedDetector,
    column_data,
    fit,
    listening,
    loaders,
    small_monitor,
    told_during,
)
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import (
    Alert,
    InteractionsWarning,
    PhaseDetector,
    PhaseEvent,
    RunRecord,
    TabularFeatures,
    TwoPhaseMonitor,
)
from lightning_interactions.model import score as scores
from lightning_interactions.report import loggers


def weights(trainer: L.Trainer) -> list[Tensor]:
    return list(trainer.lightning_module.state_dict().values())


def fit_and_listen(monitor: L.Callback | None, **options: Any) -> tuple[L.Trainer, list[str]]:
    with listening() as told:
        trainer = fit(monitor, **options)
    return trainer, told


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


def test_a_row_with_a_missing_number_takes_only_itself_out() -> None:
    """Through the mean baseline and the loss it could take all others along."""
    x, y = column_data(48, seed=2).tensors
    holed, huge = x.clone(), x.clone()
    holed[5, 2], huge[5, 2] = torch.nan, torch.inf
    for damaged in (holed, huge):
        data = loaders() | {"val_dataloaders": DataLoader(TensorDataset(damaged, y), batch_size=16)}
        monitor = small_monitor(num_samples=48)
        told = told_during(lambda monitor=monitor, data=data: fit(monitor, data=data))
        assert ["of 1 of 48 watched samples are not finite" in text for text in told] == [True]
        assert monitor.history.column("skipped_samples") == [1, 1, 1]
        assert all(map(math.isfinite, monitor.history.column("mean_order")))
        assert all(map(math.isfinite, monitor.history.column("loss_gap")))


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

    monkeypatch.setattr(loggers.Loggers, "draw", broken)
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

    limited, free = small_monitor(monitor="val_loss"), small_monitor()
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


# -- signals, loggers, disks, user code ------------------------------------------------------------------------------


def run_to_its_end(monitor: L.Callback | None, *callbacks: L.Callback, **options: Any) -> tuple[dict[str, Any], str]:
    """Train; what is left of it, and by what exception it ended."""
    spy, ended, trainers = Spy(), "", []

    class Keep(L.Callback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            trainers.append(trainer)

    try:
        fit(monitor, callbacks=(spy, Keep(), *callbacks), **options)
    except BaseException as error:
        ended = repr(error)
    return outcome(trainers[0], spy), ended


def test_sigterm_in_a_measurement_ends_the_run_as_without_the_monitor(tmp_path: Path) -> None:
    class Terminating:
        """Sends the signal once, in the middle of the first measurement."""

        sent = False

        def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
            if len(logits) > 2 and not self.sent:
                self.sent = True
                os.kill(os.getpid(), signal.SIGTERM)
            return scores.log_odds(logits, targets)

    class Terminates(L.Callback):
        sent = False

        def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if not trainer.sanity_checking and not self.sent:
                self.sent = True
                os.kill(os.getpid(), signal.SIGTERM)

    keep = {"enable_checkpointing": True, "max_epochs": 3}
    keepers = [ModelCheckpoint(tmp_path / name, filename="x", every_n_train_steps=1) for name in ("with", "without")]
    score = Terminating()
    monitor = small_monitor(score=score, on_error="warn", on_event=None)
    with_monitor, ended = run_to_its_end(monitor, keepers[0], **keep)
    without, ended_without = run_to_its_end(None, Terminates(), keepers[1], **keep)
    assert score.sent
    assert "SIGTERM" in ended == ended_without
    for part in set(without) - {"callbacks"}:
        assert_identical(with_monitor[part], without[part], part)
    first, second = (torch.load(tmp_path / x / "x.ckpt", weights_only=True) for x in ("with", "without"))
    assert_identical(first["state_dict"], second["state_dict"])
    assert first["global_step"] == second["global_step"]


@pytest.mark.parametrize("late", [False, True], ids=["logged-in-time", "logged-late"])
def test_a_logger_that_raises_costs_only_what_it_should_have_written(late: bool, tmp_path: Path) -> None:
    class Refusing(FullDisk):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if late and "interactions/loss_gap" in metrics:  # ours, not Lightning's own call
                raise ConnectionError("the tracking server is gone")

    options = {"monitor": "val_loss"} if late else {}
    sent: list[str] = []
    monitor = small_monitor(
        on_error="warn", detector=ScriptedDetector(), on_event=lambda e: sent.append(e.kind), **options
    )
    with listening() as told:
        with_monitor, ended = run_to_its_end(monitor, logger=Refusing(tmp_path), max_epochs=6)
    without, _ = run_to_its_end(None, logger=Refusing(tmp_path), max_epochs=6)
    assert ended == ""
    assert_identical(with_monitor, without)
    assert len(monitor.history) == 6
    assert [kind for kind in sent if kind != "probe_failed"] == ["boundary", "overfitting"], "told all the same"
    assert len([text for text in told if "No space left" in text and "writing" in text]) == 1
    assert len([text for text in told if "server is gone" in text]) == late
    assert not any("switched off" in text for text in told)


def test_a_run_figure_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = small_monitor(on_error="warn")
    monkeypatch.setattr(loggers, "run_figure", lambda run: 1 / 0)
    trainer, told = fit_and_listen(monitor, logger=TensorBoardLogger(tmp_path))
    assert (trainer.current_epoch, len(monitor.history)) == (3, 3)
    assert len([text for text in told if "ZeroDivisionError" in text]) == 1


@pytest.mark.parametrize("option", ["input_fn", "target_fn"])
def test_a_batch_the_users_function_cannot_read_later_is_left_out(option: str) -> None:
    class FromTheThirdOn:
        calls = 0

        def __call__(self, batch: list[Tensor]) -> Tensor:
            self.calls += 1
            if self.calls > 3:
                raise KeyError("a field that later batches lack")
            return batch[option == "target_fn"]

    monitor = small_monitor(on_error="warn", **{option: FromTheThirdOn()})
    plain, told_nothing = run_to_its_end(None)
    with listening() as told:
        found, ended = run_to_its_end(monitor)
    assert ended == told_nothing == ""
    assert_identical(found, plain)
    assert any("left out" in text and "later batches lack" in text for text in told)


def test_a_rhythm_that_raises_measures_nothing() -> None:
    class Broken(TwoPhaseMonitor):
        def should_probe(self, epoch: int, step: int) -> bool:
            raise IndexError("a user's mistake")

    monitor = Broken(num_samples=4, num_players=3, verbose=False)
    trainer, told = fit_and_listen(monitor)
    assert (trainer.current_epoch, len(monitor.history)) == (3, 0)
    assert len([text for text in told if "should_probe" in text and "a user's mistake" in text]) == 1


def test_a_detector_that_raises_keeps_what_was_measured_in_the_logs(tmp_path: Path) -> None:
    class Broken(PhaseDetector):
        def update(self, *args: Any, **kwargs: Any) -> list[PhaseEvent]:
            raise ArithmeticError("a user's mistake")

    monitor = small_monitor(on_error="warn", detector=Broken())
    trainer, told = fit_and_listen(monitor)
    assert trainer.current_epoch == 3
    assert "interactions/mean_order" in trainer.callback_metrics
    assert len([text for text in told if "a user's mistake" in text]) == 1


# -- faults are told like other events -------------------------------------------------------------------------------


def texts(logger: TensorBoardLogger) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()
    if "interactions/events/text_summary" not in events.Tags()["tensors"]:
        return []
    return [e.tensor_proto.string_val[0].decode() for e in events.Tensors("interactions/events/text_summary")]


def test_a_contained_fault_reaches_alerts_loggers_and_the_runs_file(tmp_path: Path) -> None:
    sent: list[PhaseEvent] = []
    logger = TensorBoardLogger(tmp_path)
    monitor = small_monitor(on_error="warn", score=ScoreThatBreaks(), on_event=["warn", sent.append])
    _, told = fit_and_listen(monitor, logger=logger)
    assert sent == monitor.events
    assert [event.kind for event in sent] == ["probe_failed"]
    assert len([text for text in told if "a user's mistake" in text]) == 1, "warned of once, by the fault itself"
    (text,) = texts(logger)
    assert "a user's mistake" in text
    run = RunRecord.from_json((Path(logger.log_dir) / "interactions.json").read_text())
    assert list(run.events) == monitor.events, "even though nothing was measured"


def test_a_fault_at_the_very_end_is_in_the_runs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = loggers.run_figure

    def without_fonts_at_the_end(run: RunRecord) -> Any:
        if len(run.history["epoch"]) == 3:
            raise OSError("no fonts")
        return draw(run)

    monkeypatch.setattr(loggers, "run_figure", without_fonts_at_the_end)
    sent: list[PhaseEvent] = []
    logger = TensorBoardLogger(tmp_path)
    monitor = TwoPhaseMonitor(num_samples=4, num_players=3, verbose=False, on_event=sent.append, every_n_epochs=1)
    with pytest.warns(InteractionsWarning, match="no fonts"):
        fit(monitor, logger=logger)
    run = RunRecord.from_json((Path(logger.log_dir) / "interactions.json").read_text())
    assert [event.kind for event in run.events] == ["probe_failed"]
    assert sent == list(run.events) == monitor.events
    assert len(run.history["epoch"]) == 3


def test_a_fault_that_nobody_can_be_told_of_ends_there(tmp_path: Path) -> None:
    monitor = small_monitor(on_error="warn", score=ScoreThatBreaks(), on_event=["warn", AlertThatBreaks()])
    trainer, told = fit_and_listen(monitor, logger=FullDisk(tmp_path), max_epochs=5)
    assert trainer.current_epoch == 5
    assert [event.kind for event in monitor.events if "a user's mistake" in event.message] == ["probe_failed"]
    assert all(event.kind == "probe_failed" for event in monitor.events)
    assert any("AlertThatBreaks could not tell" in text for text in told)
    assert len(told) == len(set(told)), "each text once"


def test_a_smoke_test_sends_nothing() -> None:
    sent: list[PhaseEvent] = []
    monitor = small_monitor(on_error="warn", score=ScoreThatBreaks(), on_event=sent.append)
    fit_and_listen(monitor, fast_dev_run=True)
    assert sent == []
    assert [event.kind for event in monitor.events] == ["probe_failed"]
