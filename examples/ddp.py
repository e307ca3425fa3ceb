"""Two processes
=============

The ranks of two processes share the measuring, and get the numbers one process would get.

::

    python examples/ddp.py          # half a minute on two cores
    python examples/ddp.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import lightning as L
from torch.utils.data import DataLoader

from lightning_interactions import TwoPhaseMonitor
from lightning_interactions.demo import DigitsNet, load_digits_data


def main(fast: bool = False) -> None:
    L.seed_everything(0)
    train, val = load_digits_data(train_size=200, label_noise=0.1, seed=0)
    monitor = TwoPhaseMonitor(num_samples=8, num_players=5 if fast else 8)  # nothing to say about the ranks
    trainer = L.Trainer(
        max_epochs=2 if fast else 30, callbacks=[monitor], accelerator="cpu", devices=2, strategy="ddp",
        enable_checkpointing=False, log_every_n_steps=2,
    )  # fmt: skip
    trainer.fit(DigitsNet(), DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=256))
    # History and events are the same on every rank; alerts, files and figures come from rank 0 only.
    if trainer.is_global_zero:
        print(f"{trainer.world_size} ranks. Phase boundary: epoch {monitor.boundary_epoch}")
        monitor.plot().savefig("ddp.png")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
