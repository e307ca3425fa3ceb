"""Moebius, AND, OR and reconstruction against the definitions, and against shapiq."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import members, subsets
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional import (
    and_interactions,
    fold_first_order,
    inverse_moebius_transform,
    moebius_transform,
    or_interactions,
    reconstruct_values,
)
from lightning_interactions.functional.coalitions import coalition_masks, num_players_of, orders

sizes = st.integers(1, 7)
seeds = st.integers(0, 2**20)


def random_values(n: int, seed: int = 0, *batch: int) -> Tensor:
    return torch.randn(*batch, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def and_by_loops(values: Tensor) -> Tensor:
    u = [float(v - values[0]) for v in values]
    return torch.tensor(
        [sum((-1) ** (len(members(s)) - len(members(t))) * u[t] for t in subsets(s)) for s in range(len(u))],
        dtype=torch.float64,
    )


def or_by_loops(values: Tensor) -> Tensor:
    u = [float(v - values[0]) for v in values]
    everyone = len(u) - 1
    out = [
        -sum((-1) ** (len(members(s)) - len(members(t))) * u[everyone & ~t] for t in subsets(s)) for s in range(len(u))
    ]
    return torch.tensor([0.0, *out[1:]], dtype=torch.float64)


# -- the bit convention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_tables_follow_the_bits_of_the_index(n: int) -> None:
    for index in range(2**n):
        assert coalition_masks(n)[index].nonzero().flatten().tolist() == members(index)
        assert int(orders(n)[index]) == len(members(index))


def test_tables_made_in_inference_mode_serve_autograd_later() -> None:
    with torch.inference_mode():
        table = orders(11)
    weight = torch.ones(2**11, requires_grad=True)
    (weight * table).sum().backward()
    assert torch.equal(weight.grad, table.float())


# -- the transforms --------------------------------------------------------------------------------------------------


@given(sizes, seeds)
def test_inverse_undoes_the_transform(n: int, seed: int) -> None:
    values = random_values(n, seed, 2)
    torch.testing.assert_close(inverse_moebius_transform(moebius_transform(values)), values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moebius_transform(inverse_moebius_transform(values)), values, rtol=1e-12, atol=1e-12)


@given(sizes, seeds)
def test_butterfly_is_the_product_with_the_dense_matrix(n: int, seed: int) -> None:
    matrix = torch.zeros(2**n, 2**n, dtype=torch.float64)
    for s in range(2**n):
        for t in subsets(s):
            matrix[s, t] = (-1) ** (len(members(s)) - len(members(t)))
    values = random_values(n, seed, 3)
    torch.testing.assert_close(moebius_transform(values), values @ matrix.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inverse_moebius_transform(values), values @ matrix.abs().T, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 6), seeds)
def test_and_and_or_are_inclusion_exclusion(n: int, seed: int) -> None:
    values = random_values(n, seed)
    torch.testing.assert_close(and_interactions(values), and_by_loops(values), rtol=0, atol=1e-10)
    torch.testing.assert_close(or_interactions(values), or_by_loops(values), rtol=0, atol=1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize("n", [2, 4, 7])
def test_and_interactions_equal_shapiq(n: int) -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq (needs Python 3.11) is not installed")
    values = random_values(n, seed=n)

    def game(coalitions: np.ndarray) -> np.ndarray:
        return values.numpy()[coalitions @ (2 ** np.arange(n))]  # its column i is our bit i

    found = shapiq.ExactComputer(n_players=n, game=game)("Moebius", order=n)
    ours = and_interactions(values)
    for index in range(1, 2**n):
        assert found[tuple(members(index))] == pytest.approx(float(ours[index]), abs=1e-10)


@pytest.mark.parametrize("n", range(2, 13))
def test_any_split_reconstructs_the_values(n: int) -> None:
    values, share = random_values(n, n, 3) * 10, random_values(n, n + 1, 3)
    u = values - values[..., :1]
    share = share - share[..., :1]
    for u_and in (u, torch.zeros_like(u), share):
        back = reconstruct_values(and_interactions(u_and), or_interactions(u - u_and), values[..., :1])
        assert relative_error(back, values) < 1e-9


@given(st.integers(2, 5), seeds)
def test_reconstruction_is_universal_matching_term_by_term(n: int, seed: int) -> None:
    and_, or_ = random_values(n, seed, 2).unbind(0)
    expected = [
        1.5 + sum(float(and_[s]) for s in subsets(t) if s) + sum(float(or_[s]) for s in range(1, 2**n) if s & t)
        for t in range(2**n)
    ]
    found = reconstruct_values(and_, or_, 1.5)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("planted", [1, 0b101, 0b1110, 0b1111], ids=bin)
def test_a_planted_and_is_found_alone(planted: int) -> None:
    game = torch.tensor([2.0 + 3.0 * (t & planted == planted) for t in range(16)])
    expected = torch.zeros(16)
    expected[planted] = 3.0
    assert torch.equal(and_interactions(game), expected)


@pytest.mark.parametrize("planted", [1, 0b101, 0b1110, 0b1111], ids=bin)
def test_a_planted_or_is_found_alone(planted: int) -> None:
    game = torch.tensor([2.0 - 3.0 * (t & planted != 0) for t in range(16)])
    expected = torch.zeros(16)
    expected[planted] = -3.0
    assert torch.equal(or_interactions(game), expected)


@given(st.integers(2, 5), seeds)
def test_transforms_commute_with_renaming_the_players(n: int, seed: int) -> None:
    values = random_values(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    renamed = torch.tensor([sum(1 << order[player] for player in members(t)) for t in range(2**n)])
    for transform in (and_interactions, or_interactions):
        torch.testing.assert_close(transform(values[renamed]), transform(values)[renamed], rtol=1e-9, atol=1e-9)


# -- what may come in ------------------------------------------------------------------------------------------------

TRANSFORMS = [moebius_transform, inverse_moebius_transform, and_interactions, or_interactions]
by_name = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda f: f.__name__)


@by_name
def test_layout_of_the_input_does_not_matter_and_is_left_alone(transform) -> None:
    base = random_values(3, 1, 4)
    layouts = {
        "strided": torch.stack([base, base], -1)[..., 0],
        "transposed": base.T.contiguous().T,
        "expanded": base[:1].expand(4, -1),
        "flipped": base.flip(0).flip(0),
    }
    for name, values in layouts.items():
        before = values.clone()
        torch.testing.assert_close(transform(values), torch.stack([transform(row) for row in values]), msg=name)
        assert torch.equal(values, before), name


@by_name
def test_batch_dimensions_are_kept(transform) -> None:
    values = random_values(4, 2, 2, 3)
    found = transform(values)
    assert found.shape == (2, 3, 16)
    assert torch.equal(found[1, 2], transform(values[1, 2]))
    assert transform(values[:0]).shape == (0, 3, 16)


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(transform, dtype: torch.dtype) -> None:
    values = random_values(6, 3).to(dtype)
    found = transform(values)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), transform(values.double()), rtol=1e-4, atol=1e-4)


@by_name
def test_gradients_flow(transform) -> None:
    values = random_values(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(transform, (values,))


@by_name
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (4, 6)], ids=str)
def test_sizes_that_are_no_power_of_two_are_refused(transform, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"\(\.\.\., 2\*\*n\)"):
        transform(torch.zeros(shape))


def test_number_of_players_is_read_off_the_size() -> None:
    assert [num_players_of(torch.zeros(5, 2**n)) for n in range(1, 8)] == list(range(1, 8))


def test_reconstruction_ignores_the_empty_coalition_and_leaves_its_arguments_alone() -> None:
    and_, or_ = random_values(3, 5, 2).unbind(0)
    before = and_.clone(), or_.clone()
    found = reconstruct_values(and_, or_, 0.25)
    assert float(found[0]) == pytest.approx(0.25)
    assert torch.equal(and_, before[0])
    assert torch.equal(or_, before[1])


@given(sizes, seeds)
def test_folding_keeps_the_reconstruction(n: int, seed: int) -> None:
    and_, or_ = random_values(n, seed, 2, 3).unbind(0)
    before = and_.clone(), or_.clone()
    folded_and, folded_or = fold_first_order(and_, or_)
    single = orders(n) == 1
    assert not folded_or[..., single].any()
    assert torch.equal(folded_or[..., ~single], or_[..., ~single])
    assert torch.equal(folded_and[..., ~single], and_[..., ~single])
    torch.testing.assert_close(
        reconstruct_values(folded_and, folded_or), reconstruct_values(and_, or_), rtol=1e-10, atol=1e-10
    )
    assert torch.equal(and_, before[0])
    assert torch.equal(or_, before[1])
