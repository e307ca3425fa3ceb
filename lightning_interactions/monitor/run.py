"""A run: all records, what was decided on them, and what single samples did. Nothing here knows of Lightning."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import sentence
from lightning_interactions.measure.changes import Changes
from lightning_interactions.measure.measurement import Found, Measurement, interactions_in, part_of
from lightning_interactions.measure.onsets import SampleTracks
from lightning_interactions.measure.samples import Samples
from lightning_interactions.phases import PhaseDetector, PhaseEvent
from lightning_interactions.phases.epochs import begin_with_place, whole_epoch
from lightning_interactions.players.picture import Picture
from lightning_interactions.report.history import History
from lightning_interactions.report.record import RunRecord

_RISE = 0.01
"""A loss rises if it is above its lowest value by this fraction."""


@dataclass
class Record:
    """One measurement of all splits."""

    epoch: float  # 3 at the end of epoch 3, 2.25 inside of it, -1 before training; without epochs the step
    step: int  # at which it is logged
    found: Mapping[str, Found]
    samples: Mapping[str, Samples]  # on which it was made
    losses: Mapping[str, float]  # means, in nats per sample
    seconds: float
    few: bool = False  # whether the losses are of too few samples to decide on anything
    inside: bool = False  # not at a validation, so that no logged loss belongs to it
    val_losses: tuple[Tensor, Tensor] | None = None  # (B,): keys of the validation samples in the loss; loss of each
    scalars: dict[str, float] = field(init=False)  # what is logged, by key without prefix

    def __post_init__(self) -> None:
        """Begin with what was measured."""
        numbers = {self.part(s) + key: x for s, found in self.found.items() for key, x in found.numbers.items()}
        self.scalars = {**numbers, "seconds": self.seconds}

    @property
    def split(self) -> str:
        """The split that decides: the validation samples where they are watched."""
        return "val" if "val" in self.found else "train"

    @property
    def deciding(self) -> Found:
        """The measurement the detector looks at."""
        return self.found[self.split]

    def part(self, split: str) -> str:
        """Return the part of the logged keys that names the split, where there are two."""
        return part_of(split, self.found)


class Run:
    """History, events, detector and onsets of one run, in step; ``follow``: the same samples are watched every time."""

    def __init__(self, detector: PhaseDetector | None, *, follow: bool, extras: Collection[str] = ()) -> None:
        self.detector = detector if detector is not None else PhaseDetector()
        self._pristine = copy.deepcopy(self.detector)  # to begin anew with
        self._follow, self._extras = follow, extras
        self._start()

    def _start(self) -> None:
        self.history = History()
        self.events: list[PhaseEvent] = []
        self._onsets, self._changes = SampleTracks(), Changes()
        self._keys = torch.zeros(0, dtype=torch.int64)
        self.seconds_after = 0.0  # spent since the last record
        self.judged = False  # whether the validation loss was compared with the logged one
        self.judge: str | None = None  # the logged validation loss that decides in its place
        self.lowest = math.inf, math.inf  # of our own and of the logged validation loss
        self.alone = False  # whether the validation loss decides without a training loss
        self._loss_keys: Tensor | None = None  # of the validation samples whose losses the detector gets

    def reset(self) -> None:
        """Begin anew."""
        self._start()
        self.detector = copy.deepcopy(self._pristine)

    @property
    def boundary_epoch(self) -> int | None:
        """Epoch of the phase boundary, or ``None`` if there is none so far."""
        return self.detector.boundary_epoch

    def stands(self, kind: str | None) -> bool:
        """Whether a boundary, or overfitting, was found and has not been withdrawn since."""
        found = {"boundary": self.detector.boundary_epoch, "overfitting": self.detector.overfitting_epoch}
        return found.get(kind or "") is not None

    def stood(self, kind: str | None) -> int:
        """Return how many records were kept after the one that found what `stands`; -1 if it does not."""
        told = [event.step for event in self.events if event.kind == kind]
        if not told or not self.stands(kind):
            return -1
        return sum(row > told[-1] for row in self.history.column("step")) if len(self.history) else 0

    def decide(
        self, record: Record, train_loss: float | None, val_loss: float | None, last_epoch: float | None = None
    ) -> list[PhaseEvent]:
        """Decide on a record; return the new events. What the detector thinks goes into the record's scalars."""
        keys = record.samples[record.split].keys
        events = self._skipped(record)
        # Without a training loss the validation loss stands for the gap: it must rise as far on its own.
        alone = self.alone and train_loss is None and val_loss is not None
        believed = val_loss
        if self.judge is not None and val_loss is not None:
            believed = self._believed(val_loss, record.losses.get("val"))
        judged = (None, None) if record.few else (0.0 if alone else train_loss, believed)
        found = record.deciding
        more: dict[str, Any] = {
            "step": record.step, "paired": torch.equal(keys, self._keys),
            "val_losses": self._val_losses(record, val_loss), "last_epoch": last_epoch, "unit": self.history.unit,
        }  # fmt: skip
        if isinstance(found, Measurement):
            events += self.detector.update(record.epoch, found.strength, *judged, **more)
        else:
            events += self.detector.update_degree(record.epoch, found.influence, found.variance, *judged, **more)
        self.events += events
        self._keys = keys
        train, val = (math.nan if loss is None else loss for loss in (train_loss, val_loss))
        record.scalars |= {
            "train_loss": train,
            "val_loss": val,
            "val_loss_before_alarm": math.nan if self.stands("overfitting") else val,
            "loss_gap": val - train,
            "phase": float(self.detector.phase),
            "suspected": float(self.detector.suspected),
            "boundary_evidence": _decades(self.detector.evidence.get("e_value", math.nan)),
            "boundary_epoch": float(-1 if self.boundary_epoch is None else self.boundary_epoch),
            "overfitting_risk": self.detector.overfitting_risk,
        }
        return events

    def _val_losses(self, record: Record, judged: float | None) -> Tensor | None:
        """The losses of single validation samples, if it is their mean that is judged.

        Always those of the samples of the first record, in its order: the detector compares row by row. Samples that
        are gone after a resume are ``nan``, and those that came for them are left out.
        """
        if record.few or record.val_losses is None or judged != record.losses.get("val"):
            return None
        keys, losses = record.val_losses  # keys ascend
        self._loss_keys = keys if self._loss_keys is None else self._loss_keys
        rows = torch.searchsorted(keys, self._loss_keys).clamp(max=len(keys) - 1)
        return torch.where(keys[rows] == self._loss_keys, losses[rows], torch.nan)

    def _believed(self, logged: float, own: float | None) -> float:
        """A logged loss that is not ours: where it rises but ours does not, its objective has become harder."""
        low_own, low = self.lowest
        rises = own is None or not math.isfinite(own) or own > (1 + _RISE) * low_own
        self.lowest = (min(low_own, math.inf if own is None else own), min(low, logged))
        return logged if rises else min(logged, self.lowest[1])

    def forget_losses(self) -> None:
        """Begin to follow the losses anew: they are of another kind from now on."""
        self.detector.forget_losses()
        self._loss_keys = None

    def keep(self, record: Record) -> None:
        """Put a record that was decided on into the history, and follow its samples one by one."""
        table: list[dict[str, Any]] = []
        found = interactions_in(record.found)
        if self._follow:
            onsets, table = self._onsets.update(record.epoch, found, record.samples)
            turn = self.detector.evidence.get("trough_epoch", math.nan)
            changes = self._changes.update(record.epoch, found, record.samples, turn, self._extras)
            record.scalars |= {**onsets, **changes}
            turned = self.boundary_epoch is not None
            shown = {s: self._changes.describe(s, own, turned=turned) for s, own in found.items()}
            unit = {} if self.history.unit == "epoch" else {"unit": self.history.unit}
            table = [{**row, **shown[row["split"]][row["index"]], **unit} for row in table]
        strength = {s: own.mean_strength for s, own in found.items()}
        extra = {f"{s}/strength": own for s, own in strength.items() if len(strength) > 1}
        self.history.append(record.epoch, record.step, record.scalars, strength.get(record.split), extra)
        self.history.samples = table

    def failed(self, epoch: float, step: int, problem: str) -> PhaseEvent:
        """Keep the event that a measurement, or something after it, failed."""
        message = f"{sentence(f'{begin_with_place(epoch, self.history.unit)}: {problem}')} Training is not affected."
        where = whole_epoch(epoch)
        self.events.append(PhaseEvent("probe_failed", where, where, step, message=message, unit=self.history.unit))
        return self.events[-1]

    def _skipped(self, record: Record) -> list[PhaseEvent]:
        """Tell of samples without finite scores, when that begins."""
        skipped, watched = record.deciding.skipped, record.deciding.watched
        last = self.history.last or {}
        if not skipped or last.get("skipped_samples", last.get("val/skipped_samples", 0)) > 0:
            return []
        at = begin_with_place(record.epoch, self.history.unit)
        message = (
            f"{at}: the scores of {skipped} of {watched} watched samples are not finite; "
            "these samples are left out. Look for NaN or infinity in the model's outputs."
        )
        evidence, where = {"skipped_samples": float(skipped)}, whole_epoch(record.epoch)
        return [PhaseEvent("probe_failed", where, where, record.step, evidence, message, unit=self.history.unit)]

    def record(
        self,
        settings: Mapping[str, Any],
        *,
        with_samples: bool,
        picture: Callable[[str, int], Picture | None] | None = None,
    ) -> RunRecord:
        """Return all that is known of the run, as plain values; ``picture`` says how a sample of a split looks."""
        rows = self.history.samples if with_samples else []
        for row in rows:
            own = None if picture is None else picture(row["split"], row["index"])
            if own is not None:
                row["picture"] = own.to_dict()
        return RunRecord(
            self.history.to_dict(),
            list(self.events),
            self.boundary_epoch,
            self.detector.overfitting_epoch,
            dict(settings),
            rows,
            seconds_after=self.seconds_after,
            unit=self.history.unit,
        )

    def state_dict(self, *, with_samples: bool) -> dict[str, Any]:
        """Return everything further records depend on; without samples, each of them is followed anew."""
        history = self.history.state_dict()
        state = {
            "history": history if with_samples else {**history, "samples": []},
            "events": [event.to_dict() for event in self.events],
            "detector": self.detector.state_dict(),
            "judged": [self.judged, self.judge, self.alone],
            "lowest": list(self.lowest),
        }
        if not with_samples:  # nor whose losses the detector has: those to come are compared with none of them
            return {**state, "loss_keys": None if self._loss_keys is None else self._loss_keys[:0].clone()}
        samples = {"samples": self._onsets.state_dict(), "changes": self._changes.state_dict()}
        return {**state, **samples, "decided_on": self._keys, "loss_keys": self._loss_keys}

    def load_state_dict(self, state: Mapping[str, Any], split: str) -> None:
        """Continue from `state_dict`; what it lacks begins anew."""
        self.history.load_state_dict(state.get("history", {"records": []}))
        self.events = [PhaseEvent.from_dict(event) for event in state.get("events", [])]
        self.judged, self.judge, self.alone = state.get("judged", (False, None, False))
        low_own, low = state.get("lowest", (math.inf, math.inf))
        self.lowest = low_own, low
        if "detector" in state:
            self.detector.load_state_dict(state["detector"])
        self._onsets.load_state_dict(state.get("samples", {}))
        self._changes.load_state_dict(state.get("changes", {}))
        # States of version 1 know the samples of the split that decides only by their onsets.
        keys = state.get("decided_on", self._onsets.keys_of(split))
        self._keys = torch.zeros(0, dtype=torch.int64) if keys is None else keys
        self._loss_keys = state.get("loss_keys")


def _decades(e_value: float) -> float:
    """Logarithm of an e-value; -6 for all that is below."""
    return e_value if math.isnan(e_value) else math.log10(max(e_value, 1e-6))
