"""Quick start
===========

The shortest way in: an ordinary Lightning project, and one line more.

::

    python examples/quickstart.py          # half a minute on two cores
    python examples/quickstart.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import lightning as L
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import TwoPhaseMonitor


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def main(fast: bool = False) -> TwoPhaseMonitor:
    L.seed_everything(0)
    table = load_breast_cancer()
    x = torch.tensor(table.data, dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), torch.tensor(table.target)
    order = torch.randperm(len(x))
    train, val = order[:200], order[200:]
    y[train[:20]] = 1 - y[train[:20]]  # a tenth of the training labels are wrong

    monitor = TwoPhaseMonitor()  # <- the one line
    trainer = L.Trainer(max_epochs=3 if fast else 60, callbacks=[monitor], accelerator="cpu", log_every_n_steps=1)
    trainer.fit(
        Classifier(),
        DataLoader(TensorDataset(x[train], y[train]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(x[val], y[val]), batch_size=128),
    )
    print(f"Phase boundary: epoch {monitor.boundary_epoch}")
    monitor.plot().savefig("quickstart.png")
    return monitor


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
