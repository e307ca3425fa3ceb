"""Columns of a table as players."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lightning_interactions.errors import ArgumentError, BatchError, bad_argument, is_whole
from lightning_interactions.model.packing import Table
from lightning_interactions.players.base import Baseline, RegionPlayers, plain
from lightning_interactions.players.evidence import largest_table
from lightning_interactions.players.picture import Picture, RowsContent, count_of
from lightning_interactions.players.rows import Row, first_rows, number, shorten

Groups = Sequence[Sequence[int]] | Mapping[str, Sequence[int]]
"""Columns that play as one, for example the one-hot columns of a category; by name or not."""

LISTED = 4
"""Columns of a group that are listed where it has no name, at most."""


class TabularFeatures(RegionPlayers):
    """Columns of a table; where there are more than ``num_players``, each sample plays with its own random draw.

    The mean of categories is no category. With ``baseline="mean"`` an absent column therefore shows its most frequent
    value (of several, the smallest) where its numbers are ids:

    - every column of an integer or boolean table, or tensor of a table that comes as several: so the model gets an id
      that it has an embedding for;
    - a column of a floating-point table whose watched values are all whole numbers that the model's largest embedding
      has a row for. Without an embedding in the model no column is one: 0 and 1 of a dummy that goes into a linear
      layer have a mean that means something.

    A tensor as ``baseline`` says it column by column.

    Args:
        baseline: What an absent column shows: ``"mean"`` (of the column over the watched samples; of ids the most
            frequent; 0 where there is only one sample to learn from), ``"zero"``, a number, or a tensor ``(F,)``.
        groups: Columns that play as one: lists of column numbers, or a mapping of names to such lists. Columns in no
            group are players of their own.
        names: What the columns are called, for people to read; ``None``: as in the data, where that can be found, else
            they have numbers.

    Raises:
        ArgumentError: If ``baseline`` is none of these, not whole where the columns are integers, ``groups`` name a
            column twice, or ``names`` are not different strings, one for each column.

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

    def __init__(
        self, baseline: Baseline = "mean", groups: Groups | None = None, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(baseline)
        self.groups = plain(groups)
        self._groups = _check_groups(groups)
        self._group_names = [str(name) for name in groups] if isinstance(groups, Mapping) else []
        self._given = _check_names(names)  # no setting: it changes nothing that is measured
        self._found: list[list[str]] = []
        self._table: Table | None = None  # where the columns came as several tensors
        self._embedded = 0  # ids from here on are in no embedding of the model

    def suit(self, model: nn.Module, fields: Sequence[str] = (), tokenizer: Any = None) -> None:
        """Find out up to which id the model can look one up."""
        self._embedded = largest_table(model)

    def suit_table(self, table: Table) -> None:
        """Take note which columns are whole numbers, and how they are packed."""
        self._table = table

    def fit(self, samples: Tensor) -> None:
        """Check that there is a name for each column too, if names were given."""
        if self._table is None:
            super().fit(samples)
        else:
            super().fit(self._table.values(samples))
            assert self._values is not None  # just learned
            self._values = self._table.words(self._values.expand(samples.shape[1:]))
        if self._given is not None and samples.ndim == 2 and len(self._given) != samples.shape[1]:
            raise ArgumentError(
                f"Expected argument `names` to have a name for each of the {samples.shape[1]} columns, but got "
                f"{len(self._given)} names."
            )

    def call_columns(self, names: Sequence[str]) -> None:
        """Take the first names that are as many as the columns, where the user gave none."""
        self._found.append(list(names))

    def names(self, players: Tensor) -> list[str]:
        """Call each player by its column, or by its group.

        Example:
            >>> columns = TabularFeatures(groups={"home": [1, 2]}, names=["age", "street", "town", "sex"])
            >>> columns.names(torch.tensor([0, 1, 1, 2]))
            ['age', 'home', 'sex']
        """
        return [self._name(columns, len(players)) for columns in _columns(players)]

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show the columns and their values, those that play first; of a one-hot group the one that is hot.

        Example:
            >>> columns = TabularFeatures(groups={"sex": [1, 2]}, names=["age", "sex=female", "sex=male"])
            >>> columns.picture(torch.tensor([39.0, 0.0, 1.0]), torch.tensor([0, 1, 1])).names
            ['age = 39', 'sex = male']
        """
        names = self.names(players)
        if sample.ndim != 1 or sample.shape != players.shape:
            shapes = f"a sample of shape {tuple(sample.shape)}, players {tuple(players.shape)}"
            return Picture(names, None, f"not shown as columns: {shapes}")
        if self._table is not None and len(sample) == len(self._table.names):
            sample = self._table.values(sample)
        rows = self._rows(sample, players.tolist())
        for player, name in enumerate(names):
            own = [(called, value) for called, value, one in rows if one == player]
            if len(own) == 1:
                names[player] = f"{shorten(name)} = {own[0][1]}"
        return Picture(names, RowsContent(first_rows(rows)))

    def _rows(self, sample: Tensor, players: list[int]) -> list[Row]:
        """A row for every column, but one for all columns of a one-hot group."""
        size, rows, folded = len(players), [], set()
        for column, value in enumerate(sample.tolist()):
            group = sorted(next((group for group in self._groups if column in group), []))
            if column in folded:
                continue
            if len(group) > 1 and _is_one_hot(sample[group]):
                folded |= set(group)
                hot = int(sample[group].argmax())
                rows.append((self._name(group, size), self._category(group, hot, size), players[column]))
            else:
                rows.append((self._column(column, size), number(value), players[column]))
        return rows

    def _category(self, group: list[int], hot: int, size: int) -> str:
        """Name one column of a group by what it has beyond the group's name."""
        name, group_name = self._column(group[hot], size), self._name(group, size)
        return name.removeprefix(group_name).lstrip("=_:. ") or name if not name.startswith("column ") else f"no. {hot}"

    def describe(self) -> str:
        """Count the groups instead of listing their columns, and say what becomes of ids."""
        ids = (self._embedded or self._table is not None) and isinstance(self.baseline, str) and self.baseline == "mean"
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

    def _column(self, column: int, size: int) -> str:
        # Names found in the data are in an order of their own.
        found = self._found if self._table is None else [self._table.names]
        known = found if self._given is None else [self._given]
        return next((names[column] for names in known if len(names) == size), f"column {column}")

    def _name(self, columns: list[int], size: int) -> str:
        """Name a player that has these columns, of so many."""
        for name, group in zip(self._group_names, self._groups, strict=False):
            if sorted(group) == columns:
                return name
        called = [self._column(column, size) for column in columns]
        if len(called) == 1:
            return called[0]
        more = f" and {len(called) - LISTED + 1} more" if len(called) > LISTED else ""
        listed = called[: LISTED - 1] if more else called
        return ("columns " + ", ".join(name.removeprefix("column ") for name in listed)) + more

    def _typical(self, samples: Tensor) -> Tensor:
        if not samples.is_floating_point():
            return _most_frequent(samples)
        ids = ((samples == samples.floor()) & (samples >= 0) & (samples < self._embedded)).all(0)
        ids = ids if self._table is None else self._table.whole
        mean = super()._typical(samples)
        mean[ids] = _most_frequent(samples[:, ids])
        return mean


def _columns(players: Tensor) -> list[list[int]]:
    """Columns of each player, in ascending order."""
    return [(players.flatten() == i).nonzero().flatten().tolist() for i in range(count_of(players))]


def _is_one_hot(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all()) and int((values == 1).sum()) == 1


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


def _check_names(names: Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    several = isinstance(names, Sequence) and not isinstance(names, (str, bytes))
    if not several or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise bad_argument("names", "different strings, one for each column", names)
    return list(names)
