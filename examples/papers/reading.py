"""From recorded scores to interactions, in several readings, and what the scripts measure, draw and print alike."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from recording import Options, Recording, recordings
from torch import Tensor

from lightning_interactions.functional import (
    BOUNDED_TOLERANCE,
    SPLIT_TOLERANCE,
    high_order_share,
    moebius_transform,
    order_strength,
    salience_threshold,
    salient_interactions,
    sparse_and_or,
    value_scale,
)
from lightning_interactions.functional.interval import ratio_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


RECORDS = 16  # as splitting takes its time, curves have at most so many records
SPLITS = Path(tempfile.gettempdir()) / "lightning_interactions_papers"
"""Splits are kept: several scripts read the same scores."""


class Reading(NamedTuple):
    """How interactions are read off scores: residual and threshold, as fractions of the scale."""

    noise_bound: float
    salience: float
    scale: str


READINGS = {
    "bounded": Reading(0.05, 0.07, "std"),  # the package's default
    "papers": Reading(0.02, 0.03, "difference"),
    "exact": Reading(0.0, 0.03, "difference"),
    "and": Reading(0.0, 0.03, "difference"),  # no OR interactions: the Harsanyi dividends of the scores
}


def interactions(values: Tensor, reading: str = "bounded") -> tuple[Tensor, Tensor]:
    """AND and OR interactions ``(B, 2**n)`` of scores ``(B, 2**n)``, without a threshold."""
    bound, _, scale = READINGS[reading]
    if reading == "and":
        dividends = moebius_transform(values - values[:, :1])
        return dividends, torch.zeros_like(dividends)
    content = f"{bound} {scale}".encode() + values.numpy().tobytes()
    file = SPLITS / f"{hashlib.blake2b(content, digest_size=12).hexdigest()}.npz"
    if file.exists():
        with np.load(file) as z:
            return torch.from_numpy(z["and_"]).double(), torch.from_numpy(z["or_"]).double()
    tolerance = BOUNDED_TOLERANCE if bound else SPLIT_TOLERANCE
    split = sparse_and_or(values, noise_bound=bound, scale=value_scale(values, scale), tol=tolerance)
    SPLITS.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.stem}.{os.getpid()}.npz")  # two scripts may come to the same
    np.savez(partial, and_=split.and_.float().numpy(), or_=split.or_.float().numpy())
    partial.replace(file)
    return split.and_, split.or_


def threshold(values: Tensor, reading: str = "bounded") -> Tensor:
    """From which value on an interaction counts."""
    return salience_threshold(values, READINGS[reading].salience, READINGS[reading].scale)


def strength(values: Tensor, reading: str = "bounded") -> Tensor:
    """Strength ``(B, 2, n)`` of scores ``(B, 2**n)``."""
    return order_strength(*interactions(values, reading), threshold(values, reading))


def salient(values: Tensor, reading: str = "bounded") -> Tensor:
    """Salient interactions ``(B, 2, 2**n)`` of scores ``(B, 2**n)``, 0 elsewhere."""
    return salient_interactions(*interactions(values, reading), threshold(values, reading))


def curve(rec: Recording, group: str = "test", reading: str = "bounded") -> Tensor:
    """Strength ``(M, B, 2, n)`` at every record."""
    return torch.stack([strength(values, reading) for values in rec.values[group]])


# -- runs -------------------------------------------------------------------------------------------------------------

Run = TypeVar("Run")
Runs = dict[str, list[dict[str, Any]]]  # by setting, one for every seed


def collect(options: Options, names: Sequence[str], measure: Callable[[Recording], Run]) -> dict[str, list[Run]]:
    """Measure every recording of these settings, by setting one for every seed; without any the script ends here."""
    runs: dict[str, list[Run]] = {}
    for rec in recordings(options, names):
        runs.setdefault(rec.name, []).append(measure(rec))
    if not runs:
        raise SystemExit("No recordings: run without --again.")
    return runs


def thin(rec: Recording) -> Recording:
    """Keep some of the records, evenly spread, the first and the last among them."""
    kept = torch.linspace(0, len(rec.epoch) - 1, RECORDS).round().long().unique()
    values = {group: scores[kept] for group, scores in rec.values.items()}
    return replace(rec, epoch=rec.epoch[kept], train_loss=rec.train_loss[kept], test_loss=rec.test_loss[kept],
                   values=values)  # fmt: skip


def order_interval(group: Tensor) -> tuple[float, float, float]:
    """Mean order of strength ``(B, 2, n)`` with its interval over the samples."""
    by_order = group.sum(1)
    return ratio_interval(by_order @ torch.arange(1.0, by_order.shape[-1] + 1).to(by_order), by_order.sum(-1))


def follow(group: Tensor) -> dict[str, list[float]]:
    """Curves of strength ``(M, B, 2, n)`` over the records."""
    order, lower, upper = zip(*(order_interval(record) for record in group), strict=True)
    mean = group.nanmean(1)
    return {
        "mean_order": list(order), "lower": list(lower), "upper": list(upper),
        "high_order_share": high_order_share(mean).tolist(), "total": mean.sum((-2, -1)).tolist(),
    }  # fmt: skip


def lowest(curve: Sequence[float]) -> int:
    """Where a curve is lowest; what is not known does not count."""
    return min(range(len(curve)), key=lambda i: curve[i] if curve[i] == curve[i] else math.inf)


# -- telling ----------------------------------------------------------------------------------------------------------


def signs(differences: Sequence[tuple[float, float, float]]) -> str:
    """In how many seeds a difference, given with the ends of its interval, is above 0, and surely above or below it."""
    above, surely, below = (sum(d[0] > 0 for d in differences), sum(d[1] > 0 for d in differences),
                            sum(d[2] < 0 for d in differences))  # fmt: skip
    return f"{above} of {len(differences)} seeds, with an interval above 0 in {surely} (below 0 in {below})"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean over the seeds, and from where to where they go."""
    known = [value for value in values if value == value]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    return f"{mean:.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def leave(options: Options, name: str, figure: Figure, numbers: Any) -> None:
    """Write the figure and the numbers of a script."""
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(options.output) / f"{name}.png", dpi=80)
    text = json.dumps(numbers, indent=1).replace("NaN", "null")
    (Path(options.output) / f"{name}.json").write_text(f"{text}\n")
    print(f"\nwrote {options.output / name}.png and .json")


def draw_seeds(ax: Axes, x: Sequence[float], rows: Sequence[Sequence[float]], **look: Any) -> None:
    """Draw the mean over seeds as a line, and the range over seeds as a band."""
    values = torch.tensor(rows, dtype=torch.float64)
    known = values.isfinite()
    some = known.any(0)
    least, most = (torch.where(known, values, end) for end in (math.inf, -math.inf))
    (line,) = ax.plot(x, values.nanmean(0), **look)
    ax.fill_between(x, least.amin(0), most.amax(0), where=some, color=line.get_color(), alpha=0.2, linewidth=0)


def draw_orders(runs: Runs, groups: dict[str, str], title: str) -> Figure:
    """Draw the mean order of some groups over the epochs, one panel per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.2 * len(runs), 7), 3.8), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for ax, (name, seeds) in zip(panels, runs.items(), strict=True):
        for group, colour in groups.items():
            draw_seeds(
                ax,
                seeds[0]["epoch"],
                [run[group]["mean_order"] for run in seeds],
                color=colour,
                label=group,
                marker=".",
            )
        ax.set_xscale("symlog", linthresh=0.25, base=2)
        ticks = [0, *(2.0**k for k in range(-2, 10) if 2.0**k <= seeds[0]["epoch"][-1])]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlim(left=0)
        ax.set_title(f"{name}, {len(seeds)} seed(s)", fontsize=10)
        ax.set_xlabel("epochs of training")
    panels[0].set_ylabel("mean order (number of players)")
    panels[0].legend(frameon=False)
    figure.suptitle(f"{title}\nLine: mean over seeds; band: their range", fontsize=11)
    return figure
