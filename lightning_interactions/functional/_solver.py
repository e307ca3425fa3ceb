"""The iteration that solves a `SplitProblem`, exact or with a residual, with its stopping rule.

Douglas-Rachford splitting, which is ADMM in other variables, with full reflections: shrink, project, reflect. Every
new point is averaged with an anchor, the point of the last restart (Halpern's iteration), and restarts come at 10, 20,
40, ... iterations. On networks' values that takes 15 % fewer iterations than the best over-relaxed ADMM to a gap of
1 %, and 35 % fewer to 0.1 %.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.functional._problem import Known, SplitProblem

_FIRST_RESTART = 10
_TIE = 1e-9
_DISTRUST = 4.0


class Solution(NamedTuple):
    """What the solver found for every sample of a batch."""

    unit: Tensor  # (B, 1), that of the known split, its cost and bound, and of the primal
    known: Known
    iterations: Tensor  # (B,) long
    primal: Tensor  # (B, blocks, 2**n), last point after shrinking
    dual: Tensor  # (B, blocks, 2**n), last multipliers


class _State(NamedTuple):
    """What every sample still in the batch carries along; the first dimension of each tensor is the sample."""

    sample: Tensor  # where the sample is in the full batch
    point: Tensor  # (B, blocks, 2**n)
    anchor: Tensor  # (B, blocks, 2**n), the point of the last restart
    feasible: Tensor  # (B, blocks, 2**n), the last projection
    split: Tensor  # the fields of `Known`
    cost: Tensor
    bound: Tensor

    @property
    def known(self) -> Known:
        return Known(self.split, self.cost, self.bound)


def solve(
    problem: SplitProblem, start: tuple[Tensor, Tensor] | None, tol: float, max_iter: int, together: int
) -> Solution:
    """Iterate until every sample has its certificate; samples that have it leave the batch.

    ``start`` is the primal and dual of an earlier solution for the same samples, at unit scale; ``tol`` is the largest
    relative gap accepted. So many samples as fit the cache iterate ``together`` until it is time to look for
    certificates; then those still without one are gathered anew, so that the last ones share their iterations.
    """
    unit = _unit(problem)
    problem = problem.in_units(unit)
    state = _first_state(problem, None if start is None else (start[0] / unit[..., None], start[1]))
    none, zero = torch.zeros_like(state.sample), torch.zeros_like(state.point)
    out = Solution(unit, Known(*(tensor.clone() for tensor in state.known)), none, zero, zero.clone())
    done = 0
    go = _open(state, tol)
    while True:
        if not go.all():
            _store(out, *_keep(problem, state, ~go), done)
            problem, state = _keep(problem, state, go)
        if not state.sample.numel():
            break
        end = min(max_iter, 1 if start and not done else (done // problem.rhythm + 1) * problem.rhythm)
        rows = torch.arange(len(state.sample), device=state.sample.device)
        parts = [
            _stretch(problem[few], _State(*(tensor[few] for tensor in state)), done, end, tol)
            for few in torch.split(rows, together)
        ]
        state = _State(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))
        done = end
        go = _open(state, tol) & (done < max_iter)
    return out


def _unit(problem: SplitProblem) -> Tensor:
    """The problem's unit ``(B, 1)``: the least-squares split tells the natural size of an interaction."""
    zero = problem.u.new_zeros(len(problem.u), problem.blocks, problem.u.shape[1])
    least = (problem.correction(zero) * problem.weight)[:, :2]
    unit = problem.step * least.square().mean((1, 2)).sqrt()[:, None]
    return unit.where(unit > 0, 1.0)


def _first_state(problem: SplitProblem, start: tuple[Tensor, Tensor] | None) -> _State:
    cold = -problem.correction(problem.u.new_zeros(len(problem.u), problem.blocks, problem.u.shape[1]))
    point = cold if start is None else _warm_point(problem, start, cold)
    return _State(torch.arange(len(point), device=point.device), point, point, cold, *problem.first())


def _warm_point(problem: SplitProblem, start: tuple[Tensor, Tensor], cold: Tensor) -> Tensor:
    """The point to go on from, as far as ``start`` still fits the values.

    How far the old split is from reproducing the values, relative to the distance of no split at all, tells how much
    the values have changed. After a small change old interactions and multipliers both save iterations (four fifths
    at 1 %); multipliers of other values cost some, interactions save a few; what is farther than nothing is not used.
    """
    primal, dual = start[0] / problem.weight, start[1]
    missing = problem.correction(primal) * problem.weight
    distance = missing.norm(dim=(1, 2)) / (cold * problem.weight).norm(dim=(1, 2)).clamp(min=_TIE)
    distance = distance[:, None, None]
    return torch.where(distance < 1, primal + (1 - _DISTRUST * distance).clamp(min=0) * dual, cold)


def _stretch(problem: SplitProblem, state: _State, done: int, end: int, tol: float) -> _State:
    """Go on from iteration ``done`` to ``end``, then look for certificates."""
    restart = _last_restart(done)
    for now in range(done + 1, end + 1):
        state = _advance(problem, state, 1 / (now - restart + 1))
        if _last_restart(now) == now:
            state, restart = state._replace(anchor=state.point), now
    dual = problem.shrink(state.point)
    found = problem.inspect(state.known, state.point - dual, dual, state.feasible, tol)
    return state._replace(**found._asdict())


def _last_restart(done: int) -> int:
    """The last of the iterations 0, 10, 20, 40, ... that is not beyond ``done``."""
    periods = done // _FIRST_RESTART
    return _FIRST_RESTART << (periods.bit_length() - 1) if periods else 0


def _advance(problem: SplitProblem, state: _State, weight: float) -> _State:
    """One iteration: reflect at the shrinkage, reflect at the constraint, average with the anchor."""
    # Buffers are reused where they can be: at ten players an allocation costs as much as the arithmetic on it.
    removed = problem.shrink(state.point)
    mirrored = torch.add(state.point, removed, alpha=-2, out=removed)
    correction = problem.correction(mirrored)
    feasible = mirrored.sub_(correction)
    point = torch.sub(feasible, correction, out=correction).lerp_(state.anchor, weight)
    return state._replace(point=point, feasible=feasible)


def _keep(problem: SplitProblem, state: _State, go: Tensor) -> tuple[SplitProblem, _State]:
    """Only the samples where ``go`` holds."""
    where = go.nonzero()[:, 0]
    return problem[where], _State(*(tensor[where] for tensor in state))


def _open(state: _State, tol: float) -> Tensor:
    """Whether a sample still lacks its certificate, ``(B,)``."""
    return state.cost - state.bound > tol * state.cost


def _store(out: Solution, problem: SplitProblem, state: _State, done: int) -> None:
    """Write the results of the samples in ``state`` into their places in ``out``."""
    at = state.sample
    for whole, part in zip(out.known, state.known, strict=True):
        whole[at] = part
    dual = problem.shrink(state.point)
    out.iterations[at] = done
    out.primal[at], out.dual[at] = (state.point - dual) * problem.weight, dual
