"""Samples with a wrong label are learned by interactions of higher order than others (arXiv 2405.10262, section 3).

A first network is trained; of every class the training samples that it is least sure of get its second-best class as
their label; a second network is trained on these labels. The interactions that the second one uses for some of the
relabelled samples are compared with those for other training samples. Where the paper relabels 100 samples of every
class, this relabels as many as a 200th of all training samples. The samples are hard ones too, not only wrong ones; the
difference before training shows what the choice alone makes.

The interval of a difference of mean orders is that of two independent groups of samples: the half-widths of both (the
jackknife of `ratio_interval`) are added in squares. Each group has a scale of its own, as the package reads groups; a
check reads both with one scale.

    python examples/papers/wrong_labels.py [--seeds 0 1 2] [--fast] [--full --device cuda]
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from reading import curve, leave, spread, strength
from recording import Recording, parse, recordings
from torch import Tensor

from lightning_interactions.functional import high_order_share, mean_order
from lightning_interactions.functional.interval import ratio_interval
from lightning_interactions.metrics.drawing import BLUE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("lenet_mnist_relabelled", "alexnet_cifar10_relabelled")
GROUPS = {"wrong": VERMILLION, "clean": BLUE}
RECORDS = 16  # as splitting takes its time, curves have at most so many records
Runs = dict[str, list[dict[str, Any]]]  # by setting, one for every seed


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


def difference(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """How much higher the mean order of the first group is, with its interval: the samples are not the same."""
    (a, _, a_end), (b, _, b_end) = order_interval(first), order_interval(second)
    half = math.hypot(a_end - a, b_end - b)
    return a - b, a - b - half, a - b + half


def follow(group: Tensor) -> dict[str, list[float]]:
    """Curves of strength ``(M, B, 2, n)`` over the records."""
    order, lower, upper = zip(*(order_interval(record) for record in group), strict=True)
    mean = group.nanmean(1)
    return {
        "mean_order": list(order), "lower": list(lower), "upper": list(upper),
        "high_order_share": high_order_share(mean).tolist(), "total": mean.sum((-2, -1)).tolist(),
    }  # fmt: skip


def measure(rec: Recording) -> dict[str, Any]:
    """Read the numbers of one run."""
    best = int(rec.test_loss.argmin())
    at_best = [strength(rec.values[group][best]) for group in GROUPS]
    best_epoch, rec = float(rec.epoch[best]), thin(rec)
    wrong, clean = (curve(rec, group) for group in GROUPS)
    both = strength(torch.cat([rec.values["wrong"][-1], rec.values["clean"][-1]]))
    ends = both.split([wrong.shape[1], clean.shape[1]])
    return {
        "seed": rec.seed, "epoch": rec.epoch.tolist(), "best_epoch": best_epoch,
        "wrong": follow(wrong), "clean": follow(clean),
        "difference_start": difference(wrong[0], clean[0]),
        "difference_end": difference(wrong[-1], clean[-1]),
        "difference_best": difference(*at_best),
        "difference_end_one_scale": difference(*ends),
        "mean_order_one_scale": [float(mean_order(part.nanmean(0))) for part in ends],
    }  # fmt: skip


# -- telling ----------------------------------------------------------------------------------------------------------


def tell(runs: Runs) -> None:
    """Print the table and the verdict."""
    for name, seeds in runs.items():
        print(f"\n{name}: wrong labels against clean ones, mean over {len(seeds)} seed(s) (range)")
        rows = {
            "mean order at the end, wrong": [run["wrong"]["mean_order"][-1] for run in seeds],
            "mean order at the end, clean": [run["clean"]["mean_order"][-1] for run in seeds],
            "share of high orders at the end, wrong": [run["wrong"]["high_order_share"][-1] for run in seeds],
            "share of high orders at the end, clean": [run["clean"]["high_order_share"][-1] for run in seeds],
            "difference of mean order at the end": [run["difference_end"][0] for run in seeds],
            "... with one scale for both": [run["difference_end_one_scale"][0] for run in seeds],
            "... at the best test loss": [run["difference_best"][0] for run in seeds],
            "... before training": [run["difference_start"][0] for run in seeds],
            "epoch of the best test loss": [run["best_epoch"] for run in seeds],
        }
        for label, values in rows.items():
            print(f"  {label:<40}{spread(values)}")
        found = [run["difference_end"] for run in seeds]
        print(
            f"  verdict: at the end the mean order of wrong labels is higher in {sum(d[0] > 0 for d in found)} of "
            f"{len(found)} seeds, with an interval above 0 in {sum(d[1] > 0 for d in found)} "
            f"(below 0 in {sum(d[2] < 0 for d in found)})"
        )


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


def main() -> None:
    options = parse(__doc__)
    runs: Runs = defaultdict(list)
    for rec in recordings(options, NAMES):
        runs[rec.name].append(measure(rec))
    if not runs:
        print("no recordings")
        return
    tell(runs)
    title = "Samples with wrong labels: is their line above that of clean ones at the end?"
    leave(options, "wrong_labels", draw_orders(runs, GROUPS, title), runs)


if __name__ == "__main__":
    main()
