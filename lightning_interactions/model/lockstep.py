"""Asking a model that is split over ranks: its forward passes need them all, so they are made in step.

Before every pass the ranks meet and say what they are about to do. Whoever has nothing left to ask takes part in the
passes of the others; whoever has failed says so, and then all give up before the next pass. So no rank waits for one
that is gone, whichever of them has how much to do, and wherever one of them fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_interactions.errors import MeasureError
from lightning_interactions.model.shards import Shards, is_split

T = TypeVar("T")

Gather = Callable[[Tensor], Tensor]  # (numbers,) -> (ranks, numbers), on every rank

_DONE, _ASKING, _FAILED = range(3)


class GaveUpError(MeasureError):
    """Another rank failed, so that this one cannot go on."""


class Lockstep:
    """The passes of one model that is split over ranks.

    Args:
        module: The model.
        gather: How the ranks hear of each other; by default over the default process group.
        wrapper: What has to be called in its place, where that is what gathers weights: FSDP's, or DeepSpeed's engine.

    Attributes:
        halvings: How often memory has not sufficed, on the rank where that was most often.
    """

    def __init__(self, module: nn.Module, gather: Gather | None = None, wrapper: nn.Module | None = None) -> None:
        self.module = module
        self.halvings = 0
        self._own_halvings = 0
        self._gather = gather if gather is not None else _gather_on(module)
        self._wrapper = wrapper
        self._shards = Shards(module)
        self._depth = 0
        self._announced = False  # whether the other ranks wait for a pass of ours already
        self._again: Callable[[], object] | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Lockstep | None:
        """Return that of a module; ``None`` where it is whole on every rank, or there is but one.

        Example:
            >>> Lockstep.of(nn.Linear(2, 2)) is None
            True
        """
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return cls(module) if several and is_split(module) else None

    @property
    def repeats(self) -> bool:
        """Whether a rank can take part in the passes of others only by making some of its own, see `remember`."""
        return not self._shards

    def remember(self, again: Callable[[], object]) -> None:
        """Take note of a small pass that can be made at any time."""
        self._again = again

    @contextmanager
    def section(self) -> Iterator[None]:
        """Ask inside; all ranks enter, and leave it together. Where one fails the others get a `GaveUpError`."""
        if self._depth:
            yield
            return
        self._depth, failed = 1, True
        self._shards.begin()
        try:
            yield
            failed = False
        finally:
            others_failed = self._leave(failed)
            self._depth = 0
        if others_failed:
            raise GaveUpError("another rank failed")

    def call(self, forward: Callable[[], T]) -> T:
        """Make one forward pass, in a `section`."""
        if not self._announced:
            self.announce()
        self._announced = False
        try:
            return self._shards.run(forward)
        finally:
            self._shards.rest()

    def announce(self) -> None:
        """Meet before a pass is prepared, in a `section`: it may depend on what others have met with (`halvings`)."""
        self._keep_promise()
        if bool((self._meet(_ASKING) == _FAILED).any()):
            raise GaveUpError("another rank failed")
        self._announced = True

    def _keep_promise(self) -> None:
        """Take part in the pass that was announced, where it could not be prepared: the others are in it."""
        if self._announced:
            self._announced = False
            self._take_part()

    def ran_out_of_memory(self) -> None:
        """Let the other ranks know, at the next meeting, that passes are to be smaller."""
        self._own_halvings += 1
        self.halvings = max(self.halvings, self._own_halvings)

    def through(self, forward: Callable[..., T]) -> Callable[..., T]:
        """Call what wraps the module, so that it can gather weights, and inside of that ``forward`` on the module."""
        if self._wrapper is None:
            return forward
        wrapper, module = self._wrapper, self.module

        def call(*inputs: Tensor) -> T:
            def inside(*given: Any, **named: Any) -> T:
                _put_back(module, own)
                return forward(*given)

            own = module.__dict__.get("forward")
            module.__dict__["forward"] = inside
            try:
                return cast(T, wrapper(*inputs))
            finally:
                _put_back(module, own)

        return call

    def all(self, flag: bool) -> bool:
        """Whether something holds on all ranks; all of them ask."""
        return bool(self._gather(torch.tensor([int(flag), 0]))[:, 0].all())

    def _meet(self, what: int) -> Tensor:
        """Say what comes next on this rank; hear what does on all, ``(ranks,)``."""
        everyone = self._gather(torch.tensor([what, self._own_halvings]))
        self.halvings = self._own_halvings = int(everyone[:, 1].max())
        return everyone[:, 0]

    def _leave(self, failed: bool) -> bool:
        """Take part in the passes of others until none has any left; return whether only others failed."""
        self._keep_promise()
        while True:
            everyone = self._meet(_FAILED if failed else _DONE)
            some_failed, some_ask = (bool((everyone == state).any()) for state in (_FAILED, _ASKING))
            if not some_ask:
                return some_failed and not failed
            if not some_failed:
                self._take_part()

    def _take_part(self) -> None:
        if self._shards:
            self._shards.take_part()
        elif self._again is not None:
            with suppress(Exception):  # it was answered before, and what comes of it now counts for nothing
                self._again()


def _put_back(module: nn.Module, forward: Any) -> None:
    module.__dict__.pop("forward", None)
    if forward is not None:
        module.__dict__["forward"] = forward


def _gather_on(module: nn.Module) -> Gather:
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))

    return lambda own: torch.stack(gather_all(own.to(device))).cpu()


def gather_all(own: Tensor) -> list[Tensor]:
    """Return what all processes of the default group have, in their order: tensors of one shape, on its device."""
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    return everyone
