"""The Lightning callback and what it needs of a Trainer."""

from lightning_interactions.monitor.callback import STATE_VERSION, TwoPhaseMonitor

__all__ = ["STATE_VERSION", "TwoPhaseMonitor"]
