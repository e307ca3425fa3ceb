"""The metrics of one measurement, summed over the ranks that the monitor names rather than over a process group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection

from lightning_interactions.functional.strength import salient_interactions
from lightning_interactions.metrics.base import accumulation_dtype
from lightning_interactions.metrics.histogram import InteractionHistogram
from lightning_interactions.metrics.strength import Cancellation, MeanOrder, OrderStrength

__all__ = [
    "Exchange", "Metric", "MetricCollection", "SalientInteractions", "SampleRows", "interaction_metrics", "loss_metric",
]  # fmt: skip

Exchange = Callable[[Tensor], Sequence[Tensor]]  # this rank's tensor -> those of all ranks, which may differ in length


class SampleRows(Metric):
    """Rows of numbers, one per sample, in the order in which they came, rank after rank."""

    full_state_update: bool = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        """Add the rows ``(b, columns)`` of a batch."""
        self.rows.append(rows.detach().to(accumulation_dtype(rows.device)))

    def compute(self) -> Tensor:
        """Return all rows ``(B, columns)``."""
        return torch.cat(self.rows) if isinstance(self.rows, list) else self.rows


class SalientInteractions(SampleRows):
    """The salient interactions of every sample themselves, in the order of `SampleRows`."""

    def update(self, and_: Tensor, or_: Tensor, threshold: Tensor) -> None:  # type: ignore[override]
        """Add the interactions ``(b, 2**n)`` of a batch."""
        # Single precision is enough to show and compare them, and half the memory.
        self.rows.append(salient_interactions(and_.detach(), or_.detach(), threshold).float())


def interaction_metrics(num_players: int, smallest: float, exchange: Exchange | None = None) -> MetricCollection:
    """Return the metrics of watched samples: by name: strengths, their histogram, what there is of each.

    The bins of the histogram begin at ``smallest``, a fraction of its scale, and span two decades. ``exchange`` gives
    every rank the states of all of them; it is ``None`` where there is one.
    """
    over = _over(exchange)
    return MetricCollection(
        {
            "strength": OrderStrength(num_players, **over),
            "mean_order": MeanOrder(num_players, **over),
            "cancellation": Cancellation(num_players, **over),
            "histogram": InteractionHistogram(num_players, smallest=smallest, largest=100 * smallest, **over),
            "rows": SampleRows(**over),
            "salient": SalientInteractions(**over),
        },
        # The first three have the same state: the sum of the strengths, and the number of samples.
        compute_groups=[["strength", "mean_order", "cancellation"], ["histogram"], ["rows"], ["salient"]],
    )


def loss_metric(device: torch.device, exchange: Exchange | None = None) -> MeanMetric:
    """Return the mean of losses per sample; those that are ``nan`` do not count."""
    metric: MeanMetric = MeanMetric(nan_strategy="ignore", **_over(exchange)).to(device)
    metric.set_dtype(accumulation_dtype(device))
    metric.update(torch.zeros(0, device=device))  # a rank may have no sample: torchmetrics would warn of it
    return metric


def _over(exchange: Exchange | None) -> dict[str, Any]:
    return {
        "dist_sync_fn": lambda tensor, group=None: exchange(tensor) if exchange is not None else [tensor],
        "distributed_available_fn": lambda: exchange is not None,
    }
