"""Kronecker powers of 2 x 2 matrices, applied to ``(..., 2**n)`` in two small matrix products.

A map that treats every player alike is the ``n``-th Kronecker power of a 2 x 2 matrix. Applied player by player it
costs ``n`` passes over memory; applied to the ``2**n`` entries laid out as a square, one half of the players acts on
the rows and the other on the columns, and each half is one dense product with a ``2**(n/2)`` matrix. The compositions
of such maps are such maps again, so any chain of them costs the same two products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Matrix2 = tuple[tuple[float, float], tuple[float, float]]
"""A 2 x 2 matrix as nested tuples, which can be a key of a cache."""


def multiply(*factors: Matrix2) -> Matrix2:
    """Product of 2 x 2 matrices; its Kronecker power is the product of theirs.

    Example:
        >>> multiply(((1.0, 0.0), (-1.0, 1.0)), ((0.0, 1.0), (1.0, 0.0)))
        ((0.0, 1.0), (1.0, -1.0))
    """
    (a, b), (c, d) = factors[0]
    for (e, f), (g, h) in factors[1:]:
        a, b, c, d = a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h
    return (a, b), (c, d)


@dataclass(frozen=True)
class KroneckerPower:
    """The linear map ``matrix (x) ... (x) matrix`` (``n`` factors) on the last dimension of a tensor.

    Attributes:
        rows: ``(2**h, 2**h)``, the power for the upper ``h = n - n // 2`` players, acting from the left.
        columns: ``(2**(n // 2), 2**(n // 2))``, the transposed power for the lower players, acting from the right.
    """

    rows: Tensor
    columns: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map to ``x`` of shape ``(..., 2**n)``."""
        high, low = self.rows.shape[0], self.columns.shape[0]
        half = x.reshape(-1, low) @ self.columns
        return torch.matmul(self.rows, half.view(-1, high, low)).view(x.shape)


@lru_cache(maxsize=256)
def kronecker_power(matrix: Matrix2, n: int, device: torch.device) -> KroneckerPower:
    """Return the ``n``-th Kronecker power of ``matrix`` in float64, made once for each matrix, ``n`` and device.

    Args:
        matrix: The 2 x 2 matrix: how one player's absent and present entries are mixed.
        n: Number of players.
        device: Where the map will be applied.
    """
    # Tables made under inference mode could not be used outside it, and the cache outlives the context.
    with torch.inference_mode(False):
        columns = _dense(matrix, n // 2, device).T.contiguous()
        return KroneckerPower(_dense(matrix, n - n // 2, device), columns)


@lru_cache(maxsize=64)
def kronecker_diagonal(entries: tuple[float, float], n: int, device: torch.device) -> Tensor:
    """Return the ``(2**n,)`` diagonal of the ``n``-th Kronecker power of a diagonal 2 x 2 matrix. Do not write to it.

    Args:
        entries: The two diagonal entries, for an absent and for a present player.
        n: Number of players.
        device: Where the table should live.
    """
    with torch.inference_mode(False):
        pair = torch.tensor(entries, dtype=torch.float64, device=device)
        out = torch.ones(1, dtype=torch.float64, device=device)
        for _ in range(n):
            out = torch.kron(pair, out)
        return out


def _dense(matrix: Matrix2, n: int, device: torch.device) -> Tensor:
    factor = torch.tensor(matrix, dtype=torch.float64, device=device)
    out = torch.ones(1, 1, dtype=torch.float64, device=device)
    for _ in range(n):
        out = torch.kron(factor, out)
    return out
