"""What users see of a run: metrics for other callbacks, event files, CSV, or nothing but the history."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from models import fit, small_monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interactions import InteractionsWarning
from lightning_interactions.monitor import budget
from lightning_interactions.monitor.trainer import logged_losses

KEYS = {
    "mean_order", "low_order_share", "high_order_share", "cancellation", "salient_count", "loss_gap", "phase",
    "boundary_epoch", "overfitting_risk", "solver_gap", "seconds", "train_loss", "val_loss", "skipped_samples",
    "mean_players", "val_loss_before_alarm", "suspected", "boundary_evidence",
    "onset/turned", "onset/q10", "onset/q50", "onset/q90",
    "mean_order_lower", "mean_order_upper", "mean_degree", "effect_order", "roughness", "scale", "effect",
    *(f"strength/order_{k:02d}_{sign}" for k in range(1, 5) for sign in ("pos", "neg")),
    *(f"noise_floor/order_{k:02d}" for k in range(1, 5)),
    *(
        f"change/{what}_{of}{end}"
        for what in ("preserved", "emerged", "removed")
        for of in ("share", "order", "ratio")
        for end in ("", "_lower", "_upper")
    ),
}  # fmt: skip

READ = {
    "mean_order", "low_order_share", "high_order_share", "cancellation", "train_loss", "val_loss", "loss_gap", "phase",
    "boundary_epoch", "overfitting_risk", "val_loss_before_alarm",
}  # fmt: skip


def test_history_has_every_key_once_per_epoch() -> None:
    monitor = small_monitor()
    fit(monitor)
    history = monitor.history.to_dict()
    assert set(history) == KEYS | {"epoch", "step", "strength"}
    assert history["epoch"] == [0, 1, 2]
    assert {len(column) for column in history.values()} == {3}
    assert all(1 <= x <= 4 for x in history["mean_order"])
    assert all(0 <= gap <= 0.02 for gap in history["solver_gap"])
    assert torch.tensor(history["strength"]).shape == (3, 2, 4)
    assert history["strength/order_02_neg"] == [epoch[1][1] for epoch in history["strength"]]
    assert history["loss_gap"] == [v - t for v, t in zip(history["val_loss"], history["train_loss"], strict=True)]


def test_tensorboard_gets_scalars_histograms_and_figures(tmp_path: Path) -> None:
    monitor = small_monitor()
    trainer = fit(monitor, logger=TensorBoardLogger(tmp_path))
    events = EventAccumulator(trainer.log_dir, size_guidance={"histograms": 0, "scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    assert {f"interactions/{key}" for key in READ} == {x for x in tags["scalars"] if x.startswith("interactions/")}
    assert {f"interactions_detail/{key}" for key in KEYS - READ} <= set(tags["scalars"])
    logged = [event.value for event in events.Scalars("interactions/mean_order")]
    assert logged == pytest.approx(monitor.history.column("mean_order"), rel=1e-6)
    steps = [event.step for event in events.Scalars("val_loss")]
    assert [event.step for event in events.Scalars("interactions/mean_order")] == steps
    spindle = events.Histograms("interactions/order_distribution")
    assert [event.step for event in spindle] == monitor.history.column("step")
    assert sum(spindle[0].histogram_value.bucket) == pytest.approx(1)
    assert any(tag.startswith("interactions_detail/histogram/order_0") for tag in tags["histograms"])
    assert set(tags["images"]) == {f"interactions/{name}" for name in ("run", "strength_by_order", "samples")}
    assert events.Images("interactions/run")[-1].width >= 800


def test_csv_logger_gets_the_scalars(tmp_path: Path) -> None:
    monitor = small_monitor()
    with pytest.warns(InteractionsWarning, match="CSVLogger can show neither"):
        trainer = fit(monitor, logger=CSVLogger(tmp_path))
    with open(Path(trainer.log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("interactions/mean_order")]
    assert [float(row["interactions/mean_order"]) for row in rows] == pytest.approx(
        monitor.history.column("mean_order"), rel=1e-6
    )


def test_other_callbacks_can_monitor_our_metrics(tmp_path: Path) -> None:
    stopper = EarlyStopping("interactions/mean_order", patience=1, mode="max", min_delta=100.0)
    keeper = ModelCheckpoint(tmp_path, monitor="interactions/mean_order", mode="min", filename="best")
    monitor = small_monitor()
    fit(monitor, callbacks=(stopper, keeper), max_epochs=10, enable_checkpointing=True)
    assert stopper.stopped_epoch == 1, "nothing improves by 100 orders"
    assert float(keeper.best_model_score) == pytest.approx(min(monitor.history.column("mean_order")), rel=1e-6)


@pytest.mark.parametrize("options", [{"every_n_epochs": 2}, {"max_overhead": 1e-9}], ids=["every-2", "budget"])
def test_skipped_epochs_do_not_disturb_other_callbacks(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "GRACE", 0.0)
    stopper = EarlyStopping("interactions/mean_order", patience=50, check_finite=False)
    monitor = small_monitor(**options)
    trainer = fit(monitor, callbacks=(stopper,), max_epochs=5)
    assert trainer.current_epoch == 5
    assert monitor.history.column("epoch") == ([0, 2, 4] if "every_n_epochs" in options else [0, 1, 3])


@pytest.mark.parametrize("prefix", ["interactions/", "mine_"])
def test_prefix_is_used(prefix: str) -> None:
    trainer = fit(small_monitor(log_key_prefix=prefix))
    assert f"{prefix}mean_order" in trainer.callback_metrics


def test_one_group_brings_all_scalars_under_the_prefix(tmp_path: Path) -> None:
    trainer = fit(small_monitor(one_group=True), logger=TensorBoardLogger(tmp_path))
    tags = EventAccumulator(trainer.log_dir).Reload().Tags()
    assert {f"interactions/{key}" for key in KEYS} <= set(trainer.callback_metrics) & set(tags["scalars"])
    assert "interactions/histogram/order_01" in tags["histograms"]
    assert not any("detail" in tag for kind in ("scalars", "histograms", "images", "tensors") for tag in tags[kind])


def test_no_key_of_ours_passes_for_a_loss_of_the_users() -> None:
    monitor = small_monitor(log_key_prefix="loss/")
    trainer = fit(monitor)
    assert "loss_detail/salient_count" in trainer.callback_metrics
    assert set(logged_losses(trainer, {}, monitor.options.names)) == {"val_loss"}


def test_both_splits_are_told_apart() -> None:
    monitor = small_monitor(watch="both")
    trainer = fit(monitor)
    assert {"interactions/val/mean_order", "interactions/train/mean_order"} <= set(trainer.callback_metrics)
    assert {"interactions_detail/val/scale", "interactions_detail/train/scale"} <= set(trainer.callback_metrics)
    history = monitor.history.to_dict()
    assert history["strength"] == history["val/strength"] != history["train/strength"]


def test_plot_shows_the_run() -> None:
    monitor = small_monitor()
    fit(monitor)
    figure = monitor.plot()
    assert figure.axes
    assert figure.get_suptitle() or any(axes.get_title() for axes in figure.axes)


def test_losses_of_the_probes_are_the_losses_of_the_data() -> None:
    """With fewer than 512 samples a probe is the whole set: the loss is that of a plain pass in eval mode."""
    monitor = small_monitor()
    trainer = fit(monitor)
    assert monitor.history.column("val_loss")[-1] == pytest.approx(
        float(trainer.callback_metrics["val_loss"]), rel=1e-5
    )
    assert all(math.isfinite(x) for x in monitor.history.column("train_loss"))
