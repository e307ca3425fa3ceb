"""What is written to the loggers besides scalars; `sinks.py` knows which of them can take it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import ArrayLike
from torch import Tensor

from lightning_interactions.errors import bad_argument, warn
from lightning_interactions.phases.event import PhaseEvent
from lightning_interactions.phases.messages import CURVES
from lightning_interactions.pictures.exhibit import exhibit_of
from lightning_interactions.pictures.figure import samples_figure
from lightning_interactions.report.figures import order_distribution_figure, run_figure
from lightning_interactions.report.names import Names
from lightning_interactions.report.record import RunRecord
from lightning_interactions.report.sinks import Charts, sink_of
from lightning_interactions.report.words import event_markdown

FEW_SAMPLES = 3
"""Samples that are drawn for the loggers: those with the most cancelling strength."""


class Loggers:
    """The loggers of a run: each gets what it can take, named as `Names` says. For rank 0 only."""

    def __init__(
        self,
        loggers: Iterable[Any],
        prefix: str,
        figures: bool = True,
        one_group: bool = False,
        *,
        sampled: bool = False,
    ) -> None:
        self.sinks = [sink_of(logger) for logger in loggers]
        self.prefix, self.names = prefix, Names(prefix, one_group, sampled)
        self.figures = figures
        self._line: int | None = None  # where the boundary is drawn

    @property
    def takes_figures(self) -> bool:
        """Whether figures are wanted and some logger can show them."""
        return self.figures and any(sink.shows_figures for sink in self.sinks)

    @property
    def blind(self) -> str | None:
        """Names of the loggers, if figures are wanted and none can show any (nor histograms); dummies do not count."""
        names = [type(sink.logger).__name__ for sink in self.sinks]
        named = [name for name in names if name != "DummyLogger"]
        return ", ".join(named) if named and self.figures and not self.takes_figures else None

    def open(self, parts: Sequence[str]) -> None:
        """Arrange the curves that tell the story in three charts (TensorBoard: *Custom Scalars*).

        The parts of the keys name the watched splits: ``""`` where there is one.
        """
        full, ends = self.names.full, ("", "_lower", "_upper")
        losses = "loss_gap", "train_loss", "val_loss"
        curve = self.names.curve
        charts: Charts = {
            f"{CURVES[curve].capitalize()} (95 % band; line: boundary)": [
                *(tuple(full(f"{part}{curve}{end}") for end in ends) for part in parts),
                (full("boundary_line"),),
            ],
            "Loss gap, training and validation loss": [(full(name),) for name in losses],
            "Overfitting risk (0 to 1)": [(full("overfitting_risk"),)],
        }
        for sink in self.sinks:
            sink.charts(self._name, charts)

    def histograms(self, part: str, counts: Tensor, edges: Tensor, share: Tensor, step: int) -> None:
        """Write the sizes of the salient interactions of every order, and the order distribution.

        The counts are ``(n, bins)`` and their symmetric edges ``(bins + 1,)``; the centre bin holds what is not salient
        and is left out. The share ``(n,)`` of each order is not written where there is no strength.
        """
        # Loggers draw histograms on a linear axis, where sizes that span decades would make one spike. So the axis is
        # in decades above the threshold of salience, negative interactions to the left: 1 is ten times the threshold.
        positive = edges[len(edges) // 2 :]
        decades = (positive / positive[0]).log10().double()
        axis = np.concatenate([-decades.flip(0).numpy(), decades[1:].numpy()])
        salient = torch.cat([counts[:, : len(decades) - 1], counts[:, len(decades) :]], 1).double()
        named = enumerate(salient, start=1)
        found = {self.names.full(f"{part}histogram/order_{order:02d}"): (row.numpy(), axis) for order, row in named}
        if bool(share.isfinite().all()):
            borders = np.arange(len(share) + 1, dtype=np.float64) + 0.5
            found[f"{self.prefix}{part}order_distribution"] = share.double().numpy(), borders
        for sink in self.sinks:
            if sink.shows_histograms:
                for tag, (values, borders) in found.items():
                    sink.histogram(tag, values, borders, step)

    def event(self, event: PhaseEvent, step: int) -> None:
        """Write the sentence of an event and the numbers behind it."""
        for sink in self.sinks:
            sink.text(f"{self.prefix}events", event_markdown(event), step)

    def mark_boundary(self, run: RunRecord, place: Callable[[int], int | None] = int) -> None:
        """Draw the boundary, found or withdrawn just now, into the chart of the curve that is followed.

        Where the record of a step is on the x axis ``place`` says, or ``None``: then no line is drawn. One that was
        withdrawn vanishes, unless it is from before a resume.
        """
        epochs, orders = run.history["epoch"], [x for x in run.curve if math.isfinite(x)]
        if run.boundary_epoch is None:
            # The line is written over: what comes last at a step is shown.
            at, ends = self._line, (math.nan, math.nan)
        elif run.boundary_place in epochs and orders:
            step, ends = run.history["step"][epochs.index(run.boundary_place)], (min(orders), max(orders))
            at = place(step)
        else:
            return
        self._line = at
        if at is not None:
            for sink in self.sinks:
                sink.line(self.names.full("boundary_line"), at, ends)

    def keep(self, run: RunRecord) -> None:
        """Leave all that is known of the run where the loggers keep files."""
        name, text = f"{self._name.replace('/', '_')}.json", run.to_json()
        for sink in self.sinks:
            sink.file(name, text)

    def draw(self, run: RunRecord, step: int) -> None:
        """Draw the run and its last record, if anything was measured and some logger can show it."""
        if not self.takes_figures or not run.history["epoch"]:
            return
        figures = {"run": run_figure(run)}
        if not run.is_sampled:
            last = order_distribution_figure(run.strength[-1], epoch=run.history["epoch"][-1], unit=run.unit)
            figures["strength_by_order"] = last
        for sink in self.sinks:
            for name, figure in figures.items():
                sink.figure(f"{self.prefix}{name}", figure, step)

    def draw_samples(self, run: RunRecord, step: int) -> None:
        """Draw the few samples with the most cancelling high-order strength, if any are known."""
        if not self.takes_figures or not run.samples:
            return
        figure = samples_figure([exhibit_of(row) for row in run.samples[:FEW_SAMPLES]])
        for sink in self.sinks:
            sink.figure(f"{self.prefix}samples", figure, step)

    @property
    def _name(self) -> str:
        return self.prefix.strip("/_ ") or "interactions"


def log_histogram(logger: Any, tag: str, counts: ArrayLike, edges: ArrayLike, step: int) -> bool:
    """Log a histogram that has been counted already, to whatever logger there is.

    TensorBoard, Weights & Biases and Comet show it; MLflow keeps it as a JSON artifact. Others cannot take it: one
    warning for each kind of logger.

    Args:
        logger: A Lightning logger; for all of them, loop over ``trainer.loggers``.
        tag: Its name.
        counts: ``(bins,)``, not negative; need not be whole numbers.
        edges: ``(bins + 1,)``, ascending.
        step: Position on the x axis.

    Returns:
        Whether the logger took it; ``False`` on ranks above 0 too.

    Raises:
        ArgumentError: If counts and edges are no histogram.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning.pytorch.loggers import TensorBoardLogger
        >>> with TemporaryDirectory() as folder:
        ...     logger = TensorBoardLogger(folder)
        ...     log_histogram(logger, "sizes", [3, 0, 1], [0.0, 1.0, 2.0, 4.0], step=10)
        ...     logger.experiment.close()
        True
    """
    count, edge = np.asarray(counts, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    if edge.ndim != 1 or not np.isfinite(edge).all() or not (np.diff(edge) > 0).all():
        raise bad_argument("edges", "an ascending sequence of finite numbers", edges)
    if count.shape != (len(edge) - 1,) or len(count) == 0 or not (np.isfinite(count) & (count >= 0)).all():
        raise bad_argument("counts", f"{len(edge) - 1} numbers not below 0, one per bin", counts)
    if getattr(rank_zero_only, "rank", 0) != 0:
        return False
    taken = sink_of(logger).histogram(tag, count, edge, step)
    if not taken:
        _tell_once(f"{type(logger).__name__} cannot take histograms.")
    return taken


@cache
def _tell_once(text: str) -> None:
    warn(text)
