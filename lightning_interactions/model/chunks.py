"""How many rows to give the model at once: the fastest number is found on the work itself, and memory respected."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_interactions.model.lockstep import Lockstep
from lightning_interactions.model.memory import free_memory, is_out_of_memory

# Without a `chunk_size`, a chunk holds at most this many rows and input numbers (16 MiB in float32).
MAX_CHUNK = 4096
CHUNK_ELEMENTS = 2**22

FIRST_CHUNK = 32
TRIALS = 3  # chunks timed at each size; the fastest of them counts, for others may be at work on the machine
GAIN = 0.03  # a larger chunk must be faster by this fraction, or it is not worth its memory
PATIENCE = 1  # sizes in a row that may fail to gain before the search ends: the time per row need not fall evenly


class ChunkSize:
    """Rows of one forward pass: the number given, or else the fastest.

    The search for it begins small and doubles for as long as the time per row falls. What is timed are chunks of the
    very work to be done, so nothing runs twice; keep the object, and the next call begins at the size found. Either way
    the size is halved for good when memory does not suffice.

    Under ``torch.use_deterministic_algorithms`` nothing is timed: the size would depend on the machine's load, and with
    it the last bits of the results. Nor with a ``lockstep``, where all ranks have one size, and halve it together.
    """

    def __init__(
        self,
        given: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        lockstep: Lockstep | None = None,
    ) -> None:
        self.rows = given or 0  # for the next forward pass; 0 until `suit` was called
        self.searching = given is None  # whether `record` wants to know how long forward passes take
        self._clock, self._lockstep = clock, lockstep
        self._halvings = 0 if lockstep is None else lockstep.halvings  # those of the lockstep that were followed
        self._limit = 0
        self._best = (float("inf"), 0)
        self._times: list[float] = []
        self._misses = 0

    def suit(self, samples: Tensor) -> None:
        """Learn what one row looks like from ``(B, *shape)`` of what is masked; only the first call counts."""
        if self.rows:
            return
        self._limit = default_chunk_size(samples)
        self.rows = min(FIRST_CHUNK, self._limit)
        if torch.are_deterministic_algorithms_enabled() or self._lockstep is not None:
            self.rows, self.searching = min(self._limit, 64 if samples.device.type == "cpu" else 1024), False

    def record(self, rows: int, seconds: float) -> None:
        """Take note of one forward pass and choose the size of the next; fewer rows than asked for say nothing."""
        if not self.searching or rows < self.rows:
            return
        self._times.append(seconds / rows)
        if len(self._times) < TRIALS:
            return
        pace = min(self._times)
        self._times.clear()
        if pace < (1 - GAIN) * self._best[0]:
            self._best, self._misses = (pace, self.rows), 0
        else:
            self._misses += 1
        if self._misses > PATIENCE or 2 * self.rows > self._limit:
            self.rows, self.searching = self._best[1], False
        else:
            self.rows *= 2

    def halve(self) -> None:
        """Memory did not suffice."""
        self.rows = min(self.rows // 2, self._best[1] or self.rows)
        self.searching = False

    def run(self, total: int, step: Callable[[int, int], int], device: torch.device) -> None:
        """Work through ``total`` rows on a device.

        ``step(position, at_most) -> done`` does some of them from a position on, and is called again for the same ones
        if memory did not suffice.
        """
        position = 0
        while position < total:
            self._meet_others()
            try:
                started = self._now(device)
                done = step(position, self.rows)
                self.record(done, self._now(device) - started)
            except (RuntimeError, MemoryError) as error:
                if self.rows == 1 or not is_out_of_memory(error):
                    raise
                done = 0
            if not done:  # outside `except`, where the traceback would keep the tensors alive
                self.halve()
                if self._lockstep is not None:
                    self._lockstep.ran_out_of_memory()
                    self._halvings += 1
                free_memory()
            position += done

    def _meet_others(self) -> None:
        """Make the next pass as small as on a rank that ran out of memory."""
        if self._lockstep is not None:
            self._lockstep.announce()
            for _ in range(self._lockstep.halvings - self._halvings):
                self.rows = max(self.rows // 2, 1)
            self._halvings = self._lockstep.halvings

    def _now(self, device: torch.device) -> float:
        """Read the clock; while searching, once the device has finished what it was given."""
        if self.searching and device.type in ("cuda", "mps", "xpu"):
            getattr(torch, device.type).synchronize()
        return self._clock()


def at_least_two(rows: Tensor) -> Tensor:
    """Return two copies of a single row: models that squeeze their outputs mistake it. More rows stay as they are.

    Example:
        >>> at_least_two(torch.ones(1, 3)).shape, at_least_two(torch.ones(5, 3)).shape
        (torch.Size([2, 3]), torch.Size([5, 3]))
    """
    return rows.expand(2, *rows.shape[1:]).clone() if len(rows) == 1 else rows


def default_chunk_size(samples: Tensor) -> int:
    """Return the most rows of ``(B, *shape)`` per forward when the user did not say."""
    return max(32, min(MAX_CHUNK, CHUNK_ELEMENTS // max(samples[:1].numel(), 1)))
