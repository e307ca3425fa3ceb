"""torchmetrics twins of :mod:`lightning_interactions.functional`: summed over batches and ranks, each with a plot."""

from lightning_interactions.metrics.histogram import InteractionHistogram
from lightning_interactions.metrics.similarity import InteractionJaccard
from lightning_interactions.metrics.strength import Cancellation, MeanOrder, OrderStrength

__all__ = ["Cancellation", "InteractionHistogram", "InteractionJaccard", "MeanOrder", "OrderStrength"]
