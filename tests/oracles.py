"""Slow, independent ways to the numbers the package computes fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor


def sparsest_split(values: np.ndarray, noise_bound: float = 0.0, scale: float | None = None) -> float:
    """Smallest ``sum |I_and(S)| + |I_or(S)|`` of one sample, by linear programming (HiGHS).

    The variables are the positive and negative parts of all interactions and the residual, each non-empty coalition
    giving one equation ``u(T) = sum_{S in T} I_and(S) + sum_{S meets T} I_or(S) + r(T)``, straight from the definition.

    Args:
        values: ``(2**n,)``.
        noise_bound: Bound of the residual as a fraction of ``scale``.
        scale: In units of the values, by default ``|v(N) - v(empty)|``.
    """
    u = np.asarray(values, dtype=np.float64)
    u = u - u[0]
    unit = np.abs(u).max()
    if unit == 0:
        return 0.0
    box = noise_bound * (abs(u[-1]) if scale is None else scale) / unit
    u, size = u / unit, len(u)
    subset, meets = membership(size)
    blocks = [subset, -subset, meets, -meets]
    cost = np.ones(4 * (size - 1))
    bounds: list[tuple[float | None, float | None]] = [(0, None)] * len(cost)
    if noise_bound:
        blocks.append(sparse.identity(size - 1))
        cost = np.concatenate([cost, np.zeros(size - 1)])
        bounds += [(-box, box)] * (size - 1)
    found = linprog(cost, A_eq=sparse.hstack(blocks).tocsr(), b_eq=u[1:], bounds=bounds, method="highs")
    assert found.status == 0, found.message
    return float(found.fun * unit)


def membership(size: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """For non-empty coalitions T (rows) and S (columns): whether S is within T, and whether S meets T."""
    index = np.arange(1, size)
    common = index[:, None] & index[None, :]
    return sparse.csr_matrix((common == index) * 1.0), sparse.csr_matrix((common != 0) * 1.0)


def members(index: int) -> list[int]:
    """Players of the coalition with this index."""
    return [player for player in range(index.bit_length()) if index >> player & 1]


def subsets(index: int) -> Iterator[int]:
    """All coalitions within a coalition, itself and the empty one included."""
    yield from (other for other in range(index + 1) if other & index == other)


def masked_by_loops(sample: Tensor, labels: Tensor, index: int, baseline: Tensor | float) -> Tensor:
    """Mask one sample for one coalition, element by element."""
    labels = labels.expand(sample.shape)
    values = torch.as_tensor(baseline, dtype=sample.dtype).expand(sample.shape).flatten()
    present = set(members(index)) | {-1}
    kept = [
        float(x) if int(player) in present else float(absent)
        for x, player, absent in zip(sample.flatten(), labels.flatten(), values, strict=True)
    ]
    return torch.tensor(kept, dtype=sample.dtype).view(sample.shape)


def values_by_loops(
    model: Callable[[Tensor], Tensor], samples: Tensor, players: Tensor, targets: Tensor, num_players: int
) -> Tensor:
    """Log-odds of every sample at every coalition with absent players at zero, the model called one by one."""
    rows = []
    for sample, labels, target in zip(samples, players, targets.tolist(), strict=True):
        row = []
        for index in range(2**num_players):
            with torch.no_grad():
                z = model(masked_by_loops(sample, labels, index, 0.0).unsqueeze(0))[0].double()
            others = torch.cat([z[:target], z[target + 1 :]])
            row.append(float(z[target] - others.logsumexp(0)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)
