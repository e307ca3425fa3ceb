"""How many rows to give the model at once: the fastest number is found on the work itself, and memory respected."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

MAX_CHUNK = 4096
CHUNK_ELEMENTS = 2**22
"""Without a `chunk_size`, a chunk holds at most this many input numbers (16 MiB in float32), and `MAX_CHUNK` rows."""

FIRST_CHUNK = 32
TRIALS = 3
"""Chunks that are timed at each size; the fastest of them counts, for others may be at work on the machine."""

GAIN = 0.03
"""A larger chunk must be faster by this fraction, or it is not worth its memory."""

PATIENCE = 1
"""Sizes in a row that may fail to gain before the search ends: the time per row need not fall evenly."""


class ChunkSize:
    """Rows of one forward pass.

    A given size is used as it is. Otherwise the search begins small and doubles for as long as the time per row falls.
    What is timed are chunks of the very work to be done, so nothing runs twice; keep the object, and the next call
    begins at the size found. Either way the size is halved for good when memory does not suffice.

    Under ``torch.use_deterministic_algorithms`` nothing is timed: the size would depend on the machine's load, and
    with it the last bits of the results.

    Args:
        given: Rows, or ``None`` to search for the fastest number.
        clock: Seconds.

    Attributes:
        rows: Largest number of rows for the next forward pass; 0 until `suit` was called.
        searching: Whether `record` wants to know how long forward passes take.

    Example:
        >>> chunks = ChunkSize()
        >>> chunks.suit(torch.zeros(1, 3, 32, 32))
        >>> for _ in range(12):
        ...     chunks.record(chunks.rows, seconds=0.1 + 0.001 * chunks.rows if chunks.rows < 100 else 1.0)
        >>> chunks.rows, chunks.searching
        (64, False)
    """

    def __init__(self, given: int | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.rows = given or 0
        self.searching = given is None
        self._clock = clock
        self._limit = 0
        self._best = (float("inf"), 0)
        self._times: list[float] = []
        self._misses = 0

    @classmethod
    def of(cls, chunk_size: int | ChunkSize | None) -> ChunkSize:
        """Return ``chunk_size`` itself if it is one already.

        Args:
            chunk_size: Rows, ``None``, or a `ChunkSize` kept from an earlier call.
        """
        return chunk_size if isinstance(chunk_size, ChunkSize) else cls(chunk_size)

    def suit(self, samples: Tensor) -> None:
        """Learn what one row looks like. Only the first call counts.

        Args:
            samples: ``(B, *shape)``: rows of the shape that is masked.
        """
        if self.rows:
            return
        self._limit = default_chunk_size(samples)
        self.rows = min(FIRST_CHUNK, self._limit)
        if torch.are_deterministic_algorithms_enabled():
            self.rows, self.searching = min(self._limit, 64 if samples.device.type == "cpu" else 1024), False

    def record(self, rows: int, seconds: float) -> None:
        """Take note of one forward pass, and choose the size of the next.

        Args:
            rows: How many it had; smaller ones than asked for say nothing.
            seconds: How long it took.
        """
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
        """Work through ``total`` rows.

        Args:
            total: How many.
            step: ``(position, at_most) -> done``: does some of the rows from ``position`` on, returns how many. It is
                called again for the same ones if memory did not suffice.
            device: Where the work is done.
        """
        position = 0
        while position < total:
            try:
                done = self._timed(position, step, device)
            except (RuntimeError, MemoryError) as error:
                if self.rows == 1 or not is_out_of_memory(error):
                    raise
                done = 0
            if not done:  # outside `except`, where the traceback would keep the tensors alive
                self.halve()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            position += done

    def _timed(self, position: int, step: Callable[[int, int], int], device: torch.device) -> int:
        if not self.searching:
            return step(position, self.rows)
        _wait(device)
        started = self._clock()
        done = step(position, self.rows)
        _wait(device)
        self.record(done, self._clock() - started)
        return done


def default_chunk_size(samples: Tensor) -> int:
    """Most rows per forward when the user did not say.

    Args:
        samples: ``(B, *shape)``.

    Example:
        >>> default_chunk_size(torch.zeros(1, 3, 32, 32))
        1365
    """
    return max(32, min(MAX_CHUNK, CHUNK_ELEMENTS // max(samples[:1].numel(), 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, on whatever device, did not suffice.

    Args:
        error: The exception.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA out of memory."))
        True
    """
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "out of memory" in text or "can't allocate memory" in text
    )


def _wait(device: torch.device) -> None:
    """Let the device finish what it was given: only then has the time passed."""
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).synchronize()
