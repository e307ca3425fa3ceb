"""torchmetrics twins of :mod:`lightning_interactions.functional`: summed over batches and ranks, each with a plot.

Names load when they are first used: who only draws (`drawing.py`) needs no torchmetrics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_interactions.metrics.histogram import InteractionHistogram
    from lightning_interactions.metrics.similarity import InteractionJaccard
    from lightning_interactions.metrics.spectrum import DegreeEnergy, EffectOrder, MeanDegree, SampledMeanDegree
    from lightning_interactions.metrics.strength import Cancellation, MeanOrder, OrderStrength

_HOME = {
    "Cancellation": "strength",
    "DegreeEnergy": "spectrum",
    "EffectOrder": "spectrum",
    "InteractionHistogram": "histogram",
    "InteractionJaccard": "similarity",
    "MeanDegree": "spectrum",
    "MeanOrder": "strength",
    "OrderStrength": "strength",
    "SampledMeanDegree": "spectrum",
}

__all__ = [
    "Cancellation", "DegreeEnergy", "EffectOrder", "InteractionHistogram", "InteractionJaccard", "MeanDegree",
    "MeanOrder", "OrderStrength", "SampledMeanDegree",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
