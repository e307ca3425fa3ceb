"""Places in a training, by Lightning's count: at 3 epoch 3 has ended, at 2.25 a quarter of it is done; -1 is its start.

The number is that of the epochs of training done, less one. People are told it in words.
"""

from __future__ import annotations

import math

START = -1.0
"""The place before anything was trained."""


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


def tell_epoch(place: float, *, short: bool = False) -> str:
    """Name a place in words; ``short`` where there is little room.

    Example:
        >>> [tell_epoch(place) for place in (-1, 8, 2.25)], tell_epoch(2.25, short=True)
        (['initialisation', 'epoch 8', 'epoch 3 (25 % through)'], 'epoch 3, 25 %')
    """
    if place <= START:
        return "initialisation"
    if place == int(place):
        return f"epoch {int(place)}"
    through = min(max(round(100 * (place - math.floor(place))), 1), 99)
    return f"epoch {whole_epoch(place)}, {through} %" if short else f"epoch {whole_epoch(place)} ({through} % through)"


def begin_with_epoch(place: float) -> str:
    """Name a place at the beginning of a sentence: ``"Epoch 8"``."""
    return tell_epoch(place).capitalize()
