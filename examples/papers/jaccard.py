"""Jaccard similarity by order
===========================

Interactions of low order carry over from training to test samples, those of high order do not (arXiv 2405.10262).

With the same players for all samples (fixed patches), the mean over the training samples of a class of all interactions
of one order is compared with that over its test samples: the weighted Jaccard similarity, mean over the first ten
classes. No threshold is applied; both sets are read with one scale. It is done at the start, at the record with the
lowest mean order on other test samples (the turn), and at the end of training.

Two things help to judge the numbers: the share of each order in the strength, as the similarity of interactions that
are nothing says nothing; and the similarity of the training samples of a class with the test samples of the *next*
class, which is what there is without anything learned about the class.

::

    python examples/papers/jaccard.py [--seeds 0 1 2] [--fast] [--full --device cuda]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from reading import Runs, collect, curve, draw_seeds, interactions, leave, spread, thin
from recording import CLASSES, Recording, parse
from torch import Tensor

from lightning_interactions.functional import mean_order, order_distribution, order_strength
from lightning_interactions.metrics import InteractionJaccard
from lightning_interactions.metrics.drawing import BLUE, ORANGE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("lenet_mnist", "alexnet_cifar10", "vgg11_cifar10")
MOMENTS = {"start": ORANGE, "turn": BLUE, "end": VERMILLION}
READ = ("bounded", "exact")
ORDERS, ENOUGH = 6, 0.01
"""Orders up to this one are judged; a share of the strength below this is next to nothing."""
Pair = tuple[Tensor, Tensor]


def similarity(train: Pair, test: Pair, labels: Pair, shift: int = 0) -> Tensor:
    """Jaccard by order ``(n,)``, mean over the classes; with a shift, that with the test samples of other classes."""
    players = train[0].shape[-1].bit_length() - 1
    found = []
    for label in range(CLASSES):
        metric = InteractionJaccard(players)
        own, other = labels[0] == label, labels[1] == (label + shift) % CLASSES
        metric.update(train[0][own], train[1][own], test[0][other], test[1][other])
        if own.any() and other.any():
            found.append(metric.compute())
    return torch.stack(found).nanmean(0)


def compare(rec: Recording, record: int, reading: str) -> dict[str, Any]:
    """Compare the training and the test samples at one record."""
    parts = [rec.values[group][record] for group in ("fixed_train", "fixed_test")]
    and_, or_ = interactions(torch.cat(parts), reading)
    sizes = [len(part) for part in parts]
    both_and, both_or = and_.split(sizes), or_.split(sizes)
    train, test = (both_and[0], both_or[0]), (both_and[1], both_or[1])
    labels = rec.classes["fixed_train"], rec.classes["fixed_test"]
    by_order = similarity(train, test, labels)
    share = order_distribution(order_strength(and_, or_, 0.0).nanmean(0))
    return {
        "epoch": float(rec.epoch[record]),
        "jaccard": by_order.tolist(),
        "other_class": similarity(train, test, labels, shift=1).tolist(),
        "share": share.tolist(),
        "spearman": spearman(by_order[:ORDERS]),
        "spearman_present": spearman(torch.where(share >= ENOUGH, by_order, torch.nan)[:ORDERS]),
    }


def spearman(by_order: Tensor) -> float:
    """Rank correlation of the order and the numbers that are known, of which there must be three."""
    known = by_order[by_order.isfinite()]
    if len(known) < 3:
        return float("nan")
    ranks = known.argsort().argsort().double()
    return float(torch.corrcoef(torch.stack([torch.arange(len(known)).to(ranks), ranks]))[0, 1])


def measure(rec: Recording) -> dict[str, Any]:
    """Read the numbers of one run."""
    rec = thin(rec)
    order = mean_order(curve(rec).nanmean(1)).nan_to_num(float("inf"))
    records = {"start": 0, "turn": int(order.argmin()), "end": len(order) - 1}
    found = {reading: {at: compare(rec, place, reading) for at, place in records.items()} for reading in READ}
    return {"seed": rec.seed} | found


# -- telling ----------------------------------------------------------------------------------------------------------


def tell(runs: Runs) -> None:
    """Print the table and the verdict."""
    for name, seeds in runs.items():
        for reading in READ:
            tell_reading(f"{name}, {reading} split", [run[reading] for run in seeds])


def tell_reading(title: str, seeds: list[dict[str, Any]]) -> None:
    """Print how similar training and test samples are, one line per order, and what follows from it."""
    print(f"\n{title}: Jaccard by order, mean over {len(seeds)} seed(s) (range)")
    print(f"  turn at epoch {spread([run['turn']['epoch'] for run in seeds])}")
    columns = {at: by_order(seeds, at, "jaccard") for at in MOMENTS}
    columns |= {
        "end, other class": by_order(seeds, "end", "other_class"),
        "end, share": by_order(seeds, "end", "share"),
    }
    print("  order  " + "".join(f"{title:<21}" for title in columns))
    for order, row in enumerate(zip(*columns.values(), strict=True), 1):
        print(f"  {order:<7}" + "".join(f"{cell:<21}" for cell in row))
    every, present = ([run["end"][key] for run in seeds] for key in ("spearman", "spearman_present"))
    print(
        f"  verdict: at the end it falls with the order (Spearman over orders 1 to {ORDERS} below -0.8) in "
        f"{sum(rank < -0.8 for rank in every)} of {len(seeds)} seeds: {spread(every)}\n  of orders with "
        f"{ENOUGH:.0%} of the strength or more, in {sum(rank < -0.8 for rank in present)}: {spread(present)}"
    )


def by_order(seeds: list[dict[str, Any]], at: str, key: str) -> list[str]:
    """Tell a number for every order."""
    return [spread(values) for values in zip(*(run[at][key] for run in seeds), strict=True)]


def draw(runs: Runs) -> Figure:
    """Draw the similarity by order, and below it how much of the strength is of that order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.2 * len(runs), 7), 5.6), layout="constrained")
    panels = figure.subplots(
        2, len(runs), squeeze=False, sharex="col", sharey="row", height_ratios=[2, 1]
    )  # fmt: skip
    for (upper, lower), (name, seeds) in zip(panels.T, runs.items(), strict=True):
        x = list(range(1, len(seeds[0]["bounded"]["end"]["share"]) + 1))
        for at, colour in MOMENTS.items():
            found = [run["bounded"][at] for run in seeds]
            draw_seeds(upper, x, [one["jaccard"] for one in found], color=colour, label=at, marker="o")
            draw_seeds(lower, x, [one["share"] for one in found], color=colour, marker="o")
        other = [run["bounded"]["end"]["other_class"] for run in seeds]
        draw_seeds(upper, x, other, color="gray", linestyle="--", label="end, test samples of another class")
        upper.set_title(f"{name}, {len(seeds)} seed(s)", fontsize=10)
        upper.set_ylim(0, 1)
        lower.set_ylim(bottom=0)
        lower.set_xticks(x)
        lower.set_xlabel("order (number of players)")
    panels[0, 0].set_ylabel("weighted Jaccard (0 to 1)")
    panels[1, 0].set_ylabel("share of the strength")
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(
        "Interactions shared by training and test samples of a class: does it fall with the order?\n"
        "Line: mean over seeds; band: their range",
        fontsize=11,
    )
    return figure


def main() -> None:
    options = parse(__doc__)
    runs = collect(options, NAMES, measure)
    tell(runs)
    leave(options, "jaccard", draw(runs), runs)


if __name__ == "__main__":
    main()
