"""Keys of samples: a hash of their content, the same on every device, in every batch and in every run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interactions.model.batch import Padding

HASHED_AT_ONCE = {"cpu": 2**17}
"""Numbers that go into keys in one piece, by kind of device: as 64-bit integers they should fit a core's cache."""

HASHED_AT_ONCE_ELSEWHERE = 2**22

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio and the splitmix64 constant, as signed 64-bit integers
_MIX = -4658895280553007687


TARGET_BITS = (1 << 16) - 1
"""The lowest bits of a key, where `with_targets` tells apart samples that differ in their targets only."""


def content_keys(
    inputs: Tensor, seed: int = 0, padding: Padding | None = None, carried: Sequence[Tensor] = ()
) -> Tensor:
    """Hash the content of every sample to a 64-bit integer, ``(B,)``, equal on every device and in every batch.

    Every number counts, by its bits, those of what is ``carried`` along too. With ``padding`` only the token ids that
    count are hashed, and no tensor as long as they are, so a sample keeps its key however far, and on whichever side,
    it is padded. Little memory is needed: the work is done in pieces.
    """
    if padding is not None:
        present = padding.present(inputs)
        place = present.cumsum(1) * _GOLDEN  # counted from the first position that counts
        total = (_mix(padding.ids(inputs).long() + place) * present).sum(1)
        carried = [tensor for tensor in carried if tensor.ndim == 1 or tensor.shape[1] != inputs.shape[-1]]
    else:
        total = _content(inputs)
    for tensor in carried:  # in their order
        total = _mix(total + _GOLDEN) + _content(tensor.to(inputs.device))
    return _salted(total, seed)


def with_targets(keys: Tensor, targets: Tensor) -> Tensor:
    """Tell apart samples that differ in their targets only; the order of the keys stays as it is."""
    return (keys & ~TARGET_BITS) | (_salted(_content(targets.detach().to(keys.device)), 0) & TARGET_BITS)


def without_targets(keys: Tensor) -> Tensor:
    """Return of keys what two samples with the same inputs have in common."""
    return keys & ~TARGET_BITS


def _content(inputs: Tensor) -> Tensor:
    """Add up hashes of all numbers of every sample, ``(B,)``."""
    size, at_once = math.prod(inputs.shape[1:]), HASHED_AT_ONCE.get(inputs.device.type, HASHED_AT_ONCE_ELSEWHERE)
    rows = max(at_once // max(size, 1), 1)
    total = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    for begin in range(0, len(inputs), rows):
        words = _words(inputs.detach()[begin : begin + rows])
        for start in range(0, words.shape[1], at_once):
            part = words[:, start : start + at_once]
            place = torch.arange(start + 1, start + part.shape[1] + 1, device=words.device) * _GOLDEN
            total[begin : begin + rows] += _mix(part.long() + place).sum(1)
    return total


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


def _mix(x: Tensor) -> Tensor:
    """Scatter the bits of 64-bit integers; overwrites them."""
    x.bitwise_xor_(x >> 31).mul_(_MIX)
    x.bitwise_xor_(x >> 29).mul_(_GOLDEN)
    return x.bitwise_xor_(x >> 32)
