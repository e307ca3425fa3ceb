"""See inside training: AND-OR interactions by order, the two-phase boundary, an early warning of overfitting.

Names load when they are first used, so that ``import lightning_interactions`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_interactions import functional, metrics
    from lightning_interactions.alerts import Alert, CallAlert, WandbAlert, WarnAlert, WebhookAlert
    from lightning_interactions.errors import (
        ArgumentError,
        BatchError,
        InteractionsError,
        InteractionsWarning,
        ModelOutputError,
        StateError,
    )
    from lightning_interactions.history import History
    from lightning_interactions.interactions import Interaction, Interactions, compute_interactions
    from lightning_interactions.monitor import TwoPhaseMonitor
    from lightning_interactions.phases import PhaseDetector, PhaseEvent
    from lightning_interactions.players import (
        FeatureMask,
        ImagePatches,
        Players,
        PointClusters,
        RegionPlayers,
        TabularFeatures,
        Tokens,
    )
    from lightning_interactions.postmortem import analyze_checkpoints
    from lightning_interactions.report import write_report
    from lightning_interactions.runrecord import RunRecord
    from lightning_interactions.writers import log_histogram

_HOME = {
    "Alert": "alerts",
    "ArgumentError": "errors",
    "BatchError": "errors",
    "CallAlert": "alerts",
    "FeatureMask": "players",
    "History": "history",
    "ImagePatches": "players",
    "Interaction": "interactions",
    "Interactions": "interactions",
    "InteractionsError": "errors",
    "InteractionsWarning": "errors",
    "ModelOutputError": "errors",
    "PhaseDetector": "phases",
    "PhaseEvent": "phases",
    "Players": "players",
    "PointClusters": "players",
    "RegionPlayers": "players",
    "RunRecord": "runrecord",
    "StateError": "errors",
    "TabularFeatures": "players",
    "Tokens": "players",
    "TwoPhaseMonitor": "monitor",
    "WandbAlert": "alerts",
    "WarnAlert": "alerts",
    "WebhookAlert": "alerts",
    "analyze_checkpoints": "postmortem",
    "compute_interactions": "interactions",
    "log_histogram": "writers",
    "write_report": "report",
}
_SUBPACKAGES = ("functional", "metrics")

__all__ = [
    "Alert",
    "ArgumentError",
    "BatchError",
    "CallAlert",
    "FeatureMask",
    "History",
    "ImagePatches",
    "Interaction",
    "Interactions",
    "InteractionsError",
    "InteractionsWarning",
    "ModelOutputError",
    "PhaseDetector",
    "PhaseEvent",
    "Players",
    "PointClusters",
    "RegionPlayers",
    "RunRecord",
    "StateError",
    "TabularFeatures",
    "Tokens",
    "TwoPhaseMonitor",
    "WandbAlert",
    "WarnAlert",
    "WebhookAlert",
    "analyze_checkpoints",
    "compute_interactions",
    "functional",
    "log_histogram",
    "metrics",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("lightning-interactions")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
