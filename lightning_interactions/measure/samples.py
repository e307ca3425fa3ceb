"""The watched samples: drawn from passing batches without touching a loader, kept and restored.

A sample is known by a key, a hash of its content mixed with the seed. The samples with the smallest keys are watched,
which makes the choice random, yet the same for every order of batches, batch size, number of ranks and after a resume;
samples a distributed sampler repeats are recognised; and each sample's players are drawn with its key as seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_interactions.errors import BatchError
from lightning_interactions.measure.keys import content_keys, with_targets, without_targets
from lightning_interactions.model.batch import Batch, Padding
from lightning_interactions.model.targets import MISSING
from lightning_interactions.players import Players, player_counts
from lightning_interactions.players.base import BACKGROUND

_NOTHING = torch.zeros(0, dtype=torch.int64)
"""Rows that copy nothing; a view would keep, and send to other ranks, all it is a view of."""


@dataclass(frozen=True)
class Samples:
    """Samples on the CPU, in the order of their keys."""

    inputs: Tensor  # (B, *shape), or packed, see `read_batch`
    targets: Tensor  # (B, ...)
    keys: Tensor  # long (B,), ascending, all different
    carried: tuple[Tensor, ...] = ()  # (B, ...) each: what else the model is called with
    counts: Tensor | None = None  # long (B,): how often each occurs in a pass; once, if `None`
    sizes: Tensor | None = None  # long (B, dimensions): own shape of each, where they differ and inputs are padded

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Tensor | slice) -> Samples:
        """Return some of them."""
        counts = None if self.counts is None else self.counts[rows]
        sizes = None if self.sizes is None else self.sizes[rows]
        carried = tuple(tensor[rows] for tensor in self.carried)
        return Samples(self.inputs[rows], self.targets[rows], self.keys[rows], carried, counts, sizes)

    def of_one_shape(self) -> list[tuple[Tensor, Samples]]:
        """Return the rows of equal shape together, with these samples as they were before they were padded."""
        if self.sizes is None:
            return [(torch.arange(len(self)), self)]
        shapes, which = torch.unique(self.sizes, dim=0, return_inverse=True)
        found = []
        for number, shape in enumerate(shapes.tolist()):
            rows = (which == number).nonzero().flatten()
            own = self[rows]
            found.append((rows, replace(own, inputs=crop(own.inputs, shape), sizes=None)))
        return found


def crop(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo padding at the end of the last dimensions."""
    own = list(shape)[-(tensor.ndim - 1) :]
    rows: tuple[Any, ...] = (..., *(slice(0, size) for size in own))
    found: Tensor = tensor[rows]
    return found


def grow(tensor: Tensor, shape: Sequence[int], value: float = 0) -> Tensor:
    """Pad ``(B, *shape)`` at the end of every dimension."""
    missing = [wanted - size for size, wanted in zip(tensor.shape[1:], shape, strict=True)]
    return pad(tensor, [x for more in reversed(missing) for x in (0, more)], value=value) if any(missing) else tensor


@dataclass(frozen=True)
class Outline:
    """All that is needed of some samples to choose among them: a few bytes each, however large they are."""

    keys: Tensor  # long (B,)
    counts: Tensor  # long (B,)
    classes: Tensor | None  # long (B,); None where there are no classes to balance
    like: Samples  # of no rows


class Pool:
    """Keeps the samples with the smallest keys out of all batches it is offered.

    There are ``size`` of them at most, and fewer if their inputs would need more than ``max_bytes``; ``balanced`` takes
    equally many of each class (``classes_of``: targets to classes ``(B,)``, or ``None``), and looks at the inputs only:
    of samples that differ in their targets alone it keeps one. The keys that are ``wanted``, those of samples watched
    before a run was resumed, come before all others.
    """

    def __init__(self, size: int, *, seed: int = 0, balanced: bool = False, max_bytes: int = 2**28) -> None:
        self.size, self.seed, self.balanced, self.max_bytes = size, seed, balanced, max_bytes
        self.wanted = torch.zeros(0, dtype=torch.int64)
        self.classes_of: Callable[[Tensor], Tensor | None] = whole_classes
        self._pool: Samples | None = None
        self._passing: Tensor | None = None  # how often each of them came in the present pass

    def begin_pass(self) -> None:
        """Take note that the data begin to pass once more: what comes again is the same sample."""
        if self._passing is not None:
            self._passing = torch.zeros_like(self._passing)

    def offer(self, batch: Batch, padding: Padding | None = None, *, any_size: bool = False) -> None:
        """Consider the samples of one batch; draws no random numbers and keeps copies only.

        All must have one shape, unless ``padding`` brings them to one length or ``any_size`` of images will do.
        """
        if not len(batch.inputs):
            return
        new = self._new(batch, padding)
        old, passing = self._pool, self._passing
        if old is None or passing is None:
            self._pool, self._passing = new, new.counts
        else:
            _check_shapes(old, new, padding, any_size)
            joined = join([old, new], padding)
            fresh = new.counts if new.counts is not None else torch.ones_like(new.keys)
            self._pool, self._passing = _merge(joined, torch.cat([passing, fresh]), len(old))
        keep = self.choose(self._pool.keys, self._classes(self._pool.targets), self._pool.inputs)
        self._pool, self._passing = self._pool[keep], self._passing[keep] if self._passing is not None else None

    def _new(self, batch: Batch, padding: Padding | None) -> Samples:
        """Copy those that would survive alone; the others need not be."""
        targets = batch.targets.detach().cpu()
        keys = content_keys(batch.inputs, self.seed, padding, batch.carried).cpu()
        keys = keys if self.balanced else with_targets(keys, targets)
        few = self.choose(keys, self._classes(targets))
        counts = (keys[few].unsqueeze(1) == keys).sum(1)
        some = batch.rows(few)
        inputs, *carried = (tensor.detach().cpu() for tensor in (some.inputs, *some.carried))
        return Samples(inputs, targets[few].clone(), keys[few], tuple(carried), counts)

    def result(self) -> Samples | None:
        """Return the samples kept so far; ``None`` before the first batch."""
        return self._pool

    def outline(self) -> Outline | None:
        """Describe the samples kept so far; ``None`` before the first batch."""
        pool = self._pool
        if pool is None or pool.counts is None:
            return None
        return Outline(pool.keys, pool.counts, self._classes(pool.targets), pool[_NOTHING])

    def choose(self, keys: Tensor, classes: Tensor | None, like: Tensor | None = None) -> Tensor:
        """Return indices of the wanted samples, then those with the smallest keys, in ascending order of the keys.

        Their memory is limited if there are inputs, or an empty tensor of their shape, to tell that of one sample by.
        """
        sample_bytes = 0 if like is None else math.prod(like.shape[1:]) * like.element_size()
        size = min(self.size, max(self.max_bytes // sample_bytes, 2)) if sample_bytes else self.size
        known = torch.isin(without_targets(keys), without_targets(self.wanted))
        if not bool(known.any()):
            return smallest_keys(keys, size, classes)
        first, others = known.nonzero().flatten(), (~known).nonzero().flatten()
        first = first[smallest_keys(keys[first], size)]
        more = smallest_keys(keys[others], size - len(first), None if classes is None else classes[others])
        chosen = torch.cat([first, others[more]])
        return chosen[keys[chosen].argsort()]

    def _classes(self, targets: Tensor) -> Tensor | None:
        return self.classes_of(targets) if self.balanced else None


def whole_classes(targets: Tensor) -> Tensor | None:
    """Return targets that are whole numbers as classes ``(B,)``; ``None`` for others."""
    indices = targets.numel() == len(targets) and not targets.is_floating_point()
    return targets.flatten().long() if indices else None


def _check_shapes(old: Samples, new: Samples, padding: Padding | None, any_size: bool) -> None:
    a, b = old.inputs.shape[1:], new.inputs.shape[1:]
    alike = a == b or (any_size and len(a) == len(b)) or (padding is not None and a[:-1] == b[:-1])
    if not alike:
        raise BatchError(
            f"Expected all inputs to have one shape, but got {tuple(b)} after {tuple(a)}. Give `input_fn=batch -> "
            "inputs` that pads or crops them."
        )
    shapes = [[None if _goes_with_tokens(x, part, padding) else tuple(x.shape[1:]) for x in part.carried]
              for part in (old, new)]  # fmt: skip
    if shapes[0] != shapes[1]:
        raise BatchError(f"Expected what goes with the inputs to have shapes {shapes[0]}, but got {shapes[1]}.")


def _goes_with_tokens(tensor: Tensor, samples: Samples, padding: Padding | None) -> bool:
    """Whether what is carried along has a whole number for each token: their labels."""
    whole = tensor.ndim == 2 and not tensor.is_floating_point()
    return padding is not None and whole and tensor.shape[1] == samples.inputs.shape[-1]


def _carried_with(part: Samples, padding: Padding | None, length: int) -> tuple[Tensor, ...]:
    """What goes along with tokens that are padded to a length: their labels too, with what stands for none."""
    if padding is None or length == part.inputs.shape[-1]:
        return part.carried
    sides = padding.sides(part.inputs, length)
    return tuple(pad(x, sides, value=MISSING) if _goes_with_tokens(x, part, padding) else x for x in part.carried)


def _merge(joined: Samples, passing: Tensor, old: int) -> tuple[Samples, Tensor]:
    """Keep the first of equal keys, of which ``old`` were there before; count how often each came in one pass."""
    keys, which = torch.unique(joined.keys, return_inverse=True)
    now = torch.zeros(len(keys), dtype=torch.int64).index_add_(0, which, passing)
    before = torch.zeros_like(now)
    if joined.counts is not None:
        before[which[:old]] = joined.counts[:old]
    first = torch.full_like(now, len(which)).scatter_reduce_(0, which, torch.arange(len(which)), "amin")
    return replace(joined[first], counts=torch.maximum(before, now)), now


def join(parts: Sequence[Samples], padding: Padding | None = None) -> Samples:
    """Put samples together, one after the other; those of different shape are padded, and their sizes kept."""
    inputs, sizes = [part.inputs for part in parts], None
    if padding is not None:
        inputs = of_one_length(inputs, padding)
    elif len({x.shape[1:] for x in inputs}) > 1 or any(part.sizes is not None for part in parts):
        shape = [max(x.shape[1 + d] for x in inputs) for d in range(inputs[0].ndim - 1)]
        own = [torch.tensor(x.shape[1:]).repeat(len(x), 1) if part.sizes is None else part.sizes
               for x, part in zip(inputs, parts, strict=True)]  # fmt: skip
        inputs, sizes = [grow(x, shape) for x in inputs], torch.cat(own)
    along = [_carried_with(part, padding, inputs[0].shape[-1]) for part in parts]
    carried = tuple(torch.cat(tensors) for tensors in zip(*along, strict=True))
    counts = [torch.ones_like(part.keys) if part.counts is None else part.counts for part in parts]
    targets, keys = (torch.cat(list(x)) for x in zip(*((part.targets, part.keys) for part in parts), strict=True))
    return Samples(torch.cat(inputs), targets, keys, carried, torch.cat(counts), sizes)


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


def draw_players(masker: Players, samples: Samples, num_players: int) -> tuple[Tensor, int]:
    """Draw the players of every sample on the CPU, seeded by its key; return them stacked, and the game's size ``n``.

    That is how many the richest sample has, or ``num_players`` where other samples may have more: `uneven` players.
    Samples of different shape have players of different shape, padded with background.
    """
    labels: list[Tensor] = [torch.empty(0)] * len(samples)
    for rows, some in samples.of_one_shape():
        for row, sample, key in zip(rows.tolist(), some.inputs, some.keys.tolist(), strict=True):
            labels[row] = masker.draw(sample, num_players, torch.Generator().manual_seed(key & (2**63 - 1)))
    if samples.sizes is not None:
        shape = [max(sizes) for sizes in zip(*(x.shape for x in labels), strict=True)]
        labels = [grow(x.unsqueeze(0), shape, BACKGROUND)[0] for x in labels]
    if len({tuple(x.shape) for x in labels}) > 1:
        raise BatchError(f"{type(masker).__name__}.partition must return the same shape for every sample.")
    stacked = torch.stack(labels)
    return stacked, num_players if masker.uneven else int(player_counts(stacked).max())
