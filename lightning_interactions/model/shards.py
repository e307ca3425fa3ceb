"""A model whose weights are split over ranks: where its parts are, and how to take part in a pass without making one.

Under ``fully_shard`` (FSDP2) each part gathers its weights from all ranks just before it runs, and gives them back
after. A rank that makes no pass while others do, or whose own pass failed half way, must gather along: the same parts,
in the same order. Under tensor parallelism a layer's own arithmetic is shared, and no rank can stand aside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import nn

from lightning_interactions.model.memory import free_memory, is_out_of_memory

T = TypeVar("T")


def is_split(model: nn.Module) -> bool:
    """Whether the weights of a model are split over ranks, so that its forward passes need all of them.

    Example:
        >>> is_split(nn.Linear(2, 2))
        False
    """
    wrapped = bool(_modules(model, "FullyShardedDataParallel"))
    return wrapped or bool(_parts(model)) or any(type(weight).__name__ == "DTensor" for weight in model.parameters())


def dtype_inside(model: nn.Module) -> torch.dtype | None:
    """Return the type of numbers in which split parts compute, whatever they are called with; ``None``: their own."""
    for part in _parts(model):
        policy = getattr(part._get_fsdp_state(), "_mp_policy", None)
        inside: torch.dtype | None = getattr(policy, "param_dtype", None)
        if inside is not None:
            return inside
    return None


class Shards:
    """The parts of a model that gather their weights when they run.

    Between passes all of them are to be at rest, their weights split: then every rank knows what the next pass gathers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = _parts(model)
        self._own = {id(part): _own_modules(part) for part in self._parts}
        self._split: set[int] = set()  # the weights as they are at rest
        self._route: list[Any] = []  # the parts that gather in a whole pass, in their order
        self._passed: list[Any] = []  # those that did so far in the present one
        self._left = True  # whether the last of these has run
        self._logs: list[tuple[list[Any], int]] = []  # torch's notes of passes, and how long they were at the begin

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._parts)

    def begin(self) -> None:
        """Come to rest before the first pass, whatever was gathered for somebody else."""
        self._logs = [(log, len(log)) for part in self._parts for log in _logs(part)]
        self.rest()
        self._split = {id(weight) for part in self._parts for weight in part.parameters()}

    def rest(self) -> None:
        """Give back what is gathered; a pass that failed has left parts that think it goes on.

        Torch keeps in mind which parts have run, for the order in which it gathers in the next backward pass: that must
        be the same on all ranks, so it is to know nothing of our passes.
        """
        for part in self._parts:
            _calm(part)
            part.reshard()
        for log, length in self._logs:
            del log[length:]

    def run(self, forward: Callable[[], T]) -> T:
        """Make a pass; where it fails, gather the rest of it, as the other ranks do, before that is raised."""
        self._passed, self._left = [], True
        # First of all hooks, so that a part is seen before it gathers.
        handles = [part.register_forward_pre_hook(self._enter, prepend=True) for part in self._parts]
        handles += [part.register_forward_hook(self._leave) for part in self._parts]
        failed: Exception | None = None
        try:
            output = forward()
        except Exception as error:
            failed = error
        finally:
            for handle in handles:
                handle.remove()
        if failed is None:
            self._route = self._passed
            return output
        if is_out_of_memory(failed):
            failed.__traceback__ = None  # which would keep the tensors alive
            free_memory()
        # The last part may have gathered or not: `unshard` does what is left of it.
        self._walk((self._route or self._parts)[len(self._passed) - (not self._left) :])
        raise failed

    def take_part(self) -> None:
        """Gather along in a pass that others make."""
        self._walk(self._route or self._parts)

    def _enter(self, part: Any, args: Any) -> None:
        weights = [weight for module in self._own[id(part)] for weight in module.parameters(recurse=False)]
        if any(id(weight) in self._split for weight in weights):
            self._passed.append(part)
            self._left = False

    def _leave(self, part: Any, args: Any, output: Any) -> None:
        self._left |= part is (self._passed or [None])[-1]  # a part without weights of its own is in no list

    def _walk(self, parts: Sequence[Any]) -> None:
        for part in parts:
            part.unshard()
            _calm(part)
            part.reshard()


def _parts(model: nn.Module) -> list[Any]:
    """The modules that ``fully_shard`` was called on, the outermost first."""
    return _modules(model, "FSDPModule")


def _modules(model: nn.Module, kind: str) -> list[Any]:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who has split a model has imported it
    cls = getattr(fsdp, kind, None)
    return [] if cls is None else [module for module in model.modules() if isinstance(module, cls)]


def _own_modules(part: nn.Module) -> list[nn.Module]:
    """The modules of a part that belong to no other part inside of it."""
    others = _parts(part)[1:]
    inner = {id(module) for other in others for module in other.modules()}
    return [module for module in part.modules() if id(module) not in inner]


def _logs(part: Any) -> list[list[Any]]:
    with suppress(AttributeError):  # none of these names is promised
        state = part._get_fsdp_state()
        return [state._comm_ctx.post_forward_order, *(group._post_forward_indices for group in _groups(state))]
    return []


def _groups(state: Any) -> list[Any]:
    groups = getattr(state, "_fsdp_param_groups", None)  # since torch 2.11
    return [group for group in ([state._fsdp_param_group] if groups is None else groups) if group is not None]


def _calm(part: Any) -> None:
    """Let a part forget a forward pass that was broken off. Torch's own reset would forget gradients as well."""
    with suppress(AttributeError):  # none of these names is promised
        state = part._get_fsdp_state()
        idle = type(state._training_state).IDLE
        state._training_state = idle
        state._state_ctx.iter_forward_root = None
        for group in _groups(state):
            group._training_state = idle
        state._comm_ctx.all_gather_state = None
