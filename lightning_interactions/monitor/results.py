"""What a monitor has found, with and without Lightning."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from lightning_interactions.errors import bad_argument, is_whole
from lightning_interactions.metrics.drawing import showing_itself
from lightning_interactions.monitor.options import Options
from lightning_interactions.monitor.run import Run
from lightning_interactions.phases import PhaseDetector, PhaseEvent
from lightning_interactions.pictures.card import card, new_anchor
from lightning_interactions.pictures.exhibit import Exhibit, exhibit_of
from lightning_interactions.pictures.figure import samples_figure
from lightning_interactions.players.picture import Picture
from lightning_interactions.report.figures import run_figure
from lightning_interactions.report.history import History
from lightning_interactions.report.html import write_report
from lightning_interactions.report.notebook import LiveFigure, run_html
from lightning_interactions.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results(ABC):
    """What a monitor has found, with and without Lightning."""

    options: Options
    run: Run
    live: LiveFigure | None = None  # in a notebook

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

    @overload
    def plot(self, *, live: Literal[False] = False) -> Figure: ...

    @overload
    def plot(self, *, live: Literal[True]) -> None: ...

    def plot(self, *, live: bool = False) -> Figure | None:
        """Draw the run: strength by order at start, boundary and now, order shares over epochs, and the losses.

        Of a run without interactions the sampled mean degree, the spread of the scores, and the losses.

        Args:
            live: In a notebook, show the figure in the output of this cell and draw it anew as records come in, until
                the run is over. ``None`` is returned then.

        Raises:
            ArgumentError: If nothing was measured so far, or with ``live`` outside of a notebook.
        """
        if not live:
            return showing_itself(run_figure(self.record(pictures=False)))
        self._home().live = LiveFigure()
        self._home().refresh()
        return None

    def refresh(self, *, last: bool = False) -> None:
        """Draw the live figure anew, where there is one."""
        if self.live is not None and len(self.history):
            self.live.update(lambda: self.record(pictures=False), last=last)

    def _repr_html_(self) -> str:
        """Show the run in a notebook: its numbers, its figure, and the sample with the most cancelling strength."""
        name = type(self).__name__
        if not len(self.history):
            return f"<p>{name}: nothing measured so far</p>"
        rows = self.history.samples[:1] if self.options.keep_samples != "nothing" else []
        cards = [card(self._exhibit(row), anchor=new_anchor()) for row in rows]
        return run_html(name, self.record(pictures=False), cards)

    def show(self, sample: int = 0) -> Figure:
        """Draw one watched sample: its strongest interactions, where they are, and what they were before.

        Args:
            sample: Its row in ``history.samples``: 0 is the one with the most cancelling high-order strength.

        Raises:
            ArgumentError: If there is no such row: nothing was measured so far, or with ``resample=True``, or where
                the mean degree is sampled.
        """
        rows = self.history.samples
        if not is_whole(sample) or not -len(rows) <= sample < len(rows):
            expected = f"a row of `history.samples`, 0 to {len(rows) - 1}" if rows else "a row of `history.samples`"
            none = "nothing was measured so far, or other samples each time"
            if self.options.pairs is not None:
                none = "the mean degree is sampled from random masks, so there are no interactions to draw"
            raise bad_argument("sample", expected, sample, "" if rows else f"There is none: {none}.")
        return showing_itself(samples_figure([self._exhibit(rows[sample])]))

    def _exhibit(self, row: Mapping[str, Any]) -> Exhibit:
        return exhibit_of(row, self.picture(row["split"], row["index"]))

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write all that is known of the run as one HTML file that needs no network, see `write_report`."""
        write_report(self.record(), path)

    def record(self, *, pictures: bool = True) -> RunRecord:
        """Return all that is known of the run as plain values; of single samples nothing, where nothing is kept.

        With ``pictures`` the samples' rows say how they look, as far as ``show_samples`` allows it.
        """
        kept = self.options.keep_samples != "nothing"
        return self.run.record(
            self.options.settings, with_samples=kept, picture=self.picture if pictures and kept else None
        )

    @abstractmethod
    def _home(self) -> Results:
        """The object that measures."""

    def picture(self, split: str, index: int) -> Picture | None:
        """How a watched sample looks; ``None`` where that is not known any more."""
        return self._home().picture(split, index)
