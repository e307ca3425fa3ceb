"""Our detector and its ablations as methods: from a recording to what they say about it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import torch
from measures import Outcome
from recordings import HERE, Floats, Recording
from rivals import RIVALS

from lightning_interactions.phases import PhaseDetector, PhaseEvent, losses_show_overfitting
from lightning_interactions.phases.curves import LossTrack
from lightning_interactions.phases.risk import RiskModel


@dataclass(frozen=True)
class Conditions:
    """What the user measures.

    Attributes:
        split: Whose interactions.
        val_size: Samples of the validation loss; 0 for none.
        every: Epochs from one measurement to the next, at least.
        samples: Watched samples.
    """

    split: str = "val"
    val_size: int = 1000
    every: int = 1
    samples: int = 32


def records(run: Recording, conditions: Conditions) -> Iterator[tuple[int, Any, float, float | None]]:
    """The arguments of `PhaseDetector.update`, measurement by measurement."""
    val = run.val(conditions.val_size) if conditions.val_size else None
    last = -math.inf
    for i, epoch in enumerate(run.epochs.tolist()):
        if epoch - last < conditions.every:
            continue
        last = epoch
        strength = torch.from_numpy(run.strength[conditions.split][i, : conditions.samples])
        yield epoch, strength, float(run.train_loss[epoch]), None if val is None else float(val[epoch])


def ours(run: Recording, conditions: Conditions, **settings: Any) -> Outcome:
    """Replay the detector."""
    detector, risk, events = PhaseDetector(**settings), [], list[PhaseEvent]()
    for record in records(run, conditions):
        events += detector.update(*record)
        risk.append((record[0], detector.overfitting_risk))
    told = [event for event in events if event.kind == "boundary"]
    stands = detector.boundary_epoch is not None
    alarms = [event.detected_epoch for event in events if event.kind == "overfitting"]
    return Outcome(
        run,
        alarm=alarms[0] if alarms else None,
        boundary=detector.boundary_epoch,
        told=told[-1].detected_epoch if stands else None,
        first_boundary=told[0].epoch if told else None,
        first_told=told[0].detected_epoch if told else None,
        retracted=sum(event.kind == "retracted" for event in events),
        risk=tuple(risk),
    )


def interactions_only(run: Recording, conditions: Conditions) -> Outcome:
    """The detector without losses, and the alarm it could give but does not: at a risk few quiet runs reach."""
    told = ours(run, conditions)
    centre, spread = _fitted("without losses")["quiet"]
    limit = centre + NormalDist().inv_cdf(0.95) * spread
    pairs = itertools.pairwise(told.risk)
    alarm = next((epoch for (_, a), (epoch, b) in pairs if math.log(min(a, b) / (1 - min(a, b))) >= limit), None)
    return replace(told, alarm=alarm)


def _fitted(basis: str) -> Any:
    return json.loads((HERE / "calibration.json").read_text())[basis]


def losses_only(run: Recording, conditions: Conditions) -> Outcome:
    """The same alarm and a risk fitted in the same way, without looking at interactions."""
    measured = [(record[0], record[2], record[3]) for record in records(run, conditions)]
    alarm, risk = _losses_only(measured)
    return Outcome(run, alarm=alarm, risk=tuple(risk))


def losses_only_alarm(train_loss: Floats, val_loss: Floats) -> int | None:
    """`losses_only` on bare losses, measured at every epoch."""
    return _losses_only(list(zip(range(len(val_loss)), train_loss.tolist(), val_loss.tolist(), strict=True)))[0]


def _losses_only(measured: Sequence[tuple[int, float, float | None]]) -> tuple[int | None, list[tuple[int, float]]]:
    fitted = _fitted("losses only")
    model = RiskModel(fitted["weights"], fitted["intercept"])
    track, alarm, risk = LossTrack(), None, []
    for epoch, train, val in measured:
        track.add(epoch, train, val)
        evidence = track.evidence()
        if alarm is None and losses_show_overfitting(evidence):
            alarm = epoch
        risk.append((epoch, model.risk(evidence)))
    return alarm, risk


def rival(name: str) -> Callable[[Recording, Conditions], Outcome]:
    """A rule of `rivals.py` as a method."""
    return lambda run, conditions: Outcome(run, alarm=RIVALS[name](run, conditions.val_size))
