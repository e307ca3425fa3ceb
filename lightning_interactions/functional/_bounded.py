"""The linear program behind the AND-OR split with a residual: its projection, its candidates and its certificate.

    minimise  |z1|_1 + |z2|_1   subject to   Z z1 - H z2 + r = u,   |r(T)| <= box,

over the non-empty coalitions, with ``Z`` the zeta transform (what AND interactions add to every coalition) and ``H``
what OR interactions add; ``z2`` is minus the OR interactions, as in ``_split.py``. It is the split of arXiv 2407.19198
with the residual of its appendix C, the formulation our own.

* The projection is made in a metric that lets some entries move further than others: the nearer the size of a block is
  to that of its multipliers, the fewer iterations. A point holds the entries in units of how far they move.
* Up to a constant ``-H`` is ``P Z``, with ``P`` the complement. Counting values up to a constant, and multipliers with
  a sum of zero, makes the projection two Kronecker powers around ``(Z W Z' + H W H' + w I)^-1``; that map is blind to
  who is who, so ``_symmetric.py`` inverts it in closed form.
* The dual is: maximise ``<p, u> - box |p|_1`` subject to ``|Z' p| <= 1`` and ``|H' p| <= 1``. Zero is inside, so any
  ``p`` shrunk far enough proves a lower bound.
* Neither the iterate nor its multipliers are feasible; what is missing is mostly a few entries beyond their limits. A
  few alternating projections, over-relaxed, mend that at the price of an iteration each, and halve the number of those.
* For 10 players and a gap of 2 % that takes two to four times as long as the exact split, on values of a LeNet up to
  six times (``tests/benchmarks/bench_split.json``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.functional._kronecker import KroneckerPower, Matrix2, kronecker_power, multiply
from lightning_interactions.functional._problem import Known
from lightning_interactions.functional._split import objective
from lightning_interactions.functional._symmetric import SymmetricMap, symmetric_map
from lightning_interactions.functional.coalitions import orders
from lightning_interactions.functional.spectrum import degree_energy

_ZETA: Matrix2 = ((1.0, 0.0), (1.0, 1.0))
_ZETA_TRANSPOSED: Matrix2 = ((1.0, 1.0), (0.0, 1.0))
_MOEBIUS: Matrix2 = ((1.0, 0.0), (-1.0, 1.0))
_MEND_SPLIT, _MEND_BOUND = 4, 4  # projections; more of them gain less than an iteration does
_RELAX = 1.9
_HOPELESS = 1.5  # beyond so many tolerances a gap cannot be mended away
_ROUGH_DEGREE = 4
_ROUGH_SHARES = (0.5, 1.5)


class Metric(NamedTuple):
    """How far an entry moves in a projection, in units of the empty coalition's interaction."""

    order: float  # an interaction moves less, or more, by this factor for every order
    residual: float
    step: float  # of the iteration in this metric, see ``_solver.py``


METRICS = (Metric(0.75, 6.0, 3.33), Metric(0.8, 1.6, 4.4), Metric(1.0, 1.0, 2.0))
"""From values of which dozens of interactions of low order explain all but the box to those that take hundreds."""


def metric_of(u: Tensor, box: Tensor) -> Tensor:
    """Which of the `METRICS` suits the values, ``(B,)``.

    The values' part of Walsh degree 4 and above tells, compared to the box. On values of 52 networks the best of 72
    metrics for each sample needs 67 iterations, this choice 79, the better guess of the outer two 87; on samples that
    had no part in choosing 83 against 91.
    """
    rough = degree_energy(u)[:, _ROUGH_DEGREE - 1 :].sum(-1).sqrt()
    return (rough[:, None] >= box * box.new_tensor(_ROUGH_SHARES)).sum(-1)


@dataclass(frozen=True)
class BoundedSplit:
    """A batch of splits that leave up to a box unexplained at every coalition, see `SplitProblem`."""

    u: Tensor
    box: Tensor  # (B, 1), the largest residual allowed
    metric: Metric

    blocks = 3
    rhythm = 20

    @property
    def step(self) -> float:
        """The step in units of the least-squares split."""
        return self.metric.step

    @property
    def weight(self) -> Tensor:
        """How far an entry moves, ``(3, 2**n)``."""
        return self._tables.weight

    def __getitem__(self, keep: Tensor) -> BoundedSplit:
        """The sub-batch of the samples ``keep`` (indices)."""
        return replace(self, u=self.u[keep], box=self.box[keep])

    def in_units(self, unit: Tensor) -> BoundedSplit:
        """The same in units of ``unit (B, 1)``."""
        return replace(self, u=self.u / unit, box=self.box / unit)

    def first(self) -> Known:
        """No OR interactions and as much residual as allowed: with a wide box this is optimal, with cost zero."""
        zero = torch.zeros_like(self.u).unsqueeze(1).expand(-1, 2, -1)
        # No coalition is worth more than all absolute interactions and its residual together.
        least = (self.u.abs().amax(-1) - self.box[:, 0]).clamp(min=0)
        known = Known(zero, torch.full_like(least, torch.inf), least)
        return known.better(*self._complete(zero, keep_and=False))

    def shrink(self, point: Tensor) -> Tensor:
        """Clip the interactions; of the residual what is beyond the box."""
        removed = torch.empty_like(point)
        torch.clamp(point[:, :2], -1, 1, out=removed[:, :2])
        torch.sub(point[:, 2], self._in_box(point[:, 2]), out=removed[:, 2])
        return removed

    def correction(self, point: Tensor) -> Tensor:
        """What the projection takes away: ``W K' (K W K')^-1 (K W point - u)``, ``K = [Z, -H, I]``, over ``W``."""
        return self._pull(self._explained(point).sub_(self.u))

    def inspect(self, known: Known, shrunk: Tensor, dual: Tensor, feasible: Tensor, tol: float) -> Known:
        """Read a bound off the multipliers; mend it, and the projection to a split, where that may be enough."""
        cost = (feasible[:, :2, 1:] * self.weight[:2, 1:]).abs().sum((1, 2))  # what mending may come down to
        pulled, bound = self._lower(dual)
        known = known._replace(bound=torch.maximum(known.bound, bound))
        hope = (cost - known.bound <= _HOPELESS * tol * cost).nonzero()[:, 0]
        if not len(hope):
            return known
        part = self[hope]._mend(Known(*(x[hope] for x in known)), pulled[hope], feasible[hope], tol)
        return Known(*(whole.index_copy(0, hope, new) for whole, new in zip(known, part, strict=True)))

    @property
    def _tables(self) -> _Tables:
        order, residual, _ = self.metric
        return _tables(order, residual, self.u.shape[-1].bit_length() - 1, self.u.device)

    def _in_box(self, residual: Tensor) -> Tensor:
        limit = self.box / self.metric.residual
        return residual.clamp(-limit, limit)

    def _explained(self, point: Tensor) -> Tensor:
        """``K W point``, up to a constant."""
        summed = self._tables.explain(point[:, :2].transpose(0, 1))
        return summed[1].flip(-1).add_(summed[0]).add_(point[:, 2], alpha=self.metric.residual)

    def _pull(self, missing: Tensor) -> Tensor:
        """``K' (K W K')^-1 missing``: zero, as it is to remain, at the empty coalition."""
        tables = self._tables
        x = tables.inverse(missing)
        out = x.new_empty(self.blocks, *x.shape)  # blocks first in memory: so the products need no copies
        tables.spread(torch.stack([x, x.flip(-1)]), out=out[:2])
        out[2] = x
        out[2, :, 0] = 0
        return out.transpose(0, 1)

    def _mend(self, known: Known, pulled: Tensor, point: Tensor, tol: float) -> Known:
        """Alternate between what is beyond its limit and the constraint, first for a split, then for a bound."""
        for _ in range(_MEND_SPLIT):
            over = _RELAX * (point[:, 2] - self._in_box(point[:, 2]))
            moved = self._pull(over * self.metric.residual)
            moved[:, 2] -= over
            point = point + moved
        known = known.better(*self._complete(point[:, :2] * self.weight[:2], keep_and=True))
        for _ in range(_MEND_BOUND):
            needs = known.cost - known.bound > tol * known.cost  # the others keep theirs, whatever their batch does
            if not bool(needs.any()):
                break
            pair = pulled[:, :2]
            pair.lerp_(pair.clamp(-1, 1), _RELAX)
            pulled, bound = self._lower(pulled)
            known = known._replace(bound=torch.maximum(known.bound, bound).where(needs, known.bound))
        return known

    def _complete(self, pair: Tensor, *, keep_and: bool) -> tuple[Tensor, Tensor]:
        """What the pair leaves unexplained goes into the residual as far as the box allows, the rest into one block."""
        n = self.u.shape[-1].bit_length() - 1
        summed = kronecker_power(_ZETA, n, pair.device)(pair)
        explained = summed[:, 0] + summed[:, 1].flip(-1)
        missing = self.u - (explained - explained[:, :1])
        residual = missing.clamp(-self.box, self.box)
        rest = missing - residual
        moebius = kronecker_power(_MOEBIUS, n, rest.device)
        if keep_and:
            and_, minus_or = pair[:, 0], pair[:, 1] + moebius(rest.flip(-1))
        else:
            and_, minus_or = pair[:, 0] + moebius(rest), pair[:, 1]
        return torch.stack([and_, residual], 1), objective(and_, minus_or)

    def _lower(self, dual: Tensor) -> tuple[Tensor, Tensor]:
        """The ``K' p`` nearest to nearly feasible multipliers, and the lower bound ``(B,)`` that ``p`` proves."""
        pulled = self._pull(self._explained(dual))
        p = pulled[:, 2]
        value = (p * self.u).sum(-1) - self.box[:, 0] * p.abs().sum(-1)
        return pulled, value / pulled[:, :2].abs().amax((1, 2)).clamp(min=1)


class _Tables(NamedTuple):
    """What all samples with one metric share."""

    explain: KroneckerPower  # Z W
    spread: KroneckerPower  # Z'
    inverse: SymmetricMap  # (K W K')^-1, from values up to a constant to multipliers with a sum of zero
    weight: Tensor  # (3, 2**n)


# Tables made under inference mode could not be used outside it, and the cache outlives the context.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
@torch.no_grad()
def _tables(order: float, residual: float, n: int, device: torch.device) -> _Tables:
    """The matrices, and the inverse from what the projection does to multipliers; for any step of a `Metric`."""
    explain = kronecker_power(multiply(_ZETA, ((1.0, 0.0), (0.0, order))), n, device)
    spread = kronecker_power(_ZETA_TRANSPOSED, n, device)
    size = orders(n, device).double()
    weight = torch.stack([order**size] * 2 + [torch.full_like(size, residual)])

    def apply(x: Tensor) -> Tensor:
        """``K W K'``, and the identity at the empty coalition."""
        free = with_zero_sum(x)
        pair = explain(spread(torch.stack([free, free.flip(-1)])))
        image = pair[0] + pair[1].flip(-1)
        image += residual * x - image[:, :1]
        image[:, 0] = x[:, 0]
        return image

    def with_zero_sum(x: Tensor) -> Tensor:
        return torch.cat([-x[:, 1:].sum(-1, keepdim=True), x[:, 1:]], -1)

    regular = symmetric_map(apply, n, device).inverse()
    return _Tables(explain, spread, symmetric_map(lambda x: with_zero_sum(regular(x - x[:, :1])), n, device), weight)
