"""Several readings of the same scores
===================================

How much of the published curves is dynamics of the network, and how much the way interactions are read off it?

Claim (arXiv 2405.10262, 2407.19198): the mean order falls in a first phase and rises in a second. The papers find the
AND and OR parts by gradient descent, for a fixed number of steps, on an objective whose optimum can be computed. Here
the same recorded scores are read in several ways, with and without a residual, with two thresholds, with the certified
optimum and with such a descent (SGD, written from the formulas; 5 000 steps at the better of two rates, where the
papers take up to 20 000). The descent is run at five records (start, trough of the default reading, two between, end),
on eight samples; the certified split of the same scores stands beside it.

::

    python examples/papers/readout.py [--fast] [--again] [--seeds 0 1 2]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from reading import collect, interactions, leave, lowest, spread, strength, threshold
from recording import Recording, parse
from torch import Tensor

from lightning_interactions.functional import (
    and_interactions,
    fold_first_order,
    mean_order,
    or_interactions,
    order_strength,
    value_scale,
)
from lightning_interactions.metrics.drawing import BLUE, GREEN, ORANGE, VERMILLION

NAMES = ["lenet_mnist", "vgg11_cifar10", "alexnet_cifar10", "mlp_adult"]
LINES = {
    "bounded": ("bounded (default)", BLUE),
    "papers": ("residual .02, salience .03, difference", ORANGE),
    "exact": ("exact, salience .03, difference", VERMILLION),
    "exact_std": ("exact, salience .07, std", "#CC79A7"),
    "and": ("AND only, salience .03, difference", GREEN),
}
DOTS = {"sgd": "SGD, 8 samples, exact, .03, difference", "certified": "its optimum, certified"}
NAMED = {name: label for name, (label, _) in LINES.items()} | DOTS
RATES, MOMENTUM, SAMPLES = (1e-4, 1e-5), 0.9, 8  # 1e-3 ends, for ten players, above where it starts
MOVES = 0.2
"""A curve falls, or rises, from this many orders on; the tolerance of the splits moves it by a twentieth of that."""


class Run(NamedTuple):
    """One run: mean orders by reading, and at a few records what the descent found."""

    rec: Recording
    orders: dict[str, list[float]]  # by reading (M,), by kind of dots (D,)
    places: list[int]  # (D,) records of the dots
    excess: list[float]  # (D,) objective of the descent over that of the certified split

    def numbers(self) -> dict[str, Any]:
        moves = {name: dict(zip(("fall", "rise"), turn(curve), strict=True)) for name, curve in self.orders.items()}
        epochs = [float(self.rec.epoch[place]) for place in self.places]
        return {"moves": moves, "sgd_epochs": epochs, "sgd_over_certified": self.excess, "mean_order": self.orders}


def run(rec: Recording, steps: int) -> Run:
    """Read one recording in all ways."""
    records = rec.values["test"]
    found = {name: [strength(values, name) for values in records] for name in ("bounded", "papers", "and")}
    split = [interactions(values, "exact") for values in records]
    found["exact"] = [order_strength(*two, threshold(v, "exact")) for two, v in zip(split, records, strict=True)]
    found["exact_std"] = [order_strength(*two, threshold(v, "bounded")) for two, v in zip(split, records, strict=True)]
    orders = {name: [float(mean_order(one.mean(0))) for one in found[name]] for name in LINES}
    places = chosen(orders["bounded"])
    some = [tuple(part[:SAMPLES] for part in split[place]) for place in places]
    scales = torch.stack([value_scale(records[place]) for place in places])
    reached = list(zip(*descend(records[places][:, :SAMPLES], scales, steps), strict=True))
    limits = [threshold(records[place], "exact") for place in places]
    for name, two in (("sgd", reached), ("certified", some)):
        strengths = (order_strength(and_, or_, limit) for (and_, or_), limit in zip(two, limits, strict=True))
        orders[name] = [float(mean_order(one.mean(0))) for one in strengths]
    excess = [objective(*one) / objective(*best) for one, best in zip(reached, some, strict=True)]
    return Run(rec, orders, places, excess)


def chosen(curve: Sequence[float]) -> list[int]:
    """Start, trough, two between, end."""
    last, trough = len(curve) - 1, lowest(curve)
    return sorted({0, trough, trough + (last - trough) // 3, trough + 2 * (last - trough) // 3, last})


def descend(values: Tensor, scales: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The published recipe: minimise sum |I_and| + |I_or| over ``p``, v_and = v / 2 + p, v_or = v / 2 - p, by SGD.

    The learning rate falls by a decade, evenly in its logarithm. ``values`` are ``(D, B, 2**n)``, ``scales`` ``(D,)``:
    in these units the rates are `RATES` at every record. Of each sample the descent that ends lower counts.
    """
    found = [_descend(values, scales, steps, rate) for rate in RATES]
    reached = torch.stack([(and_.abs() + or_.abs()).sum(-1) for and_, or_ in found])
    better = (reached[0] <= reached[1]).unsqueeze(-1)
    return torch.where(better, found[0][0], found[1][0]), torch.where(better, found[0][1], found[1][1])


def _descend(values: Tensor, scales: Tensor, steps: int, rate: float) -> tuple[Tensor, Tensor]:
    half = (values - values[..., :1]) / scales[:, None, None] / 2
    p = torch.zeros_like(half, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=rate, momentum=MOMENTUM)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 10 ** (-step / max(steps - 1, 1))
        loss = and_interactions(half + p)[..., 1:].abs().sum() + or_interactions(half - p)[..., 1:].abs().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    p = p.detach()
    both = fold_first_order(and_interactions(half + p), or_interactions(half - p))
    and_, or_ = (part * scales[:, None, None] for part in both)
    return and_, or_


def objective(and_: Tensor, or_: Tensor) -> float:
    return float(torch.stack([and_, or_])[..., 1:].abs().sum())


def turn(curve: Sequence[float]) -> tuple[float, float]:
    """How far a curve falls from its start to where it is lowest, and rises from there to its end."""
    known = [order for order in curve if order == order]
    return (known[0] - min(known), known[-1] - min(known)) if known else (math.nan, math.nan)


# -- telling ----------------------------------------------------------------------------------------------------------


def table(runs: dict[str, list[Run]]) -> None:
    """Print fall and rise by setting and reading, and what they say of the claim."""
    every: dict[str, list[tuple[float, float]]] = {}
    for name, own in runs.items():
        print(f"\n{name}: orders by which the mean order moves, mean over the seeds (range)")
        for reading in (*LINES, *DOTS):
            moves = [turn(one.orders[reading]) for one in own]
            every.setdefault(reading, []).extend(moves)
            fall, rise = zip(*moves, strict=True)
            print(f"    {NAMED[reading]:40s} fall {spread(fall):22s} rise {spread(rise)}")
        apart = [a - b for one in own for a, b in zip(one.orders["sgd"], one.orders["certified"], strict=True)]
        excess = spread([x for one in own for x in one.excess])
        print(f"    SGD at its records: objective over the certified one {excess}, mean order less its {spread(apart)}")
    print()
    for reading, moves in every.items():
        fell, rose = (sum(move[i] >= MOVES for move in moves) for i in (0, 1))
        both = sum(min(move) >= MOVES for move in moves)
        print(f"Verdict ({NAMED[reading]}): falls by {MOVES} or more in {fell} of {len(moves)} runs, rises in {rose}, "
              f"both in {both}")  # fmt: skip


def draw(runs: dict[str, list[Run]]) -> Figure:
    """A column for every network: mean order in every reading, and how far the descent is from the optimum."""
    figure = Figure(figsize=(4.2 * max(len(runs), 2), 8.6), layout="constrained")
    axes = figure.subplots(2, len(runs), squeeze=False, sharex="col", gridspec_kw={"height_ratios": (2, 1)})
    for column, (name, own) in enumerate(runs.items()):
        curves(axes[0, column], own)
        axes[0, column].set_title(name)
        for one in own:
            axes[1, column].plot(places(one)[one.places].tolist(), one.excess, color="black", marker="o", linewidth=1)
        axes[1, column].axhline(1, color="grey", linewidth=0.8)
        axes[1, column].set_ylim(0.98, max(1.1, *(1.02 * x for one in own for x in one.excess)))
        axes[1, column].set_xlabel("epochs (the first point: before training)")
    axes[0, 0].set_ylabel("mean order (number of players)")
    axes[1, 0].set_ylabel("SGD's objective / certified")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("The same scores, read in several ways: which readings fall and rise? (a thin line for every seed)")
    return figure


def curves(ax: Any, own: list[Run]) -> None:
    for index, one in enumerate(own):
        epoch = places(one)
        for reading, (label, colour) in LINES.items():
            label = "_" if index else label
            ax.plot(epoch.tolist(), one.orders[reading], color=colour, linewidth=1.2, label=label)
        for (kind, label), face in zip(DOTS.items(), ("black", "white"), strict=True):
            label = "_" if index else label
            ax.plot(epoch[one.places].tolist(), one.orders[kind], "o", color="black", markerfacecolor=face, label=label)
    ax.set_xscale("log", base=4)
    ax.xaxis.set_major_formatter("{x:g}")


def places(one: Run) -> Tensor:
    return one.rec.epoch.clamp(min=float(one.rec.epoch[1]) / 2)


def main() -> None:
    options = parse(__doc__)
    runs = collect(options, NAMES, lambda rec: run(rec, 200 if options.fast else 5000))
    table(runs)
    numbers = {name: {str(one.rec.seed): one.numbers() for one in own} for name, own in runs.items()}
    leave(options, "readout", draw(runs), numbers)


if __name__ == "__main__":
    main()
