"""Reading the curves
==================

What each logged key said in a run that overfits, in the order in which one should look.

::

    python examples/reading_the_curves.py          # a minute on two cores
    python examples/reading_the_curves.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import lightning as L
from torch.utils.data import DataLoader

from lightning_interactions import RunRecord, TwoPhaseMonitor
from lightning_interactions.demo import DigitsNet, load_digits_data
from lightning_interactions.report.figures import curves_figure


def main(fast: bool = False) -> None:
    L.seed_everything(0)
    train, val = load_digits_data(train_size=200, label_noise=0.1, seed=0)
    monitor = TwoPhaseMonitor(num_samples=8 if fast else 32, num_players=6 if fast else 10, every_n_epochs=1)
    trainer = L.Trainer(max_epochs=3 if fast else 40, callbacks=[monitor], accelerator="cpu", log_every_n_steps=5)
    trainer.fit(DigitsNet(), DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=256))

    history = monitor.history.to_dict()

    def path(key: str) -> str:
        values = history[key]
        low = min(range(len(values)), key=values.__getitem__)
        return f"{values[0]:.2f} at the start, {values[low]:.2f} at epoch {history['epoch'][low]}, {values[-1]:.2f} now"

    # 1. The curve to watch. It falls while simple features are learned, and rises when over-fitted ones are.
    print(f"mean_order        {path('mean_order')}")
    # 2. How sure that is: a 95 % interval over the watched samples.
    print(f"  its interval    {history['mean_order_lower'][-1]:.2f} to {history['mean_order_upper'][-1]:.2f} now")
    # 3. The same in two numbers that need no n to be read.
    print(f"low_order_share   {path('low_order_share')}")
    print(f"high_order_share  {path('high_order_share')}")
    # 4. Do the interactions fight each other? Near 1 for noise; it climbs again as a network overfits.
    print(f"cancellation      {path('cancellation')}")
    # 5. What the interactions herald, the losses settle: same samples every time, both splits in eval mode.
    print(f"loss_gap          {path('loss_gap')}")
    print(f"overfitting_risk  {path('overfitting_risk')}")
    # 6. Can the numbers be trusted? How far a split may be from the sparsest, and what rounding could add at order 6.
    print(f"solver_gap        {max(history['solver_gap']):.2%} at most")
    print(f"noise_floor       {history['noise_floor/order_06'][-1]:.1e} against a strength of "
          f"{sum(row[5] for row in history['strength'][-1]):.1e} at order 6")  # fmt: skip
    print(f"Phase boundary: epoch {monitor.boundary_epoch}")
    for event in monitor.events:
        print(f"  {event.message}")

    run = RunRecord(history, monitor.events, monitor.boundary_epoch, monitor.detector.overfitting_epoch)
    curves_figure(run).savefig("reading_the_curves.png")
    monitor.report("reading_the_curves.html")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
