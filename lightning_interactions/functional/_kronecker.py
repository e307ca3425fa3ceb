"""Kronecker powers of 2 x 2 matrices, applied to ``(..., 2**n)`` in two small matrix products.

A map that treats every player alike is the ``n``-th Kronecker power of a 2 x 2 matrix. Applied player by player it
costs ``n`` passes over memory; applied to the ``2**n`` entries laid out as a square, one half of the players acts on
the rows and the other on the columns, and each half is one dense product with a ``2**(n/2)`` matrix. The compositions
of such maps are such maps again, so any chain of them costs the same two products.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Matrix2 = tuple[tuple[float, float], tuple[float, float]]  # nested tuples can be a key of a cache


def multiply(*factors: Matrix2) -> Matrix2:
    """Product of 2 x 2 matrices; its Kronecker power is the product of theirs."""
    (a, b), (c, d) = factors[0]
    for (e, f), (g, h) in factors[1:]:
        a, b, c, d = a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h
    return (a, b), (c, d)


class KroneckerPower(NamedTuple):
    """The linear map ``matrix (x) ... (x) matrix`` (``n`` factors) on the last dimension of a tensor."""

    rows: Tensor  # (2**h, 2**h), the power for the upper h = n - n // 2 players, acting from the left
    columns: Tensor  # (2**(n // 2), 2**(n // 2)), the transposed power for the lower players, acting from the right

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Apply the map to ``x`` of shape ``(..., 2**n)``, into the contiguous ``out`` if there is one."""
        high, low = self.rows.shape[0], self.columns.shape[0]
        half = (x.reshape(-1, low) @ self.columns).view(-1, high, low)
        if out is None:
            return torch.matmul(self.rows, half).view(x.shape)
        torch.bmm(self.rows.expand(len(half), -1, -1), half, out=out.view(half.shape))
        return out


# Tables made under inference mode could not be used outside it, and the cache outlives the context.
@lru_cache(maxsize=256)
@torch.inference_mode(False)
def kronecker_power(matrix: Matrix2, n: int, device: torch.device) -> KroneckerPower:
    """Return the ``n``-th Kronecker power of ``matrix`` in float64, made once for each matrix, ``n`` and device.

    The matrix says how one player's absent and present entries are mixed.
    """
    columns = _power(matrix, n // 2, device).T.contiguous()
    return KroneckerPower(_power(matrix, n - n // 2, device), columns)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def kronecker_diagonal(entries: tuple[float, float], n: int, device: torch.device) -> Tensor:
    """Return the ``(2**n,)`` diagonal of the power of a diagonal 2 x 2 matrix. It is cached: do not write to it."""
    return _power(entries, n, device)


def _power(entries: Matrix2 | tuple[float, float], n: int, device: torch.device) -> Tensor:
    factor = torch.tensor(entries, dtype=torch.float64, device=device)
    out = factor.new_ones([1] * factor.ndim)
    for _ in range(n):
        out = torch.kron(factor, out)
    return out
