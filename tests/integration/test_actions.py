"""What follows from an event: checkpoints to keep, alerts sent once, a stop that is never lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from models import Asks, ColumnNet, ScriptedDetector, column_data, fit, listening, loaders, small_monitor
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_interactions import InteractionsWarning, PhaseEvent
from lightning_interactions.monitor.actions import STOP_AFTER


class OverfitNet(ColumnNet):
    """Memorises 48 samples: its validation loss is lowest around epoch 12."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Snapshots(L.Callback):
    """The weights after every epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights.append({name: w.clone() for name, w in pl_module.state_dict().items()})


def keepers(folder: Path) -> dict[str, ModelCheckpoint]:
    """The recipe of the README."""
    return {
        "boundary": ModelCheckpoint(folder, "boundary-{epoch}", monitor="interactions/mean_order", mode="min"),
        "before alarm": ModelCheckpoint(
            folder, "before-alarm-{epoch}", monitor="interactions/val_loss_before_alarm", mode="min"
        ),
        "lowest loss": ModelCheckpoint(folder, "lowest-{epoch}", monitor="val_loss", mode="min"),
    }


def kept_epoch(keeper: ModelCheckpoint, snapshots: Snapshots) -> int:
    """The epoch of a checkpoint, read back; its weights are those of that epoch."""
    checkpoint = torch.load(keeper.best_model_path, weights_only=True)
    weights = snapshots.weights[checkpoint["epoch"]]
    assert all(torch.equal(weights[name], value) for name, value in checkpoint["state_dict"].items())
    return int(checkpoint["epoch"])


def lowest(column: list[float]) -> int:
    return min(range(len(column)), key=column.__getitem__)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_the_recipe_keeps_the_boundary_and_the_best_before_the_alarm(tmp_path: Path) -> None:
    monitor = small_monitor(num_samples=16, num_players=5, on_event=None)
    snapshots, keep = Snapshots(), keepers(tmp_path)
    fit(
        monitor, model=OverfitNet, data=loaders(train=48, val=96), max_epochs=30, callbacks=(snapshots, *keep.values()),
        enable_checkpointing=True,
    )  # fmt: skip
    history, alarm = monitor.history.to_dict(), monitor.detector.overfitting_epoch
    assert alarm is not None, "this run overfits without doubt"
    assert kept_epoch(keep["boundary"], snapshots) == lowest(history["mean_order"])
    assert abs(lowest(history["mean_order"]) - monitor.boundary_epoch) <= 2, "up to the smoothing"
    assert kept_epoch(keep["before alarm"], snapshots) == lowest(history["val_loss"][:alarm]) < alarm
    assert history["val_loss_before_alarm"][:alarm] == history["val_loss"][:alarm]
    assert torch.tensor(history["val_loss_before_alarm"][alarm:]).isnan().all()


def test_a_lower_loss_after_the_alarm_does_not_replace_the_checkpoint(tmp_path: Path) -> None:
    monitor = small_monitor(detector=ScriptedDetector(boundary=1, overfitting=3), on_event=None)
    snapshots, keep = Snapshots(), keepers(tmp_path)
    fit(monitor, model=OverfitNet, max_epochs=8, callbacks=(snapshots, *keep.values()), enable_checkpointing=True)
    assert kept_epoch(keep["lowest loss"], snapshots) > 3, "the alarm came early: the loss fell on"
    assert kept_epoch(keep["before alarm"], snapshots) == lowest(monitor.history.column("val_loss")[:3])


def test_an_alarm_that_is_taken_back_opens_the_key_again() -> None:
    monitor = small_monitor(detector=ScriptedDetector(boundary=0, overfitting=1, retracted=3), on_event=None)
    fit(monitor, max_epochs=5)
    known = torch.tensor(monitor.history.column("val_loss_before_alarm")).isfinite()
    assert known.tolist() == [True, False, False, True, True]


@pytest.mark.parametrize("options", [{}, {"monitor": "val_loss"}, {"watch": "both"}, {"watch": "train"}])
def test_a_monitor_that_fails_does_not_stop_the_run_through_a_checkpoint_callback(
    options: dict[str, str], tmp_path: Path
) -> None:
    def fails(logits: Tensor, targets: Tensor) -> Tensor:
        if len(logits) > 4:
            raise ValueError("a mistake in the score")
        return logits.sum(1)

    part = "val/" if options.get("watch") == "both" else ""
    keys = (
        f"{part}mean_order", "phase", "suspected", "boundary_evidence", "boundary_epoch", "overfitting_risk",
        "val_loss_before_alarm",
    )  # fmt: skip
    monitor = small_monitor(score=fails, on_error="warn", **options)
    names = map(monitor.options.names.full, keys)
    keep = [ModelCheckpoint(tmp_path / str(i), monitor=name) for i, name in enumerate(names)]
    data = {"train_dataloaders": loaders()["train_dataloaders"]} if options.get("watch") == "train" else None
    with listening() as told:
        trainer = fit(monitor, data=data, callbacks=tuple(keep), enable_checkpointing=True)
    assert ["a mistake in the score" in text for text in told] == [True, False], "then it is switched off"
    assert trainer.current_epoch == 3
    assert all(Path(keeper.best_model_path).is_file() for keeper in keep)


def test_nor_does_a_monitor_that_is_switched_off(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(tmp_path, monitor="interactions/val_loss_before_alarm")
    with pytest.warns(InteractionsWarning, match="switched off"):
        trainer = fit(small_monitor(), callbacks=(keeper,), enable_checkpointing=True, limit_val_batches=0)
    assert trainer.current_epoch == 3
    assert Path(keeper.best_model_path).is_file()


def test_without_validation_data_there_is_no_such_loss() -> None:
    monitor = small_monitor(watch="train")
    data = {"train_dataloaders": loaders()["train_dataloaders"]}
    fit(monitor, data=data, max_epochs=2)
    assert torch.tensor(monitor.history.column("val_loss_before_alarm")).isnan().all()


class MostlyErased(Dataset):
    """Samples, and thrice as many copies in which augmentation, another one each time, leaves nothing to learn from."""

    def __init__(self, size: int) -> None:
        self.x, self.y = column_data(size, seed=1).tensors
        self.guesses = torch.randint(3, (4 * size,), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return 4 * len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index < len(self.x):
            return self.x[index], self.y[index]
        return 1e-4 * torch.randn(5), self.guesses[index]


def test_a_run_whose_augmented_training_loss_stays_above_the_validation_loss_is_stopped_too() -> None:
    monitor = small_monitor(num_samples=16, num_players=5, stop_on="overfitting", on_event=None)
    data = {
        "train_dataloaders": DataLoader(MostlyErased(64), batch_size=32, shuffle=True),
        "val_dataloaders": DataLoader(column_data(96, seed=2), batch_size=48),
    }
    with pytest.warns(InteractionsWarning, match="augmentation"):
        trainer = fit(monitor, model=OverfitNet, data=data, max_epochs=60)
    history = monitor.history.to_dict()
    assert max(history["loss_gap"]) < 0, "the premise: no epoch has a positive gap"
    assert monitor.detector.overfitting_epoch == trainer.current_epoch - 1 - STOP_AFTER < 59
    assert history["val_loss"][-1] > 1.1 * min(history["val_loss"])


def test_a_stop_at_the_alarm_leaves_the_plain_checkpoint_right(tmp_path: Path) -> None:
    monitor = small_monitor(stop_on="overfitting", detector=ScriptedDetector(overfitting=3), on_event=None)
    snapshots, keep = Snapshots(), keepers(tmp_path)
    trainer = fit(
        monitor,
        model=OverfitNet,
        max_epochs=6 + STOP_AFTER,
        callbacks=(snapshots, *keep.values()),
        enable_checkpointing=True,
    )
    assert trainer.current_epoch == 4 + STOP_AFTER
    assert kept_epoch(keep["lowest loss"], snapshots) == lowest(monitor.history.column("val_loss"))


# -- the record of the run outlives the evaluation of a checkpoint ----------------------------------------------------


@pytest.mark.parametrize("evaluate", ["validate", "test"])
def test_evaluating_a_checkpoint_does_not_turn_the_record_back(evaluate: str, tmp_path: Path) -> None:
    class Tested(ColumnNet):
        def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self(batch[0])

    first = ModelCheckpoint(tmp_path, "first", monitor="interactions/phase", mode="min")
    monitor = small_monitor(detector=ScriptedDetector(boundary=1, overfitting=2), on_event=None)
    trainer = fit(monitor, model=Tested, callbacks=(first,), enable_checkpointing=True)
    assert torch.load(first.best_model_path, weights_only=True)["epoch"] == 0
    data = loaders()["val_dataloaders"]
    getattr(trainer, evaluate)(dataloaders=data, ckpt_path=str(tmp_path / "first.ckpt"), verbose=False)
    assert monitor.history.column("epoch") == [0, 1, 2]
    assert (monitor.boundary_epoch, [event.kind for event in monitor.events]) == (1, ["boundary", "overfitting"])
    # A monitor that has recorded nothing yet does take over what the checkpoint knows.
    other = small_monitor()
    viewer = L.Trainer(accelerator="cpu", callbacks=[other], logger=False, enable_progress_bar=False)
    getattr(viewer, evaluate)(Tested(), data, ckpt_path=str(tmp_path / "first.ckpt"), verbose=False)
    assert other.history.column("epoch") == [0]


# -- alerts and resume -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [{"save_on_train_epoch_end": True}, {"save_on_train_epoch_end": False}])
@pytest.mark.parametrize("options", [{}, {"monitor": "val_loss"}], ids=["probes", "logged-loss"])
def test_every_event_is_told_once_over_a_resume(when: dict[str, bool], options: dict[str, str], tmp_path: Path) -> None:
    def monitored(told: list[PhaseEvent]) -> Any:
        return small_monitor(detector=ScriptedDetector(boundary=1, overfitting=2), on_event=told.append, **options)

    before: list[PhaseEvent] = []
    after: list[PhaseEvent] = []
    keeper = ModelCheckpoint(tmp_path, "stop", **when)
    fit(monitored(before), max_epochs=2, callbacks=(keeper,), enable_checkpointing=True)
    resumed = monitored(after)
    fit(resumed, max_epochs=4, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert [event.kind for event in before] == ["boundary"]
    assert [event.kind for event in after] == ["overfitting"]
    assert resumed.events == before + after


def test_an_event_after_the_checkpoint_is_told_by_the_resumed_run_too(tmp_path: Path) -> None:
    """The checkpoint does not know of it, and who resumes may not have seen it."""
    told: list[str] = []
    keeper = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(
        small_monitor(detector=ScriptedDetector(boundary=2), on_event=lambda e: told.append(e.kind)),
        callbacks=(keeper,), enable_checkpointing=True,
    )  # fmt: skip
    again = small_monitor(detector=ScriptedDetector(boundary=2), on_event=lambda e: told.append(e.kind))
    fit(again, ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    assert told == ["boundary", "boundary"]
    assert len(again.events) == 1


# -- stopping --------------------------------------------------------------------------------------------------------


class BrokenLogger(TensorBoardLogger):
    """Takes scalars, but fails at a histogram."""

    @property
    def experiment(self) -> Any:
        writer = super().experiment

        def fail(*args: Any, **kwargs: Any) -> None:
            raise OSError("no space left on device")

        writer.add_histogram = writer.add_histogram_raw = writer.add_text = writer.add_figure = fail
        return writer


def test_a_logger_that_fails_swallows_neither_alert_nor_stop(tmp_path: Path) -> None:
    told: list[str] = []
    monitor = small_monitor(
        stop_on="boundary", detector=ScriptedDetector(boundary=1), on_event=lambda e: told.append(e.kind),
        on_error="warn",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="no space left"):
        trainer = fit(monitor, logger=BrokenLogger(tmp_path), max_epochs=5 + STOP_AFTER)
    assert [kind for kind in told if kind != "probe_failed"] == ["boundary"]
    assert "probe_failed" in told, "people are told of the logger too"
    assert trainer.current_epoch == 2 + STOP_AFTER


def test_a_stop_that_waits_for_min_epochs_outlives_a_resume(tmp_path: Path) -> None:
    def monitored() -> Any:
        return small_monitor(stop_on="boundary", detector=ScriptedDetector(boundary=0), on_event=None)

    keeper = ModelCheckpoint(tmp_path, "stop")
    first, least = 2 + STOP_AFTER, 4 + STOP_AFTER
    fit(monitored(), max_epochs=first, min_epochs=first, callbacks=(keeper,), enable_checkpointing=True)
    resumed = fit(monitored(), max_epochs=2 + least, min_epochs=least, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert resumed.current_epoch == least


@pytest.mark.parametrize("stopped", range(1, 1 + STOP_AFTER))
def test_what_was_found_before_a_resume_stops_the_run_after_as_many_records(stopped: int, tmp_path: Path) -> None:
    def monitored() -> Any:
        return small_monitor(stop_on="boundary", detector=ScriptedDetector(boundary=0), on_event=None)

    keeper = ModelCheckpoint(tmp_path, "stop")
    whole = 5 + STOP_AFTER
    fit(monitored(), max_epochs=whole, callbacks=(keeper, Asks(stopped - 1)), enable_checkpointing=True)
    resumed = fit(monitored(), max_epochs=whole, min_epochs=2, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert resumed.current_epoch == 1 + STOP_AFTER


def test_a_stopped_run_that_is_resumed_goes_on(tmp_path: Path) -> None:
    def monitored() -> Any:
        return small_monitor(stop_on="boundary", detector=ScriptedDetector(boundary=1), on_event=None)

    keeper = ModelCheckpoint(tmp_path, "stop")
    whole = 4 + STOP_AFTER
    assert fit(monitored(), max_epochs=whole, callbacks=(keeper,), enable_checkpointing=True).current_epoch == whole - 2
    assert fit(monitored(), max_epochs=whole, ckpt_path=str(tmp_path / "stop.ckpt")).current_epoch == whole


KINDS = pytest.mark.parametrize("kind", ["boundary", "overfitting"])


@KINDS
@pytest.mark.parametrize(("retracted", "stops"), [(1, False), (STOP_AFTER, False), (1 + STOP_AFTER, True)])
def test_what_is_withdrawn_in_time_stops_nothing(kind: str, retracted: int, stops: bool) -> None:
    detector = ScriptedDetector(**{kind: 0, "retracted": retracted})
    monitor = small_monitor(stop_on=kind, detector=detector, on_event=None)
    assert fit(monitor, max_epochs=4 + STOP_AFTER).current_epoch == STOP_AFTER + (1 if stops else 4)


@KINDS
def test_a_withdrawn_event_no_longer_stops_the_run(kind: str) -> None:
    """It stood for long enough, but then the Trainer's minimum kept the run going."""
    detector = ScriptedDetector(**{kind: 0, "retracted": 1 + STOP_AFTER})
    monitor = small_monitor(stop_on=kind, detector=detector, on_event=None)
    trainer = fit(monitor, max_epochs=5 + STOP_AFTER, min_epochs=3 + STOP_AFTER)
    assert trainer.current_epoch == 5 + STOP_AFTER
    assert not trainer.should_stop


@KINDS
def test_a_withdrawn_event_does_not_stop_the_resumed_run(kind: str, tmp_path: Path) -> None:
    def monitored() -> Any:
        detector = ScriptedDetector(**{kind: 0, "retracted": 1 + STOP_AFTER})
        return small_monitor(stop_on=kind, detector=detector, on_event=None)

    keeper = ModelCheckpoint(tmp_path, "stop")
    first, whole = 2 + STOP_AFTER, 6 + STOP_AFTER
    fit(monitored(), max_epochs=first, callbacks=(keeper,), min_epochs=first, enable_checkpointing=True)
    resumed = fit(monitored(), max_epochs=whole, min_epochs=whole - 2, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert resumed.current_epoch == whole


def test_a_stop_that_outlived_a_resume_can_be_withdrawn(tmp_path: Path) -> None:
    def monitored() -> Any:
        detector = ScriptedDetector(boundary=0, retracted=3 + STOP_AFTER)
        return small_monitor(stop_on="boundary", detector=detector, on_event=None)

    keeper = ModelCheckpoint(tmp_path, "stop")
    first, whole = 2 + STOP_AFTER, 7 + STOP_AFTER
    fit(monitored(), max_epochs=first, min_epochs=first, callbacks=(keeper,), enable_checkpointing=True)
    resumed = fit(monitored(), max_epochs=whole, min_epochs=whole - 2, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert resumed.current_epoch == whole


def test_a_withdrawn_event_leaves_the_stop_of_others() -> None:
    detector, least = ScriptedDetector(boundary=1, retracted=2 + STOP_AFTER), 4 + STOP_AFTER
    monitor = small_monitor(stop_on="boundary", detector=detector, on_event=None)
    assert fit(monitor, max_epochs=2 + least, min_epochs=least, callbacks=(Asks(0),)).current_epoch == least


def test_a_withdrawn_event_leaves_the_stop_of_another_monitor() -> None:
    """It asked later, when the stop was set already, and goes on asking."""
    detector, least = ScriptedDetector(boundary=0, retracted=2 + STOP_AFTER), 4 + STOP_AFTER
    first = small_monitor(stop_on="boundary", detector=detector, on_event=None, log_key_prefix="a/")
    second = small_monitor(stop_on="boundary", detector=ScriptedDetector(boundary=1), on_event=None)
    assert fit(first, max_epochs=2 + least, min_epochs=least, callbacks=(second,)).current_epoch == least


def test_a_boundary_found_again_stops_after_all() -> None:
    detector = ScriptedDetector(boundary=0, retracted=1)
    detector.kinds[2] = "boundary"
    monitor = small_monitor(stop_on="boundary", detector=detector, on_event=None)
    assert fit(monitor, max_epochs=6 + STOP_AFTER).current_epoch == 3 + STOP_AFTER, "counted from the second time"


def test_an_event_is_acted_on_though_its_record_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monitor = small_monitor(
        stop_on="boundary", detector=ScriptedDetector(boundary=1), on_event=lambda e: told.append(e.kind),
        on_error="warn",
    )  # fmt: skip
    append = monitor.history.append
    monkeypatch.setattr(monitor.history, "append", lambda epoch, *args: 1 / 0 if epoch == 1 else append(epoch, *args))
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        trainer = fit(monitor, max_epochs=5 + STOP_AFTER)
    assert sorted(told) == ["boundary", "probe_failed"]
    assert trainer.current_epoch == 2 + STOP_AFTER


# -- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watch", ["val", "both"])
def test_the_history_lists_the_watched_samples(watch: str, tmp_path: Path) -> None:
    monitor = small_monitor(watch=watch)
    trainer = fit(monitor, max_epochs=2)
    table = monitor.history.samples
    splits = ["val", "train"] if watch == "both" else ["val"]
    assert len(table) == 6 * len(splits)
    ranks = [row["high_order_cancelled"] for row in table]
    assert ranks == sorted(ranks, reverse=True)
    for split in splits:
        probe = monitor._loop.watchlist.watched[split]
        rows = sorted((row for row in table if row["split"] == split), key=lambda row: row["index"])
        assert [row["key"] for row in rows] == probe.keys.tolist()
        assert [row["target"] for row in rows] == [row["followed"] for row in rows] == probe.targets.tolist()
        with torch.no_grad():
            answers = trainer.lightning_module.eval()(probe.inputs).argmax(1)
        assert [row["prediction"] for row in rows] == answers.tolist()
    prefix = "interactions_detail/val/" if watch == "both" else "interactions_detail/"
    assert f"{prefix}onset/q50" in trainer.callback_metrics


def test_with_other_samples_each_time_none_is_followed() -> None:
    monitor = small_monitor(resample=True)
    trainer = fit(monitor, max_epochs=2)
    assert monitor.history.samples == []
    assert not any("onset" in key for key in trainer.callback_metrics)


def test_a_new_run_forgets_the_samples_of_the_last_one() -> None:
    monitor = small_monitor()
    fit(monitor, max_epochs=2)
    fit(monitor, max_epochs=1)
    assert int(monitor.state_dict()["samples"]["val"]["orders"].isfinite().sum()) == 6, "one record of each"
