"""Columns that hold ids: what stands for an absent one, and tables too small to have a mean."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import masked_by_loops
from torch import Generator, Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.errors import ArgumentError, BatchError, InteractionsWarning
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.players import FeatureMask, ImagePatches, RegionPlayers, TabularFeatures, Tokens


class Embedded(nn.Module):
    """Two categories with an embedding each, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(5, 4), nn.Embedding(9, 4)])
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = [table(x[:, i].long()) for i, table in enumerate(self.tables)]
        return self.head(torch.cat([*found, x[:, 2:].float()], 1))


def suited(model: nn.Module, samples: Tensor, **options: Any) -> TabularFeatures:
    players = TabularFeatures(**options)
    players.suit(model)
    players.fit(samples)
    return players


def absent(players: RegionPlayers, samples: Tensor) -> list[Any]:
    return players.absent(samples, torch.zeros(len(samples))).tolist()


def most_frequent(column: list[Any]) -> Any:
    counts = Counter(column)
    return min(value for value in counts if counts[value] == max(counts.values()))


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8, torch.bool)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_columns_are_masked_value_by_value(dtype: torch.dtype) -> None:
    samples = torch.randint(0, 3, (7, 5)).to(dtype)
    players = TabularFeatures()
    players.fit(samples)
    expected = torch.tensor([most_frequent(column) for column in samples.T.tolist()], dtype=dtype)
    labels = torch.stack([players.draw(x, 4, Generator().manual_seed(i)) for i, x in enumerate(samples)])
    found = players.mask_batch(samples, labels, coalition_masks(4)).view(7, 16, 5)
    assert found.dtype == dtype
    for i in range(7):
        for index in range(16):
            assert torch.equal(found[i, index], masked_by_loops(samples[i], labels[i], index, expected))


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2), min_size=2, max_size=12))
def test_the_most_frequent_integer_to_the_bit_however_large(rows: list[list[int]]) -> None:
    samples = torch.tensor(rows + rows[:1])  # two rows are equal, whatever is drawn
    if bool((samples == samples[:1]).all()):
        return
    players = TabularFeatures()
    players.fit(samples)
    assert absent(players, samples) == [most_frequent(column) for column in samples.T.tolist()]


def test_ids_in_a_floating_point_table_are_told_by_the_embedding() -> None:
    samples = torch.tensor([[4.0, 8, 0.5, 3], [4, 1, 1.5, 1], [0, 8, 2.5, 1], [1, 2, 3.5, 2]])
    assert absent(suited(Embedded(), samples), samples) == [4.0, 8.0, 2.0, 1.0]
    # Without an embedding they are numbers, as are 0 and 1 of a dummy.
    assert absent(suited(nn.Linear(4, 3), samples), samples) == [2.25, 4.75, 2.0, 1.75]
    assert absent(suited(nn.EmbeddingBag(9, 3), samples), samples) == [4.0, 8.0, 2.0, 1.0]
    dummies = torch.tensor([[1.0, 0], [0, 0], [1, 1], [1, 1], [0, 1]])
    assert absent(suited(nn.Linear(2, 3), dummies), dummies) == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize("bad", [9.0, -1.0, 0.5, torch.nan, torch.inf, -torch.inf], ids=str)
def test_one_value_that_no_embedding_has_a_row_for_makes_a_number_of_it(bad: float) -> None:
    samples = torch.tensor([[4.0, 8], [4, 8], [1, 2]])
    samples[1, 1] = bad
    finite = samples[samples[:, 1].isfinite(), 1]
    assert absent(suited(Embedded(), samples), samples) == [4.0, pytest.approx(float(finite.mean()))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_ids_of_any_precision(dtype: torch.dtype) -> None:
    samples = torch.tensor([[4.0, 8], [4, 8], [1, 2]]).to(dtype)
    assert absent(suited(Embedded(), samples), samples) == [4.0, 8.0]


def test_no_masked_row_has_a_category_that_no_sample_has() -> None:
    shown = []

    class Watched(Embedded):
        def forward(self, x: Tensor) -> Tensor:
            shown.append(x[:, :2].clone())
            return super().forward(x)

    samples = torch.cat([torch.randint(0, 5, (9, 2)).float(), torch.randn(9, 2)], 1)[:, :3]
    compute_interactions(Watched(), samples, torch.arange(9) % 3, num_players=3)
    for column, values in enumerate(torch.cat(shown).T):
        assert set(values.tolist()) <= set(samples[:, column].tolist())


def test_integer_tables_are_played_on_when_asked_for() -> None:
    samples, targets, model = torch.randint(0, 5, (6, 3)), torch.arange(6) % 3, Embedded()
    found = compute_interactions(model, samples, targets, TabularFeatures(), num_players=3)
    frequent = torch.tensor([most_frequent(column) for column in samples.T.tolist()])
    expected = compute_interactions(model, samples, targets, TabularFeatures(frequent), num_players=3)
    assert torch.equal(found.values, expected.values)
    assert len(found.values.unique()) > 6


def test_what_is_asked_of_integer_ids_names_columns_too() -> None:
    with pytest.raises(BatchError, match=r"columns, give `players=TabularFeatures\(\)`"):
        Tokens().fit(torch.ones(2, 5).long())


def test_a_baseline_for_integers_is_whole() -> None:
    samples = torch.tensor([[1, 2], [3, 4]])
    for good in ("zero", 3, 3.0, torch.tensor([1.0, 0.0])):
        TabularFeatures(good).fit(samples)
    for bad in (0.5, torch.tensor([1.0, 0.5])):
        with pytest.raises(ArgumentError, match=r"`baseline` to be whole numbers for inputs of torch\.int64"):
            TabularFeatures(bad).fit(samples)


def test_a_number_as_baseline_is_as_exact_as_the_inputs() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16):
        samples = torch.zeros(2, 2, dtype=dtype)
        players = TabularFeatures(0.1)
        players.fit(samples)
        assert absent(players, samples) == torch.tensor(0.1, dtype=dtype).item()


def test_ids_are_described() -> None:
    players = TabularFeatures(groups=[[0, 1]])
    players.suit(Embedded())
    assert players.describe() == "TabularFeatures(baseline='mean', of ids the most frequent, 1 groups of 2 columns)"
    zero = TabularFeatures("zero")
    zero.suit(Embedded())
    assert zero.describe() == repr(zero)


# -- one sample ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("players", "shape"),
    [(TabularFeatures(), (4,)), (FeatureMask([0, 0, 1, 2], "mean"), (4,)), (FeatureMask([0, 1], "mean"), (3, 2))],
    ids=["columns", "regions", "regions of a series"],
)
@pytest.mark.parametrize("copies", [1, 3])
def test_one_sample_is_no_mean_of_itself(players: RegionPlayers, shape: tuple[int, ...], copies: int) -> None:
    sample = torch.randn(1, *shape)
    assert players.note is None
    players.fit(sample.expand(copies, *shape))
    assert not players.absent(sample, torch.zeros(1)).any()
    assert players.note is not None
    assert "no mean of samples that are all the same" in players.note
    assert not players.note.endswith(".")
    players.fit(torch.randn(2, *shape))
    assert players.note is None
    assert players.absent(sample, torch.zeros(1)).any()


def test_one_sample_that_is_not_finite_is_none_either() -> None:
    players = TabularFeatures()
    players.fit(torch.tensor([[1.0, torch.nan]]))
    assert absent(players, torch.zeros(1, 2)) == [0.0, 0.0]


def test_one_image_has_a_mean_of_its_pixels() -> None:
    image = torch.randn(1, 2, 8, 8)
    players = ImagePatches(baseline="mean")
    players.fit(image)
    assert players.note is None
    torch.testing.assert_close(players.absent(image, torch.zeros(1)), image[0].mean((1, 2)).view(2, 1, 1))


def test_interactions_of_one_row_are_not_zero_and_the_user_is_told() -> None:
    model, row = nn.Linear(4, 3), torch.randn(1, 4)
    with pytest.warns(InteractionsWarning, match="An absent part is 0 instead") as caught:
        result = compute_interactions(model, row, torch.tensor([1]), num_players=4)
    assert [str(w.message).endswith("of your own.") for w in caught] == [True]
    assert caught[0].filename == __file__
    assert result.values.unique().numel() == 16
    zero = compute_interactions(model, row, torch.tensor([1]), TabularFeatures("zero"), num_players=4)
    assert torch.equal(zero.values, result.values)
