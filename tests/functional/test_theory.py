"""The theory of interactions during training, against dense matrices, the papers' propositions and planted parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional import (
    fit_noise,
    fit_spindle,
    law_profiles,
    noisy_regression,
    order_strength,
    profile_distance,
    random_strength,
    soft_cutoff,
    split_profile,
)
from lightning_interactions.functional.theory import DECAYS

NOISE = [0.0, 1e-6, 1e-3, 0.1, 1.0, 100.0]


def orders_of(n: int) -> list[int]:
    return [bin(coalition).count("1") for coalition in range(2**n)]


def dense(final: Tensor, noise: float) -> Tensor:
    """The law as it is written, with matrices of ``4**n`` entries."""
    size = len(final)
    triggers = torch.tensor([[float(t & s == t) for t in range(size)] for s in range(size)], dtype=torch.float64)
    penalty = torch.tensor([2.0**k * noise for k in orders_of(size.bit_length() - 1)], dtype=torch.float64)
    square = triggers.T @ triggers
    return torch.linalg.solve(square + size * torch.diag(penalty), square @ final)


def law_matrix(n: int, noise: float) -> Tensor:
    return noisy_regression(torch.eye(2**n, dtype=torch.float64), noise).T


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_the_law_is_that_of_dense_matrices(n: int, noise: float) -> None:
    final = torch.randn(2**n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    assert float((noisy_regression(final, noise) - dense(final, noise)).abs().max()) < 1e-10


def test_several_levels_and_samples_at_once() -> None:
    final = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    found = noisy_regression(final, torch.tensor([0.1, 2.0]))
    assert found.shape == (2, 3, 2, 16)
    torch.testing.assert_close(found[1, 2, 0], dense(final[2, 0].double(), 2.0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [3, 6, 8])
def test_rows_of_one_order_have_one_norm_which_falls_with_the_order(n: int) -> None:
    """Theorem 4 and Proposition 1: the ratio of neighbouring orders is above 1, and smaller with less noise."""
    order = torch.tensor(orders_of(n))
    before = [math.inf] * n
    for noise in (1e2, 1.0, 1e-1, 1e-2, 1e-4, 1e-6):
        norms = law_matrix(n, noise).norm(dim=1)
        for k in range(n + 1):
            own = norms[order == k]
            torch.testing.assert_close(own, own[:1].expand_as(own), rtol=1e-12, atol=0)
        by_order = [float(norms[order == k][0]) for k in range(n + 1)]
        ratios = [by_order[k] / by_order[k + 1] for k in range(n)]
        assert all(1 < ratio < earlier for ratio, earlier in zip(ratios, before, strict=True))
        before = ratios
    limit = [float(law_matrix(n, 1e9).norm(dim=1)[order == k][0]) for k in range(n + 1)]
    assert [limit[k] / limit[k + 1] for k in range(n)] == pytest.approx([math.sqrt(10)] * n, rel=1e-6)


def test_noise_that_is_no_noise_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`noise`"):
        noisy_regression(torch.ones(4), -1.0)
    with pytest.raises(ArgumentError, match="2\\*\\*n"):
        noisy_regression(torch.ones(5), 1.0)


# -- random interactions ---------------------------------------------------------------------------------------------


def test_random_interactions_have_the_strength_of_the_theorem() -> None:
    n, s = 6, 0.7
    and_, or_ = s * torch.randn(2, 4000, 2**n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measured = order_strength(and_, or_, 0.0).mean(0)
    torch.testing.assert_close(measured, random_strength(n, s), rtol=0.03, atol=0)
    fit = fit_spindle(measured.sum(0))
    assert fit.scale == pytest.approx(s, rel=0.01)
    assert fit.distance < 0.01


def test_the_distance_is_of_shares() -> None:
    assert float(profile_distance(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))) == 1
    assert float(profile_distance(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]))) == 0
    assert profile_distance(torch.zeros(2), torch.ones(2)).isnan()


# -- fits ------------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.floats(-6, 1), st.integers(0, 100))
def test_the_noise_is_found_again(size: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    final = torch.randn(4, 2, 2**7, generator=generator, dtype=torch.float64)
    profile = law_profiles(final, torch.tensor([10**size], dtype=torch.float64))
    (fit,) = fit_noise(profile, final)
    assert fit.distance < 2e-3
    assert fit.distance <= fit.trivial
    assert fit.cutoff == pytest.approx(soft_cutoff(10**size), abs=0.05)


def test_the_trained_network_itself_has_no_noise() -> None:
    final = torch.randn(4, 2**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (fit,) = fit_noise(law_profiles(final, torch.zeros(1, dtype=torch.float64)), final)
    assert (fit.noise, fit.cutoff) == (0.0, math.inf)
    assert fit.distance == fit.trivial == pytest.approx(0, abs=1e-12)


def test_a_record_without_strength_has_no_fit() -> None:
    first, second = fit_noise(torch.stack([torch.zeros(3), torch.ones(3)]), torch.ones(2, 8))
    assert math.isnan(first.noise)
    assert not math.isnan(second.distance)
    with pytest.raises(ArgumentError, match="to have 3 orders"):
        fit_noise(torch.ones(4), torch.ones(2, 8))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=10, max_size=10).filter(lambda x: sum(x) > 0.1))
def test_the_split_is_the_best_there_is(values: list[float]) -> None:
    profile, spindle = torch.tensor(values, dtype=torch.float64), random_strength(10).sum(0)
    split = split_profile(profile, spindle)
    assert bool((split.decay >= 0).all())
    assert bool((split.spindle >= 0).all())
    steps = np.arange(10)
    parts = np.stack([*(float(ratio) ** steps for ratio in DECAYS), (spindle / spindle.sum()).numpy()], 1)
    factors, error = nnls(parts, profile.numpy())
    own = float((split.decay + split.spindle - profile).norm())
    assert own <= error + 1e-7 * (1 + profile.norm())
    torch.testing.assert_close(split.spindle.numpy(), parts[:, -1] * factors[-1], rtol=1e-4, atol=1e-5 * sum(values))


def test_parts_that_were_put_together_come_apart() -> None:
    spindle = random_strength(9).sum(0)
    decay = 2 * 0.375 ** torch.arange(9, dtype=torch.float64)
    for factor in (0.0, 0.1, 5.0):
        split = split_profile(decay + factor * spindle, spindle)
        torch.testing.assert_close(split.decay, decay, rtol=1e-6, atol=1e-9)
        assert split.share == pytest.approx(float(factor * spindle.sum() / (factor * spindle + decay).sum()), abs=1e-9)


def test_without_strength_there_is_nothing_to_split() -> None:
    assert math.isnan(split_profile(torch.zeros(4), torch.ones(4)).share)
    with pytest.raises(ArgumentError, match="one shape"):
        split_profile(torch.ones(4), torch.ones(5))
    with pytest.raises(ArgumentError, match="none of them negative"):
        split_profile(-torch.ones(4), torch.ones(4))
