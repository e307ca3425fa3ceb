"""The watched samples: read from passing batches, drawn without touching a loader, kept and restored.

A sample is known by a key, a hash of its content mixed with the seed. The samples with the smallest keys are watched,
which makes the choice random, yet the same for every order of batches, batch size, number of ranks and after a resume;
samples a distributed sampler repeats are recognised; and each sample's players are drawn with its key as seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.players import Players

HASHED_POSITIONS = 4096
"""At most this many numbers of a sample go into its key: enough to tell samples apart, cheap for large images."""

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio and the splitmix64 constant, as signed 64-bit integers
_MIX = -4658895280553007687


def read_batch(
    batch: Any, input_fn: Callable[[Any], Any] | None = None, target_fn: Callable[[Any], Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Find inputs and targets in a batch.

    Args:
        batch: What the loader gives: by default a tuple or list whose first two items are inputs and targets.
        input_fn: ``batch -> inputs (B, *shape)``, where that does not fit.
        target_fn: ``batch -> targets (B,)``, likewise.

    Returns:
        ``(inputs, targets)``, not copied.

    Raises:
        BatchError: If one of them is not found; the text shows the structure of the batch.

    Example:
        >>> x, y = read_batch((torch.zeros(4, 3), torch.zeros(4)))
        >>> x.shape, y.shape
        (torch.Size([4, 3]), torch.Size([4]))
    """
    pair = isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)) and len(batch) >= 2
    inputs = input_fn(batch) if input_fn else batch[0] if pair else None
    if not isinstance(inputs, Tensor) or inputs.ndim < 2:
        raise BatchError(
            f"Expected a batch (inputs, targets) with inputs of shape (B, ...), but the batch is "
            f"{describe_structure(batch)}. Give `input_fn=batch -> inputs` and `target_fn=batch -> targets`."
        )
    targets = target_fn(batch) if target_fn else batch[1] if pair else None
    if not isinstance(targets, Tensor) or targets.ndim == 0 or len(targets) != len(inputs):
        raise BatchError(
            f"Expected a batch (inputs, targets) with one target for each of {len(inputs)} inputs, but the batch is "
            f"{describe_structure(batch)}. Give `target_fn=batch -> targets`."
        )
    return inputs, targets


def describe_structure(batch: Any, depth: int = 3) -> str:
    """Describe a nested batch in one line, for error texts.

    Args:
        batch: Anything.
        depth: How many levels to open.

    Example:
        >>> describe_structure({"x": torch.zeros(4, 3), "meta": ["a", "b"]})
        "dict('x': float32 tensor (4, 3), 'meta': list(str, str))"
    """
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} tensor {tuple(batch.shape)}"
    name = type(batch).__name__
    if depth and isinstance(batch, Mapping):
        return f"{name}({', '.join(f'{k!r}: {describe_structure(v, depth - 1)}' for k, v in list(batch.items())[:8])})"
    if depth and isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)):
        return f"{name}({', '.join(describe_structure(v, depth - 1) for v in batch[:8])})"
    return name


@dataclass(frozen=True)
class ProbeSet:
    """Samples on the CPU, in the order of their keys.

    Attributes:
        inputs: ``(B, *shape)``.
        targets: ``(B,)`` or ``(B, 1)``, as the batch had them.
        keys: Long ``(B,)``, ascending, all different.
    """

    inputs: Tensor
    targets: Tensor
    keys: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Memory of the inputs, in bytes."""
        return self.inputs.numel() * self.inputs.element_size()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors, for a checkpoint."""
        return {"inputs": self.inputs, "targets": self.targets, "keys": self.keys}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ProbeSet:
        """Rebuild from `state_dict`.

        Args:
            state: What `state_dict` returned.
        """
        return cls(state["inputs"], state["targets"], state["keys"])


class ProbeCollector:
    """Keeps the samples with the smallest keys out of all batches it is offered.

    Args:
        size: How many to keep at most.
        seed: Another seed draws other samples.
        balanced: Take equally many of each class where targets are whole numbers.
        max_bytes: Keep fewer if their inputs would need more memory than this.

    Example:
        >>> collector = ProbeCollector(2, seed=0, balanced=True)
        >>> for start in (0, 4):
        ...     collector.offer(torch.arange(start, start + 4.0).view(4, 1), torch.tensor([0, 0, 0, start // 4]))
        >>> collector.result().targets.sort().values
        tensor([0, 1])
    """

    def __init__(self, size: int, *, seed: int = 0, balanced: bool = False, max_bytes: int = 2**28) -> None:
        self.size = size
        self.seed = seed
        self.balanced = balanced
        self.max_bytes = max_bytes
        self._pool: ProbeSet | None = None

    def offer(self, inputs: Tensor, targets: Tensor) -> None:
        """Consider the samples of one batch; draws no random numbers and keeps copies only.

        Args:
            inputs: ``(B, *shape)`` on any device.
            targets: ``(B,)`` or ``(B, 1)``.

        Raises:
            BatchError: If the samples have another shape than earlier ones.
        """
        if self._pool is not None and inputs.shape[1:] != self._pool.inputs.shape[1:]:
            raise BatchError(
                f"Expected all inputs to have one shape, but got {tuple(inputs.shape[1:])} after "
                f"{tuple(self._pool.inputs.shape[1:])}. Give `input_fn=batch -> inputs` that pads or crops them."
            )
        keys = content_keys(inputs, self.seed).cpu()
        wanted = self._select(keys, targets.detach().cpu())  # those that would not survive alone need not be copied
        index = wanted.to(inputs.device)
        self._add(ProbeSet(inputs.detach()[index].cpu(), targets.detach().cpu()[wanted].clone(), keys[wanted]))

    def merge(self, pools: Sequence[ProbeSet | None]) -> None:
        """Replace the own samples by the best of several collectors' (those of all ranks).

        Args:
            pools: What `result` returned on each rank; ``None`` where a rank saw no batch.
        """
        self._pool = None
        for pool in pools:
            if pool is not None:
                self._add(pool)

    def result(self) -> ProbeSet | None:
        """Return the samples kept so far; ``None`` before the first batch."""
        return self._pool

    def _add(self, new: ProbeSet) -> None:
        if self._pool is None:
            merged = new
        else:
            pairs = zip(self._pool.state_dict().values(), new.state_dict().values(), strict=True)
            merged = ProbeSet(*(torch.cat(pair) for pair in pairs))
        keep = self._select(merged.keys, merged.targets, merged.nbytes // max(len(merged), 1))
        self._pool = ProbeSet(merged.inputs[keep], merged.targets[keep], merged.keys[keep])

    def _select(self, keys: Tensor, targets: Tensor, sample_bytes: int = 0) -> Tensor:
        size = min(self.size, max(self.max_bytes // sample_bytes, 2)) if sample_bytes else self.size
        classes = targets.flatten().long() if self.balanced and targets.numel() == len(keys) else None
        return smallest_keys(keys, size, classes)


def smallest_keys(keys: Tensor, size: int, classes: Tensor | None = None) -> Tensor:
    """Choose ``size`` samples by key, round-robin over classes; the same subset in whatever order they come.

    Args:
        keys: Long ``(B,)``; equal keys are one sample.
        size: How many to choose at most.
        classes: Long ``(B,)``; ``None`` ignores classes.

    Returns:
        Indices of the chosen samples, in ascending order of their keys.

    Example:
        >>> smallest_keys(torch.tensor([5, 3, 9, 3]), 2)
        tensor([1, 0])
        >>> smallest_keys(torch.tensor([1, 2, 9]), 2, torch.tensor([0, 0, 1]))
        tensor([0, 2])
    """
    order = keys.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = keys[order][1:] != keys[order][:-1]
    order = order[first]
    if classes is not None:
        by_class = classes[order].argsort(stable=True)
        _, counts = torch.unique_consecutive(classes[order][by_class], return_counts=True)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        round_ = torch.empty_like(by_class)
        round_[by_class] = torch.arange(len(by_class)) - starts
        order = order[round_.argsort(stable=True)[:size].sort().values]
    return order[:size]


def content_keys(inputs: Tensor, seed: int = 0) -> Tensor:
    """Hash the content of every sample; integer arithmetic only, so equal on every device and batch size.

    Args:
        inputs: ``(B, *shape)``.
        seed: Mixed into the hash.

    Returns:
        Long ``(B,)``, uniformly spread over the 64-bit integers.

    Example:
        >>> x = torch.rand(5, 3)
        >>> torch.equal(content_keys(x)[2:], content_keys(x[2:]))
        True
    """
    flat = inputs.detach().reshape(len(inputs), -1)
    if flat.shape[1] > HASHED_POSITIONS:
        positions = torch.arange(HASHED_POSITIONS, device=flat.device) * flat.shape[1] // HASHED_POSITIONS
        flat = flat[:, positions]
    if flat.is_floating_point():
        views = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        flat = flat.contiguous().view(views[flat.element_size()])
    place = torch.arange(1, flat.shape[1] + 1, device=flat.device) * _GOLDEN
    total = _mix(flat.long() + place).sum(1)
    salt = (seed + 1) * 0x2545F491 % (2**61 - 1)  # 64-bit integers, whatever the size of the seed
    return _mix(_mix(total + salt) + _GOLDEN)


def draw_players(masker: Players, samples: Tensor, keys: Tensor, num_players: int) -> tuple[Tensor, int]:
    """Draw the players of every sample, seeded by its key.

    Args:
        masker: The kind of players.
        samples: ``(B, *shape)`` on the CPU.
        keys: Long ``(B,)``.
        num_players: How many each sample should have.

    Returns:
        ``(labels, n)``: the players of all samples, stacked, and how many the richest sample has.

    Raises:
        BatchError: If a sample has fewer than 2 regions, or partitions differ in shape.

    Example:
        >>> from lightning_interactions.players import TabularFeatures
        >>> x = torch.zeros(3, 2)
        >>> draw_players(TabularFeatures(), x, content_keys(x), 10)
        (tensor([[0, 1],
                [0, 1],
                [0, 1]]), 2)
    """
    labels = []
    for sample, key in zip(samples, keys.tolist(), strict=True):
        labels.append(masker.draw(sample, num_players, torch.Generator().manual_seed(key & (2**63 - 1))))
    if len({tuple(x.shape) for x in labels}) > 1:
        raise BatchError(f"{type(masker).__name__}.partition must return the same shape for every sample.")
    stacked = torch.stack(labels)
    return stacked, int(stacked.max()) + 1


def shard(size: int, rank: int, world_size: int) -> Tensor:
    """Rows of one rank's share; every rank gets equally many (the last ones wrap around) so that collectives match.

    Args:
        size: Rows in all.
        rank: This process.
        world_size: Number of processes.

    Returns:
        Long indices; the shares of all ranks, one after the other and cut at ``size``, are ``0 .. size-1``.

    Example:
        >>> shard(5, 1, 2)
        tensor([3, 4, 0])
    """
    share = -(-size // world_size)
    return (rank * share + torch.arange(share)) % size


def _mix(x: Tensor) -> Tensor:
    x = (x ^ (x >> 31)) * _MIX
    x = (x ^ (x >> 29)) * _GOLDEN
    return x ^ (x >> 32)
