"""Alerts and stopping
===================

What to do about an alarm: be told, keep the right checkpoints, stop.

::

    python examples/alerts_and_stopping.py          # trains on after the alarm, so that you can compare the checkpoints
    python examples/alerts_and_stopping.py --stop   # stops at the alarm, once it has stood for five records
    python examples/alerts_and_stopping.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import PhaseEvent, TwoPhaseMonitor


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def tell(event: PhaseEvent) -> None:
    """Post it to your chat, write it to your experiment's page, ... Called once per event, on rank 0."""
    print(f"\n[{event.kind}] {event.message}")


def loaders() -> tuple[DataLoader, DataLoader]:
    table = load_breast_cancer()
    x = torch.tensor(table.data, dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), torch.tensor(table.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = order[:200], order[200:]
    y[train[:20]] = 1 - y[train[:20]]  # a tenth of the training labels are wrong
    return (
        DataLoader(TensorDataset(x[train], y[train]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(x[val], y[val]), batch_size=128),
    )


def main(fast: bool = False, stop: bool = False) -> dict[str, str]:
    L.seed_everything(0)
    monitor = TwoPhaseMonitor(
        num_samples=8 if fast else 32,
        num_players=6 if fast else 10,
        on_event=["warn", tell],
        stop_on="overfitting" if stop else None,
    )
    keep = {
        # The lowest mean order so far: the turning point, once phase 2 has begun.
        "at the boundary": ModelCheckpoint(monitor="interactions/mean_order", mode="min", filename="boundary-{epoch}"),
        # The lowest validation loss so far; the key is nan while an alarm stands, and nan is never lower.
        "best before the alarm": ModelCheckpoint(
            monitor="interactions/val_loss_before_alarm", mode="min", filename="before-alarm-{epoch}"
        ),
    }
    trainer = L.Trainer(
        max_epochs=3 if fast else 60, callbacks=[monitor, *keep.values()], accelerator="cpu", log_every_n_steps=1
    )
    model, (train, val) = Classifier(), loaders()
    trainer.fit(model, train, val)

    print(f"\nPhase boundary: epoch {monitor.boundary_epoch}; alarm: epoch {monitor.detector.overfitting_epoch}")
    print(f"last: epoch {trainer.current_epoch - 1}, val_loss {trainer.callback_metrics['val_loss']:.3f}")
    kept = {what: keeper.best_model_path for what, keeper in keep.items()}  # loading one resets these callbacks
    for what, path in kept.items():
        (found,) = trainer.validate(model, val, ckpt_path=path, verbose=False)
        print(f"{what}: epoch {torch.load(path, weights_only=True)['epoch']}, val_loss {found['val_loss']:.3f}, {path}")

    print("Validation samples with the most cancelling high-order strength:")
    for row in monitor.history.samples[:3]:
        print({key: row[key] for key in ("index", "target", "prediction", "high_order_cancelled", "onset_epoch")})
    monitor.plot().savefig("alerts_and_stopping.png")
    return kept


if __name__ == "__main__":
    main(fast="--fast" in sys.argv, stop="--stop" in sys.argv)
