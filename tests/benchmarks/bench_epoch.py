"""A whole epoch of training with `TwoPhaseMonitor`, and how its share grows with samples and players.

Run by hand: ``python tests/benchmarks/bench_epoch.py [--fast] [--device cuda]``. LeNet on MNIST with a real Trainer,
TensorBoard logger and figures included. An epoch lasts from the start of one training epoch to the start of the next,
validation and callbacks included.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from models import lenet, load, machine, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import TwoPhaseMonitor

HERE = Path(__file__).resolve().parent
COLUMNS = {
    "run": "{run}",
    "training images": "{images}",
    "watched samples": "{samples}",
    "n": "{n}",
    "epoch s": "{epoch_seconds:.2f}",
    "measuring s": "{measuring_seconds:.2f}",
    "first measurement s": "{first_seconds:.2f}",
    "share of the epoch": "{share:.0%}",
    "epoch with / without": "{slowdown:.2f}",
}


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = lenet()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


class Stopwatch(L.Callback):
    """Notes when each training epoch starts."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, *args: Any) -> None:
        self.starts.append(time.perf_counter())

    def on_train_end(self, *args: Any) -> None:
        self.starts.append(time.perf_counter())


def fit(monitor: TwoPhaseMonitor | None, images: int, epochs: int, device: str) -> list[float]:
    """Seconds of every epoch."""
    train, val = load("mnist", images), load("mnist", 1000, "test")
    assert train is not None
    assert val is not None
    L.seed_everything(0, verbose=False)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs, accelerator="gpu" if device == "cuda" else "cpu", devices=1, default_root_dir=folder,
            callbacks=[watch] if monitor is None else [watch, monitor],
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(
            Classifier(),
            DataLoader(TensorDataset(*train), batch_size=64, shuffle=True),
            DataLoader(TensorDataset(*val), batch_size=256),
        )
    return [b - a for a, b in zip(watch.starts, watch.starts[1:], strict=False)]


def monitored(images: int, samples: int, n: int, epochs: int, device: str) -> dict[str, Any]:
    monitor = TwoPhaseMonitor(num_samples=samples, num_players=n, on_event=None, verbose=False, on_error="raise")
    times = fit(monitor, images, epochs, device)
    seconds = monitor.history.to_dict()["seconds"]
    return {
        "images": images,
        "samples": samples,
        "n": n,
        "epoch_seconds": statistics.median(times[1:]),
        "measuring_seconds": statistics.median(seconds[1:]),
        "first_seconds": seconds[0],
        "share": statistics.median(seconds[1:]) / statistics.median(times[1:]),
    }


def run(device: str = "cpu", fast: bool = False) -> dict[str, Any]:
    """With and without, and growth; the report."""
    if load("mnist", 1) is None:
        return {"machine": machine(device), "rows": [], "skipped": "needs shared/data/mnist.npz"}
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    images, epochs = (1000, 3) if fast else (5000, 6)
    plain = statistics.median(fit(None, images, epochs, device)[1:])
    rows: list[dict[str, Any]] = [{"run": "without", "images": images, "epoch_seconds": plain}]
    row = {"run": "with"} | monitored(images, 32, 10, epochs, device)
    rows.append(row | {"slowdown": row["epoch_seconds"] / plain})
    print(f"epoch: {plain:.2f} s without, {row['epoch_seconds']:.2f} s with the monitor", flush=True)
    growth = [(8, 10), (32, 8)] if fast else [(8, 10), (16, 10), (32, 10), (64, 10), (32, 8), (32, 12)]
    for samples, n in growth:
        rows.append({"run": "growth"} | monitored(640, samples, n, 3 if n > 10 else 4, device))
        print(f"epoch: {samples} samples, n={n}: {rows[-1]['measuring_seconds']:.2f} s", flush=True)
    return {"machine": machine(device), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "bench_epoch.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = run(arguments.device, arguments.fast)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["rows"], COLUMNS))


if __name__ == "__main__":
    main()
