"""What is seen in the terminal: sentences beside Lightning's progress bar, long measurements in it, a closing table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_interactions.phases.event import PhaseEvent

SHORT = 1.0
"""Measurements of so many seconds leave the progress bar alone."""

REFRESH = 0.25
"""Seconds between two changes of the progress bar."""


def say(trainer: Any, text: str) -> None:
    """Print on rank 0 without breaking a progress bar that is being drawn.

    Args:
        trainer: The Trainer.
        text: What to say.
    """
    if not trainer.is_global_zero:
        return
    bar = getattr(trainer, "progress_bar_callback", None)
    if bar is not None and getattr(bar, "is_enabled", False):
        bar.print(text)
    else:
        rank_zero_info(text)


def short_sentence(event: PhaseEvent) -> str:
    """Tell an event in one short sentence; ``event.message`` tells more.

    Args:
        event: The event.

    Example:
        >>> short_sentence(PhaseEvent("boundary", 7, 21, evidence={"trough": 1.76, "level": 2.29}))
        'Epoch 21: phase boundary at epoch 7 (mean order rose from 1.76 to 2.29).'
        >>> short_sentence(PhaseEvent("retracted", 7, 30))
        'Epoch 30: the phase boundary at epoch 7 is withdrawn.'
    """
    e = event.evidence
    if event.kind == "boundary" and e.get("significant") == 0:
        what = f"phase 2 has begun by the losses; the mean order was lowest at epoch {event.epoch}."
    elif event.kind == "boundary":
        what = f"phase boundary at epoch {event.epoch}{_change(e, 'mean order rose', 'trough', 'level')}."
    elif event.kind == "overfitting":
        best = e.get("best_val_epoch", math.nan)
        since = f" of epoch {best:.0f}" if math.isfinite(best) else ""
        rose = _change(e, "validation loss rose", "best_val_loss", "val_loss")
        what = f"overfitting{rose}. Keep the checkpoint{since}."
    elif event.kind == "retracted":
        what = f"the phase boundary at epoch {event.epoch} is withdrawn."
    else:
        return event.message
    return f"Epoch {event.detected_epoch}: {what}"


def _change(evidence: Mapping[str, float], what: str, before: str, after: str) -> str:
    if before not in evidence or after not in evidence:
        return ""
    return f" ({what} from {evidence[before]:.3g} to {evidence[after]:.3g})"


def table(title: str, rows: Mapping[str, str]) -> str:
    """Set rows as text.

    Args:
        title: Line above them.
        rows: Values by name.

    Example:
        >>> print(table("Found", {"Phase boundary": "epoch 7", "Overfitting": "none found"}))
        Found
          Phase boundary  epoch 7
          Overfitting     none found
    """
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def bars_cleared() -> AbstractContextManager[Any]:
    """Take progress bars off the terminal while others (the `warnings` module) write to it."""
    from tqdm import tqdm

    cleared: AbstractContextManager[Any] = tqdm.external_write_mode()
    return cleared


@contextmanager
def measuring(trainer: Any, enabled: bool) -> Iterator[Callable[[float], None]]:
    """Show a long measurement in the bar Lightning draws anyway.

    Args:
        trainer: The Trainer.
        enabled: Whether to show anything.

    Yields:
        Takes the fraction that is done, 0 to 1. Whatever goes wrong in it is not worth a measurement, and ends it.
    """
    relabel = _relabel_of(trainer) if enabled and trainer.is_global_zero else None
    started, shown = time.perf_counter(), 0.0

    def progress(fraction: float) -> None:
        nonlocal relabel, shown
        now = time.perf_counter()
        if relabel is None or now - started < SHORT or now - shown < REFRESH:
            return
        shown = now
        try:
            relabel(f"Interactions {min(fraction, 1.0):.0%}")
        except Exception:
            relabel = None

    try:
        yield progress
    finally:
        if relabel is not None and shown:
            relabel(None)


def _relabel_of(trainer: Any) -> Callable[[str | None], None] | None:
    """Return what changes the label of the bar in use, and back with ``None``; ``None`` for bars that are not known."""
    bar = getattr(trainer, "progress_bar_callback", None)
    if bar is None or not getattr(bar, "is_enabled", False):
        return None
    validating = getattr(trainer, "validating", False) or getattr(trainer.state.stage, "value", "") == "validate"
    names = {cls.__name__ for cls in type(bar).__mro__}
    if "TQDMProgressBar" in names:
        line = bar.val_progress_bar if validating else bar.train_progress_bar
        label = line.desc

        def relabel_tqdm(text: str | None) -> None:
            line.set_description_str(label if text is None else f"{text}: ")

        return relabel_tqdm
    if "RichProgressBar" in names and bar.progress is not None:
        task = bar.val_progress_bar_id if validating else bar.train_progress_bar_id
        if task is None:
            return None
        known = next(item for item in bar.progress.tasks if item.id == task)
        description, visible = known.description, known.visible

        def relabel_rich(text: str | None) -> None:
            bar.progress.update(task, description=text or description, visible=visible if text is None else True)
            bar.refresh()

        return relabel_rich
    return None
