"""Curves of a statistic, where they turn, and how sure that is: the same samples are watched at every moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from readings import BOUNDED
from recordings import Arrays

Array = NDArray[np.float64]
ORDERS = np.arange(1.0, 11)


@dataclass(frozen=True)
class Ratio:
    """A statistic that is a ratio of two sums over samples, both parts ``(M, B)``."""

    above: Array
    below: Array

    @staticmethod
    def mean_order(strength: Array, weights: Array | float = 1.0) -> Ratio:
        """Of strengths ``(M, B, ..., n)``, summed over what is between."""
        total = strength.reshape(*strength.shape[:2], -1, strength.shape[-1]).sum(-2) * weights
        return Ratio(total @ ORDERS, total.sum(-1))

    def of(self, samples: slice) -> Ratio:
        return Ratio(self.above[:, samples], self.below[:, samples])

    def curve(self) -> Array:
        return self.above.mean(-1) / self.below.mean(-1)

    def shares(self) -> Array:
        """Each sample's part ``(M, B)``, by the delta method; see `functional.interval.weighted_mean`."""
        x = self.curve()[:, None]
        return x + (self.above - x * self.below) / self.below.mean(-1, keepdims=True)


def ratios(found: Arrays) -> dict[str, Ratio]:
    """All statistics of a run at a site, from what `readings.strengths_of` returns."""
    orders = {name: Ratio.mean_order(found[f"{name}/salient"]) for name in ("exact", *BOUNDED)}
    return orders | {
        "growing": Ratio.mean_order(found["exact/growing"]),
        "effect_order": Ratio.mean_order(found["exact/all"], 2**-ORDERS),
        "mean_degree": Ratio.mean_order(found["energy"]),
        "roughness": Ratio(found["exact/all"].sum((-1, -2)), found["effect"]),
    }


@dataclass(frozen=True)
class Turn:
    """Start, lowest and end of a curve; z of the changes between, paired over samples.

    ``held_*``: the lowest moment is chosen on one half of the samples and the change tested on the other, both ways, so
    that nothing is gained by choosing the lowest of many.
    """

    start: float
    low: float
    low_epoch: float
    end: float
    fall: float
    rise: float
    held_fall: float
    held_rise: float


def turn_of(ratio: Ratio, epoch: Array) -> Turn:
    curve, shares = ratio.curve(), ratio.shares()
    low = int(np.nanargmin(curve))
    halves = [ratio.of(slice(half, None, 2)) for half in (0, 1)]
    falls, rises = [], []
    for chosen, tested in (halves, halves[::-1]):
        parts, place = tested.shares(), int(np.nanargmin(chosen.curve()))
        falls.append(parts[0] - parts[place])
        rises.append(parts[-1] - parts[place])
    return Turn(
        *(float(x) for x in (curve[0], curve[low], epoch[low], curve[-1])),
        *(_z(change) for change in (shares[0] - shares[low], shares[-1] - shares[low])),
        *(_z(np.concatenate(changes)) for changes in (falls, rises)),
    )


def _z(changes: Array) -> float:
    error = changes.std(ddof=1) / np.sqrt(len(changes))
    return float(changes.mean() / error) if error > 0 else 0.0
