"""From what was measured to the chance that a run will be overfit: a logistic function of a few scale-free numbers.

Its weights were fitted on recorded runs: the tuning half of ``tests/benchmarks/onset``, by ``calibrate.py`` there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

CAPS = {"strength_growth": 4.0, "gap_growth": 2.0, "horizon": 4.0}
"""The numbers used, and the value beyond which more of each says nothing more; below 0 counts as 0."""


@dataclass(frozen=True)
class RiskModel:
    """A fitted risk: weights by name of the number, and the log-odds with none of them."""

    weights: Mapping[str, float]
    intercept: float

    def risk(self, evidence: Mapping[str, float]) -> float:
        """Chance of being overfit, 0 to 1; missing numbers count as 0."""
        log_odds = self.intercept + sum(w * clamped(name, evidence) for name, w in self.weights.items())
        return 1 / (1 + math.exp(-log_odds))


def clamped(name: str, evidence: Mapping[str, float]) -> float:
    """One of the numbers, between 0 and its cap; 0 if it is missing or ``nan``."""
    value = evidence.get(name, 0.0)
    return 0.0 if math.isnan(value) else min(max(value, 0.0), CAPS[name])


WITH_LOSSES = RiskModel(weights={"strength_growth": 0.57, "gap_growth": 4.3, "horizon": 0.85}, intercept=-4.31)

WITHOUT_LOSSES = RiskModel(weights={"strength_growth": 0.46, "horizon": 0.28}, intercept=-2.11)


def horizon(epoch: float, last_epoch: float | None) -> float:
    """How far to look ahead: octaves of epochs until the end of the training, or one where that is not known.

    Example:
        >>> horizon(9, 39), horizon(9, None), horizon(50, 39)
        (2.0, 1.0, 0.0)
    """
    if last_epoch is None or epoch < 0:
        return 1.0
    return math.log2((max(last_epoch, epoch) + 1) / (epoch + 1))
