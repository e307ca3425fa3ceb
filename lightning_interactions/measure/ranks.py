"""The processes that share the work of a measurement. No Lightning, no torch.distributed: only functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import MeasureError
from lightning_interactions.model.lockstep import GaveUpError, Lockstep

PROBLEM_BYTES = 400
"""Ranks tell each other so much of what went wrong."""

GATHER_BYTES = 2**26
"""Rows of unequal numbers are exchanged in pieces of so much memory: the ranks with fewer send padding."""

CELLS = 32
"""Pairs of sample and coalition are shared out in units of so many: a forward of fewer rows is not worth its call."""


def _alone(tensor: Tensor) -> Tensor:
    return tensor


def _alone_in_a_list(item: Any) -> list[Any]:
    return [item]


@dataclass(frozen=True)
class Ranks:
    """The processes that share the work."""

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Tensor], Tensor] = _alone  # (share, ...) -> (world_size * share, ...), ranks in order
    gather_objects: Callable[[Any], list[Any]] = _alone_in_a_list  # what is small and can be pickled -> that of all
    lockstep: Lockstep | None = None  # how the model is asked where it is split over ranks

    def share(self, size: int) -> slice:
        """Return the rows of this rank's share of ``size``; shares differ by one row at most."""
        return slice(size * self.rank // self.world_size, size * (self.rank + 1) // self.world_size)

    def exchange(self, local: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, which may differ in their number of rows: what torchmetrics asks for."""
        if self.world_size == 1:
            return [local]
        if local.ndim == 0:
            return list(self.gather(local[None]).to(local.device).unbind())
        counts = self.gather(torch.tensor([len(local)])).tolist()
        padded = local.new_zeros(max(counts), *local.shape[1:])
        padded[: len(local)] = local
        everyone = self.gather(padded).to(local.device).view(len(counts), *padded.shape)
        return [part[:count] for part, count in zip(everyone, counts, strict=True)]

    def cells(self, total: int) -> range:
        """Return this rank's share in all (sample, coalition) pairs; shares differ by `CELLS` at most."""
        units = self.share(-(-total // CELLS))
        return range(min(units.start * CELLS, total), min(units.stop * CELLS, total))

    def gather_rows(self, local: Tensor, counts: Sequence[int]) -> Tensor:
        """Gather tensors of unequal ``counts`` of rows, of whatever type, bit by bit, to the CPU; ranks in order."""
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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do this rank's part of some work, with no exchange inside; all ranks raise a `MeasureError` if one failed."""
        cause: Exception | None = None
        try:
            with self.section():
                yield
        except Exception as error:  # whatever a user's model, score or players may raise
            cause = error
        own = cause is not None and not isinstance(cause, GaveUpError)
        problem = self.agree(f"{type(cause).__name__}: {cause}" if own else None)
        if problem or cause is not None:
            raise MeasureError(problem or str(cause)) from cause

    def asking(self, model: nn.Module, wrapper: nn.Module | None = None) -> Ranks:
        """Return these ranks as they ask a model; for the ``wrapper`` of one that is split over them see `Lockstep`."""
        if self.lockstep is not None and self.lockstep.module is model:
            return self
        return replace(self, lockstep=Lockstep.of(model) if wrapper is None else Lockstep(model, wrapper=wrapper))

    def section(self) -> AbstractContextManager[None]:
        """Ask the model inside; of one that is split over ranks see `Lockstep.section`."""
        return nullcontext() if self.lockstep is None else self.lockstep.section()

    def all(self, flag: bool) -> bool:
        """Whether something holds on all ranks, where that has to be known: of a model that is split."""
        return flag if self.lockstep is None else self.lockstep.all(flag)

    def agree(self, problem: str | None) -> str | None:
        """Return the own problem, or that of the first rank that has one: all give up together, and none waits."""
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
