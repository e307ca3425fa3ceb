"""The figures of a run. matplotlib is imported when one is drawn; pyplot, with its global state, never."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.strength import low_order_share, mean_order, order_distribution
from lightning_interactions.report.figure_data import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito: told apart with every kind of colour vision, and in print.
BLUE, VERMILLION = "#0072B2", "#D55E00"
ORDER_LABEL = "order (number of players)"
LONGEST_LINE = 69  # characters of the headline that fit into the run figure


def order_distribution_figure(strength: Tensor, *, epoch: int | None = None) -> Figure:
    """Draw the strength of one epoch by order: positive interactions upwards, negative ones downwards.

    Args:
        strength: ``(2, n)``, mean over samples, in units of the score.
        epoch: The epoch, for the title.

    Returns:
        A figure with one axes.

    Raises:
        ArgumentError: If the shape is not ``(2, n)``.

    Example:
        >>> figure = order_distribution_figure(torch.tensor([[3.0, 1.0], [1.0, 0.0]]), epoch=4)
        >>> figure.axes[0].get_title()
        'Epoch 4: mean order 1.2 of 2, 100 % of the strength in orders 1 to 2'
    """
    from matplotlib.figure import Figure

    signed = _signed(torch.as_tensor(strength))
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _draw_bars(axes, signed)
    axes.set_ylabel("strength (units of the score)")
    axes.legend(frameon=False, loc="best")
    title = _describe(torch.stack([signed[0], -signed[1]]))
    axes.set_title(title if epoch is None else f"Epoch {epoch}: {title[0].lower()}{title[1:]}", fontsize=11)
    return figure


def run_figure(
    history: Mapping[str, Sequence[Any]],
    *,
    boundary_epoch: int | None = None,
    overfitting_epoch: int | None = None,
    by_losses: bool = False,
) -> Figure:
    """Draw a whole run: the two phases in the interactions, next to the losses.

    On top the strength by order at three epochs (as figure 2 of arXiv 2407.19198), in the middle the share of every
    order at every measured epoch with the mean order drawn over it, at the bottom the losses.

    Args:
        history: Columns of equal length, as ``History.to_dict`` returns them: ``epoch`` and ``strength`` (``2 x n``
            each); ``train_loss`` and ``val_loss`` if there are any. ``None`` and ``nan`` leave gaps.
        boundary_epoch: Where phase 1 ended, if it has.
        overfitting_epoch: Where overfitting was found to begin, if it was.
        by_losses: Whether the losses alone ended phase 1, so that nothing can be said of the orders.

    Returns:
        A figure of 8.4 x 7.6 inches, drawn to be read as a thumbnail too; its axes are the three panels, the heat map,
        its colour bar and the losses.

    Raises:
        ArgumentError: If nothing has been measured, or columns are missing or of unequal length.

    Example:
        >>> history = {"epoch": [0, 1], "strength": [[[1.0, 3.0], [0.0, 0.0]], [[3.0, 1.0], [0.0, 0.0]]]}
        >>> run_figure(history, boundary_epoch=1).get_suptitle()
        'Low-order dominance ended at epoch 1'
    """
    from matplotlib.figure import Figure

    run = RunData.read(history, boundary_epoch, overfitting_epoch)
    figure = Figure(figsize=(8.4, 7.6), dpi=120, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, hspace=0.03)  # type: ignore[union-attr, call-arg]
    grid = figure.add_gridspec(3, 4, height_ratios=[1.0, 1.35, 1.1], width_ratios=[1, 1, 1, 0.05])
    _draw_panels([figure.add_subplot(grid[0, i]) for i in range(3)], run)
    heat = figure.add_subplot(grid[1, :3])
    mesh = _draw_heat_map(heat, run)
    bar = figure.colorbar(mesh, cax=figure.add_subplot(grid[1, 3]))
    bar.set_label("share of strength (%)")
    losses = figure.add_subplot(grid[2, :3], sharex=heat)
    _draw_losses(losses, run)
    _draw_events(heat, losses, run)
    figure.suptitle(_headline(run, by_losses), fontsize=14, fontweight="bold")
    return figure


def curves_figure(
    history: Mapping[str, Sequence[Any]], *, boundary_epoch: int | None = None, overfitting_epoch: int | None = None
) -> Figure:
    """Draw what the decision looks at over time: mean order with its confidence band, loss gap, overfitting risk.

    Args:
        history: Columns of equal length, see `run_figure`; also ``mean_order_lower``, ``mean_order_upper`` and
            ``overfitting_risk`` if there are any.
        boundary_epoch: Where phase 1 ended, if it has.
        overfitting_epoch: Where overfitting was found to begin, if it was.

    Returns:
        A figure of 10 x 6.5 inches with three axes.

    Raises:
        ArgumentError: If nothing has been measured, or columns are missing or of unequal length.

    Example:
        >>> history = {"epoch": [0, 1], "strength": [[[1.0, 3.0], [0.0, 0.0]], [[3.0, 1.0], [0.0, 0.0]]]}
        >>> [axes.get_ylabel() for axes in curves_figure(history).axes]
        ['mean order', 'loss gap', 'overfitting risk']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    run = RunData.read(history, boundary_epoch, overfitting_epoch)
    figure = Figure(figsize=(10, 6.5), dpi=100, layout="constrained")
    orders, gap, risk = figure.subplots(3, 1, sharex=True, height_ratios=[1.5, 1, 1])
    place = run.place.numpy()
    orders.fill_between(place, *run.band.numpy(), color=BLUE, alpha=0.2, linewidth=0)
    curves = {
        "mean order": (orders, mean_order(run.strength), BLUE),
        "loss gap": (gap, run.val_loss - run.train_loss, VERMILLION),
        "overfitting risk": (risk, run.risk, "black"),
    }
    for name, (axes, values, colour) in curves.items():
        axes.plot(place, values.numpy(), color=colour, linewidth=2, marker="o" if len(place) < 3 else None)
        axes.set_ylabel(name)
        axes.grid(axis="y", color="0.9")
        for event, at, style in run.events:
            axes.axvline(at, color="black", linestyle=style, linewidth=1.4, gid=event)
    risk.set_ylim(0, 1)
    risk.set_xlabel("epoch")
    risk.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    orders.set_title("Phase 1: the mean order falls. Phase 2: it rises and the loss gap widens", fontsize=11)
    _label_events(gap, sorted((at, f"{name} {at}") for name, at, _ in run.events), *orders.get_xlim())
    return figure


def _signed(strength: Tensor) -> Tensor:
    if strength.ndim != 2 or strength.shape[0] != 2:
        raise ArgumentError(f"Expected `strength` to have shape (2, n), but got {tuple(strength.shape)}.")
    values = strength.detach().cpu().double()
    return torch.stack([values[0], -values[1]])


def _describe(strength: Tensor) -> str:
    order, n = mean_order(strength).item(), strength.shape[-1]
    if order != order:
        return "No salient interactions measured"
    low = 100 * low_order_share(strength).item()
    return f"Mean order {order:.1f} of {n}, {low:.0f} % of the strength in orders 1 to {min(3, n)}"


def _headline(run: RunData, by_losses: bool) -> str:
    """Say in a sentence what is to be seen, on more lines if it is long."""
    count = len(run.epoch)
    parts = [f"No phase boundary so far ({count} measured epoch{'s' * (count > 1)})"]
    if run.boundary_epoch is not None:
        parts = [f"Low-order dominance ended at epoch {run.boundary_epoch}"]
        if by_losses:
            parts = [f"The losses show phase 2; mean order was lowest at epoch {run.boundary_epoch}"]
    if run.overfitting_epoch is not None:
        parts.append(f"overfitting began at epoch {run.overfitting_epoch}")
    if (lowest := run.lowest_val) is not None and count > 1:
        at = "is at its lowest now" if lowest == count - 1 else f"was lowest at epoch {int(run.epoch[lowest])}"
        parts.append(f"validation loss {at}")
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}; {part}"
        lines = [*lines[:-1], longer] if len(longer) <= LONGEST_LINE else [*lines, part]
    return ";\n".join(lines)


def _draw_bars(axes: Axes, signed: Tensor) -> None:
    order = list(range(1, signed.shape[-1] + 1))
    axes.bar(order, signed[0].tolist(), color=BLUE, label="positive")
    axes.bar(order, signed[1].tolist(), color=VERMILLION, label="negative")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(order)
    axes.set_xlim(0.4, len(order) + 0.6)
    axes.set_xlabel(ORDER_LABEL)
    if not torch.isfinite(signed).all():
        axes.text(0.5, 0.75, "no salient interactions", transform=axes.transAxes, ha="center", va="center")


def _draw_panels(panels: list[Axes], run: RunData) -> None:
    chosen = dict([("Start", 0), run.middle, ("Now", len(run.epoch) - 1)])
    shares = 100 * run.strength / run.strength.sum((-1, -2), keepdim=True)
    height = 1.12 * max(1.0, shares[list(chosen.values())].nan_to_num().max().item())
    for axes, (name, index) in zip(panels, chosen.items(), strict=True):
        _draw_bars(axes, _signed(shares[index]))
        axes.set_ylim(-height, height)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.tick_params(labelleft=axes is panels[0])
        order = mean_order(run.strength[index]).item()
        known = order == order
        if known:
            axes.axvline(order, color="black", linestyle=":", linewidth=1.6)
        title = f"{name} (epoch {int(run.epoch[index])})"
        axes.set_title(f"{title}\nmean order {order:.1f}" if known else title, fontsize=12)
        axes.set_xticks(range(1, shares.shape[-1] + 1, 1 + (shares.shape[-1] > 8)))
    # The direction is in the label: a legend would cover bars in one run or another.
    panels[0].set_ylabel("share of strength (%)\n\u2190 negative  positive \u2192")


def _draw_heat_map(axes: Axes, run: RunData) -> Any:
    from matplotlib.colors import PowerNorm
    from matplotlib.patheffects import Normal, Stroke

    shares = 100 * order_distribution(run.strength).T
    n = shares.shape[0]
    top = max(1.0, shares.nan_to_num().max().item())
    axes.set_facecolor("0.88")
    border = torch.arange(n + 1).double() + 0.5
    # Bent a little to keep high orders visible beside the one or two orders that hold most of the strength.
    norm = PowerNorm(0.7, vmin=0, vmax=top)
    mesh = axes.pcolormesh(run.edges.numpy(), border.numpy(), shares.numpy(), cmap="viridis", norm=norm)
    marker = "o" if len(run.epoch) < 3 else None
    order = mean_order(run.strength).tolist()
    (line,) = axes.plot(run.place.tolist(), order, color="white", linewidth=2.4, marker=marker, zorder=3)
    line.set_path_effects([Stroke(linewidth=4.5, foreground="black"), Normal()])
    axes.set_yticks(range(1, n + 1, 1 + (n > 8)))
    axes.set_ylabel(ORDER_LABEL)
    axes.set_title("Share of every order over time; the line is the mean order", fontsize=12)
    axes.tick_params(labelbottom=False)
    if not torch.isfinite(shares).any():
        axes.text(0.5, 0.5, "no salient interactions", transform=axes.transAxes, ha="center", va="center")
    return mesh


def _draw_losses(axes: Axes, run: RunData) -> None:
    curves = {"training loss": (run.train_loss, BLUE), "validation loss": (run.val_loss, VERMILLION)}
    for name, (values, colour) in curves.items():
        known = torch.isfinite(values)
        if known.any():
            marker = "o" if known.sum() < 3 else None
            x, y = run.place[known].tolist(), values[known].tolist()
            axes.plot(x, y, color=colour, linewidth=2.6, marker=marker, label=name)
    train, val = run.train_loss.numpy(), run.val_loss.numpy()
    if (run.val_loss > run.train_loss).any():
        axes.fill_between(
            run.place.numpy(),
            train,
            val,
            where=val > train,
            color=VERMILLION,
            alpha=0.13,
            linewidth=0,
            label="loss gap",
        )
    if (lowest := run.lowest_val) is not None:
        label = f"lowest (epoch {int(run.epoch[lowest])})"
        axes.plot(
            run.place[lowest].item(), val[lowest], "*", color="black", markersize=13, linestyle="none", label=label
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.grid(axis="y", color="0.9")
    if axes.get_legend_handles_labels()[0]:
        # Below the axes, where it covers neither curves nor event lines.
        axes.legend(
            fontsize=11,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.3),
            ncol=4,
            frameon=False,
            borderaxespad=0,
            columnspacing=1.2,
        )
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no losses recorded", transform=axes.transAxes, ha="center", va="center")


def _draw_events(heat: Axes, losses: Axes, run: RunData) -> None:
    from matplotlib.ticker import MaxNLocator

    known, edges = run.events, run.edges
    left = min([edges[0].item(), *(at - 0.5 for _, at, _ in known)])
    right = max([edges[-1].item(), *(at + 0.5 for _, at, _ in known)])
    heat.set_xlim(left, right)
    losses.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    for name, at, style in known:
        heat.axvline(at, color="white", linestyle=style, linewidth=1.8, gid=name)
        losses.axvline(at, color="black", linestyle=style, linewidth=1.8, gid=name)
    _label_events(losses, sorted((at, f"{name} {at}") for name, at, _ in known), left, right)


def _label_events(axes: Axes, events: list[tuple[int, str]], left: float, right: float) -> None:
    """Write the names of the lines above the axes: apart where they would overlap, as one text where that fails."""
    place = [(at - left) / (right - left) for at, _ in events]
    sides = ["left" if x < 0.15 else "right" if x > 0.85 else "center" for x in place]
    if len(events) == 2 and (gap := place[1] - place[0]) < 0.3:
        if gap < 0.02 or "left" in sides or "right" in sides:
            events, sides = [(events[0][0], f"{events[0][1]}, {events[1][1]}")], sides[:1]
        else:
            sides = ["right", "left"]
    for (at, text), side in zip(events, sides, strict=True):
        axes.text(at, 1.03, text, transform=axes.get_xaxis_transform(), ha=side, va="bottom", fontsize=12)
