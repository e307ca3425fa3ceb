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
    batches_done,
    is_fast_dev_run,
    logged_step,
    of_rank_0,
    validations_in,
)
from lightning_interactions.phases.epochs import START, plain_epoch


@dataclass(frozen=True)
class Spot:
    """A place in the training.

    Attributes:
        epoch: As it is recorded: 3 at the end of epoch 3, 2.25 when a quarter of it was trained, -1 before the first.
        step: At which Lightning logs there.
        count: Batches that stepped so far.
    """

    epoch: float
    step: int
    count: int


class Schedule:
    """Knows the places of one fit at which ``should_probe(epoch, step)`` is asked, and what the budget says to it.

    With ``every_n_epochs`` these are the validations. By default they are the marks of `rhythm.marks`, of which most
    lie inside of epochs.

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
        return self.by_octaves and options.watch == "val" and not options.resample and not is_fast_dev_run(self.trainer)

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
        return Spot(self.trainer.current_epoch, logged_step(self.trainer), 0)

    def _look_at_epoch(self) -> None:
        """Find out how long the epoch is and where it is validated; rank 0 decides on that for all."""
        epoch = self.trainer.current_epoch
        if epoch == self._epoch or not self.by_octaves:
            return
        options, self._epoch = self.loop.options, epoch
        batches = of_rank_0(self.trainer, self.trainer.num_training_batches)
        self._batches = int(batches) if math.isfinite(batches) and batches > 0 else None
        self._validations = validations_in(self.trainer, self._batches or 0)
        self._number = marks_per_epoch(epoch, options.per_octave, options.max_per_epoch)
        self._marks = marks(self._batches, self._number, self._validations or ()) if self._batches else frozenset()

    # -- whether it is a place to measure at -------------------------------------------------------------------------

    def asks_after_batch(self) -> bool:
        """Whether to ask after the batch that has ended, inside of an epoch and beside its validations."""
        if not self._inside or not self.ready:
            return False
        self._look_at_epoch()
        done = batches_done(self.trainer)
        return done in self._marks and done != self._batches and done not in (self._validations or ())

    def asks_at_validation(self) -> bool:
        """Whether to ask at the validation that begins."""
        self._look_at_epoch()
        done = batches_done(self.trainer)
        self._validated = self.trainer.current_epoch, done
        if not self.by_octaves or self._batches is None or done in self._marks:
            return True
        # Nobody knew that it would come, or no mark beside the validations counts: then it must not be too near.
        last = self.loop.history.last
        unforeseen = self._validations is None or not self._inside
        return unforeseen and (last is None or self.spot().epoch - last["epoch"] >= 1 / self._number - 1e-9)

    def asks_at_epoch_end(self) -> bool:
        """Whether to ask at the end of an epoch: where none is validated, or this one was not."""
        if not self.trainer.enable_validation:
            return True
        if not self._inside or not self.ready:
            return False
        self._look_at_epoch()
        done = batches_done(self.trainer)
        return done in self._marks and self._validated != (self.trainer.current_epoch, done)

    def is_due(self, spot: Spot, *, first_losses: bool = False) -> bool:
        """Ask the rhythm, then the budget, on this rank; ``first_losses``: the losses are still to be chosen."""
        last = self.loop.history.last
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
        wanted = (spot.epoch - START) / (options.every_n_epochs or 1) if not self.by_octaves else options.per_octave
        return self.budget.allows(now, before, wanted=wanted, per_octave=options.per_octave)
