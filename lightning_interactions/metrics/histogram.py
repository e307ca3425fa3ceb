"""Histogram of the interactions by order, over samples and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_interactions.functional.histogram import interaction_histogram, symlog_edges
from lightning_interactions.metrics.base import SumMetric, accumulation_dtype, check_interactions
from lightning_interactions.metrics.drawing import draw_histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class InteractionHistogram(SumMetric):
    r"""Number of interactions by order and size, AND and OR together.

    .. math::
        C(k, j) = \sum_x \sum_{|S|=k} \mathbb{1}\!\left[ e_j \le \frac{I(S|x)}{s} < e_{j+1} \right],
        \qquad s = \mathbb{E}_x |v(N|x) - v(\emptyset|x)|

    The edges are fixed when the metric is made, so histograms of different epochs and ranks can be summed and compared.
    The outermost bins catch whatever lies beyond them. The empty coalition, interactions of exactly zero and those that
    are not finite are not counted. The spindle over training is the one of arXiv 2407.19198.

    As input to ``forward`` and ``update`` the metric accepts the following input

    - ``and_``, ``or_`` (:class:`~torch.Tensor`): interactions ``(..., 2**n)``.
    - ``scale`` (number or :class:`~torch.Tensor`): ``s``, in units of the score; a tensor holds one per sample. Where
      it is not positive and finite, nothing is counted.

    ``forward`` and ``compute`` return long ``(n, bins)``; row ``k - 1`` holds order ``k``.

    Attributes:
        edges: The bin edges ``(bins + 1,)``, as fractions of ``scale``.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        smallest: Half the width of the centre bin, as a fraction of ``scale``.
        largest: Where the outermost bins begin, as a fraction of ``scale``.
        bins_per_decade: How fine the bins in between are, 1 to 100.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If an argument is out of range, or in ``update`` a shape does not fit ``num_players``.

    Example:
        >>> import torch
        >>> metric = InteractionHistogram(num_players=2, smallest=0.5, largest=5.0, bins_per_decade=1)
        >>> metric.update(torch.tensor([[9.0, 2.0, 0.1, -30.0]]), torch.tensor([[9.0, 0.0, 0.0, 1.0]]), scale=2.0)
        >>> metric.compute()
        tensor([[0, 0, 1, 1, 0],
                [1, 0, 0, 1, 0]])
        >>> metric.edges.tolist()
        [-50.0, -5.0, -0.5, 0.5, 5.0, 50.0]
    """

    plot_lower_bound: float = 0.0

    counts: Tensor
    edges: Tensor

    def __init__(
        self,
        num_players: int,
        *,
        smallest: float = 1e-3,
        largest: float = 10.0,
        bins_per_decade: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_players, **kwargs)
        edges = symlog_edges(smallest, largest, bins_per_decade)
        self.register_buffer("edges", edges.to(accumulation_dtype(edges.device)), persistent=False)
        self._add_sum("counts", self.num_players, edges.numel() - 1, counts=True)

    def update(self, and_: Tensor, or_: Tensor, scale: Tensor | float) -> None:
        """Count the interactions of a batch."""
        check_interactions(and_, or_, self.num_players)
        counts = interaction_histogram(and_, or_, scale, self.edges)
        # Not in place: states made under inference_mode (Trainer.validate) could not be written to afterwards.
        self.counts = self.counts + counts.reshape(-1, *self.counts.shape).sum(0)

    def compute(self) -> Tensor:
        """Return the counts ``(n, bins)``."""
        return self.counts

    def _draw(self, ax: Axes, val: Tensor) -> None:
        draw_histogram(ax, val, self.edges)
        ax.set_title("Number of interactions by order and size")
