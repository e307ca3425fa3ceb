"""Similarity of the interactions on two sets of samples, order by order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_interactions.functional.similarity import jaccard_by_order
from lightning_interactions.metrics.base import SumMetric, check_interactions, finite_samples
from lightning_interactions.metrics.drawing import draw_by_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class InteractionJaccard(SumMetric):
    r"""How well the interactions of each order carry over from one set of samples to another.

    .. math::
        \mathrm{Jaccard}(k) = \frac{\|\min(\tilde a_k, \tilde b_k)\|_1}{\|\max(\tilde a_k, \tilde b_k)\|_1}

    where ``a_k`` is the mean over the samples of the first set of all AND and OR interactions of order ``k``, ``b_k``
    that of the second set, and the tilde splits a vector into its positive and its negative part (generalisation power
    by order, arXiv 2405.10262; arXiv 2302.13091). The papers compare the training and the test samples of one class and
    average over classes: use one metric per class. A player has to mean the same in all samples (fixed patches or
    columns), otherwise there is nothing to compare.

    As input to ``forward`` and ``update`` the metric accepts the following input

    - ``first_and``, ``first_or`` (:class:`~torch.Tensor`): interactions ``(..., 2**n)`` of samples of the first set.
    - ``second_and``, ``second_or`` (:class:`~torch.Tensor`): the same of the second set; their number may differ, and
      may be 0.

    Samples with an interaction that is not finite are left out and not counted.

    ``forward`` and ``compute`` return ``(n,)``, one similarity per order from 0 (nothing shared) to 1 (equal); ``nan``
    where both sets have no interaction, or a set has no sample.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16, or in ``update`` a shape does not fit it.

    Example:
        >>> metric = InteractionJaccard(num_players=2)
        >>> train, val = torch.tensor([[9.0, 2.0, 1.0, -3.0]]), torch.tensor([[5.0, 1.0, 1.0, 3.0]])
        >>> metric.update(train, torch.zeros(1, 4), val, torch.zeros(1, 4))
        >>> metric.compute()
        tensor([0.6667, 0.0000], dtype=torch.float64)
    """

    higher_is_better: bool = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    first_sum: Tensor
    first_count: Tensor
    second_sum: Tensor
    second_count: Tensor

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(num_players, **kwargs)
        for side in ("first", "second"):
            self._add_sum(f"{side}_sum", 2, 2**self.num_players)
            self._add_sum(f"{side}_count", counts=True)

    def update(self, first_and: Tensor, first_or: Tensor, second_and: Tensor, second_or: Tensor) -> None:
        """Add samples of both sets."""
        check_interactions(first_and, first_or, self.num_players, ("first_and", "first_or"))
        check_interactions(second_and, second_or, self.num_players, ("second_and", "second_or"))
        first_sum, first_count = self._sum(first_and, first_or)
        second_sum, second_count = self._sum(second_and, second_or)
        # Not in place: states made under inference_mode (Trainer.validate) could not be written to afterwards.
        self.first_sum, self.first_count = self.first_sum + first_sum, self.first_count + first_count
        self.second_sum, self.second_count = self.second_sum + second_sum, self.second_count + second_count

    def compute(self) -> Tensor:
        """Return the similarity per order ``(n,)``."""
        return jaccard_by_order(self.first_sum / self.first_count, self.second_sum / self.second_count)

    def _draw(self, ax: Axes, val: Tensor) -> None:
        draw_by_order(ax, val)
        ax.set_ylabel("weighted Jaccard similarity (0 to 1)")
        ax.set_title("Interactions shared by the two sets, by order")

    def _sum(self, and_: Tensor, or_: Tensor) -> tuple[Tensor, Tensor]:
        valid = finite_samples(and_, or_).flatten()
        both = torch.stack([and_, or_], -2).detach().reshape(-1, 2, 2**self.num_players).to(self.first_sum.dtype)
        return torch.where(valid[:, None, None], both, torch.zeros_like(both)).sum(0), valid.sum()
