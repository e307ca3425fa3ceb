"""Noisy regression
================

Are the orders at every epoch those that noisy regression predicts from the final network, with one number s^2?

Claim (arXiv 2407.19198, Theorem 3 and the figures of its section 4): the share of every order at an epoch is that of
w(s^2), where w* are the salient interactions of the final network, and s^2 is fitted anew to every epoch. It falls in
the second phase, so that the order t* = -log4 s^2 up to which interactions are learned rises. Of the first phase the
theory says nothing; t* is followed there all the same.

The fit has one free number, so it cannot be worse than w* itself, whatever is true. It is compared with another curve
of one free number, the shares of w* times r^(k-1). The last record is w*: it fits by construction, and is left out
of the distances and of t*. Where w* itself fits best t* is n, where s^2 = 100 (the largest tried) does it is -3.3.

::

    python examples/papers/noisy_regression.py [--fast] [--again] [--seeds 0 1 2]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from reading import collect, leave, lowest, salient, spread
from recording import SETTINGS, Recording, parse
from torch import Tensor

from lightning_interactions.functional import (
    fit_noise,
    law_profiles,
    mean_order,
    order_strength,
    profile_distance,
    split_profile,
)
from lightning_interactions.metrics.drawing import BLUE, GREEN, VERMILLION

NAMES = [name for name in SETTINGS if not name.endswith("relabelled")]
COLOURS = {"bounded": BLUE, "exact": VERMILLION}
TILTS = torch.logspace(-2, 1, 193, dtype=torch.float64)
NEAR, MOVES = 0.1, 0.5
"""A fit is near with a tenth of the strength in the wrong order at most; t* moves by half an order at least."""


class Fit(NamedTuple):
    """One run in one reading: measured and fitted profiles ``(M, n)``, t* ``(M,)``, and the numbers of the table."""

    rec: Recording
    measured: Tensor
    fitted: Tensor
    cutoff: list[float]
    numbers: dict[str, float]

    def shown(self) -> dict[str, int]:
        """The four records that are drawn."""
        last = len(self.measured) - 1
        trough = lowest(mean_order(torch.stack([self.measured, torch.zeros_like(self.measured)], -2)).tolist())
        return {"start": 0, "trough": trough, "middle": (trough + last) // 2, "end": last}


def fit(rec: Recording, reading: str) -> Fit:
    """Split every record once, and fit the law to all of them."""
    found = torch.stack([salient(values, reading) for values in rec.values["test"]])  # (M, B, 2, 2**n)
    measured = order_strength(found[..., 0, :], found[..., 1, :], 0.0).sum(-2).mean(1)
    final, n = found[-1], measured.shape[-1]
    fits = fit_noise(measured, final)
    levels = torch.tensor([one.noise for one in fits], dtype=torch.float64).nan_to_num(0.0)
    cutoff = [min(one.cutoff, float(n)) if one.cutoff == one.cutoff else math.nan for one in fits]
    wide = [split_profile(profile, measured[0]).share for profile in measured]
    tilted = measured[-1] * TILTS[:, None] ** torch.arange(n)
    others = [float(profile_distance(profile, tilted).min()) for profile in measured]
    before = range(len(fits) - 1)
    numbers = {
        "distance": mean([fits[i].distance for i in before]),
        "trivial distance": mean([fits[i].trivial for i in before]),
        "tilt distance": mean([others[i] for i in before]),
        "distance at start": fits[0].distance,
    }
    for name, curve in (("t*", cutoff[:-1]), ("spindle share", wide)):
        numbers |= {f"{name} at {where}": value for where, value in ends(curve).items()}
    return Fit(rec, measured, law_profiles(final, levels), cutoff, numbers)


def ends(curve: Sequence[float]) -> dict[str, float]:
    """A curve at its start, where it is lowest, and at its end."""
    return {"start": curve[0], "lowest": curve[lowest(curve)], "end": curve[-1]}


def mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else math.nan


# -- telling ----------------------------------------------------------------------------------------------------------


def table(fits: dict[str, list[Fit]], reading: str) -> None:
    """Print the numbers of every setting, and what they say of the claim."""
    print(f"\n{reading}: mean over the seeds (range); distances are total variations of the shares, t* is an order")
    for name, own in fits.items():
        numbers = {key: [one.numbers[key] for one in own] for key in own[0].numbers}
        print(f"{name}: law {spread(numbers['distance'], 3)}, no noise {spread(numbers['trivial distance'], 3)}, "
              f"tilt {spread(numbers['tilt distance'], 3)}")  # fmt: skip
        for key in ("t*", "spindle share"):
            told = (f"{where} {spread(numbers[f'{key} at {where}'])}" for where in ("start", "lowest", "end"))
            print(f"    {key:14s}{', '.join(told)}")
    print(verdict([one.numbers for own in fits.values() for one in own], reading))


def verdict(runs: list[dict[str, float]], reading: str) -> str:
    near = sum(run["distance"] <= NEAR for run in runs)
    better = sum(run["distance"] < run["tilt distance"] for run in runs)
    rises = sum(run["t* at end"] - run["t* at lowest"] >= MOVES for run in runs)
    both = sum(min(run["t* at start"], run["t* at end"]) - run["t* at lowest"] >= MOVES for run in runs)
    left, trivial = (mean([run[key] for run in runs]) for key in ("distance", "trivial distance"))
    saved = f"{1 - left / trivial:.0%} less" if trivial > 0 else "no less"
    return (
        f"Verdict ({reading}): the law's mean distance is {left:.3f}, {saved} than without noise ({trivial:.3f}); it "
        f"is at most {NEAR} in {near} of {len(runs)} runs, and below that of the tilt in {better}. t* rises by {MOVES} "
        f"or more from its lowest in {rises} of {len(runs)}, and falls as much before in {both}."
    )


def draw(fits: dict[str, list[Fit]], exact: dict[str, list[Fit]]) -> Figure:
    """A column for every network: shares of one seed at four records, and t* of all seeds in both readings."""
    figure = Figure(figsize=(3.1 * max(len(fits), 3), 12.5), layout="constrained")
    axes = figure.subplots(5, len(fits), squeeze=False)
    for column, (name, own) in enumerate(fits.items()):
        for row, (where, at) in enumerate(own[0].shown().items()):
            shares(axes[row, column], own[0], at)
            axes[row, column].set_title(f"{name}\n{where}" if row == 0 else where, fontsize=9)
        axes[4, column].set_title("t*, before the last record", fontsize=9)
        for reading, runs in (("bounded", own), ("exact", exact[name])):
            cutoffs(axes[4, column], runs, reading)
    for row in range(4):
        axes[row, 0].set_ylabel("share of the strength")
    axes[4, 0].set_ylabel("t* (order; n: no noise)")
    handles = [pair for ax in (axes[0, 0], axes[4, 0]) for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Do the points (the law, one s² per record) meet the bars (measured), and does t* fall and rise?")
    return figure


def shares(ax: Any, one: Fit, at: int) -> None:
    order = range(1, one.measured.shape[-1] + 1)
    measured, fitted = (profile[at] / profile[at].sum() for profile in (one.measured, one.fitted))
    ax.bar(order, measured.tolist(), color=BLUE, label="measured share (bounded)")
    ax.plot(
        order, fitted.tolist(), color="black", marker="o", markersize=4, label="share by the law, from w* of the end"
    )
    ax.margins(y=0.35)
    ax.text(0.97, 0.96, f"epoch {float(one.rec.epoch[at]):.3g}\nt* {one.cutoff[at]:.1f}\n"
            f"distance {float(profile_distance(one.measured[at], one.fitted[at])):.3f}",
            transform=ax.transAxes, ha="right", va="top", fontsize=8)  # fmt: skip
    ax.set_xlabel("order (number of players)")
    ax.set_xticks(order)


def cutoffs(ax: Any, runs: list[Fit], reading: str) -> None:
    """t* over the epochs; the last record is w* itself, and not drawn."""
    for index, one in enumerate(runs):
        epoch = one.rec.epoch.clamp(min=float(one.rec.epoch[1]) / 2)
        ax.plot(epoch[:-1].tolist(), one.cutoff[:-1], color=COLOURS[reading], marker=".", linewidth=1,
                label="_" if index else f"t* ({reading})")  # fmt: skip
    n = runs[0].measured.shape[-1]
    ax.axhline(n, color=GREEN, linewidth=0.8, linestyle=":")
    ax.set_ylim(-3.8, n + 0.5)  # fits go down to s^2 = 100
    ax.set_xscale("log", base=4)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("epochs (the first point: before training)")


def main() -> None:
    options = parse(__doc__)
    both = collect(options, NAMES, lambda rec: {reading: fit(rec, reading) for reading in COLOURS})
    fits = {reading: {name: [one[reading] for one in own] for name, own in both.items()} for reading in COLOURS}
    for reading, found in fits.items():
        table(found, reading)
    numbers = {
        reading: {name: {str(one.rec.seed): one.numbers for one in own} for name, own in found.items()}
        for reading, found in fits.items()
    }
    leave(options, "noisy_regression", draw(fits["bounded"], fits["exact"]), numbers)


if __name__ == "__main__":
    main()
