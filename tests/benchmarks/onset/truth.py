"""What hindsight says of a run. Fixed before any detector was tuned; only here is the test loss looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERFIT = 1.10
"""A run is overfit if its final test loss is at least this many times its lowest."""

TURN = 0.1
"""Orders by which the mean order must end above its minimum for a run to have turned at all: less nobody can see."""

GAP_SHARE = 0.05
"""The gap has not opened yet while it is within this share of its final range above its running minimum."""


@dataclass(frozen=True)
class Truth:
    """Hindsight on one run; epochs count from 0, after the first epoch of training.

    Attributes:
        overfit: Whether the final test loss is at least `OVERFIT` times its minimum.
        t_v: Epoch of the lowest test loss.
        t_g: Last epoch at which the gap between test and training loss had not opened.
        t_o: Measured epoch of the lowest mean order of the validation samples.
        turns: Whether the mean order ends at least `TURN` above its minimum.
        test_loss: Per epoch, medians of three.
    """

    overfit: bool
    t_v: int
    t_g: int
    t_o: int
    turns: bool
    test_loss: NDArray[np.float64]


def median3(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians of three neighbours; the first and last value take those of theirs, so that no odd one stands alone."""
    middle = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return np.concatenate([middle[:1], middle, middle[-1:]])


def _lowest(values: NDArray[np.float64]) -> int:
    """Place of the lowest median of three. Neighbouring medians are often the same value: the lowest value decides."""
    smooth = median3(values)
    return int(np.where(smooth == smooth.min(), values, np.inf).argmin())


def mean_orders(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean order ``(M,)`` of strengths ``(M, samples, 2, n)``."""
    totals = strength.astype(np.float64).sum((1, 2))
    return np.asarray((totals * np.arange(1, totals.shape[1] + 1)).sum(1) / np.maximum(totals.sum(1), 1e-12))


def truth_of(
    train_loss: NDArray[np.float64],
    test_loss: NDArray[np.float64],
    epochs: NDArray[np.int64],
    strength: NDArray[np.float64],
) -> Truth:
    """Look at a finished run.

    Args:
        train_loss: ``(E,)``, after epochs 0 to E - 1.
        test_loss: ``(E,)``, likewise.
        epochs: ``(M,)`` measured epochs from 0 on.
        strength: ``(M, samples, 2, n)`` at these.
    """
    test, train = median3(test_loss), median3(train_loss)
    gap = test - train
    low = np.minimum.accumulate(gap)
    closed = gap - low <= GAP_SHARE * max(gap[-1] - gap.min(), 0.0)
    raw_orders = mean_orders(strength)
    orders = median3(raw_orders)
    return Truth(
        overfit=bool(test[-1] >= OVERFIT * test.min()),
        t_v=_lowest(test_loss),
        t_g=int(np.flatnonzero(closed)[-1]),
        t_o=int(epochs[_lowest(raw_orders)]),
        turns=bool(orders[-1] - orders.min() >= TURN),
        test_loss=test,
    )
