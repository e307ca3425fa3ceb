"""The watched samples: drawn from passing batches without touching a loader, kept and restored.

A sample is known by a key, a hash of its content mixed with the seed. The samples with the smallest keys are watched,
which makes the choice random, yet the same for every order of batches, batch size, number of ranks and after a resume;
samples a distributed sampler repeats are recognised; and each sample's players are drawn with its key as seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.model.batch import Padding
from lightning_interactions.players import Players, player_counts

HASHED_AT_ONCE = {"cpu": 2**17}
"""Numbers that go into keys in one piece, by kind of device: as 64-bit integers they should fit a core's cache."""

HASHED_AT_ONCE_ELSEWHERE = 2**22

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio and the splitmix64 constant, as signed 64-bit integers
_MIX = -4658895280553007687


@dataclass(frozen=True)
class Outline:
    """All that is needed of some samples to choose among them: a few bytes each, however large they are.

    Attributes:
        keys: Long ``(B,)``.
        classes: Long ``(B,)``, ``None`` where there are no classes to balance.
        inputs: Of no rows, with the shape and type of the inputs.
        targets: Of no rows, likewise.
    """

    keys: Tensor
    classes: Tensor | None
    inputs: Tensor
    targets: Tensor

    @property
    def sample_bytes(self) -> int:
        """Memory of the inputs of one sample."""
        return math.prod(self.inputs.shape[1:]) * self.inputs.element_size()


@dataclass(frozen=True)
class ProbeSet:
    """Samples on the CPU, in the order of their keys.

    Attributes:
        inputs: ``(B, *shape)``, or packed, see `read_batch`.
        targets: ``(B, ...)``.
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

    Attributes:
        wanted: Keys of samples that come before all others: those watched before a run was resumed.

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
        self.wanted = torch.zeros(0, dtype=torch.int64)
        self._pool: ProbeSet | None = None

    def offer(self, inputs: Tensor, targets: Tensor, padding: Padding | None = None) -> None:
        """Consider the samples of one batch; draws no random numbers and keeps copies only.

        Args:
            inputs: ``(B, *shape)`` on any device.
            targets: ``(B, ...)``.
            padding: How to bring sequences of different length to one; ``None`` where all have one shape.

        Raises:
            BatchError: If the samples have another shape than earlier ones, and no padding brings them to it.
        """
        if not len(inputs):
            return
        self._check_shape(inputs, padding)
        keys = content_keys(inputs, self.seed, padding).cpu()
        targets = targets.detach().cpu()
        few = self.choose(keys, self._classes(targets))  # those that would not survive alone need not be copied
        index = few.to(inputs.device)
        self._add(ProbeSet(inputs.detach()[index].cpu(), targets[few].clone(), keys[few]), padding)

    def result(self) -> ProbeSet | None:
        """Return the samples kept so far; ``None`` before the first batch."""
        return self._pool

    def outline(self) -> Outline | None:
        """Describe the samples kept so far; ``None`` before the first batch."""
        pool = self._pool
        if pool is None:
            return None
        empty = [tensor.new_empty((0, *tensor.shape[1:])) for tensor in (pool.inputs, pool.targets)]
        return Outline(pool.keys, self._classes(pool.targets), *empty)

    def choose(self, keys: Tensor, classes: Tensor | None, sample_bytes: int = 0) -> Tensor:
        """Choose among samples: the wanted ones, then those with the smallest keys, see `smallest_keys`.

        Args:
            keys: Long ``(B,)``; equal keys are one sample.
            classes: Long ``(B,)``, or ``None``.
            sample_bytes: Memory of the inputs of one sample; 0 sets no limit.

        Returns:
            Indices of the chosen samples, in ascending order of their keys.
        """
        size = min(self.size, max(self.max_bytes // sample_bytes, 2)) if sample_bytes else self.size
        known = torch.isin(keys, self.wanted)
        if not bool(known.any()):
            return smallest_keys(keys, size, classes)
        first, others = known.nonzero().flatten(), (~known).nonzero().flatten()
        first = first[smallest_keys(keys[first], size)]
        more = smallest_keys(keys[others], size - len(first), None if classes is None else classes[others])
        chosen = torch.cat([first, others[more]])
        return chosen[keys[chosen].argsort()]

    def _add(self, new: ProbeSet, padding: Padding | None) -> None:
        merged = new
        if self._pool is not None:
            inputs = _of_one_length([self._pool.inputs, new.inputs], padding)
            targets, keys = torch.cat([self._pool.targets, new.targets]), torch.cat([self._pool.keys, new.keys])
            merged = ProbeSet(torch.cat(inputs), targets, keys)
        keep = self.choose(merged.keys, self._classes(merged.targets), merged.nbytes // max(len(merged), 1))
        self._pool = ProbeSet(merged.inputs[keep], merged.targets[keep], merged.keys[keep])

    def _classes(self, targets: Tensor) -> Tensor | None:
        indices = targets.numel() == len(targets) and not targets.is_floating_point()
        return targets.flatten().long() if self.balanced and indices else None

    def _check_shape(self, inputs: Tensor, padding: Padding | None) -> None:
        if self._pool is None or inputs.shape[1:] == self._pool.inputs.shape[1:]:
            return
        if padding is None or inputs.shape[1:-1] != self._pool.inputs.shape[1:-1]:
            raise BatchError(
                f"Expected all inputs to have one shape, but got {tuple(inputs.shape[1:])} after "
                f"{tuple(self._pool.inputs.shape[1:])}. Give `input_fn=batch -> inputs` that pads or crops them."
            )


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


def _of_one_length(parts: list[Tensor], padding: Padding | None) -> list[Tensor]:
    if padding is None:
        return parts
    length = max(part.shape[-1] for part in parts)
    return [part if part.shape[-1] == length else padding.extend(part, length) for part in parts]


def content_keys(inputs: Tensor, seed: int = 0, padding: Padding | None = None) -> Tensor:
    """Hash the content of every sample; integer arithmetic only, so equal on every device and batch size.

    Every number counts, so samples that differ anywhere have different keys. Little memory is needed beside the
    inputs, whatever their size: the work is done in pieces.

    Args:
        inputs: ``(B, *shape)`` of any dtype; floating-point numbers count by their bits, so 0.0 and -0.0 differ.
        seed: Mixed into the hash.
        padding: Where given, only the token ids that count are hashed, so a sample keeps its key however far, and on
            whichever side, it is padded.

    Returns:
        Long ``(B,)``, uniformly spread over the 64-bit integers.

    Example:
        >>> x = torch.rand(5, 3)
        >>> torch.equal(content_keys(x)[2:], content_keys(x[2:]))
        True
    """
    if padding is not None:
        return _sequence_keys(padding.ids(inputs), padding.present(inputs), seed)
    size, at_once = math.prod(inputs.shape[1:]), HASHED_AT_ONCE.get(inputs.device.type, HASHED_AT_ONCE_ELSEWHERE)
    rows = max(at_once // max(size, 1), 1)
    total = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    for begin in range(0, len(inputs), rows):
        words = _words(inputs.detach()[begin : begin + rows])
        for start in range(0, words.shape[1], at_once):
            total[begin : begin + rows] += _mixed_sum(words[:, start : start + at_once], start)
    return _salted(total, seed)


def _words(inputs: Tensor) -> Tensor:
    """The content of every sample as a row of integers: floating-point numbers as their bits."""
    flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).resolve_conj().resolve_neg()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten(1)
    if flat.is_floating_point():
        return flat.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.itemsize])
    return flat


def _mixed_sum(words: Tensor, start: int) -> Tensor:
    place = torch.arange(start + 1, start + words.shape[1] + 1, device=words.device) * _GOLDEN
    return _mix(words.long() + place).sum(1)


def _sequence_keys(ids: Tensor, present: Tensor, seed: int) -> Tensor:
    place = present.cumsum(1) * _GOLDEN  # counted from the first position that counts
    return _salted((_mix(ids.long() + place) * present).sum(1), seed)


def _salted(total: Tensor, seed: int) -> Tensor:
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
        ``(labels, n)``: the players of all samples, stacked, and the size of the game: how many the richest sample
        has, or ``num_players`` where the kind of players is `uneven`, so that other samples make a game of that size.

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
    return stacked, num_players if masker.uneven else int(player_counts(stacked).max())


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
    """Scatter the bits of 64-bit integers; overwrites them."""
    x.bitwise_xor_(x >> 31).mul_(_MIX)
    x.bitwise_xor_(x >> 29).mul_(_GOLDEN)
    return x.bitwise_xor_(x >> 32)
