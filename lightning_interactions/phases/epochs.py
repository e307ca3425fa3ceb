"""Places in a training, by Lightning's count: at 3 epoch 3 has ended, at 2.25 a quarter of it is done; -1 is its start.

The number is that of the epochs of training done, less one; in a training without epochs (an endless stream) that of
its steps done, less one: at 1199 Lightning logs at step 1199. Decisions only look at ratios of what is done, which do
not depend on that unit. People are told a place in words.
"""

from __future__ import annotations

import math
from typing import Literal

START = -1.0
"""The place before anything was trained."""

Unit = Literal["epoch", "step"]
"""What places are counted in."""


def whole_epoch(place: float) -> int:
    """Return the epoch in whose course a place lies.

    Example:
        >>> [whole_epoch(place) for place in (-1, -0.5, 2, 2.25)]
        [0, 0, 2, 3]
    """
    return max(0, math.ceil(place))


def is_inside(place: float) -> bool:
    """Whether a place is not the end of an epoch: inside of one, or before the first."""
    return place < 0 or place != int(place)


def exact_or(epoch: int, place: float) -> float:
    """Return a place that is known more exactly, if it lies in the course of that epoch; else the epoch."""
    return place if math.isfinite(place) and whole_epoch(place) == epoch else epoch


def plain_epoch(place: float) -> float:
    """Return a place as a whole number where it is the end of an epoch, or the start."""
    return int(place) if place == int(place) else float(place)


def tell_place(place: float, unit: Unit = "epoch", *, short: bool = False) -> str:
    """Name a place in words; ``short`` where there is little room.

    Example:
        >>> [tell_place(place) for place in (-1, 8, 2.25)], tell_place(2.25, short=True), tell_place(8, "step")
        (['initialisation', 'epoch 8', 'epoch 3 (25 % through)'], 'epoch 3, 25 %', 'step 8')
    """
    if place <= START:
        return "initialisation"
    if place == int(place):
        return f"{unit} {int(place)}"
    through = min(max(round(100 * (place - math.floor(place))), 1), 99)
    where = f"{unit} {whole_epoch(place)}"
    return f"{where}, {through} %" if short else f"{where} ({through} % through)"


def begin_with_place(place: float, unit: Unit = "epoch") -> str:
    """Name a place at the beginning of a sentence: ``"Epoch 8"``."""
    return tell_place(place, unit).capitalize()
