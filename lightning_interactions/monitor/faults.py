"""Keeping the monitor's own faults away from the training run: contained, told once, switched off if they go on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_interactions.errors import InteractionsError, sentence, warn

_NUMBERS = re.compile(r"\d+(\.\d+)?(, #)*")
"""What may differ between two texts of one kind."""

MAX_FAILURES = 3
"""After so many failed measurements in a row the monitor is switched off for the rest of the run."""


class Faults:
    """What went wrong so far in one run; with ``on_error="raise"`` faults are let through."""

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error
        self.switched_off = False
        self._in_a_row = 0
        self._told: set[str] = set()

    @contextmanager
    def contain(self, what: str, happened: Callable[[str], object], *, counts: bool = False) -> Iterator[None]:
        """Catch whatever is raised inside, warn and go on; ``happened`` gets the text, if it is a new one.

        ``what`` is being done, for the text: "measuring". With ``counts`` such failures in a row switch the monitor
        off; only for work that fails on all ranks alike.
        """
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            problem = f"{what} failed: {error if isinstance(error, InteractionsError) else repr(error)}"
            if self.tell(problem):
                happened(problem)
            self._in_a_row += counts
            if counts and self._in_a_row >= MAX_FAILURES:
                self.switched_off = True
                self.tell(f"switched off for the rest of this run after {MAX_FAILURES} failures in a row")

    def switch_off(self, reason: str) -> None:
        """Give up for the rest of the run, and say why; this one is not to be overlooked."""
        self.switched_off = True
        self.tell(f"switched off for this run: {reason}")

    def recovered(self) -> None:
        """Take note that a measurement succeeded."""
        self._in_a_row = 0

    def tell(self, problem: str) -> bool:
        """Warn on rank 0 of what was worked around, once for each kind of text; return whether it is a new one."""
        kind = _NUMBERS.sub("#", problem)
        if kind in self._told:
            return False
        self._told.add(kind)
        text = sentence(f"TwoPhaseMonitor: {problem}")
        try:
            rank_zero_only(warn)(text)
        except Warning:  # where warnings are errors, ours must not become one in the middle of a run
            rank_zero_info(text)
        return True
