"""The processes that share the work of a measurement. No Lightning, no torch.distributed: only functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_interactions.errors import InteractionsError
from lightning_interactions.measure.samples import shard

PROBLEM_BYTES = 400
"""Ranks tell each other so much of what went wrong."""

GATHER_BYTES = 2**26
"""Rows of unequal numbers are exchanged in pieces of so much memory: the ranks with fewer send padding."""

CELLS = 32
"""Pairs of sample and coalition are shared out in units of so many: a forward of fewer rows is not worth its call."""


T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that share the work.

    Attributes:
        rank: This one.
        world_size: How many there are.
        gather: ``tensor (share, ...) -> (world_size * share, ...)``, ranks in order.
        gather_objects: ``picklable object -> those of all ranks``, in order; for what is small.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor
    gather_objects: Callable[[Any], list[Any]] = lambda item: [item]

    def share(self, size: int) -> Tensor:
        """Return the rows of this rank's share.

        Args:
            size: Rows in all.
        """
        return shard(size, self.rank, self.world_size)

    def collect(self, local: Tensor, size: int) -> Tensor:
        """Gather the shares of all ranks in order, without the rows that wrapped around.

        Args:
            local: This rank's rows.
            size: Rows in all.
        """
        return self.gather(local)[:size]

    def cells(self, total: int) -> range:
        """Return this rank's share of all (sample, coalition) pairs; the largest is one unit above the smallest.

        Args:
            total: Pairs in all.

        Example:
            >>> [Ranks(rank, 2).cells(200) for rank in range(2)]
            [range(0, 96), range(96, 200)]
        """
        return self._cells(self.rank, total)

    def join(self, local: Tensor, total: int) -> Tensor:
        """Gather what each rank has found for its `cells`.

        Args:
            local: This rank's values, one for each of its cells.
            total: Pairs in all.

        Returns:
            ``(total,)``.
        """
        shares = [len(self._cells(rank, total)) for rank in range(self.world_size)]
        padded = local.new_zeros(max(shares))
        padded[: len(local)] = local
        parts = self.gather(padded).view(self.world_size, -1)
        return torch.cat([part[:share] for part, share in zip(parts, shares, strict=True)])

    def gather_rows(self, local: Tensor, counts: Sequence[int]) -> Tensor:
        """Gather tensors of unequal numbers of rows, of whatever type, bit by bit.

        Args:
            local: This rank's rows ``(counts[rank], *shape)``, on the CPU; shape and type are those of all ranks.
            counts: Rows of each rank, known to all of them.

        Returns:
            ``(sum(counts), *shape)`` on the CPU, ranks in order.
        """
        width = math.prod(local.shape[1:]) * local.element_size()
        if self.world_size == 1 or not width:
            return local if self.world_size == 1 else local.new_empty((sum(counts), *local.shape[1:]))
        # Bytes: not every backend can send every type.
        rows = local.reshape(len(local), width // local.element_size()).contiguous().view(torch.uint8)
        parts: list[list[Tensor]] = [[] for _ in counts]
        piece = max(GATHER_BYTES // (width * self.world_size), 1)
        for start in range(0, max(counts), piece):
            padded = torch.zeros(min(piece, max(counts) - start), width, dtype=torch.uint8)
            own = rows[start : start + len(padded)]
            padded[: len(own)] = own
            everyone = self.gather(padded).cpu().view(self.world_size, *padded.shape)
            for part, found, count in zip(parts, everyone, counts, strict=True):
                part.append(found[: max(count - start, 0)].clone())  # a view would keep the padding
        whole = torch.cat([found for part in parts for found in part]) if max(counts) else rows
        return whole.view(local.dtype).view(-1, *local.shape[1:])

    def together(self, work: Callable[[], T]) -> T:
        """Do this rank's part of some work, without any exchange inside, and learn whether all ranks got through.

        Args:
            work: What to do.

        Returns:
            What it returned.

        Raises:
            MeasureError: On every rank, if one of them failed.
        """
        cause: Exception | None = None
        try:
            done = work()
        except Exception as error:  # whatever a user's model, score or players may raise
            cause = error
        problem = self.agree(f"{type(cause).__name__}: {cause}" if cause else None)
        if problem:
            raise MeasureError(problem) from cause
        return done

    def _cells(self, rank: int, total: int) -> range:
        units = -(-total // CELLS)
        first, end = (min(units * r // self.world_size * CELLS, total) for r in (rank, rank + 1))
        return range(first, end)

    def agree(self, problem: str | None) -> str | None:
        """Learn whether any rank has a problem, so that all of them give up together instead of waiting for each other.

        Args:
            problem: This rank's, or ``None``.

        Returns:
            The own problem, or that of the first rank that has one, or ``None`` if all is well.
        """
        text = (problem or "").encode()[:PROBLEM_BYTES]
        padded = torch.zeros(1, PROBLEM_BYTES + 1, dtype=torch.uint8)
        padded[0, 0] = problem is not None
        padded[0, 1 : len(text) + 1] = torch.tensor(list(text), dtype=torch.uint8)
        everyone = self.gather(padded).cpu()
        failed = everyone[:, 0].nonzero().flatten().tolist()
        if problem is not None or not failed:
            return problem
        words = bytes(everyone[failed[0], 1:].tolist()).rstrip(b"\0").decode(errors="replace")
        return f"on rank {failed[0]}: {words}"


class MeasureError(InteractionsError, RuntimeError):
    """A measurement failed, on this rank or on another."""
