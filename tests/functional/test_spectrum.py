"""The spectrum of the value function against double loops over coalitions, and against functions of known degree."""

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
    degree_energy,
    effect_order,
    mean_degree,
    mean_order,
    order_strength,
    roughness,
    sparse_and_or,
    walsh_hadamard,
)

seeds = st.integers(0, 2**20)


def random_values(n: int, seed: int = 0, *batch: int) -> Tensor:
    return torch.randn(*batch, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coefficients_by_loops(values: list[float]) -> list[float]:
    size = len(values)
    return [sum((-1) ** len(members(s & t)) * values[t] for t in range(size)) / size for s in range(size)]


def influence_by_loops(values: list[float], n: int) -> float:
    """Sum over the players of the mean of ((v with the player - v without it) / 2)**2, over all coalitions."""
    changes = [(values[t] - values[t ^ 1 << i]) / 2 for i in range(n) for t in range(len(values))]
    return sum(x * x for x in changes) / len(values)


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((x - mean) ** 2 for x in values) / len(values)


def parity(n: int, players: int) -> Tensor:
    """Plus or minus one: whether an odd number of these players is present."""
    return torch.tensor([(-1.0) ** len(members(t & players)) for t in range(2**n)], dtype=torch.float64)


# -- the transform ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), seeds)
def test_coefficients_are_the_sums_over_all_coalitions(n: int, seed: int) -> None:
    values = random_values(n, seed)
    expected = torch.tensor(coefficients_by_loops(values.tolist()), dtype=torch.float64)
    torch.testing.assert_close(walsh_hadamard(values), expected, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 9), seeds)
def test_twice_is_the_identity_and_the_first_is_the_mean(n: int, seed: int) -> None:
    values = random_values(n, seed, 2)
    found = walsh_hadamard(values)
    torch.testing.assert_close(walsh_hadamard(found) * 2**n, values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[..., 0], values.mean(-1), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 6), seeds, st.data())
def test_a_parity_is_found_alone(n: int, seed: int, data: st.DataObject) -> None:
    planted = data.draw(st.integers(1, 2**n - 1))
    expected = torch.zeros(2**n, dtype=torch.float64)
    expected[planted], expected[0] = -0.5, 7.0
    assert torch.equal(walsh_hadamard(7.0 - parity(n, planted) / 2), expected)


def test_the_sign_is_that_of_absence() -> None:
    values = torch.tensor([sum((1.0, 10.0, 100.0)[i] for i in members(t)) for t in range(8)])
    found = walsh_hadamard(values)
    assert found[[1, 2, 4]].tolist() == [-0.5, -5.0, -50.0]


def test_a_player_who_changes_nothing_is_in_no_coefficient() -> None:
    values = random_values(4, 3)
    without = torch.tensor([float(values[t & ~0b0100]) for t in range(16)], dtype=torch.float64)
    found = walsh_hadamard(without * 0.1)
    assert all(found[s] == 0 for s in range(16) if s & 0b0100)


def test_a_large_offset_does_not_drown_the_rest() -> None:
    values = torch.round(random_values(8, 4) * 2**20) / 2**20
    found, expected = walsh_hadamard(values + 2.0**30), walsh_hadamard(values)
    torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_every_real_dtype_is_transformed_in_float64(dtype: torch.dtype) -> None:
    values = (random_values(5, 5) * 3).to(dtype)
    found = walsh_hadamard(values)
    assert found.dtype == torch.float64
    assert torch.equal(found, walsh_hadamard(values.double()))


def test_the_input_is_left_alone_whatever_its_layout() -> None:
    base = random_values(3, 6, 4)
    for values in (base.T.contiguous().T, base[:1].expand(4, -1), base.flip(0)):
        before = values.clone()
        torch.testing.assert_close(walsh_hadamard(values), torch.stack([walsh_hadamard(row) for row in values]))
        assert torch.equal(values, before)
    assert walsh_hadamard(base[:0]).shape == (0, 8)
    assert degree_energy(base[:0]).shape == (0, 3)


def test_gradients_flow() -> None:
    values = random_values(3, 7).requires_grad_()
    assert torch.autograd.gradcheck(walsh_hadamard, (values,))
    assert torch.autograd.gradcheck(lambda v: mean_degree(degree_energy(v)), (values,))


# -- energy and mean degree ------------------------------------------------------------------------------------------


@given(st.integers(1, 4), seeds)
def test_energy_is_the_sum_of_squares_by_degree(n: int, seed: int) -> None:
    values = random_values(n, seed)
    expected = [0.0] * (n + 1)
    for s, x in enumerate(coefficients_by_loops(values.tolist())):
        expected[len(members(s))] += x * x
    torch.testing.assert_close(degree_energy(values), torch.tensor(expected[1:], dtype=torch.float64))


@given(st.integers(1, 10), seeds)
def test_energy_adds_up_to_the_variance(n: int, seed: int) -> None:
    values = random_values(n, seed, 3)
    torch.testing.assert_close(degree_energy(values).sum(-1), values.var(-1, correction=0), rtol=1e-12, atol=0)


@given(st.integers(1, 6), seeds)
def test_mean_degree_is_influence_over_variance(n: int, seed: int) -> None:
    values = random_values(n, seed)
    expected = influence_by_loops(values.tolist(), n) / variance(values.tolist())
    found = float(mean_degree(degree_energy(values)))
    assert found == pytest.approx(expected, rel=1e-12)
    assert 1 - 1e-12 <= found <= n + 1e-12


@given(st.integers(1, 8), seeds, st.data())
def test_a_parity_has_its_own_degree(n: int, seed: int, data: st.DataObject) -> None:
    planted = data.draw(st.integers(1, 2**n - 1))
    assert float(mean_degree(degree_energy(2 + 3 * parity(n, planted)))) == len(members(planted))


@given(st.lists(st.floats(0.1, 10) | st.floats(-10, -0.1) | st.just(0.0), min_size=1, max_size=8).filter(any))
def test_an_additive_function_has_degree_one(effects: list[float]) -> None:
    values = [1 + sum(effects[i] for i in members(t)) for t in range(2 ** len(effects))]
    found = mean_degree(degree_energy(torch.tensor(values, dtype=torch.float64)))
    assert float(found) == pytest.approx(1, abs=1e-12)


def test_white_noise_has_half_the_players() -> None:
    n = 8
    found = mean_degree(degree_energy(random_values(n, 1, 2000)).mean(0))
    assert float(found) == pytest.approx(n * 2 ** (n - 1) / (2**n - 1), rel=0.005)


@given(st.integers(1, 6), seeds, st.floats(-100, 100), st.floats(0.01, 100))
def test_offset_and_unit_do_not_matter(n: int, seed: int, offset: float, unit: float) -> None:
    values = random_values(n, seed)
    torch.testing.assert_close(
        degree_energy(offset + unit * values), unit**2 * degree_energy(values), rtol=1e-7, atol=1e-9 * unit**2
    )


@given(st.integers(2, 6), seeds)
def test_neither_the_names_of_the_players_nor_who_counts_as_present_matters(n: int, seed: int) -> None:
    values = random_values(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    renamed = torch.tensor([sum(1 << order[player] for player in members(t)) for t in range(2**n)])
    torch.testing.assert_close(degree_energy(values[renamed]), degree_energy(values))
    torch.testing.assert_close(degree_energy(values.flip(-1)), degree_energy(values))


def test_samples_are_averaged_before_the_ratio() -> None:
    strong, weak = 3 * parity(4, 0b1), parity(4, 0b1111)
    energy = degree_energy(torch.stack([strong, weak]))
    assert mean_degree(energy).tolist() == [1, 4]
    assert float(mean_degree(energy.mean(0))) == pytest.approx((9 * 1 + 1 * 4) / 10)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e30])
def test_what_does_not_vary_has_no_degree(constant: float) -> None:
    energy = degree_energy(torch.full((32,), constant, dtype=torch.float64))
    assert not energy.any()
    assert mean_degree(energy).isnan()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 3])
def test_a_bad_value_spoils_its_own_sample_only(bad: float, at: int) -> None:
    values = random_values(3, 2, 2)
    expected = degree_energy(values[1])
    values[0, at] = bad
    assert not walsh_hadamard(values)[0].isfinite().any()
    assert degree_energy(values)[0].isnan().all()
    assert torch.equal(degree_energy(values)[1], expected)
    assert mean_degree(degree_energy(values)).isnan().tolist() == [True, False]


# -- effect order and roughness --------------------------------------------------------------------------------------


@given(st.integers(1, 10), seeds)
def test_effect_order_is_the_weighted_mean(n: int, seed: int) -> None:
    strength = torch.rand(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    total = [float(strength[0, k] + strength[1, k]) for k in range(n)]
    top = sum((k + 1) * total[k] / 2 ** (k + 1) for k in range(n))
    expected = top / sum(total[k] / 2 ** (k + 1) for k in range(n))
    assert float(effect_order(strength)) == pytest.approx(expected, rel=1e-12)
    assert 1 - 1e-12 <= float(effect_order(strength)) <= float(mean_order(strength)) + 1e-12


def test_one_order_alone_is_the_effect_order() -> None:
    strength = torch.zeros(5, 2, 5)
    for k in range(5):
        strength[k, k % 2, k] = 3.0
    assert effect_order(strength).tolist() == [1, 2, 3, 4, 5]
    assert effect_order(torch.zeros(2, 5)).isnan()


def test_white_noise_moves_the_effect_order_less_than_the_mean_order() -> None:
    additive = torch.tensor([float(len(members(t))) for t in range(256)], dtype=torch.float64)
    strength = []
    for noise in (0.0, 0.01):
        split = sparse_and_or(additive + noise * random_values(8, 1))
        strength.append(order_strength(split.and_, split.or_, 0.0))
    (plain, noisy), (seen, noisy_seen) = ([float(f(s)) for s in strength] for f in (mean_order, effect_order))
    assert 0 < noisy_seen - seen < (noisy - plain) / 3


def test_roughness_by_hand() -> None:
    values = torch.tensor([[1.0, 9.0, 9.0, 3.0], [0.0, 5.0, 5.0, -4.0]])
    strength = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [4.0, 5.0]]])
    assert float(roughness(strength, values)) == pytest.approx((6 + 9) / (2 + 4))
    assert float(roughness(strength[0], values[0])) == 3
    assert float(roughness(strength.view(2, 1, 2, 2), values.view(2, 1, 4))) == pytest.approx(15 / 6)


def test_interactions_that_all_act_alike_are_not_rough() -> None:
    additive = torch.tensor([[float(len(members(t))) for t in range(32)]], dtype=torch.float64)
    for values in (additive, 3.0 - additive):
        split = sparse_and_or(values)
        assert float(roughness(order_strength(split.and_, split.or_, 0.0), values)) == pytest.approx(1, rel=1e-6)
        split = sparse_and_or(noisy := values + 0.05 * random_values(5, 1, 1))
        assert float(roughness(order_strength(split.and_, split.or_, 0.0), noisy)) > 1.2


@pytest.mark.parametrize("where", ["values", "strength"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_roughness_leaves_bad_samples_out_of_both_means(where: str, bad: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values, strength = torch.rand(4, 8, generator=generator), torch.rand(4, 2, 3, generator=generator)
    expected = roughness(strength[1:], values[1:])
    (values if where == "values" else strength)[0].view(-1)[2] = bad
    torch.testing.assert_close(roughness(strength, values), expected)
    assert roughness(strength[:1], values[:1]).isnan()


def test_roughness_needs_an_effect() -> None:
    values = torch.tensor([[1.0, 5.0, 0.0, 1.0]])
    assert roughness(torch.ones(1, 2, 2), values).isnan()
    assert roughness(torch.zeros(1, 2, 2), values).isnan()
    assert roughness(torch.zeros(0, 2, 2), values[:0]).isnan()


# -- what may come in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [walsh_hadamard, degree_energy], ids=lambda f: f.__name__)
def test_only_real_values_of_all_coalitions(transform) -> None:
    for shape in ((), (0,), (1,), (3,), (4, 6)):
        with pytest.raises(ArgumentError, match=r"\(\.\.\., 2\*\*n\)"):
            transform(torch.zeros(shape))
    with pytest.raises(ArgumentError, match=r"`values` to be a real tensor, but got torch\.complex64"):
        transform(torch.zeros(4, dtype=torch.complex64))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"`energy`.*\(\.\.\., n\).*\(\)"):
        mean_degree(torch.tensor(1.0))
    with pytest.raises(ArgumentError, match=r"`strength`.*\(\.\.\., 2, n\).*\(3, 4\)"):
        effect_order(torch.zeros(3, 4))
    for shape in ((2, 2), (3, 2, 2), (2, 2, 3), (2, 1, 2)):
        with pytest.raises(ArgumentError, match=r"`strength` and `values`.*\(2, 4\)"):
            roughness(torch.zeros(shape), torch.zeros(2, 4))
