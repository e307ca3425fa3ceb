"""The linear program behind the sparse AND-OR split: its projection, its candidates and its certificate.

With ``A = kron^n [[1, 0], [-1, 1]]`` (Moebius), ``P`` the complement and ``O = A P``, the AND interactions ``z1 = A a``
determine minus the OR interactions ``z2 = O (u - a)``. With ``B = O A^-1`` and ``w = O u`` the split solves

    minimise  |z1|_1 + |z2|_1   subject to   B z1 + z2 + O r = w,   |r(T)| <= box,   r(empty) = 0,

where the empty entries of ``z1`` and ``z2`` are free and left out of the sum. The problem is that of arXiv 2407.19198
(equation 11, with the residual of its appendix C), the formulation our own. Three facts make it cheap:

* ``B = kron^n [[1, 1], [0, -1]]`` is its own inverse, and ``B = Q X D Q`` with ``Q`` a symmetric orthogonal Kronecker
  power, ``X`` the complement and ``D = kron^n diag(phi, 1/phi)``, ``phi`` the golden ratio. So projecting onto the
  constraint without residual is ``Q``, a 2 x 2 system per entry, ``Q``.
* The dual is: maximise ``<y, w> - box * |O y|_1`` (the empty entry of ``O y`` left out) subject to ``|y| <= 1``,
  ``|B' y| <= 1`` and ``y(empty) = 0``, which implies ``(B' y)(empty) = 0``. Zero is inside, so any ``y`` shrunk far
  enough proves a lower bound.
* All samples share the matrices, so a batch is a few matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.functional._kronecker import Matrix2, kronecker_diagonal, kronecker_power, multiply

_PHI = (1 + math.sqrt(5)) / 2
_NORM = math.hypot(1, _PHI)
_B: Matrix2 = ((1.0, 1.0), (0.0, -1.0))
_B_TRANSPOSED: Matrix2 = ((1.0, 0.0), (1.0, -1.0))
_O: Matrix2 = ((0.0, 1.0), (1.0, -1.0))  # symmetric
_O_INVERSE: Matrix2 = ((1.0, 1.0), (1.0, 0.0))
_Q: Matrix2 = ((1 / _NORM, _PHI / _NORM), (_PHI / _NORM, -1 / _NORM))  # symmetric and orthogonal
_OQ = multiply(_O, _Q)
_QO = multiply(_Q, _O)
_QOOQ = multiply(_QO, _OQ)
_INNER_STEPS = 12
_TINY = 1e-300


class Candidate(NamedTuple):
    """A feasible split of every sample of a batch."""

    split: Tensor  # (B, blocks - 1, 2**n), its AND interactions and, if there is a box, its residual; the rest follows
    cost: Tensor  # (B,), its objective


@dataclass(frozen=True)
class SplitProblem:
    """A batch of split problems at unit scale."""

    u: Tensor  # (B, 2**n), values less the empty one, each sample scaled to a largest absolute value of 1
    w: Tensor  # (B, 2**n), O u
    w_hat: Tensor  # (B, 2**n), Q w
    box: Tensor | None  # (B, 1), the largest residual allowed, or None for an exact split
    singular: Tensor  # (2**n,), the singular values of B in the order of the left singular vectors
    weight: Tensor  # (2**n,), 1 / (1 + their squares)
    n: int

    @staticmethod
    def build(u: Tensor, box: Tensor | None) -> SplitProblem:
        """Prepare the problem of the scaled values ``u`` (``(B, 2**n)``, float64)."""
        n = u.shape[-1].bit_length() - 1
        w = kronecker_power(_O, n, u.device)(u)
        singular = kronecker_diagonal((1 / _PHI, _PHI), n, u.device)
        return SplitProblem(u, w, kronecker_power(_Q, n, u.device)(w), box, singular, 1 / (1 + singular * singular), n)

    def __getitem__(self, keep: Tensor) -> SplitProblem:
        """The sub-batch of the samples ``keep`` (indices)."""
        box = None if self.box is None else self.box[keep]
        return replace(self, u=self.u[keep], w=self.w[keep], w_hat=self.w_hat[keep], box=box)

    @property
    def blocks(self) -> int:
        """Number of blocks of a point: AND, minus OR and, if there is a box, the residual."""
        return 2 if self.box is None else 3

    def multipliers(self, point: Tensor, step: Tensor) -> Tensor:
        """What the proximal operator of the objective takes away from ``point``, ``(B, blocks, 2**n)``.

        Divided by the threshold ``step`` ``(B, 1, 1)`` it is a subgradient, within [-1, 1] in the first two blocks.
        """
        if self.box is None:
            removed = point.clamp(-step, step)
        else:
            residual = point[:, 2]
            over = residual - residual.clamp(-self.box, self.box)
            over[:, 0] = residual[:, 0]
            removed = torch.cat([point[:, :2].clamp(-step, step), over.unsqueeze(1)], 1)
        removed[:, :2, 0] = 0
        return removed

    def correction(self, point: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """What the orthogonal projection takes away from ``point``: ``K' (K K')^-1 (K point - w)``, ``K = [B, I, O]``.

        With a box an iterative solve starts from ``guess``, the second output of the previous call.
        """
        q = kronecker_power(_Q, self.n, point.device)
        hat = q(point[:, :2])
        shift = hat[:, 1].sub_(self.w_hat).addcmul_(self.singular, hat[:, 0].flip(-1))
        if self.box is None:
            shift *= self.weight
        else:
            shift += kronecker_power(_QO, self.n, point.device)(point[:, 2])
            shift.copy_(self._solve_normal(shift, guess))
        hat[:, 0] = (self.singular * shift).flip(-1)
        out = q(hat)
        if self.box is not None:
            residual = kronecker_power(_OQ, self.n, point.device)(shift)
            out = torch.cat([out, residual.unsqueeze(1)], 1)
        return out, shift

    def candidate(self, pair: Tensor, keep_and: bool) -> Candidate:
        """Complete one block of ``pair``, AND and minus the OR interactions, to a feasible split.

        The constraint gives the others: with ``keep_and`` the AND block is kept and the OR block made to fit, else the
        other way round. What the two together leave unexplained goes into the residual first, as far as the box allows.
        """
        b = kronecker_power(_B, self.n, self.u.device)
        w = self.w
        if self.box is not None:
            explained = kronecker_power(_O_INVERSE, self.n, w.device)(b(pair[:, 0]) + pair[:, 1])
            residual = (self.u - explained).clamp(-self.box, self.box)
            residual[:, 0] = 0
            w = w - kronecker_power(_O, self.n, w.device)(residual)
        and_ = pair[:, 0] if keep_and else b(w - pair[:, 1])
        minus_or = w - b(and_)
        cost = and_[:, 1:].abs().sum(-1) + minus_or[:, 1:].abs().sum(-1)
        single = [2**i for i in range(self.n)]  # one-player OR is folded into AND, as in the result
        first, second = and_[:, single], minus_or[:, single]
        cost = cost + ((first - second).abs() - first.abs() - second.abs()).sum(-1)
        return Candidate(and_.unsqueeze(1) if self.box is None else torch.stack([and_, residual], 1), cost)

    def lower(self, multipliers: Tensor) -> Tensor:
        """A lower bound ``(B,)`` on the optimum from the first two blocks of (nearly dual feasible) ``multipliers``.

        They are projected onto the pairs ``(B' y, y)``, where the errors of the two average out, and then shrunk into
        [-1, 1]. On networks' values the gap is a quarter of what the second block alone certifies. One clip and
        projection more takes another 8 % off the number of iterations, more of them do not pay.
        """
        q = kronecker_power(_Q, self.n, multipliers.device)
        transposed = kronecker_power(_B_TRANSPOSED, self.n, multipliers.device)
        pair, best = multipliers[:, :2], torch.zeros_like(self.u[:, 0])
        for _ in range(2):
            hat = q(pair)
            y = q(torch.addcmul(hat[:, 1], self.singular, hat[:, 0].flip(-1)) * self.weight)
            y[:, 0] = 0
            exact = torch.stack([transposed(y), y], 1)
            bound = (y * self.w).sum(-1)
            if self.box is not None:
                bound -= self.box[:, 0] * kronecker_power(_O, self.n, y.device)(y)[:, 1:].abs().sum(-1)
            best = torch.maximum(best, bound / exact.abs().amax((1, 2)).clamp(min=1))
            pair = exact.clamp(-1, 1)
        return best

    def _solve_normal(self, target: Tensor, guess: Tensor) -> Tensor:
        """Conjugate gradients on ``(I + B B' + O O') x = target`` in the basis ``Q``, preconditioned by the diagonal.

        With the residual's block the three parts of the matrix have no common eigenbasis, hence an iterative solve.
        It need not be accurate: it goes on from where the previous one ended.
        """
        coupling = kronecker_power(_QOOQ, self.n, target.device)
        diagonal = 1 / self.weight
        jacobi = 1 / (diagonal + kronecker_diagonal((_QOOQ[0][0], _QOOQ[1][1]), self.n, target.device))
        x, residual = guess, target - guess * diagonal - coupling(guess)
        direction = torch.zeros_like(x)
        power = torch.full_like(x[:, :1], math.inf)
        for _ in range(_INNER_STEPS):
            scaled = residual * jacobi
            power, previous = (residual * scaled).sum(-1, keepdim=True), power
            direction = scaled + power / previous.clamp(min=_TINY) * direction
            image = direction * diagonal + coupling(direction)
            length = power / (direction * image).sum(-1, keepdim=True).clamp(min=_TINY)
            x = x + length * direction
            residual = residual - length * image
        return x
