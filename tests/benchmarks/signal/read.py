"""Read recorded values in every way there is, and write which reading shows which phase: signal.md, .json and .png.

    python tests/benchmarks/signal/read.py --recordings OUT [OUT ...] [--only REGEX]

Run by hand, on what `record.py` wrote. The first time takes about 10 s for each run and site on a free core; splits are
kept in `--cache`. The words of signal.md under "What it shows" are written by hand, and kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from readings import BOUNDED, strengths_of  # noqa: E402
from recordings import Arrays, read  # noqa: E402
from turns import Array, Turn, ratios, turn_of  # noqa: E402

SURE = 3.0  # a change with a larger z counts
OVERFIT, QUIET = 1.2, 1.1  # last validation loss over the lowest: at least, at most
SHOWN = {
    "exact": "exact, .03 of the difference",
    "bounded": "bounded, .05 and .07 of s",
    "papers": "papers, .02 and .03 of the difference",
    "growing": "exact, threshold grows",
    "mean_degree": "mean degree",
    "effect_order": "effect order",
}
CONSTANTS = {"tighter": ".03 / .05", "bounded": ".05 / .07", "wider": ".10 / .10"}
UNSEEN = (
    *("vgg_dropout", "vgg_full", "alexnet_full", "mobilenet", "convnext"),
    *("mnist_mlp", "spambase", "gru", "wordconv", "minilm"),
)
WORDS, DETAIL = "## What it shows", "## In detail"


@dataclass
class Reading:
    """All that is read from one run at one site."""

    run: str
    kind: str
    site: str
    val_epoch: float  # of the lowest validation loss
    val_ratio: float  # the last over the lowest
    epoch: Array
    turns: dict[str, Turn]
    curves: dict[str, Array]
    energy: Array  # (M, n) shares
    gap: dict[str, float]  # the largest
    seconds: dict[str, float]  # of a moment, on average


def read_site(name: str, run: Arrays, site: str, cache: Path) -> Reading:
    found = strengths_of(run, site, cache / f"{name}_{site}.npz")
    statistics = ratios(found)
    loss, energy = run["val_loss"], found["energy"].mean(1)
    splits = ("exact", *BOUNDED)
    return Reading(
        run=name,
        kind=name.rpartition("_")[0],
        site=site,
        val_epoch=float(run["loss_epoch"][np.nanargmin(loss)]),
        val_ratio=float(loss[-1] / np.nanmin(loss)),
        epoch=run["epoch"].astype(float),
        turns={key: turn_of(ratio, run["epoch"]) for key, ratio in statistics.items()},
        curves={key: ratio.curve() for key, ratio in statistics.items()},
        energy=energy / energy.sum(-1, keepdims=True),
        gap={key: float(found[f"{key}/gap"].max()) for key in splits},
        seconds={key: float(found[f"{key}/seconds"].mean()) for key in splits},
    )


def read_all(runs: dict[str, Arrays], cache: Path, jobs: int) -> list[Reading]:
    torch.set_num_threads(1)
    sites = [(name, run, key[7:], cache) for name, run in runs.items() for key in run if key.startswith("values/")]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        return pool.starmap(read_site, sites, chunksize=1)


Rows = list[list[str]]


def table(head: list[str], rows: Rows) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def by_network(readings: list[Reading]) -> dict[str, list[Reading]]:
    groups: dict[str, list[Reading]] = {}
    for reading in readings:
        groups.setdefault(f"{reading.kind}, {reading.site}", []).append(reading)
    return groups


def mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))


def extent(numbers: Iterable[float], digits: int = 1) -> str:
    low, high = (f"{f(numbers):.{digits}f}" for numbers in [list(numbers)] for f in (min, max))
    return low if low == high else f"{low} to {high}"


def sure(turns: list[Turn]) -> str:
    return f"{sum(t.fall > SURE for t in turns)}/{sum(t.rise > SURE for t in turns)}"


def curve_cell(turns: list[Turn]) -> str:
    start, low, epoch, end = (mean(getattr(t, key) for t in turns) for key in ("start", "low", "low_epoch", "end"))
    return f"{start:.2f}>{low:.2f}({epoch:.0f})>{end:.2f}; **{sure(turns)}**"


def z_cell(turns: list[Turn]) -> str:
    return "; ".join(f"{mean(z):.1f} ({extent(z)})" for z in ([t.fall for t in turns], [t.rise for t in turns]))


def per_network(readings: list[Reading], keys: Iterable[str], cell: Callable[[list[Turn]], str]) -> Rows:
    return [
        [name, *(cell([r.turns[key] for r in group]) for key in keys)] for name, group in by_network(readings).items()
    ]


def curves_table(readings: list[Reading]) -> str:
    rows = per_network(readings, SHOWN, curve_cell)
    for row, group in zip(rows, by_network(readings).values(), strict=True):
        epochs, ratio = extent((r.val_epoch for r in group), 0), mean(r.val_ratio for r in group)
        row[1:1] = [str(len(group)), f"{epochs}; {ratio:.2f}"]
    return table(["network, site", "seeds", "lowest val loss: epoch; last/lowest", *SHOWN.values()], rows)


def default_table(readings: list[Reading]) -> str:
    keys = ("start", "low", "low_epoch", "end", "fall", "rise", "held_fall", "held_rise")
    rows = [
        [name, *(extent((getattr(r.turns["bounded"], k) for r in group), 0 if "epoch" in k else 2) for k in keys)]
        for name, group in by_network(readings).items()
    ]
    head = ["start", "lowest", "its epoch", "end", "z fall", "z rise", "z fall held out", "z rise held out"]
    return table(["network, site", *head], rows)


def constants_table(readings: list[Reading]) -> str:
    chosen = [r for r in readings if r.kind in (*UNSEEN, "control")]
    return table(["network, site", *CONSTANTS.values()], per_network(chosen, CONSTANTS, curve_cell))


def verdict_table(readings: list[Reading]) -> str:
    control = [r for r in readings if r.kind == "control"]
    quiet = [r for r in readings if r.val_ratio <= QUIET and r.kind != "control"]
    overfit = [r for r in readings if r.val_ratio >= OVERFIT]
    names = SHOWN | {key: f"bounded, {name}" for key, name in CONSTANTS.items()} | {"roughness": "roughness"}
    head = [
        "reading", f"control, rises of {len(control)}; largest z", f"other quiet, rises of {len(quiet)}",
        f"overfit, falls of {len(overfit)} (held out)", "rises (held out)", "median z of rise", "z above the control's",
        "AUC of z", "control: largest rise; overfit: median", "turn before/at/after lowest val loss",
    ]  # fmt: skip
    return table(head, [[name, *_verdict(key, control, quiet, overfit)] for key, name in names.items()])


def _verdict(key: str, control: list[Reading], quiet: list[Reading], overfit: list[Reading]) -> list[str]:
    still, calm, loud = ([r.turns[key] for r in group] for group in (control, quiet, overfit))
    false, true = np.array([t.rise for t in still]), np.array([t.rise for t in loud])
    sizes = [[t.end - t.low for t in turns] for turns in (still, loud)]
    lead = [r.turns[key].low_epoch - r.val_epoch for r in overfit if r.turns[key].rise > SURE]
    return [
        f"{(false > SURE).sum()}; {false.max():.1f}",
        f"{sum(t.rise > SURE for t in calm)}",
        f"{sum(t.fall > SURE for t in loud)} ({sum(t.held_fall > SURE for t in loud)})",
        f"{(true > SURE).sum()} ({sum(t.held_rise > SURE for t in loud)})",
        f"{np.median(true):.1f}",
        f"{(true > false.max()).sum()}",
        f"{(true[:, None] > false).mean():.2f}",
        f"{max(sizes[0]):.2f}; {np.median(sizes[1]):.2f}",
        "/".join(str(count) for count in np.histogram(np.sign(lead), [-1.5, -0.5, 0.5, 1.5])[0]),
    ]


def cost_table(readings: list[Reading]) -> str:
    rows = [
        [key, f"{max(r.gap[key] for r in readings):.4f}", f"{1e3 / 16 * mean(r.seconds[key] for r in readings):.1f}"]
        for key in ("exact", *BOUNDED)
    ]
    return table(["split", "largest certified gap", "ms a sample, one busy core"], rows)


def report(readings: list[Reading], path: Path) -> None:
    """Write signal.md; the words in it stay as they are."""
    old = path.read_text() if path.exists() else ""
    words = old.partition(WORDS)[2].partition(DETAIL)[0].strip()
    path.write_text(
        "# How each reading sees the phases\n\n"
        f"Written by `read.py` from recordings of {len({r.run for r in readings})} runs, 16 watched samples each. "
        "A cell: mean over seeds of start>lowest(epoch of the lowest)>end; **seeds whose fall / rise has z > 3**. "
        "z is paired over samples (delta method; Student's t with 15 degrees of freedom), and optimistic: "
        "the lowest is that of 10 to 19 moments, which is below the ends even where nothing turns.\n\n"
        f"{curves_table(readings)}\n{WORDS}\n\n{words}\n\n{DETAIL}\n\n"
        "Verdicts, by run and site. Held out: the lowest is chosen on eight samples and tested on the other eight, "
        f"both ways; AUC: of the z of rises, overfit against control.\n\n{verdict_table(readings)}\n"
        f"z of fall; of rise: mean over seeds (range).\n\n"
        f"{table(['network, site', *SHOWN.values()], per_network(readings, SHOWN, z_cell))}\n"
        f"The default (.05 and .07 of s), ranges over seeds.\n\n{default_table(readings)}\n"
        "Other constants, on networks that none was chosen on, and the control.\n\n"
        f"{constants_table(readings)}\nSplits.\n\n{cost_table(readings)}"
    )


def to_json(reading: Reading) -> dict[str, Any]:
    def short(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: short(value) for key, value in x.items()}
        if isinstance(x, float):
            return round(x, 4)
        return np.asarray(x).round(4).tolist() if isinstance(x, np.ndarray) else x

    fields = asdict(reading)
    return short(fields | {"energy": np.c_[reading.energy[:, :3], reading.energy[:, 3:].sum(-1)]})


def draw(readings: list[Reading], path: Path) -> None:
    """One panel for each network and site, of its first seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [group[0] for group in by_network(readings).values()]
    columns = min(6, len(chosen))
    rows = -(-len(chosen) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2 * rows + 1), squeeze=False, layout="constrained")
    for ax in axes.flat[len(chosen) :]:
        ax.remove()
    for number, (ax, reading) in enumerate(zip(axes.flat, chosen, strict=False)):
        x, twin = reading.epoch + 1, ax.twinx()
        lines = [
            *ax.plot(x, reading.curves["exact"], color="0.6", label="mean order, exact split"),
            *ax.plot(x, reading.curves["bounded"], color="tab:blue", marker=".", label="mean order, bounded split"),
            *twin.plot(x, reading.curves["mean_degree"], color="tab:orange", lw=1, label="mean degree (right)"),
            ax.axvline(reading.val_epoch + 1, color="k", ls=":", lw=1, label="lowest validation loss"),
        ]
        ax.set(xscale="log", ylim=(1, 7))
        ax.set_xticks([1, 2, 5, 10, 20, 40], labels=["0", "1", "4", "9", "19", "39"])
        ax.minorticks_off()
        ax.set_title(f"{reading.kind}, {reading.site}", fontsize=9)
        twin.tick_params(colors="tab:orange", labelsize=7)
        ax.tick_params(labelsize=7)
        if number % columns == 0:
            ax.set_ylabel("mean order", fontsize=8)
        if number % columns == columns - 1 or number == len(chosen) - 1:
            twin.set_ylabel("mean degree", fontsize=8, color="tab:orange")
        if number >= len(chosen) - columns:
            ax.set_xlabel("epochs trained (log of epochs + 1)", fontsize=8)
    fig.suptitle(
        "The bounded split (blue) falls and rises on narrow VGG and AlexNet, where the exact one (grey) moves little. "
        "The control rises too, half as far (seed 0)"
    )
    fig.legend(handles=lines, loc="outside lower center", ncols=4, fontsize=9)
    fig.savefig(path, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--only", default="", help="runs (<kind>_s<seed>) whose names begin with this expression")
    parser.add_argument("--cache", type=Path, help="of the splits; by default a folder beside the recordings")
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    recorded = {name: run for folder in options.recordings for name, run in read(folder).items()}
    runs = {name: run for name, run in recorded.items() if re.match(options.only, name)}
    cache = options.cache or options.recordings[0].resolve().parent / "signal_cache"
    readings = read_all(runs, cache, options.jobs)
    text = json.dumps([to_json(r) for r in readings], separators=(",", ":"))
    (options.output / "signal.json").write_text(text + "\n")
    report(readings, options.output / "signal.md")
    draw(readings, options.output / "signal.png")
    print((options.output / "signal.md").read_text())


if __name__ == "__main__":
    main()
