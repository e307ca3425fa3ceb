"""What kind targets are, and the one form each kind is brought into."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.model.targets import (
    ENOUGH,
    are_labels,
    are_numbers,
    are_probabilities,
    are_soft,
    known_rows,
    known_values,
    read_labels,
    read_numbers,
    read_one_hot,
    read_soft,
    read_whole,
)

NAN = torch.nan


@pytest.mark.parametrize(
    ("outputs", "targets", "kind"),
    [
        (3, torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]]), "soft"),
        (3, torch.tensor([[0.1, 0.9, 0.0], [0.05, 0.05, 0.9]]), "soft"),
        (3, torch.tensor([[0.2, 0.7, 0.0], [1.0, 0.0, 0.0]]), "labels"),
        (3, torch.tensor([[0.2, 0.9, -0.1], [1.0, 0.0, 0.0]]), "numbers"),
        (3, torch.eye(3), "other"),
        (3, torch.tensor([[1.0, 1, 0], [0, 1, 0]]), "labels"),
        (3, torch.tensor([[1, 1, 0], [0, 1, 0]]), "labels"),
        (3, torch.tensor([[1, 0, -100], [0, 1, 1]]), "labels"),
        (3, torch.tensor([[1.0, 1, NAN], [0, NAN, 0]]), "labels"),
        (2, torch.tensor([[1.0, NAN], [NAN, 1.0]]), "labels"),
        (3, torch.tensor([[0.95, 0.95, 0.05], [0.05, 0.05, 0.05]]), "labels"),
        (5, torch.tensor([[0.1, 0.2, 0.3, 0.44, 0.55]]), "numbers"),
        (2, torch.tensor([[3.0, 1.0], [-7.0, NAN]]), "numbers"),
        (3, torch.tensor([[3.0, 1.0], [-7.0, 2.0]]), "other"),
        (3, torch.tensor([[3, 1, 0]]), "other"),
        (1, torch.tensor([0.05, 0.95, 0.95]), "soft"),
        (1, torch.tensor([[0.1], [0.9], [NAN]]), "soft"),
        (1, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), "numbers"),
        (1, torch.tensor([0.5, 1.5]), "numbers"),
        (1, torch.tensor([0.0, 1, 1]), "other"),
        (1, torch.tensor([-1.0, 1, 1]), "other"),
        (1, torch.tensor([3.0, 1, NAN]), "numbers"),
        (1, torch.tensor([0, 1, -100]), "other"),
        (3, torch.tensor([0.5, 0.5]), "numbers"),
        (3, torch.tensor([[0.5], [2.0]]), "numbers"),
        (3, torch.tensor([0.0, 2.0]), "other"),
        (3, ["a", "b"], "other"),
        (1, None, "other"),
    ],
    ids=str,
)
def test_kinds_of_targets_are_told_apart(outputs: int, targets: Any, kind: str) -> None:
    soft = are_soft(targets, outputs)
    assert soft is (kind == "soft")
    assert (are_numbers(targets, outputs) and not soft) is (kind == "numbers")
    assert are_labels(targets, outputs) is (kind == "labels")


@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.05, 5.0))
def test_rows_that_sum_to_one_are_soft_labels(outputs: int, seed: int, alpha: float) -> None:
    torch.manual_seed(seed)
    rows = torch.distributions.Dirichlet(torch.full((outputs,), alpha)).sample((8,))
    assert are_soft(rows, outputs)
    assert not are_labels(rows, outputs)
    assert not are_soft(rows * 0.9, outputs)
    assert not are_soft(rows, outputs + 1)
    assert are_soft(rows.half(), outputs), "as far as half precision goes"


# -- missing targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "rows", "values"),
    [
        (torch.tensor([1, -100, 0]), [True, False, True], [1, 0]),
        (torch.tensor([1.0, NAN, -100.0]), [True, False, True], [1.0, -100.0]),
        (torch.tensor([[1.0, NAN], [NAN, NAN]]), [True, False], [1.0]),
        (torch.tensor([[-100, 2], [-100, -100]]), [True, False], [2]),
        (torch.tensor([True, False]), [True, True], [True, False]),
        (torch.tensor([torch.inf, 1.0]), [False, True], [1.0]),
        (torch.zeros(0), [], []),
    ],
    ids=str,
)
def test_what_is_missing_is_known(targets: Tensor, rows: list[bool], values: list[Any]) -> None:
    assert known_rows(targets).tolist() == rows
    assert known_values(targets).tolist() == values


# -- probabilities ---------------------------------------------------------------------------------------------------


def test_softmax_rows_are_probabilities() -> None:
    logits = 3 * torch.randn(2, 4)
    assert are_probabilities(logits.softmax(1), "classes")
    assert are_probabilities(logits.softmax(1).half().double(), "classes")
    assert not are_probabilities(logits, "classes")
    assert not are_probabilities(logits.sigmoid(), "classes")
    assert not are_probabilities(logits.log_softmax(1), "classes")
    assert not are_probabilities(torch.zeros(0, 4), "classes")
    assert not are_probabilities(torch.full((2, 4), NAN), "classes")


@pytest.mark.parametrize("kind", ["binary", "labels"])
def test_it_takes_many_outputs_to_tell_a_sigmoid(kind: Any) -> None:
    columns = 1 if kind == "binary" else 4
    outputs = torch.randn(ENOUGH // columns, columns).sigmoid()
    assert are_probabilities(outputs, kind)
    assert not are_probabilities(outputs[:-1], kind), "they could be logits by chance"
    assert not are_probabilities(torch.cat([outputs, torch.full((1, columns), 1.5)]), kind)
    assert not are_probabilities(torch.cat([outputs, torch.full((1, columns), -0.1)]), kind)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_labels_are_read_with_what_is_missing() -> None:
    expected = torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, 1.0]])
    for targets in (expected, expected.half(), torch.tensor([[1, 0, -100], [0, 1, 1]])):
        found = read_labels(targets, 3, soft=False)
        assert found.dtype == torch.float32
        assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1))
    assert read_labels(torch.tensor([[True, False]]), 2, soft=False).tolist() == [[1.0, 0.0]]
    assert read_labels(torch.tensor([[0.25, 1.0]]).double(), 2, soft=True).dtype == torch.float64
    for targets, soft in [(torch.tensor([[0.25, 1.0]]), False), (torch.tensor([[-0.1, 1.0]]), True)]:
        with pytest.raises(BatchError, match="0 or 1"):
            read_labels(targets, 2, soft=soft)
    with pytest.raises(BatchError, match=r"shape \(B, 4\).*\(1, 2\)"):
        read_labels(torch.tensor([[1, 0]]), 4, soft=False)


def test_soft_targets_are_read_and_indices_among_them_become_rows() -> None:
    rows = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    assert read_soft(rows, 3) is rows
    assert read_soft(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert read_soft(torch.tensor([[0.1], [0.9]]), 1).tolist() == pytest.approx([0.1, 0.9])
    assert read_soft(torch.tensor([1, 0]), 1).tolist() == [1.0, 0.0]
    with pytest.raises(BatchError, match="from 0 to 2"):
        read_soft(torch.tensor([3]), 3)
    with pytest.raises(BatchError):
        read_soft(torch.rand(2, 4), 3)


def test_one_hot_rows_are_read_as_indices() -> None:
    assert read_one_hot(torch.tensor([[0, 1, 0], [1, 0, 0]])).tolist() == [1, 0]
    assert read_one_hot(torch.eye(3).bool()).tolist() == [0, 1, 2]
    for wrong in (torch.tensor([[1, 1, 0]]), torch.zeros(1, 3), torch.tensor([[0.5, 0.5]])):
        with pytest.raises(BatchError, match="not one-hot"):
            read_one_hot(wrong)


def test_numbers_and_whole_samples_are_read() -> None:
    assert read_numbers(torch.tensor([[1], [2]]), 1).tolist() == [1.0, 2.0]
    assert read_numbers(torch.ones(2, 3), 3).shape == (2, 3)
    assert read_whole(torch.ones(2, 3, 4), 12).shape == (2, 12)
    assert read_whole(torch.ones(2, 12, dtype=torch.uint8), 12).dtype == torch.float32
    assert read_whole(torch.ones(0, 3, 4), 12).shape == (0, 12)
    for wrong in (torch.ones(2, 3), None):
        with pytest.raises(BatchError, match="12 numbers"):
            read_whole(wrong, 12)
