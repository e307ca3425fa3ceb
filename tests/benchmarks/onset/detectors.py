"""What is compared: our detector, parts of it, and rivals. Each sees a run record by record and says what stands.

To try one of your own write a class with `update` as below and put it into `run.py`; README.md says more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from recordings import HERE, Recording
from torch import Tensor

from lightning_interactions.monitor.rhythm import is_due
from lightning_interactions.phases import PhaseDetector, PhaseEvent, losses_show_overfitting
from lightning_interactions.phases.losses import LossTrack
from lightning_interactions.phases.risk import RiskModel, horizon


@dataclass(frozen=True)
class Record:
    """What is known at one place of a run.

    Attributes:
        epoch: -1 before training, 2.25 inside epoch 3, 3 at its end.
        train_loss: Of training samples, in eval mode.
        val_loss: Of validation samples; ``None`` where there are none.
        val_losses: ``(samples,)`` of single validation samples, where known.
        strength: ``(samples, 2, n)`` where interactions were measured, else ``None``.
        gwa: Gradient-weight alignment.
        changes: Predictions of training samples that changed in this epoch; ``None`` inside of epochs.
        last_epoch: At whose end the training will be over.
    """

    epoch: float
    train_loss: float
    val_loss: float | None
    val_losses: Tensor | None
    strength: Tensor | None
    gwa: float
    changes: int | None
    last_epoch: int

    @property
    def is_end(self) -> bool:
        """Whether it is the end of an epoch, where most rules look."""
        return self.epoch >= 0 and self.epoch == int(self.epoch)


@dataclass(frozen=True)
class Said:
    """What a detector says at a record: what stands now, not what is new."""

    alarm: bool = False
    boundary: float | None = None
    suspected: bool = False
    risk: float = math.nan


class Detector(Protocol):
    """What is compared."""

    def update(self, record: Record) -> Said:
        """Take the next record and say what stands."""
        ...


@dataclass(frozen=True)
class Conditions:
    """What the user measures.

    Attributes:
        split: Whose interactions.
        val_size: Samples of the validation loss; 0 for none.
        per_octave: Records for each doubling of the epochs, at most; 16 as recorded.
        every: Epochs from one measurement to the next, instead.
        samples: Watched samples.
        each: Whether the losses of single validation samples are known. Those of the first 100 are recorded; repeated
            to the size of the set they have its standard error.
    """

    split: str = "val"
    val_size: int = 1000
    per_octave: int = 16
    every: int | None = None
    samples: int = 32
    each: bool = True


def records(run: Recording, conditions: Conditions) -> Iterator[Record]:
    """All records of a run."""
    val = run.val(conditions.val_size) if conditions.val_size else None
    size = next(size for size, loss in run.val_loss.items() if loss is run.val(conditions.val_size or 1))
    index = {epoch: i for i, epoch in enumerate(run.epochs.tolist())} if run.strength else {}
    last = None
    for j, epoch in enumerate(run.loss_epochs.tolist()):
        strength = None
        if epoch in index and _is_due(epoch, last, conditions):
            last = {"epoch": epoch, "step": j}
            rows = run.strength[conditions.split][index[epoch], : conditions.samples]
            strength = torch.from_numpy(rows)
        end = epoch >= 0 and epoch == int(epoch) and len(run.changes) > 0
        each = torch.from_numpy(np.resize(run.val_each[j], size)) if conditions.each and size else None
        yield Record(
            epoch, float(run.train_loss[j]), None if val is None else float(val[j]), None if val is None else each,
            strength, float(run.gwa[j]), int(run.changes[int(epoch)]) if end else None, run.last_epoch,
        )  # fmt: skip


def _is_due(epoch: float, last: dict[str, float] | None, conditions: Conditions) -> bool:
    if conditions.every is not None and epoch != int(epoch):
        return False
    return is_due(epoch, 0, last, per_octave=conditions.per_octave, every_n_epochs=conditions.every)


# -- ours ------------------------------------------------------------------------------------------------------------


@dataclass
class Ours:
    """The package's detector, on the records where interactions were measured."""

    settings: dict[str, Any] = field(default_factory=dict)
    tell_end: bool = True  # whether it knows how long the training will be
    events: list[PhaseEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.detector = PhaseDetector(**self.settings)

    def update(self, record: Record) -> Said:
        detector = self.detector
        if record.strength is not None:
            val = record.val_loss
            self.events += detector.update(
                record.epoch, record.strength, None if val is None else record.train_loss, val,
                val_losses=record.val_losses, last_epoch=record.last_epoch if self.tell_end else None,
            )  # fmt: skip
        place = None
        if detector.boundary_epoch is not None:
            place = next(e.evidence["trough_epoch"] for e in reversed(self.events) if e.kind == "boundary")
        return Said(detector.overfitting_epoch is not None, place, detector.suspected, detector.overfitting_risk)


class LossesOnly:
    """The same alarm and a risk fitted in the same way, without looking at interactions.

    It looks where ours does; in histories without interactions, at every record.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        stored = json.loads((HERE / "calibration.json").read_text())["losses only"]
        self.model = RiskModel(stored["weights"], stored["intercept"])
        self.track, self.low, self.risk, self.everywhere = LossTrack(), math.nan, math.nan, everywhere

    def update(self, record: Record) -> Said:
        if self.everywhere or record.strength is not None:
            self.track.add(record.epoch, record.train_loss, record.val_loss, record.val_losses)
            evidence = self.track.evidence() | {"horizon": horizon(record.epoch, record.last_epoch)}
            if math.isnan(self.low) and losses_show_overfitting(evidence):
                self.low = evidence["best_val_loss"]
            elif evidence.get("val_loss", math.inf) < self.low:
                self.low = math.nan
            self.risk = self.model.risk(evidence)
        return Said(not math.isnan(self.low), risk=self.risk)


# -- rivals ----------------------------------------------------------------------------------------------------------


class AtEnds:
    """A rule that looks at the ends of epochs; once it has stopped the training, it stays so.

    Each is built from its published definition. Parameters are the authors' own or the textbook's; nothing was tuned.
    """

    def __init__(self) -> None:
        self.seen: list[Record] = []
        self.stopped = False

    def update(self, record: Record) -> Said:
        if record.is_end and record.val_loss is not None:
            self.seen.append(record)
            self.stopped = self.stopped or self.stops()
        return Said(self.stopped)

    @property
    def val(self) -> list[float]:
        return [math.nan if r.val_loss is None else r.val_loss for r in self.seen]

    def stops(self) -> bool:
        raise NotImplementedError


class Patience(AtEnds):
    """Early stopping: so many epochs without a new lowest validation loss (Lightning's default is 3)."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def stops(self) -> bool:
        return len(self.val) - 1 - int(np.argmin(self.val)) >= self.epochs


class GeneralisationLoss(AtEnds):
    """GL (Prechelt 1998): validation loss more than ``alpha`` percent above its minimum so far."""

    alpha = 5.0

    def stops(self) -> bool:
        return self.gl > self.alpha

    @property
    def gl(self) -> float:
        return 100 * (self.val[-1] / min(self.val) - 1)


class ProgressQuotient(GeneralisationLoss):
    """PQ (Prechelt 1998): GL over the progress of the training loss within the last strip, at strip ends."""

    alpha, strip = 2.0, 5

    def stops(self) -> bool:
        if len(self.seen) % self.strip:
            return False
        last = [r.train_loss for r in self.seen[-self.strip :]]
        progress = 1000 * (np.mean(last) / min(last) - 1)
        return self.gl > self.alpha * max(progress, 1e-12)


class Up(AtEnds):
    """UP (Prechelt 1998): validation loss rose at the ends of so many strips in a row."""

    strips, strip = 4, 5

    def stops(self) -> bool:
        ends = self.val[self.strip - 1 :: self.strip][-self.strips - 1 :]
        whole = len(self.seen) % self.strip == 0 and len(ends) > self.strips
        return whole and all(b > a for a, b in pairwise(ends))


class GapCusum(AtEnds):
    """Page's CUSUM of the growth of the loss gap per epoch, in its running standard deviations."""

    slack, limit = 0.5, 5.0

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def stops(self) -> bool:
        gap = np.array(self.val) - [r.train_loss for r in self.seen]
        growth = np.diff(gap)
        if len(growth) < 3:
            return False
        self.total = max(0.0, self.total + growth[-1] / max(growth.std(), 1e-12) - self.slack)
        return self.total > self.limit


class LabelWave(AtEnds):
    """Label Wave (ICLR 2024): first local minimum of the moving average of the number of changed predictions.

    Told one epoch after the minimum. The paper's window is not in its released code; 3 is ours.
    """

    window = 3

    def stops(self) -> bool:
        changes = [r.changes for r in self.seen[1:] if r.changes is not None]  # the first epoch has none before it
        if len(changes) <= self.window:
            return False
        return sum(changes[-self.window :]) > sum(changes[-self.window - 1 : -1])


class Alignment(AtEnds):
    """GWA (arXiv 2510.25480): so many epochs without a new highest gradient-weight alignment.

    The paper keeps the checkpoint of the highest; the patience, and the moving average over 3 epochs, are ours.
    """

    window, patience = 3, 5

    def stops(self) -> bool:
        gwa = np.array([r.gwa for r in self.seen])
        if len(gwa) < self.window:
            return False
        smooth = np.convolve(gwa, np.ones(self.window) / self.window, mode="valid")
        return len(smooth) - 1 - int(smooth.argmax()) >= self.patience


RIVALS: dict[str, Callable[[], Detector]] = {
    "patience 3": lambda: Patience(3),
    "patience 5": lambda: Patience(5),
    "patience 10": lambda: Patience(10),
    "Prechelt GL5": GeneralisationLoss,
    "Prechelt PQ2": ProgressQuotient,
    "Prechelt UP4": Up,
    "gap CUSUM": GapCusum,
    "Label Wave": LabelWave,
    "GWA": Alignment,
}
