"""What is told of a run: one event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Literal, get_args

from lightning_interactions.errors import bad_argument
from lightning_interactions.phases.epochs import Unit

EventKind = Literal["suspected", "boundary", "overfitting", "retracted", "probe_failed"]

RETRACTABLE = "boundary", "overfitting"


@dataclass(frozen=True)
class PhaseEvent:
    """Something a user of the training run should know.

    Args:
        kind: ``"suspected"`` (phase 2 may have begun; a quiet hint, of which nobody is alerted), ``"boundary"`` (it
            has), ``"overfitting"``, ``"retracted"`` (one of these two turned out not to be) or ``"probe_failed"`` (a
            measurement could not be made).
        epoch: The epoch it speaks of: the turning point for ``"suspected"``, ``"boundary"`` and a boundary that is
            ``"retracted"``, for overfitting that is the epoch of its alarm, else the present one.
        detected_epoch: The epoch in which it was known.
        step: Optimizer or logging step at detection.
        evidence: Every number the decision used; need not be finite.
        message: One sentence with the numbers and what to do.
        retracts: What a ``"retracted"`` event withdraws, ``"boundary"`` or ``"overfitting"``; else empty.
        unit: What ``epoch``, ``detected_epoch`` and the epochs in the evidence are counted in: ``"epoch"``, or
            ``"step"`` in a training without epochs (an endless stream).

    Raises:
        ArgumentError: If ``kind`` is none of the five, ``retracts`` does not belong to it, or ``unit`` is neither.

    Example:
        >>> event = PhaseEvent("boundary", epoch=41, detected_epoch=46, evidence={"z": float("inf")}, message="...")
        >>> event.to_dict()["evidence"]
        {'z': None}
        >>> PhaseEvent.from_dict(event.to_dict()).epoch
        41
    """

    kind: EventKind
    epoch: int
    detected_epoch: int
    step: int = 0
    evidence: dict[str, float] = field(default_factory=dict)
    message: str = ""
    retracts: str = ""
    unit: Unit = "epoch"

    def __post_init__(self) -> None:
        if self.kind not in get_args(EventKind):
            raise bad_argument("kind", f"one of {', '.join(get_args(EventKind))}", self.kind)
        expected = RETRACTABLE if self.kind == "retracted" else ("",)
        if self.kind == "retracted" and not self.retracts:
            object.__setattr__(self, "retracts", "boundary")  # as in events of version 0.1
        if self.retracts not in expected:
            raise bad_argument("retracts", " or ".join(map(repr, expected)), self.retracts)
        if self.unit not in get_args(Unit):
            raise bad_argument("unit", " or ".join(map(repr, get_args(Unit))), self.unit)

    @property
    def is_alert(self) -> bool:
        """Whether people should be told."""
        return self.kind != "suspected"

    def _repr_html_(self) -> str:
        """Show the event in a notebook: its sentence, and the evidence to unfold."""
        rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:.4g}</td></tr>" for name, value in self.evidence.items())
        told = f"<b>{self.kind.replace('_', ' ')}.</b> {escape(self.message)}"
        return f"<details><summary>{told}</summary><table>{rows}</table></details>"

    def to_dict(self) -> dict[str, Any]:
        """Give plain values that strict JSON can hold: numbers that are not finite become ``None``."""
        evidence = {k: v if math.isfinite(v) else None for k, v in self.evidence.items()}
        return {**asdict(self), "evidence": evidence}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PhaseEvent:
        """Rebuild an event from :meth:`to_dict`; ``None`` in the evidence comes back as ``nan``."""
        evidence = values.get("evidence") or {}
        return cls(
            kind=values["kind"],
            epoch=values["epoch"],
            detected_epoch=values["detected_epoch"],
            step=values.get("step", 0),
            evidence={k: math.nan if v is None else float(v) for k, v in evidence.items()},
            message=values.get("message", ""),
            retracts=values.get("retracts", ""),
            unit=values.get("unit", "epoch"),
        )
