"""Wrong labels
============

Samples with a wrong label are learned by interactions of higher order than others (arXiv 2405.10262, section 3).

A first network is trained; of every class the training samples that it is least sure of get its second-best class as
their label; a second network is trained on these labels. The interactions that the second one uses for some of the
relabelled samples are compared with those for other training samples. Where the paper relabels 100 samples of every
class, this relabels as many as a 200th of all training samples. The samples are hard ones too, not only wrong ones; the
difference before training shows what the choice alone makes.

The interval of a difference of mean orders is that of two independent groups of samples: the half-widths of both (the
jackknife of ``ratio_interval``) are added in squares. Each group has a scale of its own, as the package reads groups; a
check reads both with one scale.

::

    python examples/papers/wrong_labels.py [--seeds 0 1 2] [--fast] [--full --device cuda]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from reading import Runs, collect, curve, draw_orders, follow, leave, order_interval, signs, spread, strength, thin
from recording import Recording, parse
from torch import Tensor

from lightning_interactions.functional import mean_order
from lightning_interactions.metrics.drawing import BLUE, VERMILLION

NAMES = ("lenet_mnist_relabelled", "alexnet_cifar10_relabelled")
GROUPS = {"wrong": VERMILLION, "clean": BLUE}


def difference(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """How much higher the mean order of the first group is, with its interval: the samples are not the same."""
    (a, _, a_end), (b, _, b_end) = order_interval(first), order_interval(second)
    half = math.hypot(a_end - a, b_end - b)
    return a - b, a - b - half, a - b + half


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
        print(f"  verdict: at the end the mean order of wrong labels is higher in {signs(found)}")


def main() -> None:
    options = parse(__doc__)
    runs = collect(options, NAMES, measure)
    tell(runs)
    title = "Samples with wrong labels: is their line above that of clean ones at the end?"
    leave(options, "wrong_labels", draw_orders(runs, GROUPS, title), runs)


if __name__ == "__main__":
    main()
