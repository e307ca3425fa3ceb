"""What the readings of orders say of functions whose orders are known, with and without a little noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_interactions.functional import (
    BOUNDED_TOLERANCE,
    degree_energy,
    effect_order,
    mean_degree,
    mean_order,
    order_strength,
    roughness,
    salience_threshold,
    sparse_and_or,
    value_scale,
)
from lightning_interactions.functional.coalitions import coalition_masks

N = 10


def additive(samples: int = 4) -> Tensor:
    """Every player adds its own share."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(samples, N, generator=generator, dtype=torch.float64)
    return shares @ coalition_masks(N).double().T


def noise(samples: int = 4) -> Tensor:
    return torch.randn(samples, 2**N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def read(values: Tensor, noise_bound: float) -> tuple[float, Tensor]:
    """Mean order, and the strength of all interactions ``(samples, 2, n)``."""
    split = sparse_and_or(values, noise_bound=noise_bound, scale=value_scale(values), tol=BOUNDED_TOLERANCE)
    salient = order_strength(split.and_, split.or_, salience_threshold(values))
    everything = order_strength(split.and_, split.or_, 0.0)
    return float(mean_order((salient if noise_bound else everything).mean(0))), everything


@pytest.mark.parametrize(("share", "exact"), [(0.01, 5.2), (0.02, 5.8)])
def test_a_little_noise_dominates_the_exact_reading_and_not_the_one_with_a_residual(share: float, exact: float) -> None:
    clean = additive()
    noisy = clean + share * clean.std(1, keepdim=True) * noise()
    assert read(clean, 0.0)[0] == pytest.approx(1.0, abs=0.05)
    assert read(noisy, 0.0)[0] > exact
    assert read(noisy, 0.05)[0] - read(clean, 0.05)[0] < 0.3
    assert float(mean_degree(degree_energy(noisy).mean(0))) == pytest.approx(1.0, abs=0.01)


def test_white_noise_stays_a_spindle_under_the_residual() -> None:
    order, _ = read(noise(), 0.05)
    assert 6.5 < order < 7.2
    assert read(noise(), 0.0)[0] == pytest.approx(6.88, abs=0.1)


def test_roughness_tells_smooth_functions_from_noise() -> None:
    assert float(roughness(read(noise(), 0.0)[1], noise())) > 500
    steady = coalition_masks(N).double().sum(1).expand(2, -1)
    assert float(roughness(read(steady, 0.0)[1], steady)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_a_parity_has_its_degree_and_low_effect_orders_do_not_hide_it(degree: int) -> None:
    signs = 1 - 2 * coalition_masks(N)[:, :degree].double()
    values = signs.prod(1).expand(3, -1)
    assert float(mean_degree(degree_energy(values).mean(0))) == pytest.approx(degree)
    split = sparse_and_or(values, tol=1e-3)
    strength = order_strength(split.and_, split.or_, 0.0).mean(0)
    assert 1 <= float(effect_order(strength)) <= float(mean_order(strength)) + 1e-9 <= degree + 1e-6
