"""The confidence interval of the mean order, against scipy and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from lightning_interactions.functional import mean_order
from lightning_interactions.functional.interval import mean_order_interval, ratio_error, ratio_of_sums, t_quantile


def test_the_quantile_is_students() -> None:
    for freedom in (*range(1, 201), 1000, 100_000):
        assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-4), freedom
    for freedom in (1.02, 1.3, 1.7, 2.4, 3.9, 12.5):
        assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=2e-3), freedom
    assert t_quantile(0.5) == pytest.approx(t.ppf(0.975, 1), rel=1e-4), "fewer than one degree count as one"


@pytest.mark.thorough
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Samples with random strengths: the mean order of infinitely many is known from a large draw."""
    generator = torch.Generator().manual_seed(0)

    def draw(samples: int) -> torch.Tensor:
        return -torch.rand(samples, 2, 4, generator=generator, dtype=torch.float64).log()

    truth = float(mean_order(draw(200_000).mean(0)))
    covered = [lower <= truth <= upper for lower, upper in (mean_order_interval(draw(24)) for _ in range(800))]
    assert 0.925 <= sum(covered) / len(covered) <= 0.975


def strengths_of_a_network(generator: np.random.Generator, samples: int, spread: float, tilt: float) -> torch.Tensor:
    """Strengths that differ widely in their total, by ``exp(spread)``, and in their orders; with ``tilt`` together."""
    falling = np.exp(-0.35 * np.arange(10))
    share = generator.dirichlet(10 * falling / falling.sum(), samples)
    total = np.exp(spread * generator.standard_normal(samples) + tilt * (share @ np.arange(1, 11) - 3))
    return torch.tensor(total[:, None] * share).unsqueeze(1) * torch.tensor([0.6, 0.4]).view(1, 2, 1)


@pytest.mark.thorough
@pytest.mark.parametrize(("spread", "tilt"), [(0.5, 0.0), (1.0, 0.0), (1.5, 0.0), (1.0, 0.25)])
@pytest.mark.parametrize("samples", [2, 3, 5, 8, 32])
def test_the_interval_covers_the_truth_with_few_and_unlike_samples(samples: int, spread: float, tilt: float) -> None:
    generator = np.random.default_rng(0)
    truth = float(mean_order(strengths_of_a_network(generator, 100_000, spread, tilt).mean(0)))
    many = strengths_of_a_network(generator, 1000 * samples, spread, tilt).view(1000, samples, 2, 10)
    covered = [lower <= truth <= upper for lower, upper in map(mean_order_interval, many)]
    assert sum(covered) / len(covered) >= 0.92


@pytest.mark.parametrize("samples", [2, 3, 9])
def test_the_width_is_that_of_leaving_out_one_after_the_other(samples: int) -> None:
    strength = torch.rand(samples, 2, 100, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 1
    strength *= torch.linspace(1.0, 3.0, samples).view(-1, 1, 1)
    middle = float(mean_order(strength.mean(0)))
    without = [float(mean_order(torch.cat([strength[:i], strength[i + 1 :]]).mean(0))) for i in range(samples)]
    error = math.sqrt((samples - 1) / samples * sum((x - middle) ** 2 for x in without))
    share = strength.sum((1, 2)) / strength.sum()
    half = t.ppf(0.975, max(1 / float(share.square().sum()) - 1, 1.0)) * error
    assert mean_order_interval(strength) == pytest.approx((middle - half, middle + half), rel=1e-4)


def test_a_sample_without_strength_adds_no_certainty() -> None:
    strength = torch.rand(4, 2, 5, generator=torch.Generator().manual_seed(1))
    silent = torch.cat([strength, torch.zeros(20, 2, 5)])
    assert mean_order_interval(silent) == pytest.approx(mean_order_interval(strength))
    assert all(map(math.isnan, mean_order_interval(silent[3:])))


def test_the_interval_lies_about_the_mean_order_and_within_the_orders() -> None:
    strength = torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(1))
    lower, upper = mean_order_interval(strength)
    assert (lower + upper) / 2 == pytest.approx(float(mean_order(strength.double().mean(0))))
    wide = torch.zeros(3, 2, 5)
    wide[:2, 0, 0], wide[2, 0, 4] = 1.0, 1.0
    assert mean_order_interval(wide) == (1.0, 5.0)


def test_samples_that_do_not_count_are_left_out() -> None:
    strength = torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(1))
    with_gap = torch.cat([strength, torch.full((1, 2, 5), math.nan)])
    assert mean_order_interval(with_gap) == pytest.approx(mean_order_interval(strength))
    assert all(map(math.isnan, mean_order_interval(strength[:1])))
    assert all(map(math.isnan, mean_order_interval(torch.zeros(4, 2, 5))))


@given(st.integers(2, 9), st.integers(0, 1000))
def test_a_ratio_is_split_into_what_each_sample_adds(samples: int, seed: int) -> None:
    """Watched a little more often, a sample moves the ratio towards its own part, by as much as it counts."""
    rows = torch.rand(2, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    top, bottom = rows.tolist()
    ratio, parts = ratio_of_sums(*rows)
    assert ratio == pytest.approx(sum(top) / sum(bottom))
    for i, part in enumerate(parts.tolist()):
        more = 1e-6
        moved = (sum(top) + more * top[i]) / (sum(bottom) + more * bottom[i])
        assert part == pytest.approx(ratio + samples * (moved - ratio) / more, rel=1e-4, abs=1e-4)
    rows[:, 0] = torch.tensor([math.nan, math.inf])
    less, others = ratio_of_sums(*rows)
    assert less == pytest.approx(sum(top[1:]) / sum(bottom[1:]))
    assert others.isnan().tolist() == [True] + [False] * (samples - 1)


@given(st.integers(2, 9), st.integers(0, 1000))
def test_the_error_of_a_ratio_is_that_of_leaving_out_one_after_the_other(samples: int, seed: int) -> None:
    rows = torch.rand(2, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    top, bottom = rows.tolist()
    ratio, error, freedom = ratio_error(*rows)
    without = [(sum(top) - a) / (sum(bottom) - b) for a, b in zip(top, bottom, strict=True)]
    assert error == pytest.approx(math.sqrt((samples - 1) / samples * sum((x - ratio) ** 2 for x in without)))
    assert freedom == pytest.approx(sum(bottom) ** 2 / sum(b * b for b in bottom) - 1)
    for few in (rows[:, :1], torch.cat([rows[:, :1], torch.full((2, 3), math.nan)], 1)):
        assert [math.isnan(x) for x in ratio_error(*few)] == [False, True, True]
    assert all(map(math.isnan, ratio_error(rows[0], 0 * rows[1])))
