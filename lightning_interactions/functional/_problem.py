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
    """A batch of split problems.

    A point has one block of ``2**n`` numbers for the AND interactions, one for minus the OR interactions and, if there
    is a box, one for the residual.
    """

    @property
    def u(self) -> Tensor:
        """Values less the empty one, ``(B, 2**n)``."""

    @property
    def blocks(self) -> int:
        """Number of blocks of a point."""

    @property
    def step(self) -> float:
        """What the threshold of the shrinkage is to be, in units of the root mean square of the least-squares split."""

    @property
    def rhythm(self) -> int:
        """Every so many iterations it is worth while to look for a certificate."""

    def __getitem__(self: _P, keep: Tensor) -> _P:
        """The sub-batch of the samples ``keep`` (indices)."""

    @property
    def weight(self) -> Tensor | float:
        """What an entry of a point is to be multiplied with, ``(blocks, 2**n)``."""

    def in_units(self: _P, unit: Tensor) -> _P:
        """The same problem in units of ``unit (B, 1)``."""

    def first(self) -> Known:
        """What is known before the first iteration."""

    def shrink(self, point: Tensor) -> Tensor:
        """What the proximal operator of the objective removes from a point: multipliers, that is subgradients."""

    def correction(self, point: Tensor) -> Tensor:
        """What the projection onto the constraint takes away from ``point``."""

    def inspect(self, known: Known, shrunk: Tensor, dual: Tensor, feasible: Tensor, tol: float) -> Known:
        """Read splits and a lower bound off the last shrunk point, its multipliers and the last projection."""
