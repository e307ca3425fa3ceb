"""What pictures of samples cost: the figure for the loggers, the cards of the report, next to a measurement.

    python tests/benchmarks/bench_pictures.py       # a minute; writes bench_pictures.json

A run draws at records 1, 2, 4, 8, ... and at the end; what is asked for is the share of all measuring that drawing
the samples takes, in a run of 100 epochs (about 90 records, 8 drawings), and the size of a report.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "examples"), str(HERE.parents[1])]

import torch  # noqa: E402
from models import VGG11, LeNet  # noqa: E402

from lightning_interactions import Options  # noqa: E402
from lightning_interactions.metrics.drawing import pixels, png  # noqa: E402
from lightning_interactions.monitor.loop import InteractionMonitor  # noqa: E402
from lightning_interactions.pictures.exhibit import exhibit_of  # noqa: E402
from lightning_interactions.pictures.figure import samples_figure  # noqa: E402
from lightning_interactions.report.figures import run_figure  # noqa: E402

RECORDS, DRAWINGS = 90, 8
CASES: dict[str, Callable[[], tuple[torch.nn.Module, torch.Tensor]]] = {
    "LeNet, 28 x 28": lambda: (LeNet(), torch.rand(64, 1, 28, 28)),
    "VGG-11, quarter width, 32 x 32": lambda: (VGG11(0.25), torch.rand(64, 3, 32, 32)),
}


def seconds(what: Callable[[], Any], times: int) -> float:
    """Median over some calls, after one that fills the caches."""
    what()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        what()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def measured(model: torch.nn.Module, images: torch.Tensor) -> tuple[InteractionMonitor, float]:
    monitor = InteractionMonitor(Options(), tell=lambda text: None)
    for split in ("train", "val"):
        monitor.observe(split, (images, torch.arange(len(images)) % 10))
    epochs = iter(range(100))
    spent = seconds(lambda: monitor.measure(model, next(epochs)), 5)
    return monitor, spent


def case(name: str) -> dict[str, float]:
    monitor, measuring = measured(*CASES[name]())
    first = monitor.record()

    def samples() -> bytes:
        return png(pixels(samples_figure([exhibit_of(row) for row in first.samples[:3]])))

    drawing, run = seconds(samples, 10), seconds(lambda: png(pixels(run_figure(first))), 10)
    return {
        "measuring_s": measuring,
        "samples_figure_s": drawing,
        "run_figure_s": run,
        "share_of_measuring": DRAWINGS * drawing / (RECORDS * measuring),
    }


def report_size() -> dict[str, float]:
    """32 images of 224 x 224, in noise, which compresses worst."""
    net = torch.nn.Sequential(torch.nn.AvgPool2d(28), torch.nn.Flatten(), torch.nn.Linear(192, 10))
    monitor, _ = measured(net, torch.rand(64, 3, 224, 224))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        spent = seconds(lambda: monitor.report(path), 3)
        return {"megabytes": path.stat().st_size / 1e6, "seconds": spent, "samples": len(monitor.record().samples)}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = {**{name: case(name) for name in CASES}, "report of 32 images of 224 x 224": report_size()}
    (HERE / "bench_pictures.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, numbers in found.items():
        print(name, {key: round(value, 4) for key, value in numbers.items()})


if __name__ == "__main__":
    main()
