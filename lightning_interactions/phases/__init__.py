"""Deciding where phase 1 ended and whether the network overfits: no Lightning, no files."""

from lightning_interactions.phases.detector import PhaseDetector, losses_show_overfitting, overfitting_risk
from lightning_interactions.phases.event import EventKind, PhaseEvent

__all__ = ["EventKind", "PhaseDetector", "PhaseEvent", "losses_show_overfitting", "overfitting_risk"]
