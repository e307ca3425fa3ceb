"""Spindle at initialisation
=========================

At initialisation the interactions are a spindle.

Claim (arXiv 2405.10262, Theorem 3): the interactions of a network with random weights are independent and normal, all
with one variance, so that the strength of order k is in proportion to C(n, k), widest at half the players.

The scores recorded before training are read in three ways: the package's (bounded split), the exact split, and AND
interactions only. The strength by order, mean over the samples, is compared with the theorem: how far they are apart is
half the sum of the absolute differences of their shares, from 0 to 1. There are two references. White noise in the
*scores* is a spindle too, of higher orders. And what the theorem assumes, normal AND and OR interactions, is made into
scores and read likewise: a reading that turns those into something else cannot show the theorem's spindle at all.

::

    python examples/papers/spindle.py [--seeds 0 1 2] [--again] [--fast]
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from reading import collect, leave, spread, strength
from recording import SETTINGS, Options, parse
from torch import Tensor

from lightning_interactions.functional import (
    fit_spindle,
    mean_order,
    order_distribution,
    profile_distance,
    random_strength,
    reconstruct_values,
)
from lightning_interactions.metrics.drawing import BLUE, GREEN, ORANGE, ORDER_LABEL

NAMES = [name for name in SETTINGS if "relabelled" not in name and name != "minilm_sst2"]  # that one is pre-trained
COLOURS = {"bounded": BLUE, "exact": ORANGE, "and": GREEN}
LABELS = {"bounded": "bounded split", "exact": "exact split", "and": "AND only"}
NEAR, SAMPLES = 0.1, 32
"""Distance from which on it is no spindle; samples of white noise and of random interactions."""


class Profile(NamedTuple):
    """Strength by order in one reading, beside the theorem."""

    seed: int
    strength: Tensor  # (2, n), mean over the samples
    mean_order: float
    distance: float  # from the theorem
    scale: float  # standard deviation of one interaction, by the theorem
    white: float = math.nan  # distance from white noise in the same reading


# -- numbers ----------------------------------------------------------------------------------------------------------


def profile(values: Tensor, reading: str, seed: int, white: Profile | None = None) -> Profile:
    """Read scores ``(B, 2**n)``."""
    found = strength(values, reading).nanmean(0)
    fit = fit_spindle(found.sum(0))
    # The theorem counts AND and OR interactions: where there are but half as many, they are twice as strong.
    scale = fit.scale * (2 if reading == "and" else 1)
    apart = math.nan if white is None else float(profile_distance(found.sum(0), white.strength.sum(0)))
    return Profile(seed, found, float(mean_order(found)), fit.distance, scale, apart)


def noise(players: int) -> Tensor:
    """Scores that are white noise."""
    return torch.randn(SAMPLES, 2**players, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def assumed(players: int) -> Tensor:
    """Scores of what the theorem assumes: all AND and OR interactions independent and normal."""
    generator = torch.Generator().manual_seed(1)
    and_, or_ = torch.randn(2, SAMPLES, 2**players, generator=generator, dtype=torch.float64)
    return reconstruct_values(and_, or_)


# -- table ------------------------------------------------------------------------------------------------------------

Found = dict[str, dict[str, list[Profile]]]  # by network, by reading, for each seed


def tell(found: Found, references: Found, players: int) -> None:
    theorem = float(mean_order(random_strength(players)))
    print(f"mean over the seeds (range); mean order by the theorem: {theorem:.2f}\n")
    heads = "mean order", "distance from theorem", "from white noise"
    print(f"{'':28}{'reading':16}" + "".join(f"{head:24}" for head in heads))
    for name, readings in {**found, **references}.items():
        for reading, runs in readings.items():
            columns = zip(*((run.mean_order, run.distance, run.white) for run in runs), strict=True)
            cells = (spread(column, digits) for column, digits in zip(columns, (2, 3, 3), strict=True))
            print(f"{name:28}{LABELS[reading]:16}" + "".join(f"{cell:24}" for cell in cells))
    print(f"\na spindle as in the theorem (distance below {NEAR}):")
    for reading, label in LABELS.items():
        print(f"{label}: {verdict({name: readings[reading] for name, readings in found.items()})}")
        control = references["random interactions"][reading][0].distance
        can = "keeps" if control < NEAR else "does not keep"
        print(f"   this reading {can} the theorem's own interactions a spindle (distance {control:.3f})")


def verdict(found: dict[str, list[Profile]]) -> str:
    held = {name: [run.distance < NEAR for run in runs] for name, runs in found.items()}
    nearer = [run.distance < run.white for runs in found.values() for run in runs]
    networks = ", ".join(f"{name} {sum(runs)} of {len(runs)}" for name, runs in held.items())
    return (
        f"in {sum(map(sum, held.values()))} of {len(nearer)} runs ({networks}); "
        f"nearer to the theorem than to white noise in {sum(nearer)} of {len(nearer)}"
    )


def numbers(found: Found) -> dict[str, dict[str, list[dict[str, float]]]]:
    keys = "seed", "mean_order", "distance", "scale", "white"
    return {
        name: {
            reading: [{key: getattr(run, key) for key in keys} for run in runs] for reading, runs in readings.items()
        }
        for name, readings in found.items()
    }


# -- figure -----------------------------------------------------------------------------------------------------------


def draw(found: Found, references: Found, options: Options) -> Figure:
    wide = min(len(found), 3)
    figure = Figure(figsize=(4.4 * wide, 3.5 * math.ceil(len(found) / wide) + 1), layout="constrained")
    axes = figure.subplots(math.ceil(len(found) / wide), wide, squeeze=False, sharey=True)
    for ax in axes.flat[len(found) :]:
        ax.set_visible(False)
    for ax, (name, readings) in zip(axes.flat, found.items(), strict=False):
        draw_network(ax, readings, references["white noise"], (5 if options.fast else 10))
        ax.set_title(name.replace("_", " "))
    axes[0, 0].set_ylim(bottom=0)  # shared by all, and so not before all is drawn
    for ax in axes[:, 0]:
        ax.set_ylabel("share of the strength")
    lines = [Line2D([], [], color=colour, label=LABELS[reading]) for reading, colour in COLOURS.items()]
    lines.append(Line2D([], [], color="black", ls="--", label="theorem"))
    lines.append(Line2D([], [], color="0.4", ls=":", label="white noise, read likewise"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.suptitle(
        "Initialisation: do the shares by order (lines, one a seed) follow the theorem's spindle (dashed)?\n"
        f"White noise in the scores gives a spindle of higher orders (dotted). Size: {options.size}"
    )
    return figure


def draw_network(ax: Axes, found: dict[str, list[Profile]], white: dict[str, list[Profile]], players: int) -> None:
    order = list(range(1, players + 1))
    for reading, runs in found.items():
        ax.plot(order, order_distribution(white[reading][0].strength), color=COLOURS[reading], ls=":")
        for run in runs:
            ax.plot(order, order_distribution(run.strength), color=COLOURS[reading], marker=".", lw=1.2)
    ax.plot(order, order_distribution(random_strength(players)), color="black", ls="--")
    ax.set_xticks(order)
    ax.set_xlabel(ORDER_LABEL)


def main() -> None:
    options = parse(__doc__)
    white = {reading: profile(noise(5 if options.fast else 10), reading, 0) for reading in LABELS}
    control = {reading: profile(assumed(5 if options.fast else 10), reading, 1, white[reading]) for reading in LABELS}
    references: Found = {
        "white noise": {reading: [one] for reading, one in white.items()},
        "random interactions": {reading: [one] for reading, one in control.items()},
    }
    runs = collect(
        options, NAMES,
        lambda rec: {r: profile(rec.values["test"][0], r, rec.seed, white[r]) for r in LABELS},
    )  # fmt: skip
    found: Found = {name: {r: [one[r] for one in own] for r in LABELS} for name, own in runs.items()}
    tell(found, references, (5 if options.fast else 10))
    leave(options, "spindle", draw(found, references, options), numbers({**found, **references}))


if __name__ == "__main__":
    main()
