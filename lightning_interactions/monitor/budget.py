"""What the monitor costs a training: one clock for all of its work, and the share of the time it may take."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Budget:
    """The seconds the monitor has spent, whatever on, and whether it may go on to spend.

    A measurement is within the budget if all seconds spent, with those of one more record of average cost, stay below
    ``max_overhead`` times the time of training. Beyond the budget one is made only once the training is twice as long
    as it was at the last record. So a run of T validations keeps at least ``1 + floor(log2(T))`` records, spread evenly
    on a logarithmic axis as training itself is fastest at its start, and only these may exceed the share.

    Args:
        max_overhead: The share; ``None`` for no limit.
    """

    def __init__(self, max_overhead: float | None = None) -> None:
        self.max_overhead = max_overhead
        self.records = 0
        self._spent = self._recorded = self._before = 0.0
        self._depth = 0
        self._began = self._started = time.perf_counter()

    def start(self) -> None:
        """Take note that training begins now; what was spent before counts, but not as time of the training."""
        self._started, self._before = time.perf_counter(), self.spent

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the time inside as spent; one inside another counts once."""
        if self._depth == 0:
            self._began = time.perf_counter()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._spent += time.perf_counter() - self._began

    @property
    def spent(self) -> float:
        """All seconds spent so far."""
        return self._spent + (time.perf_counter() - self._began if self._depth else 0.0)

    @property
    def training(self) -> float:
        """Seconds of training so far, without those spent."""
        return time.perf_counter() - self._started - (self.spent - self._before)

    @property
    def unrecorded(self) -> float:
        """Seconds spent since the last record."""
        return self.spent - self._recorded

    def record(self) -> float:
        """Take note of a record; return the seconds spent since the one before."""
        seconds, self._recorded = self.unrecorded, self.spent
        self.records += 1
        return seconds

    def allows(self, step: int, last_step: int | None) -> bool:
        """Whether to measure at this step, the last record being of another; the first one is always made."""
        if self.max_overhead is None or not self.records or last_step is None:
            return True
        within = self.spent * (1 + 1 / self.records) <= self.max_overhead * self.training
        return within or step >= 2 * last_step


class _HasBudget(Protocol):
    @property
    def budget(self) -> Budget: ...


_S = TypeVar("_S", bound=_HasBudget)


def timed(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Count all that a method of what has a ``budget`` does as spent."""

    def wrapper(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self.budget.at_work():
            return method(self, *args, **kwargs)

    functools.update_wrapper(wrapper, method)
    return wrapper
