"""What is seen in the terminal: sentences beside Lightning's progress bar, and a bar of our own while measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

SHORT = 1.0
"""Measurements of so many seconds show no bar."""


def say(trainer: Any, text: str) -> None:
    """Print on rank 0 without breaking a progress bar that is being drawn."""
    if not trainer.is_global_zero:
        return
    bar = getattr(trainer, "progress_bar_callback", None)
    if bar is not None and getattr(bar, "is_enabled", False):
        bar.print(text)
    else:
        rank_zero_info(text)


def bars_cleared() -> AbstractContextManager[Any]:
    """Take progress bars off the terminal while others (the `warnings` module) write to it."""
    from tqdm import tqdm

    cleared: AbstractContextManager[Any] = tqdm.external_write_mode()
    return cleared


@contextmanager
def measuring(trainer: Any, total: int, *, enabled: bool) -> Iterator[Callable[[int], object]]:
    """Show a bar below Lightning's for a measurement that takes long; yields what takes the rows that are done."""
    from tqdm import tqdm

    # Only where Lightning draws bars by tqdm: one of rich, which redraws its own lines, would write over ours.
    bar: Any = getattr(trainer, "progress_bar_callback", None)
    drawn = "TQDMProgressBar" in {cls.__name__ for cls in type(bar).__mro__} and bar.is_enabled
    shown = enabled and drawn and trainer.is_global_zero
    with tqdm(
        total=total, desc="Interactions", unit="row", unit_scale=True, delay=SHORT, leave=False, disable=not shown
    ) as rows:

        def advance(done: int) -> None:
            with suppress(Exception):  # a terminal that fails is not worth a measurement
                rows.update(done)

        yield advance
