"""Masked evaluation against bare forwards of the same inputs.

Run by hand: ``python tests/benchmarks/bench_evaluate.py [--fast] [--device cuda]``. "Bare" means: all masked inputs lie
ready in chunks, and nothing is done but the model's forward; the fastest chunk size counts. Ours makes the masks, runs
the forwards at the chunk size it finds itself, and scores the logits. Both alternate, so that a disturbance of the
machine meets both; ratios are given between the shortest and, more cautiously, between the median times.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import PatchTransformer, lenet, load_or_noise, machine, mlp, table, vgg11
from torch import Tensor, nn

from lightning_interactions.functional import SPLIT_TOLERANCE, sparse_and_or
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.samples import Samples, draw_players
from lightning_interactions.measure.values import evaluate_coalitions
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.quiet import float32_forward, quiet
from lightning_interactions.model.score import log_odds
from lightning_interactions.players import ImagePatches, Players, TabularFeatures

HERE = Path(__file__).resolve().parent
N = 10
COLUMNS = {
    "model": "{model}",
    "data": "{data}",
    "masked": "{masked}",
    "samples": "{samples}",
    "bare us/row": "{bare_us_per_row:.2f}",
    "bare chunk": "{bare_chunk}",
    "ours us/row": "{ours_us_per_row:.2f}",
    "ours chunk": "{ours_chunk}",
    "ours/bare (best)": "{ratio_best:.2f}",
    "ours/bare (median)": "{ratio_median:.2f}",
    "first call/bare": "{ratio_first:.2f}",
    "memory ours MiB": "{ours_mib:.0f}",
    "memory bare MiB": "{bare_mib:.0f}",
    "total s": "{ours_seconds:.2f}",
    "split s": "{split_seconds:.2f}",
}


def cases(device: str, fast: bool) -> list[tuple[str, nn.Module, str, Players, str | None, int]]:
    """Name, model, data, players, layer, samples."""
    gpu = device == "cuda"
    vgg, vgg_name = (vgg11(), "VGG-11") if gpu else (vgg11(0.25), "VGG-11, a quarter of the width")
    many, few = (50, 50) if gpu else ((2, 1) if fast else (8, 2))
    found: list[tuple[str, nn.Module, str, Players, str | None, int]] = [
        ("LeNet", lenet(), "mnist", ImagePatches(), None, many),
        ("LeNet", lenet(), "mnist", ImagePatches(), "1", many),
        ("MLP 3 x 100", mlp(), "adult", TabularFeatures(), None, 4 * many),
        ("MLP 3 x 100", mlp(), "adult", TabularFeatures(), "1", 4 * many),
        ("transformer", PatchTransformer(), "cifar10", ImagePatches(), None, few),
        (vgg_name, vgg, "cifar10", ImagePatches(), None, few),
        (vgg_name, vgg, "cifar10", ImagePatches(), "4", few),
    ]
    if gpu:
        found.append(("VGG-11, channels_last", vgg11().to(memory_format=torch.channels_last), "cifar10",
                      ImagePatches(), None, few))  # fmt: skip
    return found


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def peak_memory(work: Callable[[], Any], device: torch.device) -> float | None:
    """MiB by which the memory in use grows at most; of the process on the CPU (``None`` where that is not told)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the heap keeps for later would hide the growth
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to the present size
        before = _status("VmRSS")
        work()
        return (_status("VmHWM") - before) / 2**20
    except (OSError, KeyError):
        work()
        return None


def bare_chunks(forward: Callable[[Tensor], Any], inputs: Tensor, device: torch.device) -> list[int]:
    """Chunk sizes of the three fastest bare forwards: which of them is the best is left to the rounds."""
    best, size, misses = float("inf"), 8 if device.type == "cpu" else 64, 0
    found: dict[int, float] = {}
    while size <= min(len(inputs), 8192) and misses < 3:
        chunks = inputs.split(size)
        forward(chunks[0])
        took = min(seconds(lambda chunks=chunks: [forward(c) for c in chunks], device) for _ in range(2))
        found[size] = took
        misses = 0 if took < best else misses + (took > 1.1 * best)
        best, size = min(best, took), 2 * size
    return sorted(found, key=lambda size: found[size])[:3]


def measure(
    model: nn.Module, x: Tensor, y: Tensor, masker: Players, layer: str | None, rounds: int, device: torch.device
) -> dict[str, Any]:
    model, x, y = model.to(device).eval(), x.to(device), y.to(device)
    if any(p.ndim == 4 and not p.is_contiguous() for p in model.parameters()):
        x = x.contiguous(memory_format=torch.channels_last)
    with quiet(model):
        forward = float32_forward(model)
        cut = LayerCut(model, layer) if layer else None
        masked = x if cut is None else cut.features(forward, x)
        masker.fit(masked.cpu())
        labels = draw_players(masker, Samples(masked.cpu(), y.cpu(), content_keys(x.cpu())), N)[0].to(device)
        plain = ImagePatches() if x.ndim == 4 else TabularFeatures()
        plain.fit(x.cpu())
        ids = draw_players(plain, Samples(x.cpu(), y.cpu(), content_keys(x.cpu())), N)[0].to(device)
        coalitions = (
            (torch.arange(2**N, device=device)[:, None] >> torch.arange(N, device=device)).bitwise_and(1).bool()
        )
        inputs = torch.cat([plain.mask_batch(x[i : i + 1], ids[i : i + 1], coalitions) for i in range(len(x))])
        chunks = ChunkSize()

        def ours() -> Tensor:
            return evaluate_coalitions(
                forward, x, labels, y, masker=masker, num_players=N, score=log_odds, chunk_size=chunks, cut=cut
            )

        def bare(size: int) -> list[Any]:
            return [forward(part) for part in inputs.split(size)]

        sizes = bare_chunks(forward, inputs, device)

        first = seconds(ours, device)
        while chunks.searching and 2 * chunks.rows <= len(inputs):
            ours()
        bares: dict[int, list[float]] = {size: [] for size in sizes}
        all_ours: list[float] = []
        for _ in range(rounds):
            for size in sizes:
                bares[size].append(seconds(lambda size=size: bare(size), device))
            all_ours.append(seconds(ours, device))
        size = min(sizes, key=lambda size: min(bares[size]))
        memory = peak_memory(ours, device), peak_memory(lambda: bare(size), device)
        values = ours()
        split = seconds(lambda: sparse_and_or(values, tol=SPLIT_TOLERANCE), device)
    best = min(bares[size])
    return {
        "rows": len(inputs),
        "bare_us_per_row": 1e6 * best / len(inputs),
        "bare_chunk": size,
        "ours_us_per_row": 1e6 * min(all_ours) / len(inputs),
        "ours_chunk": chunks.rows,
        "ours_seconds": min(all_ours),
        "ratio_best": min(all_ours) / best,
        "ratio_median": statistics.median(all_ours) / min(statistics.median(times) for times in bares.values()),
        "ratio_first": first / best,
        "ours_mib": memory[0],
        "bare_mib": memory[1],
        "split_seconds": split,
    }


def run(device: str = "cpu", fast: bool = False, rounds: int = 9) -> dict[str, Any]:
    """All cases; the report."""
    torch.manual_seed(0)
    rows = []
    for name, model, data, masker, layer, samples in cases(device, fast):
        x, y, source = load_or_noise(data, samples)
        row = {"model": name, "data": source, "masked": layer or "input", "samples": samples}
        row |= measure(model, x, y, masker, layer, 3 if fast else rounds, torch.device(device))
        rows.append(row)
        print(f"evaluate: {name}, masked at {row['masked']}: {row['ratio_best']:.2f} times bare", flush=True)
    return {"machine": machine(device), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "bench_evaluate.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = run(arguments.device, arguments.fast, arguments.rounds)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report["rows"], COLUMNS))


if __name__ == "__main__":
    main()
