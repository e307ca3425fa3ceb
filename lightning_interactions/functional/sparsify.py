"""The sparsest split of a value function into AND and OR interactions, with a certificate of its error.

The split is a linear program (``_split.py``), solved by a first-order method (``_solver.py``). Every few iterations a
feasible split gives an upper bound on the optimum and the multipliers a lower one; a sample stops when they are close.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, bad_argument, is_number, is_whole
from lightning_interactions.functional._bounded import METRICS, BoundedSplit, metric_of
from lightning_interactions.functional._problem import Known
from lightning_interactions.functional._solver import Solution, solve
from lightning_interactions.functional._split import ExactSplit
from lightning_interactions.functional.and_or import fold_first_order, or_interactions
from lightning_interactions.functional.coalitions import num_players_of
from lightning_interactions.functional.moebius import inverse_moebius_transform

# At most this many coalitions (samples times 2**n) are solved at once, which bounds the memory: to about 200 megabytes
# on the CPU, a gigabyte elsewhere. So many of them iterate together as the cache of the CPU holds.
_CHUNK_ENTRIES_CPU, _CHUNK_ENTRIES_DEVICE = 2**19, 2**22
_CACHE_ENTRIES = 2**14

_PATIENCE, _LONGER = 240, 6.0

SPLIT_TOLERANCE = 5e-3
"""Gap to which the package itself solves an exact split: proven to be at most half a percent above the optimum."""

BOUNDED_TOLERANCE = 2e-2
"""The same with a residual: closer splits move the mean order by less than 0.01."""


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
    scale: Tensor | float | None = None,
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

    Time and memory grow as ``n 2**n`` per sample: with 10 players about 4 ms on one core, 80 iterations. With a
    ``noise_bound`` the same gap takes two to six times as long.

    Args:
        values: ``(..., 2**n)`` of any real dtype, ``n`` from 2 to 16; computed in float64. On a device without
            float64 (``mps``) the work is done, and the result returned, on the CPU.
        noise_bound: Largest residual per coalition, in units of ``scale``. With 0 the interactions reproduce the values
            to rounding. The residual is what lets the orders of deep networks be seen: without it the rough last
            percent of their values' variance becomes nearly all of the interactions.
        scale: What ``noise_bound`` is a fraction of: a number or a tensor ``(...)``, not negative, in units of the
            values; usually `value_scale` of all samples. By default each sample's own ``|v(N) - v(empty)|``.
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
        >>> split.and_.abs().round(decimals=4).tolist()
        [0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0]
        >>> bool(split.gap <= 1e-6)
        True
    """
    _check(values, noise_bound, tol, max_iter, warm_start)
    box = _box(values, noise_bound, scale) if noise_bound > 0 else None
    values = values.to(_home(values))
    flat = values.reshape(-1, values.shape[-1])
    starts = None if warm_start is None else [t.to(flat.device).reshape(-1, 3, flat.shape[-1]) for t in warm_start]
    size = (_CHUNK_ENTRIES_CPU if flat.device.type == "cpu" else _CHUNK_ENTRIES_DEVICE) // flat.shape[-1]
    parts = []
    for begin in range(0, max(len(flat), 1), size):  # once even for no sample
        rows = slice(begin, begin + size)
        start = None if starts is None else (starts[0][rows], starts[1][rows])
        parts.append(_solve_chunk(flat[rows].double(), None if box is None else box[rows], tol, max_iter, start))
    and_, or_, objective, bound, gap, iterations, primal, dual = (
        torch.cat(pieces).reshape(values.shape[:-1] + pieces[0].shape[1:]) for pieces in zip(*parts, strict=True)
    )
    return SparseAndOr(and_, or_, objective, bound, gap, iterations, SplitState(primal, dual))


def _home(values: Tensor) -> torch.device:
    """Where the work is done: a device with float64."""
    return torch.device("cpu") if values.device.type == "mps" else values.device


def _box(values: Tensor, noise_bound: float, scale: Tensor | float | None) -> Tensor:
    """The largest residual of every sample, ``(B, 1)``; 0 where the scale is not finite."""
    if scale is None:
        ends = values[..., [0, -1]].to(_home(values), torch.float64)
        unit = (ends[..., 1] - ends[..., 0]).abs()
    else:
        unit = torch.as_tensor(scale, device=values.device)
        if unit.is_complex() or bool((unit < 0).any()) or unit.shape not in ((), values.shape[:-1]):
            expected = f"a number not below 0, or a tensor of shape {tuple(values.shape[:-1])} of them"
            raise bad_argument("scale", expected, scale, "`value_scale(values)` gives one.")
    unit = unit.to(_home(values), torch.float64)
    return noise_bound * unit.nan_to_num(0.0, 0.0, 0.0).expand(values.shape[:-1]).reshape(-1, 1)


def check_noise_bound(noise_bound: object) -> None:
    """Raise an `ArgumentError` unless it is a finite number not below 0."""
    if not is_number(noise_bound) or not 0 <= noise_bound < math.inf:
        raise bad_argument("noise_bound", "a finite number not below 0", noise_bound, "The papers use 0.02.")


def _check(values: Tensor, noise_bound: float, tol: float, max_iter: int, warm_start: SplitState | None) -> None:
    n = num_players_of(values)
    if not 2 <= n <= 16 or values.is_complex() or values.dtype == torch.bool:
        raise bad_argument("values", "a real tensor of shape (..., 2**n), n from 2 to 16", values.shape)
    check_noise_bound(noise_bound)
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
    values: Tensor, box: Tensor | None, tol: float, max_iter: int, start: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, ...]:
    """Scale the samples, solve, scale back: the fields of the result, ``(B, ...)`` each, in order."""
    u = values - values[:, :1]
    largest = u.abs().amax(-1, keepdim=True)
    finite = largest.isfinite()
    scale = torch.where(finite & (largest > 0), largest, 1.0)
    u = torch.where(finite, u / scale, 0.0)
    if start is not None:
        start = start[0].double().nan_to_num(0.0, 0.0, 0.0) / scale.unsqueeze(-1), start[1].double().nan_to_num(0.0)
    found = _solve(u, None if box is None else box / scale, start, tol, max_iter)
    u, scale = u / found.unit, scale * found.unit
    and_ = found.known.split[:, 0]
    and_[:, 0] = 0
    left = 0.0 if box is None else found.known.split[:, 1]
    # Not the solver's own OR block: this one makes up for any rounding in the AND block.
    or_ = or_interactions(u - left - inverse_moebius_transform(and_))
    and_, or_ = fold_first_order(and_, or_)
    objective = and_.abs().sum(-1) + or_.abs().sum(-1)
    bound = torch.minimum(found.known.bound, objective)
    gap = torch.where(objective > 0, (objective - bound) / objective, 0.0)
    scaled = and_ * scale, or_ * scale, objective * scale[:, 0], bound * scale[:, 0], gap
    flagged = (torch.where(finite[:, 0].reshape(-1, *[1] * (t.ndim - 1)), t + 0.0, math.nan) for t in scaled)
    pad = (0, 0, 0, 3 - found.primal.shape[1])
    primal, dual = torch.nn.functional.pad(found.primal, pad), torch.nn.functional.pad(found.dual, pad)
    return *flagged, found.iterations, primal * scale.unsqueeze(-1), dual


def _solve(u: Tensor, box: Tensor | None, start: tuple[Tensor, Tensor] | None, tol: float, max_iter: int) -> Solution:
    """Solve samples at unit scale; with a box, those alike in one metric together."""
    together = max(1, (_CACHE_ENTRIES if u.device.type == "cpu" else _CHUNK_ENTRIES_DEVICE) // u.shape[-1])
    if box is None:
        start = None if start is None else (start[0][:, :2], start[1][:, :2])
        return solve(ExactSplit.build(u), start, tol, max_iter, together)
    suits = metric_of(u, box)
    parts, places = [], []
    for index in sorted({*suits.tolist()}) or [0]:  # once even for no sample
        rows, metric = (suits == index).nonzero()[:, 0], METRICS[index]
        warm = None if start is None else (start[0][rows], start[1][rows])
        parts.append(_solve_stubborn(BoundedSplit(u[rows], box[rows], metric), warm, tol, max_iter, together))
        places.append(rows)
    back = torch.cat(places).argsort()
    unit, known, *others = zip(*parts, strict=True)
    return Solution(
        torch.cat(unit)[back],
        Known(*(torch.cat(pieces)[back] for pieces in zip(*known, strict=True))),
        *(torch.cat(pieces)[back] for pieces in others),
    )


def _solve_stubborn(
    problem: BoundedSplit, start: tuple[Tensor, Tensor] | None, tol: float, max_iter: int, together: int
) -> Solution:
    """Solve, and where that takes long go on with longer steps: the few that need many iterations need those less."""
    found = solve(problem, start, tol, min(max_iter, _PATIENCE), together)
    rows = (found.known.cost - found.known.bound > tol * found.known.cost).nonzero()[:, 0]
    if max_iter <= _PATIENCE or not len(rows):
        return found
    rest, unit = problem[rows], found.unit[rows]
    longer = replace(rest, metric=rest.metric._replace(step=_LONGER * rest.metric.step))
    warm = found.primal[rows] * unit[..., None], found.dual[rows]
    again = solve(longer, warm, tol, max_iter - _PATIENCE, together)
    ratio = again.unit / unit
    split, cost, bound = again.known.split * ratio[..., None], *(x * ratio[:, 0] for x in again.known[1:])
    known = Known(*(x[rows] for x in found.known)).better(split, cost)
    known = known._replace(bound=torch.maximum(known.bound, bound))
    news = *known, again.iterations + _PATIENCE, again.primal * ratio[..., None], again.dual
    olds = *found.known, found.iterations, found.primal, found.dual
    split, cost, bound, *others = (old.index_copy(0, rows, new) for old, new in zip(olds, news, strict=True))
    return Solution(found.unit, Known(split, cost, bound), *others)
