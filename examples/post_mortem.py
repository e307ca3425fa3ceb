"""A run that is over
==================

When did last week's run, of which only checkpoints are left, start to overfit?

The same on the command line::

    lightning-interactions analyze --model package.Model --data package.Data --checkpoints DIR

::

    python examples/post_mortem.py          # a minute on two cores
    python examples/post_mortem.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_interactions import analyze_checkpoints
from lightning_interactions.demo import DigitsNet, load_digits_data


class Digits(L.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.train, self.val = load_digits_data(train_size=200, label_noise=0.1, seed=0)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=256)


def last_weeks_run(folder: Path, epochs: int) -> None:
    """Nothing but a Trainer that keeps its checkpoints."""
    L.seed_everything(0)
    keep = ModelCheckpoint(folder, save_top_k=-1, save_weights_only=True)
    trainer = L.Trainer(max_epochs=epochs, callbacks=[keep], accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(DigitsNet(), datamodule=Digits())


def main(fast: bool = False) -> None:
    folder = Path("checkpoints")
    last_weeks_run(folder, epochs=3 if fast else 40)
    # With `output`, an analysis that is interrupted goes on where it stopped.
    found = analyze_checkpoints(
        DigitsNet, Digits, folder, output="analysis", num_samples=4 if fast else 32, num_players=5 if fast else 10
    )
    print(f"{len(found.history)} checkpoints. Phase boundary: epoch {found.boundary_epoch}")
    for event in found.events:
        print(f"  {event.message}")
    found.plot().savefig("post_mortem.png")
    found.report("post_mortem.html")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
