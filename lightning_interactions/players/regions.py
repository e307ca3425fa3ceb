"""Regions drawn by the user as players."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from lightning_interactions.errors import BatchError, bad_argument
from lightning_interactions.players.base import BACKGROUND, Baseline, RegionPlayers
from lightning_interactions.players.picture import Picture, RowsContent
from lightning_interactions.players.pixels import channel_ranges, picture_of_image
from lightning_interactions.players.rows import first_rows, number

SHOWN_VALUES = 3
"""Values of a region that are shown, at most."""


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
        self._ranges: Tensor | None = None  # of the channels, for people to see

    def fit(self, samples: Tensor) -> None:
        """Learn from which value to which the channels go too, where the samples can be images."""
        super().fit(samples)
        self._ranges = channel_ranges(samples)

    def names(self, players: Tensor) -> list[str]:
        """Call each region by its id in the mask.

        Example:
            >>> FeatureMask([0, 0, 7, -1]).names(torch.tensor([0, 0, 1, -1]))
            ['region 0', 'region 7']
        """
        names = super().names(players)
        if players.shape != self.mask_ids.shape:
            return names
        return [f"region {int(self.mask_ids[players == i][0])}" if bool((players == i).any()) else name
                for i, name in enumerate(names)]  # fmt: skip

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show an image, see `ImagePatches.picture`, or the values of a sample with one dimension.

        The channels of an image come first, or there are none, and the regions are the same in all of them.
        """
        names = self.names(players)
        try:
            labels = torch.broadcast_to(players, sample.shape)
        except RuntimeError:
            fits = f"regions {tuple(players.shape)} do not fit a sample of shape {tuple(sample.shape)}"
            return Picture(names, None, fits)
        if sample.ndim == 1:
            return Picture(names, RowsContent(first_rows(_rows(names, sample, labels))))
        if sample.ndim == 3:
            if not torch.equal(labels, labels[:1].expand_as(labels)):
                return Picture(names, None, "not shown as an image: the regions differ from channel to channel")
            labels = labels[0]
        return picture_of_image(names, sample, labels, self._ranges)

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


def _rows(names: Sequence[str], sample: Tensor, labels: Tensor) -> list[tuple[str, str, int]]:
    """One row for each region that plays, then one for each other column."""
    rows = []
    for player, name in enumerate(names):
        values = [number(value) for value in sample[labels == player].tolist()]
        more = ["..."] if len(values) > SHOWN_VALUES else []
        rows.append((name, ", ".join(values[:SHOWN_VALUES] + more), player))
    others = (labels < 0).nonzero().flatten().tolist()
    return rows + [(f"column {i}", number(sample[i].item()), BACKGROUND) for i in others]


def _tensor_of(mask: Any) -> Any:
    """Make a tensor of nested sequences; what is none, or has rows of different lengths, stays as it is."""
    if isinstance(mask, (Tensor, str, bytes)) or not isinstance(mask, Sequence):
        return mask
    try:
        return torch.tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        return mask
