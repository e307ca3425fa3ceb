"""The state in a checkpoint: its version, and whether it was written with settings that can be compared with these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_interactions.errors import StateError
from lightning_interactions.monitor.options import Options

STATE_VERSION = 3
"""Version 2 had whole epochs only; version 1 told players and scores apart by their ``repr``."""


def check_state(state: Mapping[str, Any], options: Options) -> None:
    """Raise a `StateError` if a state is too new, or was written with other settings, and say which."""
    version = state.get("version", 0)
    if version > STATE_VERSION:
        raise StateError(
            f"The checkpoint was written by a newer version of lightning_interactions (state version "
            f"{version}, this one reads up to {STATE_VERSION}). Update the package."
        )
    saved, own = {"pairs": None, **state.get("settings", {})}, options.identity  # before 0.2 all had interactions
    if version < 2:  # what these say of players and functions cannot be compared
        own = {k: v for k, v in own.items() if k != "players" and (k != "score" or isinstance(options.score, str))}
    different = [f"{k}={saved[k]} (now {own[k]})" for k in own if k in saved and saved[k] != own[k]]
    if different:
        raise StateError(
            f"The checkpoint was written by a TwoPhaseMonitor with {', '.join(different)}; its epochs could not be "
            "compared with new ones. Use the same settings, or another log_key_prefix to begin anew."
        )
