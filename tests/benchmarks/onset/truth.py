"""What hindsight says of a run. Fixed before any detector was tuned; only here is the test loss looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERFIT = 1.10
"""A run is overfit if its final test loss is at least this many times its lowest."""

CLEARLY_NOT = 1.05
"""Below this it clearly is not; in between an alarm is no great mistake, though it counts as one."""

TURN = 0.1
"""Orders by which the mean order must end above its minimum for a run to have turned at all: less nobody can see."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """Hindsight on one run; epochs count from 0, after the first epoch of training.

    Attributes:
        overfit: Whether the final test loss is at least `OVERFIT` times its minimum; of public histories their label.
        ratio: The final test loss over its minimum.
        t_v: Epoch of the lowest test loss.
        t_o: Place of the lowest mean order of the validation samples; inside of epochs too. ``nan`` without.
        turns: Whether the mean order ends at least `TURN` above its minimum.
        test_loss: ``(E,)`` at the ends of epochs, medians of three.
    """

    overfit: bool
    ratio: float
    t_v: int
    t_o: float
    turns: bool
    test_loss: Floats

    def overfit_by(self, epoch: int) -> bool:
        """Whether it was overfit at the end of an epoch."""
        return bool(self.test_loss[epoch] >= OVERFIT * self.test_loss[: epoch + 1].min())


def median3(values: Floats) -> Floats:
    """Medians of three neighbours; the first and last value take those of theirs, so that no odd one stands alone."""
    if len(values) < 3:
        return values
    middle = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return np.concatenate([middle[:1], middle, middle[-1:]])


def ends_of_epochs(places: Floats) -> NDArray[np.bool_]:
    """Which places are ends of epochs, where most rules and the truth look."""
    return (places >= 0) & (places == np.round(places))


def _lowest(values: Floats) -> int:
    """Place of the lowest median of three. Neighbouring medians are often the same value: the lowest value decides."""
    smooth = median3(values)
    return int(np.where(smooth == np.nanmin(smooth), values, np.inf).argmin())


def mean_orders(strength: Floats) -> Floats:
    """Mean order ``(M,)`` of strengths ``(M, samples, 2, n)``."""
    totals = np.nansum(strength.astype(np.float64), (1, 2))
    return np.asarray((totals * np.arange(1, totals.shape[1] + 1)).sum(1) / np.maximum(totals.sum(1), 1e-12))


def truth_of(test_loss: Floats, epochs: Floats | None = None, strength: Floats | None = None) -> Truth:
    """Look at a finished run.

    Args:
        test_loss: ``(E,)``, after epochs 0 to E - 1.
        epochs: ``(M,)`` places of the records.
        strength: ``(M, samples, 2, n)`` of validation samples at these.
    """
    test = median3(test_loss)
    ratio = float(test[-1] / np.nanmin(test))
    turns, t_o = False, float("nan")
    if strength is not None and epochs is not None:
        raw = mean_orders(strength)
        orders = median3(raw)
        turns, t_o = bool(orders[-1] - orders.min() >= TURN), float(epochs[_lowest(raw)])
    return Truth(ratio >= OVERFIT, ratio, _lowest(test_loss), t_o, turns, test)
