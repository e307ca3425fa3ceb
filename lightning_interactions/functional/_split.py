"""The linear program behind the exact AND-OR split: its projection, its candidates and its certificate.

With ``A = kron^n [[1, 0], [-1, 1]]`` (Moebius), ``P`` the complement and ``O = A P``, the AND interactions ``z1 = A a``
determine minus the OR interactions ``z2 = O (u - a)``. With ``B = O A^-1`` and ``w = O u`` the split solves

    minimise  |z1|_1 + |z2|_1   subject to   B z1 + z2 = w,

where the empty entries of ``z1`` and ``z2`` are free and left out of the sum. The problem is that of arXiv 2407.19198
(equation 11), the formulation our own. Three facts make it cheap:

* ``B = kron^n [[1, 1], [0, -1]]`` is its own inverse, and ``B = Q X D Q`` with ``Q`` a symmetric orthogonal Kronecker
  power, ``X`` the complement and ``D = kron^n diag(phi, 1/phi)``, ``phi`` the golden ratio. So projecting onto the
  constraint is ``Q``, a 2 x 2 system per entry, ``Q``.
* The dual is: maximise ``<y, w>`` subject to ``|y| <= 1``, ``|B' y| <= 1`` and ``y(empty) = 0``, which implies
  ``(B' y)(empty) = 0``. Zero is inside, so any ``y`` shrunk far enough proves a lower bound.
* All samples share the matrices, so a batch is a few matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_interactions.functional._kronecker import Matrix2, kronecker_diagonal, kronecker_power
from lightning_interactions.functional._problem import Known

_PHI = (1 + math.sqrt(5)) / 2
_NORM = math.hypot(1, _PHI)
_B: Matrix2 = ((1.0, 1.0), (0.0, -1.0))
_B_TRANSPOSED: Matrix2 = ((1.0, 0.0), (1.0, -1.0))
_O: Matrix2 = ((0.0, 1.0), (1.0, -1.0))  # symmetric
_Q: Matrix2 = ((1 / _NORM, _PHI / _NORM), (_PHI / _NORM, -1 / _NORM))  # symmetric and orthogonal


@dataclass(frozen=True)
class ExactSplit:
    """A batch of splits that leave nothing unexplained, see `SplitProblem`."""

    u: Tensor
    w: Tensor  # (B, 2**n), O u
    w_hat: Tensor  # (B, 2**n), Q w
    singular: Tensor  # (2**n,), the singular values of B in the order of the left singular vectors
    weight_hat: Tensor  # (2**n,), 1 / (1 + their squares)
    n: int

    blocks = 2
    step = 1.5
    rhythm = 10
    weight = 1.0

    @staticmethod
    def build(u: Tensor) -> ExactSplit:
        """Prepare the problem of the scaled values ``u`` (``(B, 2**n)``, float64)."""
        n = u.shape[-1].bit_length() - 1
        w = kronecker_power(_O, n, u.device)(u)
        singular = kronecker_diagonal((1 / _PHI, _PHI), n, u.device)
        return ExactSplit(u, w, kronecker_power(_Q, n, u.device)(w), singular, 1 / (1 + singular * singular), n)

    def __getitem__(self, keep: Tensor) -> ExactSplit:
        """The sub-batch of the samples ``keep`` (indices)."""
        return replace(self, u=self.u[keep], w=self.w[keep], w_hat=self.w_hat[keep])

    def in_units(self, unit: Tensor) -> ExactSplit:
        """The same in units of ``unit (B, 1)``."""
        return replace(self, u=self.u / unit, w=self.w / unit, w_hat=self.w_hat / unit)

    def first(self) -> Known:
        """No OR interactions; no coalition is worth more than all absolute interactions together."""
        zero = torch.zeros_like(self.u).unsqueeze(1).expand(-1, 2, -1)
        return Known(*self._complete(zero, keep_and=False), self.u.abs().amax(-1))

    def shrink(self, point: Tensor) -> Tensor:
        """Clip: the empty entries are free."""
        removed = point.clamp(-1, 1)
        removed[:, :, 0] = 0
        return removed

    def correction(self, point: Tensor) -> Tensor:
        """What the orthogonal projection takes away: ``K' (K K')^-1 (K point - w)``, ``K = [B, I]``."""
        q = kronecker_power(_Q, self.n, point.device)
        hat = q(point)
        shift = hat[:, 1].sub_(self.w_hat).addcmul_(self.singular, hat[:, 0].flip(-1))
        shift *= self.weight_hat
        hat[:, 0] = (self.singular * shift).flip(-1)
        return q(hat)

    def inspect(self, known: Known, shrunk: Tensor, dual: Tensor, feasible: Tensor, tol: float) -> Known:
        """Try both blocks of the shrunk point, and the projection; prove a bound by the multipliers."""
        for pair, keep_and in ((shrunk, True), (shrunk, False), (feasible, True)):
            known = known.better(*self._complete(pair, keep_and=keep_and))
        return known._replace(bound=torch.maximum(known.bound, self._lower(dual)))

    def _complete(self, pair: Tensor, *, keep_and: bool) -> tuple[Tensor, Tensor]:
        """Keep one block of ``pair`` and make the other fit: a feasible split, and its objective."""
        b = kronecker_power(_B, self.n, self.u.device)
        and_ = pair[:, 0] if keep_and else b(self.w - pair[:, 1])
        minus_or = self.w - b(and_)
        return and_.unsqueeze(1), objective(and_, minus_or)

    def _lower(self, pair: Tensor) -> Tensor:
        """A lower bound ``(B,)`` on the optimum from (nearly dual feasible) multipliers.

        They are projected onto the pairs ``(B' y, y)``, where the errors of the two average out, and then shrunk into
        [-1, 1]. On networks' values the gap is a quarter of what the second block alone certifies. One clip and
        projection more takes another 8 % off the number of iterations, more of them do not pay.
        """
        q = kronecker_power(_Q, self.n, pair.device)
        transposed = kronecker_power(_B_TRANSPOSED, self.n, pair.device)
        best = torch.zeros_like(self.u[:, 0])
        for _ in range(2):
            hat = q(pair)
            y = q(torch.addcmul(hat[:, 1], self.singular, hat[:, 0].flip(-1)) * self.weight_hat)
            y[:, 0] = 0
            exact = torch.stack([transposed(y), y], 1)
            best = torch.maximum(best, (y * self.w).sum(-1) / exact.abs().amax((1, 2)).clamp(min=1))
            pair = exact.clamp(-1, 1)
        return best


def objective(and_: Tensor, minus_or: Tensor) -> Tensor:
    """Sum ``(B,)`` of the absolute interactions, the one-player OR folded into AND as in the result."""
    single = [2**i for i in range(and_.shape[-1].bit_length() - 1)]
    first, second = and_[:, single], minus_or[:, single]
    total = and_[:, 1:].abs().sum(-1) + minus_or[:, 1:].abs().sum(-1)
    return total + ((first - second).abs() - first.abs() - second.abs()).sum(-1)
