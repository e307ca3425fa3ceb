"""The sparse split against linear programs solved by HiGHS, and what must hold of every result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import sparsest_split

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional import reconstruct_values, sparse_and_or

TESTS = Path(__file__).resolve().parents[1]
GAUSSIAN_SEED = 5
ROUNDING = 1e-9


@pytest.fixture(scope="module")
def network_values() -> dict[str, torch.Tensor]:
    """Log-odds of masked inputs of a LeNet (MNIST) and an MLP (adult): start, middle and end of training."""
    with np.load(TESTS / "data" / "network_values.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def gaussian(n: int, samples: int, seed: int = GAUSSIAN_SEED) -> torch.Tensor:
    return torch.randn(samples, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n: int, terms: int, samples: int, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values of a few AND and OR interactions (of at least three players), and those interactions."""
    rng = np.random.default_rng(3)
    and_, or_ = torch.zeros(2, samples, 2**n, dtype=torch.float64)
    several = [s for s in range(2**n) if bin(s).count("1") > 2]
    for target in (and_, or_):
        for row in target:
            where = rng.choice(several, terms, replace=False)
            row[where] = torch.from_numpy(rng.choice([-1, 1], terms) * rng.uniform(0.5, 2, terms))
    values = reconstruct_values(and_, or_, 0.7)
    return values + noise * gaussian(n, samples), and_, or_


def assert_certified(values, result, tol, noise_bound=0.0, samples=None):
    """The bounds hold against HiGHS, the gap is what it says, and the objective is near the optimum."""
    optimum = optima(values[:samples], noise_bound)
    objective, bound = result.objective[:samples], result.lower_bound[:samples]
    slack = ROUNDING * values.abs().max().double()
    assert (objective >= optimum - slack).all()
    assert (bound <= optimum + slack).all()
    assert (objective <= optimum * 1.005 + slack).all()
    assert (result.gap <= tol).all()
    torch.testing.assert_close(result.gap * result.objective, result.objective - result.lower_bound)
    torch.testing.assert_close(result.objective, (result.and_.abs() + result.or_.abs()).sum(-1))


def optima(values, noise_bound=0.0):
    return torch.tensor([sparsest_split(v.double().numpy(), noise_bound) for v in values], dtype=torch.float64)


def residual_of(values, result):
    return values.double() - reconstruct_values(result.and_, result.or_, values[..., :1].double())


@pytest.mark.parametrize(("n", "samples"), [(2, 4), (3, 4), (6, 4), (8, 2)])
def test_gaussian_values_reach_the_lp_optimum(n, samples):
    values = gaussian(n, samples)
    assert_certified(values, sparse_and_or(values, tol=2e-3), 2e-3)


@pytest.mark.thorough
@pytest.mark.parametrize(("n", "samples"), [(6, 4), (8, 2)])
def test_sparse_values_with_noise_reach_the_lp_optimum(n, samples):
    values, _, _ = planted(n, 4, samples, noise=0.02)
    assert_certified(values, sparse_and_or(values, tol=2e-3), 2e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("n", [6, 8])
@pytest.mark.parametrize("stage", ["init", "mid", "end"])
@pytest.mark.parametrize("source", ["mnist", "adult"])
def test_network_values_reach_the_lp_optimum(network_values, source, stage, n):
    values = network_values[f"{source}_{stage}_{n}"]
    assert_certified(values, sparse_and_or(values, tol=2e-3), 2e-3, samples=4 if n == 6 else 2)


@pytest.mark.parametrize("stage", ["init", "mid", "end"])
def test_default_tolerance_is_within_a_hundredth_of_the_optimum(network_values, stage):
    values = torch.cat([network_values[f"mnist_{stage}_6"], network_values[f"adult_{stage}_6"]])
    result = sparse_and_or(values)
    optimum = optima(values)
    assert (result.gap <= 1e-2).all()
    assert (result.objective <= optimum / (1 - 1e-2)).all()


@pytest.mark.thorough
@pytest.mark.parametrize("noise_bound", [0.02, 0.1])
@pytest.mark.parametrize("stage", ["init", "mid", "end"])
def test_noise_bound_reaches_the_lp_optimum_on_network_values(network_values, stage, noise_bound):
    values = torch.cat([network_values[f"mnist_{stage}_6"][:2], network_values[f"adult_{stage}_6"][:2]])
    result = sparse_and_or(values, noise_bound=noise_bound, tol=4e-3, max_iter=20_000)
    assert_certified(values, result, 4e-3, noise_bound)


@pytest.mark.parametrize("noise_bound", [0.02, 0.1])
@pytest.mark.parametrize("n", [3, 5])
def test_noise_bound_reaches_the_lp_optimum_on_gaussian_values(n, noise_bound):
    values = gaussian(n, 4)
    result = sparse_and_or(values, noise_bound=noise_bound, tol=4e-3, max_iter=20_000)
    assert_certified(values, result, 4e-3, noise_bound)


@pytest.mark.parametrize("noise_bound", [0.05, 0.5])
def test_the_box_is_a_fraction_of_the_given_scale(network_values, noise_bound):
    values = torch.cat([network_values["mnist_mid_6"][:2], network_values["adult_mid_6"][:2]]).double()
    scale = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    result = sparse_and_or(values, noise_bound=noise_bound, scale=scale, tol=4e-3, max_iter=20_000)
    residual = residual_of(values, result).abs()
    assert (residual <= noise_bound * scale[:, None] + 1e-12 * values.abs().max()).all()
    assert (residual.amax(1) > 0.5 * noise_bound * scale).any()  # the freedom is used
    for i, v in enumerate(values):
        optimum = sparsest_split(v.numpy(), noise_bound, scale[i].item())
        slack = ROUNDING * v.abs().max()
        assert result.lower_bound[i] <= optimum + slack
        assert optimum - slack <= result.objective[i] <= optimum * 1.005 + slack


def test_a_number_is_a_scale_for_all_samples():
    values = gaussian(5, 4).reshape(2, 2, 32)
    number = sparse_and_or(values, noise_bound=0.1, scale=0.7)
    tensor = sparse_and_or(values, noise_bound=0.1, scale=torch.full((2, 2), 0.7))
    torch.testing.assert_close(number.and_, tensor.and_, rtol=1e-5, atol=1e-6)
    zero_dim = sparse_and_or(values, noise_bound=0.1, scale=torch.tensor(0.7, dtype=torch.float64))
    assert torch.equal(number.and_, sparse_and_or(values, noise_bound=0.1, scale=0.7).and_)
    torch.testing.assert_close(number.and_, zero_dim.and_, rtol=1e-5, atol=1e-6)


def test_the_scale_is_by_default_what_the_players_add():
    values = gaussian(5, 4)
    own = sparse_and_or(values, noise_bound=0.1)
    given = sparse_and_or(values, noise_bound=0.1, scale=(values[:, -1] - values[:, 0]).abs())
    assert torch.equal(own.and_, given.and_)
    assert torch.equal(own.iterations, given.iterations)


def test_scale_does_nothing_without_a_noise_bound():
    values = gaussian(5, 2)
    assert torch.equal(sparse_and_or(values, scale=3.0).and_, sparse_and_or(values).and_)


@pytest.mark.parametrize("scale", [-1.0, torch.tensor([1.0, -1.0]), torch.ones(3), torch.ones(2, 1), 1j])
def test_a_bad_scale_is_named(scale):
    with pytest.raises(ArgumentError, match="`scale`"):
        sparse_and_or(torch.ones(2, 16), noise_bound=0.1, scale=scale)


@pytest.mark.thorough
@pytest.mark.parametrize("n", [12, 13])
def test_noise_bound_works_for_many_players(n):
    generator = torch.Generator().manual_seed(n)
    player = torch.rand(2, n, generator=generator, dtype=torch.float64)
    present = (torch.arange(2**n)[:, None] >> torch.arange(n)).bitwise_and(1).double()
    values = (player @ present.T - 1).tanh() + 0.02 * gaussian(n, 2)
    scale = values.std(1, correction=0)
    result = sparse_and_or(values, noise_bound=0.05, scale=scale, tol=0.05)
    assert (result.gap <= 0.05).all()
    assert (residual_of(values, result).abs() <= 0.05 * scale[:, None] + 1e-12).all()


@pytest.mark.parametrize("max_iter", [7, 20_000])
@pytest.mark.parametrize("noise_bound", [0.02, 0.3])
def test_residual_stays_within_the_noise_bound(network_values, noise_bound, max_iter):
    values = network_values["adult_mid_6"].double()
    result = sparse_and_or(values, noise_bound=noise_bound, max_iter=max_iter)
    largest = noise_bound * (values[:, -1:] - values[:, :1]).abs()
    residual = residual_of(values, result)
    assert (residual.abs() <= largest + 1e-12 * values.abs().max()).all()
    assert residual[:, 0].abs().max() <= 1e-12 * values.abs().max()
    assert residual.abs().max() > 0.5 * largest.min()  # the freedom is used


def test_noise_bound_that_covers_everything_needs_no_interaction():
    values = torch.tensor([[1.0, 2.0, 1.5, 3.0]])
    result = sparse_and_or(values, noise_bound=1.0)
    assert result.objective.item() == 0
    assert result.gap.item() == 0
    assert result.and_.abs().max() == 0


def test_noise_bound_that_covers_network_values_needs_no_interaction(network_values):
    values = network_values["adult_end_8"].double()
    values = values / (values[:, -1:] - values[:, :1]).abs()
    reach = (values - values[:, :1]).abs().amax().item()
    result = sparse_and_or(values, noise_bound=reach * 1.001)
    assert (result.objective == 0).all()
    assert (result.gap == 0).all()
    assert (result.iterations == 0).all()


def test_planted_interactions_are_recovered():
    values, and_, or_ = planted(6, 3, 3)
    total = and_.abs().sum(-1) + or_.abs().sum(-1)
    for v, expected in zip(values, total, strict=True):
        assert sparsest_split(v.numpy()) == pytest.approx(expected.item())  # else there is nothing to recover
    result = sparse_and_or(values, tol=1e-6, max_iter=20_000)
    assert (result.gap <= 1e-6).all()
    torch.testing.assert_close(result.and_, and_, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.or_, or_, atol=1e-4, rtol=0)


@pytest.mark.parametrize("max_iter", [1, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_universal_matching(network_values, dtype, max_iter):
    for values in (network_values["adult_end_8"].to(dtype), gaussian(8, 2).to(dtype)):
        result = sparse_and_or(values, max_iter=max_iter)
        assert residual_of(values, result).abs().max() <= 1e-12 * values.abs().max()
        assert all(t.dtype == torch.float64 for t in result[:5])


def test_order_zero_and_one_player_or_are_zero():
    result = sparse_and_or(gaussian(5, 3))
    assert (result.or_[:, [0, 1, 2, 4, 8, 16]] == 0).all()
    assert (result.and_[:, 0] == 0).all()
    assert (result.and_[:, [1, 2, 4, 8, 16]] != 0).any()


@pytest.mark.parametrize("factor", [1e-12, -3.0, 1e12])
def test_split_scales_with_the_values(network_values, factor):
    values = network_values["mnist_mid_6"].double()
    one, scaled = sparse_and_or(values), sparse_and_or(values * factor)
    torch.testing.assert_close(scaled.and_, one.and_ * factor, rtol=1e-6, atol=1e-9 * abs(factor))
    torch.testing.assert_close(scaled.lower_bound, one.lower_bound * abs(factor), rtol=1e-6, atol=0)
    assert torch.equal(scaled.iterations, one.iterations)


def test_adding_a_constant_changes_nothing():
    values = gaussian(5, 2)
    one, shifted = sparse_and_or(values), sparse_and_or(values + 8.0)
    torch.testing.assert_close(shifted.and_, one.and_, atol=1e-6, rtol=0)


def test_objective_does_not_depend_on_the_order_of_the_players(network_values):
    values = network_values["adult_mid_6"].double()
    axes = values.reshape(-1, 2, 2, 2, 2, 2, 2)
    permuted = axes.permute(0, 3, 6, 1, 2, 5, 4).reshape(values.shape)
    one, other = sparse_and_or(values, tol=1e-3), sparse_and_or(permuted, tol=1e-3)
    torch.testing.assert_close(one.objective, other.objective, rtol=1e-3, atol=0)
    assert (one.lower_bound <= other.objective).all()
    assert (other.lower_bound <= one.objective).all()


@pytest.mark.thorough
@pytest.mark.parametrize("noise_bound", [0.0, 0.05])
def test_a_sample_does_not_depend_on_its_batch(network_values, noise_bound):
    values = torch.cat([network_values[f"{name}_6"] for name in ("mnist_init", "adult_mid", "adult_end")])
    together = sparse_and_or(values, noise_bound=noise_bound)
    assert len(together.iterations.unique()) > 1  # so samples did leave the batch early
    for i, v in enumerate(values):
        alone = sparse_and_or(v, noise_bound=noise_bound)
        assert alone.iterations == together.iterations[i]
        torch.testing.assert_close(alone.and_, together.and_[i], rtol=1e-7, atol=1e-7 * v.abs().max().item())
        torch.testing.assert_close(alone.lower_bound, together.lower_bound[i], rtol=1e-7, atol=0)


def test_a_batch_larger_than_a_chunk_equals_its_parts():
    values = gaussian(12, 6)
    together = sparse_and_or(values, max_iter=20)
    apart = torch.cat([sparse_and_or(part, max_iter=20).and_ for part in values.split(1)])
    torch.testing.assert_close(together.and_, apart, rtol=1e-7, atol=1e-7)


def test_same_input_gives_the_same_bits_and_draws_no_random_numbers():
    values = gaussian(7, 3)
    before = torch.get_rng_state()
    one, two = sparse_and_or(values), sparse_and_or(values)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one[:6] + one.state, two[:6] + two.state, strict=True):
        assert torch.equal(a, b)


def test_leading_shape_is_kept():
    values = gaussian(4, 6).reshape(2, 3, 16)
    result = sparse_and_or(values)
    assert result.and_.shape == result.or_.shape == (2, 3, 16)
    assert result.objective.shape == result.gap.shape == result.iterations.shape == (2, 3)
    assert sparse_and_or(values[0, 0]).gap.shape == ()
    assert sparse_and_or(values[:0]).and_.shape == (0, 3, 16)


def test_input_is_not_written_to_and_gradients_stay_out():
    values = gaussian(4, 2).requires_grad_()
    before = values.detach().clone()
    result = sparse_and_or(values)
    assert torch.equal(values.detach(), before)
    assert not result.and_.requires_grad


@pytest.mark.parametrize("noise_bound", [0.0, 0.1])
def test_inference_mode_then_normal_mode(noise_bound):
    values = gaussian(4, 2)
    with torch.inference_mode():
        inside = sparse_and_or(values, noise_bound=noise_bound)
    outside = sparse_and_or(values, noise_bound=noise_bound, warm_start=inside.state)
    assert (outside.gap <= 1e-2).all()


@pytest.mark.parametrize("noise_bound", [0.0, 0.1])
def test_constant_values_have_no_interactions(noise_bound):
    result = sparse_and_or(torch.full((2, 16), 3.5), noise_bound=noise_bound)
    for tensor in result[:6]:
        assert (tensor == 0).all()


@pytest.mark.parametrize("noise_bound", [0.0, 0.1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_sample_that_is_not_finite_is_nan_and_spares_the_others(bad, noise_bound):
    values = gaussian(5, 3)
    clean = sparse_and_or(values, noise_bound=noise_bound)
    values[1, 7] = bad
    result = sparse_and_or(values, noise_bound=noise_bound)
    for got, expected in zip(result[:5], clean[:5], strict=True):
        assert got[1].isnan().all()
        torch.testing.assert_close(got[::2], expected[::2])
    assert result.iterations[1] == 0
    again = sparse_and_or(gaussian(5, 3), noise_bound=noise_bound, warm_start=result.state)
    assert (again.gap <= 1e-2).all()


@pytest.mark.thorough
@pytest.mark.parametrize("noise_bound", [0.0, 0.05])
def test_warm_start_saves_iterations_and_keeps_the_certificate(network_values, noise_bound):
    values = network_values["adult_end_6"]
    cold = sparse_and_or(values, noise_bound=noise_bound)
    moved = values + 0.01 * values.abs().mean() * gaussian(6, len(values))
    fresh = sparse_and_or(moved, noise_bound=noise_bound)
    warm = sparse_and_or(moved, noise_bound=noise_bound, warm_start=cold.state)
    assert warm.iterations.sum() < fresh.iterations.sum()
    assert (warm.gap <= 1e-2).all()
    assert residual_of(moved, warm).abs().max() <= noise_bound * moved.abs().max() * 2 + 1e-12 * moved.abs().max()
    assert (warm.lower_bound <= fresh.objective).all()
    assert (fresh.lower_bound <= warm.objective).all()


def test_warm_start_from_nonsense_is_only_slower():
    values = gaussian(5, 2)
    state = sparse_and_or(gaussian(5, 2, seed=1) * 1e6, noise_bound=0.1).state
    result = sparse_and_or(values, tol=2e-3, warm_start=state, max_iter=50_000)
    assert_certified(values, result, 2e-3)


def test_samples_stop_on_their_own_certificate(network_values):
    values = torch.cat([network_values["mnist_end_8"], network_values["adult_mid_8"]])
    result = sparse_and_or(values)
    assert result.iterations.min() < result.iterations.max()
    assert (result.gap <= 1e-2).all()


def test_one_iteration_gives_an_honest_gap():
    values = gaussian(6, 3)
    result = sparse_and_or(values, tol=1e-3, max_iter=1)
    assert (result.iterations == 1).all()
    assert (result.gap > 1e-3).all()
    optimum = optima(values)
    assert (result.lower_bound <= optimum).all()
    assert (optimum <= result.objective).all()
    assert residual_of(values, result).abs().max() < 1e-12


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(
    values=st.integers(2, 4).flatmap(lambda n: hnp.arrays(np.float64, 2**n, elements=st.floats(-100, 100, width=16))),
    noise_bound=st.sampled_from([0.0, 0.0, 0.02, 0.5]),
    max_iter=st.sampled_from([1, 3, 300]),
)
def test_bounds_enclose_the_lp_optimum_for_any_values(values, noise_bound, max_iter):
    v = torch.from_numpy(values)
    result = sparse_and_or(v, noise_bound=noise_bound, max_iter=max_iter)
    optimum = sparsest_split(values, noise_bound)
    slack = ROUNDING * max(1.0, np.abs(values).max())
    assert result.lower_bound <= optimum + slack
    assert result.objective >= optimum - slack
    assert result.gap <= 1e-2 or result.iterations == max_iter
    allowed = noise_bound * abs(values[-1] - values[0])
    assert residual_of(v, result).abs().max() <= allowed + 1e-11 * max(1.0, np.abs(values).max())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"noise_bound": -0.1}, "noise_bound"),
        ({"noise_bound": float("inf")}, "noise_bound"),
        ({"noise_bound": float("nan")}, "noise_bound"),
        ({"noise_bound": "0.1"}, "noise_bound"),
        ({"tol": 0.0}, "tol"),
        ({"tol": float("nan")}, "tol"),
        ({"max_iter": 0}, "max_iter"),
        ({"max_iter": 2.0}, "max_iter"),
        ({"max_iter": True}, "max_iter"),
        ({"warm_start": sparse_and_or(torch.ones(2, 8)).state}, "warm_start"),
        ({"warm_start": torch.ones(2, 3, 16)}, "warm_start"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        sparse_and_or(torch.ones(2, 16), **arguments)


@pytest.mark.parametrize(
    "values", [torch.ones(3, 7), torch.ones(2), torch.ones(()), torch.ones(4, dtype=torch.complex64), torch.ones(2**17)]
)
def test_bad_values_are_refused(values):
    with pytest.raises(ArgumentError):
        sparse_and_or(values)
