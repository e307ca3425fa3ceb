"""See inside training: AND-OR interactions by order, the two-phase boundary, an early warning of overfitting.

Names load when they are first used, so that ``import lightning_interactions`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_interactions import functional, metrics
    from lightning_interactions.errors import (
        ArgumentError,
        BatchError,
        InteractionsError,
        InteractionsWarning,
        ModelCallError,
        ModelOutputError,
        StateError,
    )
    from lightning_interactions.measure.interactions import Interaction, Interactions, compute_interactions
    from lightning_interactions.measure.processes import process_ranks
    from lightning_interactions.monitor.callback import TwoPhaseMonitor
    from lightning_interactions.monitor.checkpoints import analyze_checkpoints
    from lightning_interactions.monitor.loop import InteractionMonitor
    from lightning_interactions.monitor.options import Options
    from lightning_interactions.phases.detector import PhaseDetector
    from lightning_interactions.phases.event import PhaseEvent
    from lightning_interactions.players import (
        FeatureMask,
        ImagePatches,
        Players,
        PointClusters,
        RegionPlayers,
        TabularFeatures,
        TimeWindows,
        Tokens,
    )
    from lightning_interactions.report.alerts import (
        Alert,
        CallAlert,
        TrackioAlert,
        WandbAlert,
        WarnAlert,
        WebhookAlert,
    )
    from lightning_interactions.report.history import History
    from lightning_interactions.report.html import write_report
    from lightning_interactions.report.loggers import log_histogram
    from lightning_interactions.report.record import RunRecord

_NAMES = {
    "errors": (
        "ArgumentError BatchError InteractionsError InteractionsWarning ModelCallError ModelOutputError StateError"
    ),
    "measure.interactions": "Interaction Interactions compute_interactions",
    "measure.processes": "process_ranks",
    "monitor.callback": "TwoPhaseMonitor",
    "monitor.checkpoints": "analyze_checkpoints",
    "monitor.loop": "InteractionMonitor",
    "monitor.options": "Options",
    "phases.detector": "PhaseDetector",
    "phases.event": "PhaseEvent",
    "players": "FeatureMask ImagePatches Players PointClusters RegionPlayers TabularFeatures TimeWindows Tokens",
    "report.alerts": "Alert CallAlert TrackioAlert WandbAlert WarnAlert WebhookAlert",
    "report.history": "History",
    "report.html": "write_report",
    "report.loggers": "log_histogram",
    "report.record": "RunRecord",
}
_HOME = {name: home for home, names in _NAMES.items() for name in names.split()}
_SUBPACKAGES = ("functional", "metrics")

__all__ = [
    "Alert", "ArgumentError", "BatchError", "CallAlert", "FeatureMask", "History", "ImagePatches", "Interaction",
    "InteractionMonitor", "Interactions", "InteractionsError", "InteractionsWarning", "ModelCallError",
    "ModelOutputError", "Options", "PhaseDetector", "PhaseEvent", "Players", "PointClusters", "RegionPlayers",
    "RunRecord", "StateError", "TabularFeatures", "TimeWindows", "Tokens", "TrackioAlert", "TwoPhaseMonitor",
    "WandbAlert", "WarnAlert", "WebhookAlert", "analyze_checkpoints", "compute_interactions", "functional",
    "log_histogram", "metrics", "process_ranks", "write_report",
]  # fmt: skip


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
