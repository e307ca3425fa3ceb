"""The two phases of training, decided as it goes: where low-order dominance ended, and whether overfitting followed.

In phase 1 the mean order of the interactions falls, in phase 2 it rises (arXiv 2405.10262, 2407.19198). Their boundary
is the turning point. :class:`PhaseDetector` looks for it in a stream of measurements and tells it in
:class:`PhaseEvent` objects. It never looks ahead, and nothing here knows about Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from statistics import NormalDist
from typing import Any

from lightning_interactions.errors import ArgumentError, StateError, bad_argument, is_number
from lightning_interactions.phases.curves import Curve, OrderTrack, check_degree, check_strength
from lightning_interactions.phases.epochs import START, Unit, plain_epoch, whole_epoch
from lightning_interactions.phases.event import EventKind, PhaseEvent
from lightning_interactions.phases.losses import LossTrack, check_losses
from lightning_interactions.phases.messages import (
    boundary_message,
    boundary_retracted_message,
    overfitting_message,
    overfitting_retracted_message,
    suspected_message,
)
from lightning_interactions.phases.risk import WITH_LOSSES, WITHOUT_LOSSES, horizon

Message = Callable[[float, Mapping[str, float], Unit], str]

# Found on the tuning half of `tests/benchmarks/onset` and checked by leaving out data sets; see results.md there.
_LEAST_RISE = 0.03  # orders; below it a mean order is flat, whatever its noise
_GAP_ONSET = 0.01  # growth of the loss gap, relative to the lowest validation loss, from which it has begun to widen
_SUSPECTED = 1.0  # e-value
_FELL = 1.1  # fall below the trough, in the largest of so many records of noise, which is sqrt(2 ln records) noises
_OVERFIT_RISE, _OVERFIT_GAP = 0.1, 0.4  # growth of the validation loss and of the loss gap, relative to the lowest loss
_OVERFIT_LASTED = 0.1  # epochs since the lowest validation loss, as a fraction of those until then
_OVERFIT_SURE = 1.0  # standard errors of the growth of the validation loss, where they are known


def overfitting_risk(evidence: Mapping[str, float]) -> float:
    """Chance, 0 to 1, that this run will be overfit at the end of its training, as far as can be seen now.

    A logistic function (``risk.py``) of the numbers in :attr:`PhaseDetector.evidence`, fitted on recorded runs cut off
    at every length; ``horizon``, the octaves of epochs that are left, is 1 where the end is not known. Overfit means
    that the test loss is a tenth above its lowest. Without the losses' numbers the interactions judge alone.

    Example:
        >>> overfitting_risk({}) < overfitting_risk({"strength_growth": 2.0})
        True
    """
    return (WITH_LOSSES if "val_growth" in evidence else WITHOUT_LOSSES).risk(evidence)


def losses_show_overfitting(evidence: Mapping[str, float]) -> bool:
    """Whether the validation loss has risen, and away from the training loss, far enough for an alarm.

    Growths count, not on which side of the training loss the validation loss is: noisy labels or augmented copies may
    hold the training loss above it.

    Args:
        evidence: As in :attr:`PhaseDetector.evidence`. Without the losses' numbers the answer is no.
    """
    rise = evidence.get("val_growth", 0.0)
    return (
        rise >= max(_OVERFIT_RISE, _OVERFIT_SURE * evidence.get("val_growth_error", 0.0))
        and evidence.get("gap_growth", 0.0) >= _OVERFIT_GAP
        and evidence.get("val_growth_lasted", 0.0) >= _OVERFIT_LASTED
    )


class PhaseDetector:
    """Find the boundary between the two phases, and overfitting after it, in a stream of measurements.

    Two curves are watched: the mean order of the interactions, and the share of those between two or more players. Both
    fall in phase 1 and rise in phase 2. Each is judged in units of its own noise, which the samples tell from the
    second record on. How strongly they say that they rise is an e-value (:mod:`~lightning_interactions.phases.change`),
    the mean of both: in pure noise it reaches ``1 / a`` at some time in less than a share ``a`` of all runs, however
    long they are. The rule (:meth:`_decide`):

    - **suspected**, once, at an e-value of 1, while the mean order is above its trough: a hint, not an alert.
    - **boundary** at the trough of the mean order, at an e-value of ``1 / false_alarm_rate``, once the mean order has
      been 0.03 above the trough for two records, by more than the samples differ (a t test in pairs, at the same rate),
      and the loss gap has begun to widen. Without losses the interactions
      decide alone.
    - **overfitting** once the validation loss is a tenth above its lowest for two records, by a standard error at
      least where that is known; the gap between the losses (validation minus training) has widened by 40 % of the
      lowest validation loss; and the rise has lasted for a tenth of the training until that lowest loss. The losses
      decide alone: waiting for a turn of the mean order only delayed the alarm on recorded runs, and without validation
      loss no number of the interactions was sure enough for one.
    - **retracted**: a boundary, when the mean order falls clearly below its level there, and the search resumes; an
      overfitting alarm, when the validation loss falls below its lowest before the alarm. Both may be told again.

    Without interactions :meth:`update_degree` follows the mean degree of the scores in their place, one curve.

    Memory is bounded: a few hundred numbers for each curve, and per-sample values of a few records.

    Args:
        false_alarm_rate: Above 0, below 0.5. Share of runs, of any length, below which noise alone makes a boundary, as
            long as it is independent from record to record. Noise that lasts for several records, and real runs, are
            in ``tests/benchmarks/onset/results.md``. The alarm of overfitting does not depend on it.

    Attributes:
        phase: 1 until a boundary is confirmed, then 2.
        suspected: Whether a boundary is suspected at present, but not confirmed.
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

    VERSION = 2

    def __init__(self, *, false_alarm_rate: float = 0.05) -> None:
        if not is_number(false_alarm_rate) or not 0 < false_alarm_rate < 0.5:
            raise bad_argument("false_alarm_rate", "a number above 0 and below 0.5", false_alarm_rate)
        self.false_alarm_rate = float(false_alarm_rate)
        self._agree = NormalDist().inv_cdf(1 - self.false_alarm_rate)
        self.boundary_epoch: int | None = None
        self.overfitting_epoch: int | None = None
        self.overfitting_risk = overfitting_risk({})
        self.evidence: dict[str, float] = {}
        self._orders, self._losses = OrderTrack(), LossTrack()
        self._told_suspicion = False
        self._alarm: tuple[float, float] | None = None  # where the standing one was given, the lowest loss before it
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
        val_losses: Any = None,
        last_epoch: float | None = None,
        unit: Unit = "epoch",
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
            val_losses: ``(samples,)`` losses of the validation samples, always of the same in the same order, or
                ``None``. With them a rise is judged, and told, with its standard error.
            last_epoch: The epoch at whose end the training will be over, where that is known: the risk is that until
                then.
            unit: ``"step"`` where there are no epochs and steps are counted instead, in all calls: 1199 after 1200 of
                them. Only the words depend on it.

        Returns:
            The new events, mostly none; a boundary comes before the overfitting found with it.

        Raises:
            ArgumentError: If an argument is malformed or the epoch goes back; the detector is then unchanged.
        """
        strength = check_strength(strength)  # on the CPU from here on: some devices have no float64
        self._check_players(strength.shape[-1])
        return self._update(
            epoch, partial(self._orders.add, strength=strength), train_loss, val_loss,
            step=step, paired=paired, val_losses=val_losses, last_epoch=last_epoch, unit=unit,
        )  # fmt: skip

    def update_degree(
        self,
        epoch: float,
        influence: Any,
        variance: Any,
        train_loss: float | None,
        val_loss: float | None,
        *,
        step: int = 0,
        paired: bool = True,
        val_losses: Any = None,
        last_epoch: float | None = None,
        unit: Unit = "epoch",
    ) -> list[PhaseEvent]:
        """Take one measurement without interactions: follow the mean degree ``sum influence / sum variance``.

        The mean degree falls and rises with the mean order, by less. The rule is the same, with this one curve; the
        standard deviation of the scores stands for the strength in the risk. Its events say that it is sampled.

        Args:
            epoch: As for :meth:`update`, like all that follow.
            influence: ``(samples,)``, as from :func:`~lightning_interactions.functional.influence_and_variance`; of
                the same samples and masks every time, so that records can be compared in pairs.
            variance: ``(samples,)``, likewise.
            train_loss: Loss on training data, or ``None``.
            val_loss: Loss on validation data, or ``None``.
            step: Copied into the events.
            paired: ``False`` when the samples are not those of the last call.
            val_losses: Losses of the validation samples, or ``None``.
            last_epoch: The epoch at whose end the training will be over.
            unit: What places are counted in.

        Returns:
            The new events.

        Raises:
            ArgumentError: As :meth:`update` does; also if the detector follows strengths already.

        Example:
            >>> detector = PhaseDetector()
            >>> for epoch in range(12):
            ...     degree = 1.5 + 0.1 * abs(epoch - 5)
            ...     for event in detector.update_degree(epoch, [degree] * 8, [1.0] * 8, train_loss=None, val_loss=None):
            ...         print(event.kind, event.epoch, event.detected_epoch)
            boundary 5 8
        """
        influence, variance = check_degree(influence, variance)
        self._check_players(0)
        return self._update(
            epoch, partial(self._orders.add_degree, influence=influence, variance=variance), train_loss, val_loss,
            step=step, paired=paired, val_losses=val_losses, last_epoch=last_epoch, unit=unit,
        )  # fmt: skip

    def _update(
        self,
        epoch: float,
        add: Callable[..., bool],
        train_loss: Any,
        val_loss: Any,
        *,
        step: int,
        paired: bool,
        val_losses: Any,
        last_epoch: float | None,
        unit: Unit,
    ) -> list[PhaseEvent]:
        """Check the rest, ``add`` a measurement to the curves, and decide."""
        self._check_order(epoch)
        if last_epoch is not None and (not is_number(last_epoch) or not START <= last_epoch < math.inf):
            raise bad_argument("last_epoch", "a number not below -1 or None", last_epoch)
        train_loss, val_loss = _loss("train_loss", train_loss), _loss("val_loss", val_loss)
        each = check_losses(val_losses)
        self._last_epoch = epoch = plain_epoch(epoch)  # a NumPy number would not load with ``weights_only=True``
        self._losses.add(epoch, train_loss, val_loss, each)
        measured = add(epoch, paired=paired, frozen=self.boundary_epoch is not None)
        orders = self._orders.evidence() if measured else {self._orders.name: math.nan}
        self.evidence = {**orders, **self._losses.evidence()}
        if not measured:
            return []
        self.evidence["horizon"] = horizon(epoch, last_epoch)
        self.overfitting_risk = self.evidence["risk"] = overfitting_risk(self.evidence)
        return self._decide(epoch, step, unit)

    def _decide(self, epoch: float, step: int, unit: Unit) -> list[PhaseEvent]:
        """Apply the rule; every event comes from here."""
        order, e = self._orders.order, self.evidence
        events = []

        def tell(kind: EventKind, of: float, message: Message, retracts: str = "", **more: float) -> None:
            evidence = {**e, **more}
            where = whole_epoch(of), whole_epoch(epoch)
            events.append(PhaseEvent(kind, *where, step, evidence, message(epoch, evidence, unit), retracts, unit))

        trough = e["trough_epoch"]
        if self.boundary_epoch is not None:
            if -order.rise >= max(self._clear_fall(order), _LEAST_RISE):
                self.boundary_epoch, self._told_suspicion = None, False
                self._orders.restart()
                tell("retracted", trough, boundary_retracted_message, "boundary")
        elif self._turned():
            self.boundary_epoch = whole_epoch(trough)
            tell("boundary", trough, boundary_message)
        elif self.suspected and not self._told_suspicion:
            self._told_suspicion = True
            tell("suspected", trough, suspected_message)

        if self._alarm is None:
            if losses_show_overfitting(e):
                self.overfitting_epoch, self._alarm = whole_epoch(epoch), (epoch, e["best_val_loss"])
                tell("overfitting", epoch, overfitting_message)
        elif e.get("best_val_loss", math.inf) < self._alarm[1]:
            (place, low), self._alarm, self.overfitting_epoch = self._alarm, None, None
            tell("retracted", place, overfitting_retracted_message, "overfitting", alarm_epoch=place, alarm_low=low)
        return events

    def _turned(self) -> bool:
        widened = self.evidence.get("gap_growth", math.inf) >= _GAP_ONSET
        risen = self._orders.order.rise >= _LEAST_RISE and self.evidence["z"] >= self._agree
        return risen and widened and self.evidence["e_value"] >= 1 / self.false_alarm_rate

    @property
    def suspected(self) -> bool:
        """Whether a boundary is suspected at present, but not confirmed."""
        unsure = self.boundary_epoch is None and self.evidence.get("rise", 0.0) > 0
        return unsure and self.evidence.get("e_value", 0.0) >= _SUSPECTED

    def _clear_fall(self, curve: Curve) -> float:
        """How far noise alone may well take a curve."""
        return _FELL * self.evidence["noise"] * math.sqrt(2 * math.log(max(curve.count, 2)))

    def forget_losses(self) -> None:
        """Begin to follow the losses anew, because they are of another kind from now on."""
        self._losses = LossTrack()
        if self._alarm is not None:  # nothing to compare the new ones with
            self._alarm = self._alarm[0], -math.inf

    def state_dict(self) -> dict[str, Any]:
        """Give everything further decisions depend on except the thresholds, as builtin containers and tensors."""
        return {
            "version": self.VERSION,
            "boundary_epoch": self.boundary_epoch,
            "overfitting_epoch": self.overfitting_epoch,
            "overfitting_risk": self.overfitting_risk,
            "evidence": dict(self.evidence),
            "told_suspicion": self._told_suspicion,
            "alarm": self._alarm,
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
        self._told_suspicion = bool(state.get("told_suspicion", False))
        self._alarm = self._alarm_of(state)
        self._last_epoch = state.get("last_epoch")

    def _alarm_of(self, state: Mapping[str, Any]) -> tuple[float, float] | None:
        """States of version 1 know the epoch of an alarm only: it stands until there is a new lowest loss."""
        if state.get("alarm") is not None:
            place, low = state["alarm"]
            return float(place), float(low)
        if self.overfitting_epoch is None:
            return None
        low = self._losses.best_val if self._losses.recent_val else -math.inf  # none: they were forgotten since
        return float(self.overfitting_epoch), low

    def _check_order(self, epoch: float) -> None:
        if not is_number(epoch) or not START <= epoch < math.inf:
            raise bad_argument("epoch", "a number not below -1", epoch)
        if self._last_epoch is not None and epoch < self._last_epoch:
            raise bad_argument("epoch", f"{self._last_epoch} or later, as epochs only go forward", epoch)

    def _check_players(self, num_players: int) -> None:
        """Say so if a measurement is of other players than before, or, with 0 of them, of another kind."""
        known = self._orders.num_players
        if (known and not num_players) or (num_players and not known and self._orders.order.count):
            now, before = ("update", "update_degree") if num_players else ("update_degree", "update")
            raise ArgumentError(
                f"Expected `{before}` to be called as before, not `{now}`: mean orders and mean degrees do not make "
                "one curve. Use a new detector."
            )
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
