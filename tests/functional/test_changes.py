"""What is preserved, emerges and is removed: against sets of tuples, as the paper writes them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional import (
    generalizable_share,
    interaction_changes,
    salient_interactions,
    still_preserved,
)
from lightning_interactions.functional.interval import ratio_interval

N = 3
Known = set[tuple[int, int, int, int]]  # sample, kind, coalition, sign


def record(seed: int, samples: int = 3) -> Tensor:
    """Salient interactions ``(B, 2, 2**N)``, half of them zero."""
    generator = torch.Generator().manual_seed(seed)
    and_, or_ = torch.randn(2, samples, 2**N, generator=generator, dtype=torch.float64)
    return salient_interactions(and_, or_, 0.6)


def as_set(salient: Tensor) -> Known:
    return {(x, kind, s, int(salient[x, kind, s].sign())) for x, kind, s in salient.nonzero().tolist()}


def values(known: Known, of: Tensor) -> list[tuple[int, int, float]]:
    """Sample, order and value of each."""
    return [(x, bin(s).count("1"), float(of[x, kind, s])) for x, kind, s, _ in known]


def described(known: Known, of: Tensor, whole: Known) -> tuple[float, float, float]:
    rows = values(known, of)
    strength = sum(abs(value) for _, _, value in rows)
    total = sum(abs(value) for _, _, value in values(whole, of))
    kept = sum(abs(sum(value for x, _, value in rows if x == sample)) for sample in range(len(of)))
    if not strength:
        return 0.0 if total else math.nan, math.nan, math.nan
    return strength / total, sum(order * abs(value) for _, order, value in rows) / strength, kept / strength


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_the_numbers_are_those_of_sets(seeds: list[int]) -> None:
    records = [record(seed) for seed in seeds]
    first = records[0]
    w0 = p = as_set(first)
    preserved = torch.ones_like(first, dtype=torch.bool)
    for now in records:
        w = as_set(now)
        p = p & w
        preserved = still_preserved(preserved, first, now)
        found = interaction_changes(first, preserved, now)
        expected = {
            "preserved": described(p, now, w),
            "emerged": described(w - p, now, w),
            "removed": described(w0 - w, first, w0),
        }
        for name, (share, order, ratio) in expected.items():
            got = [found[f"{name}_{key}"].value for key in ("share", "order", "ratio")]
            assert got == pytest.approx([share, order, ratio], nan_ok=True), name
            for key in ("share", "order", "ratio"):
                value, lower, upper = found[f"{name}_{key}"]
                assert math.isnan(lower) or lower <= value + 1e-12 <= upper + 2e-12


def test_what_comes_back_has_emerged() -> None:
    first = torch.zeros(1, 2, 4)
    first[0, 0, 3] = 2.0
    gone = torch.zeros_like(first)
    preserved = still_preserved(first != 0, first, gone)
    found = interaction_changes(first, still_preserved(preserved, first, first), first)
    assert found["preserved_share"].value == 0
    assert found["emerged_share"].value == 1
    assert found["removed_share"].value == 0


def test_another_sign_is_another_interaction() -> None:
    first = torch.zeros(1, 2, 4)
    first[0, 1, 3] = 2.0
    found = interaction_changes(first, still_preserved(first != 0, first, -first), -first)
    assert (found["emerged_share"].value, found["removed_share"].value) == (1, 1)


def test_samples_that_are_not_finite_do_not_count() -> None:
    first, now = record(0, 4), record(1, 4)
    preserved = still_preserved(first != 0, first, now)
    known = interaction_changes(first[:3], preserved[:3], now[:3])
    now[3] = math.nan
    assert interaction_changes(first, preserved, now) == known


def test_the_empty_coalition_and_weak_ones_are_no_salient_interactions() -> None:
    and_ = torch.tensor([5.0, 0.5, -0.7, math.nan])
    salient = salient_interactions(and_, torch.zeros(4), 0.6)
    assert salient[0, :3].tolist() == pytest.approx([0.0, 0.0, -0.7])
    assert salient[0, 3].isnan()
    assert salient_interactions(and_, torch.zeros(4), math.nan)[..., 1:].isnan().all()


def test_the_generalizable_share_counts_equal_signs_only() -> None:
    now = torch.tensor([[[0.0, 3.0, 1.0, -1.0], [0.0, 0.0, 0.0, 5.0]]])
    other = torch.tensor([[[0.0, 0.1, -1.0, -9.0], [0.0, 0.0, 0.0, 0.0]]])
    assert generalizable_share(now, other).value == pytest.approx(0.4)
    assert generalizable_share(now, now).value == 1


def test_shapes_must_agree() -> None:
    first = record(0)
    with pytest.raises(ArgumentError, match="one shape"):
        interaction_changes(first, first[:1] != 0, first)


def test_the_interval_is_that_of_leaving_out_each_sample() -> None:
    top, bottom = torch.rand(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, lower, upper = ratio_interval(top, bottom)
    left_out = [float((top.sum() - a) / (bottom.sum() - b)) for a, b in zip(top, bottom, strict=True)]
    error = math.sqrt(5 / 6 * sum((x - whole) ** 2 for x in left_out))
    assert whole == pytest.approx(float(top.sum() / bottom.sum()))
    assert (upper - whole) == pytest.approx(whole - lower)
    assert 2.0 * error < upper - whole < 3.5 * error, "Student's quantile of 5 degrees of freedom at most"


@pytest.mark.parametrize(("numbers", "expected"), [([], math.nan), ([0.0], math.nan), ([2.0], 0.5)])
def test_an_interval_needs_two_samples(numbers: list[float], expected: float) -> None:
    bottom = torch.tensor(numbers, dtype=torch.float64)
    value, lower, upper = ratio_interval(bottom / 2, bottom)
    assert value == pytest.approx(expected, nan_ok=True)
    assert math.isnan(lower)
    assert math.isnan(upper)
