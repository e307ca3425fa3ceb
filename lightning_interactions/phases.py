"""The two phases of training, decided as it goes: where low-order dominance ended, and whether overfitting followed.

In phase 1 the mean order of the interactions falls, in phase 2 it rises (arXiv 2405.10262, 2407.19198). Their boundary
is the turning point. :class:`PhaseDetector` looks for it in a stream of measurements and tells it in
:class:`PhaseEvent` objects. It never looks ahead, and nothing here knows about Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lightning_interactions._evidence import LossTrack, OrderTrack, check_strength
from lightning_interactions._phase_messages import boundary_message, overfitting_message, retracted_message
from lightning_interactions.errors import ArgumentError, StateError, bad_argument

EventKind = Literal["boundary", "overfitting", "retracted", "probe_failed"]

_ANY_RISE = 0.01  # orders; below it a mean order is flat, and has no turning point the losses could point to


@dataclass(frozen=True)
class PhaseEvent:
    """Something a user of the training run should know.

    Args:
        kind: ``"boundary"`` (phase 2 began), ``"overfitting"``, ``"retracted"`` (a boundary turned out not to be one)
            or ``"probe_failed"`` (a measurement could not be made).
        epoch: The epoch it speaks of: the turning point for ``"boundary"`` and ``"retracted"``, else the present one.
        detected_epoch: The epoch in which it was known.
        step: Optimizer or logging step at detection.
        evidence: Every number the decision used; need not be finite.
        message: One sentence with the numbers and what to do.

    Raises:
        ArgumentError: If ``kind`` is none of the four.

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

    def __post_init__(self) -> None:
        if self.kind not in get_args(EventKind):
            raise bad_argument("kind", f"one of {', '.join(get_args(EventKind))}", self.kind)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values that strict JSON can hold: numbers that are not finite become ``None``."""
        return {
            "kind": self.kind,
            "epoch": self.epoch,
            "detected_epoch": self.detected_epoch,
            "step": self.step,
            "evidence": {k: v if math.isfinite(v) else None for k, v in self.evidence.items()},
            "message": self.message,
        }

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
        )


def overfitting_risk(evidence: Mapping[str, float]) -> float:
    """Fold four scale-free numbers into one between 0 and 1: will this run overfit, as far as can be seen now?

    A logistic function, rising in each of: the rise of the mean order since its trough per octave of epochs (as a
    fraction of its range), the fall of the first-order share since its peak, the growth of the loss gap and the rise of
    the validation loss, both relative to the lowest validation loss. The first two can forecast; the last two settle
    it. Missing numbers count as zero; with no evidence at all the risk is 0.05.

    Args:
        evidence: As in :attr:`PhaseDetector.evidence`.

    Returns:
        The risk. It ranks runs; it is not a calibrated probability.

    Example:
        >>> round(overfitting_risk({}), 2)
        0.05
    """

    def number(name: str, most: float) -> float:
        value = evidence.get(name, 0.0)
        return min(max(value, 0.0), most) if not math.isnan(value) else 0.0

    # Slopes rounded from a logistic fit (intercept held at -3) to the prototype's recorded runs, at 1 to 3 times the
    # detected boundary and before the lowest validation loss: 151 points, 24 % of them on runs that then overfit. There
    # the validation loss has not risen yet, so its slope is set by hand: a rise by 30 % outweighs the intercept.
    rise, fall = number("rise_per_octave", 0.5), number("first_order_fall", 1.0)
    score = -3.0 + 12.0 * rise + 10.0 * fall + 2.5 * number("gap_growth", 2.0) + 10.0 * number("val_growth", 0.5)
    return 1 / (1 + math.exp(-score))


class PhaseDetector:
    """Find the boundary between the two phases, and overfitting after it, in a stream of measurements.

    The rule (:meth:`_decide`), on curves smoothed by a median of 3 records:

    - **boundary** at the running minimum of the mean order, once the rise from it is significant over the samples
      (paired), stands out from the wobble of the curve, is large enough, has persisted, and the loss gap has begun to
      widen. Without losses the interactions decide alone. If the losses already prove overfitting, a rise of
      0.01 will do, and the evidence says ``significant: 0.0``.
    - **overfitting** once there is a boundary, the loss gap has widened by ``overfit_gap`` and the validation loss has
      risen by ``overfit_rise``. The losses decide it: asking for a large rebound of the mean order as well was measured
      to miss a quarter of the overfit runs. Hence a run whose mean order only falls, or never moves (a linear model),
      gets no event; its ``overfitting_risk`` still climbs. Needs both losses.
    - **retracted** when after a boundary the mean order falls below its level there as clearly as it once rose. The
      boundary and the overfitting declared after it are withdrawn, and the search resumes.

    Each event comes once. The losses proving overfitting do not bring back by themselves a boundary that was retracted;
    a new significant rise does. Memory is bounded: per-sample values are kept for five records.

    Args:
        min_z: Significance of the rise over samples, as a standard normal number; 1.645 is 5 % one-sided.
        min_wobbles: Rise over the standard deviation of the curve about its course. Guards against a minimum that is
            one only by chance: with 5, 0 to 3 % of simulated noise-only runs of 250 epochs gave a boundary.
        min_rise: Smallest rise that matters, in units of order.
        min_rebound: The same, relative to the fall before it.
        persistence: Records in a row that must meet these four.
        gap_onset: Growth of the loss gap (validation minus train, from its running minimum), relative to the lowest
            validation loss, from which it has begun to widen.
        overfit_gap: The same, from which overfitting is possible.
        overfit_rise: Rise of the validation loss above its minimum, relative to it, from which it is one.
        overfit_persistence: Records in a row that must meet these two.

    Attributes:
        phase: 1 until a boundary is confirmed, then 2.
        boundary_epoch: Epoch of the turning point, or ``None``.
        overfitting_epoch: Epoch in which overfitting was declared, or ``None``.
        overfitting_risk: From 0 to 1, see :func:`overfitting_risk`.
        evidence: The numbers behind the last decision.

    Raises:
        ArgumentError: If a threshold is negative or not finite, or a persistence is not a positive integer.

    Example:
        Eight samples whose mean order falls to 1.5 at epoch 5 and rises again:

        >>> import torch
        >>> detector = PhaseDetector()
        >>> for epoch in range(12):
        ...     high = 0.5 + 0.1 * abs(epoch - 5)
        ...     strength = torch.tensor([1 - high, high]).repeat(8, 2, 1).clamp(min=0)
        ...     for event in detector.update(epoch, strength, train_loss=None, val_loss=None):
        ...         print(event.kind, event.epoch, event.detected_epoch)
        boundary 5 10
        >>> detector.phase, detector.boundary_epoch
        (2, 5)
    """

    VERSION = 1

    def __init__(
        self,
        *,
        min_z: float = 1.645,
        min_wobbles: float = 5.0,
        min_rise: float = 0.1,
        min_rebound: float = 0.05,
        persistence: int = 2,
        gap_onset: float = 0.02,
        overfit_gap: float = 0.25,
        overfit_rise: float = 0.03,
        overfit_persistence: int = 2,
    ) -> None:
        self.min_z = _not_negative("min_z", min_z)
        self.min_wobbles = _not_negative("min_wobbles", min_wobbles)
        self.min_rise = _not_negative("min_rise", min_rise)
        self.min_rebound = _not_negative("min_rebound", min_rebound)
        self.persistence = _positive_integer("persistence", persistence)
        self.gap_onset = _not_negative("gap_onset", gap_onset)
        self.overfit_gap = _not_negative("overfit_gap", overfit_gap)
        self.overfit_rise = _not_negative("overfit_rise", overfit_rise)
        self.overfit_persistence = _positive_integer("overfit_persistence", overfit_persistence)
        self._thresholds = [name for name in vars(self) if not name.startswith("_")]

        self.boundary_epoch: int | None = None
        self.overfitting_epoch: int | None = None
        self.overfitting_risk = overfitting_risk({})
        self.evidence: dict[str, float] = {}
        self._orders, self._losses = OrderTrack(), LossTrack()
        self._streaks = {"turned": 0, "fell": 0, "overfits": 0}
        self._losses_may_declare = True
        self._last_epoch: int | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._thresholds)})"

    @property
    def phase(self) -> int:
        """1 until a boundary is confirmed, then 2."""
        return 1 if self.boundary_epoch is None else 2

    def update(
        self,
        epoch: int,
        strength: Any,
        train_loss: float | None,
        val_loss: float | None,
        *,
        step: int = 0,
        paired: bool = True,
    ) -> list[PhaseEvent]:
        """Take one measurement and say what is new.

        Args:
            epoch: Not negative and not before the last one; epochs may be skipped or measured several times.
            strength: ``(samples, 2, n)`` as from :func:`~lightning_interactions.functional.strength.order_strength`,
                the same samples in the same rows every time. A sample with a value that is not finite is left out.
                With none left nothing is decided: the losses are remembered and the answer is empty.
            train_loss: Loss on training data, or ``None``. The two losses count only together.
            val_loss: Loss on validation data, or ``None``.
            step: Copied into the events.
            paired: ``False`` when the samples are not those of the last call; the test is then unpaired. A new number
                of samples says so too.

        Returns:
            The new events, mostly none; a boundary comes before the overfitting found with it.

        Raises:
            ArgumentError: If an argument is malformed or the epoch goes back; the detector is then unchanged.
        """
        strength = check_strength(strength)  # on the CPU from here on: some devices have no float64
        self._check_order(epoch, strength.shape[-1])
        train_loss, val_loss = _loss("train_loss", train_loss), _loss("val_loss", val_loss)
        self._last_epoch = epoch
        self._losses.add(epoch, train_loss, val_loss)
        measured = self._orders.add(epoch, strength, paired=paired, frozen=self.boundary_epoch is not None)
        if not measured:
            self.evidence = {"mean_order": math.nan, **self._losses.evidence()}
            return []
        self.evidence = {**self._orders.evidence(), **self._losses.evidence()}
        self.overfitting_risk = self.evidence["risk"] = overfitting_risk(self.evidence)
        return self._decide(epoch, step)

    def _decide(self, epoch: int, step: int) -> list[PhaseEvent]:
        """Apply the rule to ``self.evidence``; every event comes from here."""
        e = self.evidence
        growth, val_growth = e.get("gap_growth"), e.get("val_growth")
        clear = (
            abs(e["z"]) >= self.min_z
            and abs(e["wobbles"]) >= self.min_wobbles
            and abs(e["rise"]) >= max(self.min_rise, self.min_rebound * e["fall"])
        )
        turned = self._held("turned", clear and e["rise"] > 0, self.persistence)
        fell = self._held("fell", clear and e["rise"] < 0, self.persistence)
        widened = growth is None or growth >= self.gap_onset
        overfits = self._held(
            "overfits",
            growth is not None and growth >= self.overfit_gap and (val_growth or 0.0) >= self.overfit_rise,
            self.overfit_persistence,
        )
        self._losses_may_declare |= not overfits

        events = []
        if self.boundary_epoch is not None and fell:
            events.append(self._retract(epoch, step, overfits))
        elif self.boundary_epoch is None and turned and widened:
            events.append(self._declare_boundary(epoch, step, significant=True))
        elif self.boundary_epoch is None and overfits and self._losses_may_declare and e["rise"] >= _ANY_RISE:
            events.append(self._declare_boundary(epoch, step, significant=False))
        if self.boundary_epoch is not None and self.overfitting_epoch is None and overfits:
            events.append(self._declare_overfitting(epoch, step))
        return events

    def _held(self, name: str, holds: bool, records: int) -> bool:
        """Whether a condition has held for that many records in a row."""
        self._streaks[name] = self._streaks[name] + 1 if holds else 0
        return self._streaks[name] >= records

    def _declare_boundary(self, epoch: int, step: int, *, significant: bool) -> PhaseEvent:
        self.boundary_epoch = int(self.evidence["trough_epoch"])
        evidence = {**self.evidence, "significant": float(significant)}
        return PhaseEvent("boundary", self.boundary_epoch, epoch, step, evidence, boundary_message(epoch, evidence))

    def _declare_overfitting(self, epoch: int, step: int) -> PhaseEvent:
        self.overfitting_epoch = epoch
        return PhaseEvent(
            "overfitting", epoch, epoch, step, dict(self.evidence), overfitting_message(epoch, self.evidence)
        )

    def _retract(self, epoch: int, step: int, overfits: bool) -> PhaseEvent:
        boundary, self.boundary_epoch, self.overfitting_epoch = int(self.evidence["trough_epoch"]), None, None
        # Else losses that go on proving overfitting would declare and lose a boundary at every wobble.
        self._losses_may_declare = not overfits
        self._orders.restart()
        return PhaseEvent(
            "retracted", boundary, epoch, step, dict(self.evidence), retracted_message(epoch, self.evidence)
        )

    def state_dict(self) -> dict[str, Any]:
        """Give everything further decisions depend on except the thresholds, as builtin containers and tensors."""
        return {
            "version": self.VERSION,
            "boundary_epoch": self.boundary_epoch,
            "overfitting_epoch": self.overfitting_epoch,
            "overfitting_risk": self.overfitting_risk,
            "evidence": dict(self.evidence),
            "orders": self._orders.state_dict(),
            "losses": self._losses.state_dict(),
            "streaks": dict(self._streaks),
            "losses_may_declare": self._losses_may_declare,
            "last_epoch": self._last_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; entries it lacks start fresh, unknown ones are ignored.

        Raises:
            StateError: If a newer version of the package wrote it.
        """
        if state.get("version", self.VERSION) > self.VERSION:
            raise StateError(
                f"Expected a detector state of version {self.VERSION} or older, but got {state['version']}. "
                f"Update lightning-interactions, or restart the detector without this state."
            )
        self.boundary_epoch = state.get("boundary_epoch")
        self.overfitting_epoch = state.get("overfitting_epoch")
        self.overfitting_risk = state.get("overfitting_risk", overfitting_risk({}))
        self.evidence = dict(state.get("evidence", {}))
        self._orders = OrderTrack.from_state(state.get("orders", {}))
        self._losses = LossTrack.from_state(state.get("losses", {}))
        self._streaks = {name: state.get("streaks", {}).get(name, 0) for name in self._streaks}
        self._losses_may_declare = state.get("losses_may_declare", True)
        self._last_epoch = state.get("last_epoch")

    def _check_order(self, epoch: int, num_players: int) -> None:
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise bad_argument("epoch", "an integer not below 0", epoch)
        if self._last_epoch is not None and epoch < self._last_epoch:
            raise bad_argument("epoch", f"{self._last_epoch} or later, as epochs only go forward", epoch)
        level = self._orders.level
        if level is not None and num_players != level.num_players:
            raise ArgumentError(
                f"Expected argument `strength` to have {level.num_players} orders as before, but got {num_players}. "
                f"Use a new detector for other players."
            )


def _not_negative(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise bad_argument(name, "a number not below 0", value)
    return float(value)


def _positive_integer(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad_argument(name, "a positive integer", value)
    return value


def _loss(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument(name, "a number or None", value) from error
