"""The Lightning callback, and the same without Lightning: when to measure, and what to do with a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_interactions.monitor.callback import TwoPhaseMonitor

__all__ = ["TwoPhaseMonitor"]


def __getattr__(name: str) -> Any:
    if name != "TwoPhaseMonitor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only now: the loop object beside it needs no Lightning.
    from lightning_interactions.monitor.callback import TwoPhaseMonitor

    return TwoPhaseMonitor
