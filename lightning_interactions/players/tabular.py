"""Columns of a table as players."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.players.base import Baseline, RegionPlayers


class TabularFeatures(RegionPlayers):
    """Columns of a table; where there are more than ``num_players``, each sample plays with its own random draw.

    Args:
        baseline: What an absent column shows: ``"mean"`` (of the column over the watched samples), ``"zero"``, a
            number, or a tensor ``(F,)``.

    Raises:
        ArgumentError: If ``baseline`` is none of these.

    Example:
        >>> columns = TabularFeatures()
        >>> columns.fit(torch.tensor([[1.0, 5.0], [3.0, 7.0]]))
        >>> columns.mask(torch.tensor([1.0, 5.0]), torch.tensor([0, 1]), torch.tensor([[True, False]]))
        tensor([[1., 6.]])
    """

    def __init__(self, baseline: Baseline = "mean") -> None:
        super().__init__(baseline)

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Make every column a region of its own.

        Args:
            sample: ``(F,)``.
            generator: Not used.

        Returns:
            Long ``(F,)``: ``0 .. F-1``.

        Raises:
            BatchError: If the sample is not one row of columns.
        """
        if sample.ndim != 1:
            raise BatchError(
                f"TabularFeatures needs inputs of shape (B, F), but one sample has shape {tuple(sample.shape)}. "
                "Give `input_fn=batch -> rows`, or other players."
            )
        return torch.arange(len(sample))
