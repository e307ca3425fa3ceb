"""Regions drawn by the user as players."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from lightning_interactions.errors import BatchError, bad_argument
from lightning_interactions.players.base import BACKGROUND, Baseline, RegionPlayers


class FeatureMask(RegionPlayers):
    """Any regions, the same for all samples: an integer player id per element, as Captum's ``feature_mask``.

    Args:
        mask: Integer tensor (or nested sequences) that broadcasts to a sample, aligned at the last dimensions; -1 is
            background (always present). The ids need not be consecutive.
        baseline: What an absent region shows: ``"zero"``, ``"mean"`` (of every element over the watched samples), a
            number, or a tensor that broadcasts to a sample.

    Raises:
        ArgumentError: If ``mask`` is not an integer tensor with at least 2 regions.

    Example:
        >>> players = FeatureMask(torch.tensor([0, 0, 7, -1]))
        >>> players.mask(torch.ones(4), players.draw(torch.ones(4), 2, torch.Generator()),
        ...              torch.tensor([[False, True]]))
        tensor([[0., 0., 1., 1.]])
    """

    def __init__(self, mask: Tensor | Sequence[Any], baseline: Baseline = "zero") -> None:
        super().__init__(baseline)
        ids = _tensor_of(mask)
        whole = isinstance(ids, Tensor) and not ids.is_floating_point() and ids.dtype != torch.bool
        if not whole or len(set(ids[ids >= 0].tolist())) < 2:
            expected = "an integer tensor with at least 2 different ids from 0 on (-1 is background)"
            raise bad_argument("mask", expected, ids)
        self.mask_ids: Tensor = ids.cpu().long().clamp(min=BACKGROUND)

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Return the regions given at construction; they must broadcast to the sample."""
        try:
            torch.broadcast_to(self.mask_ids, sample.shape)
        except RuntimeError:
            raise BatchError(
                f"FeatureMask has shape {tuple(self.mask_ids.shape)}, which does not broadcast to a sample of shape "
                f"{tuple(sample.shape)}. Give a mask of the sample's shape (or of its last dimensions)."
            ) from None
        return self.mask_ids


def _tensor_of(mask: Any) -> Any:
    """Make a tensor of nested sequences; what is none, or has rows of different lengths, stays as it is."""
    if isinstance(mask, (Tensor, str, bytes)) or not isinstance(mask, Sequence):
        return mask
    try:
        return torch.tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        return mask
