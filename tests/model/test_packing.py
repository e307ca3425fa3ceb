"""Columns of several types in one tensor: nothing is lost, and absence is a value the model knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from lightning_interactions.errors import ArgumentError, BatchError
from lightning_interactions.model.batch import Batch, pick_columns, read_batch
from lightning_interactions.model.packing import Table, column_field, pack, unpack
from lightning_interactions.players import FeatureMask, TabularFeatures, suited_players

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int32, torch.int64,
         torch.bool]  # fmt: skip
AGE, JOB = torch.tensor([20.5, 30.5, 40.5, 28.5]), torch.tensor([[7, 2], [3, 2], [7, 0], [2**40, 5]])


def table(**tensors: Tensor) -> tuple[Table, Tensor]:
    fields = tuple(column_field(name, x) for name, x in tensors.items())
    return Table(fields), pack(list(tensors.values()), fields)


@given(st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 3)), min_size=2, max_size=5), st.integers(0, 99))
def test_every_type_comes_back_to_the_bit(kinds: list[tuple[torch.dtype, int]], seed: int) -> None:
    generator = Generator().manual_seed(seed)
    given = {}
    for i, (dtype, columns) in enumerate(kinds):
        numbers = 300 * torch.randn((4, columns) if columns else (4,), generator=generator, dtype=torch.float64)
        given[f"x.{i}"] = numbers.clamp(min=0).to(dtype) if dtype == torch.uint8 else numbers.to(dtype)
    fields = tuple(column_field(name, x) for name, x in given.items())
    packed = pack(list(given.values()), fields)
    assert packed.dtype == torch.int64
    assert packed.shape == (4, sum(max(columns, 1) for _, columns in kinds))
    for name, x in unpack(packed, fields).items():
        assert x.dtype == given[name].dtype
        assert x.equal(given[name])
    values = Table(fields).values(packed)
    assert values.equal(torch.cat([x.reshape(4, -1).double() for x in given.values()], 1))
    assert Table(fields).words(values[1]).equal(packed[1])


def test_an_absent_number_is_the_mean_and_an_absent_category_the_most_frequent() -> None:
    own, packed = table(age=AGE, job=JOB)
    players = TabularFeatures()
    players.suit_table(own)
    players.fit(packed)
    labels = players.draw(packed[3], 3, Generator())
    (absent,) = players.mask(packed[3], labels, torch.tensor([[False, False, False]]))
    assert own.values(absent).tolist() == [30.0, 7.0, 2.0]
    (some,) = players.mask(packed[3], labels, torch.tensor([[False, True, True]]))
    assert own.values(some).tolist() == [30.0, 2.0**40, 5.0]
    assert players.names(labels) == ["age", "job 0", "job 1"]
    assert players.picture(packed[0], labels).names == ["age = 20.5", "job 0 = 7", "job 1 = 2"]


@pytest.mark.parametrize(("baseline", "expected"), [("zero", [0, 0, 0]), (2, [2, 2, 2]), ([0.5, 3, 4], [0.5, 3, 4])])
def test_other_baselines(baseline: Any, expected: list[float]) -> None:
    own, packed = table(age=AGE, job=JOB)
    players = TabularFeatures(torch.tensor(baseline) if isinstance(baseline, list) else baseline)
    players.suit_table(own)
    players.fit(packed)
    assert own.values(players.absent(packed, torch.arange(3))).tolist() == expected


def test_a_category_has_no_fraction() -> None:
    own, packed = table(age=AGE, job=JOB)
    players = TabularFeatures(0.5)
    players.suit_table(own)
    with pytest.raises(ArgumentError, match=r"`baseline`.*whole numbers for the columns of 'job'"):
        players.fit(packed)


def test_other_players_say_that_they_cannot_mask_a_table() -> None:
    batch = read_batch(({"age": AGE, "job": JOB[:, 0]}, torch.arange(4)))
    with pytest.raises(BatchError, match=r"FeatureMask cannot mask the columns age, job.*TabularFeatures\(\)`"):
        suited_players(FeatureMask([0, 1]), batch, torch.nn.Identity())
    chosen = suited_players("auto", batch, torch.nn.Identity())
    assert type(chosen) is TabularFeatures
    assert "of ids the most frequent" in chosen.describe()


ONE, TWO, IDS = torch.rand(4), torch.rand(4, 3), torch.ones(4, 3).long()
CHOICES: dict[str, tuple[dict[str, Tensor], list[str], list[str]]] = {
    "single columns": ({"age": ONE, "job": IDS[:, 0], "target": ONE}, [], ["age", "job"]),
    "numbers and categories": ({"x.continuous": TWO, "x.categorical": IDS}, [], ["x.continuous", "x.categorical"]),
    "by position": ({"x_cat": IDS, "x_cont": TWO}, ["x_cat", "x_cont"], ["x_cat", "x_cont"]),
    "by position, of any name": ({"a": IDS, "b": TWO}, ["a", "b"], []),
    "single ones by position": (
        {"user": IDS[:, 0], "item": IDS[:, 1], "label": ONE},
        ["user", "item"],
        ["user", "item"],
    ),
    "one by position": ({"user": IDS[:, 0]}, ["user"], []),
    "numbers twice by position": ({"a": TWO, "b": TWO}, ["a", "b"], []),
    "one": ({"age": ONE, "y": ONE}, [], []),
    "an image and its age": ({"image": torch.rand(4, 1, 8, 8), "age": ONE, "weight": ONE}, [], []),
    "a text": ({"input_ids": IDS, "age": ONE, "job": ONE}, [], []),
    "a mask": ({"words_in": TWO, "mask": TWO}, [], []),
    "inputs with weights": ({"x": TWO, "weight": ONE}, [], []),
}


@pytest.mark.parametrize(("named", "positional", "chosen"), CHOICES.values(), ids=CHOICES.keys())
def test_what_is_a_table(named: dict[str, Tensor], positional: list[str], chosen: list[str]) -> None:
    assert pick_columns(named, positional) == chosen


def test_a_batch_of_columns_names_a_few() -> None:
    batch = read_batch(({f"c{i}": ONE for i in range(9)}, torch.arange(4)))
    assert isinstance(batch, Batch)
    assert batch.describe() == "the columns c0, c1, c2, c3, c4 and 4 more"
