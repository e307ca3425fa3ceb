"""One fit under a Trainer: when to measure, what to do with a record, and faults kept away from the training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

from lightning_interactions.functional import order_distribution
from lightning_interactions.monitor.budget import Budget, timed
from lightning_interactions.monitor.faults import Faults
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.run import Record
from lightning_interactions.monitor.sights import Sights
from lightning_interactions.monitor.terminal import bars_cleared, measuring, say
from lightning_interactions.monitor.trainer import (
    check_layer,
    check_trainer,
    is_below_minimum,
    is_fast_dev_run,
    is_fitting,
    lacks_validation,
    log_scalars,
    logged_losses,
    logged_step,
    logged_train_loss,
    logged_value,
    ranks_of,
    same_on_all_ranks,
    scalar_step,
)
from lightning_interactions.phases import PhaseEvent
from lightning_interactions.report.alerts import WarnAlert, resolve_alerts
from lightning_interactions.report.loggers import Loggers
from lightning_interactions.report.record import RunRecord
from lightning_interactions.report.words import short_sentence, summary, table

DECISION_KEYS = ("phase", "boundary_epoch", "overfitting_risk", "val_loss_before_alarm")
"""Logged keys that other callbacks act on."""


class Session:
    """What happens to one loop object while a Trainer fits; made anew for each fit.

    ``should_probe(epoch, step)`` is the rhythm, asked on every rank; rank 0 decides.
    """

    def __init__(
        self, trainer: Any, module: Any, loop: InteractionMonitor, should_probe: Callable[[int, int], bool]
    ) -> None:
        self.trainer, self.module, self.loop = trainer, module, loop
        self.options = loop.options
        self.should_probe = should_probe
        self.faults = Faults(self.options.on_error)
        loop.tell = self.faults.tell
        loop.begin_fit()
        self._alerts = resolve_alerts(self.options.on_event)
        self._loggers = Loggers(trainer.loggers, self.options.log_key_prefix, self.options.log_figures)
        self.budget = Budget(self.options.max_overhead)
        self._asks_to_stop = self._stop_is_ours = False
        self._waiting: Record | None = None
        self._unwritten: tuple[Record, Sequence[PhaseEvent]] | None = None  # decided and logged, but not written
        self._untold: list[PhaseEvent] = []  # faults no logger has been told of
        self._places: dict[int, int] = {}  # where the scalars of a record, by its step, are on the x axis
        self._drawn: int | None = None  # step of the record that was drawn last
        self.due = False  # whether the validation that is under way will be measured
        self._sights = Sights(trainer, module, loop, self.faults)
        self._late = False  # whether the loss to compare with is logged after the callbacks' turn
        self._before: dict[str, Any] = {}  # metrics logged before the validation that is under way
        self._usable = check_trainer(trainer, module, self.options)
        missing = lacks_validation(trainer, self.options) if self._usable else None
        self._missing = missing  # told once it is known that there is something to measure
        if missing is not None:
            loop.watch("train")
            self.options = loop.options

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
        return self.active and self._writes

    @property
    def _writes(self) -> bool:
        """Whether this process writes files and tells people."""
        return bool(self.trainer.is_global_zero) and not is_fast_dev_run(self.trainer)

    # -- before the first measurement --------------------------------------------------------------------------------

    @timed
    def prepare(self) -> None:
        """Find the layer and the ranks: module and processes exist by now."""
        if self.active:
            check_layer(self.module, self.options)
            self.loop.ranks = ranks_of(self.trainer)

    @timed
    def start(self) -> None:
        """Start the clock, and begin anew if this run does not continue the recorded one (known only by now)."""
        self.budget.start()
        last = self.loop.history.last
        if last is not None and (self.trainer.global_step == 0 or self.trainer.current_epoch < last["epoch"]):
            self.loop.reset()
        # A stop that still waits for the Trainer's minimum is not in the checkpoint, and its event does not come again.
        self._ask_to_stop(asked=is_below_minimum(self.trainer))
        if self._speaks:
            with self._contained("preparing the loggers"):
                self._loggers.open(self.options.parts)
                blind = self._loggers.blind
                if blind is not None:
                    self.faults.tell(
                        f"{blind} can show neither histograms nor figures; `monitor.report(path)` writes them to a "
                        "file, and so does `lightning-interactions report RUN_DIR` where the logger keeps files"
                    )

    @timed
    def begin_step(self, split: str, batch: Any) -> None:
        """See what the step that comes does with a batch, if that is of interest."""
        looks = self.trainer.sanity_checking and self.loop.rules is None
        if self.active and (looks or split == "train" or self.due):
            with self._contained("watching a step"):
                self._sights.open(split, batch)

    @timed
    def end_step(self, split: str) -> None:
        """Look at the first batch that was seen; consider the samples of each, but for those of the sanity check."""
        seen = self._sights.close()
        if seen is not None and self.active:
            self._sights.look(split, seen)
        if self._missing is not None and self.active and self.loop.rules is not None:
            self.faults.tell(
                f"{self._missing}, so the training samples are watched; without validation there is no alarm"
            )
            self._missing = None
        if seen is not None and self.active and not self.trainer.sanity_checking:
            with self._contained("taking in samples"):
                self.loop.observe(split, seen)

    def begin_epoch(self) -> None:
        """Take note that the training samples pass by once more."""
        self.loop.watchlist.recurrence.begin_epoch()
        self._sights.begin_pass("train")

    @timed
    def end_epoch(self) -> None:
        """Look for augmentation at the end of a training epoch."""
        if self.active:
            with self._contained("looking for augmentation"):
                self.loop.end_epoch()

    # -- measuring ---------------------------------------------------------------------------------------------------

    @timed
    def gate(self) -> None:
        """Decide, together with the other ranks, whether this validation is measured."""
        if not self._usable or not is_fitting(self.trainer):
            return
        due = False
        with self._contained("should_probe"):
            epoch, last = self.trainer.current_epoch, self.loop.history.last
            # Then this validation was measured before the checkpoint this run resumed from.
            again = last is not None and (last["epoch"], last["step"]) == (epoch, logged_step(self.trainer))
            asked = self.active and not again and self.should_probe(epoch, self.trainer.global_step)
            uncounted = int(self.trainer.validating)  # a batch is counted after the validation that follows it
            before = None if last is None else last["step"] + uncounted
            due = asked and self.budget.allows(logged_step(self.trainer) + uncounted, before)
        self.due = same_on_all_ranks(self.trainer, due)
        if self.due:
            self._before = {key: copy(value) for key, value in self.trainer.callback_metrics.items()}
            self._sights.begin_pass("val")

    @timed
    def measure(self) -> None:
        """Measure if it is due; then decide, or log what needs no validation loss and `settle` when that is logged."""
        wait = False
        if self.due and self.active:
            self._sights.look_at_last()
        if self.due and not self.active and self.trainer.world_size == 1:
            self.due = False
        if self.due:
            self.due = False
            with self._contained("measuring", counts=True):
                trainer, enabled = self.trainer, self.options.verbose
                with measuring(trainer, self.loop.masked_rows(), enabled=enabled) as progress:
                    epoch, losses = trainer.current_epoch, self._logged_losses()
                    record = self.loop.take(self.module, epoch, logged_step(trainer), progress, losses)
                    wait = self._awaits_loss
                record.scalars["seconds"] = self.budget.record()
                self.faults.recovered()
                self._waiting = record
                if wait:
                    self._log(record.scalars)
            if not wait:
                self.settle()
        if is_fitting(self.trainer) and self._waiting is None and not len(self.loop.history):
            # Nothing could be measured so far; without these keys a `ModelCheckpoint` would stop the run.
            keys = [*DECISION_KEYS, *(f"{part}mean_order" for part in self.options.parts)]
            self._log(dict.fromkeys(keys, math.nan))

    def _logged_losses(self) -> dict[str, float]:
        """Return the losses logged so far with which ours is to be compared."""
        if self._judge is not None or "val" not in self.options.loss_splits:
            return {}
        return logged_losses(self.trainer, self._before, self.options.log_key_prefix)

    @property
    def _awaits_loss(self) -> bool:
        """Whether the validation loss that decides, or with which ours is to be compared, may still be logged."""
        run = self.loop.run
        return self.trainer.enable_validation and (self._judge is not None or not run.judged or self._late)

    @property
    def _judge(self) -> str | None:
        """The logged validation loss that decides; ``None`` if that is ours."""
        return self.options.monitor or self.loop.run.judge

    def _tell_cost(self, record: Record) -> None:
        """Say what the first measurement cost, and all that came with it."""
        samples, n = sum(len(m.gap) for m in record.found.values()), record.deciding.strength.shape[-1]
        spent = self.budget.spent
        say(
            self.trainer,
            f"TwoPhaseMonitor: with the first measurement ({samples} samples x 2**{n} coalitions), logging and drawing "
            f"it took {spent:.2f} s, {spent / max(self.budget.training, 1e-9):.0%} of the training time so far. "
            "max_overhead, every_n_epochs or num_samples make it less.",
        )

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
            events = run.decide(record, *self._losses(record))
            run.keep(record)
        # Act first: a logger that fails must not swallow an alarm, or on rank 0 keep the other ranks waiting. Nor may a
        # record that cannot be kept: the detector does not say it again.
        if not is_fast_dev_run(self.trainer):
            with self._contained("acting on events"):
                self._act(events)
        with self._contained("logging"):
            self._log(record.scalars, late=late)
        self._unwritten = record, events

    @timed
    def write(self) -> None:
        """Write what a record needs besides scalars, once Lightning has logged those: only then is known where.

        A module may log ``step`` in its own `on_validation_epoch_end`, which runs after that of the callbacks.
        """
        waiting, self._unwritten = self._unwritten, None
        if waiting is not None:
            record, events = waiting
            if self._writes:
                with self._contained("writing histograms and texts"):
                    self._places[record.step] = scalar_step(self.trainer, record.step)
                    self._write(record, events, self._places[record.step])
                count = len(self.loop.history)
                if events or count & (count - 1) == 0:  # at records 1, 2, 4, 8, ... and whenever something happened
                    with self._contained("drawing the run"):
                        self._loggers.keep(self._record())
                        self._draw(record.step)
            if self.options.verbose and self.budget.records == 1:
                self._tell_cost(record)
        self._write_faults()

    def _losses(self, record: Record) -> tuple[float | None, float | None]:
        """Training and validation loss: those on the fixed samples, or the validation loss the user logs."""
        key = self._judge
        if key is None:
            return record.losses.get("train"), record.losses.get("val")
        value = logged_value(self.trainer, key)
        if value is None:
            known = ", ".join(sorted(map(str, self.trainer.callback_metrics))) or "none"
            self.faults.tell(f"no metric {key!r} was logged, so that loss is missing; logged are: {known}")
        return logged_train_loss(self.trainer, key) if self.loop.run.judge else record.losses.get("train"), value

    def _act(self, events: Sequence[PhaseEvent]) -> None:
        """Stop if that was asked for, or no longer; tell people."""
        self._ask_to_stop(asked=any(event.kind == self.options.stop_on for event in events))
        if self.trainer.is_global_zero:
            self._send(events)
            if self.options.verbose and not any(isinstance(alert, WarnAlert) for alert in self._alerts):
                for event in events:
                    say(self.trainer, f"TwoPhaseMonitor: {short_sentence(event)}")

    def _ask_to_stop(self, *, asked: bool) -> None:
        """Ask, together with the other ranks, for a stop; only as long as what it was asked for still holds."""
        if self.options.stop_on is None:
            return
        wanted = self.loop.run.stands(self.options.stop_on) and (asked or self._asks_to_stop)
        wanted = self._asks_to_stop = self.trainer.strategy.reduce_boolean_decision(wanted, all=False)
        # Lightning may wait for its minimum, so others may ask meanwhile: a wish withdrawn must not withdraw theirs.
        if wanted and not self.trainer.should_stop:
            self.trainer.should_stop = self._stop_is_ours = True
        elif self._stop_is_ours and not wanted:
            self.trainer.should_stop = self._stop_is_ours = False

    def _send(self, events: Sequence[PhaseEvent], *, warned: bool = False) -> None:
        """Tell people, on rank 0; ``warned``: a warning has told it already."""
        for event in events:
            for alert in self._alerts:
                if warned and type(alert) is WarnAlert:
                    continue
                try:
                    with bars_cleared():
                        alert.send(event)
                except Exception as error:
                    self.faults.tell(f"{type(alert).__name__} could not tell an event ({error!r}): {event.message}")

    # -- telling -----------------------------------------------------------------------------------------------------

    def _log(self, scalars: dict[str, float], *, late: bool = False) -> None:
        named = {self.options.log_key_prefix + key: value for key, value in scalars.items()}
        log_scalars(self.trainer, self.module, named, late=late)

    def _write(self, record: Record, events: Sequence[PhaseEvent], step: int) -> None:
        loggers = self._loggers
        for split, found in record.found.items():
            share = order_distribution(found.mean_strength)
            loggers.histograms(record.part(split), found.histogram, found.edges, share, step)
        for event in events:
            loggers.event(event, step)
        if any(event.kind in ("boundary", "retracted") for event in events):
            loggers.mark_boundary(self._record(), self._place)

    def _place(self, step: int) -> int | None:
        """Where the record of a step is on the x axis; ``None``: it is from before a resume, on an axis of the user."""
        shifts = {place - at for at, place in self._places.items()}
        return self._places.get(step, step + shifts.pop() if shifts in ({0}, {-1}) else None)

    def _draw(self, step: int) -> None:
        # Not on a thread of its own: matplotlib holds the interpreter, so that beside a small training it takes a tenth
        # longer by the clock, and more of the CPU.
        self._drawn = step
        self._loggers.draw(self._record(), self._places.get(step, step))

    def _record(self) -> RunRecord:
        """Return the record of the run, with what was spent since its last measurement."""
        self.loop.run.seconds_after = self.budget.unrecorded
        return self.loop.record()

    @timed
    def finish(self) -> None:
        """Draw the run once more if that was not done since its last record, keep it, and sum it up."""
        self.write()
        last = self.loop.history.last
        if not self._speaks or last is None:
            return
        with self._contained("drawing the run"):
            if self._drawn != last["step"]:
                self._draw(last["step"])
        with self._contained("keeping the history"):
            self._loggers.keep(self._record())
        if self.options.verbose:
            with self._contained("summing up the run"):
                say(self.trainer, "\n" + table("TwoPhaseMonitor", summary(self._record())))
        self._write_faults()

    @timed
    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as long as the fit lasts: it is work too."""
        return self.loop.state_dict()

    @timed
    def interrupt(self) -> None:
        """Forget what was under way; keep what was measured."""
        self._sights.close()
        self._waiting, self._unwritten, self.due = None, None, False
        if self._speaks and len(self.loop.history):
            with self._contained("keeping the history"):
                self._loggers.keep(self._record())
        self._write_faults()

    # -- faults ------------------------------------------------------------------------------------------------------

    def _contained(self, what: str, *, counts: bool = False) -> AbstractContextManager[None]:
        """Keep a fault of ours away from the training run; it becomes an event, and is told as one."""

        def happened(problem: str) -> None:
            event = self.loop.run.failed(self.trainer.current_epoch, logged_step(self.trainer), problem)
            if self._writes:
                self._send([event], warned=True)
                self._untold.append(event)

        return self.faults.contain(what, happened, counts=counts)

    def _write_faults(self) -> None:
        """Write the faults a warning has told; what fails here becomes no event, or each would make another one."""
        untold, self._untold = self._untold, []
        for logger in self.trainer.loggers if untold else ():
            try:
                one = Loggers([logger], self.options.log_key_prefix, self.options.log_figures)
                for event in untold:
                    one.event(event, scalar_step(self.trainer, event.step))
                one.keep(self._record())
            except Exception as error:
                self.faults.tell(f"{type(logger).__name__} could not keep an event ({error!r})")
