"""Moebius transform: ours against shapiq's exact computation.

Run by hand: ``python tests/benchmarks/bench_transform.py [--fast]``. shapiq's game is a table that it has read before
the clock starts. It takes one game at a time, so a batch costs it a multiple of one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import machine, table

from lightning_interactions.functional import moebius_transform

HERE = Path(__file__).resolve().parent
COLUMNS = {
    "n": "{n}",
    "ours, 1 sample, ms": "{ours_ms:.3f}",
    "ours, batch of 64, ms a sample": "{ours_batch_ms:.4f}",
    "shapiq, ms a sample": "{shapiq_ms:.1f}",
    "times faster, 1 sample": "{faster:.0f}",
    "times faster, batch": "{faster_batch:.0f}",
    "largest difference": "{difference:.0e}",
}


def shortest(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def shapiq_moebius(values: np.ndarray[Any, Any], n: int) -> tuple[float, np.ndarray[Any, Any]]:
    """Seconds, and the result in our order of coalitions."""
    from shapiq import ExactComputer

    weights = 2 ** np.arange(n)
    computer = ExactComputer(lambda coalitions: values[coalitions @ weights], n_players=n, evaluate_game=True)
    begin = time.perf_counter()
    found = computer.moebius_transform
    took = time.perf_counter() - begin
    result = np.zeros(2**n)
    for players, position in found.interaction_lookup.items():
        result[sum(1 << player for player in players)] = found.values[position]
    return took, result


def measure(n: int) -> dict[str, Any]:
    values = torch.randn(64, 2**n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    ours = moebius_transform(values[0])
    one = shortest(lambda: moebius_transform(values[0]), 50)
    batch = shortest(lambda: moebius_transform(values), 20) / 64
    row = {"n": n, "ours_ms": 1e3 * one, "ours_batch_ms": 1e3 * batch}
    try:
        runs = [shapiq_moebius(values[0].numpy(), n) for _ in range(3 if n <= 10 else 1)]
    except ImportError:
        return row
    theirs = min(took for took, _ in runs)
    row |= {"shapiq_ms": 1e3 * theirs, "faster": theirs / one, "faster_batch": theirs / batch}
    row["difference"] = float(np.abs(runs[0][1] - ours.numpy()).max())
    return row


def run(fast: bool = False) -> dict[str, Any]:
    """All n; the report."""
    rows = []
    for n in (8, 10) if fast else range(8, 15):
        rows.append(measure(n))
        print(f"transform: n={n}: {rows[-1].get('faster', float('nan')):.0f} times faster than shapiq", flush=True)
    try:
        version = importlib.metadata.version("shapiq")
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {"machine": machine(), "shapiq": version, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "bench_transform.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = run(arguments.fast)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["rows"], COLUMNS))


if __name__ == "__main__":
    main()
