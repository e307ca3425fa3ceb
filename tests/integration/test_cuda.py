"""What only a real accelerator shows; skipped where there is none."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from identity import Spy, assert_identical, outcome
from models import fit, listening, loaders, small_monitor
from stateful import STATEFUL
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

pytestmark = pytest.mark.cuda

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_is_bit_identical(precision: str) -> None:
    found = []
    for monitor in (small_monitor(watch="both"), None):
        spy = Spy()
        with listening():
            trainer = fit(monitor, callbacks=(spy,), accelerator="cuda", precision=precision, deterministic=True)
        found.append(outcome(trainer, spy) | {"cuda": torch.cuda.get_rng_state()})
    assert_identical(*found)


ON_THE_CPU = {"own-generators", "assigned-mean", "averaged-copy", "cache", "metrics", "running-mean"}
"""Models that keep something on the CPU, so that they cannot train elsewhere."""


@pytest.mark.parametrize("name", sorted(set(STATEFUL) - ON_THE_CPU))
def test_training_of_a_stateful_model_is_bit_identical(name: str) -> None:
    options: dict[str, Any] = {"num_sanity_val_steps": 0} if name == "lazy-layers" else {}
    found, monitor = [], small_monitor()
    for each in (monitor, None):
        spy = Spy()
        with listening():
            trainer = fit(
                each, model=STATEFUL[name], callbacks=(spy,), accelerator="cuda", deterministic=True, **options
            )
        found.append(outcome(trainer, spy) | {"memory": trainer.lightning_module.memory()})
    assert len(monitor.history) == 3
    assert_identical(*found)


class Pair(L.LightningModule):
    """Categories beside columns, normalised in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.net = nn.Embedding(4, 3), nn.Linear(5 + 3, 2)

    def forward(self, columns: Tensor, category: Tensor) -> Tensor:
        return self.net(torch.cat([columns, self.table(category)], 1))

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self((batch["columns"] - 1) / 2, batch["category"]), batch["label"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch["label"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Rows(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(index)
        x = torch.randn(5, generator=g)
        return {"columns": x, "category": torch.tensor(index % 4), "label": (x[0] * x[1] > 0).long()}


def test_what_is_carried_along_is_on_the_device() -> None:
    monitor = small_monitor()
    data = {"train_dataloaders": DataLoader(Rows(), 16), "val_dataloaders": DataLoader(Rows(), 16)}
    trainer = fit(monitor, model=Pair, data=data, accelerator="cuda")
    assert monitor.history.column("val_loss")[-1] == pytest.approx(
        float(trainer.callback_metrics["val_loss"]), rel=1e-4
    )


class Pictures(Dataset[Any]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        g = torch.Generator().manual_seed(index)
        return torch.randn(3, *torch.randint(12, 20, (2,), generator=g).tolist(), generator=g), index % 2


class Pooling(Pair):
    def __init__(self) -> None:
        L.LightningModule.__init__(self)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=1)


def test_images_of_different_sizes() -> None:
    monitor = small_monitor()
    data = {"train_dataloaders": DataLoader(Pictures(), 1), "val_dataloaders": DataLoader(Pictures(), 1)}
    trainer = fit(monitor, model=Pooling, data=data, accelerator="cuda", max_epochs=2)
    assert monitor.history.column("val_loss")[-1] == pytest.approx(
        float(trainer.callback_metrics["val_loss"]), rel=1e-3
    )


def test_the_device_changes_no_number() -> None:
    histories = []
    for accelerator in ("cpu", "cuda"):
        monitor = small_monitor()
        data = loaders()
        data["train_dataloaders"] = DataLoader(TensorDataset(*data["train_dataloaders"].dataset.tensors), 16)
        fit(monitor, accelerator=accelerator, data=data, max_epochs=1, limit_train_batches=1)
        histories.append(monitor.history.to_dict())
    assert histories[0]["mean_order"] == pytest.approx(histories[1]["mean_order"], rel=0.05)
