"""The monitor under the Trainer's options, and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from identity import assert_identical
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from models import ColumnNet, ScriptedDetector, column_data, fit, listening, loaders, small_monitor, told_during
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_interactions import TabularFeatures, compute_interactions
from lightning_interactions.monitor.actions import STOP_AFTER


@pytest.mark.parametrize(("stop_on", "found"), [(None, 99), ("boundary", 1), ("overfitting", 2)])
def test_stop_on(stop_on: Any, found: int) -> None:
    told: list[str] = []
    monitor = small_monitor(stop_on=stop_on, detector=ScriptedDetector(), on_event=lambda e: told.append(e.kind))
    whole = 6 + STOP_AFTER
    assert fit(monitor, max_epochs=whole).current_epoch == min(found + 1 + STOP_AFTER, whole)
    assert told == ["boundary", "overfitting"]
    assert monitor.boundary_epoch == 1
    assert [e.kind for e in monitor.events] == told


def test_min_epochs_is_respected() -> None:
    monitor, least = small_monitor(stop_on="boundary", detector=ScriptedDetector(), on_event=None), 4 + STOP_AFTER
    assert fit(monitor, max_epochs=2 + least, min_epochs=least).current_epoch == least


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


def test_two_monitors_in_one_trainer() -> None:
    first, second = small_monitor(), small_monitor(log_key_prefix="other/", num_players=3)
    trainer = fit(first, callbacks=(second,))
    assert len(first.history) == len(second.history) == 3
    assert {"interactions/mean_order", "other/mean_order"} <= set(trainer.callback_metrics)


def test_resample_draws_other_samples_each_time() -> None:
    monitor, seen = small_monitor(resample=True), []

    class Look(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            seen.append(tuple(monitor._loop.watchlist.watched["val"].keys.tolist()))

    fit(monitor, callbacks=(Look(),))
    assert len(set(seen)) == 3


def test_fixed_samples_are_class_balanced_and_kept() -> None:
    monitor = small_monitor(num_samples=9)
    fit(monitor)
    assert monitor._loop.watchlist.watched["val"].targets.bincount().tolist() == [3, 3, 3]


def test_should_probe_can_be_overridden() -> None:
    from lightning_interactions import TwoPhaseMonitor

    asked: list[tuple[float, int]] = []

    class OnlyOdd(TwoPhaseMonitor):
        def should_probe(self, epoch: float, step: int) -> bool:
            asked.append((epoch, step))
            return epoch % 2 == 1

    small: dict[str, Any] = {"num_samples": 4, "num_players": 3, "on_error": "raise", "verbose": False}
    monitor = OnlyOdd(**small, every_n_epochs=1)
    fit(monitor, max_epochs=4)
    assert monitor.history.column("epoch") == [1, 3]
    assert asked == [(0, 4), (1, 8), (2, 12), (3, 16)], "at validations"
    asked.clear()
    monitor = OnlyOdd(**small)
    fit(monitor, max_epochs=4)
    assert monitor.history.column("epoch") == [-1, 1, 3]
    assert asked == [(x / 4, x + 4) for x in range(-4, 13)], "before training, and four times an epoch"


def test_logged_losses_are_used_where_asked_for() -> None:
    seen: list[float] = []

    class Look(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            seen.append(float(trainer.callback_metrics["val_loss"]))

    monitor = small_monitor(monitor="val_loss")
    trainer = fit(monitor, callbacks=(Look(),))
    history = monitor.history.to_dict()
    assert history["val_loss"] == pytest.approx(seen)
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
    probe = monitor._loop.watchlist.watched["val"]
    by_hand = compute_interactions(
        trainer.lightning_module, probe.inputs, probe.targets, num_players=4, layer="net.1", noise_bound=0.05
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


def test_chunk_size_bounds_every_forward_of_ours() -> None:
    rows: list[int] = []

    def counted(module: ColumnNet, x: Tensor) -> Tensor:
        rows.append(len(x))
        return module(x)

    for layer in (None, "net.2"):
        fit(small_monitor(layer=layer, chunk_size=4, forward_fn=counted, players=TabularFeatures("mean")))
    assert max(rows) == 4


@pytest.mark.parametrize("how", ["lr_find", "scale_batch_size", "callback"])
def test_tuning_finds_the_same_with_the_monitor(how: str, tmp_path: Path) -> None:
    class Tunable(ColumnNet):
        def __init__(self) -> None:
            super().__init__()
            self.lr, self.batch_size = 0.01, 2

        def train_dataloader(self) -> Any:
            return DataLoader(column_data(64, seed=1), self.batch_size)

        def val_dataloader(self) -> Any:
            return loaders()["val_dataloaders"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    found = []
    for monitor in (None, small_monitor()):
        L.seed_everything(0, verbose=False)
        model, callbacks = Tunable(), [monitor] if monitor is not None else []
        finder = [LearningRateFinder(num_training_steps=8, update_attr=True)] if how == "callback" else []
        trainer = L.Trainer(
            max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, callbacks=[*callbacks, *finder],
        )  # fmt: skip
        if how == "lr_find":
            Tuner(trainer).lr_find(model, num_training=8, update_attr=True)
        elif how == "scale_batch_size":
            Tuner(trainer).scale_batch_size(model, max_trials=2, steps_per_trial=1)
        if monitor is not None:
            assert len(monitor.history) == 0, "trial steps are not measured"
        trainer.fit(model)
        found.append({"lr": model.lr, "batch_size": model.batch_size, "weights": dict(model.state_dict())})
    assert_identical(*found)
    assert monitor.history.column("epoch") == [0, 1]


def test_two_fits_of_one_trainer_and_a_validation_between() -> None:
    monitor = small_monitor()
    trainer = fit(monitor, max_epochs=2)
    trainer.validate(trainer.lightning_module, loaders()["val_dataloaders"], verbose=False)
    assert monitor.history.column("epoch") == [0, 1]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, **loaders())
    assert monitor.history.column("epoch") == [0, 1, 2]


# -- augmented training samples ----------------------------------------------------------------------------------------


class Augmented(Dataset[Any]):
    """Random flips and noise, anew each time."""

    def __init__(self, share: float = 1.0) -> None:
        self.data, self.share = column_data(64, seed=1), share

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        if index >= self.share * len(self.data):
            return x, y
        return (x.flip(0) if float(torch.rand(())) < 0.5 else x) + 0.01 * torch.randn(x.shape), y

    def __len__(self) -> int:
        return len(self.data)


def about_augmentation(monitor: Any, data: Any = None, **options: Any) -> list[str]:
    train = {} if data is None else {"train_dataloaders": DataLoader(data, 16, shuffle=True)}
    told = told_during(lambda: fit(monitor, data=loaders() | train, **({"max_epochs": 4} | options)))
    return [text for text in told if "augmentation" in text]


def test_augmented_training_samples_are_told_once() -> None:
    (text,) = about_augmentation(small_monitor(), Augmented())
    assert "0 of 64" in text
    assert "of the loss gap only the growth counts" in text


@pytest.mark.parametrize("options", [{"watch": "train"}, {"watch": "both", "resample": True}], ids=["train", "both"])
def test_augmented_training_samples_are_told_whatever_is_watched(options: dict[str, Any]) -> None:
    assert len(about_augmentation(small_monitor(**options), Augmented())) == 1


def test_plain_training_samples_are_not_told_of() -> None:
    assert about_augmentation(small_monitor()) == []
    assert about_augmentation(small_monitor(watch="both", resample=True)) == []
    assert about_augmentation(small_monitor(), Augmented(share=0.25)) == [], "most of them come again"


def test_an_epoch_that_is_cut_short_tells_nothing() -> None:
    assert about_augmentation(small_monitor(), max_steps=5, max_epochs=-1) == [], "4 batches an epoch"


def test_only_one_epoch_is_looked_at(monkeypatch: Any) -> None:
    from lightning_interactions.model.reader import Reader

    read: list[int] = []
    original = Reader.read

    def noted(reader: Reader, split: str, seen: Any) -> Any:
        if split == "train":
            read.append(trainer_epoch[0])
        return original(reader, split, seen)

    trainer_epoch = [0]

    class Epoch(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            trainer_epoch[0] = trainer.current_epoch

    monkeypatch.setattr(Reader, "read", noted)
    assert len(about_augmentation(small_monitor(), Augmented(), callbacks=(Epoch(),), max_epochs=5)) == 1
    assert set(read) == {0, 1}


def test_looking_for_augmentation_changes_nothing() -> None:
    weights = []
    for monitor in (small_monitor(), None):
        data = loaders() | {"train_dataloaders": DataLoader(Augmented(), 16, shuffle=True)}
        with listening() as told:
            weights.append(dict(fit(monitor, data=data).lightning_module.state_dict()))
        assert ["augmentation" in text for text in told] == [True] * (monitor is not None)
    assert_identical(*weights)


def test_looking_for_augmentation_is_contained(monkeypatch: Any) -> None:
    from lightning_interactions.measure import watchlist

    monitor = small_monitor(on_error="warn")

    def broken(*args: Any) -> Any:
        raise RuntimeError("no hash today")

    monkeypatch.setattr(watchlist, "content_keys", broken)
    told = told_during(lambda: fit(monitor))
    assert any("no hash today" in text for text in told)
    assert not any("augmentation" in text for text in told), "what was not looked at says nothing"
    assert monitor.history.column("epoch") == [0, 1, 2]
