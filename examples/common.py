"""What the example scripts share: their command line, the training run, and what is printed and drawn at its end."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from data import FOLDER, Data
from torch.utils.data import DataLoader

from lightning_interactions import TwoPhaseMonitor


@dataclass
class Options:
    """The command line of a script, and the sizes of a fast run."""

    name: str
    fast: bool
    accelerator: str
    output: Path
    data: Path

    def size(self, full: int) -> int:
        """So many samples, or just enough to see that the script runs."""
        return min(full, 32) if self.fast else full

    @property
    def on_gpu(self) -> bool:
        """Whether the run takes place on a GPU."""
        return self.accelerator != "cpu" and torch.cuda.is_available()

    def measuring(self, **full: Any) -> dict[str, Any]:
        """Settings of the monitor, or ones that make a measurement take no time."""
        return {"every_n_epochs": 1} | ({"num_samples": 4, "num_players": 5} if self.fast else full)


def parse(description: str | None) -> Options:
    """Read the command line and seed everything, so that the network built next is the same in each run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--accelerator", default="cpu", help='"cpu" (default), "auto", "gpu", ...')
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the figure and the logs (here)")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the data sets (../shared/data)")
    parser.add_argument("--seed", type=int, default=0)
    args = vars(parser.parse_args())
    L.seed_everything(args.pop("seed"), verbose=False)
    return Options(Path(sys.argv[0]).stem, **args)


def run(
    module: L.LightningModule,
    data: Data,
    monitor: TwoPhaseMonitor,
    options: Options,
    *,
    epochs: int,
    batch_size: int,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> None:
    """Train, print what the monitor found and write its figure: an ordinary Trainer with one more callback."""
    batch_size = options.size(batch_size)
    trainer = L.Trainer(
        max_epochs=2 if options.fast else epochs,
        callbacks=[monitor],
        accelerator=options.accelerator,
        devices=1,
        default_root_dir=options.output,
        enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        log_every_n_steps=1 if options.fast else 10,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.pytorch")  # advice on workers: the data is in memory
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        trainer.fit(
            module,
            DataLoader(data.train, batch_size, shuffle=True, drop_last=True, collate_fn=collate_fn),
            DataLoader(data.val, 256, collate_fn=collate_fn),
        )
    report(monitor, data.name, type(getattr(module, "net", module)).__name__, options)


def report(monitor: TwoPhaseMonitor, data: str, model: str, options: Options) -> None:
    """Print the run in words and as a row of the table in README.md; write the figure."""
    history = monitor.history.to_dict()
    epochs, order, loss = history["epoch"], history["mean_order"], history["val_loss"]
    turn, best = order.index(min(order)), loss.index(min(loss))
    told = [event.detected_epoch for event in monitor.events if event.kind == "boundary"]
    boundary = f"{monitor.boundary_epoch} ({told[-1]})" if monitor.boundary_epoch is not None else "none"
    seconds = sum(history["seconds"]) / len(epochs)
    ratio = loss[-1] / loss[best]
    figure = options.output / f"{options.name}.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    monitor.plot().savefig(figure, dpi=80)
    print(
        f"\n{model} on {data}"
        f"\nPhase boundary (told at epoch):  {boundary}"
        f"\nLowest validation loss:          epoch {epochs[best]}: {loss[best]:.3f}; at the end {loss[-1]:.3f}"
        f"\nMean order:                      {order[0]:.2f} after epoch {epochs[0]}, {order[turn]:.2f} at its lowest "
        f"(epoch {epochs[turn]}), {order[-1]:.2f} at the end (epoch {epochs[-1]})"
        f"\nMeasuring:                       {len(epochs)} times {seconds:.1f} s"
        f"\nRun figure:                      {figure}"
        f"\n\n| {data} | {model} | {masked_at(monitor)} | {order[0]:.2f} -> {order[turn]:.2f} ({epochs[turn]}) -> "
        f"{order[-1]:.2f} | {boundary} | {epochs[best]} | {ratio:.2f} | {seconds:.1f} |"
    )


def masked_at(monitor: TwoPhaseMonitor) -> str:
    """Where players are made absent, for the table."""
    layer = monitor.options.layer
    return f"`{layer}`" if layer else "input"
