"""What a measurement from random mask pairs finds: no interactions, but the mean degree, with its standard error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interactions.functional.interval import ratio_error, ratio_interval
from lightning_interactions.functional.mask_pairs import influence_and_variance
from lightning_interactions.functional.strength import mean_effect
from lightning_interactions.measure.coalitions import ENDS


@dataclass(frozen=True)
class SampledMeasurement:
    """What a measurement from mask pairs found about one split; the same on every rank.

    Rows of samples whose outputs were not finite are ``nan``. The mean degree of all is ``sum influence / sum
    variance``.
    """

    numbers: Mapping[str, float]  # what is logged of it, by key; nan where no score varies
    influence: Tensor  # (B,): sum_S |S| v^(S)**2 of each sample, estimated without bias
    variance: Tensor  # (B,): of its scores over all masks, likewise, in units of the score squared

    @property
    def watched(self) -> int:
        """Samples asked, those left out too."""
        return len(self.variance)

    @property
    def skipped(self) -> int:
        """Samples left out because the model's outputs were not finite."""
        return int(self.variance.isnan().sum())

    @property
    def is_blank(self) -> bool:
        """Whether masking changes the score of no sample."""
        return not bool(self.variance.nan_to_num().any()) and self.skipped < self.watched


def read_pairs(values: Tensor, counts: Tensor) -> SampledMeasurement:
    """Estimate the mean degree of scores ``(B, 2 + 2 pairs)`` at `MaskPairs`; every sample by its own ``counts``.

    The interval is that of one record, as if samples and masks were drawn anew, found as that of the mean order is: by
    leaving out samples (`ratio_error`), which carry the error of their masks with them. On networks it covers more
    often than the delta method of `pooled_mean_degree`, see ``tests/benchmarks/bench_sampled.py``. Records are of the
    same samples and masks, so they differ by less than their intervals: `PhaseDetector` compares them in pairs.
    """
    ends, pairs = values[:, :ENDS], values[:, ENDS:].reshape(len(values), -1, 2)
    finite = values.isfinite().all(1)
    pairs = torch.where(finite.view(-1, 1, 1), pairs, torch.nan)
    influence, variance = influence_and_variance(pairs, counts)
    degree, error, _ = ratio_error(influence, variance)
    _, lower, upper = ratio_interval(influence, variance)
    numbers: dict[str, float | Tensor] = {
        "mean_degree": degree,
        "mean_degree_error": error,
        "mean_degree_lower": lower,
        "mean_degree_upper": upper,
        "total_variance": variance.nanmean(),
        "effect": mean_effect(torch.where(finite.unsqueeze(1), ends, torch.nan)),
        "skipped_samples": (~finite).sum(),
        "mean_players": counts.double().mean(),
    }
    plain = dict(zip(numbers, map(float, numbers.values()), strict=True))
    return SampledMeasurement(plain, influence, variance)
