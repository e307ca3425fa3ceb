"""Training without epochs: endless streams and runs that end within the first epoch are counted in steps."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from models import (
    Asks,
    ScriptedDetector,
    TaskNet,
    endless_loaders,
    fit,
    listening,
    loaders,
    mlp,
    small_monitor,
    stream_loaders,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interactions import PhaseDetector, PhaseEvent, RunRecord, TwoPhaseMonitor
from lightning_interactions.report.html import render_report
from lightning_interactions.report.words import event_markdown, headline, short_sentence, summary


def by_steps(**options: Any) -> TwoPhaseMonitor:
    return small_monitor(**({"every_n_epochs": None, "on_event": None} | options))


def train(monitor: TwoPhaseMonitor, folder: Path | None = None, **options: Any) -> L.Trainer:
    """An endless stream, validated every eighth batch."""
    defaults = {"data": endless_loaders(), "max_epochs": -1, "max_steps": 64, "val_check_interval": 8}
    return fit(monitor, folder, **(defaults | options))


def steps_done(monitor: TwoPhaseMonitor) -> list[int]:
    assert monitor.history.unit == "step"
    places = monitor.history.column("epoch")
    assert places[0] == -1 or places == monitor.history.column("step")
    return [place + 1 for place in places]


# -- when it measures --------------------------------------------------------------------------------------------------


def test_an_endless_stream_is_measured_on_the_axis_of_steps() -> None:
    """Four times between two validations at first, then evenly on a logarithmic axis."""
    monitor = by_steps(per_octave=4)
    train(monitor)
    assert steps_done(monitor) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 46, 56, 64]
    known = [not math.isnan(x) for x in monitor.history.column("val_loss")]
    assert known == [done >= 8 for done in steps_done(monitor)], "from the first validation on"


@pytest.mark.parametrize(
    ("trainer", "options", "expected"),
    [
        ({"check_val_every_n_epoch": None}, {}, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        ({"accumulate_grad_batches": 2, "max_steps": 8}, {}, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ({"val_check_interval": 4}, {}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        ({}, {"max_per_epoch": 1}, [0, 8, 16]),
        ({}, {"every_n_epochs": 1}, [8, 16]),
        ({"max_steps": 32}, {"every_n_epochs": 9}, [8, 24]),
        ({"max_steps": 24}, {"start_epoch": 9}, [16, 18, 20, 22, 24]),
        ({"num_sanity_val_steps": 0}, {}, [8, 10, 12, 14, 16]),
        ({"val_check_interval": 1.0, "log_every_n_steps": 4}, {}, list(range(17))),
        ({"val_check_interval": 100, "log_every_n_steps": 8}, {}, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        ({"limit_val_batches": 0, "log_every_n_steps": 8}, {}, [8, 10, 12, 14, 16]),
        ({"log_every_n_steps": 8, "val_check_interval": 100}, {"watch": "train"}, [8, 10, 12, 14, 16]),
        ({"val_check_interval": timedelta(days=1), "log_every_n_steps": 8}, {}, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_the_rhythm_follows_what_stands_for_epochs(
    trainer: dict[str, Any], options: dict[str, Any], expected: list[int]
) -> None:
    monitor = by_steps(**options)
    with listening():  # there may be no validation
        train(monitor, **({"max_steps": 16} | trainer))
    assert steps_done(monitor) == expected


def test_without_validation_the_training_samples_are_those_of_the_first_stretch() -> None:
    monitor = by_steps(watch="train")
    train(monitor, max_steps=16, limit_val_batches=0, log_every_n_steps=8)
    assert all(map(math.isfinite, monitor.history.column("train_loss"))), "those for the loss are chosen too"
    assert len(monitor._loop.watchlist.losses["train"]) == 64


def test_a_run_that_ends_within_its_first_epoch_is_counted_in_steps() -> None:
    monitor = by_steps(per_octave=4)
    fit(monitor, data=loaders(train=1600), max_epochs=-1, max_steps=16, val_check_interval=0.08)  # of 100 batches
    assert steps_done(monitor) == [0, 2, 4, 6, 8, 10, 12, 14, 16]


@pytest.mark.parametrize(
    "options",
    [
        {"data": loaders(), "max_steps": 4, "max_epochs": -1},
        {"data": loaders(), "max_steps": 10, "max_epochs": -1},
        {"data": loaders(), "val_check_interval": 3, "check_val_every_n_epoch": None, "max_epochs": 2},
        {"data": endless_loaders(), "limit_train_batches": 4, "max_epochs": 2},
    ],
    ids=["one epoch of steps", "epochs of steps", "validated by steps", "a limited stream"],
)
def test_where_there_are_epochs_they_are_counted(options: dict[str, Any]) -> None:
    monitor = by_steps()
    with listening():
        fit(monitor, **options)
    assert monitor.history.unit == "epoch"
    assert monitor.history.column("epoch")[:5] == [-1, -0.75, -0.5, -0.25, 0]


def test_a_stream_of_several_epochs_is_measured_at_their_ends() -> None:
    monitor = by_steps()
    fit(monitor, data=stream_loaders())
    assert (monitor.history.unit, monitor.history.column("epoch")) == ("epoch", [-1, 0, 1, 2])


# -- what it decides and says ------------------------------------------------------------------------------------------


class TurnsAt16(PhaseDetector):
    """Decides on mean orders of its own, lowest after 16 steps, and keeps what it is told of the end."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float | None] = []

    def update(self, epoch: float, *args: Any, **kwargs: Any) -> list[PhaseEvent]:
        self.ends.append(kwargs["last_epoch"])
        high = 0.2 + 0.3 * abs(math.log2((epoch + 1.5) / 16.5))
        strength = torch.tensor([1.0, high]).repeat(8, 2, 1)
        return super().update(epoch, strength, None, None, **{**kwargs, "val_losses": None})


def test_events_speak_of_steps_everywhere(tmp_path: Path) -> None:
    monitor = by_steps(detector=TurnsAt16(), per_octave=4)
    train(monitor, tmp_path, max_steps=128)
    (event,) = (event for event in monitor.events if event.kind == "boundary")
    assert (event.unit, event.epoch, event.detected_epoch) == ("step", 15, event.step)
    assert monitor.boundary_epoch == 15
    assert event.message.startswith(f"Step {event.step}: low-order dominance ended (mean order rose from ")
    assert " at step 15 to " in event.message
    assert short_sentence(event).startswith(f"Step {event.step}: phase boundary at step 15 (")
    assert event_markdown(event).startswith(f"**boundary** (step 15, found in step {event.step})")
    assert PhaseEvent.from_dict(event.to_dict()).unit == "step"
    run = RunRecord.from_json(monitor.record().to_json())
    assert (run.unit, run.boundary_place) == ("step", 15)
    assert headline(run).startswith("Low-order dominance ended at step 15")
    assert summary(run)["Phase boundary"] == "step 15"
    page = render_report(run, "Run")
    assert f"{len(monitor.history)} records, initialisation to step 127" in page
    assert "Order distribution by step" in page
    assert "epoch 15" not in page.lower()
    assert "onset epoch" not in page
    assert "<th>step</th>" in monitor.history._repr_html_()
    axes = monitor.plot().axes
    assert "boundary (step 15)" in {text.get_text() for part in axes for text in part.texts}
    assert "steps of training (log scale)" in {part.get_xlabel() for part in axes}
    assert {"boundary (step 15)", "now (step 127)"} <= {text.get_text() for text in monitor.show().texts}


def test_the_end_of_the_training_is_known_in_steps() -> None:
    detector = TurnsAt16()
    train(by_steps(detector=detector, max_per_epoch=1), max_steps=32)
    assert detector.ends == [None, 31, 31, 31, 31]
    detector = TurnsAt16()
    train(by_steps(detector=detector, max_per_epoch=1), max_steps=-1, max_time=timedelta(seconds=1))
    assert set(detector.ends) == {None}


class Memorises(TaskNet):
    """Learns a few samples by heart, so that its validation loss rises."""

    def __init__(self) -> None:
        super().__init__(mlp(), lr=2.0)


def test_an_alarm_comes_within_the_one_epoch_there_is() -> None:
    """It needs the rise to last for a tenth of the training until then: without an axis that grows, it never does."""
    monitor = by_steps(per_octave=4)
    data = endless_loaders(16)
    train(monitor, model=Memorises, data=data, max_steps=512, val_check_interval=32)
    (event, *_) = (event for event in monitor.events if event.kind == "overfitting")
    assert event.message.startswith(f"Step {event.step}: the network is overfitting (validation loss rose from ")
    assert f"the checkpoint of step {event.evidence['best_val_epoch']:.0f};" in event.message


# -- what is logged, and kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"limit_val_batches": 0, "log_every_n_steps": 8}, {"val_check_interval": 1.0, "log_every_n_steps": 8}],
    ids=["validated", "no validation", "none comes"],
)
def test_records_are_in_the_log_while_the_stream_goes_on(tmp_path: Path, options: dict[str, Any]) -> None:
    class Look(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
            if index == 16:
                logger.experiment.flush()
                found.append(read(logger))

    found: list[EventAccumulator] = []
    monitor, logger = by_steps(), TensorBoardLogger(tmp_path)
    with listening():
        train(monitor, callbacks=(Look(),), logger=logger, max_steps=24, **options)
    steps = monitor.history.column("step")
    seen = [event.step for event in found[0].Scalars("interactions/mean_order")]
    assert seen == [step for step in steps if step < 16]
    logged = read(logger).Scalars("interactions/mean_order")
    assert [event.step for event in logged] == steps
    assert [event.value for event in logged] == pytest.approx(monitor.history.column("mean_order"), rel=1e-6)


def read(logger: TensorBoardLogger) -> EventAccumulator:
    return EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()


@pytest.mark.parametrize(
    ("stop", "when", "goes_on"),
    [
        (24, {"save_on_train_epoch_end": False}, [24, 32, 40, 46, 56, 64]),
        # Samples are found again in a validation; the next one is after 24 steps.
        (18, {"every_n_train_steps": 18}, [24, 28, 32, 40, 46, 56, 64]),
    ],
    ids=["at a validation", "between"],
)
def test_a_stream_that_is_resumed_goes_on(tmp_path: Path, stop: int, when: dict[str, Any], goes_on: list[int]) -> None:
    keeper, first = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when), by_steps(per_octave=4)
    train(first, max_steps=stop, callbacks=(keeper,), enable_checkpointing=True)
    second = by_steps(per_octave=4)
    with listening():
        train(second, max_steps=64, ckpt_path=str(tmp_path / f"step={stop}.ckpt"))
    done, kept = steps_done(second), steps_done(first)
    assert done == [*(step for step in kept if step < goes_on[0]), *goes_on]


def test_what_is_counted_stays_what_it_was(tmp_path: Path) -> None:
    """A run that is resumed with other limits would else have two axes."""
    data = loaders(train=256)  # 16 batches
    first = by_steps()
    trainer = fit(first, data=data, max_epochs=-1, max_steps=8)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    assert steps_done(first) == list(range(9))
    second = by_steps()
    with listening():
        fit(second, data=data, max_epochs=2, ckpt_path=str(tmp_path / "stopped.ckpt"))
    assert steps_done(second)[:9] == list(range(9))
    assert steps_done(second)[-1] == 24, "the epoch that was stopped counts as one"


def test_a_run_of_before_stays_as_it_was(tmp_path: Path) -> None:
    """Its records of a stream are all of epoch 0, told apart by their steps."""
    first = by_steps(every_n_epochs=1)
    trainer = train(first, max_steps=8)
    trainer.save_checkpoint(tmp_path / "old.ckpt")
    old = torch.load(tmp_path / "old.ckpt", weights_only=False)
    (state,) = (state for key, state in old["callbacks"].items() if "TwoPhaseMonitor" in key)
    del state["history"]["unit"]
    state["history"]["records"][0]["epoch"] = state["detector"]["last_epoch"] = 0
    torch.save(old, tmp_path / "old.ckpt")
    second = by_steps(every_n_epochs=1)
    with listening():
        train(second, max_steps=24, ckpt_path=str(tmp_path / "old.ckpt"))
    assert second.history.unit == "epoch"
    assert second.history.column("epoch") == [0, 1, 1], "Lightning counts the epoch that was stopped"


def test_another_training_begins_another_run() -> None:
    monitor = by_steps()
    train(monitor, max_steps=8)
    fit(monitor, max_epochs=1)
    assert (monitor.history.unit, monitor.history.column("epoch")) == ("epoch", [-1, -0.75, -0.5, -0.25, 0])
    train(monitor, max_steps=8)
    assert steps_done(monitor) == [0, 2, 4, 6, 8]


# -- a start -----------------------------------------------------------------------------------------------------------


def test_nothing_is_measured_or_decided_before_the_start() -> None:
    detector = ScriptedDetector(boundary=1, overfitting=3)
    monitor = by_steps(start_epoch=2, detector=detector)
    trainer = fit(monitor, max_epochs=5)
    assert monitor.history.column("epoch") == [2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 3.75, 4]
    assert [event.kind for event in monitor.events] == ["overfitting"]
    assert float(trainer.callback_metrics["interactions/phase"]) == 1


def test_other_callbacks_find_all_keys_before_the_start(tmp_path: Path) -> None:
    """`ModelCheckpoint` stops a run where the metric it looks for was never logged."""
    keeper = ModelCheckpoint(tmp_path, monitor="interactions/val_loss_before_alarm")
    monitor = by_steps(start_epoch=2)
    fit(monitor, callbacks=(keeper,), enable_checkpointing=True)
    assert monitor.history.column("epoch") == [2]


def test_a_start_counts_for_every_rhythm() -> None:
    plain, own = small_monitor(start_epoch=3), Always(start_epoch=3, num_samples=6, num_players=4, verbose=False)
    fit(plain, max_epochs=5)
    fit(own, max_epochs=5, data=loaders(train=16))
    assert plain.history.column("epoch") == own.history.column("epoch") == [3, 4]


class Always(TwoPhaseMonitor):
    def should_probe(self, epoch: float, step: int) -> bool:
        return True


def test_a_resumed_run_keeps_its_start(tmp_path: Path) -> None:
    trainer = fit(by_steps(start_epoch=2), callbacks=(Asks(0),))
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    second = by_steps(start_epoch=2)
    fit(second, max_epochs=3, ckpt_path=str(tmp_path / "early.ckpt"))
    assert second.history.column("epoch") == [2]
    third = by_steps(start_epoch=0)  # not part of what makes records comparable
    fit(third, max_epochs=2, ckpt_path=str(tmp_path / "early.ckpt"))
    assert third.history.column("epoch") == [1]


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"max_epochs": 2}, "max_epochs=2"),
        ({"data": endless_loaders(), "max_epochs": -1, "max_steps": 2}, "max_steps=2"),
    ],
)
def test_a_start_after_the_end_is_told(options: dict[str, Any], limit: str) -> None:
    monitor = by_steps(start_epoch=2)
    with listening() as told:
        fit(monitor, **options)
    assert told == [f"TwoPhaseMonitor: nothing will be measured, as start_epoch=2 is not below {limit}."]
    assert len(monitor.history) == 0
