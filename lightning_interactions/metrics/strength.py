"""Metrics of the strength by order: its mean over samples, the mean order, the cancellation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument
from lightning_interactions.functional.strength import cancellation, mean_order, order_strength
from lightning_interactions.metrics.base import Number, StrengthMetric, check_interactions, finite_samples
from lightning_interactions.metrics.drawing import draw_strength

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class OrderStrength(StrengthMetric):
    r"""Strength of the salient interactions by sign and order, averaged over samples.

    .. math::
        J^{+}(k) = \mathbb{E}_x \sum_{|S|=k,\ |I(S|x)| \ge \tau} \max(I(S|x), 0), \qquad
        J^{-}(k) = \mathbb{E}_x \sum_{|S|=k,\ |I(S|x)| \ge \tau} \max(-I(S|x), 0)

    over AND and OR interactions together (arXiv 2405.10262, section 3; arXiv 2407.19198, section 4).

    As input to ``forward`` and ``update`` the metric accepts the following input

    - ``and_``, ``or_`` (:class:`~torch.Tensor`): interactions ``(..., 2**n)``.
    - ``threshold`` (number or :class:`~torch.Tensor`): the salience threshold ``tau``, in units of the score; a tensor
      holds one per sample.

    Samples with an interaction or a threshold that is not a number, or infinite, are left out and not counted.

    ``forward`` and ``compute`` return ``(2, n)``: positive strength in row 0 and negative in row 1, in units of the
    score; ``nan`` as long as no sample has been counted.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16, or in ``update`` a shape does not fit it.

    Example:
        >>> metric = OrderStrength(num_players=2)
        >>> metric.update(torch.tensor([[0.0, 2.0, 0.1, -3.0]]), torch.tensor([[0.0, 0.0, 0.0, 1.0]]), 0.5)
        >>> metric.update(torch.tensor([[0.0, 4.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 0.0]]), 0.5)
        >>> metric.compute()
        tensor([[3.0000, 0.5000],
                [0.0000, 1.5000]], dtype=torch.float64)
    """

    plot_lower_bound: float = 0.0

    # There is no second way in for ready-made strengths: only `update` marks a cached result as out of date.
    def update(self, and_: Tensor, or_: Tensor, threshold: Tensor | float) -> None:
        """Add the strengths of a batch."""
        check_interactions(and_, or_, self.num_players)
        limit = torch.as_tensor(threshold, dtype=and_.dtype, device=and_.device)
        if limit.ndim and limit.shape != and_.shape[:-1]:
            expected = f"a number or a tensor of shape {tuple(and_.shape[:-1])}, one per sample"
            raise bad_argument("threshold", expected, tuple(limit.shape))
        strength = order_strength(and_, or_, limit)
        valid = finite_samples(and_, or_) & torch.isfinite(limit)
        self._add_strength(strength.masked_fill(~valid[..., None, None], float("nan")))

    def compute(self) -> Tensor:
        """Return the mean strength ``(2, n)``."""
        return self.strength_sum / self.count

    def _draw(self, ax: Axes, val: Tensor) -> None:
        draw_strength(ax, val)
        ax.set_title("Strength of the salient interactions by order")


class StrengthNumber(Number, StrengthMetric):
    """Base of the metrics that read one number off the mean strength."""

    def update(self, strength: Tensor) -> None:
        """Add the strengths ``(..., 2, n)`` of a batch."""
        self._add_strength(strength)


class MeanOrder(StrengthNumber):
    r"""Mean order of the salient interactions, weighted by strength.

    .. math::
        \bar{k} = \frac{\sum_k k\,(J^{+}(k) + J^{-}(k))}{\sum_k (J^{+}(k) + J^{-}(k))}

    of the mean strengths over all samples: averaged first, then formed into shares, so that samples with little
    strength do not count as much as samples with much of it. It falls while low orders are learned and rises when the
    network starts to overfit (arXiv 2405.10262; 2407.19198).

    ``forward`` and ``update`` accept ``strength``, ``(..., 2, n)``: one per sample, as
    :func:`~lightning_interactions.functional.order_strength` returns it. Samples with an entry that is not finite are
    left out and not counted.

    ``forward`` and ``compute`` return a scalar from 1 to ``n``; ``nan`` without any strength.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16, or in ``update`` a shape does not fit it.

    Example:
        >>> metric = MeanOrder(num_players=2)
        >>> metric.update(torch.tensor([[[3.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]))
        >>> metric.compute()
        tensor(1.2500, dtype=torch.float64)
    """

    plot_lower_bound: float = 1.0
    _title = "Mean order of the salient interactions"
    _label = "mean order (number of players)"

    def compute(self) -> Tensor:
        """Return the mean order."""
        return mean_order(self.strength_sum / self.count)

    def _draw(self, ax: Axes, val: Tensor | Sequence[Tensor]) -> None:
        super()._draw(ax, val)
        # The upper bound depends on n, so it cannot be torchmetrics' class constant.
        ax.set_ylim(0.8, self.num_players + 0.2)


class Cancellation(StrengthNumber):
    r"""How much positive and negative interactions cancel each other.

    .. math::
        1 - \frac{|P - M|}{P + M}, \qquad P = \sum_k J^{+}(k), \quad M = \sum_k J^{-}(k)

    of the mean strengths over all samples. Interactions that cancel are the mark of an overfit network
    (arXiv 2407.19198).

    ``forward`` and ``update`` accept ``strength``, ``(..., 2, n)``: one per sample, as
    :func:`~lightning_interactions.functional.order_strength` returns it. Samples with an entry that is not finite are
    left out and not counted.

    ``forward`` and ``compute`` return a scalar from 0 (one sign only) to 1 (they cancel exactly); ``nan`` without any
    strength.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16, or in ``update`` a shape does not fit it.

    Example:
        >>> metric = Cancellation(num_players=2)
        >>> metric.update(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    _title = "Cancellation of positive and negative interactions"
    _label = "cancellation (0 to 1)"

    def compute(self) -> Tensor:
        """Return the cancellation."""
        return cancellation(self.strength_sum / self.count)
