"""What the monitor costs small projects, and where: an MLP on the digits and a LeNet on 1000 images, 30 epochs each.

Run by hand: ``python tests/benchmarks/bench_small_projects.py [--repeats 3] [--name after]``. A real Trainer with
TensorBoard's logger and checkpoints, `TwoPhaseMonitor()` with its defaults; every run is a process of its own, so that
imports count. CPU seconds of the whole process, what else runs on the machine is left out; what the monitor tells is
put into CPU seconds too. Runs with and without the monitor take turns. The result is kept under its name in
``bench_small_projects.json``; "before" is another checkout:
``PYTHONPATH=/path/to/it python tests/benchmarks/bench_small_projects.py --name before``.
"""

from __future__ import annotations

import argparse
import json
import logging
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from models import lenet, load_or_noise, machine, table
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
RESULT = HERE / "bench_small_projects.json"
PROJECTS = "mlp", "lenet"
COLUMNS = {
    "project": "{project}",
    "epochs": "{epochs}",
    "CPU s without": "{without:.2f}",
    "CPU s with": "{with:.2f}",
    "with / without": "{ratio:.2f}",
    "told s": "{told:.2f}",
    "told / paid": "{told_of_paid:.2f}",
}
PARTS = {
    "measuring": ("loop.py", "take"),
    "of it: masked forwards and scores": ("measurement.py", "_values"),
    "of it: splitting": ("sparsify.py", "sparse_and_or"),
    "looking at batches": ("session.py", "observe"),
    "looking at the first batch": ("session.py", "look"),
    "drawing and writing figures": ("loggers.py", "draw"),
    "writing histograms": ("loggers.py", "histograms"),
    "keeping the JSON file": ("loggers.py", "keep"),
    "building run records": ("run.py", "record"),
    "deciding": ("run.py", "decide"),
    "keeping the record": ("run.py", "keep"),
    "logging scalars": ("session.py", "_log"),
    "states for checkpoints": ("callback.py", "state_dict"),
}
"""Functions whose cumulative time under the profiler is told, by file and name; those a version lacks are left out."""


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float() / 16, torch.from_numpy(labels)


def project(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network and its data, at most 1000 images."""
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), *digits()
    images, labels, _ = load_or_noise("mnist", 1000)
    return lenet(), images, labels


def one_run(name: str, monitored: bool, epochs: int, profile: Path | None) -> dict[str, float]:
    """Train once in this process; what it cost, and what the monitor says it cost."""
    import cProfile

    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset

    class Classifier(L.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    for logged in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logged).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # by which the monitor counts
    L.seed_everything(0, verbose=False)
    net, x, y = project(name)
    half = len(x) * 4 // 5
    callbacks: list[Any] = []
    if monitored:
        from lightning_interactions import TwoPhaseMonitor

        callbacks = [TwoPhaseMonitor()]
    profiler = cProfile.Profile()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=TensorBoardLogger(folder), callbacks=callbacks,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        work = trainer.fit if profile is None else lambda *args: profiler.runcall(trainer.fit, *args)
        work(
            Classifier(net),
            DataLoader(TensorDataset(x[:half], y[:half]), batch_size=64, shuffle=True),
            DataLoader(TensorDataset(x[half:], y[half:]), batch_size=256),
        )
        trainer.loggers[0].finalize("success")
    if profile is not None:
        profiler.dump_stats(profile)
    found = {"cpu": time.process_time(), "fit_cpu": time.process_time() - began, "told": 0.0}
    if monitored:
        run = callbacks[0].record()
        found["told"] = sum(run.column("seconds")) + getattr(run, "seconds_after", 0.0)
    return found


def child(name: str, monitored: bool, epochs: int, profile: Path | None = None) -> dict[str, float]:
    """`one_run` in a fresh process."""
    command = [sys.executable, __file__, "--child", name, "--epochs", str(epochs)]
    command += ["--monitored"] * monitored + (["--profile", str(profile)] if profile else [])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def where(name: str, epochs: int) -> dict[str, float]:
    """Seconds of the parts under the profiler, which makes Python about twice as slow."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profile"
        child(name, True, epochs, file)
        stats: dict[Any, Any] = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    found = {}
    for part, (path, function) in PARTS.items():
        times = [
            row[3]
            for (source, _, called), row in stats.items()
            if called == function and source.endswith(f"/{path}") and "/lightning_interactions/" in source
        ]
        if times:
            found[part] = round(sum(times), 3)
    return found


def compare(name: str, epochs: int, repeats: int) -> dict[str, Any]:
    """With and without the monitor, in turns; medians."""
    pairs = [(child(name, False, epochs), child(name, True, epochs)) for _ in range(repeats)]
    without, with_it = (statistics.median(pair[i]["cpu"] for pair in pairs) for i in (0, 1))
    told = statistics.median(pair[1]["told"] for pair in pairs)
    return {
        "project": name,
        "epochs": epochs,
        "without": without,
        "with": with_it,
        "ratio": statistics.median(b["cpu"] / a["cpu"] for a, b in pairs),
        "fit_ratio": statistics.median(b["fit_cpu"] / a["fit_cpu"] for a, b in pairs),
        "ratios": [b["cpu"] / a["cpu"] for a, b in pairs],
        "told": told,
        "told_of_paid": told / (with_it - without),
        "profiled_seconds": where(name, epochs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="after")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--child", choices=PROJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--monitored", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(one_run(arguments.child, arguments.monitored, arguments.epochs, arguments.profile)))
        return
    rows = [compare(name, arguments.epochs, arguments.repeats) for name in PROJECTS]
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    kept[arguments.name] = {"machine": machine(), "rows": rows}
    arguments.output.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
