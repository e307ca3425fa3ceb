"""What leaves the monitor: scalars for Lightning, histograms, figures and texts for loggers, events for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lightning_interactions.functional import order_distribution
from lightning_interactions.monitor import bridge
from lightning_interactions.monitor.session import Record
from lightning_interactions.monitor.terminal import bars_cleared
from lightning_interactions.phases.event import PhaseEvent
from lightning_interactions.report import writers
from lightning_interactions.report.alerts import Alert, WarnAlert
from lightning_interactions.report.figures import order_distribution_figure
from lightning_interactions.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LogScalars = Callable[[Mapping[str, float]], None]
"""Takes scalars by key without prefix."""


@dataclass(frozen=True)
class Publisher:
    """Everything that goes out under one prefix.

    Attributes:
        prefix: Start of all keys and tags.
        figures: Whether to draw for loggers that can show it.
        alerts: Where events are told.
        tell: Takes the text of a problem that was worked around.
    """

    prefix: str
    figures: bool
    alerts: Sequence[Alert]
    tell: Callable[[str], object]

    def scalars_with(self, trainer: Any, pl_module: Any) -> LogScalars:
        """Log the usual way, visible to every other callback.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
        """

        def log(scalars: Mapping[str, float]) -> None:
            if getattr(trainer, "barebones", False):
                return  # Lightning would warn that it logs nothing
            # The values are equal on all ranks already; sync_dist only keeps Lightning from warning about it.
            pl_module.log_dict(
                self._with_prefix(scalars), on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1
            )

        return log

    def scalars_late(self, trainer: Any) -> LogScalars:
        """Log where the usual way is closed.

        Args:
            trainer: The Trainer.
        """
        return lambda scalars: bridge.log_late(trainer, self._with_prefix(scalars))

    def open(self, loggers: Sequence[Any], splits: Sequence[str]) -> None:
        """Prepare the loggers of a run. On rank 0 only.

        Args:
            loggers: The Trainer's loggers.
            splits: The splits whose interactions are measured.
        """
        writers.write_charts(loggers, self.prefix, [f"{split}/" for split in splits] if len(splits) > 1 else [""])
        blind = writers.cannot_show(loggers)
        if blind is not None and self.figures:
            self.tell(
                f"{blind} can show neither histograms nor figures; `monitor.report(path)` writes them to a file, and "
                "so does `lightning-interactions report RUN_DIR` where the logger keeps files"
            )

    def write(self, loggers: Sequence[Any], record: Record, events: Sequence[PhaseEvent]) -> None:
        """Write histograms and the events' texts. On rank 0 only.

        Args:
            loggers: The Trainer's loggers.
            record: The measurement.
            events: What was decided on it.
        """
        for split, measurement in record.found.items():
            prefix = self.prefix + (f"{split}/" if len(record.found) > 1 else "")
            writers.write_histograms(loggers, prefix, measurement.histogram, measurement.edges, record.step)
            share = order_distribution(measurement.mean_strength)
            writers.write_order_distribution(loggers, prefix, share, record.step)
        for event in events:
            writers.write_event(loggers, self.prefix, event, record.step)

    def mark_boundary(self, loggers: Sequence[Any], run: RunRecord) -> None:
        """Draw the boundary, found or withdrawn just now, into the chart of the mean order. On rank 0 only.

        Args:
            loggers: The Trainer's loggers.
            run: The run so far.
        """
        epochs, orders = run.history["epoch"], [x for x in run.column("mean_order") if math.isfinite(x)]
        if run.boundary_epoch is None:
            gap = (math.nan, math.nan)  # or a line would join the boundary that was withdrawn to the next one
            writers.write_boundary_line(loggers, self.prefix, run.history["step"][-1], gap)
        elif run.boundary_epoch in epochs and orders:
            step = run.history["step"][epochs.index(run.boundary_epoch)]
            writers.write_boundary_line(loggers, self.prefix, step, (min(orders), max(orders)))

    def keep(self, loggers: Sequence[Any], run: RunRecord) -> None:
        """Leave all that is known of the run where the loggers keep files. On rank 0 only.

        Args:
            loggers: The Trainer's loggers.
            run: The run so far.
        """
        name = self.prefix.strip("/_ ").replace("/", "_") or "interactions"
        writers.write_file(loggers, f"{name}.json", run.to_json())

    def draw(
        self, loggers: Sequence[Any], last: Mapping[str, Any] | None, run_figure: Callable[[], Figure], step: int
    ) -> None:
        """Draw the run and the last record, if some logger can show it. On rank 0 only.

        Args:
            loggers: The Trainer's loggers.
            last: The last record of the history.
            run_figure: Draws the run.
            step: Position on the x axis.
        """
        if last is None or not self.figures or not any(map(writers.takes_figures, loggers)):
            return
        strength = order_distribution_figure(torch.tensor(last["strength"]), epoch=last["epoch"])
        writers.write_figures(loggers, self.prefix, {"run": run_figure(), "strength_by_order": strength}, step)

    def tell_fault(self, loggers: Sequence[Any], event: PhaseEvent, run: Callable[[], RunRecord]) -> None:
        """Tell of a fault of ours that a warning has just told. On rank 0 only.

        What fails here becomes a warning and no event, or each fault would make another one.

        Args:
            loggers: The Trainer's loggers.
            event: The fault.
            run: Gives the run so far, with the event.
        """
        self.send([event], warned=True)
        for logger in loggers:
            try:
                writers.write_event([logger], self.prefix, event, event.step)
                self.keep([logger], run())
            except Exception as error:
                self.tell(f"{type(logger).__name__} could not keep an event ({error!r})")

    def send(self, events: Sequence[PhaseEvent], *, warned: bool = False) -> None:
        """Tell people. On rank 0 only.

        Args:
            events: In order.
            warned: Whether a warning has told them already; `WarnAlert` then does not repeat it.
        """
        for event in events:
            for alert in self.alerts:
                if warned and type(alert) is WarnAlert:
                    continue
                try:
                    with bars_cleared():
                        alert.send(event)
                except Exception as error:
                    self.tell(f"{type(alert).__name__} could not tell an event ({error!r}): {event.message}")

    def _with_prefix(self, scalars: Mapping[str, float]) -> dict[str, float]:
        return {self.prefix + key: value for key, value in scalars.items()}
