"""The cost that is told is the cost that is paid, and `max_overhead` limits it; by a clock that only costs move."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from models import ScriptedDetector, fit, loaders, small_monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_interactions import RunRecord
from lightning_interactions.monitor import budget
from lightning_interactions.report import loggers, sinks


class Clock:
    """Stands still but for what is added to it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Epochs(L.Callback):
    """Training takes a second per epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.clock.now += 1.0 / trainer.num_training_batches


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(budget, "time", made)
    return made


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[list[int]]:
    """Epochs of every run figure that is drawn; each takes 100 seconds, and 15 to be written with the other two."""
    seen: list[list[int]] = []
    plain, write = loggers.run_figure, sinks._TensorBoardSink.figure

    def slow_to_draw(run: RunRecord) -> Any:
        seen.append(list(run.history["epoch"]))
        clock.now += 100.0
        return plain(run)

    def slow_to_write(self: Any, *args: Any) -> None:
        clock.now += 5.0
        write(self, *args)

    monkeypatch.setattr(loggers, "run_figure", slow_to_draw)
    monkeypatch.setattr(sinks._TensorBoardSink, "figure", slow_to_write)
    return seen


def image_steps(trainer: L.Trainer) -> list[int]:
    events = EventAccumulator(trainer.log_dir, size_guidance={"images": 0}).Reload()
    steps = [event.step for event in events.Images("interactions/run")]
    assert steps == [event.step for event in events.Images("interactions/strength_by_order")]
    return steps


@pytest.mark.parametrize(("epochs", "expected"), [(6, [1, 2, 4, 6]), (4, [1, 2, 4])], ids=["once more", "not twice"])
def test_figures_are_drawn_at_doubling_records_and_at_the_end(
    epochs: int, expected: list[int], drawn: list[list[int]], tmp_path: Path
) -> None:
    monitor = small_monitor()
    trainer = fit(monitor, logger=TensorBoardLogger(tmp_path), max_epochs=epochs)
    assert list(map(len, drawn)) == expected
    assert image_steps(trainer) == [monitor.history.column("step")[count - 1] for count in expected]


def test_figures_are_drawn_at_events(drawn: list[list[int]], tmp_path: Path) -> None:
    detector = ScriptedDetector(boundary=2, overfitting=4, retracted=5)
    fit(small_monitor(detector=detector, on_event=None), logger=TensorBoardLogger(tmp_path), max_epochs=7)
    assert list(map(len, drawn)) == [1, 2, 3, 4, 5, 6, 7]


def test_without_a_logger_that_shows_figures_none_is_drawn(drawn: list[list[int]]) -> None:
    fit(small_monitor())
    assert drawn == []


def test_seconds_cover_drawing_and_writing(drawn: list[list[int]], tmp_path: Path) -> None:
    monitor = small_monitor()
    trainer = fit(monitor, logger=TensorBoardLogger(tmp_path), max_epochs=6)
    # Those of a record are told before it is drawn: its figures count for the next one, the last ones for none.
    assert monitor.history.column("seconds") == [0.0, 115.0, 115.0, 0.0, 115.0, 0.0]
    record = monitor.record()
    assert (record.seconds_after, record.seconds) == (115.0, 460.0)
    kept = RunRecord.from_json((Path(trainer.log_dir) / "interactions.json").read_text())
    assert (kept.seconds_after, kept.seconds) == (115.0, 460.0)


def test_alerts_first_batches_and_checkpoints_cost_too(clock: Clock, tmp_path: Path) -> None:
    def slow_alert(event: Any) -> None:
        clock.now += 30.0

    def slow_input(batch: list[Tensor]) -> Tensor:
        clock.now += 1.0
        return batch[0]

    monitor = small_monitor(detector=ScriptedDetector(boundary=1), on_event=slow_alert, input_fn=slow_input)
    fit(monitor, data=loaders(train=32, val=32, batch_size=16))
    first, second, third = monitor.history.column("seconds")
    assert first >= 4, "the first batch, two of training, two of validation"
    assert third >= 30
    assert second < 30


def test_the_whole_cost_is_told(drawn: list[list[int]], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(small_monitor(verbose=True), logger=TensorBoardLogger(tmp_path), max_epochs=4, enable_progress_bar=True)
    said = capfd.readouterr().out
    (first,) = re.findall(r"with the first measurement \(6 samples x 2\*\*4 coalitions\).* took (\S+) s", said)
    assert float(first) == 115.0
    assert "Time spent              345 s with logging and drawing, 86.25 s a record" in said


def test_a_costly_model_leaves_several_records_within_the_budget(clock: Clock) -> None:
    def slow_forward(module: nn.Module, inputs: Tensor) -> Tensor:
        clock.now += 1000.0
        out: Tensor = module(inputs)
        return out

    monitor = small_monitor(max_overhead=0.1, forward_fn=slow_forward, on_event=None)
    fit(monitor, callbacks=(Epochs(clock),), data=loaders(train=16, val=16), max_epochs=40)
    assert monitor.history.column("epoch") == [0, 1, 3, 7, 15, 31]


def test_drawing_counts_for_the_budget(drawn: list[list[int]], clock: Clock, tmp_path: Path) -> None:
    """Measuring takes no time here: but for drawing, every epoch would be measured."""
    monitor = small_monitor(max_overhead=0.1, on_event=None)
    logger = TensorBoardLogger(tmp_path)
    fit(monitor, callbacks=(Epochs(clock),), data=loaders(train=16, val=16), max_epochs=12, logger=logger)
    assert monitor.history.column("epoch") == [0, 1, 3, 7]


def test_a_cheap_monitor_measures_every_epoch(clock: Clock) -> None:
    monitor = small_monitor(max_overhead=0.1)
    fit(monitor, callbacks=(Epochs(clock),), max_epochs=5)
    assert monitor.history.column("epoch") == [0, 1, 2, 3, 4]


def test_drawing_leaves_random_numbers_alone(tmp_path: Path) -> None:
    states = []
    for figures in (True, False):
        fit(small_monitor(log_figures=figures), logger=TensorBoardLogger(tmp_path), max_epochs=2)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
