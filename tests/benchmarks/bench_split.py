"""Sparse splits of real network values: the package's solver, the published recipe and a linear program.

Run by hand: ``python tests/benchmarks/bench_split.py [--fast]``. Trains three small networks, writes
``bench_split.json`` beside this file and prints the tables. The second one is of splits with a residual of up to 5 % of
the values' standard deviation, to a gap of 2 %, beside exact ones.

The published recipe (arXiv 2407.19198, its extraction of interactions) is re-implemented from its description: the sum
of absolute interactions of ``v_and = v/2 + g`` and ``v_or = v/2 - g`` is minimised over ``g`` by SGD with momentum 0.9,
20 000 steps, the learning rate decayed by one decade on a log scale; the best of four learning rates is taken, which
is kinder to it than its own use. The linear program is solved by HiGHS.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor, nn

from lightning_interactions.functional import BOUNDED_TOLERANCE, SPLIT_TOLERANCE, sparse_and_or
from lightning_interactions.functional.and_or import and_interactions, or_interactions
from lightning_interactions.functional.moebius import moebius_transform

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from oracles import sparsest_split  # noqa: E402 - found only now

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STAGES = {"init": 0, "mid": 8, "end": 60}
VGG_STAGES = {"init": 0, "mid": 4, "end": 10}
LARGEST_FOR_RIVALS = 12
LARGEST_FOR_BOUNDED_LP = 10
NOISE_BOUND = 0.05
LEARNING_RATES = (1e-4, 1e-5, 1e-6, 1e-7)


def coalitions(n: int) -> Tensor:
    return (torch.arange(2**n)[:, None] >> torch.arange(n)).bitwise_and(1).float()


def log_odds(logits: Tensor, label: int) -> Tensor:
    logits = logits.double()
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    return logits[:, label] - others.logsumexp(1)


def lenet() -> nn.Module:
    features = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    head = [nn.Linear(576, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*features, nn.MaxPool2d(2), nn.Flatten(), *head)


def mlp() -> nn.Module:
    hidden = [nn.Linear(12, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(100, 2))


def image_mask(n: int, generator: torch.Generator) -> Tensor:
    """Ten patches of the central 6 x 6 of an 8 x 8 grid are players; the other patches always stay."""
    cells = torch.randperm(36, generator=generator)[:n]
    grid = torch.ones(2**n, 8, 8)
    grid[:, cells // 6 + 1, cells % 6 + 1] = coalitions(n)
    return grid.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]


def feature_mask(n: int, generator: torch.Generator) -> Tensor:
    """The same for the 16 x 16 features behind the second ReLU of a VGG."""
    return image_mask(n, generator)[..., ::2, ::2]


def column_mask(n: int, generator: torch.Generator) -> Tensor:
    mask = torch.ones(2**n, 12)
    mask[:, torch.randperm(12, generator=generator)[:n]] = coalitions(n)
    return mask


@torch.no_grad()
def network_values(net: nn.Module, x: Tensor, y: Tensor, n: int, make_mask: Any) -> Tensor:
    """``(B, 2**n)`` log-odds; samples on which no player matters (blank patches) are left out."""
    generator, rows = torch.Generator().manual_seed(1), []
    for sample, label in zip(x, y, strict=True):
        mask = make_mask(n, generator)
        rows.append(torch.cat([log_odds(net(part * sample), int(label)) for part in mask.split(512)]))
    values = torch.stack(rows)
    return values[(values - values[:, :1]).abs().amax(-1) > 0]


def train(net: nn.Module, x: Tensor, y: Tensor, learning_rate: float, stages: dict[str, int] = STAGES) -> Iterator[str]:
    optimizer = torch.optim.SGD(net.parameters(), learning_rate, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(max(stages.values()) + 1):
        yield from (stage for stage, at in stages.items() if at == epoch)
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()


def all_values(players: list[int], samples: int) -> Iterator[tuple[str, str, int, Tensor]]:
    """Source, stage, number of players and values."""
    with np.load(DATA / "mnist.npz") as z:
        x = torch.from_numpy(z["x_train"][: 1000 + samples, None]).float() / 255
        y = torch.from_numpy(z["y_train"][: 1000 + samples].astype("int64"))
    torch.manual_seed(0)
    net, x = lenet(), nn.functional.pad(x, (2, 2, 2, 2))
    for stage in train(net, x[:1000], y[:1000], 0.02):
        for n in players:
            yield "mnist", stage, n, network_values(net, x[1000:], y[1000:], n, image_mask)
    with np.load(DATA / "tabular_adult.npz") as z:
        x = torch.from_numpy((z["x_train"] - z["mean"]) / z["std"]).float()[: 2000 + samples]
        y = torch.from_numpy(z["y_train"].astype("int64"))[: 2000 + samples]
    torch.manual_seed(0)
    net = mlp()
    for stage in train(net, x[:2000], y[:2000], 0.05):
        for n in players:
            yield "adult", stage, n, network_values(net, x[2000:], y[2000:], n, column_mask)
    with np.load(DATA / "cifar10_jpeg.npz") as z:
        x = (torch.from_numpy(z["x_train"][: 3000 + samples]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        y = torch.from_numpy(z["y_train"][: 3000 + samples].astype("int64"))
    torch.manual_seed(0)
    vgg = vgg11(0.25)
    front, back = vgg.features[:5], nn.Sequential(*vgg.features[5:], vgg.head)
    for stage in train(vgg, x[:3000], y[:3000], 0.01, VGG_STAGES):
        with torch.no_grad():
            features = front(x[3000:])
        for n in players:
            yield "vgg", stage, n, network_values(back, features, y[3000:], n, feature_mask)


def highs(values: Tensor) -> float:
    """Optimum of one sample by HiGHS, in the sparsest formulation: ``B z1 + z2 = w`` over the non-empty coalitions."""
    u = values - values[0]
    scale = u.abs().max().item()
    w = moebius_transform((u / scale).flip(-1))[1:].numpy()
    matrix = sparse.identity(1, format="csr")
    for _ in range(values.shape[-1].bit_length() - 1):
        matrix = sparse.kron(sparse.csr_matrix([[1.0, 1.0], [0.0, -1.0]]), matrix, format="csr")
    b, one = matrix[1:, 1:], sparse.identity(len(w))
    found = linprog(np.ones(4 * len(w)), A_eq=sparse.hstack([b, -b, one, -one]).tocsr(), b_eq=w, method="highs")
    return float(found.fun * scale)


def published_recipe(values: Tensor, rates: tuple[float, ...], steps: int) -> Tensor:
    """Objectives ``(B, rates, 2)`` at the last and at the best step; every row of ``g`` is an SGD run of its own."""
    u = (values - values[:, :1])[:, None].expand(-1, len(rates), -1)
    rate, velocity = torch.tensor(rates, dtype=values.dtype)[:, None], torch.zeros_like(u)
    g, lowest = torch.zeros_like(u).requires_grad_(), torch.full(u.shape[:2], torch.inf, dtype=values.dtype)
    for step in range(steps):
        loss = and_interactions(u / 2 + g).abs().sum(-1) + or_interactions(u / 2 - g).abs().sum(-1)
        lowest = torch.minimum(lowest, loss.detach())
        (gradient,) = torch.autograd.grad(loss.sum(), g)
        velocity = 0.9 * velocity + gradient
        with torch.no_grad():
            g -= rate * 0.1 ** (step / steps) * velocity
    return torch.stack([loss.detach(), lowest], -1)


def timed(function: Any, repeats: int) -> tuple[Any, float]:
    """Result and shortest of several wall-clock times, in seconds."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - begin)
    return result, best


def measure(values: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    n = values.shape[-1].bit_length() - 1
    placed = values.to(arguments.device)
    sparse_and_or(placed[:1])  # make the tables
    _, seconds = timed(lambda: sparse_and_or(placed, tol=arguments.tol).objective.cpu(), arguments.repeats)
    ours = sparse_and_or(placed, tol=arguments.tol)
    row: dict[str, Any] = {
        "samples": len(values),
        "ours_ms_per_sample": 1e3 * seconds / len(values),
        "ours_gap_mean": ours.gap.mean().item(),
        "ours_gap_worst": ours.gap.max().item(),
        "ours_iterations_mean": ours.iterations.double().mean().item(),
        "ours_iterations_worst": ours.iterations.max().item(),
    }
    if n <= LARGEST_FOR_RIVALS and arguments.lp_samples:
        few = values[: arguments.lp_samples]
        optimum, seconds = timed(lambda: torch.tensor([highs(v) for v in few], dtype=torch.float64), 1)
        excess = ours.objective[: len(few)].cpu() / optimum - 1
        row |= {"lp_ms_per_sample": 1e3 * seconds / len(few), "ours_excess_over_lp_worst": excess.max().item()}
    if n <= LARGEST_FOR_RIVALS and arguments.sgd_samples:
        few = values[: arguments.sgd_samples]
        reference = ours.lower_bound[: len(few), None, None].cpu()
        ratio = published_recipe(few, LEARNING_RATES, arguments.sgd_steps) / reference
        # The runs above share their steps; what one sample at one rate costs is timed on a hundredth of them.
        short = max(1, arguments.sgd_steps // 100)
        _, seconds = timed(lambda: published_recipe(few[:1], LEARNING_RATES[:1], short), 2)
        row |= {
            "sgd_ms_per_sample_and_rate": 1e3 * seconds * arguments.sgd_steps / short,
            "sgd_over_bound_by_rate": dict(zip(map(str, LEARNING_RATES), ratio[..., 0].mean(0).tolist(), strict=True)),
            "sgd_over_bound_best_rate": ratio[..., 0].mean(0).min().item(),
            "sgd_over_bound_best_step_and_rate": ratio[..., 1].amin(1).mean().item(),
            "ours_over_bound": (ours.objective[: len(few), None, None].cpu() / reference).mean().item(),
        }
    return row


def measure_bounded(values: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    """The split with a residual beside the exact one, in turns: other work on the machine slows all of them."""
    n = values.shape[-1].bit_length() - 1
    scale = values.std(-1, correction=0).mean().item()
    placed = values.to(arguments.device)
    runs = {
        "bounded": {"noise_bound": NOISE_BOUND, "scale": scale, "tol": BOUNDED_TOLERANCE},
        "exact_same_gap": {"tol": BOUNDED_TOLERANCE},
        "exact": {"tol": SPLIT_TOLERANCE},
    }

    def split(**options: float) -> Tensor:
        return sparse_and_or(placed, **options).objective.cpu()

    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(arguments.repeats):
        for name, options in runs.items():
            seconds[name] = min(seconds[name], timed(partial(split, **options), 1)[1])
    found = sparse_and_or(placed, **runs["bounded"])
    row: dict[str, Any] = {f"{name}_ms_per_sample": 1e3 * time / len(values) for name, time in seconds.items()}
    row |= {
        "bounded_over_exact_same_gap": seconds["bounded"] / seconds["exact_same_gap"],
        "bounded_over_exact": seconds["bounded"] / seconds["exact"],
        "bounded_gap_mean": found.gap.mean().item(),
        "bounded_gap_worst": found.gap.max().item(),
        "bounded_iterations_mean": found.iterations.double().mean().item(),
        "bounded_iterations_worst": found.iterations.max().item(),
    }
    if n <= LARGEST_FOR_BOUNDED_LP and arguments.bounded_lp_samples:
        few = values[: arguments.bounded_lp_samples]
        optimum, spent = timed(lambda: torch.tensor([sparsest_split(v.numpy(), NOISE_BOUND, scale) for v in few]), 1)
        excess = found.objective[: len(few)].cpu() / optimum - 1
        row |= {"bounded_lp_ms_per_sample": 1e3 * spent / len(few), "bounded_excess_over_lp_worst": excess.max().item()}
    return row


EXACT_COLUMNS = {
    "values": "{source} {stage} n={n}",
    "ms": "{ours_ms_per_sample:.2f}",
    "iterations": "{ours_iterations_mean:.0f}/{ours_iterations_worst}",
    "gap mean": "{ours_gap_mean:.2%}",
    "gap worst": "{ours_gap_worst:.2%}",
    "over LP": "{ours_excess_over_lp_worst:.2%}",
    "LP ms": "{lp_ms_per_sample:.0f}",
    "SGD ms": "{sgd_ms_per_sample_and_rate:.0f}",
    "SGD / bound": "{sgd_over_bound_best_rate:.2f}",
}
BOUNDED_COLUMNS = {
    "values": "{source} {stage} n={n}",
    "ms": "{bounded_ms_per_sample:.2f}",
    "times exact 2 %": "{bounded_over_exact_same_gap:.2f}",
    "times exact 0.5 %": "{bounded_over_exact:.2f}",
    "iterations": "{bounded_iterations_mean:.0f}/{bounded_iterations_worst}",
    "gap mean": "{bounded_gap_mean:.2%}",
    "gap worst": "{bounded_gap_worst:.2%}",
    "over LP": "{bounded_excess_over_lp_worst:.2%}",
    "LP ms": "{bounded_lp_ms_per_sample:.0f}",
}


def print_table(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    print(" | ".join(f"{name:>17}" for name in columns))
    for row in rows:
        cells = []
        for template in columns.values():
            try:
                cells.append(template.format(**row))
            except KeyError:
                cells.append("-")
        print(" | ".join(f"{cell:>17}" for cell in cells))


def vgg11(width: float) -> nn.Module:
    """The examples' network; their folder has a package called `models`, as this one has a module."""
    path = HERE.parents[1] / "examples" / "models" / "images.py"
    spec = importlib.util.spec_from_file_location("example_images", path)
    assert spec is not None, "the examples are beside the tests"
    assert spec.loader is not None, "the examples are beside the tests"
    images = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(images)
    return images.VGG11(width)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--players", type=int, nargs="+", default=[8, 10, 12])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--lp-samples", type=int, default=4)
    parser.add_argument("--bounded-lp-samples", type=int, default=2)
    parser.add_argument("--sgd-samples", type=int, default=1)
    parser.add_argument("--sgd-steps", type=int, default=20_000)
    parser.add_argument("--tol", type=float, default=SPLIT_TOLERANCE)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of our solver")
    parser.add_argument("--fast", action="store_true", help="8 and 10 players, no SGD, one LP each")
    parser.add_argument("--output", type=Path, default=HERE / "bench_split.json")
    arguments = parser.parse_args(argv)
    if arguments.fast:
        arguments.players, arguments.sgd_samples, arguments.lp_samples = [8, 10], 0, 1
        arguments.bounded_lp_samples = 1
    return arguments


def main(argv: list[str] | None = None) -> dict[str, Any]:
    arguments = parse_arguments(argv)
    torch.set_num_threads(1)
    rows = []
    for source, stage, n, values in all_values(arguments.players, arguments.samples):
        row = {"source": source, "stage": stage, "n": n}
        row |= measure(values, arguments) | measure_bounded(values, arguments)
        rows.append(row)
        print(f"{source} {stage} n={n}: {row['ours_ms_per_sample']:.2f} ms a sample", flush=True)
    report: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "threads_used": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "settings": {key: value for key, value in vars(arguments).items() if key != "output"},
        "rows": rows,
    }
    if arguments.output.exists():  # what was learnt by hand is kept
        report["notes"] = json.loads(arguments.output.read_text()).get("notes", [])
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(rows, EXACT_COLUMNS)
    print_table(rows, BOUNDED_COLUMNS)
    return report


if __name__ == "__main__":
    main()
