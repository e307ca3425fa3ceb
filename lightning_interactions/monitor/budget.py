"""How much of the training time measuring may take."""

from __future__ import annotations

import time


class Budget:
    """Keeps the share of measuring in the time of training below a limit, by skipping measurements.

    Args:
        max_overhead: Largest share, for example 0.1; ``None`` for no limit.

    Example:
        >>> budget = Budget(max_overhead=0.1)
        >>> budget.allows()  # the first measurement always
        True
    """

    def __init__(self, max_overhead: float | None = None) -> None:
        self.max_overhead = max_overhead
        self.restart()

    def restart(self) -> None:
        """Begin to count: training starts now."""
        self.measuring = 0.0
        self.last = 0.0
        self.count = 0
        self._started = time.perf_counter()

    @property
    def training(self) -> float:
        """Seconds of training so far, measuring left out."""
        return time.perf_counter() - self._started - self.measuring

    def allows(self) -> bool:
        """Whether one more measurement, as long as the last one, would stay within the limit."""
        if self.max_overhead is None or self.count == 0:
            return True
        return self.measuring + self.last <= self.max_overhead * self.training

    def spend(self, seconds: float) -> None:
        """Account for one measurement.

        Args:
            seconds: How long it took.
        """
        self.measuring += seconds
        self.last = seconds
        self.count += 1
