"""Maps that are blind to who is who, in blocks, against the dense matrices they stand for."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from lightning_interactions.functional._symmetric import SymmetricMap, symmetric_map

CPU = torch.device("cpu")
PLAYERS = [2, 3, 4, 5, 6, 7]  # even and odd: the halves are alike, or not


def kronecker(factor: Tensor, n: int) -> Tensor:
    out = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(n):
        out = torch.kron(factor, out)
    return out


def random_map(n: int, seed: int = 0) -> Tensor:
    """A dense positive definite matrix that commutes with all renamings: a sum of powers and a diagonal by size."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.eye(2**n, dtype=torch.float64)
    for _ in range(3):
        factor = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        out += kronecker(factor @ factor.T / 2, n)
    sizes = torch.tensor([bin(index).count("1") for index in range(2**n)])
    return out + torch.diag(torch.rand(n + 1, generator=generator, dtype=torch.float64)[sizes])


def in_blocks(matrix: Tensor, n: int) -> SymmetricMap:
    return symmetric_map(lambda x: x @ matrix, n, CPU)


def test_the_random_map_is_blind_to_who_is_who():
    matrix, indices = random_map(3), torch.arange(8).view(2, 2, 2)
    for order in permutations(range(3)):
        renamed = indices.permute(order).flatten()
        torch.testing.assert_close(matrix[renamed][:, renamed], matrix)


@pytest.mark.parametrize("n", PLAYERS)
def test_blocks_reproduce_the_map(n):
    matrix = random_map(n)
    torch.testing.assert_close(in_blocks(matrix, n)(torch.eye(2**n, dtype=torch.float64)), matrix)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n", PLAYERS)
def test_inverse_is_the_dense_inverse(n, seed):
    matrix = random_map(n, seed)
    inverse = in_blocks(matrix, n).inverse()(torch.eye(2**n, dtype=torch.float64))
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", PLAYERS)
def test_the_basis_is_orthogonal_and_the_blocks_are_symmetric(n):
    found = in_blocks(random_map(n), n)
    half = 2 ** (n - n // 2)
    torch.testing.assert_close(found.forth @ found.forth.T, torch.eye(half, dtype=torch.float64))
    assert torch.equal(found.back, found.forth.T)
    assert sum(found.rows) == half
    for block in found.blocks:
        assert torch.equal(block, block.T)


def test_samples_are_mapped_one_by_one_and_none_is_fine():
    matrix = random_map(5)
    found, x = in_blocks(matrix, 5), torch.randn(3, 32, dtype=torch.float64)
    torch.testing.assert_close(found(x), x @ matrix)
    torch.testing.assert_close(found(x)[1:2], found(x[1:2]))
    assert found(x[:0]).shape == (0, 32)


def test_a_map_that_is_not_regular_is_reproduced_too():
    ones = torch.ones(16, 16, dtype=torch.float64)
    torch.testing.assert_close(in_blocks(ones, 4)(torch.eye(16, dtype=torch.float64)), ones)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_lives_on_the_device_it_is_made_for():
    matrix = random_map(4)
    placed = matrix.cuda()
    inverse = symmetric_map(lambda x: x @ placed, 4, placed.device).inverse()
    result = inverse(torch.eye(16, dtype=torch.float64, device="cuda"))
    torch.testing.assert_close(result.cpu(), torch.linalg.inv(matrix), rtol=1e-9, atol=1e-11)
