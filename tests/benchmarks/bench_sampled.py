"""The mean degree from random mask pairs against the exact one: does its interval cover, what does it cost.

python tests/benchmarks/bench_sampled.py [--fast] [--only coverage]   # bench_sampled.json; 15 minutes on one core

Coverage: four networks, trained a little, and the table of all ``2**n`` scores of some samples of each. From it the
exact mean degrees, and 200 draws of mask pairs:

- ``single``: each sample alone, against its own exact mean degree;
- ``pooled``: 32 samples drawn anew with replacement and masks drawn anew, against that of all samples together: what
  the interval of a record says (leaving out samples; beside it that of the delta method, which the metric has);
- ``fixed``: masks drawn anew for the same samples, against that of those: the interval has to be too wide for it;
- ``change``, at the fewest players: the spread, over draws, of the change between two states of the network, with the
  same masks at both and with other ones.

Training: one training of a VGG-11 on CIFAR-10 watched by three monitors (10 players exactly, 64 and 196 sampled), and
one of a transformer on SST-2 (10 exactly, all words of the sentences sampled).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "examples")]

import lightning as L  # noqa: E402
import torch  # noqa: E402
from data import FOLDER, cifar10, mnist, sst2  # noqa: E402
from models import MLP, VGG11, Classifier, LeNet, TextTransformer, WordTokenizer  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from lightning_interactions import ImagePatches, Players, TabularFeatures, Tokens, TwoPhaseMonitor  # noqa: E402
from lightning_interactions.functional import (  # noqa: E402
    degree_energy,
    influence_and_variance,
    mean_degree,
    pooled_mean_degree,
    random_mask_pairs,
    sampled_mean_degree,
)
from lightning_interactions.functional.interval import ratio_error, ratio_interval  # noqa: E402
from lightning_interactions.measure.keys import content_keys  # noqa: E402
from lightning_interactions.measure.samples import Samples, draw_players  # noqa: E402
from lightning_interactions.measure.values import evaluate_coalitions  # noqa: E402
from lightning_interactions.model.layer import LayerCut  # noqa: E402
from lightning_interactions.model.score import log_odds  # noqa: E402

PAIRS, WATCHED, LONGEST = 96, 32, 64
"""Mask pairs of a sample, samples of a record, words of a sentence at most."""


# -- coverage ---------------------------------------------------------------------------------------------------------


def spambase(train: int, val: int) -> tuple[TensorDataset, TensorDataset]:
    """57 columns: those of the census are too few for 14 players."""
    import numpy as np

    with np.load(FOLDER / "tabular_spambase.npz") as z:
        parts = []
        for split, count in (("train", train), ("test", val)):
            x = torch.from_numpy((z[f"x_{split}"][:count] - z["mean"]) / z["std"]).float()
            parts.append(TensorDataset(x, torch.from_numpy(z[f"y_{split}"][:count].astype("int64"))))
    return parts[0], parts[1]


def sentences(train: int, val: int) -> tuple[WordTokenizer, TensorDataset, TensorDataset]:
    x, y, x_val, y_val = sst2(FOLDER, train, val)
    tokenizer = WordTokenizer(x)
    return tokenizer, TensorDataset(tokenizer(x, LONGEST), y), TensorDataset(tokenizer(x_val, LONGEST), y_val)


Setting = tuple[str, nn.Module, TensorDataset, TensorDataset, Players, str | None, dict[str, Any]]


def networks(fast: bool) -> Iterator[Setting]:
    """Name, network, data, players, layer, how it is trained."""
    size = 200 if fast else 4000
    torch.manual_seed(0)
    images = mnist(FOLDER, size, 500)
    yield "LeNet/MNIST", LeNet(), images.train, images.val, ImagePatches(), None, {"lr": 0.02, "epochs": 3}
    table, table_val = spambase(size, 500)
    yield "MLP/spambase", MLP(57, num_classes=2), table, table_val, TabularFeatures(), None, {"lr": 0.05, "epochs": 6}
    tokenizer, text, text_val = sentences(size, 872)
    words = Tokens(tokenizer.mask_token_id, tokenizer.all_special_ids)
    transformer = TextTransformer(len(tokenizer), max_length=LONGEST, dropout=0.0)
    yield "transformer/SST-2", transformer, text, text_val, words, None, {"lr": 5e-4, "epochs": 4, "adam": True}
    colours = cifar10(FOLDER, size, 500)
    layer = "features.4"
    yield "VGG-11/CIFAR-10", VGG11(0.25), colours.train, colours.val, ImagePatches(), layer, {"lr": 0.02, "epochs": 6}


def train(net: nn.Module, data: TensorDataset, lr: float, epochs: int, adam: bool = False) -> None:
    optimizer: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    if adam:
        optimizer = torch.optim.AdamW(net.parameters(), lr)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        for x, y in DataLoader(data, 64, shuffle=True, generator=generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    net.eval()


@torch.no_grad()
def table_of_values(
    net: nn.Module, data: TensorDataset, players: Players, layer: str | None, n: int, count: int
) -> Tensor:
    """All ``2**n`` log-odds ``(B, 2**n)`` of samples with so many players, on which some player matters."""
    x, y = data[:]
    if isinstance(players, Tokens):
        rows = (~torch.isin(x, torch.tensor(players.special_token_ids))).sum(1) >= n
        x, y = x[rows], y[rows]
    x, y = x[:count], y[:count]
    cut = LayerCut(net, layer) if layer is not None else None
    masked = x if cut is None else cut.features(net, x)
    players.fit(masked)
    labels, found = draw_players(players, Samples(masked, y, content_keys(x)), n)
    assert found == n
    values = evaluate_coalitions(
        net, x, labels, y, masker=players, num_players=n, score=log_odds, chunk_size=256, cut=cut
    )
    return values[values.std(1) > 1e-6]


def drawn(table: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The values ``(len(rows), pairs, 2)`` of rows of a table at masks of their own."""
    n = table.shape[1].bit_length() - 1
    masks = torch.stack(random_mask_pairs(n, len(rows) * PAIRS, generator), 1).view(len(rows), PAIRS, 2, n)
    return table[rows[:, None, None], (masks.long() << torch.arange(n)).sum(-1)]


def exact(table: Tensor) -> Tensor:
    """Mean degree of each row."""
    return mean_degree(degree_energy(table))


def coverage(last: Tensor, draws: int) -> dict[str, Any]:
    """How often the intervals cover, over draws."""
    n, generator = last.shape[1].bit_length() - 1, torch.Generator().manual_seed(0)
    everyone = torch.arange(len(last))
    truth, whole = exact(last), float(mean_degree(degree_energy(last).mean(0)))
    hits, errors, found = [], [], []
    for _ in range(draws):
        estimate = sampled_mean_degree(drawn(last, everyone, generator), n)
        lower, upper = estimate.interval()
        hits.append((lower <= truth) & (truth <= upper))
        errors.append(estimate.standard_error)
        found.append(estimate.mean_degree)
    single, off = torch.stack(hits).double().mean(0), torch.stack(found)
    row: dict[str, Any] = {
        "n": n, "samples": len(last), "mean_degree": whole,
        "single": {
            "coverage": float(single.mean()), "worst_sample": float(single.min()),
            "median_error": float(torch.stack(errors).nanmedian()),
            "bias_in_errors": float(((off.nanmean(0) - truth) / off.std(0)).abs().median()),
        },
    }  # fmt: skip
    for name in ("pooled", "fixed"):
        inside, by_delta, sizes, centres = 0, 0, [], []
        for _ in range(5 * draws):
            rows = torch.randint(len(last), (WATCHED,), generator=generator) if name == "pooled" else everyone[:WATCHED]
            wanted = whole if name == "pooled" else float(mean_degree(degree_energy(last[rows]).mean(0)))
            values = drawn(last, rows, generator)
            parts = influence_and_variance(values, n)
            (degree, error, _), (_, lower, upper) = ratio_error(*parts), ratio_interval(*parts)  # as the monitor does
            inside += lower <= wanted <= upper
            sizes.append(error)
            centres.append(degree - wanted)
            lower, upper = map(float, pooled_mean_degree(values, n).interval())
            by_delta += lower <= wanted <= upper
        spread = torch.tensor(centres)
        row[name] = {
            "coverage": inside / (5 * draws), "coverage_by_delta_method": by_delta / (5 * draws),
            "median_error": median(sizes), "spread": float(spread.std()),
            "bias": float(spread.mean()),
        }  # fmt: skip
    return row


def change(first: Tensor, last: Tensor, draws: int) -> dict[str, float]:
    """The change of the mean degree of the same samples: its spread with common masks, and with others each time."""
    n, rows = last.shape[1].bit_length() - 1, torch.arange(min(WATCHED, len(first), len(last)))
    out: dict[str, float] = {}
    for name, shift in (("common_masks", 0), ("other_masks", 10**6)):
        changes = []
        for draw in range(draws):
            one, other = (torch.Generator().manual_seed(seed) for seed in (draw, draw + shift))
            before = pooled_mean_degree(drawn(first, rows, one), n).mean_degree
            changes.append(float(pooled_mean_degree(drawn(last, rows, other), n).mean_degree - before))
        out[name] = float(torch.tensor(changes).std())
    before, after = (float(mean_degree(degree_energy(table[rows]).mean(0))) for table in (first, last))
    return out | {"exact": after - before}


def all_coverage(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name, net, data, val, players, layer, how in networks(arguments.fast):
        sizes = dict.fromkeys(arguments.players, 8) if arguments.fast else {10: 64, 12: 32, 14: 16}
        epochs, smallest = how.pop("epochs"), min(sizes)
        train(net, data, epochs=1, **how)
        early = table_of_values(net, val, players, layer, smallest, min(WATCHED, sizes[smallest]))
        train(net, data, epochs=epochs - 1, **how)
        for n in arguments.players:
            table = table_of_values(net, val, players, layer, n, sizes[n])
            row = {"network": name} | coverage(table, arguments.draws)
            if n == smallest:
                row["change"] = change(early, table, arguments.draws)
            told = {key: round(row[key]["coverage"], 3) for key in ("single", "pooled", "fixed")}
            print(f"{name} n={n}: {told}, {row.get('change', '')}", flush=True)
            yield row


# -- trainings --------------------------------------------------------------------------------------------------------


def watched(
    net: nn.Module, data: Any, val: Any, monitors: dict[str, TwoPhaseMonitor], epochs: int, **how: Any
) -> Iterator[dict[str, Any]]:
    """One training that all monitors watch."""
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(monitors.values()),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    trainer.fit(Classifier(net, **how), DataLoader(data, 64, shuffle=True, generator=generator), DataLoader(val, 200))
    for name, monitor in monitors.items():
        history = monitor.history.to_dict()
        kept = ("epoch", "mean_degree", "mean_degree_error", "mean_order", "total_variance", "train_loss", "val_loss")
        yield {
            "monitor": name,
            "players": history["mean_players"][0],
            "seconds_a_record": median(history["seconds"]),
            "rows_a_record": monitor._loop.masked_rows(),
            "boundary_epoch": monitor.boundary_epoch,
            "events": [event.message for event in monitor.events if event.is_alert],
            **{key: [round(x, 4) for x in history[key]] for key in kept if key in history},
        }


def monitors_of(kinds: dict[str, dict[str, Any]], fast: bool) -> dict[str, TwoPhaseMonitor]:
    rhythm: dict[str, Any] = {"per_octave": 2, "max_per_epoch": 1, "max_overhead": None, "on_event": None}
    common = rhythm | {"num_samples": 4 if fast else 16, "verbose": False, "on_error": "raise"}
    return {
        name: TwoPhaseMonitor(**(common | options), log_key_prefix=f"monitor_{i}/")
        for i, (name, options) in enumerate(kinds.items())
    }


def trainings(fast: bool) -> Iterator[dict[str, Any]]:
    size, epochs = (200, 2) if fast else (2000, 12)
    L.seed_everything(0, verbose=False)
    kinds = {
        "exact, 10 players": {"num_players": 10},
        "sampled, 64 players": {"players": ImagePatches(grid=8, margin=0), "num_players": 64},
        "sampled, 196 players": {"players": ImagePatches(grid=14, margin=0), "num_players": 196},
    }
    colours = cifar10(FOLDER, size, 500)
    for row in watched(VGG11(0.25), colours.train, colours.val, monitors_of(kinds, fast), epochs, lr=0.02):
        yield {"training": "VGG-11/CIFAR-10"} | row
    tokenizer, text, val = sentences(size, 500)
    words = Tokens(tokenizer.mask_token_id, tokenizer.all_special_ids)
    kinds = {
        "exact, 10 players": {"players": words, "num_players": 10},
        "sampled, all words": {"players": words, "num_players": 512},
    }
    net = TextTransformer(len(tokenizer), max_length=LONGEST)
    for row in watched(net, text, val, monitors_of(kinds, fast), epochs, lr=5e-4, optimizer="adamw"):
        yield {"training": "transformer/SST-2"} | row


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--fast", action="store_true", help="a minute, to see that it runs")
    parser.add_argument("--only", choices=["coverage", "trainings"], help="one of the two parts")
    parser.add_argument("--output", type=Path, default=HERE / "bench_sampled.json")
    arguments = parser.parse_args(argv)
    arguments.players = [8] if arguments.fast else [10, 12, 14]
    if arguments.fast:
        arguments.draws = 20
    return arguments


def main(argv: list[str] | None = None) -> dict[str, Any]:
    arguments = parse_arguments(argv)
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    if arguments.output.exists():  # the other part, of an earlier run
        report = json.loads(arguments.output.read_text())
    report["machine"] = {
        "cpus": os.cpu_count(), "architecture": platform.machine(), "threads_used": 1, "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    report["settings"] = {"pairs": PAIRS, "draws": arguments.draws, "watched": WATCHED}
    parts = {"coverage": all_coverage(arguments), "trainings": trainings(arguments.fast)}
    for part, rows in parts.items():
        if arguments.only not in (None, part):
            continue
        report[part] = []
        for row in rows:
            report[part].append(row)
            arguments.output.write_text(json.dumps(report, indent=1) + "\n")
            if part == "trainings":
                print(f"{row['training']}, {row['monitor']}: {row['seconds_a_record']:.2f} s a record", flush=True)
    return report


if __name__ == "__main__":
    main()
