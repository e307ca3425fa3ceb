"""Cost and budget
===============

What a measurement costs, and four ways to make it cost less.

Beside them ``max_overhead=0.25`` sees to it that a long training is not slowed down by more than a quarter.

::

    python examples/cost_and_budget.py          # a few minutes on two cores
    python examples/cost_and_budget.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from lightning_interactions import TwoPhaseMonitor
from lightning_interactions.demo import DigitsNet, load_digits_data

WAYS: dict[str, dict[str, Any]] = {
    "all 10 players, 32 samples, every epoch": {"every_n_epochs": 1},
    "8 players: a quarter of the work": {"every_n_epochs": 1, "num_players": 8},
    "8 samples: a quarter of the work": {"every_n_epochs": 1, "num_samples": 8},
    "every 4th epoch": {"every_n_epochs": 4},
    "4 times while the epochs double": {"per_octave": 4, "max_per_epoch": 1},
}


def train(monitor: TwoPhaseMonitor, epochs: int) -> float:
    """Train once; return how long it took."""
    L.seed_everything(0, verbose=False)
    data, val = load_digits_data(train_size=1000, label_noise=0.1, seed=0)
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[monitor], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    started = time.perf_counter()
    trainer.fit(DigitsNet(), DataLoader(data, batch_size=32, shuffle=True), DataLoader(val, batch_size=256))
    return time.perf_counter() - started


def main(fast: bool = False) -> None:
    shares, spent = {}, {}
    for name, options in list(WAYS.items())[:2] if fast else WAYS.items():
        small = {"num_samples": 4, "num_players": 5} if fast else {}
        monitor = TwoPhaseMonitor(**(options | small), max_overhead=None, on_event=None, verbose=False)
        total = train(monitor, epochs=2 if fast else 20)
        history = monitor.history.to_dict()
        spent[name] = sum(history["seconds"])
        shares[name] = spent[name] / total
        print(
            f"{name:<42} {len(history['epoch']):>3} measurements, {spent[name]:6.2f} s: {shares[name]:4.0%} of the run."
            f" Phase boundary: epoch {monitor.boundary_epoch}"
        )
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(spent)[::-1], list(spent.values())[::-1], color="#0072B2")
    axes.set_xlabel("seconds spent measuring, in the whole run")
    figure.suptitle("Cost is proportional to samples, and doubles with every player")
    figure.savefig("cost_and_budget.png")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
