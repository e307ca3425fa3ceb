"""Rival stopping rules, each from its published definition. All see every epoch, and return the epoch of their alarm.

Parameters are the authors' own or the textbook's; nothing was tuned. A rule that never fires returns ``None``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from recordings import Floats, Recording

Rule = Callable[[Recording, int], "int | None"]


def _first(fires: Floats) -> int | None:
    hits = np.flatnonzero(fires)
    return int(hits[0]) if len(hits) else None


def patience(run: Recording, val_size: int, *, epochs: int) -> int | None:
    """Early stopping: so many epochs without a new lowest validation loss (Lightning's default is 3)."""
    loss = run.val(val_size)
    best = [int(loss[: e + 1].argmin()) for e in range(len(loss))]
    return _first(np.arange(len(loss)) - best >= epochs)


def generalisation_loss(run: Recording, val_size: int, *, alpha: float = 5.0) -> int | None:
    """GL (Prechelt 1998): validation loss more than ``alpha`` percent above its minimum so far."""
    return _first(_gl(run.val(val_size)) > alpha)


def progress_quotient(run: Recording, val_size: int, *, alpha: float = 2.0, strip: int = 5) -> int | None:
    """PQ (Prechelt 1998): GL over the progress of the training loss within the last strip, at strip ends."""
    gl = _gl(run.val(val_size))
    for end in range(strip - 1, len(gl), strip):
        last = run.train_loss[end - strip + 1 : end + 1]
        progress = 1000 * (last.mean() / last.min() - 1)
        if gl[end] > alpha * max(progress, 1e-12):
            return end
    return None


def up(run: Recording, val_size: int, *, strips: int = 4, strip: int = 5) -> int | None:
    """UP (Prechelt 1998): validation loss rose at the ends of so many strips in a row."""
    ends = run.val(val_size)[strip - 1 :: strip]
    rose = np.concatenate([[False], ends[1:] > ends[:-1]])
    for i in range(strips, len(ends)):
        if rose[i - strips + 1 : i + 1].all():
            return (i + 1) * strip - 1
    return None


def gap_cusum(run: Recording, val_size: int, *, slack: float = 0.5, limit: float = 5.0) -> int | None:
    """Page's CUSUM of the growth of the loss gap per epoch, in its running standard deviations."""
    growth = np.diff(run.val(val_size) - run.train_loss)
    total = 0.0
    for i in range(2, len(growth)):
        total = max(0.0, total + growth[i] / max(growth[: i + 1].std(), 1e-12) - slack)
        if total > limit:
            return i + 1
    return None


def label_wave(run: Recording, val_size: int, *, window: int = 3) -> int | None:
    """Label Wave (ICLR 2024): first local minimum of the moving average of the number of changed predictions.

    Told one epoch after the minimum. The paper's window is not in its released code; 3 is ours.
    """
    changes = run.changes[1:].astype(float)  # the first epoch has none before it
    smooth = np.convolve(changes, np.ones(window) / window, mode="valid")
    found = _first(np.diff(smooth) > 0)
    return None if found is None else found + 1 + window


def _gl(loss: Floats) -> Floats:
    return np.asarray(100 * (loss / np.minimum.accumulate(loss) - 1))


RIVALS: dict[str, Rule] = {
    "patience 3": partial(patience, epochs=3),
    "patience 5": partial(patience, epochs=5),
    "patience 10": partial(patience, epochs=10),
    "Prechelt GL5": generalisation_loss,
    "Prechelt PQ2": progress_quotient,
    "Prechelt UP4": up,
    "gap CUSUM": gap_cusum,
    "Label Wave": label_wave,
}
