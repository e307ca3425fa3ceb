"""What a monitor has found, with and without Lightning."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lightning_interactions.monitor.options import Options
from lightning_interactions.monitor.run import Run
from lightning_interactions.phases import PhaseDetector, PhaseEvent
from lightning_interactions.report.figures import run_figure
from lightning_interactions.report.history import History
from lightning_interactions.report.html import write_report
from lightning_interactions.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results:
    """What a monitor has found, with and without Lightning."""

    options: Options
    run: Run

    def __getattr__(self, name: str) -> Any:
        """Show the options under their names, as Lightning's own callbacks do: ``monitor.num_samples``."""
        if name in Options.__dataclass_fields__ and "options" in self.__dict__:
            return getattr(self.options, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def history(self) -> History:
        """All measured epochs."""
        return self.run.history

    @property
    def events(self) -> list[PhaseEvent]:
        """All events so far."""
        return self.run.events

    @property
    def detector(self) -> PhaseDetector:
        """What decides."""
        return self.run.detector

    @property
    def boundary_epoch(self) -> int | None:
        """Epoch of the phase boundary, or ``None`` if there is none so far."""
        return self.run.boundary_epoch

    def plot(self) -> Figure:
        """Draw the run: strength by order at start, boundary and now, order shares over epochs, and the losses."""
        return run_figure(self.record())

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write all that is known of the run as one HTML file that needs no network, see `write_report`."""
        write_report(self.record(), path)

    def record(self) -> RunRecord:
        """Return all that is known of the run as plain values; of single samples nothing, where nothing is kept."""
        return self.run.record(self.options.settings, with_samples=self.options.keep_samples != "nothing")
