"""Which coalitions a measurement asks of every sample: all of them, or random mask pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.functional.mask_pairs import random_mask_pairs

ENDS = 2
"""Coalitions before the mask pairs: the empty one and that of all players."""

_OTHER_STREAM = 0x6D61736B
"""Makes another seed of a key, so that masks do not follow from the draw of the players. Only 32 bits of it count."""


class Coalitions(Protocol):
    """What the evaluation needs to know of them."""

    def width(self, players: int) -> int:
        """Return how many are asked of a sample with so many players."""

    def masks(self, rows: Tensor, players: int, device: torch.device) -> Tensor:
        """Return who is present for samples with so many players: ``(C, n)``, or ``(S, C, n)`` if each has its own."""


class EveryCoalition:
    """All ``2**n``, in the order of their bits."""

    def width(self, players: int) -> int:
        """See `Coalitions.width`."""
        return 1 << players

    def masks(self, rows: Tensor, players: int, device: torch.device) -> Tensor:
        """See `Coalitions.masks`."""
        return coalition_masks(players, device)


EVERY = EveryCoalition()


@dataclass(frozen=True)
class MaskPairs:
    """The empty and the whole coalition, then random mask pairs of every sample's own players.

    A sample's key, which the monitor's seed is part of, is the seed of its masks. So no two samples share theirs: over
    samples the errors of the masks average out, as `pooled_mean_degree` supposes. And a sample has the same ones at
    every record, on every rank and after a resume (common random numbers): what the draw of the masks adds to one
    record it adds to the next, and mostly leaves the difference of the two.

    Attributes:
        keys: Long ``(B,)``, of the samples.
        pairs: How many of each.

    Example:
        >>> masks = MaskPairs(torch.tensor([7, 8]), pairs=16).masks(torch.tensor([0, 1]), 3, torch.device("cpu"))
        >>> masks.shape, masks[0, :2].int().tolist()
        (torch.Size([2, 34, 3]), [[0, 0, 0], [1, 1, 1]])
        >>> pair, flipped = masks[0, 2:].unflatten(0, (16, 2)).unbind(1)
        >>> (pair != flipped).sum(1).unique().tolist()
        [1]
    """

    keys: Tensor
    pairs: int

    def width(self, players: int) -> int:
        """See `Coalitions.width`."""
        return ENDS + 2 * self.pairs

    def masks(self, rows: Tensor, players: int, device: torch.device) -> Tensor:
        """See `Coalitions.masks`."""
        return torch.stack([self._of(key, players) for key in self.keys[rows].tolist()]).to(device)

    def _of(self, key: int, players: int) -> Tensor:
        generator = torch.Generator().manual_seed((key ^ _OTHER_STREAM) & (2**63 - 1))
        drawn = torch.stack(random_mask_pairs(players, self.pairs, generator), 1).flatten(0, 1)
        ends = torch.arange(ENDS).bool().unsqueeze(1).expand(ENDS, players)
        return torch.cat([ends, drawn])
