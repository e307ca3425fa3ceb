"""The rhythm under a Trainer: where it is, and whether that is a place to measure at; on all ranks alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_interactions.monitor.budget import Budget
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.rhythm import marks, marks_per_epoch
from lightning_interactions.monitor.trainer import (
    averages_weights,
    batches_counted,
    batches_done,
    has_epochs,
    is_fast_dev_run,
    last_epoch,
    last_step,
    logged_step,
    of_rank_0,
    validation_interval,
    validations_in,
)
from lightning_interactions.phases.epochs import START, plain_epoch, whole_epoch


@dataclass(frozen=True)
class Spot:
    """A place in the training.

    Attributes:
        epoch: As it is recorded: 3 at the end of epoch 3, 2.25 when a quarter of it was trained, -1 before the first;
            in a training without epochs the steps done, less one.
        step: At which Lightning logs there.
        count: Batches that stepped so far.
    """

    epoch: float
    step: int
    count: int


class Schedule:
    """Knows the places of one fit at which ``should_probe(epoch, step)`` is asked, and what the budget says to it.

    With ``every_n_epochs`` these are the validations. By default they are the marks of `rhythm.marks`, of which most
    lie inside of epochs. Where there are no epochs, the stretches between two validations stand for them, or, where
    none comes, as many batches as there are between what Lightning logs.

    Attributes:
        ready: Whether samples and model are known on all ranks, so that there is something to measure inside of epochs.
            After a resume they are not before the next validation: nothing but the keys of samples is in a checkpoint.
    """

    def __init__(
        self, trainer: Any, loop: InteractionMonitor, budget: Budget, should_probe: Callable[[float, int], bool]
    ) -> None:
        self.trainer, self.loop, self.budget, self.should_probe = trainer, loop, budget, should_probe
        # Other weights are validated than are trained on, or other samples each time: the curve would jump.
        self._inside = self.by_octaves and not loop.options.resample and not averages_weights(trainer)
        self.ready = False
        self._epoch = -1  # the one of which the following is known
        self._batches: int | None = None
        self._validations: frozenset[int] | None = frozenset()
        self._marks: frozenset[int] = frozenset()
        self._number = 1
        self._validated = (-1, -1)  # epoch and batch of the last validation

    @property
    def by_octaves(self) -> bool:
        """Whether the default rhythm is kept."""
        return self.loop.options.every_n_epochs is None

    @property
    def begins_before_training(self) -> bool:
        """Whether the samples of the sanity check may be measured before anything is trained."""
        options = self.loop.options
        possible = self.by_octaves and options.watch == "val" and not options.start_epoch
        return possible and not options.resample and not is_fast_dev_run(self.trainer)

    @property
    def by_steps(self) -> bool:
        """Whether steps are counted, as there are no epochs."""
        return self.loop.history.unit == "step"

    @property
    def awaits_validation(self) -> bool:
        """Whether a validation is going to show how a pass ends: what is logged then, and the training samples."""
        trainer = self.trainer
        by_time = getattr(trainer, "_val_check_time_interval", None) is not None
        by_count = not self.by_steps or validation_interval(trainer) is not None
        return bool(trainer.enable_validation) and (by_time or by_count)

    def choose_unit(self) -> None:
        """Decide, with the other ranks, what is counted: once for a run, which may be resumed with other limits."""
        if not len(self.loop.history):
            self.loop.history.unit = "epoch" if has_epochs(self.trainer, self._epoch_length()) else "step"

    @property
    def never_begins(self) -> str | None:
        """Say why nothing will be measured, if the training will be over before it is to begin."""
        name, start = "max_steps" if self.by_steps else "max_epochs", self.loop.options.start_epoch
        limit = getattr(self.trainer, name) or 0
        late = start and 0 < limit <= start
        return f"nothing will be measured, as start_epoch={start} is not below {name}={limit}" if late else None

    def is_before(self, last: dict[str, Any]) -> bool:
        """Whether the training has not yet come to the last record: then that is one of another run."""
        now = logged_step(self.trainer) if self.by_steps else self.trainer.current_epoch
        return bool(now < last["epoch"])

    def end(self, place: float) -> float | None:
        """Return the place at which the training will be over, asked at a place by all ranks; ``None``: not known."""
        return last_step(self.trainer, int(place)) if self.by_steps else last_epoch(self.trainer)

    def only_validations(self) -> None:
        """Measure no more inside of epochs."""
        self._inside = False

    # -- where it is -------------------------------------------------------------------------------------------------

    def spot(self, *, after_epoch: bool = False) -> Spot:
        """Return where the training is: after a batch, in the validation that follows it, or at the end of an epoch."""
        self._look_at_epoch()
        trainer, step = self.trainer, logged_step(self.trainer)
        count = step + (not after_epoch)  # a batch is counted after the hooks and the validation that follow it
        if after_epoch and trainer.enable_validation:
            step = max(step - 1, 0)  # where a validation of this epoch would have been
        if self.by_steps:
            return Spot(count - 1, step, count)
        done = batches_done(trainer)
        ended = self._batches is None or done >= self._batches
        inside = self.by_octaves and not ended and self._batches is not None
        epoch = trainer.current_epoch - 1 + done / (self._batches or 1) if inside else trainer.current_epoch
        return Spot(plain_epoch(epoch), step, count)

    def start(self) -> Spot:
        """Return the place before anything was trained."""
        return Spot(int(START), logged_step(self.trainer), 0)

    @property
    def here(self) -> Spot:
        """Where the training is, as far as it is known without asking other ranks: for what went wrong there."""
        step = logged_step(self.trainer)
        return Spot(step if self.by_steps else self.trainer.current_epoch, step, 0)

    def _look_at_epoch(self) -> None:
        """Find out how long the epoch is and where it is validated; rank 0 decides on that for all."""
        if self.by_steps:
            self._look_at_stretch()
            return
        epoch = self.trainer.current_epoch
        if epoch == self._epoch or not self.by_octaves:
            return
        self._epoch, self._batches = epoch, self._epoch_length()
        self._validations = validations_in(self.trainer, self._batches or 0)
        self._lay_marks(epoch)

    def _look_at_stretch(self) -> None:
        """Find out, likewise, how many batches stand for an epoch; they are counted alike on all ranks."""
        interval = validation_interval(self.trainer)
        self._batches = interval or max(self.trainer.log_every_n_steps, 1)
        self._validations = frozenset() if interval is None else frozenset([interval])
        self._lay_marks(logged_step(self.trainer) // self._batches)

    def _lay_marks(self, epoch: int) -> None:
        options = self.loop.options
        self._number = marks_per_epoch(epoch, options.per_octave, options.max_per_epoch)
        self._marks = marks(self._batches, self._number, self._validations or ()) if self._batches else frozenset()

    def _epoch_length(self) -> int | None:
        batches = of_rank_0(self.trainer, self.trainer.num_training_batches)
        return int(batches) if math.isfinite(batches) and batches > 0 else None

    @property
    def _done(self) -> int:
        """Batches of this epoch, or this stretch, that have been trained on."""
        if not self.by_steps or not self._batches:
            return batches_done(self.trainer)
        return (batches_counted(self.trainer) - 1) % self._batches + 1

    # -- whether it is a place to measure at -------------------------------------------------------------------------

    def asks_after_batch(self) -> bool:
        """Whether to ask after the batch that has ended, inside of an epoch and beside its validations."""
        if not self._inside or not (self.ready or self.by_steps):
            return False
        self._look_at_epoch()
        done = self._done
        beside = done in self._marks and done not in (self._validations or ())
        if not self.by_steps:
            return beside and done != self._batches
        # As no pass of the data ends, the first record is made on the training samples of the first stretch.
        chooses = not self.awaits_validation and self.loop.options.watch == "train"
        return beside and (self.ready or (done == self._batches and chooses))

    def asks_at_validation(self) -> bool:
        """Whether to ask at the validation that begins."""
        self._look_at_epoch()
        done = batches_done(self.trainer)
        self._validated = self.trainer.current_epoch, done
        if not self.by_octaves or self.by_steps or self._batches is None or done in self._marks:
            return True
        # Nobody knew that it would come, or no mark beside the validations counts: then it must not be too near.
        last = self.loop.history.last
        unforeseen = self._validations is None or not self._inside
        return unforeseen and (last is None or self.spot().epoch - last["epoch"] >= 1 / self._number - 1e-9)

    def asks_at_epoch_end(self) -> bool:
        """Whether to ask at the end of an epoch: where none is validated, or this one was not."""
        if not self.trainer.enable_validation:
            return True
        if not self._inside or not self.ready or self.by_steps:
            return False
        self._look_at_epoch()
        done = batches_done(self.trainer)
        return done in self._marks and self._validated != (self.trainer.current_epoch, done)

    def is_due(self, spot: Spot, *, first_losses: bool = False) -> bool:
        """Ask the rhythm, then the budget, on this rank; ``first_losses``: the losses are still to be chosen."""
        last = self.loop.history.last
        if whole_epoch(spot.epoch) < self.loop.options.start_epoch:
            return False
        # Then this place was measured before the checkpoint this run resumed from.
        if last is not None and (last["epoch"], last["step"]) == (spot.epoch, spot.step):
            return False
        return bool(self.should_probe(spot.epoch, spot.count)) and (first_losses or self._is_affordable(spot))

    def _is_affordable(self, spot: Spot) -> bool:
        options, last = self.loop.options, self.loop.history.last
        if last is None:
            return True
        if self.by_octaves and (self._batches is not None or spot.epoch != last["epoch"]):
            now, before = spot.epoch - START, last["epoch"] - START
        else:
            now, before = spot.count, last["step"] + spot.count - spot.step
        apart = max(options.every_n_epochs or 1, (self._batches or 1) if self.by_steps else 1)
        wanted = options.per_octave if self.by_octaves else (spot.epoch - START) / apart
        return self.budget.allows(now, before, wanted=wanted, per_octave=options.per_octave)
