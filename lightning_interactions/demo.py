"""The demo: a small CNN learns scikit-learn's digits, some of them with a wrong label, and the monitor watches.

Real images, real training, under a minute on two cores.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions.errors import ArgumentError, bad_argument
from lightning_interactions.monitor.callback import TwoPhaseMonitor

VALIDATION_SIZE = 797
"""The digits have 1797 images: these many for validation, up to 1000 to train on."""


@dataclass(frozen=True)
class DemoResult:
    """What a demo run found: the epochs of the boundary and of the lowest validation loss, and what was written."""

    boundary_epoch: int | None
    best_epoch: int
    figure: Path
    folder: Path


class DigitsNet(LightningModule):
    """Two convolutions and two linear layers, trained by SGD with momentum: deliberately without regularisation."""

    def __init__(self, learning_rate: float = 0.03) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, 10)`` of images ``(B, 1, 8, 8)``."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one batch."""
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]), prog_bar=True)
        self.log("val_accuracy", (logits.argmax(-1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum 0.9."""
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class DigitsData(LightningDataModule):
    """Scikit-learn's digits; a fraction of the training labels, ``label_noise``, is replaced by random ones."""

    def __init__(self, train_size: int = 200, label_noise: float = 0.1, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self._train, self._validation = load_digits_data(train_size, label_noise, seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training images."""
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self._train, batch_size=self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader[Any]:
        """All validation images."""
        return DataLoader(self._validation, batch_size=256)


def load_digits_data(train_size: int, label_noise: float, seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Load the digits, shuffled, 10 to 1000 of them to train on, and of these some with a random label.

    An `ArgumentError` says that an argument is out of range, or that scikit-learn is not installed.
    """
    if not 10 <= train_size <= 1000:
        raise bad_argument("train_size", "from 10 to 1000", train_size)
    if not 0 <= label_noise <= 1:
        raise bad_argument("label_noise", "a fraction from 0 to 1", label_noise)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ArgumentError(
            'The demo needs scikit-learn for its images: pip install "lightning-interactions[demo]".'
        ) from None
    digits = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits.target), generator=generator)
    images = torch.tensor(digits.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    labels = torch.tensor(digits.target)[order]
    train_labels = labels[VALIDATION_SIZE:][:train_size].clone()
    noisy = round(label_noise * train_size)
    train_labels[:noisy] = torch.randint(0, 10, (noisy,), generator=generator)
    train = TensorDataset(images[VALIDATION_SIZE:][:train_size], train_labels)
    return train, TensorDataset(images[:VALIDATION_SIZE], labels[:VALIDATION_SIZE])


def run_demo(
    *,
    epochs: int = 40,
    train_size: int = 200,
    label_noise: float = 0.1,
    seed: int = 0,
    folder: str | Path = "lightning_interactions_demo",
) -> DemoResult:
    """Train with the monitor, print what it found and write curves and figure.

    Args:
        epochs: Epochs to train.
        train_size: Training images, 10 to 1000.
        label_noise: Fraction of training images with a random label.
        seed: Seed of everything.
        folder: Where to write.
    """
    if epochs < 1:
        raise bad_argument("epochs", "at least 1", epochs)
    folder = Path(folder)
    data = DigitsData(train_size, label_noise, seed=seed)
    torch.manual_seed(seed)
    # After every epoch, however short the training is: what is printed should not depend on the machine.
    monitor = TwoPhaseMonitor(seed=seed, every_n_epochs=1, max_overhead=None)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[monitor, TQDMProgressBar()],
        logger=TensorBoardLogger(folder, name=None),
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=5,
    )
    print(
        f"Training a small CNN on {train_size} digits, {label_noise:.0%} of them with a random label, for {epochs} "
        f"epochs.\nAfter each epoch the monitor masks 32 validation images in all 1024 ways."
    )
    with warnings.catch_warnings():
        # Advice on worker processes and Lightning's own deprecations would bury the one sentence this is about.
        warnings.filterwarnings("ignore", module="lightning.pytorch")
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        trainer.fit(DigitsNet(), datamodule=data)
    return _report(monitor, folder, Path(trainer.log_dir or folder))


def _report(monitor: TwoPhaseMonitor, folder: Path, log_dir: Path) -> DemoResult:
    history = monitor.history.to_dict()
    figure, report = log_dir / "run.png", log_dir / "report.html"
    monitor.plot().savefig(figure)
    monitor.report(report)
    monitor.history.to_csv(log_dir / "history.csv")
    losses = history["val_loss"]
    best = history["epoch"][min(range(len(losses)), key=losses.__getitem__)]
    if monitor.boundary_epoch is None:
        print("\nNo boundary was found: train longer, or on fewer images.")
    print(
        f"\nRun figure:             {figure}"
        f"\nReport:                 {report}"
        f"\nCurves and histograms:  tensorboard --logdir {folder}"
    )
    return DemoResult(monitor.boundary_epoch, best, figure, folder)
