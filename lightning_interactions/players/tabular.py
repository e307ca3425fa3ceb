"""Columns of a table as players."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.players.base import Baseline, RegionPlayers, plain
from lightning_interactions.players.evidence import largest_table

Groups = Sequence[Sequence[int]] | Mapping[str, Sequence[int]]
"""Columns that play as one, for example the one-hot columns of a category; by name or not."""


class TabularFeatures(RegionPlayers):
    """Columns of a table; where there are more than ``num_players``, each sample plays with its own random draw.

    The mean of categories is no category. With ``baseline="mean"`` an absent column therefore shows its most frequent
    value (of several, the smallest) where its numbers are ids:

    - every column of an integer or boolean table;
    - a column of a floating-point table whose watched values are all whole numbers that the model's largest embedding
      has a row for. Without an embedding in the model no column is one: 0 and 1 of a dummy that goes into a linear
      layer have a mean that means something.

    A tensor as ``baseline`` says it column by column.

    Args:
        baseline: What an absent column shows: ``"mean"`` (of the column over the watched samples; of ids the most
            frequent; 0 where there is only one sample to learn from), ``"zero"``, a number, or a tensor ``(F,)``.
        groups: Columns that play as one: lists of column numbers, or a mapping of names to such lists. Columns in no
            group are players of their own.

    Raises:
        ArgumentError: If ``baseline`` is none of these, not whole where the columns are integers, or ``groups`` name a
            column twice.

    Example:
        >>> columns = TabularFeatures(groups=[[1, 2]])
        >>> columns.fit(torch.tensor([[1.0, 0.0, 1.0], [3.0, 1.0, 0.0]]))
        >>> players = columns.draw(torch.tensor([1.0, 0.0, 1.0]), 2, torch.Generator())
        >>> players.tolist()
        [0, 1, 1]
        >>> columns.mask(torch.tensor([1.0, 0.0, 1.0]), players, torch.tensor([[True, False]]))
        tensor([[1.0000, 0.5000, 0.5000]])
        >>> columns.fit(torch.tensor([[7, 1], [7, 2], [4, 1]]))  # ids
        >>> columns.absent(torch.tensor([[4, 2]]), players)
        tensor([7, 1])
    """

    takes_integers = True

    def __init__(self, baseline: Baseline = "mean", groups: Groups | None = None) -> None:
        super().__init__(baseline)
        self.groups = plain(groups)
        self._groups = _check_groups(groups)
        self._embedded = 0  # ids from here on are in no embedding of the model

    def suit(self, model: nn.Module, fields: Sequence[str] = (), tokenizer: Any = None) -> None:
        """Find out up to which id the model can look one up."""
        self._embedded = largest_table(model)

    def describe(self) -> str:
        """Count the groups instead of listing their columns, and say what becomes of ids."""
        ids = self._embedded and isinstance(self.baseline, str) and self.baseline == "mean"
        told = [f"baseline={self.baseline!r}" + (", of ids the most frequent" if ids else "")]
        if self._groups:
            told.append(f"{len(self._groups)} groups of {sum(map(len, self._groups))} columns")
        return f"TabularFeatures({', '.join(told)})" if ids or self._groups else repr(self)

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

    def _typical(self, samples: Tensor) -> Tensor:
        if not samples.is_floating_point():
            return _most_frequent(samples)
        ids = ((samples == samples.floor()) & (samples >= 0) & (samples < self._embedded)).all(0)
        mean = super()._typical(samples)
        mean[ids] = _most_frequent(samples[:, ids])
        return mean


def _most_frequent(columns: Tensor) -> Tensor:
    """Most frequent value ``(F,)`` of every column ``(B, F)`` on the CPU; the smallest of several."""
    numbers = columns.double() if columns.is_floating_point() else columns.long()
    return numbers.mode(0).values.to(columns.dtype)


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
