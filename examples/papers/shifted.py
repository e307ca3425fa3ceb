"""Shifted inputs
==============

On inputs that are shifted from those trained on, interactions are of higher order (claim; see below).

arXiv 2407.19198 has networks that overfit learn interactions of ever higher orders, which do not generalise. If so,
inputs unlike those trained on should meet relatively more of them. The same test samples are read three times: as they
are, moved by an eighth of their width to the right and down (what leaves comes in again), and with normal noise of half
the standard deviation of the pixels. The score is that of the true label each time.

The interval of a difference of mean orders is that of pairs, as the samples are the same. Each group has a scale of its
own, as the package reads groups; a check reads all three with one scale.

::

    python examples/papers/shifted.py [--seeds 0 1 2] [--fast] [--full --device cuda]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from reading import Runs, collect, curve, draw_orders, follow, leave, signs, spread, strength, thin
from recording import Recording, parse
from torch import Tensor

from lightning_interactions.functional.interval import t_quantile, weighted_mean
from lightning_interactions.metrics.drawing import BLUE, GREEN, VERMILLION

NAMES = ("lenet_mnist", "alexnet_cifar10", "vgg11_cifar10")
GROUPS = {"test": BLUE, "moved": GREEN, "noisy": VERMILLION}
SHIFTED = ("moved", "noisy")


def paired(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """How much higher the mean order of the first group is, with its interval: the samples are the same."""
    by_order = torch.arange(1.0, first.shape[-1] + 1)
    (a, a_each), (b, b_each) = (weighted_mean(group, by_order) for group in (first, second))
    each = (a_each - b_each)[(a_each - b_each).isfinite()]
    if len(each) < 2:
        return a - b, math.nan, math.nan
    half = t_quantile(len(each) - 1) * float(each.std()) / math.sqrt(len(each))
    return a - b, a - b - half, a - b + half


def measure(rec: Recording) -> dict[str, Any]:
    """Read the numbers of one run."""
    rec = thin(rec)
    curves = {group: curve(rec, group) for group in GROUPS}
    ends = strength(torch.cat([rec.values[group][-1] for group in GROUPS])).chunk(len(GROUPS))
    one_scale = dict(zip(GROUPS, ends, strict=True))
    found: dict[str, Any] = {"seed": rec.seed, "epoch": rec.epoch.tolist()}
    for group, strengths in curves.items():
        at_end = strengths[-1].nanmean(0).sum(0)
        found[group] = follow(strengths) | {"by_order_end": at_end.tolist()}
        if group in SHIFTED:
            test = curves["test"][-1]
            reference = test.nanmean(0).sum(0)
            found[group] |= {
                "difference_start": paired(strengths[0], curves["test"][0]),
                "difference_end": paired(strengths[-1], test),
                "difference_end_one_scale": paired(one_scale[group], one_scale["test"]),
                "relative_total_end": float(at_end.sum() / reference.sum()),
                "relative_by_order_end": torch.where(reference > 0, at_end / reference, torch.nan).tolist(),
            }
    return found


def tell(runs: Runs) -> None:
    """Print the table and the verdict."""
    for name, seeds in runs.items():
        print(f"\n{name}: at the end of training, mean over {len(seeds)} seed(s) (range)")
        for group in GROUPS:
            own = [run[group] for run in seeds]
            print(f"  {group + ': mean order':<40}{spread([run['mean_order'][-1] for run in own])}")
            print(f"  {'share of high orders':<40}{spread([run['high_order_share'][-1] for run in own])}")
            if group in SHIFTED:
                tell_shifted(group, own)


def tell_shifted(group: str, own: list[dict[str, Any]]) -> None:
    """Print how a group differs from the test samples as they are."""
    print(f"  {'total strength relative to test':<40}{spread([run['relative_total_end'] for run in own])}")
    by_order = torch.tensor([run["relative_by_order_end"] for run in own]).nanmean(0)
    print(f"  {'... by order, from 1 on':<40}{' '.join(f'{x:.2f}' for x in by_order.tolist())}")
    print(f"  {'difference of mean order':<40}{spread([run['difference_end'][0] for run in own])}")
    print(f"  {'... with one scale for all':<40}{spread([run['difference_end_one_scale'][0] for run in own])}")
    print(f"  {'... before training':<40}{spread([run['difference_start'][0] for run in own])}")
    found = [run["difference_end"] for run in own]
    print(f"  verdict, {group}: the mean order is higher than on test in {signs(found)}")


def main() -> None:
    options = parse(__doc__)
    runs = collect(options, NAMES, measure)
    tell(runs)
    title = "Shifted inputs: are the lines of moved and noisy samples above that of test?"
    leave(options, "shifted", draw_orders(runs, GROUPS, title), runs)


if __name__ == "__main__":
    main()
