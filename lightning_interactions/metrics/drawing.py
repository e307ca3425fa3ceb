"""How the metrics draw themselves. matplotlib is imported only when something is drawn, and never its pyplot."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito: told apart with every kind of colour vision, and in print.
BLUE, VERMILLION, ORANGE, GREEN = "#0072B2", "#D55E00", "#E69F00", "#009E73"
ORDER_LABEL = "order (number of players)"
DEGREE_LABEL = "degree (number of players)"


def figure_and_axes(ax: Axes | None) -> tuple[Figure, Axes]:
    """Return the axes and the figure they belong to, both new if there are none."""
    if ax is not None:
        return cast("Figure", ax.figure), ax
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    return figure, figure.add_subplot()


def draw_strength(ax: Axes, strength: Tensor) -> None:
    """Draw the strength ``(2, n)`` in units of the score, with its labels."""
    draw_bars(ax, strength)
    ax.set_ylabel("strength (units of the score)")
    ax.legend(frameon=False)


def draw_bars(ax: Axes, strength: Tensor, every: int = 1) -> None:
    """Draw positive strength ``(2, n)`` upwards, negative downwards, a bar pair per order; ticks at ``every`` n-th."""
    positive, negative = strength.detach().cpu().double()
    order = list(range(1, strength.shape[-1] + 1))
    ax.bar(order, positive.tolist(), color=BLUE, label="positive")
    ax.bar(order, (-negative).tolist(), color=VERMILLION, label="negative")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(order[::every])
    ax.set_xlim(0.4, len(order) + 0.6)
    ax.set_xlabel(ORDER_LABEL)
    if not torch.isfinite(strength).all():
        ax.text(0.5, 0.75, "no salient interactions", transform=ax.transAxes, ha="center", va="center")


def draw_by_order(ax: Axes, values: Tensor) -> None:
    """Draw one bar per order, ``(n,)`` numbers from 0 to 1; nan leaves a gap."""
    _draw_row(ax, values)
    ax.set_ylim(0, 1)
    ax.set_xlabel(ORDER_LABEL)


def draw_energy(ax: Axes, energy: Tensor) -> None:
    """Draw the energy ``(n,)`` by degree in units of the score squared, with its labels; nan leaves a gap."""
    _draw_row(ax, energy)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(DEGREE_LABEL)
    ax.set_ylabel("energy (units of the score, squared)")


def _draw_row(ax: Axes, values: Tensor) -> None:
    order = list(range(1, values.numel() + 1))
    ax.bar(order, values.detach().cpu().double().tolist(), color=BLUE)
    ax.set_xticks(order)
    ax.set_xlim(0.4, values.numel() + 0.6)


def draw_estimates(ax: Axes, values: list[float], lower: list[float], upper: list[float]) -> None:
    """Draw numbers one after the other, each with its interval."""
    steps = range(len(values))
    below = [x - end for x, end in zip(values, lower, strict=True)]
    above = [end - x for x, end in zip(values, upper, strict=True)]
    ax.errorbar(steps, values, yerr=[below, above], color=BLUE, marker="o", capsize=3)
    ax.set_xticks(steps)
    ax.set_xlabel("result")


def draw_histogram(ax: Axes, counts: Tensor, edges: Tensor) -> None:
    """Draw counts ``(n, bins)`` by order and size as a heat map with symmetric-log sizes; empty bins stay white."""
    rows = counts.detach().cpu().double()
    x = edges.detach().cpu().double()
    y = torch.arange(rows.shape[0] + 1).double() + 0.5
    rows = torch.where(rows > 0, rows, torch.full_like(rows, float("nan")))
    # The limits are given because a colour scale cannot be found for a histogram without a single count.
    limits: dict[str, Any] = {"vmin": 1, "vmax": max(10.0, rows.nan_to_num().max().item())}
    mesh = ax.pcolormesh(x.numpy(), y.numpy(), rows.numpy(), cmap="viridis_r", norm="log", **limits)
    ax.set_xscale("symlog", linthresh=x[x > 0].min().item(), linscale=1.0)
    ax.set_yticks(range(1, rows.shape[0] + 1))
    ax.set_xlabel("interaction, as a fraction of |v(N) - v(empty)|")
    ax.set_ylabel(ORDER_LABEL)
    ax.figure.colorbar(mesh, ax=ax, label="interactions counted")


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure as ``(H, W, 3)``; other ways would go through pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # matplotlib types it only in part
    canvas.draw()
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return image


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode pixels as PNG, fast: a drawing has large plain areas, on which more effort would hardly save space."""
    from PIL import Image  # comes with matplotlib

    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG", compress_level=1)
    return encoded.getvalue()


def png_of(figure: Figure) -> bytes:
    """Draw a figure as PNG."""
    return png(pixels(figure))


def showing_itself(figure: Figure) -> Figure:
    """Let a notebook show a figure that is the value of a cell; it does so by itself only where pyplot is in use."""
    figure._repr_png_ = partial(png_of, figure)  # type: ignore[attr-defined]
    return figure
