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

    known: Known
    iterations: Tensor  # (B,) long
    primal: Tensor  # (B, blocks, 2**n), last point after shrinking
    dual: Tensor  # (B, blocks, 2**n), last multipliers


class _State(NamedTuple):
    """What every sample still in the batch carries along; the first dimension of each tensor is the sample."""

    sample: Tensor  # where the sample is in the full batch
    step: Tensor  # (B, 1, 1)
    point: Tensor  # (B, blocks, 2**n)
    anchor: Tensor  # (B, blocks, 2**n), the point of the last restart
    feasible: Tensor  # (B, blocks, 2**n), the last projection
    split: Tensor  # the fields of `Known`
    cost: Tensor
    bound: Tensor

    @property
    def known(self) -> Known:
        return Known(self.split, self.cost, self.bound)


def solve(problem: SplitProblem, start: tuple[Tensor, Tensor] | None, tol: float, max_iter: int) -> Solution:
    """Iterate until every sample has its certificate; samples that have it leave the batch.

    ``start`` is the primal and dual of an earlier solution for the same samples, at unit scale; ``tol`` is the largest
    relative gap accepted.
    """
    state = _first_state(problem, start)
    none, zero = torch.zeros_like(state.sample), torch.zeros_like(state.point)
    known = Known(*(tensor.clone() for tensor in state.known))
    out = Solution(known, none, zero, zero.clone())
    _store(out, problem, state, 0)
    problem, state = _keep(problem, state, _open(state, tol))
    done, since, restart = 0, 0, _FIRST_RESTART
    while state.sample.numel():
        done, since = done + 1, since + 1
        state = _advance(problem, state, 1 / (since + 1))
        if done == restart:
            state, since, restart = state._replace(anchor=state.point), 0, 2 * restart
        if done % problem.rhythm and done < max_iter and not (start and done == 1):
            continue
        removed = problem.shrink(state.point, state.step)
        dual = problem.dual(removed, state.step)
        found = problem.inspect(state.known, state.point - removed, dual, state.feasible, tol)
        state = state._replace(**found._asdict())
        go = _open(state, tol) & (done < max_iter)
        if not go.all():
            _store(out, *_keep(problem, state, ~go), done)
            problem, state = _keep(problem, state, go)
    return out


def _first_state(problem: SplitProblem, start: tuple[Tensor, Tensor] | None) -> _State:
    size, entries = problem.u.shape
    zero = problem.u.new_zeros(size, problem.blocks, entries)
    correction = problem.correction(zero)
    # The projection of zero is the split with the least squares: the natural size of an interaction.
    step = problem.step * correction[:, :2].square().mean((1, 2)).sqrt()[:, None, None]
    point = -correction if start is None else _warm_point(problem, start, step, -correction)
    sample = torch.arange(size, device=point.device)
    return _State(sample, step, point, point, -correction, *problem.first())


def _warm_point(problem: SplitProblem, start: tuple[Tensor, Tensor], step: Tensor, cold: Tensor) -> Tensor:
    """The point to go on from, as far as ``start`` still fits the values.

    How far the old split is from reproducing the values, relative to the distance of no split at all, tells how much
    the values have changed. After a small change old interactions and multipliers both save iterations (four fifths
    at 1 %); multipliers of other values cost some, interactions save a few; what is farther than nothing is not used.
    """
    primal, dual = start
    missing = problem.correction(primal)
    distance = missing.norm(dim=(1, 2), keepdim=True) / cold.norm(dim=(1, 2), keepdim=True).clamp(min=_TIE)
    warm = problem.warm(primal, (1 - _DISTRUST * distance).clamp(min=0) * dual, step)
    return torch.where(distance < 1, warm, cold)


def _advance(problem: SplitProblem, state: _State, weight: float) -> _State:
    """One iteration: reflect at the shrinkage, reflect at the constraint, average with the anchor."""
    # Buffers are reused where they can be: at ten players an allocation costs as much as the arithmetic on it.
    mirrored = problem.shrink(state.point, state.step).mul_(-2).add_(state.point)
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
    removed = problem.shrink(state.point, state.step)
    for whole, part in zip(out.known, state.known, strict=True):
        whole[at] = part
    out.iterations[at] = done
    out.primal[at], out.dual[at] = state.point - removed, problem.dual(removed, state.step)
