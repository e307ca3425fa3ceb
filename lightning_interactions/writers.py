"""Histograms and figures to the loggers that can take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def takes_rich_data(logger: Any) -> bool:
    """Whether a logger takes histograms and figures (so far: TensorBoard's).

    The class is asked by name: ``fast_dev_run`` and ranks above 0 bring dummies that accept any call, and
    `pytorch_lightning` has its own classes.

    Args:
        logger: A Lightning logger.
    """
    return any(cls.__name__ == "TensorBoardLogger" for cls in type(logger).__mro__)


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
    decades = (positive / positive[0]).log10()
    axis = np.concatenate([-decades.flip(0).numpy(), decades[1:].numpy()])
    salient = torch.cat([histogram[:, : len(decades) - 1], histogram[:, len(decades) :]], 1)
    for logger in filter(takes_rich_data, loggers):
        for order, counts in enumerate(salient, start=1):
            _add_histogram(logger, f"{prefix}histogram/order_{order:02d}", counts, axis, step)


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
    edges = np.arange(len(share) + 1) + 0.5
    for logger in filter(takes_rich_data, loggers):
        _add_histogram(logger, f"{prefix}order_distribution", share, edges, step)


def write_figures(loggers: Sequence[Any], prefix: str, figures: Mapping[str, Figure], step: int) -> None:
    """Write figures under ``{prefix}{name}``.

    Args:
        loggers: The Trainer's loggers.
        prefix: Start of the tags.
        figures: Figures by name.
        step: Position on the x axis.
    """
    for logger in filter(takes_rich_data, loggers):
        for name, figure in figures.items():
            logger.experiment.add_image(f"{prefix}{name}", _pixels(figure), step, dataformats="HWC")


def write_text(loggers: Sequence[Any], tag: str, text: str, step: int) -> None:
    """Write a text.

    Args:
        loggers: The Trainer's loggers.
        tag: Its full tag.
        text: The text, as Markdown.
        step: Position on the x axis.
    """
    for logger in filter(takes_rich_data, loggers):
        logger.experiment.add_text(tag, text, step)


def _add_histogram(logger: Any, tag: str, counts: Tensor, edges: Any, step: int) -> None:
    count, edge = np.asarray(counts, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    middle = (edge[:-1] + edge[1:]) / 2
    logger.experiment.add_histogram_raw(
        tag,
        min=float(edge[0]),
        max=float(edge[-1]),
        num=float(count.sum()),
        sum=float((count * middle).sum()),
        sum_squares=float((count * middle**2).sum()),
        bucket_limits=edge[1:].tolist(),
        bucket_counts=count.tolist(),
        global_step=step,
    )


def _pixels(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw a figure; torch's ``add_figure`` would go through pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # matplotlib types it only in part
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
