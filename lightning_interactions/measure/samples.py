"""The watched samples: drawn from passing batches without touching a loader, kept and restored.

A sample is known by a key, a hash of its content mixed with the seed. The samples with the smallest keys are watched,
which makes the choice random, yet the same for every order of batches, batch size, number of ranks and after a resume;
samples a distributed sampler repeats are recognised; and each sample's players are drawn with its key as seed.
"""

from __future__ import annotations

import math
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
    """All that is needed of some samples to choose among them: a few bytes each, however large they are."""

    keys: Tensor  # long (B,)
    classes: Tensor | None  # long (B,); None where there are no classes to balance
    inputs: Tensor  # of no rows, with the shape and type of the inputs
    targets: Tensor  # of no rows, likewise


@dataclass(frozen=True)
class Samples:
    """Samples on the CPU, in the order of their keys."""

    inputs: Tensor  # (B, *shape), or packed, see `read_batch`
    targets: Tensor  # (B, ...)
    keys: Tensor  # long (B,), ascending, all different

    def __len__(self) -> int:
        return len(self.keys)


class Pool:
    """Keeps the samples with the smallest keys out of all batches it is offered.

    There are ``size`` of them at most, and fewer if their inputs would need more than ``max_bytes``; ``balanced`` takes
    equally many of each class where targets are whole numbers. The keys that are ``wanted``, those of samples watched
    before a run was resumed, come before all others.
    """

    def __init__(self, size: int, *, seed: int = 0, balanced: bool = False, max_bytes: int = 2**28) -> None:
        self.size, self.seed, self.balanced, self.max_bytes = size, seed, balanced, max_bytes
        self.wanted = torch.zeros(0, dtype=torch.int64)
        self._pool: Samples | None = None

    def offer(self, inputs: Tensor, targets: Tensor, padding: Padding | None = None) -> None:
        """Consider the samples ``(B, *shape)`` of one batch; draws no random numbers and keeps copies only."""
        if not len(inputs):
            return
        old = self._pool
        like = inputs if old is None else old.inputs
        if inputs.shape[1:] != like.shape[1:] and (padding is None or inputs.shape[1:-1] != like.shape[1:-1]):
            raise BatchError(
                f"Expected all inputs to have one shape, but got {tuple(inputs.shape[1:])} after "
                f"{tuple(like.shape[1:])}. Give `input_fn=batch -> inputs` that pads or crops them."
            )
        keys = content_keys(inputs, self.seed, padding).cpu()
        targets = targets.detach().cpu()
        few = self.choose(keys, self._classes(targets))  # those that would not survive alone need not be copied
        inputs, targets, keys = inputs.detach()[few.to(inputs.device)].cpu(), targets[few].clone(), keys[few]
        if old is not None:
            inputs = torch.cat(of_one_length([old.inputs, inputs], padding))
            targets, keys = torch.cat([old.targets, targets]), torch.cat([old.keys, keys])
        keep = self.choose(keys, self._classes(targets), inputs)
        self._pool = Samples(inputs[keep], targets[keep], keys[keep])

    def result(self) -> Samples | None:
        """Return the samples kept so far; ``None`` before the first batch."""
        return self._pool

    def outline(self) -> Outline | None:
        """Describe the samples kept so far; ``None`` before the first batch."""
        pool = self._pool
        if pool is None:
            return None
        empty = [tensor.new_empty((0, *tensor.shape[1:])) for tensor in (pool.inputs, pool.targets)]
        return Outline(pool.keys, self._classes(pool.targets), *empty)

    def choose(self, keys: Tensor, classes: Tensor | None, like: Tensor | None = None) -> Tensor:
        """Return indices of the wanted samples, then those with the smallest keys, in ascending order of the keys.

        Their memory is limited if there are inputs, or an empty tensor of their shape, to tell that of one sample by.
        """
        sample_bytes = 0 if like is None else math.prod(like.shape[1:]) * like.element_size()
        size = min(self.size, max(self.max_bytes // sample_bytes, 2)) if sample_bytes else self.size
        known = torch.isin(keys, self.wanted)
        if not bool(known.any()):
            return smallest_keys(keys, size, classes)
        first, others = known.nonzero().flatten(), (~known).nonzero().flatten()
        first = first[smallest_keys(keys[first], size)]
        more = smallest_keys(keys[others], size - len(first), None if classes is None else classes[others])
        chosen = torch.cat([first, others[more]])
        return chosen[keys[chosen].argsort()]

    def _classes(self, targets: Tensor) -> Tensor | None:
        indices = targets.numel() == len(targets) and not targets.is_floating_point()
        return targets.flatten().long() if self.balanced and indices else None


def smallest_keys(keys: Tensor, size: int, classes: Tensor | None = None) -> Tensor:
    """Choose ``size`` samples by key, round-robin over classes; the same subset in whatever order they come.

    Equal keys are one sample. Returned are indices, in ascending order of the keys.

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


def of_one_length(parts: list[Tensor], padding: Padding | None) -> list[Tensor]:
    """Pad sequences to the longest of them."""
    if padding is None:
        return parts
    length = max(part.shape[-1] for part in parts)
    return [part if part.shape[-1] == length else padding.extend(part, length) for part in parts]


def content_keys(inputs: Tensor, seed: int = 0, padding: Padding | None = None) -> Tensor:
    """Hash the content of every sample to a 64-bit integer, ``(B,)``, equal on every device and in every batch.

    Every number counts, by its bits. With ``padding`` only the token ids that count are hashed, so a sample keeps its
    key however far, and on whichever side, it is padded. Little memory is needed: the work is done in pieces.
    """
    if padding is not None:
        present = padding.present(inputs)
        place = present.cumsum(1) * _GOLDEN  # counted from the first position that counts
        return _salted((_mix(padding.ids(inputs).long() + place) * present).sum(1), seed)
    size, at_once = math.prod(inputs.shape[1:]), HASHED_AT_ONCE.get(inputs.device.type, HASHED_AT_ONCE_ELSEWHERE)
    rows = max(at_once // max(size, 1), 1)
    total = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    for begin in range(0, len(inputs), rows):
        words = _words(inputs.detach()[begin : begin + rows])
        for start in range(0, words.shape[1], at_once):
            part = words[:, start : start + at_once]
            place = torch.arange(start + 1, start + part.shape[1] + 1, device=words.device) * _GOLDEN
            total[begin : begin + rows] += _mix(part.long() + place).sum(1)
    return _salted(total, seed)


def _words(inputs: Tensor) -> Tensor:
    """The content of every sample as a row of integers: floating-point numbers as their bits."""
    flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).resolve_conj().resolve_neg()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten(1)
    if flat.is_floating_point():
        return flat.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.itemsize])
    return flat


def _salted(total: Tensor, seed: int) -> Tensor:
    salt = (seed + 1) * 0x2545F491 % (2**61 - 1)  # 64-bit integers, whatever the size of the seed
    return _mix(_mix(total + salt) + _GOLDEN)


def draw_players(masker: Players, samples: Tensor, keys: Tensor, num_players: int) -> tuple[Tensor, int]:
    """Draw the players of every sample on the CPU, seeded by its key; return them stacked, and the game's size ``n``.

    That is how many the richest sample has, or ``num_players`` where other samples may have more: `uneven` players.
    """
    labels = []
    for sample, key in zip(samples, keys.tolist(), strict=True):
        labels.append(masker.draw(sample, num_players, torch.Generator().manual_seed(key & (2**63 - 1))))
    if len({tuple(x.shape) for x in labels}) > 1:
        raise BatchError(f"{type(masker).__name__}.partition must return the same shape for every sample.")
    stacked = torch.stack(labels)
    return stacked, num_players if masker.uneven else int(player_counts(stacked).max())


def _mix(x: Tensor) -> Tensor:
    """Scatter the bits of 64-bit integers; overwrites them."""
    x.bitwise_xor_(x >> 31).mul_(_MIX)
    x.bitwise_xor_(x >> 29).mul_(_GOLDEN)
    return x.bitwise_xor_(x >> 32)
