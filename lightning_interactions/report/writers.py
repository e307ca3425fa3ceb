"""What is written to the loggers besides scalars; `sinks.py` knows which of them can take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import WarningCache, rank_zero_only
from numpy.typing import ArrayLike
from torch import Tensor

from lightning_interactions.errors import InteractionsWarning, bad_argument
from lightning_interactions.phases.event import PhaseEvent
from lightning_interactions.report.sinks import Charts, Sink, sink_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_told = WarningCache()


def log_histogram(logger: Any, tag: str, counts: ArrayLike, edges: ArrayLike, step: int) -> bool:
    """Log a histogram that has been counted already, to whatever logger there is.

    Lightning has no such call, and the loggers that take raw values cannot take counts. TensorBoard, Weights & Biases
    and Comet show it; MLflow keeps it as a JSON artifact. Others cannot take it: one warning for each kind of logger.

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
        _told.warn(f"{type(logger).__name__} cannot take histograms.", category=InteractionsWarning)
    return taken


def takes_figures(logger: Any) -> bool:
    """Whether a logger can show figures.

    Args:
        logger: A Lightning logger.
    """
    return sink_of(logger).shows_figures


def cannot_show(loggers: Sequence[Any]) -> str | None:
    """Name the loggers of a run in which neither histograms nor figures can be seen.

    Args:
        loggers: The Trainer's loggers.

    Returns:
        Their names; ``None`` if there are none, one of them can show figures, or they are dummies.
    """
    names = [type(logger).__name__ for logger in loggers if type(logger).__name__ != "DummyLogger"]
    return ", ".join(names) if names and not any(map(takes_figures, loggers)) else None


def write_histograms(loggers: Sequence[Any], prefix: str, histogram: Tensor, edges: Tensor, step: int) -> None:
    """Write the sizes of the salient interactions of every order, under ``{prefix}histogram/order_01`` and so on.

    Loggers draw histograms on a linear axis, where sizes that span decades would make one spike. So the axis is in
    decades above the threshold of salience, negative interactions to the left: 1 is ten times the threshold.

    Args:
        loggers: The Trainer's loggers.
        prefix: Start of the tags.
        histogram: ``(n, bins)`` counts; the centre bin holds what is not salient and is left out.
        edges: ``(bins + 1,)`` symmetric, logarithmic on both sides of the centre bin.
        step: Position on the x axis.
    """
    positive = edges[len(edges) // 2 :]
    decades = (positive / positive[0]).log10().double()
    axis = np.concatenate([-decades.flip(0).numpy(), decades[1:].numpy()])
    salient = torch.cat([histogram[:, : len(decades) - 1], histogram[:, len(decades) :]], 1).double()
    for sink in _showing_histograms(loggers):
        for order, counts in enumerate(salient, start=1):
            sink.histogram(f"{prefix}histogram/order_{order:02d}", counts.numpy(), axis, step)


def write_order_distribution(loggers: Sequence[Any], prefix: str, share: Tensor, step: int) -> None:
    """Write the order distribution as a histogram over orders, under ``{prefix}order_distribution``.

    TensorBoard stacks these over time: the spindle at the start, the fall to low orders, the return of high ones.

    Args:
        loggers: The Trainer's loggers.
        prefix: Start of the tag.
        share: ``(n,)`` shares of the orders 1 to n.
        step: Position on the x axis.
    """
    if not bool(share.isfinite().all()):
        return
    edges = np.arange(len(share) + 1, dtype=np.float64) + 0.5
    for sink in _showing_histograms(loggers):
        sink.histogram(f"{prefix}order_distribution", share.double().numpy().astype(np.float64), edges, step)


def write_figures(loggers: Sequence[Any], prefix: str, figures: Mapping[str, Figure], step: int) -> None:
    """Write figures under ``{prefix}{name}``.

    Args:
        loggers: The Trainer's loggers.
        prefix: Start of the tags.
        figures: Figures by name.
        step: Position on the x axis.
    """
    for sink in map(sink_of, loggers):
        for name, figure in figures.items():
            sink.figure(f"{prefix}{name}", figure, step)


def write_event(loggers: Sequence[Any], prefix: str, event: PhaseEvent, step: int) -> None:
    """Write the sentence of an event and the numbers behind it, under ``{prefix}events``.

    Args:
        loggers: The Trainer's loggers.
        prefix: Start of the tag.
        event: The event.
        step: Position on the x axis.
    """
    for sink in map(sink_of, loggers):
        sink.text(f"{prefix}events", event_markdown(event), step)


def write_file(loggers: Sequence[Any], name: str, text: str) -> None:
    """Keep a file with the run, wherever each logger keeps its files.

    Args:
        loggers: The Trainer's loggers.
        name: Name of the file.
        text: What is in it.
    """
    for sink in map(sink_of, loggers):
        sink.file(name, text)


def write_charts(loggers: Sequence[Any], prefix: str, splits: Sequence[str]) -> None:
    """Arrange the curves that tell the story in three charts (TensorBoard: *Custom Scalars*).

    Args:
        loggers: The Trainer's loggers.
        prefix: Start of the tags.
        splits: Parts of the tags of the interactions, ``[""]`` or ``["val/", "train/"]``.
    """
    bands = [_band(f"{prefix}{split}mean_order") for split in splits]
    charts: Charts = {
        "Mean order (95 % band; line: boundary)": [
            *bands,
            (f"{prefix}boundary_line",),
        ],
        "Loss gap, training and validation loss": [
            (f"{prefix}{name}",) for name in ("loss_gap", "train_loss", "val_loss")
        ],
        "Overfitting risk (0 to 1)": [(f"{prefix}overfitting_risk",)],
    }
    for sink in map(sink_of, loggers):
        sink.charts(prefix.strip("/_ ") or "interactions", charts)


def write_boundary_line(loggers: Sequence[Any], prefix: str, step: int, ends: tuple[float, float]) -> None:
    """Draw the phase boundary into the chart of the mean order.

    Args:
        loggers: The Trainer's loggers.
        prefix: Start of the tag.
        step: Where it was.
        ends: The lowest and the highest mean order so far.
    """
    for sink in map(sink_of, loggers):
        sink.line(f"{prefix}boundary_line", step, ends)


def event_markdown(event: PhaseEvent) -> str:
    """Tell an event in Markdown: its sentence, and a table of the evidence.

    Args:
        event: The event.

    Example:
        >>> print(event_markdown(PhaseEvent("boundary", 3, 5, message="Epoch 5: it ended.", evidence={"z": 2.5})))
        **boundary** (epoch 3, found in epoch 5)
        <BLANKLINE>
        Epoch 5: it ended.
        <BLANKLINE>
        | evidence | value |
        | --- | ---: |
        | z | 2.5 |
    """
    later = f", found in epoch {event.detected_epoch}" if event.epoch != event.detected_epoch else ""
    parts = [f"**{event.kind.replace('_', ' ')}** (epoch {event.epoch}{later})", event.message]
    if event.evidence:
        rows = [f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in event.evidence.items()]
        parts.append("\n".join(["| evidence | value |", "| --- | ---: |", *rows]))
    return "\n\n".join(parts)


def _band(tag: str) -> tuple[str, str, str]:
    return tag, f"{tag}_lower", f"{tag}_upper"


def _showing_histograms(loggers: Sequence[Any]) -> list[Sink]:
    return [sink for sink in map(sink_of, loggers) if sink.shows_histograms]
