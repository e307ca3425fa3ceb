"""What the detector is told in a real run, and what its hints and changes of mind lead to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from models import Asks, ColumnNet, ScriptedDetector, TaskNet, fit, loaders, mlp, small_monitor, told_during
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lightning_interactions import PhaseDetector, PhaseEvent
from lightning_interactions.monitor.actions import STOP_AFTER
from lightning_interactions.monitor.run import Record, Run


class Told(TaskNet):
    """A network that learns nothing; its validation loss is told by a script."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__(mlp(features=5), lr=0.0)
        self.losses = losses

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])
        self.log("val_loss", self.losses[self.current_epoch], batch_size=1)


# -- an alarm that is withdrawn ----------------------------------------------------------------------------------------

EARLY = [1.0, 0.9, 0.8, 1.3, 1.4, 1.5, 0.7, 0.6, 1.2, 1.3]
"""The loss rises after epoch 2, falls below its lowest in epoch 6, and rises again."""


def texts_of(folder: Path) -> list[str]:
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    (tag,) = (tag for tag in accumulator.Tags()["tensors"] if tag.startswith("interactions/events"))
    return [event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors(tag)]


def test_an_alarm_is_withdrawn_when_the_loss_falls_below_its_lowest_and_may_be_given_again(tmp_path: Path) -> None:
    told: list[PhaseEvent] = []
    monitor = small_monitor(monitor="val_loss", on_event=told.append)
    keeper = ModelCheckpoint(tmp_path, monitor="interactions/val_loss_before_alarm", filename="{epoch}")
    logger = TensorBoardLogger(tmp_path)
    fit(monitor, model=Told(EARLY), callbacks=(keeper,), max_epochs=10, enable_checkpointing=True, logger=logger)
    said = [(event.kind, event.retracts, event.epoch, event.detected_epoch) for event in told]
    assert said == [("overfitting", "", 4, 4), ("retracted", "overfitting", 4, 6), ("overfitting", "", 9, 9)]
    assert monitor.events == told
    before = monitor.history.column("val_loss_before_alarm")
    assert [loss for loss in before if not math.isnan(loss)] == pytest.approx([1.0, 0.9, 0.8, 1.3, 0.7, 0.6, 1.2])
    assert list(map(math.isnan, before)) == [epoch in (4, 5, 9) for epoch in range(10)]
    assert Path(keeper.best_model_path).name == "epoch=7.ckpt", "the lowest loss, after the alarm"
    assert ["overfitting" in text for text in texts_of(Path(logger.log_dir))] == [True] * 3
    (line,) = (line for line in monitor.plot().axes[-1].lines if line.get_gid() == "overfitting")
    assert line.get_xdata()[0] == 9


@pytest.mark.parametrize(("losses", "stops"), [(EARLY, False), ([*EARLY[:6], *[1.6] * 2 * STOP_AFTER], True)])
def test_a_run_is_stopped_by_an_alarm_that_stands_not_by_a_withdrawn_one(losses: list[float], stops: bool) -> None:
    """The alarm of epoch 4 is withdrawn in epoch 6, or it stands."""
    monitor = small_monitor(monitor="val_loss", on_event=None, stop_on="overfitting")
    trainer = fit(monitor, model=Told(losses), max_epochs=len(losses))
    assert trainer.current_epoch == (5 + STOP_AFTER if stops else len(losses))


def test_an_alarm_that_is_withdrawn_leaves_the_line_of_the_boundary_alone(tmp_path: Path) -> None:
    class ChangesItsMind(ScriptedDetector):
        def update(self, epoch: int, *args: Any, step: int = 0, **kwargs: Any) -> list[PhaseEvent]:
            if epoch != 3:
                return super().update(epoch, *args, step=step, **kwargs)
            self.overfitting_epoch = None
            return [PhaseEvent("retracted", 2, 3, step, {}, "It is not.", "overfitting")]

    monitor = small_monitor(detector=ChangesItsMind(), on_event=None)
    trainer = fit(monitor, max_epochs=5, logger=TensorBoardLogger(tmp_path))
    assert [event.kind for event in monitor.events] == ["boundary", "overfitting", "retracted"]
    line = EventAccumulator(str(trainer.log_dir), size_guidance={"scalars": 0}).Reload()
    assert len(line.Scalars("interactions_detail/boundary_line")) == 2, "drawn once, from its lower to its upper end"


# -- a boundary that is suspected --------------------------------------------------------------------------------------


class Rising(PhaseDetector):
    """Decides on mean orders of its own, and keeps its evidence at every record."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, float]] = []

    def update(self, epoch: float, strength: Any, *args: Any, step: int = 0, **kwargs: Any) -> list[PhaseEvent]:
        generator = torch.Generator().manual_seed(int(100 * epoch + 100))
        high = 0.3 + max(epoch - 4, 0) * 0.04 + 0.04 * torch.randn(8, 2, generator=generator)
        made = torch.stack([1 - high, high], 2).clamp(min=0)
        events = super().update(epoch, made, None, None, step=step)
        self.seen.append((self.suspected, self.evidence["e_value"]))
        return events


def test_what_is_suspected_is_logged_and_kept_but_nobody_is_alerted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[PhaseEvent] = []
    detector, logger = Rising(), TensorBoardLogger(tmp_path)
    monitor = small_monitor(detector=detector, on_event=told.append, verbose=True)
    trainer = fit(monitor, max_epochs=14, logger=logger, enable_progress_bar=True)
    assert [event.kind for event in monitor.events] == ["suspected", "boundary"]
    assert [event.kind for event in told] == ["boundary"]
    out = "".join(capfd.readouterr())
    assert ("suspected" in out, "phase boundary at epoch" in out) == (False, True)
    suspected, evidence = monitor.history.column("suspected"), monitor.history.column("boundary_evidence")
    assert suspected == [float(now) for now, _ in detector.seen]
    assert sum(suspected) > 0, "or this says nothing"
    assert suspected[-1] == 0, "it is found by now"
    assert evidence == pytest.approx([math.log10(max(e, 1e-6)) for _, e in detector.seen])
    assert max(evidence) > math.log10(20) > min(evidence)
    assert set(monitor.history.column("phase")) == {1.0, 2.0}
    assert float(trainer.callback_metrics["interactions_detail/boundary_evidence"]) == pytest.approx(evidence[-1])
    kept = json.loads((Path(logger.log_dir) / "interactions.json").read_text())
    assert [event["kind"] for event in kept["events"]] == ["suspected", "boundary"]
    assert [text.split("**")[1] for text in texts_of(Path(logger.log_dir))] == ["suspected", "boundary"]


def test_nor_is_anybody_warned_of_it() -> None:
    detector = ScriptedDetector(suspected=1, boundary=3)
    told = told_during(lambda: fit(small_monitor(detector=detector, on_event="warn"), max_epochs=5))
    assert told == ["boundary at 3"]


def test_evidence_that_is_not_known_is_a_gap_and_none_is_not_less_than_a_millionth() -> None:
    class Sure(PhaseDetector):
        def update(self, epoch: float, *args: Any, **kwargs: Any) -> list[PhaseEvent]:
            self.evidence = {} if epoch == 0 else {"e_value": 0.0 if epoch == 1 else 100.0}
            return []

    monitor = small_monitor(detector=Sure())
    fit(monitor)
    found = monitor.history.column("boundary_evidence")
    assert math.isnan(found[0])
    assert found[1:] == [-6.0, 2.0]


# -- how long the training will be -------------------------------------------------------------------------------------


class Listening(PhaseDetector):
    """Keeps what it is told beside the strengths."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float | None] = []
        self.losses: list[Tensor | None] = []

    def update(self, *args: Any, **kwargs: Any) -> list[PhaseEvent]:
        self.ends.append(kwargs["last_epoch"])
        self.losses.append(kwargs["val_losses"])
        return super().update(*args, **kwargs)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 3}, [2, 2, 2, 2]),
        ({"max_epochs": -1}, [None] * 4),
        ({"max_epochs": -1, "max_steps": 10}, [None, 1.5, 1.5]),
        ({"max_epochs": 3, "max_steps": 6}, [2, 0.5]),
        ({"max_epochs": 3, "max_steps": 60}, [2, 2, 2, 2]),
        ({"max_epochs": -1, "max_steps": 5, "accumulate_grad_batches": 2}, [None, 1.5, 1.5]),
        ({"max_epochs": 3, "max_time": "00:01:00:00"}, [2, 2, 2, 2]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_it_is_known_when_the_training_will_be_over(options: dict[str, Any], expected: list[float | None]) -> None:
    """Four batches an epoch; one record before the first."""
    detector = Listening()
    monitor = small_monitor(detector=detector, every_n_epochs=None, max_per_epoch=1, on_event=None)
    fit(monitor, callbacks=(Asks(2),), **options)
    assert detector.ends == [end if end is None else pytest.approx(end) for end in expected]


def test_a_batch_may_be_several_steps() -> None:
    class Two(ColumnNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]

    detector = Listening()
    fit(small_monitor(detector=detector, on_event=None), model=Two, max_epochs=-1, max_steps=16)
    assert detector.ends == [pytest.approx(1)] * 2


def test_the_risk_is_that_until_then() -> None:
    risks = []
    for max_epochs in (2, 200):
        monitor = small_monitor()
        fit(monitor, max_epochs=max_epochs, callbacks=(Asks(0),))
        assert monitor.detector.evidence["horizon"] == pytest.approx(math.log2(max_epochs))
        risks.append(monitor.history.column("overfitting_risk")[0])
    assert risks[0] < risks[1]


# -- the losses of single samples --------------------------------------------------------------------------------------


def test_the_standard_error_of_a_rise_is_that_of_the_single_losses() -> None:
    seen: list[Tensor] = []

    class Look(L.Callback):
        def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            if not trainer.sanity_checking:
                x, y = loaders()["val_dataloaders"].dataset.tensors
                with torch.no_grad():
                    seen.append(torch.nn.functional.cross_entropy(module(x).double(), y, reduction="none"))

    monitor = small_monitor(on_event=None)
    fit(monitor, callbacks=(Look(),), max_epochs=6)
    means = monitor.history.column("val_loss")
    best = means.index(min(means))
    assert means == pytest.approx([float(losses.mean()) for losses in seen], rel=1e-5)
    change = seen[-1] - seen[best] if best < 5 else torch.zeros(48)
    error = float(change.std()) / math.sqrt(48) / means[best]
    assert monitor.detector.evidence["val_growth_error"] == pytest.approx(error, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("options", [{"monitor": "val_loss"}, {"watch": "train"}], ids=["logged", "no validation"])
def test_of_a_loss_that_is_not_ours_no_single_ones_are_told(options: dict[str, Any]) -> None:
    detector = Listening()
    data = {"train_dataloaders": loaders()["train_dataloaders"]} if "watch" in options else None
    fit(small_monitor(detector=detector, on_event=None, **options), data=data)
    assert detector.losses == [None] * 3


def record(keys: list[int], losses: list[float], mean: float | None = None, **options: Any) -> Record:
    each = torch.tensor(keys), torch.tensor(losses, dtype=torch.float64)
    mean = float(each[1].mean()) if mean is None else mean
    return Record(0, 0, {}, {}, {"val": mean}, 0.0, val_losses=each, **options)


def test_the_detector_gets_the_losses_of_the_same_samples_in_the_same_order() -> None:
    run = Run(None, follow=True)

    def told(found: Record, judged: float | None = None) -> Any:
        losses = run._val_losses(found, found.losses["val"] if judged is None else judged)
        return None if losses is None else losses.nan_to_num(-1).tolist()

    assert told(record([2, 5, 7], [1.0, 2.0, 3.0])) == [1.0, 2.0, 3.0]
    assert told(record([2, 5, 7], [4.0, 5.0, 6.0])) == [4.0, 5.0, 6.0]
    assert told(record([1, 5, 7], [4.0, 5.0, 6.0])) == [-1, 5.0, 6.0], "another one came for the first"
    assert told(record([5, 6, 7, 9], [4.0, 5.0, 6.0, 7.0])) == [-1, 4.0, 6.0]
    assert told(record([8, 9], [4.0, 5.0])) == [-1, -1, -1]
    assert told(record([2, 5, 7], [1.0, 2.0, 3.0]), judged=2.5) is None, "that is another loss"
    assert told(record([2, 5, 7], [1.0, 2.0, 3.0], few=True)) is None
    run.forget_losses()
    assert told(record([8, 9], [4.0, 5.0])) == [4.0, 5.0]


@pytest.mark.parametrize(("with_samples", "expected"), [(True, [-1.0, 5.0, 6.0]), (False, [])])
def test_after_a_resume_they_are_compared_where_it_is_known_whose_they_are(
    with_samples: bool, expected: list[float]
) -> None:
    run, again = Run(None, follow=True), Run(None, follow=True)
    run._val_losses(record([2, 5, 7], [1.0, 2.0, 3.0]), 2.0)
    again.load_state_dict(run.state_dict(with_samples=with_samples), "val")
    losses = again._val_losses(record([5, 6, 7], [5.0, 9.0, 6.0]), 20 / 3)
    assert losses is not None
    assert losses.nan_to_num(-1).tolist() == expected
