"""The sparsest split of a value function into AND and OR interactions, with a certificate of its error.

The split is a linear program (``_split.py``), solved by a first-order method (``_solver.py``). Every few iterations a
feasible split gives an upper bound on the optimum and the multipliers a lower one; a sample stops when they are close.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, bad_argument, is_number, is_whole
from lightning_interactions.functional._solver import solve
from lightning_interactions.functional._split import SplitProblem
from lightning_interactions.functional.and_or import fold_first_order, or_interactions
from lightning_interactions.functional.coalitions import num_players_of
from lightning_interactions.functional.moebius import inverse_moebius_transform

# At most this many coalitions (samples times 2**n) are solved at once: on the CPU about what its cache holds, else what
# bounds the memory to about a gigabyte.
_CHUNK_ENTRIES_CPU, _CHUNK_ENTRIES_DEVICE = 2**14, 2**22

SPLIT_TOLERANCE = 5e-3
"""Gap to which the package itself solves: such a split is proven to be at most half a percent above the optimum."""


class SplitState(NamedTuple):
    """Where a solve ended, to warm start the next one on the same samples (plain tensors)."""

    primal: Tensor  # (..., 3, 2**n) float64: AND, minus OR and residual, in units of the score
    dual: Tensor  # (..., 3, 2**n) float64: their multipliers, without unit


class SparseAndOr(NamedTuple):
    """The sparsest split found, and how far it can be from the sparsest there is.

    Attributes:
        and_: ``(..., 2**n)`` float64, AND interactions in units of the score; 0 for the empty coalition.
        or_: ``(..., 2**n)`` float64, OR interactions; 0 for the empty coalition and for single players.
        objective: ``(...,)``, the sum of the absolute interactions.
        lower_bound: ``(...,)``, a proven lower bound on the smallest possible objective.
        gap: ``(...,)``, ``(objective - lower_bound) / objective``, and 0 where the objective is 0.
        iterations: ``(...,)`` long, the iterations each sample took.
        state: Give it as ``warm_start`` to the next call on the same samples.
    """

    and_: Tensor
    or_: Tensor
    objective: Tensor
    lower_bound: Tensor
    gap: Tensor
    iterations: Tensor
    state: SplitState


@torch.no_grad()
def sparse_and_or(
    values: Tensor,
    *,
    noise_bound: float = 0.0,
    tol: float = 1e-2,
    max_iter: int = 2000,
    warm_start: SplitState | None = None,
) -> SparseAndOr:
    """Split values into AND and OR interactions with the smallest sum of absolute interactions.

    Among all ``u_and + u_or (+ residual) = values - values(empty)`` it finds, to a relative error of at most ``tol``
    that it proves, the split that minimises ``sum |I_and(S)| + |I_or(S)|`` over the non-empty coalitions (arXiv
    2407.19198, equation 11, with the residual of its appendix C). A sample that has not met ``tol`` after ``max_iter``
    iterations is returned with the larger gap; its interactions reproduce the values all the same. Samples do not
    influence each other, nothing is random, and gradients do not flow through.

    Time and memory grow as ``n 2**n`` per sample: with 10 players about 4 ms on one core, 80 iterations. A
    ``noise_bound`` costs ten to a hundred times as much at 10 players, and may need a larger ``max_iter``.

    Args:
        values: ``(..., 2**n)`` of any real dtype, ``n`` from 2 to 16; computed in float64. On a device without
            float64 (``mps``) the work is done, and the result returned, on the CPU.
        noise_bound: Largest residual per coalition, as a fraction of the sample's ``|v(N) - v(empty)|``. With 0 the
            interactions reproduce the values to rounding.
        tol: Largest relative gap accepted.
        max_iter: Largest number of iterations per sample.
        warm_start: ``state`` of an earlier result for the same samples (say of the previous epoch). It changes how
            many iterations are needed, never what is proven.

    Returns:
        The split and its certificate. A sample with a value that is not finite gets ``nan`` everywhere and
        0 iterations; a constant one gets zeros.

    Raises:
        ArgumentError: If an argument is out of range, or ``warm_start`` is of another shape.

    Example:
        >>> values = torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 5.0])  # player 0 gives 2, all three 3 more
        >>> split = sparse_and_or(values, tol=1e-6)
        >>> split.and_.round(decimals=4).tolist()
        [0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0]
        >>> bool(split.gap <= 1e-6)
        True
    """
    _check(values, noise_bound, tol, max_iter, warm_start)
    if values.device.type == "mps":
        values = values.cpu()
    flat = values.reshape(-1, values.shape[-1])
    starts = None if warm_start is None else [t.to(flat.device).reshape(-1, 3, flat.shape[-1]) for t in warm_start]
    entries = _CHUNK_ENTRIES_CPU if flat.device.type == "cpu" else _CHUNK_ENTRIES_DEVICE
    size = max(1, entries // flat.shape[-1])
    parts = []
    for begin in range(0, max(len(flat), 1), size):  # once even for no sample
        start = None if starts is None else (starts[0][begin : begin + size], starts[1][begin : begin + size])
        parts.append(_solve_chunk(flat[begin : begin + size].double(), noise_bound, tol, max_iter, start))
    and_, or_, objective, bound, gap, iterations, primal, dual = (
        torch.cat(pieces).reshape(values.shape[:-1] + pieces[0].shape[1:]) for pieces in zip(*parts, strict=True)
    )
    return SparseAndOr(and_, or_, objective, bound, gap, iterations, SplitState(primal, dual))


def _check(values: Tensor, noise_bound: float, tol: float, max_iter: int, warm_start: SplitState | None) -> None:
    n = num_players_of(values)
    if not 2 <= n <= 16 or values.is_complex() or values.dtype == torch.bool:
        raise bad_argument("values", "a real tensor of shape (..., 2**n), n from 2 to 16", values.shape)
    if not is_number(noise_bound) or not 0 <= noise_bound < math.inf:
        raise bad_argument("noise_bound", "a finite number not below 0", noise_bound, "The papers use 0.02.")
    if not is_number(tol) or not 0 < tol < math.inf:
        raise bad_argument("tol", "a finite number above 0", tol, "0.01 certifies an error of at most 1 %.")
    if not is_whole(max_iter, 1):
        raise bad_argument("max_iter", "an integer not below 1", max_iter)
    if warm_start is not None:
        expected = (*values.shape[:-1], 3, values.shape[-1])
        found = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in warm_start]
        if found != [expected, expected]:
            raise ArgumentError(
                f"Expected argument `warm_start` to be two tensors of shape {expected}, but got {found}. "
                f"It must be the `state` of a result for the same samples."
            )


def _solve_chunk(
    values: Tensor, noise_bound: float, tol: float, max_iter: int, start: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, ...]:
    """Scale the samples, solve, scale back: the fields of the result, ``(B, ...)`` each, in order."""
    u = values - values[:, :1]
    largest = u.abs().amax(-1, keepdim=True)
    finite = largest.isfinite()
    scale = torch.where(finite & (largest > 0), largest, 1.0)
    u = torch.where(finite, u / scale, 0.0)
    problem = SplitProblem.build(u, noise_bound * u[:, -1:].abs() if noise_bound > 0 else None)
    if start is not None:
        primal, dual = (t[:, : problem.blocks].double().nan_to_num(0.0, 0.0, 0.0) for t in start)
        start = primal / scale.unsqueeze(-1), dual
    found = solve(problem, start, tol, max_iter)
    and_ = found.best.split[:, 0]
    and_[:, 0] = 0
    explained = u if problem.box is None else u - found.best.split[:, 1]
    # Not the solver's own OR block: this one makes up for any rounding in the AND block.
    or_ = or_interactions(explained - inverse_moebius_transform(and_))
    and_, or_ = fold_first_order(and_, or_)
    objective = and_.abs().sum(-1) + or_.abs().sum(-1)
    bound = torch.minimum(found.bound, objective)
    gap = torch.where(objective > 0, (objective - bound) / objective, 0.0)
    scaled = and_ * scale, or_ * scale, objective * scale[:, 0], bound * scale[:, 0], gap
    flagged = (torch.where(finite[:, 0].reshape(-1, *[1] * (t.ndim - 1)), t + 0.0, math.nan) for t in scaled)
    pad = (0, 0, 0, 3 - problem.blocks)
    primal, dual = torch.nn.functional.pad(found.primal, pad), torch.nn.functional.pad(found.dual, pad)
    return *flagged, found.iterations, primal * scale.unsqueeze(-1), dual
