"""Columns of a table as players."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.players.base import Baseline, RegionPlayers

Groups = Sequence[Sequence[int]] | Mapping[str, Sequence[int]]
"""Columns that play as one, for example the one-hot columns of a category; by name or not."""


class TabularFeatures(RegionPlayers):
    """Columns of a table; where there are more than ``num_players``, each sample plays with its own random draw.

    Args:
        baseline: What an absent column shows: ``"mean"`` (of the column over the watched samples), ``"zero"``, a
            number, or a tensor ``(F,)``.
        groups: Columns that play as one: lists of column numbers, or a mapping of names to such lists. Columns in no
            group are players of their own.

    Raises:
        ArgumentError: If ``baseline`` is none of these, or ``groups`` name a column twice.

    Example:
        >>> columns = TabularFeatures(groups=[[1, 2]])
        >>> columns.fit(torch.tensor([[1.0, 0.0, 1.0], [3.0, 1.0, 0.0]]))
        >>> players = columns.draw(torch.tensor([1.0, 0.0, 1.0]), 2, torch.Generator())
        >>> players.tolist()
        [0, 1, 1]
        >>> columns.mask(torch.tensor([1.0, 0.0, 1.0]), players, torch.tensor([[True, False]]))
        tensor([[1.0000, 0.5000, 0.5000]])
    """

    def __init__(self, baseline: Baseline = "mean", groups: Groups | None = None) -> None:
        super().__init__(baseline)
        self.groups = groups
        self._groups = _check_groups(groups)

    def describe(self) -> str:
        """Count the groups instead of listing their columns."""
        if not self._groups:
            return repr(self)
        columns = sum(map(len, self._groups))
        return f"TabularFeatures(baseline={self.baseline!r}, {len(self._groups)} groups of {columns} columns)"

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Give every column its own number ``(F,)``, and the columns of a group that of its first."""
        if sample.ndim != 1:
            raise BatchError(
                f"TabularFeatures needs inputs of shape (B, F), but one sample has shape {tuple(sample.shape)}. "
                "Give `input_fn=batch -> rows`, or other players."
            )
        labels = torch.arange(len(sample))
        for group in self._groups:
            if max(group) >= len(sample):
                raise BatchError(
                    f"`groups` names column {max(group)}, but the rows have only {len(sample)} columns (0 to "
                    f"{len(sample) - 1})."
                )
            labels[group] = group[0]
        return labels


def _check_groups(groups: Groups | None) -> list[list[int]]:
    lists = list(groups.values()) if isinstance(groups, Mapping) else groups or []
    expected = "lists of column numbers (from 0 on), or a mapping of names to such lists"
    if isinstance(lists, (str, bytes)) or not isinstance(lists, Sequence):
        raise bad_argument("groups", expected, groups)
    for group in lists:
        whole = isinstance(group, Sequence) and not isinstance(group, (str, bytes)) and len(group) > 0
        if not whole or not all(is_whole(column, 0) for column in group):
            raise bad_argument("groups", expected, groups)
    named = [column for group in lists for column in group]
    twice = sorted({column for column in named if named.count(column) > 1})
    if twice:
        raise bad_argument("groups", f"without a column in two places ({twice})", groups)
    return [list(group) for group in lists]
