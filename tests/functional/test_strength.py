"""Strength by order and what is read off it, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import members
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional import (
    cancellation,
    high_order_share,
    low_order_share,
    mean_order,
    order_distribution,
    order_strength,
    salience_threshold,
    salient_count,
    value_scale,
    weighted_jaccard,
)

numbers = st.floats(-100, 100, allow_subnormal=False)
READINGS = [order_distribution, mean_order, low_order_share, high_order_share, cancellation]


def pair(n: int, seed: int, *batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    and_, or_ = torch.randn(2, *batch, 2**n, generator=generator, dtype=torch.float64).unbind(0)
    return and_, or_


def strength_by_loops(and_: Tensor, or_: Tensor, threshold: float) -> list[list[float]]:
    n = len(and_).bit_length() - 1
    out = [[0.0] * n, [0.0] * n]
    for interactions in (and_, or_):
        for index in range(1, len(and_)):
            value = float(interactions[index])
            if abs(value) >= threshold:
                out[value < 0][len(members(index)) - 1] += abs(value)
    return out


def strengths(n: int) -> st.SearchStrategy[Tensor]:
    row = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=n, max_size=n)
    return st.lists(row, min_size=2, max_size=2).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


any_strength = st.integers(1, 12).flatmap(strengths)

# -- order_strength --------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 1000), st.floats(0, 3))
def test_strength_and_count_equal_the_loops(n: int, seed: int, threshold: float) -> None:
    and_, or_ = pair(n, seed)
    expected = torch.tensor(strength_by_loops(and_, or_, threshold), dtype=torch.float64)
    torch.testing.assert_close(order_strength(and_, or_, threshold), expected, rtol=1e-12, atol=1e-12)
    count = sum(abs(float(x)) >= threshold for part in (and_, or_) for x in part[1:])
    assert int(salient_count(and_, or_, threshold)) == count


def test_a_batch_is_the_samples_one_by_one() -> None:
    and_, or_ = pair(4, 1, 2, 3)
    found = order_strength(and_, or_, 0.5)
    assert found.shape == (2, 3, 2, 4)
    assert torch.equal(found[1, 2], order_strength(and_[1, 2], or_[1, 2], 0.5))
    assert salient_count(and_, or_, 0.5).shape == (2, 3)


def test_a_threshold_for_each_sample() -> None:
    and_, or_ = pair(3, 2, 2)
    limits = torch.tensor([0.1, 1.5], dtype=torch.float64)
    found = order_strength(and_, or_, limits)
    count = salient_count(and_, or_, limits)
    for i, limit in enumerate(limits.tolist()):
        torch.testing.assert_close(found[i], order_strength(and_[i], or_[i], limit))
        assert count[i] == salient_count(and_[i], or_[i], limit)


@pytest.mark.parametrize(
    ("threshold", "expected", "count"),
    [(0.0, [[2.0, 1.0], [0.5, 3.0]], 4), (2.0, [[2.0, 0.0], [0.0, 3.0]], 2), (2.1, [[0, 0], [0, 3.0]], 1),
     (9.0, [[0, 0], [0, 0]], 0)],
    ids=["all", "the limit itself counts", "above", "none"],
)  # fmt: skip
def test_thresholds(threshold: float, expected: list[list[float]], count: int) -> None:
    and_, or_ = torch.tensor([0.0, 2.0, -0.5, -3.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert order_strength(and_, or_, threshold).tolist() == expected
    assert int(salient_count(and_, or_, threshold)) == count


def test_the_empty_coalition_never_counts() -> None:
    and_, or_ = torch.tensor([9.0, 0.0, 0.0, 0.0]), torch.tensor([-9.0, 0.0, 0.0, 0.0])
    assert not order_strength(and_, or_, 0.0).any()
    assert int(salient_count(and_, or_, 0.0)) == 0


def test_a_sample_of_nan_stays_visible_and_touches_no_other() -> None:
    and_, or_ = pair(3, 3, 2)
    expected = order_strength(and_[1], or_[1], 0.1)
    and_[0, 1:] = torch.nan
    found = order_strength(and_, or_, 0.1)
    assert found[0].isnan().all()
    assert torch.equal(found[1], expected)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"`and_` and `or_`.*\(4,\) and \(8,\)"):
        order_strength(torch.zeros(4), torch.zeros(8), 0.0)
    with pytest.raises(ArgumentError, match=r"2\*\*n"):
        order_strength(torch.zeros(6), torch.zeros(6), 0.0)


def test_salience_threshold_is_a_fraction_of_the_scale() -> None:
    values = torch.tensor([[1.0, 7.0, 7.0, 3.0], [0.0, 9.0, 9.0, -4.0]])
    spread = (math.sqrt(27 - 4.5**2) + math.sqrt(178 / 4 - 3.5**2)) / 2
    assert float(value_scale(values)) == pytest.approx(spread)
    assert float(salience_threshold(values)) == pytest.approx(0.07 * spread)
    assert float(value_scale(values, "difference")) == pytest.approx((2 + 4) / 2)
    assert float(salience_threshold(values, 0.5, "difference")) == pytest.approx(0.5 * (2 + 4) / 2)
    assert math.isnan(float(salience_threshold(values[:0])))
    assert float(value_scale(values.double() + 1e8)) == pytest.approx(spread, rel=1e-6), "an offset takes no precision"


@pytest.mark.parametrize("scale", ["mean", None, 0.5])
def test_a_scale_that_is_unknown_is_refused(scale: object) -> None:
    with pytest.raises(ArgumentError, match=r"`scale`.*but got"):
        value_scale(torch.zeros(1, 4), scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("place", [0, 1, 3], ids=["empty", "between", "whole"])
def test_a_sample_with_bad_values_leaves_the_threshold_of_the_others_alone(bad: float, place: int) -> None:
    values = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 1.0, -4.0], [0.0, 50.0, 1.0, 100.0]])
    values[2, place] = bad
    assert float(salience_threshold(values, 0.5, "difference")) == 1.5
    assert float(salience_threshold(values, 0.5)) == float(salience_threshold(values[:2], 0.5))
    assert math.isnan(float(salience_threshold(values[2:], 0.5)))
    assert math.isnan(float(salience_threshold(values[:0], 0.5)))


def test_a_threshold_of_nan_leaves_the_strength_undefined() -> None:
    and_, or_ = pair(3, 0, 2)
    assert bool(order_strength(and_, or_, math.nan).isnan().all())
    assert salient_count(and_, or_, math.nan).tolist() == [0, 0]
    limits = torch.tensor([0.5, math.nan], dtype=and_.dtype)
    each = order_strength(and_, or_, limits)
    assert torch.equal(each[0], order_strength(and_[0], or_[0], 0.5))
    assert bool(each[1].isnan().all())
    assert salient_count(and_, or_, limits).tolist() == [int(salient_count(and_[0], or_[0], 0.5)), 0]


@pytest.mark.parametrize("salience", [-0.1, math.inf, math.nan], ids=str)
def test_salience_that_makes_no_sense_is_refused(salience: float) -> None:
    with pytest.raises(ArgumentError, match=r"`salience`.*but got (-0.1|inf|nan)"):
        salience_threshold(torch.zeros(1, 4), salience)


# -- what is read off ------------------------------------------------------------------------------------------------


@given(any_strength)
def test_readings_equal_the_loops(strength: Tensor) -> None:
    rows = strength.tolist()
    n = len(rows[0])
    total = [rows[0][k] + rows[1][k] for k in range(n)]
    everything = sum(total)
    if everything == 0:
        for reading in READINGS:
            assert reading(strength).isnan().all()
        return
    share = [x / everything for x in total]
    assert order_distribution(strength).tolist() == pytest.approx(share)
    assert float(order_distribution(strength).sum()) == pytest.approx(1)
    assert float(mean_order(strength)) == pytest.approx(sum((k + 1) * share[k] for k in range(n)))
    assert 1 - 1e-9 <= float(mean_order(strength)) <= n + 1e-9
    assert float(low_order_share(strength)) == pytest.approx(sum(share[k] for k in range(n) if k + 1 <= 3))
    assert float(high_order_share(strength)) == pytest.approx(sum(share[k] for k in range(n) if k + 1 >= n / 2))
    p, m = sum(rows[0]), sum(rows[1])
    assert float(cancellation(strength)) == pytest.approx(1 - abs(p - m) / (p + m))
    assert -1e-9 <= float(cancellation(strength)) <= 1 + 1e-9


@given(any_strength, st.floats(1e-3, 1e3))
def test_readings_do_not_depend_on_the_unit(strength: Tensor, unit: float) -> None:
    for reading in READINGS:
        torch.testing.assert_close(reading(strength), reading(strength * unit), equal_nan=True)


@pytest.mark.parametrize(("n", "first_high"), [(2, 1), (3, 2), (4, 2), (5, 3), (9, 5), (10, 5)])
def test_high_orders_begin_at_half_the_players(n: int, first_high: int) -> None:
    for k in range(1, n + 1):
        strength = torch.zeros(2, n)
        strength[0, k - 1] = 1.0
        assert float(high_order_share(strength)) == float(k >= first_high)
        assert float(low_order_share(strength)) == float(k <= 3)
        assert float(mean_order(strength)) == k


def test_one_sign_does_not_cancel_and_equal_signs_do() -> None:
    assert float(cancellation(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))) == 0
    assert float(cancellation(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))) == 1


@pytest.mark.parametrize("reading", READINGS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_other_shapes_are_refused(reading, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"\(\.\.\., 2, n\)"):
        reading(torch.zeros(shape))


@pytest.mark.parametrize("reading", READINGS, ids=lambda f: f.__name__)
def test_readings_work_on_batches(reading) -> None:
    strength = torch.rand(3, 4, 2, 5)
    torch.testing.assert_close(reading(strength)[1, 2], reading(strength[1, 2]))


# -- similarity ------------------------------------------------------------------------------------------------------

vectors = st.integers(1, 8).flatmap(
    lambda n: st.tuples(*[st.lists(numbers, min_size=n, max_size=n).map(torch.tensor)] * 2)
)


def jaccard_by_loops(first: list[float], second: list[float]) -> float:
    shared = union = 0.0
    for a, b in zip(first, second, strict=True):
        for sign in (1, -1):
            x, y = max(sign * a, 0), max(sign * b, 0)
            shared, union = shared + min(x, y), union + max(x, y)
    return shared / union if union else math.nan


@given(vectors)
def test_jaccard_equals_the_loops_is_symmetric_and_within_range(vectors: tuple[Tensor, Tensor]) -> None:
    first, second = (v.double() for v in vectors)
    found = float(weighted_jaccard(first, second))
    assert found == pytest.approx(jaccard_by_loops(first.tolist(), second.tolist()), nan_ok=True)
    assert found == pytest.approx(float(weighted_jaccard(second, first)), nan_ok=True)
    if not math.isnan(found):
        assert 0 <= found <= 1
    if first.any():
        assert float(weighted_jaccard(first, first)) == 1
        assert float(weighted_jaccard(first, -first)) == 0


def test_jaccard_by_hand() -> None:
    first, second = (
        torch.tensor([[3.0, -1.0, 0.0], [1.0, 0.0, 0.0]]),
        torch.tensor([[1.0, -2.0, 4.0], [-1.0, 0.0, 0.0]]),
    )
    assert weighted_jaccard(first, second).tolist() == pytest.approx([(1 + 1) / (3 + 2 + 4), 0.0])
    assert math.isnan(float(weighted_jaccard(torch.zeros(2), torch.zeros(2))))


def test_jaccard_refuses_shapes_that_differ() -> None:
    with pytest.raises(ArgumentError, match=r"`first` and `second`.*\(2,\) and \(3,\)"):
        weighted_jaccard(torch.zeros(2), torch.zeros(3))
