"""The processes of `torch.distributed`, as those that share a measurement."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.model.lockstep import gather_all


def process_ranks(device: torch.device | str = "cpu", *, rank: int | None = None, size: int | None = None) -> Ranks:
    """Describe the processes of the default group, for `InteractionMonitor` in a distributed loop of one's own.

    Args:
        device: Where what is exchanged has to be: the GPU of this process with NCCL.
        rank: The number of this process among those that have data of their own, if that is not all of them: under
            tensor parallelism several have the same.
        size: How many of these there are.

    Example:
        >>> process_ranks().world_size
        1
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Ranks()
    world = dist.get_world_size()
    own, count = (dist.get_rank() if rank is None else rank), (world if size is None else size)

    speaks = list(range(world))  # the processes that are heard: one of each that have the same data
    if count < world:
        found = [int(x) for x in gather_all(torch.tensor([own], device=device))]
        speaks = [found.index(number) for number in range(count)]

    def gather(local: Tensor) -> Tensor:
        everyone = gather_all(local.to(device).contiguous())
        return torch.cat([everyone[i] for i in speaks])

    def gather_objects(item: Any) -> list[Any]:
        items: list[Any] = [None] * world
        dist.all_gather_object(items, item)
        return [items[i] for i in speaks]

    return Ranks(own, count, gather, gather_objects)
