"""One fit under a Trainer: when to measure, what to do with a record, and faults kept away from the training run."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

from lightning_interactions.errors import MeasureError, ModelCallError
from lightning_interactions.monitor.actions import Actions
from lightning_interactions.monitor.budget import Budget, timed
from lightning_interactions.monitor.faults import Faults
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.run import Record
from lightning_interactions.monitor.schedule import Schedule, Spot
from lightning_interactions.monitor.sights import Sights
from lightning_interactions.monitor.terminal import measuring, say
from lightning_interactions.monitor.trainer import (
    check_layer,
    check_trainer,
    is_below_minimum,
    is_fast_dev_run,
    is_fitting,
    lacks_validation,
    logged_losses,
    logged_train_loss,
    logged_value,
    ranks_of,
    same_on_all_ranks,
    wrapper_of,
)
from lightning_interactions.monitor.writer import Writer
from lightning_interactions.report.words import summary, table

DECISION_KEYS = (
    "phase", "suspected", "boundary_evidence", "boundary_epoch", "overfitting_risk", "val_loss_before_alarm",
)  # fmt: skip
"""Logged keys that other callbacks act on."""


class Session:
    """What happens to one loop object while a Trainer fits; made anew for each fit.

    ``should_probe(epoch, step)`` is the rhythm, asked on every rank; rank 0 decides.
    """

    def __init__(
        self, trainer: Any, module: Any, loop: InteractionMonitor, should_probe: Callable[[float, int], bool]
    ) -> None:
        self.trainer, self.module, self.loop = trainer, module, loop
        self.options = loop.options
        self.faults = Faults(self.options.on_error)
        loop.tell = self.faults.tell
        loop.begin_fit()
        self._usable = check_trainer(trainer, self.options)
        missing = lacks_validation(trainer, self.options) if self._usable else None
        self._missing = missing  # told once it is known that there is something to measure
        if missing is not None:
            loop.watch("train")
            self.options = loop.options
        self.budget = Budget(self.options.max_overhead)
        self._schedule = Schedule(trainer, loop, self.budget, should_probe)
        self._sights = Sights(trainer, module, loop, self.faults)
        self._actions = Actions(trainer, loop, self.faults)
        self._writer = Writer(trainer, module, loop, self.budget, self.faults)
        self._waiting: Record | None = None
        self.due: Spot | None = None  # where the validation that is under way will be measured, if it will
        self._checked = False  # whether a sanity check has shown samples for a record before training
        self._losses_tried = bool(loop.watchlist.losses)  # whether samples for the losses were chosen, if there are any
        self._ended = False  # whether an epoch has ended in this fit, or what stands for one
        self._late = False  # whether the loss to compare with is logged after the callbacks' turn
        self._before: dict[str, Any] = {}  # metrics logged before the validation that is under way
        self._told_cost = self._told_limit = False

    def forgive(self) -> None:
        """Switch off where mistakes in what was chosen would be errors: this run is not to blame."""
        self._sights.strict = False

    @property
    def active(self) -> bool:
        """Whether anything is measured in this fit."""
        return self._usable and not self.faults.switched_off

    @property
    def _speaks(self) -> bool:
        """Whether this process writes files and tells people, as long as the monitor is at work."""
        return self.active and self._writer.writes

    # -- before the first measurement --------------------------------------------------------------------------------

    @timed
    def prepare(self) -> None:
        """Find the layer and the ranks: module and processes exist by now."""
        if self.active:
            check_layer(self.module, self.options)
            self.loop.ranks = ranks_of(self.trainer).asking(self.module, wrapper_of(self.trainer, self.module))

    @timed
    def start(self) -> None:
        """Start the clock; measure before training, if the sanity check has shown samples that will do."""
        self.budget.start()
        self._begin_anew()
        self._schedule.choose_unit()
        never = self._schedule.never_begins
        if never is not None and self.active:
            self.faults.tell(never)
        # A stop that still waits for the Trainer's minimum is not in the checkpoint, and its event does not come again.
        self._actions.ask_to_stop(asked=is_below_minimum(self.trainer))
        if self._speaks:
            with self._contained("preparing the loggers"):
                self._writer.open()
        if self._checked:
            self._measure_at_start()

    def _begin_anew(self) -> None:
        """Forget the record if this run does not continue it (known by the sanity check, which comes after loading)."""
        last = self.loop.history.last
        if last is not None and (self.trainer.global_step == 0 or self._schedule.is_before(last)):
            self.loop.reset()

    def _measure_at_start(self) -> None:
        taken = False
        with self._contained("choosing samples"):
            taken = self.loop.choose_at_start()
        if taken:
            self._schedule.ready = True
            self.due = self._spot_if_due(self._schedule.start())
            self.measure(inside=True)

    @timed
    def begin_step(self, split: str, batch: Any) -> None:
        """See what the step that comes does with a batch, if that is of interest."""
        looks = self.trainer.sanity_checking and (self.loop.rules is None or self._checked)
        if self.active and (looks or split == "train" or self.due is not None):
            with self._contained("watching a step"):
                self._sights.open(split, batch)

    @timed
    def end_step(self, split: str) -> None:
        """Look at the first batch that was seen; consider the samples of each."""
        seen = self._sights.close()
        if self.active and (seen is not None or self.loop.ranks.lockstep is not None):
            self._sights.look(split, seen)
        if self._missing is not None and self.active and self.loop.rules is not None:
            self.faults.tell(
                f"{self._missing}, so the training samples are watched; without validation there is no alarm"
            )
            self._missing = None
        # Of the sanity check only for a record before training; a batch that told nothing is not waited for then.
        wanted = not self.trainer.sanity_checking or (self._checked and self.loop.rules is not None)
        if seen is not None and self.active and wanted:
            with self._contained("taking in samples"):
                self.loop.observe(split, seen)

    @timed
    def end_batch(self) -> None:
        """Measure inside of an epoch, if that is due."""
        if self._usable and self._schedule.asks_after_batch():
            self._ended |= not self._schedule.awaits_validation
            self._measure_inside(self._schedule.spot())

    def begin_epoch(self) -> None:
        """Take note that the training samples pass by once more."""
        self.loop.watchlist.recurrence.begin_epoch()
        self._sights.begin_pass("train")

    @timed
    def end_epoch(self) -> None:
        """Look for augmentation at the end of a training epoch; measure where it was not validated."""
        self._ended = True
        if self.active:
            with self._contained("looking for augmentation"):
                self.loop.end_epoch()
        if not self._usable or not is_fitting(self.trainer) or not self._schedule.asks_at_epoch_end():
            return
        spot = self._schedule.spot(after_epoch=True)
        if self.trainer.enable_validation:
            self._measure_inside(spot)
        else:
            self._begin_pass(spot)
            self.measure()

    # -- measuring ---------------------------------------------------------------------------------------------------

    @timed
    def gate(self) -> None:
        """Decide, together with the other ranks, whether this validation is measured."""
        if self.trainer.sanity_checking and self._usable and self._schedule.begins_before_training:
            self._begin_anew()
            self._checked = not len(self.loop.history) and self.trainer.global_step == 0
            self._sights.begin_pass("val")
        if self._usable and is_fitting(self.trainer):
            self.due = None
            if self._schedule.asks_at_validation():
                self._begin_pass(self._schedule.spot())

    def _begin_pass(self, spot: Spot) -> None:
        self.due = self._spot_if_due(spot)
        if self.due is not None:
            self._before = {key: copy(value) for key, value in self.trainer.callback_metrics.items()}
            self._sights.begin_pass("val")

    def _spot_if_due(self, spot: Spot) -> Spot | None:
        due = False
        with self._contained("should_probe"):
            lacking = self.trainer.validating and not self._losses_tried
            due = self.active and self._schedule.is_due(spot, first_losses=lacking)
        due = same_on_all_ranks(self.trainer, due)
        self._losses_tried |= due and bool(self.trainer.validating)
        return spot if due else None

    def _measure_inside(self, spot: Spot) -> None:
        """Measure beside the validations, if that is due there: from the present state of the model."""
        self.due = self._spot_if_due(spot)
        self._tell_limit()
        if self.due is not None:
            self.loop.start = None
            self.measure(inside=True)

    @timed
    def measure(self, *, inside: bool = False) -> None:
        """Measure if it is due; then decide, or log what needs no validation loss and `settle` when that is logged."""
        if self.due is not None and self.active:
            self._sights.look_at_last()
        spot, self.due = self.due, None
        if spot is not None and (self.active or self.trainer.world_size > 1):
            wait = False
            with self._contained("measuring", counts=True):
                self._waiting = self._take(spot, inside)
                wait = self._waiting is not None and not inside and self._has_to_wait
                if wait and self._waiting is not None:
                    (self._writer.show if self._writer.holds else self._writer.log)(self._waiting.scalars)
            if not wait:
                self.settle()
        if inside:
            self.write()
        elif is_fitting(self.trainer) and self._waiting is None:
            self._log_gaps()

    def _take(self, spot: Spot, inside: bool) -> Record | None:
        """Measure; ``None`` if that cannot be done inside of an epoch, and is left to the validations."""
        losses = {} if inside else self._logged_losses()
        enabled, rows = self.options.verbose, self.loop.masked_rows()
        try:
            with measuring(self.trainer, rows, enabled=enabled) as progress:
                if inside and not self._schedule.ready:
                    self.loop.prepare(self.module)  # samples for the losses too
                record = self.loop.take(self.module, spot.epoch, spot.step, progress, losses, inside=inside)
        except (ModelCallError, MeasureError) as error:
            if not inside or not spot.count:
                raise
            # For example a hidden state that fits the training batches only. All ranks have come to this together.
            self._schedule.only_validations()
            self.faults.tell(f"the model is asked at validations only, as it fails inside of an epoch ({error})")
            return None
        record.scalars["seconds"] = self.budget.record()
        self.faults.recovered()
        self._schedule.ready = True
        return record

    def _log_gaps(self) -> None:
        """Log what is missing so far as ``nan``: without these keys a `ModelCheckpoint` would stop the run."""
        keys = [*DECISION_KEYS, *(f"{part}{self.options.names.curve}" for part in self.options.parts)]
        missing = [key for key in keys if key not in self._writer.shown]
        if missing:
            self._writer.log(dict.fromkeys(missing, math.nan))

    def _logged_losses(self) -> dict[str, float]:
        """Return the losses logged so far with which ours is to be compared."""
        if self._judge is not None or "val" not in self.options.loss_splits:
            return {}
        return logged_losses(self.trainer, self._before, self.options.names)

    @property
    def _has_to_wait(self) -> bool:
        """Whether the validation loss that decides, or with which ours is to be compared, may still be logged."""
        waits = self._judge is not None or not self.loop.run.judged or self._late or self._writer.holds
        return bool(self.trainer.enable_validation) and waits

    @property
    def _judge(self) -> str | None:
        """The logged validation loss that decides; ``None`` if that is ours."""
        return self.options.monitor or self.loop.run.judge

    @timed
    def settle(self, *, late: bool = False) -> None:
        """Decide on the record that waits, keep it, act on it and tell of it."""
        record, self._waiting = self._waiting, None
        if record is None:
            return
        run, events = self.loop.run, []
        if late and (not run.judged or self._late):
            with self._contained("comparing losses"):
                before = dict(self.loop.tasks.by_split)
                logged = self._logged_losses()
                if logged:
                    self.loop.compare(self.module, logged)
                self._late |= run.judged
                run.judged = True  # if nothing was logged by now, nothing will be
                if self.loop.tasks.by_split != before:  # the outputs have another meaning than was thought
                    record = self.loop.take(self.module, record.epoch, record.step)
        with self._contained("deciding"):
            events = run.decide(record, *self._losses(record), self._schedule.end(record.epoch))
            run.keep(record)
        # Act first: a logger that fails must not swallow an alarm, or on rank 0 keep the other ranks waiting. Nor may a
        # record that cannot be kept: the detector does not say it again.
        if not is_fast_dev_run(self.trainer):
            with self._contained("acting on events"):
                self._actions.act(events)
        with self._contained("logging"):
            self._writer.add(record, events, late=late)

    def _losses(self, record: Record) -> tuple[float | None, float | None]:
        """Training and validation loss: those on the fixed samples, or the validation loss the user logs."""
        key, own = self._judge, record.losses.get("train")
        if key is None:
            return own, record.losses.get("val")
        if record.inside:
            return None if self.loop.run.judge else own, None
        value = logged_value(self.trainer, key)
        if value is None:
            known = ", ".join(sorted(map(str, self.trainer.callback_metrics))) or "none"
            self.faults.tell(f"no metric {key!r} was logged, so that loss is missing; logged are: {known}")
        return logged_train_loss(self.trainer, key) if self.loop.run.judge else own, value

    # -- telling -----------------------------------------------------------------------------------------------------

    @timed
    def write(self, *, placed: bool = False) -> None:
        """Write what records need besides the scalars that Lightning logs; ``placed``: it just has (`Writer.write`)."""
        placed = placed or (self._ended and not self._schedule.awaits_validation)
        self._writer.write(self._contained, placed=placed)
        if self.options.verbose and self.budget.records == 1 and len(self.loop.history) and not self._told_cost:
            self._told_cost = True
            self._tell_cost()
        self._tell_limit()

    def _tell_cost(self) -> None:
        """Say what the first measurement cost, and all that came with it."""
        samples, spent = sum(map(len, self.loop.watchlist.watched.values())), self.budget.spent
        trained, pairs = self.budget.training, self.options.pairs
        size = max((game.num_players for game in self.loop.games.values()), default=self.options.num_players)
        masks = f"2**{size} coalitions" if pairs is None else f"{pairs} random mask pairs of {size} players"
        share = f", {spent / max(trained, 1e-9):.0%} of the training time so far" if self.trainer.global_step else ""
        say(
            self.trainer,
            f"TwoPhaseMonitor: with the first measurement ({samples} samples x {masks}), logging and drawing "
            f"it took {spent:.2f} s{share}. max_overhead, per_octave, every_n_epochs or num_samples make it "
            "less.",
        )

    def _tell_limit(self) -> None:
        """Say, once, that there will be fewer records than are due, and why."""
        if self.options.verbose and self.budget.binds and not self._told_limit:
            self._told_limit = True
            budget, unit = self.budget, self.loop.history.unit
            say(
                self.trainer,
                f"TwoPhaseMonitor: it has taken {budget.spent:.0f} s, {budget.spent / max(budget.training, 1e-9):.0%} "
                f"of the training time, so from now on there are fewer records, evenly on the axis of log {unit}s, to "
                f"stay below {budget.max_overhead or 0:.0%}; max_overhead=None measures them all.",
            )

    @timed
    def finish(self) -> None:
        """Draw the run once more if that was not done since its last record, keep it, and sum it up."""
        self.write(placed=self._writer.is_unsure)
        if not self._speaks or not len(self.loop.history):
            return
        self._writer.finish(self._contained)
        if self.options.verbose:
            with self._contained("summing up the run"):
                say(self.trainer, "\n" + table("TwoPhaseMonitor", summary(self._writer.record(pictures=False))))
        self._writer.write(self._contained, placed=False)

    @timed
    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as long as the fit lasts: it is work too."""
        return self.loop.state_dict()

    @timed
    def interrupt(self) -> None:
        """Forget what was under way; keep what was measured."""
        self._sights.close()
        self._waiting, self.due = None, None
        self._writer.interrupt(self._contained, keeps=self._speaks)

    # -- faults ------------------------------------------------------------------------------------------------------

    def _contained(self, what: str, *, counts: bool = False) -> AbstractContextManager[None]:
        """Keep a fault of ours away from the training run; it becomes an event, and is told as one."""

        def happened(problem: str) -> None:
            spot = self._schedule.here
            event = self.loop.run.failed(spot.epoch, spot.step, problem)
            if self._writer.writes:
                self._actions.send([event], warned=True)
                self._writer.add_fault(event)

        return self.faults.contain(what, happened, counts=counts)
