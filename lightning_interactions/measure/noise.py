"""How much of the measured strength could be rounding noise of the forward passes.

Noise of size ``s`` in the scores becomes noise of size ``s * 2**(|S|/2)`` in the interaction of ``S``, so it looks like
high orders: what phase 2 looks like. The estimate repeats the forward passes of one sample with every masked number
changed by about one unit in its last place and transforms the difference of the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interactions.functional import moebius_transform
from lightning_interactions.functional.coalitions import orders
from lightning_interactions.measure.values import Masker

ROUNDING = {"16": 2.0**-11, "bf16": 2.0**-8, "32": 2.0**-23, "64": 2.0**-52}
"""Relative size of a unit in the last place by the leading part of a Trainer's ``precision``."""


def rounding_of(precision: str) -> float:
    """Rounding of a Trainer's precision.

    Args:
        precision: Such as ``"32-true"``, ``"bf16-mixed"``, ``"16-true"``; others count as float32.

    Example:
        >>> rounding_of("bf16-mixed") == 2**-8
        True
    """
    return ROUNDING.get(str(precision).split("-")[0], ROUNDING["32"])


class Perturbed:
    """Players whose masked inputs are off by about one unit in the last place.

    Args:
        masker: The players.
        rounding: Relative size of the error. Its signs look random, but are a hash of coalition and position: the same
            in whatever chunks, and on however many ranks, the coalitions are evaluated.
    """

    def __init__(self, masker: Masker, rounding: float) -> None:
        self._masker = masker
        self._rounding = rounding

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        """See `Players.mask_batch`."""
        masked = self._masker.mask_batch(samples, players, coalitions)
        if not masked.is_floating_point():
            return masked
        bits = 1 << torch.arange(coalitions.shape[1], device=masked.device)
        index = (coalitions * bits).sum(1).repeat(len(samples))
        return masked * (1 + self._rounding * _signs(index, masked))


def _signs(index: Tensor, like: Tensor) -> Tensor:
    """Plus or minus one for every number of ``like``, row by row another pattern; 32 bits mixed as in murmur3."""
    place = torch.arange(like[0].numel(), device=like.device, dtype=torch.int32).view(1, *like.shape[1:])
    row = (index.to(torch.int32) * -1640531535).view(-1, *[1] * (like.ndim - 1))
    x = (row ^ (place * -2048144789)) + place
    x = (x ^ (x >> 15)) * -1028477387
    x = (x ^ (x >> 13)) * -2048144789
    return ((x ^ (x >> 16)) & 1).to(like.dtype) * 2 - 1


def noise_by_order(values: Tensor, perturbed: Tensor) -> Tensor:
    """Strength by order that the difference of two evaluations would have on its own.

    Args:
        values: ``(..., 2**n)``.
        perturbed: ``(..., 2**n)``, the same with other rounding.

    Returns:
        ``(..., n)``: sum over the coalitions of each order of the absolute AND interactions of half the difference
        between the two (their error is about that large), in units of the score. No threshold is applied, so it is
        larger than what noise can add to the salient strength.

    Example:
        >>> noise_by_order(torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 2e-6]))
        tensor([0.0000e+00, 1.0000e-06])
    """
    noise: Tensor = moebius_transform((perturbed - values) / 2).abs()
    n = noise.shape[-1].bit_length() - 1
    out = noise.new_zeros(*noise.shape[:-1], n + 1)
    out.index_add_(-1, orders(n, noise.device), noise)
    return out[..., 1:]
