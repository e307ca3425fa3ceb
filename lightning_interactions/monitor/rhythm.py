"""When to measure: the phases live on a logarithmic axis of epochs, so records are spread evenly on that.

Pure functions of where the training is and of the last record: they need no state, and so resume alike. How far the
training is, is counted in epochs done: 0 at initialisation, 3.25 after a quarter of the fourth epoch; or in steps done,
where there are no epochs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from lightning_interactions.phases.epochs import START

_ROUNDING = 1e-9
"""Of a logarithm: places come back from a history with the last bit changed."""


def crossed(per_octave: float, done: float, before: float | None) -> bool:
    """Whether a rung of a ladder was reached that has so many for each doubling of what is done.

    Example:
        >>> [crossed(2, done, 4.0) for done in (5, 5.7, 8)], crossed(2, 0.0, None)
        ([False, True, True], True)
    """
    return before is None or _rung(per_octave, done) > _rung(per_octave, before)


def _rung(per_octave: float, done: float) -> float:
    return math.floor(per_octave * math.log2(done) + _ROUNDING) if done > 0 else -math.inf


def is_due(
    epoch: float, step: int, last: Mapping[str, Any] | None, *, per_octave: int, every_n_epochs: int | None
) -> bool:
    """Whether the default rhythm, or every so many epochs, measures at a place.

    Args:
        epoch: Where the training is, as it is recorded: epochs (or steps) done, less one.
        step: Batches that stepped so far. They count where no two places of an epoch are told apart by it, since
            nobody knows how long that is.
        last: The last record.
        per_octave: Records per doubling of the epochs.
        every_n_epochs: Instead of these.
    """
    if last is None:
        return True
    if every_n_epochs is not None:
        return every_n_epochs == 1 or bool(epoch - last["epoch"] >= every_n_epochs)
    if epoch == last["epoch"]:
        return crossed(per_octave, step, last["step"] + 1)
    return crossed(per_octave, epoch - START, last["epoch"] - START)


def marks_per_epoch(epoch: int, per_octave: int, most: int) -> int:
    """At how many places of an epoch to ask: only at its end, once the rungs are further apart than epochs are."""
    return most if epoch * (2 ** (1 / per_octave) - 1) < 1 else 1


def marks(batches: int, number: int, validations: Collection[int] = ()) -> frozenset[int]:
    """Return after which batches of an epoch to ask: a number of them, evenly spaced, the last of all among them.

    A validation that is nearer to one of them than half their distance takes its place: it is measured anyway.

    Example:
        >>> sorted(marks(10, 4)), sorted(marks(10, 4, validations=[3, 6, 9]))
        ([3, 5, 8, 10], [3, 6, 9])
    """
    number = min(number, batches)
    found = set()
    for which in range(1, number + 1):
        at = -(-which * batches // number)
        near = [batch for batch in validations if 2 * number * abs(batch - at) <= batches]
        found.add(min(near, key=lambda batch: (abs(batch - at), batch)) if near else at)
    return frozenset(found)
