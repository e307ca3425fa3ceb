"""Pure tensor mathematics on ``(..., 2**n)``: transforms, the sparse split, strength by order, similarity."""

from lightning_interactions.functional.and_or import (
    and_interactions,
    fold_first_order,
    or_interactions,
    reconstruct_values,
)
from lightning_interactions.functional.histogram import interaction_histogram, symlog_edges
from lightning_interactions.functional.moebius import inverse_moebius_transform, moebius_transform
from lightning_interactions.functional.similarity import weighted_jaccard
from lightning_interactions.functional.sparsify import SPLIT_TOLERANCE, SparseAndOr, sparse_and_or
from lightning_interactions.functional.strength import (
    cancellation,
    high_order_share,
    low_order_share,
    mean_effect,
    mean_order,
    order_distribution,
    order_strength,
    salience_threshold,
    salient_count,
)

__all__ = [
    "SPLIT_TOLERANCE", "SparseAndOr", "and_interactions", "cancellation", "fold_first_order", "high_order_share",
    "interaction_histogram", "inverse_moebius_transform", "low_order_share", "mean_effect", "mean_order",
    "moebius_transform", "or_interactions", "order_distribution", "order_strength", "reconstruct_values",
    "salience_threshold", "salient_count", "sparse_and_or", "symlog_edges", "weighted_jaccard",
]  # fmt: skip
