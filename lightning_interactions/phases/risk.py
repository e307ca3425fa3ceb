"""From what was measured to the chance that a run will overfit: a logistic function of a few scale-free numbers.

Its weights were fitted on recorded runs: the tuning half of ``tests/benchmarks/onset``, by ``calibrate.py`` there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

CAPS = {"strength_growth": 4.0, "gap_growth": 2.0, "val_growth": 0.5}
"""The numbers used, and the value beyond which more of each says nothing more; below 0 counts as 0."""


@dataclass(frozen=True)
class RiskModel:
    """A fitted risk: weights by name of the number, and the log-odds with none of them."""

    weights: Mapping[str, float]
    intercept: float

    def risk(self, evidence: Mapping[str, float]) -> float:
        """Chance of overfitting, 0 to 1; missing numbers count as 0."""
        log_odds = self.intercept + sum(w * clamped(name, evidence) for name, w in self.weights.items())
        return 1 / (1 + math.exp(-log_odds))


def clamped(name: str, evidence: Mapping[str, float]) -> float:
    """One of the numbers, between 0 and its cap; 0 if it is missing or ``nan``."""
    value = evidence.get(name, 0.0)
    return 0.0 if math.isnan(value) else min(max(value, 0.0), CAPS[name])


WITH_LOSSES = RiskModel(weights={"strength_growth": 0.59, "gap_growth": 3.62, "val_growth": 7.89}, intercept=-1.07)

WITHOUT_LOSSES = RiskModel(weights={"strength_growth": 0.66}, intercept=-0.59)
