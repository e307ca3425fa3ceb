"""The two phases of training, decided as it goes: where low-order dominance ended, and whether overfitting followed.

In phase 1 the mean order of the interactions falls, in phase 2 it rises (arXiv 2405.10262, 2407.19198). Their boundary
is the turning point. :class:`PhaseDetector` looks for it in a stream of measurements and tells it in
:class:`PhaseEvent` objects. It never looks ahead, and nothing here knows about Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

from lightning_interactions.errors import ArgumentError, StateError, bad_argument, is_number
from lightning_interactions.phases.curves import Curve, LossTrack, OrderTrack, check_strength
from lightning_interactions.phases.epochs import START, whole_epoch
from lightning_interactions.phases.event import EventKind, PhaseEvent
from lightning_interactions.phases.messages import boundary_message, overfitting_message, retracted_message
from lightning_interactions.phases.risk import WITH_LOSSES, WITHOUT_LOSSES

# Thresholds at a false alarm rate of 5 %, found on simulated noise and the tuning half of `tests/benchmarks/onset`.
_RISE = 1.1  # rise of a curve, in the largest of so many records of pure noise, which is sqrt(2 ln records) noises
_TURN = 6.0  # fall and rise together, in noises: noise has neither, so after a deep fall a small rise is enough
_AGREE = 1.0  # rise in standard errors over the samples: a single sample cannot reach it
_STEP = 0.15  # by which the thresholds of the orders change for each standard normal unit of the false alarm rate
_LEAST_RISE = 0.01  # orders; below it a mean order is flat, whatever its noise
_GAP_ONSET = 0.01  # growth of the loss gap, relative to the lowest validation loss, from which it has begun to widen
_OVERFIT_GAP, _OVERFIT_RISE = 0.4, 0.01  # growth of the loss gap and of the validation loss, likewise
_CLEAR_RISE = 0.3  # growth of the validation loss that is overfitting on whichever side the training loss is


def overfitting_risk(evidence: Mapping[str, float]) -> float:
    """Chance, 0 to 1, that this run will overfit, as far as can be seen now.

    A logistic function (``risk.py``) of the numbers in :attr:`PhaseDetector.evidence`, fitted on recorded runs of which
    about half overfit. Without the losses' numbers the interactions judge alone.

    Example:
        >>> overfitting_risk({}) < overfitting_risk({"strength_growth": 2.0})
        True
    """
    return (WITH_LOSSES if "val_growth" in evidence else WITHOUT_LOSSES).risk(evidence)


def losses_show_overfitting(evidence: Mapping[str, float], factor: float = 1.0) -> bool:
    """Whether the validation loss has risen, and away from the training loss, far enough for an alarm.

    Growths count. On which side of the training loss the validation loss is counts only as long as its rise is small
    and the training loss is one of plain samples: noisy labels hold that loss above it until they are memorised, and
    people would not call it overfitting before. Augmented copies may hold it there for the whole run, and say nothing.

    Args:
        evidence: As in :attr:`PhaseDetector.evidence`. Without the losses' numbers the answer is no.
        factor: Multiplies both thresholds.
    """
    gap, rise = evidence.get("gap_growth", 0.0), evidence.get("val_growth", 0.0)
    above = evidence.get("gap", 0.0) > 0 or evidence.get("augmented", 0.0) > 0 or rise >= _CLEAR_RISE * factor
    return gap >= _OVERFIT_GAP * factor and rise >= _OVERFIT_RISE * factor and above


class PhaseDetector:
    """Find the boundary between the two phases, and overfitting after it, in a stream of measurements.

    Two curves are watched: the mean order of the interactions, and the share of those between two or more players. Both
    fall in phase 1 and rise in phase 2. Each is judged in units of its own noise, which the samples tell from the
    second record on. The rule (:meth:`_decide`):

    - **boundary** at the trough of the mean order, once both curves are above their troughs for two records, one of
      them by more than noise could (as far as is usual for the largest of so many records, and fall and rise together
      by 6 noises), the samples agree, and the loss gap has begun to widen. Without losses the interactions decide
      alone. Losses that show overfitting end phase 1 too, whatever the mean order does (this is how the papers find
      the boundary); the evidence then says ``significant: 0.0``.
    - **overfitting** once the gap between the losses (validation minus training) has widened by 40 % of the lowest
      validation loss, and the validation loss has risen by 1 % of it, in two records; and is above the training loss
      unless that is one of augmented copies, or the rise is 30 %. The losses decide alone: waiting for a turn of the
      mean order only delayed the alarm on recorded runs, and without validation loss no number of the interactions was
      sure enough for one. They do count in :attr:`overfitting_risk`.
    - **retracted** when after a boundary the mean order falls clearly below its level there, and the losses do not show
      overfitting. The boundary and the overfitting declared after it are withdrawn, and the search resumes.

    Each event comes once. Memory is bounded: per-sample values are kept for four records of each curve.

    Args:
        false_alarm_rate: Above 0, below 0.5. Share of runs of 100 records of pure noise in which a boundary may be
            told, and about the share of runs without overfitting in which it may be declared. It scales all thresholds;
            fewer false alarms come later. What the default amounts to on real runs is in
            ``tests/benchmarks/onset/results.md``.

    Attributes:
        phase: 1 until a boundary is confirmed, then 2.
        boundary_epoch: Epoch in whose course the turning point lies, or ``None``.
        overfitting_epoch: Epoch in which overfitting was declared, or ``None``.
        overfitting_risk: From 0 to 1, see :func:`overfitting_risk`.
        evidence: The numbers behind the last decision.

    Raises:
        ArgumentError: If ``false_alarm_rate`` is out of range.

    Example:
        Eight samples whose mean order falls to 1.5 at epoch 5 and rises again:

        >>> import torch
        >>> detector = PhaseDetector()
        >>> for epoch in range(12):
        ...     high = 0.5 + 0.1 * abs(epoch - 5)
        ...     strength = torch.tensor([1 - high, high]).repeat(8, 2, 1).clamp(min=0)
        ...     for event in detector.update(epoch, strength, train_loss=None, val_loss=None):
        ...         print(event.kind, event.epoch, event.detected_epoch)
        boundary 5 8
        >>> detector.phase, detector.boundary_epoch
        (2, 5)
    """

    VERSION = 1

    def __init__(self, *, false_alarm_rate: float = 0.05) -> None:
        if not is_number(false_alarm_rate) or not 0 < false_alarm_rate < 0.5:
            raise bad_argument("false_alarm_rate", "a number above 0 and below 0.5", false_alarm_rate)
        self.false_alarm_rate = float(false_alarm_rate)
        z, usual = NormalDist().inv_cdf(1 - self.false_alarm_rate), NormalDist().inv_cdf(0.95)
        # Both found by trying: false alarms of noise, and of the losses of quiet runs, against the factor.
        self._order_factor, self._loss_factor = 1 + _STEP * (z - usual), z / usual

        self.boundary_epoch: int | None = None
        self.overfitting_epoch: int | None = None
        self.overfitting_risk = overfitting_risk({})
        self.evidence: dict[str, float] = {}
        self._orders, self._losses = OrderTrack(), LossTrack()
        self._last_epoch: float | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(false_alarm_rate={self.false_alarm_rate!r})"

    @property
    def phase(self) -> int:
        """1 until a boundary is confirmed, then 2."""
        return 1 if self.boundary_epoch is None else 2

    def update(
        self,
        epoch: float,
        strength: Any,
        train_loss: float | None,
        val_loss: float | None,
        *,
        step: int = 0,
        paired: bool = True,
        augmented: bool = False,
    ) -> list[PhaseEvent]:
        """Take one measurement and say what is new.

        Args:
            epoch: 3 at the end of epoch 3, 2.25 when a quarter of it was trained, -1 before the first; not before the
                last one. Epochs may be skipped or measured several times.
            strength: ``(samples, 2, n)`` as from :func:`~lightning_interactions.functional.strength.order_strength`,
                the same samples in the same rows every time. A sample with a value that is not finite is left out.
                With none left nothing is decided: the losses are remembered and the answer is empty.
            train_loss: Loss on training data, or ``None``. The two losses count only together.
            val_loss: Loss on validation data, or ``None``.
            step: Copied into the events.
            paired: ``False`` when the samples are not those of the last call. A new number of samples says so too.
            augmented: Whether the training loss is that of augmented copies, so that its level says nothing.

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
        losses = {**self._losses.evidence(), "augmented": float(augmented)} if augmented else self._losses.evidence()
        if not measured:
            self.evidence = {"mean_order": math.nan, **losses}
            return []
        self.evidence = {**self._orders.evidence(), **losses}
        self.overfitting_risk = self.evidence["risk"] = overfitting_risk(self.evidence)
        return self._decide(epoch, step)

    def _decide(self, epoch: float, step: int) -> list[PhaseEvent]:
        """Apply the rule; every event comes from here."""
        order = self._orders.order
        overfits = losses_show_overfitting(self.evidence, self._loss_factor)
        turned = self._turned()
        fell = -order.rise >= max(self._clear(order), _LEAST_RISE)

        events = []

        def tell(
            kind: EventKind, of: float, message: Callable[[float, Mapping[str, float]], str], **more: float
        ) -> None:
            evidence = {**self.evidence, **more}
            where = whole_epoch(of), whole_epoch(epoch)
            events.append(PhaseEvent(kind, *where, step, evidence, message(epoch, evidence)))

        trough = self.evidence["trough_epoch"]
        if self.boundary_epoch is None and (turned or overfits):
            self.boundary_epoch = whole_epoch(trough)
            tell("boundary", trough, boundary_message, significant=float(turned))
        elif self.boundary_epoch is not None and fell and not overfits:
            self.boundary_epoch = self.overfitting_epoch = None
            self._orders.restart()
            tell("retracted", trough, retracted_message)
        if self.overfitting_epoch is None and overfits:
            self.overfitting_epoch = whole_epoch(epoch)
            tell("overfitting", epoch, overfitting_message)
        return events

    def _turned(self) -> bool:
        order, shared = self._orders.order, self._orders.shared
        both_rise = order.rise >= _LEAST_RISE and shared.rise > 0
        agree = self.evidence["z"] >= _AGREE * self._order_factor
        widened = self.evidence.get("gap_growth", math.inf) >= _GAP_ONSET
        return both_rise and agree and widened and (self._stands_out(order) or self._stands_out(shared))

    def _stands_out(self, curve: Curve) -> bool:
        turn = math.hypot(curve.rise, curve.fall)
        return curve.rise >= self._clear(curve) and turn >= _TURN * self._order_factor * curve.noise

    def _clear(self, curve: Curve) -> float:
        """How far noise alone may well take a curve."""
        return _RISE * self._order_factor * curve.noise * math.sqrt(2 * math.log(max(curve.count, 2)))

    def forget_losses(self) -> None:
        """Begin to follow the losses anew, because they are of another kind from now on."""
        self._losses = LossTrack()

    def state_dict(self) -> dict[str, Any]:
        """Give everything further decisions depend on except the thresholds, as builtin containers and tensors."""
        return {
            "version": self.VERSION,
            "boundary_epoch": self.boundary_epoch,
            "overfitting_epoch": self.overfitting_epoch,
            "overfitting_risk": self.overfitting_risk,
            "evidence": dict(self.evidence),
            "orders": asdict(self._orders),
            "losses": asdict(self._losses),
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
        self._last_epoch = state.get("last_epoch")

    def _check_order(self, epoch: float, num_players: int) -> None:
        if not is_number(epoch) or not START <= epoch < math.inf:
            raise bad_argument("epoch", "a number not below -1", epoch)
        if self._last_epoch is not None and epoch < self._last_epoch:
            raise bad_argument("epoch", f"{self._last_epoch} or later, as epochs only go forward", epoch)
        known = self._orders.num_players
        if known and num_players != known:
            raise ArgumentError(
                f"Expected argument `strength` to have {known} orders as before, but got {num_players}. "
                f"Use a new detector for other players."
            )


def _loss(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument(name, "a number or None", value) from error
