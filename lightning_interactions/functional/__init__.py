"""Pure tensor mathematics on ``(..., 2**n)``: transforms, sparse split, strength by order, spectrum, similarity."""

from lightning_interactions.functional.and_or import (
    and_interactions,
    fold_first_order,
    or_interactions,
    reconstruct_values,
)
from lightning_interactions.functional.changes import (
    generalizable_share,
    interaction_changes,
    overlap,
    persistence,
    still_preserved,
)
from lightning_interactions.functional.histogram import interaction_histogram, symlog_edges
from lightning_interactions.functional.mask_pairs import (
    SampledDegree,
    influence_and_variance,
    pooled_mean_degree,
    random_mask_pairs,
    sampled_mean_degree,
)
from lightning_interactions.functional.moebius import inverse_moebius_transform, moebius_transform
from lightning_interactions.functional.similarity import jaccard_by_order, weighted_jaccard
from lightning_interactions.functional.sparsify import BOUNDED_TOLERANCE, SPLIT_TOLERANCE, SparseAndOr, sparse_and_or
from lightning_interactions.functional.spectrum import (
    degree_energy,
    effect_order,
    mean_degree,
    roughness,
    walsh_hadamard,
)
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
    salient_interactions,
    value_scale,
)
from lightning_interactions.functional.theory import (
    fit_noise,
    fit_spindle,
    law_profiles,
    noisy_regression,
    profile_distance,
    random_strength,
    soft_cutoff,
    split_profile,
)

__all__ = [
    "BOUNDED_TOLERANCE", "SPLIT_TOLERANCE", "SampledDegree", "SparseAndOr", "and_interactions", "cancellation",
    "degree_energy", "effect_order", "fit_noise", "fit_spindle", "fold_first_order", "generalizable_share",
    "high_order_share", "influence_and_variance", "interaction_changes", "interaction_histogram",
    "inverse_moebius_transform", "jaccard_by_order", "law_profiles", "low_order_share", "mean_degree", "mean_effect",
    "mean_order", "moebius_transform", "noisy_regression", "or_interactions", "order_distribution", "order_strength",
    "overlap", "persistence", "pooled_mean_degree", "profile_distance", "random_mask_pairs", "random_strength",
    "reconstruct_values", "roughness", "salience_threshold", "salient_count", "salient_interactions",
    "sampled_mean_degree", "soft_cutoff", "sparse_and_or", "split_profile", "still_preserved", "symlog_edges",
    "value_scale", "walsh_hadamard", "weighted_jaccard",
]  # fmt: skip
