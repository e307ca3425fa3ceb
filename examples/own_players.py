"""Players of your own
===================

Frequency bands of a signal, which no built-in kind knows.

A kind of players says two things: which region every element belongs to (here: which band every frequency), and what a
sample looks like when some players are absent (here: without those bands).

::

    python examples/own_players.py          # half a minute on two cores
    python examples/own_players.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import lightning as L
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import Players, TwoPhaseMonitor
from lightning_interactions.players import with_background

LENGTH = 64


class FrequencyBands(Players):
    """Bands of the spectrum of signals ``(1, T)``.

    Args:
        num_bands: How many bands of equal width; the mean of the signal (frequency 0) always stays.
    """

    def __init__(self, num_bands: int) -> None:
        self.num_bands = num_bands

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        frequencies = sample.shape[-1] // 2 + 1
        bands = (torch.arange(frequencies) - 1) * self.num_bands // (frequencies - 1)
        return bands.clamp(min=-1)  # -1: background

    def mask(self, sample: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        present = with_background(coalitions)[:, players]  # (C, frequencies); the background is always present
        spectrum = torch.fft.rfft(sample) * present.unsqueeze(1)
        return torch.fft.irfft(spectrum, n=sample.shape[-1])


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(LENGTH, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def signals(size: int, seed: int) -> TensorDataset:
    """Two tones in noise; the class says whether they are equally loud: an interaction of two bands."""
    generator = torch.Generator().manual_seed(seed)
    loud = torch.rand(size, 2, generator=generator) < 0.5
    time = torch.arange(LENGTH) / LENGTH
    tones = torch.stack([torch.sin(2 * torch.pi * 5 * time), torch.sin(2 * torch.pi * 21 * time)])
    x = (0.3 + loud.float()) @ tones + 1.5 * torch.randn(size, LENGTH, generator=generator)
    return TensorDataset(x.unsqueeze(1), (loud[:, 0] == loud[:, 1]).long())


def main(fast: bool = False) -> None:
    L.seed_everything(0)
    monitor = TwoPhaseMonitor(FrequencyBands(8), num_players=5 if fast else 8, num_samples=8 if fast else 32)
    trainer = L.Trainer(max_epochs=2 if fast else 40, callbacks=[monitor], accelerator="cpu", log_every_n_steps=5)
    trainer.fit(
        Classifier(),
        DataLoader(signals(300, seed=1), batch_size=32, shuffle=True),
        DataLoader(signals(500, seed=2), batch_size=250),
    )
    print(f"Phase boundary: epoch {monitor.boundary_epoch}")
    monitor.plot().savefig("own_players.png")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
