"""How much of the measured strength could be rounding noise of the forward passes.

Noise of size ``s`` in the scores becomes noise of size ``s * 2**(|S|/2)`` in the interaction of ``S``, so it looks like
high orders: what phase 2 looks like. The estimate repeats the forward passes of one sample with every masked number
changed by about one unit in its last place and transforms the difference of the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interactions.functional import moebius_transform
from lightning_interactions.functional.coalitions import sum_by_order
from lightning_interactions.measure.values import Masker


class Perturbed:
    """Players whose masked inputs are off by about ``rounding`` of their size: one unit in the last place.

    The signs of the errors look random, but are a hash of coalition and position: the same in whatever chunks, and on
    however many ranks, the coalitions are evaluated.
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
    """Strength by order ``(..., n)`` that half the difference of two evaluations ``(..., 2**n)`` would have on its own.

    No threshold is applied, so it is larger than what noise can add to the salient strength.
    """
    return sum_by_order(moebius_transform((perturbed - values) / 2).abs())
