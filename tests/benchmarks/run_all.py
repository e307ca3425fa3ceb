"""All benchmarks in one go.

    python tests/benchmarks/run_all.py                # about ten minutes on two cores
    python tests/benchmarks/run_all.py --fast         # two minutes, to see that everything runs
    python tests/benchmarks/run_all.py --device cuda  # split, evaluation and whole epochs on a GPU

Writes ``results.json`` (full) and ``results.md`` (tables) beside this file; with ``--device cuda``
``results_cuda.json`` and ``results_cuda.md``. The split's linear programs and SGD runs are cut to one sample of each
set here; `bench_split.py` alone takes more of them, and its notes tell what was tried.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_epoch
import bench_evaluate
import bench_split
import bench_transform
import torch
from models import machine, table

HERE = Path(__file__).resolve().parent
SPLIT_COLUMNS = {
    "values": "{source}, {stage}",
    "n": "{n}",
    "ours, ms a sample": "{ours_ms_per_sample:.2f}",
    "certified gap, mean": "{ours_gap_mean:.2%}",
    "certified gap, worst": "{ours_gap_worst:.2%}",
    "above the LP": "{ours_excess_over_lp_worst:.2%}",
    "HiGHS, ms": "{lp_ms_per_sample:.0f}",
    "published recipe, ms": "{sgd_ms_per_sample_and_rate:.0f}",
    "recipe / bound": "{sgd_over_bound_best_rate:.2f}",
    "times faster": "{faster:.0f}",
}
SECTIONS = {
    "split": ("(a) Split into AND and OR interactions", SPLIT_COLUMNS),
    "evaluate": ("(b) Masked evaluation against bare forwards of the same inputs", bench_evaluate.COLUMNS),
    "transform": ("(c) Moebius transform against shapiq", bench_transform.COLUMNS),
    "epoch": ("(d) Whole epochs with the monitor: LeNet on MNIST", bench_epoch.COLUMNS),
}


def run_split(device: str, fast: bool) -> dict[str, Any]:
    if not bench_split.DATA.exists():
        return {"rows": [], "skipped": "needs shared/data"}
    with tempfile.TemporaryDirectory() as folder:
        few = ["--fast"] if fast else ["--lp-samples", "1", "--sgd-samples", "1"]
        report = bench_split.main([*few, "--device", device, "--output", str(Path(folder) / "split.json")])
    for row in report["rows"]:
        if "sgd_ms_per_sample_and_rate" in row:
            row["faster"] = row["sgd_ms_per_sample_and_rate"] / row["ours_ms_per_sample"]
    return report


def markdown(results: dict[str, Any]) -> str:
    described = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    text = [f"# Benchmark results\n\nMachine: {described}. {results['remark']}"]
    for name, (title, columns) in SECTIONS.items():
        if name in results:
            section = results[name]
            text.append(f"## {title}\n\n" + (section.get("skipped") or table(section["rows"], columns)))
    return "\n\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--remark", default="", help="what else was going on, for the record")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--folder", type=Path, default=HERE, help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, fast = arguments.device, arguments.fast
    work = {
        "evaluate": lambda: bench_evaluate.run(device, fast),
        "transform": lambda: bench_transform.run(fast),
        "epoch": lambda: bench_epoch.run(device, fast),
        "split": lambda: run_split(device, fast),
    }
    if device == "cuda":
        del work["transform"]  # shapiq runs on the CPU only
    path = arguments.folder / ("results.json" if device == "cpu" else "results_cuda.json")
    results: dict[str, Any] = {"machine": machine(device), "remark": arguments.remark, "fast": fast}
    if path.exists() and len(arguments.only) < len(SECTIONS):  # sections run anew replace the recorded ones
        results = json.loads(path.read_text()) | results
    for name in (name for name in work if name in arguments.only):
        begin = time.perf_counter()
        results[name] = work[name]()
        results[name]["benchmark_seconds"] = time.perf_counter() - begin
        torch.set_num_threads(arguments.threads)
        print(f"== {name}: {results[name]['benchmark_seconds']:.0f} s", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
