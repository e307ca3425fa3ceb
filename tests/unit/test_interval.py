"""The confidence interval of the mean order, against scipy and a simulation."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import sem, t

from lightning_interactions._evidence import weighted_mean
from lightning_interactions.functional import mean_order
from lightning_interactions.interval import mean_order_interval, t_quantile


@pytest.mark.parametrize(("freedom", "off"), [(3, 0.01), (5, 2e-3), (11, 2e-4), (31, 1e-5), (1000, 1e-6)])
def test_the_quantile_is_students(freedom: int, off: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=off)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Samples with random strengths: the mean order of infinitely many is known from a large draw."""
    generator = torch.Generator().manual_seed(0)

    def draw(samples: int) -> torch.Tensor:
        return -torch.rand(samples, 2, 4, generator=generator, dtype=torch.float64).log()

    truth = float(mean_order(draw(200_000).mean(0)))
    covered = [lower <= truth <= upper for lower, upper in (mean_order_interval(draw(24)) for _ in range(800))]
    assert 0.925 <= sum(covered) / len(covered) <= 0.975


def test_the_interval_lies_about_the_mean_order_and_within_the_orders() -> None:
    strength = torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(1))
    lower, upper = mean_order_interval(strength)
    assert (lower + upper) / 2 == pytest.approx(float(mean_order(strength.double().mean(0))))
    each = weighted_mean(strength, torch.arange(1.0, 6.0))[1].numpy()
    assert (lower, upper) == pytest.approx(t.interval(0.95, 5, each.mean(), sem(each)), rel=2e-3)
    wide = torch.zeros(3, 2, 5)
    wide[:2, 0, 0], wide[2, 0, 4] = 1.0, 1.0
    assert mean_order_interval(wide) == (1.0, 5.0)


def test_samples_that_do_not_count_are_left_out() -> None:
    strength = torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(1))
    with_gap = torch.cat([strength, torch.full((1, 2, 5), math.nan)])
    assert mean_order_interval(with_gap) == pytest.approx(mean_order_interval(strength))
    assert all(map(math.isnan, mean_order_interval(strength[:1])))
    assert all(map(math.isnan, mean_order_interval(torch.zeros(4, 2, 5))))
