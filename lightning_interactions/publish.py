"""What leaves the monitor: scalars for Lightning, histograms, figures and texts for loggers, events for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lightning_interactions import bridge, writers
from lightning_interactions.alerts import Alert
from lightning_interactions.figures import order_distribution_figure
from lightning_interactions.functional import order_distribution
from lightning_interactions.phases import PhaseEvent
from lightning_interactions.session import Record

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
            writers.write_text(loggers, f"{self.prefix}events", event.message, record.step)

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
        if last is None or not self.figures or not any(map(writers.takes_rich_data, loggers)):
            return
        strength = order_distribution_figure(torch.tensor(last["strength"]), epoch=last["epoch"])
        writers.write_figures(loggers, self.prefix, {"run": run_figure(), "strength_by_order": strength}, step)

    def send(self, events: Sequence[PhaseEvent]) -> None:
        """Tell people. On rank 0 only.

        Args:
            events: In order.
        """
        for event in events:
            for alert in self.alerts:
                try:
                    alert.send(event)
                except Exception as error:
                    self.tell(f"{type(alert).__name__} could not tell an event ({error!r}): {event.message}")

    def _with_prefix(self, scalars: Mapping[str, float]) -> dict[str, float]:
        return {self.prefix + key: value for key, value in scalars.items()}
