"""What strangers ran into: copies made while a step runs, losses of their own, losses that part later."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from identity import Spy, assert_identical, outcome
from models import fit, listening, mlp, small_monitor
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import InteractionMonitor, Options


def rows(size: int = 64, seed: int = 0) -> TensorDataset:
    x = torch.randn(size, 5, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def data() -> dict[str, Any]:
    return {"train_dataloaders": DataLoader(rows(), 16), "val_dataloaders": DataLoader(rows(48, 1), 16)}


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(classes=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


def theirs(trainer: L.Trainer) -> float:
    return float(trainer.callback_metrics["val_loss"])


# -- copies ----------------------------------------------------------------------------------------------------------


class Averaging(L.Callback):
    """Keeps a copy of the network, made in the middle of a step, and pickles it at the end."""

    copied: nn.Module | None = None

    def on_before_zero_grad(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        if self.copied is None:
            self.copied = copy.deepcopy(module.net)
            pickle.dumps(module.net)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        assert self.copied is not None
        before = len(module.net._forward_hooks)
        self.copied(torch.zeros(2, 5))
        pickle.dumps(self.copied)
        assert [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in self.copied.modules()] == [0] * 4
        assert before == 0


def test_a_copy_made_while_a_step_runs_is_a_copy_of_the_network_alone() -> None:
    found = []
    for monitor in (small_monitor(), None):
        spy = Spy()
        found.append(outcome(fit(monitor, model=Net, data=data(), callbacks=(spy, Averaging())), spy))
    assert_identical(*found)


class Pickling(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pickle.loads(pickle.dumps(self.net))(batch[0])
        super().validation_step(batch, batch_idx)


def test_a_network_may_be_pickled_in_a_step() -> None:
    monitor = small_monitor()
    trainer = fit(monitor, model=Pickling, data=data())
    assert monitor.history.column("val_loss")[-1] == pytest.approx(theirs(trainer), rel=1e-3)


# -- losses of one's own ---------------------------------------------------------------------------------------------


class Own(nn.Module):
    """Cross-entropy, as somebody's own module."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, outputs: Tensor, targets: Tensor) -> Any:
        each = F.cross_entropy(outputs, targets, reduction="none")
        return {"rows": each, "mean": each.mean(), "dict": {"ce": each.mean()}}[self.form]


class OwnCriterion(Net):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.criterion = Own(form)

    def loss(self, batch: Any) -> Tensor:
        found = self.criterion(self(batch[0]), batch[1])
        return found["ce"] if isinstance(found, dict) else found.mean()


@pytest.mark.parametrize("form", ["rows", "mean", "dict"])
def test_a_loss_module_of_ones_own_is_no_part_of_the_model(form: str) -> None:
    own, plain = small_monitor(), small_monitor()
    trainer = fit(own, model=lambda: OwnCriterion(form), data=data())
    fit(plain, model=Net, data=data())
    assert own.history.column("val_loss")[-1] == pytest.approx(theirs(trainer), rel=1e-3)
    assert own.history.column("mean_order") == plain.history.column("mean_order")


class Parting(Net):
    """Nothing is learned in the first epoch, so that every form of the loss is the same; then they part."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]) / 8, batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (self.current_epoch > 0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 20.0)


def test_losses_that_part_later_are_noticed() -> None:
    monitor = small_monitor()
    with listening() as told:
        trainer = fit(monitor, model=Parting, data=data(), max_epochs=12)
    at_first, later = told
    assert "changes the score of no val sample" in at_first
    assert "is not the logged 'val_loss'" in later
    assert monitor.run.judge == "val_loss"
    assert monitor.history.column("val_loss")[-1] == pytest.approx(theirs(trainer))


class Easy(TensorDataset):
    def __init__(self, size: int, seed: int) -> None:
        x = torch.randn(size, 5, generator=torch.Generator().manual_seed(seed))
        super().__init__(x, (x[:, 0] > 0).long())


class Harder(Net):
    """The loss the user logs rises because a margin grows; the network itself gets better."""

    def loss(self, batch: Any) -> Tensor:
        margin = 0.5 * self.current_epoch * F.one_hot(batch[1], 2)
        return F.cross_entropy(self(batch[0]) - margin - 3 * F.one_hot(batch[1], 2), batch[1])


def test_an_objective_that_becomes_harder_is_no_overfitting() -> None:
    monitor = small_monitor(on_event=None)
    with listening() as told:
        easy = {"train_dataloaders": DataLoader(Easy(64, 0), 16), "val_dataloaders": DataLoader(Easy(48, 1), 16)}
        fit(monitor, model=Harder, data=easy, max_epochs=10)
    assert len(told) == 1
    losses = monitor.history.column("val_loss")
    assert losses[-1] > 1.5 * min(losses)
    assert [event.kind for event in monitor.events if event.kind == "overfitting"] == []


# -- what steps compute themselves -----------------------------------------------------------------------------------


class Glue(Net):
    """The step goes through the layers itself."""

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net[2](torch.tanh(self.net[0](batch[0]))), batch[1])


def test_the_models_own_forward_is_called_where_a_step_computes_between_its_parts() -> None:
    monitor = small_monitor()
    with listening() as told:
        trainer = fit(monitor, model=Glue, data=data())
    (text,) = told
    assert "computes between `net.0` and `net.2`" in text
    assert monitor.history.column("val_loss")[-1] == pytest.approx(theirs(trainer), rel=1e-3)


def test_a_model_in_a_wrapper_of_fabric_is_seen() -> None:
    fabric, net = L.Fabric(accelerator="cpu", devices=1), mlp(classes=2)
    model = fabric.setup(net, torch.optim.SGD(net.parameters(), 0.1))[0]
    monitor = InteractionMonitor(Options(num_samples=6, num_players=4))
    x, y = rows(48).tensors
    for start in range(0, 48, 16):
        batch = 255 * x[start : start + 16], y[start : start + 16]
        with torch.no_grad(), monitor.step("val", model, batch):
            model(batch[0] / 255)
    monitor.measure(model, 0)
    assert monitor.history.last is not None
    assert monitor.history.last["val_loss"] == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-4)


# -- what data look like ---------------------------------------------------------------------------------------------


class Bytes(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float() / 255)


def test_images_of_bytes_are_made_numbers_by_the_model() -> None:
    x = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = TensorDataset(x, (x[:, 0].float().mean((1, 2)) > 127).long())
    monitor = small_monitor()
    loaders = {"train_dataloaders": DataLoader(images, 16), "val_dataloaders": DataLoader(images, 16)}
    trainer = fit(monitor, model=Bytes, data=loaders, max_epochs=2)
    assert monitor.history.column("val_loss")[-1] == pytest.approx(theirs(trainer), rel=1e-3)
    assert monitor.history.column("salient_count")[-1] > 0


class Ignoring(Net):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(ignore_index=255)

    def loss(self, batch: Any) -> Tensor:
        return self.criterion(self(batch[0]), batch[1])


def test_a_class_the_loss_ignores_is_a_missing_target() -> None:
    x, y = rows(48, 1).tensors
    holed = TensorDataset(x, torch.where(torch.arange(48) % 6 == 0, 255, y))
    monitor = small_monitor()
    loaders = data() | {"val_dataloaders": DataLoader(holed, 48)}
    trainer = fit(monitor, model=Ignoring, data=loaders, max_epochs=2)
    assert monitor.history.column("val_loss")[-1] == pytest.approx(theirs(trainer), rel=1e-3)


class Several(Net):
    """Features come before the logits, or two kinds of logits of one width."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.other, self.form = nn.Linear(8, 2), form
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Any:
        features = self.net[:2](x)
        logits = self.net[2](features)
        return {"wide": (features, logits), "twins": {"aux": self.other(features), "out": logits}}[self.form]

    def loss(self, batch: Any) -> Tensor:
        found = self(batch[0])
        if self.form == "wide":
            return F.cross_entropy(found[1], batch[1])
        return self.criterion(found["out"], batch[1]) + 0 * found["aux"].sum()


@pytest.mark.parametrize("form", ["wide", "twins"])
def test_of_several_outputs_the_logits_are_found(form: str) -> None:
    monitor = small_monitor()
    trainer = fit(monitor, model=lambda: Several(form), data=data())
    assert monitor.history.column("val_loss")[-1] == pytest.approx(theirs(trainer), rel=1e-3)
