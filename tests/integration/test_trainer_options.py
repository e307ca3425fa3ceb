"""The monitor under the Trainer's options, and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from models import ColumnNet, ScriptedDetector, column_data, fit, loaders, small_monitor
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_interactions import TabularFeatures, compute_interactions


@pytest.mark.parametrize(("stop_on", "epochs"), [(None, 5), ("boundary", 2), ("overfitting", 3)])
def test_stop_on(stop_on: Any, epochs: int) -> None:
    told: list[str] = []
    monitor = small_monitor(stop_on=stop_on, detector=ScriptedDetector(), on_event=lambda e: told.append(e.kind))
    trainer = fit(monitor, max_epochs=5)
    assert trainer.current_epoch == epochs
    assert told == ["boundary", "overfitting"][: epochs - 1 if epochs < 5 else 2]
    assert monitor.boundary_epoch == 1
    assert [e.kind for e in monitor.events] == told


def test_min_epochs_is_respected() -> None:
    trainer = fit(
        small_monitor(stop_on="boundary", detector=ScriptedDetector(), on_event=None), max_epochs=6, min_epochs=4
    )
    assert trainer.current_epoch == 4


def test_several_validations_per_epoch() -> None:
    monitor = small_monitor()
    fit(monitor, val_check_interval=0.5, max_epochs=2)
    assert monitor.history.column("epoch") == [0, 0, 1, 1]
    assert monitor.history.column("step") == sorted(set(monitor.history.column("step")))


def test_validation_every_second_epoch() -> None:
    monitor = small_monitor()
    fit(monitor, check_val_every_n_epoch=2, max_epochs=4)
    assert monitor.history.column("epoch") == [1, 3]


def test_validation_by_steps() -> None:
    monitor = small_monitor()
    fit(monitor, val_check_interval=3, check_val_every_n_epoch=None, max_epochs=3)
    assert len(monitor.history) == 4


def test_sanity_check_leaves_no_record() -> None:
    monitor = small_monitor()
    fit(monitor, num_sanity_val_steps=2, max_epochs=1)
    assert monitor.history.column("epoch") == [0]


def test_fast_dev_run_is_a_smoke_test(tmp_path: Path) -> None:
    told: list[str] = []
    monitor = small_monitor(detector=ScriptedDetector(), on_event=lambda e: told.append(e.kind), stop_on="boundary")
    fit(monitor, tmp_path, fast_dev_run=3)
    assert told == []
    assert not list(tmp_path.rglob("*"))


def test_validate_alone_measures_nothing() -> None:
    monitor = small_monitor()
    trainer = L.Trainer(accelerator="cpu", callbacks=[monitor], logger=False, enable_progress_bar=False)
    trainer.validate(ColumnNet(), loaders()["val_dataloaders"], verbose=False)
    assert len(monitor.history) == 0


def test_several_validation_loaders_watch_the_first() -> None:
    class TwoLoaders(ColumnNet):
        def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    data = loaders()
    other = DataLoader(column_data(32, columns=5, seed=9), 8)
    first, both = small_monitor(), small_monitor()
    fit(first, data=loaders())
    fit(both, model=TwoLoaders, data=data | {"val_dataloaders": [data["val_dataloaders"], other]})
    assert torch.equal(first._watchlist.watched["val"].keys, both._watchlist.watched["val"].keys)


def test_two_monitors_in_one_trainer() -> None:
    first, second = small_monitor(), small_monitor(log_key_prefix="other/", num_players=3)
    trainer = fit(first, callbacks=(second,))
    assert len(first.history) == len(second.history) == 3
    assert {"interactions/mean_order", "other/mean_order"} <= set(trainer.callback_metrics)


def test_resample_draws_other_samples_each_time() -> None:
    monitor, seen = small_monitor(resample=True), []

    class Look(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            seen.append(tuple(monitor._watchlist.watched["val"].keys.tolist()))

    fit(monitor, callbacks=(Look(),))
    assert len(set(seen)) == 3


def test_fixed_samples_are_class_balanced_and_kept() -> None:
    monitor = small_monitor(num_samples=9)
    fit(monitor)
    assert monitor._watchlist.watched["val"].targets.bincount().tolist() == [3, 3, 3]


def test_should_probe_can_be_overridden() -> None:
    from lightning_interactions import TwoPhaseMonitor

    class OnlyOdd(TwoPhaseMonitor):
        def should_probe(self, epoch: int, step: int) -> bool:
            return epoch % 2 == 1

    monitor = OnlyOdd(num_samples=4, num_players=3, on_error="raise", verbose=False)
    fit(monitor, max_epochs=4)
    assert monitor.history.column("epoch") == [1, 3]


def test_logged_losses_are_used_where_asked_for() -> None:
    seen: list[tuple[float, float]] = []

    class Look(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            seen.append((float(trainer.callback_metrics["train_loss"]), float(trainer.callback_metrics["val_loss"])))

    monitor = small_monitor(monitor="val_loss", train_monitor="train_loss")
    trainer = fit(monitor, callbacks=(Look(),))
    history = monitor.history.to_dict()
    assert history["train_loss"] == pytest.approx([train for train, _ in seen])
    assert history["val_loss"] == pytest.approx([val for _, val in seen])
    assert "interactions/loss_gap" in trainer.callback_metrics


def test_inner_layer_of_an_image_model() -> None:
    class Pictures(ColumnNet):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))

    x = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(x, torch.arange(24) % 3)
    both = {"train_dataloaders": DataLoader(data, 8), "val_dataloaders": DataLoader(data, 8)}
    monitor = small_monitor(layer="net.1")
    trainer = fit(monitor, model=Pictures, data=both)
    probe = monitor._watchlist.watched["val"]
    by_hand = compute_interactions(
        trainer.lightning_module, probe.inputs, probe.targets, num_players=4, layer="net.1"
    ).strength()
    assert torch.allclose(
        by_hand.mean(0), torch.tensor(monitor.history.last["strength"]).double(), rtol=0.02, atol=1e-6
    )


def test_binary_model_with_one_logit() -> None:
    class Binary(ColumnNet):
        def __init__(self) -> None:
            super().__init__(classes=1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0]).squeeze(-1), batch[1].float())

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

    data = {
        "train_dataloaders": DataLoader(column_data(64, classes=2, seed=1), 16),
        "val_dataloaders": DataLoader(column_data(48, classes=2, seed=2), 16),
    }
    monitor = small_monitor()
    trainer = fit(monitor, model=Binary, data=data)
    assert monitor.history.column("val_loss")[-1] == pytest.approx(
        float(trainer.callback_metrics["val_loss"]), rel=1e-5
    )


def test_compiled_module_is_measured_without_recompiling() -> None:
    import torch._dynamo

    class Quiet(ColumnNet):  # self.log inside a compiled module fails on this pair of versions, monitor or not
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self(batch[0])

    def compiled_graphs(monitor: Any) -> int:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        fit(monitor, model=torch.compile(Quiet(), backend="eager"))
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    monitor = small_monitor()
    assert compiled_graphs(monitor) == compiled_graphs(None) > 0
    assert len(monitor.history) == 3


def test_chunk_size_bounds_every_forward_of_ours() -> None:
    rows: list[int] = []

    def counted(module: ColumnNet, x: Tensor) -> Tensor:
        rows.append(len(x))
        return module(x)

    for layer in (None, "net.2"):
        fit(small_monitor(layer=layer, chunk_size=4, forward_fn=counted, players=TabularFeatures("mean")))
    assert max(rows) == 4
