"""One x axis: what is written besides scalars stands where Lightning logs the scalars, also if users log ``step``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from models import ColumnNet, ScriptedDetector, column_data, fit, small_monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interactions import InteractionsWarning

EPOCHS = 3
LINE = "interactions_detail/boundary_line"


class AtEnd(ColumnNet):
    """In the module's own hook, which runs after the callbacks' one."""

    def on_validation_epoch_end(self) -> None:
        self.log("step", 100.0 + self.current_epoch)


class InStep(ColumnNet):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("step", 100.0 + self.current_epoch)


class InTraining(ColumnNet):
    """Only training is logged at it: validation stays where it was."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.log("step", 1000.0 + self.current_epoch)
        return super().training_step(batch, batch_idx)


class AtTrainingEnd(ColumnNet):
    def on_train_epoch_end(self) -> None:
        self.log("step", 100.0 + self.current_epoch)


class ByAnother(L.Callback):
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.log("step", 100.0 + trainer.current_epoch)


def steps(trainer: L.Trainer) -> dict[str, list[int]]:
    """Steps by kind of what is logged every epoch, and by tag where it is scalars."""
    nothing_left_out = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(trainer.log_dir, size_guidance=nothing_left_out).Reload()
    tags = events.Tags()
    texts = [tag for tag in tags["tensors"] if tag.startswith("interactions/events")]
    read = {
        "mean_order": events.Scalars("interactions/mean_order"),
        "distribution": events.Histograms("interactions/order_distribution"),
        "histogram": events.Histograms("interactions_detail/histogram/order_01"),
        "run": events.Images("interactions/run"),
        "events": [event for tag in texts for event in events.Tensors(tag)],
        "line": events.Scalars(LINE) if LINE in tags["scalars"] else [],
    }
    found = {name: [event.step for event in kept] for name, kept in read.items()}
    if "val_loss" in tags["scalars"]:
        found["val_loss"] = [event.step for event in events.Scalars("val_loss")]
    return found


def assert_one_axis(found: dict[str, list[int]], expected: list[int]) -> None:
    for name in {"val_loss", "mean_order", "distribution", "histogram", "run"} & set(found):
        assert sorted(set(found[name])) == expected, name
    assert found["events"] == expected[1:]
    assert found["line"] == [expected[1], expected[1] + 1], "two points at one step would make no line"


def monitored(folder: Path, model: type[ColumnNet], options: dict[str, Any] | None = None, **fitting: Any) -> Any:
    monitor = small_monitor(detector=ScriptedDetector(), on_event=None, **(options or {}))
    return monitor, fit(monitor, model=model, logger=TensorBoardLogger(folder), max_epochs=EPOCHS, **fitting)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("model", [AtEnd, InStep])
def test_a_logged_step_moves_everything(model: type[ColumnNet], late: bool, tmp_path: Path) -> None:
    _, trainer = monitored(tmp_path, model, {"monitor": "val_loss"} if late else None)
    assert_one_axis(steps(trainer), [100, 101, 102])


def test_a_step_logged_by_another_callback_moves_everything(tmp_path: Path) -> None:
    _, trainer = monitored(tmp_path, ColumnNet, callbacks=(ByAnother(),))
    assert_one_axis(steps(trainer), [100, 101, 102])


@pytest.mark.parametrize("model", [ColumnNet, InTraining])
def test_without_one_everything_stands_at_the_optimizer_step(model: type[ColumnNet], tmp_path: Path) -> None:
    monitor, trainer = monitored(tmp_path, model)
    assert_one_axis(steps(trainer), monitor.history.column("step"))


@pytest.mark.parametrize(("model", "expected"), [(ColumnNet, [3, 7, 11]), (AtTrainingEnd, [100, 101, 102])])
def test_where_no_validation_runs(model: type[ColumnNet], expected: list[int], tmp_path: Path) -> None:
    data = {"train_dataloaders": DataLoader(column_data(64), 16), "val_dataloaders": None}
    _, trainer = monitored(tmp_path, model, {"watch": "train"}, data=data)
    assert_one_axis(steps(trainer), expected)


def test_the_line_of_a_boundary_before_a_resume_is_drawn_only_where_its_place_is_known(tmp_path: Path) -> None:
    class Late(ScriptedDetector):
        """Finds in its third record that the boundary was in the first."""

        def update(self, epoch: int, *args: Any, **kwargs: Any) -> Any:
            events = super().update(epoch, *args, **kwargs)
            self.boundary_epoch = 0 if self.boundary_epoch is not None else None
            return events

    for model, expected in ((ColumnNet, [3, 4]), (AtEnd, [])):
        folder = tmp_path / model.__name__
        options: dict[str, Any] = {"detector": Late(boundary=2), "on_event": None}
        first = fit(small_monitor(**options), folder, model=model, max_epochs=2, enable_checkpointing=True)
        path = str(first.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
        trainer = fit(
            small_monitor(**options), model=model, max_epochs=3, ckpt_path=path, logger=TensorBoardLogger(folder)
        )
        assert steps(trainer)["line"] == expected


def test_a_fault_is_told_on_the_same_axis(tmp_path: Path) -> None:
    def failing(logits: Tensor, targets: Tensor) -> Tensor:
        if len(logits) != 2:  # not in the trial on the first batch
            raise RuntimeError("odd")
        return logits.sum(1)

    monitor = small_monitor(score=failing, on_error="warn", on_event=None)
    with pytest.warns(InteractionsWarning, match="odd"):
        trainer = fit(monitor, model=AtEnd, logger=TensorBoardLogger(tmp_path), max_epochs=1)
    events = EventAccumulator(trainer.log_dir, size_guidance={"tensors": 0}).Reload()
    texts = [tag for tag in events.Tags()["tensors"] if tag.startswith("interactions/events")]
    assert [event.step for tag in texts for event in events.Tensors(tag)] == [100]
