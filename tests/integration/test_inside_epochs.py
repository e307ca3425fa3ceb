"""The default rhythm under a Trainer: records before training and inside of epochs, and what becomes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from models import ColumnNet, ScriptedDetector, TaskNet, column_data, fit, listening, loaders, small_monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import RunRecord, TwoPhaseMonitor
from lightning_interactions.monitor import budget
from lightning_interactions.monitor.actions import STOP_AFTER
from lightning_interactions.phases.epochs import tell_place
from lightning_interactions.report.html import write_report

QUARTERS = [x / 4 for x in range(-4, 9)]
"""Places of the records of three epochs of four batches."""


def inside(**options: Any) -> TwoPhaseMonitor:
    return small_monitor(**({"every_n_epochs": None, "on_event": None} | options))


def epochs_of(monitor: TwoPhaseMonitor) -> list[float]:
    return monitor.history.column("epoch")


# -- before training ---------------------------------------------------------------------------------------------------


def sorted_by_class() -> dict[str, Any]:
    data = column_data(48, seed=2)
    order = data.tensors[1].argsort()
    return loaders() | {"val_dataloaders": DataLoader(TensorDataset(*(x[order] for x in data.tensors)), 4)}


def few_in_all() -> dict[str, Any]:
    return loaders() | {"val_dataloaders": DataLoader(column_data(48, seed=2), 2)}


def numbers() -> dict[str, Any]:
    x = column_data(64).tensors[0]
    data = TensorDataset(x, x.sum(1, keepdim=True))
    return {"train_dataloaders": DataLoader(data, 16), "val_dataloaders": DataLoader(data, 16)}


@pytest.mark.parametrize(
    ("data", "options", "begins"),
    [
        (loaders, {}, True),
        (sorted_by_class, {}, False),
        (few_in_all, {}, False),
        (few_in_all, {"num_sanity_val_steps": 8}, True),
        (sorted_by_class, {"num_sanity_val_steps": -1}, True),
        (loaders, {"num_sanity_val_steps": 0}, False),
    ],
    ids=["covered", "one class", "too few", "just enough", "whole check", "no check"],
)
def test_it_begins_before_training_if_the_sanity_check_covers_the_classes(
    data: Any, options: dict[str, Any], begins: bool
) -> None:
    monitor = inside()
    fit(monitor, data=data(), **options)
    assert epochs_of(monitor) == (QUARTERS if begins else QUARTERS[4:])
    assert monitor._loop.watchlist.watched["val"].targets.bincount().tolist() == [2, 2, 2]
    assert len(monitor._loop.watchlist.losses["val"]) == 48, "all samples are in the loss all the same"
    assert monitor._loop.watchlist.losses["val"].counts.tolist() == [1] * 48  # type: ignore[union-attr]
    plain = small_monitor()
    fit(plain, data=data(), **options)
    same = torch.equal(*(m._loop.watchlist.watched["val"].keys for m in (monitor, plain)))
    assert same or begins, "else they are chosen as ever"


def test_a_regression_needs_only_enough_samples() -> None:
    monitor = inside()
    net = lambda: TaskNet(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)), mse_loss)  # noqa: E731
    fit(monitor, model=net, data=numbers())
    assert epochs_of(monitor) == QUARTERS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"watch": "train"}, QUARTERS[4:]),
        ({"watch": "both"}, QUARTERS[4:]),
        ({"resample": True}, [0, 1, 2]),
        ({"max_per_epoch": 2}, QUARTERS[::2]),
        ({"per_octave": 1}, [-1, -0.75, -0.5, 0, 1]),
        ({"every_n_epochs": 1}, [0, 1, 2]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_options_change_the_rhythm(options: dict[str, Any], expected: list[float]) -> None:
    monitor = inside(**options)
    fit(monitor)
    assert epochs_of(monitor) == expected


def test_the_first_record_is_that_of_the_untrained_network() -> None:
    class Fixed(ColumnNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            self.net.eval()
            return super().training_step(batch, batch_idx)

    monitor = inside()
    fit(monitor, model=Fixed)
    orders = monitor.history.column("mean_order")
    assert orders == pytest.approx([orders[0]] * 13, rel=1e-6)
    learning = inside()
    fit(learning)
    assert learning.history.column("mean_order")[0] == pytest.approx(orders[0], rel=1e-6)
    assert len({round(order, 6) for order in learning.history.column("mean_order")}) > 10, "every record is a new one"


def test_losses_come_with_the_first_validation() -> None:
    monitor = inside()
    trainer = fit(monitor)
    for key in ("train_loss", "val_loss", "loss_gap"):
        assert [math.isnan(x) for x in monitor.history.column(key)] == [True] * 4 + [False] * 9
    assert monitor.history.column("val_loss")[-1] == pytest.approx(float(trainer.callback_metrics["val_loss"]))


def test_a_logged_loss_is_judged_at_validations_only() -> None:
    monitor = inside(monitor="val_loss")
    fit(monitor)
    known = [not math.isnan(x) for x in monitor.history.column("val_loss")]
    assert known == [epoch in (0, 1, 2) for epoch in QUARTERS]


# -- inside of epochs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"val_check_interval": 0.5}, QUARTERS),
        ({"check_val_every_n_epoch": 2}, QUARTERS),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, QUARTERS),
        ({"limit_train_batches": 2}, [-1, -0.5, 0, 0.5, 1, 1.5, 2]),
        ({"limit_train_batches": 1}, [-1, 0, 1, 2]),
        ({"accumulate_grad_batches": 4}, QUARTERS),
        ({"fast_dev_run": 2}, [0]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_place_is_measured_once(options: dict[str, Any], expected: list[float]) -> None:
    monitor = inside()
    with listening():  # of a part of the training samples others come in the next epoch
        fit(monitor, **options)
    assert epochs_of(monitor) == expected


def test_a_validation_takes_the_place_of_a_mark_beside_it() -> None:
    monitor = inside()
    data = loaders(train=80, batch_size=8)  # ten batches; validated after the third, sixth and ninth
    fit(monitor, data=data, val_check_interval=3, max_epochs=2)
    assert epochs_of(monitor) == pytest.approx([-1, -0.7, -0.4, -0.1, 0.3, 0.6, 0.9])
    judged = [not math.isnan(x) for x in monitor.history.column("val_loss")]
    assert judged == [False] + [True] * 6


def test_a_stream_is_measured_at_validations_whose_steps_are_spread_evenly() -> None:
    from models import Stream

    data = {
        "train_dataloaders": DataLoader(Stream(column_data(640, seed=1)), 16),
        "val_dataloaders": DataLoader(column_data(48, seed=2), 16),
    }
    monitor = inside(per_octave=2)
    fit(monitor, data=data, val_check_interval=1, max_epochs=1)
    assert epochs_of(monitor) == [-1, *monitor.history.column("step")[1:]]
    done = [step + 1 for step in monitor.history.column("step")[1:]]
    assert done == [1, 2, 3, 4, 6, 8, 12, 16, 23, 32]


def test_averaged_weights_are_measured_at_validations_only() -> None:
    monitor = inside()
    fit(monitor, callbacks=(EMAWeightAveraging(decay=0.9),))
    assert epochs_of(monitor) == [-1, 0, 1, 2]


def test_gradients_that_wait_are_left_alone() -> None:
    seen: list[bool] = []

    class Look(L.Callback):
        def __init__(self) -> None:
            self.before: list[Any] = []

        def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            self.before = [(p.grad, p.grad.clone()) for p in module.parameters() if p.grad is not None]

    class Compare(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
            now = [p.grad for p in module.parameters() if p.grad is not None]
            kept = zip(now, look.before, strict=True)
            seen.append(all(grad is same and torch.equal(grad, value) for grad, (same, value) in kept))

    look, monitor = Look(), inside()
    fit(look, callbacks=(monitor, Compare()), accumulate_grad_batches=4)
    assert seen == [True] * 12
    assert epochs_of(monitor) == QUARTERS


def test_a_fault_inside_of_an_epoch_stops_nothing() -> None:
    def odd(logits: Tensor, targets: Tensor) -> Tensor:
        if len(monitor.history) >= 2:
            raise ValueError("a user's mistake")
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1)

    monitor = inside(score=odd, on_error="warn")
    with listening() as told:
        trainer = fit(monitor, max_epochs=5)
    assert trainer.current_epoch == 5
    assert epochs_of(monitor) == [-1, -0.75]
    assert ["asked at validations only" in text for text in told] == [True, False, False]
    assert "switched off for the rest of this run after 3 failures" in told[-1]


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_inside_of_epochs_name_the_epoch_and_keep_the_place(tmp_path: Path) -> None:
    monitor = inside(detector=TurnsInside(), stop_on="boundary")
    trainer = fit(monitor, tmp_path, max_epochs=12, callbacks=(ModelCheckpoint(tmp_path),), enable_checkpointing=True)
    (event,) = monitor.events
    assert (event.kind, event.epoch, event.detected_epoch) == ("boundary", 1, 2)
    assert (event.evidence["trough_epoch"], monitor.boundary_epoch) == (0.75, 1)
    assert event.message.startswith("Epoch 2 (50 % through): low-order dominance ended (mean order rose from ")
    assert " at epoch 1 (75 % through) to " in event.message
    assert trainer.global_step == 10 + STOP_AFTER, "stopped in the middle of an epoch, some records later"
    run = monitor.record()
    assert (run.boundary_epoch, run.boundary_place) == (1, 0.75)
    assert RunRecord.from_json(run.to_json()).boundary_place == 0.75
    page = tmp_path / "report.html"
    write_report(run, page)
    text = page.read_text()
    assert '"Initialisation", "Epoch 0 (25 % through)"' in text
    last = tell_place((10 + STOP_AFTER) / 4 - 1)
    assert f"{11 + STOP_AFTER} records, initialisation to {last}" in text
    assert "epoch 1 (75 % through)" in text


class TurnsInside(ScriptedDetector):
    """Decides on mean orders of its own: lowest at 0.75."""

    def update(self, epoch: float, strength: Any, *args: Any, **kwargs: Any) -> Any:
        from lightning_interactions import PhaseDetector

        high = 0.2 + 0.3 * abs(epoch - 0.75)
        made = torch.tensor([1.0, high]).repeat(8, 2, 1)
        return PhaseDetector.update(self, epoch, made, None, None, step=kwargs["step"])


def test_onsets_are_whole_epochs_in_the_table_and_places_in_the_curves() -> None:
    monitor = inside(num_samples=12)
    fit(monitor, max_epochs=8)
    onsets = [row["onset_epoch"] for row in monitor.history.samples]
    assert {type(onset) for onset in onsets} <= {int, type(None)}
    assert any(onset is not None for onset in onsets), "or this says nothing"
    for name in ("q10", "q50", "q90"):
        assert all(x == -1 or x >= 0 for x in monitor.history.column(f"onset/{name}"))


# -- logging -----------------------------------------------------------------------------------------------------------


def events_of(trainer: L.Trainer) -> EventAccumulator:
    nothing_left_out = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(trainer.log_dir), size_guidance=nothing_left_out).Reload()


def test_records_inside_of_epochs_are_logged_at_their_own_steps(tmp_path: Path) -> None:
    monitor = inside(detector=ScriptedDetector(boundary=0.25))
    trainer = fit(monitor, logger=TensorBoardLogger(tmp_path))
    events, steps = events_of(trainer), monitor.history.column("step")
    for tag in ("mean_order", "phase", "seconds"):
        logged = events.Scalars(monitor.options.names.full(tag))
        assert [event.step for event in logged] == steps
        assert [event.value for event in logged] == pytest.approx(monitor.history.column(tag), rel=1e-6)
    assert [event.step for event in events.Scalars("interactions/val_loss")] == steps[4:], "none that is not known"
    assert [event.step for event in events.Histograms("interactions/order_distribution")] == steps
    (text,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("interactions/events"))
    assert [event.step for event in events.Tensors(text)] == [steps[QUARTERS.index(0.25)]]
    images = [event.step for event in events.Images("interactions/run")]
    assert images == sorted(images)
    assert images[-1] == steps[-1]


class Epochs(ColumnNet):
    """Logs epochs for an x axis of its own."""

    def on_validation_epoch_end(self) -> None:
        self.log("step", 100.0 + self.current_epoch)


def test_on_an_axis_of_the_users_only_validations_are_logged(tmp_path: Path) -> None:
    monitor = inside(detector=ScriptedDetector(boundary=0.25))
    trainer = fit(monitor, model=Epochs, logger=TensorBoardLogger(tmp_path))
    assert epochs_of(monitor) == QUARTERS
    events = events_of(trainer)
    for read in (events.Scalars("interactions/mean_order"), events.Histograms("interactions/order_distribution")):
        assert [event.step for event in read] == [100, 101, 102]
    (text,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("interactions/events"))
    assert [event.step for event in events.Tensors(text)] == [101], "told at the next place there is"
    assert {event.step for event in events.Images("interactions/run")} <= {100, 101, 102}
    run = RunRecord.from_json((Path(str(trainer.log_dir)) / "interactions.json").read_text())
    assert list(run.history["epoch"]) == QUARTERS


def test_a_run_that_is_interrupted_in_its_first_epoch_has_logged_its_records(tmp_path: Path) -> None:
    class Interrupt(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
            if index == 3:
                raise RuntimeError("enough")

    monitor, logger = inside(), TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="enough"):
        fit(monitor, callbacks=(Interrupt(),), logger=logger)
    logger.experiment.flush()
    events = EventAccumulator(str(logger.log_dir), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("interactions/mean_order")] == [0, 0, 1, 2]


def test_other_callbacks_see_what_is_known_inside_of_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not known there stays as it was: `EarlyStopping` ends a run at what is not a number."""
    seen: list[tuple[float, float]] = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            metrics = trainer.callback_metrics
            key = "interactions/val_loss_before_alarm"
            seen.append((float(metrics["interactions/mean_order"]), float(metrics.get(key, math.inf))))

    stopper = EarlyStopping("interactions/val_loss_before_alarm", patience=50, check_finite=True)
    monitor = inside(monitor="val_loss")
    trainer = fit(monitor, callbacks=(Look(), stopper))
    assert trainer.current_epoch == 3
    orders = dict(zip(epochs_of(monitor), monitor.history.column("mean_order"), strict=True))
    assert seen[4][0] == pytest.approx(orders[0.25], rel=1e-6)
    assert [loss for _, loss in seen[:3]] == [math.inf] * 3
    assert all(math.isfinite(loss) for _, loss in seen[4:])


def test_a_validation_that_is_not_measured_leaves_no_key_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`ModelCheckpoint` stops a run where the metric it looks for was never logged."""
    monkeypatch.setattr(TwoPhaseMonitor, "should_probe", lambda self, epoch, step: epoch in (-1, 0.25))
    keeper = ModelCheckpoint(tmp_path, monitor="interactions/val_loss_before_alarm")
    monitor = inside(monitor="val_loss")
    fit(monitor, callbacks=(keeper,), enable_checkpointing=True)
    assert epochs_of(monitor) == [-1, 0.25]


# -- the budget --------------------------------------------------------------------------------------------------------


def test_a_costly_monitor_thins_its_records_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    class Epochs(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            clock.now += 10.0 / trainer.num_training_batches

    def slow(module: nn.Module, inputs: Tensor) -> Tensor:
        clock.now += 5.0
        out: Tensor = module(inputs)
        return out

    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)
    monitor = inside(forward_fn=slow, max_overhead=0.25, verbose=True)
    fit(monitor, callbacks=(Epochs(),), max_epochs=40, enable_progress_bar=True)
    epochs = epochs_of(monitor)
    assert epochs[0] == -1
    assert 6 <= len(epochs) < 20, "of 60"
    assert {1, 3, 7, 15, 31} <= {2 * math.ceil((epoch + 1) / 2) - 1 for epoch in epochs}
    told = [line for line in "".join(capfd.readouterr()).splitlines() if "fewer records" in line]
    assert len(told) == 1
    assert "to stay below 25%; max_overhead=None measures them all." in told[0]
