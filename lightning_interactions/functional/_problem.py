"""What the iteration of ``_solver.py`` needs of a batch of split problems."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor


class Known(NamedTuple):
    """What is known so far of every sample's optimum."""

    split: Tensor  # (B, blocks - 1, 2**n), the best split: its AND interactions and, with a box, its residual
    cost: Tensor  # (B,), its objective
    bound: Tensor  # (B,), the best lower bound on the optimum

    def better(self, split: Tensor, cost: Tensor, tie: float = 1e-9) -> Known:
        """Take another feasible split where it is the better one.

        A gain below ``tie`` is rounding; to follow it would make the choice among optimal splits a matter of luck.
        """
        wins = cost < self.cost * (1 - tie)
        return self._replace(split=split.where(wins[:, None, None], self.split), cost=cost.where(wins, self.cost))


_P = TypeVar("_P", bound="SplitProblem")


class SplitProblem(Protocol):
    """A batch of split problems at unit scale.

    A point has one block of ``2**n`` numbers for the AND interactions, one for minus the OR interactions and, if there
    is a box, one for the residual.
    """

    @property
    def u(self) -> Tensor:
        """Values less the empty one, ``(B, 2**n)``, each sample scaled to a largest absolute value of 1."""

    @property
    def blocks(self) -> int:
        """Number of blocks of a point."""

    @property
    def step(self) -> float:
        """The threshold of the shrinkage, in units of the root mean square of the least-squares split."""

    @property
    def rhythm(self) -> int:
        """Every so many iterations it is worth while to look for a certificate."""

    def __getitem__(self: _P, keep: Tensor) -> _P:
        """The sub-batch of the samples ``keep`` (indices)."""

    def first(self) -> Known:
        """What is known before the first iteration."""

    def shrink(self, point: Tensor, step: Tensor) -> Tensor:
        """What the proximal operator of the objective, with the threshold ``step (B, 1, 1)``, removes from a point."""

    def dual(self, removed: Tensor, step: Tensor) -> Tensor:
        """What was removed as multipliers: subgradients of the objective, without unit."""

    def correction(self, point: Tensor) -> Tensor:
        """What the projection onto the constraint takes away from ``point``."""

    def warm(self, primal: Tensor, dual: Tensor, step: Tensor) -> Tensor:
        """The point with the given shrunk part and multipliers."""

    def inspect(self, known: Known, shrunk: Tensor, dual: Tensor, feasible: Tensor, tol: float) -> Known:
        """Read splits and a lower bound off the last shrunk point, its multipliers and the last projection."""
