"""Without Lightning
=================

The same monitor in a plain PyTorch loop.

::

    python examples/without_lightning.py          # a minute on two cores
    python examples/without_lightning.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_interactions import InteractionMonitor, Options
from lightning_interactions.demo import load_digits_data


def main(fast: bool = False) -> None:
    torch.manual_seed(0)
    epochs, samples, n = (3, 8, 5) if fast else (60, 32, 8)
    train, val = load_digits_data(train_size=200, label_noise=0.1, seed=0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    monitor = InteractionMonitor(Options(num_samples=samples, num_players=n))
    for epoch in range(epochs):
        for batch in DataLoader(train, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()
            monitor.observe("train", batch)
        for batch in DataLoader(val, batch_size=256):
            monitor.observe("val", batch)
        for event in monitor.measure(model, epoch, last_epoch=epochs - 1):
            if event.is_alert:  # not what is only suspected
                print(event.message)

    print(f"Phase boundary: epoch {monitor.boundary_epoch}")
    monitor.history.to_csv("without_lightning.csv")
    monitor.plot().savefig("without_lightning.png")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
