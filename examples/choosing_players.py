"""Choosing players
================

What the order distribution of one and the same network looks like to different players.

The absolute numbers depend on who the players are and how absence looks; the course over training much less. So compare
epochs, and runs, with the same players.

::

    python examples/choosing_players.py          # a minute on two cores
    python examples/choosing_players.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import lightning as L
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from lightning_interactions import FeatureMask, ImagePatches, Players, TwoPhaseMonitor, compute_interactions
from lightning_interactions.demo import DigitsNet, load_digits_data
from lightning_interactions.functional import mean_order, order_distribution

# Who plays: the pixels of 8 x 8 digits (the default: all but the outer ring, which is nearly always empty) ...
QUARTERS = (torch.arange(8)[:, None] // 2 * 4 + torch.arange(8) // 2).view(1, 8, 8)  # ... or 2 x 2 blocks of them.
KINDS: dict[str, tuple[Players, str | None]] = {
    "pixels, black when absent": (ImagePatches(), None),
    "pixels, mean when absent": (ImagePatches(baseline="mean"), None),
    "2 x 2 blocks": (ImagePatches(grid=4, margin=0), None),
    "the same by hand": (FeatureMask(QUARTERS), None),
    "positions of layer 1 (the papers' way)": (ImagePatches(), "net.1"),
}


def main(fast: bool = False) -> None:
    L.seed_everything(0)
    n, samples = (6, 4) if fast else (10, 32)
    train, val = load_digits_data(train_size=200, label_noise=0.1, seed=0)
    model, monitor = DigitsNet(), TwoPhaseMonitor(num_samples=samples, num_players=n)
    trainer = L.Trainer(max_epochs=2 if fast else 25, callbacks=[monitor], accelerator="cpu", log_every_n_steps=5)
    trainer.fit(model, DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=256))
    print(f"Phase boundary: epoch {monitor.boundary_epoch}")

    images, labels = (torch.stack(column) for column in zip(*[val[i] for i in range(samples)], strict=True))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, (players, layer) in KINDS.items():
        found = compute_interactions(model, images, labels, players, num_players=n, layer=layer)
        strength = found.strength().mean(0)
        print(f"{name:<40} mean order {float(mean_order(strength)):.2f}, of {found.num_players} players")
        style = "--o" if name == "the same by hand" else "-o"  # lies on top of the one before
        axes.plot(range(1, n + 1), 100 * order_distribution(strength), style, label=name)
    axes.set_xlabel("order (number of players)")
    axes.set_ylabel("share of strength (%)")
    axes.set_title("One network, five kinds of players: the shares differ, low orders lead in all")
    axes.legend()
    figure.savefig("choosing_players.png")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
