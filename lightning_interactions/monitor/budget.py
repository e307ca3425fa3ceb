"""What the monitor costs a training: one clock for all of its work, and the share of the time it may take."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from lightning_interactions.monitor.rhythm import crossed

GRACE = 60.0
"""Seconds that nobody minds: nothing is limited before they are spent."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Budget:
    """The seconds the monitor has spent, whatever on, and whether it may go on to spend.

    Nothing is limited before a minute is spent. From then on a measurement is within the budget if all seconds spent,
    with those of one more record of average cost, stay below ``max_overhead`` times the time of training; and where
    those of all that is wanted until the training is twice as long would not, the records are thinned out evenly on a
    logarithmic axis. Beyond the budget one is made only once the training is twice as long as it was at the last
    record. So a run of T epochs keeps at least ``1 + floor(log2(T))`` records, and only these may exceed the share.

    Args:
        max_overhead: The share; ``None`` for no limit.

    Attributes:
        binds: Whether a measurement was not allowed so far.
    """

    def __init__(self, max_overhead: float | None = None) -> None:
        self.max_overhead = max_overhead
        self.records = 0
        self.binds = False
        self._spent = self._recorded = self._before = self._first = 0.0
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
    def _cost(self) -> float:
        """Seconds of one more record: as those so far on average, but for the first, which has much to prepare."""
        return (self.spent - self._first) / (self.records - 1) if self.records > 1 else self.spent

    @property
    def unrecorded(self) -> float:
        """Seconds spent since the last record."""
        return self.spent - self._recorded

    def record(self) -> float:
        """Take note of a record; return the seconds spent since the one before."""
        seconds, self._recorded = self.unrecorded, self.spent
        if not self.records:
            self._first = self.spent
        self.records += 1
        return seconds

    def allows(self, now: float, before: float, *, wanted: float, per_octave: int) -> bool:
        """Whether to measure now; the first record is always made.

        Args:
            now: How far the training is, in epochs or whatever else grows with it.
            before: How far it was at the last record.
            wanted: How many records there would be until it is twice as far.
            per_octave: At most so many of them are kept where these are too many, or a half, a quarter, ... of it.
        """
        if self.max_overhead is None or not self.records:
            return True
        allowed = self._allows(now, before, wanted, per_octave)
        self.binds |= not allowed
        return allowed

    def _allows(self, now: float, before: float, wanted: float, rate: float) -> bool:
        share, cost = self.max_overhead or 0.0, self._cost
        if self.spent + cost < GRACE or now >= max(2 * before, 1):
            return True
        if self.spent + cost > share * self.training:
            return False
        later = 2 * share * self.training
        if self.spent + wanted * cost <= later:
            return True
        while rate > 1 and self.spent + rate * cost > later:
            rate /= 2
        return crossed(max(rate, 1), now, before)


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
