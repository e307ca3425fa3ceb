"""What the loggers of one fit get, and when: only once it is known where on their x axis it belongs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from lightning_interactions.functional import order_distribution
from lightning_interactions.measure.measurement import interactions_in
from lightning_interactions.monitor.budget import Budget
from lightning_interactions.monitor.faults import Faults
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.run import Record
from lightning_interactions.monitor.trainer import is_fast_dev_run, log_scalars, own_step, scalar_step
from lightning_interactions.phases import PhaseEvent
from lightning_interactions.report.loggers import Loggers
from lightning_interactions.report.record import RunRecord

LOSS_KEYS = ("train_loss", "val_loss", "val_loss_before_alarm", "loss_gap")
"""Logged keys that are not known inside of epochs where the losses are judged at validations only."""


@dataclass(frozen=True)
class _Entry:
    """A record that was decided on, but not written."""

    record: Record
    events: Sequence[PhaseEvent]
    number: int  # of records, with this one
    scalars: Mapping[str, float]  # those that Lightning does not log


class Writer:
    """Writes the records of one fit for the loggers; on rank 0, but for the scalars that all callbacks may read.

    The scalars of a validation go the usual way of Lightning. Those of other records are written to the loggers at the
    step of their batch. That is no place on the axis of users who log a ``step`` of their own: so such records wait
    until the first validation shows whether they do, and are then written, or kept out of the loggers.
    """

    def __init__(self, trainer: Any, module: Any, loop: InteractionMonitor, budget: Budget, faults: Faults) -> None:
        self.trainer, self.module, self.loop, self.budget, self.faults = trainer, module, loop, budget, faults
        self.options = loop.options
        self._loggers = self._loggers_of(trainer.loggers)
        self._waiting: list[_Entry] = []
        self._own_axis: bool | None = None  # whether users log a step of their own; `None` while that is not known
        self._homeless: list[PhaseEvent] = []  # events without a place on that axis, until there is one
        self._wants_figures = False
        self._untold: list[PhaseEvent] = []  # faults no logger has been told of
        self._places: dict[int, int] = {}  # where the scalars of a record, by its step, are on the x axis
        self.shown: set[str] = set()  # keys, without prefix, that other callbacks find among the metrics
        self._drawn = 0  # number of the record that was drawn last

    @property
    def writes(self) -> bool:
        """Whether this process writes files and tells people."""
        return bool(self.trainer.is_global_zero) and not is_fast_dev_run(self.trainer)

    @property
    def is_unsure(self) -> bool:
        """Whether nothing has shown so far if users log a step of their own."""
        return self._own_axis is None

    def open(self) -> None:
        """Arrange the charts, and say so if no logger can show anything else."""
        self._loggers.open(self.options.parts)
        blind = self._loggers.blind
        if blind is not None:
            self.faults.tell(
                f"{blind} can show neither histograms nor figures; `monitor.report(path)` writes them to a file, and "
                "so does `lightning-interactions report RUN_DIR` where the logger keeps files"
            )

    # -- taking what is to be written --------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether records wait that belong before all others: a curve is drawn in the order in which it is written."""
        return bool(self._waiting)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Let Lightning log scalars of a validation, and show them to other callbacks."""
        self.shown |= set(scalars)
        log_scalars(self.trainer, self.module, self._named(scalars))

    def show(self, scalars: Mapping[str, float]) -> None:
        """Show scalars to other callbacks, where that way is closed."""
        self.shown |= set(scalars)
        self.trainer.callback_metrics.update({key: torch.tensor(x) for key, x in self._named(scalars).items()})

    def add(self, record: Record, events: Sequence[PhaseEvent], *, late: bool) -> None:
        """Take a record that was decided on; ``late``: too late for Lightning to log it.

        What is not known inside of an epoch, for other callbacks stays as it was.
        """
        scalars: Mapping[str, float] = record.scalars
        if record.inside and not math.isfinite(record.scalars.get("val_loss", math.nan)):
            scalars = {key: value for key, value in record.scalars.items() if key not in LOSS_KEYS}
        if record.inside or late:
            self.show(scalars)
        else:
            self.log(scalars)
        unlogged = scalars if record.inside or late else {}
        self._waiting.append(_Entry(record, events, len(self.loop.history), self._named(unlogged)))

    def add_fault(self, event: PhaseEvent) -> None:
        """Take a fault that was told in a warning."""
        self._untold.append(event)

    def _named(self, scalars: Mapping[str, float]) -> dict[str, float]:
        return {self.options.names.full(key): value for key, value in scalars.items()}

    def _loggers_of(self, loggers: Iterable[Any]) -> Loggers:
        o = self.options
        return Loggers(loggers, o.log_key_prefix, o.log_figures, o.one_group, sampled=o.pairs is not None)

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, contained: Callable[[str], AbstractContextManager[None]], *, placed: bool) -> None:
        """Write what waits; ``placed``: Lightning has just logged the scalars of a validation, or of an epoch without.

        Only then is known where they are: a module may log ``step`` in its own `on_validation_epoch_end`, which runs
        after that of the callbacks.
        """
        if placed:
            self._own_axis = own_step(self.trainer) is not None
        if self._own_axis is None:
            if self._waiting and self.writes and any(map(self._is_to_be_drawn, self._waiting)):
                self._keep(contained)
            return
        waiting, self._waiting = self._waiting, []
        for entry in waiting if self.writes else ():
            step = self._place_of(entry.record)
            with contained("logging"):
                for logger in self.trainer.loggers if entry.scalars and step is not None else ():
                    logger.log_metrics(dict(entry.scalars), step=step)
            with contained("writing histograms and texts"):
                self._write(entry, step)
            self._wants_figures |= self._is_to_be_drawn(entry)
        if self._wants_figures and waiting:
            self._keep(contained)
            at = self._place_of(waiting[-1].record)
            if at is not None:
                self._wants_figures = False
                self._draw(contained, at)
        if waiting and self.loop.live is not None and self.writes:
            with contained("drawing the live figure"):
                self.loop.refresh()
        self._write_faults(placed)

    def _is_to_be_drawn(self, entry: _Entry) -> bool:
        """At records 1, 2, 4, 8, ... and whenever something happened."""
        return bool(entry.events) or entry.number & (entry.number - 1) == 0

    def _keep(self, contained: Callable[[str], AbstractContextManager[None]]) -> None:
        if self._loggers.sinks:
            with contained("keeping the history"):
                self._loggers.keep(self.record())

    def _place_of(self, record: Record) -> int | None:
        """Where a record is on the x axis; ``None`` if it has no place there."""
        if not record.inside:
            return scalar_step(self.trainer, record.step)
        return None if self._own_axis else record.step

    def _write(self, entry: _Entry, step: int | None) -> None:
        record, loggers = entry.record, self._loggers
        if step is None:
            self._homeless += entry.events
            return
        self._places[record.step] = step
        for split, found in interactions_in(record.found).items():
            share = order_distribution(found.mean_strength)
            loggers.histograms(record.part(split), found.histogram, found.edges, share, step)
        events, self._homeless = [*self._homeless, *entry.events], []
        for event in events:
            loggers.event(event, step)
        if any("boundary" in (event.kind, event.retracts) for event in events):
            loggers.mark_boundary(self.record(pictures=False), self._place)

    def _place(self, step: int) -> int | None:
        """Where the record of a step is on the x axis; ``None``: it is from before a resume, on an axis of the user."""
        shifts = {place - at for at, place in self._places.items()}
        return self._places.get(step, step + shifts.pop() if shifts in ({0}, {-1}) else None)

    def _draw(self, contained: Callable[[str], AbstractContextManager[None]], at: int) -> None:
        # Not on a thread of its own: matplotlib holds the interpreter, so that beside a small training it takes a tenth
        # longer by the clock, and more of the CPU.
        self._drawn = len(self.loop.history)
        if self._loggers.takes_figures:
            with contained("drawing the run"):
                self._loggers.draw(self.record(pictures=False), at)
            with contained("drawing samples"):
                self._loggers.draw_samples(self.record(), at)

    def record(self, *, pictures: bool = True) -> RunRecord:
        """Return the record of the run, with what was spent since its last measurement."""
        self.loop.run.seconds_after = self.budget.unrecorded
        return self.loop.record(pictures=pictures)

    def _write_faults(self, placed: bool) -> None:
        """Write the faults a warning has told; what fails here becomes no event, or each would make another one."""
        if self._own_axis and not placed:
            return
        untold, self._untold = self._untold, []
        for logger in self.trainer.loggers if untold else ():
            try:
                one = self._loggers_of([logger])
                for event in untold:
                    one.event(event, scalar_step(self.trainer, event.step) if placed else event.step)
                one.keep(self.record())
            except Exception as error:
                self.faults.tell(f"{type(logger).__name__} could not keep an event ({error!r})")

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self, contained: Callable[[str], AbstractContextManager[None]]) -> None:
        """Draw the run once more if that was not done since its last record, and keep it."""
        if self._drawn != len(self.loop.history) and self.loop.history.last is not None:
            step = int(self.loop.history.last["step"])
            last = max(self._places.values(), default=step)
            self._draw(contained, self._places.get(step, last if self._own_axis else step))
        self._keep(contained)
        with contained("drawing the live figure"):
            self.loop.refresh(last=True)

    def interrupt(self, contained: Callable[[str], AbstractContextManager[None]], *, keeps: bool) -> None:
        """Forget what belongs to a validation that was interrupted; write all else, which waits no more."""
        self._waiting = [entry for entry in self._waiting if entry.record.inside]
        self._own_axis = bool(self._own_axis)
        if keeps and len(self.loop.history):
            self._keep(contained)
        self.write(contained, placed=False)
