"""Slow, independent ways to the numbers the package computes fast."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog


def sparsest_split(values: np.ndarray, noise_bound: float = 0.0) -> float:
    """Smallest ``sum |I_and(S)| + |I_or(S)|`` of one sample, by linear programming (HiGHS).

    The variables are the positive and negative parts of all interactions and the residual, each non-empty coalition
    giving one equation ``u(T) = sum_{S in T} I_and(S) + sum_{S meets T} I_or(S) + r(T)``, straight from the definition.

    Args:
        values: ``(2**n,)``.
        noise_bound: Bound of the residual as a fraction of ``|v(N) - v(empty)|``.
    """
    u = np.asarray(values, dtype=np.float64)
    u = u - u[0]
    scale = np.abs(u).max()
    if scale == 0:
        return 0.0
    u, size = u / scale, len(u)
    subset, meets = membership(size)
    blocks = [subset, -subset, meets, -meets]
    cost = np.ones(4 * (size - 1))
    bounds: list[tuple[float | None, float | None]] = [(0, None)] * len(cost)
    if noise_bound:
        blocks.append(sparse.identity(size - 1))
        cost = np.concatenate([cost, np.zeros(size - 1)])
        bounds += [(-noise_bound * abs(u[-1]), noise_bound * abs(u[-1]))] * (size - 1)
    found = linprog(cost, A_eq=sparse.hstack(blocks).tocsr(), b_eq=u[1:], bounds=bounds, method="highs")
    assert found.status == 0, found.message
    return float(found.fun * scale)


def membership(size: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """For non-empty coalitions T (rows) and S (columns): whether S is within T, and whether S meets T."""
    index = np.arange(1, size)
    common = index[:, None] & index[None, :]
    return sparse.csr_matrix((common == index) * 1.0), sparse.csr_matrix((common != 0) * 1.0)
