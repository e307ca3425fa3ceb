"""How much of the measured strength could be rounding noise of the forward passes.

Noise of size ``s`` in the scores becomes noise of size ``s * 2**(|S|/2)`` in the interaction of ``S``, so it looks like
high orders: what phase 2 looks like. The estimate repeats the forward passes of one sample with every masked number
changed by about one unit in its last place and transforms the difference of the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interactions.coalitions import orders
from lightning_interactions.evaluate import Masker
from lightning_interactions.functional import moebius_transform

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
        rounding: Relative size of the error. Its signs are random, always the same; the global random state is not
            touched.
    """

    def __init__(self, masker: Masker, rounding: float) -> None:
        self._masker = masker
        self._rounding = rounding
        self._generator = torch.Generator().manual_seed(0)

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        """See `Players.mask_batch`."""
        masked = self._masker.mask_batch(samples, players, coalitions)
        if not masked.is_floating_point():
            return masked
        signs = torch.randint(0, 2, masked.shape, generator=self._generator, dtype=torch.int8).to(masked.device)
        return masked * (1 + self._rounding * (2 * signs - 1).to(masked.dtype))


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
