"""The figures of a run. matplotlib is imported when one is drawn; pyplot, with its global state, never."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.strength import low_order_share, mean_order, order_distribution
from lightning_interactions.metrics import drawing
from lightning_interactions.metrics.drawing import BLUE, GREEN, ORANGE, VERMILLION
from lightning_interactions.phases.epochs import Unit, begin_with_place
from lightning_interactions.report.axis import EpochAxis
from lightning_interactions.report.record import RunRecord, lowest_index, middle_record
from lightning_interactions.report.words import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT, WIDTH = 0.88, 6.72
"""Where the axes of the run figure are that span it, in inches."""


def order_distribution_figure(strength: Tensor, *, epoch: float | None = None, unit: Unit = "epoch") -> Figure:
    """Draw the strength ``(2, n)`` of one record by order: positive interactions upwards, negative ones downwards."""
    strength = torch.as_tensor(strength).detach().cpu().double()
    if strength.ndim != 2 or strength.shape[0] != 2:
        raise ArgumentError(f"Expected `strength` to have shape (2, n), but got {tuple(strength.shape)}.")
    figure = _page(6.4, 4.2, dpi=100)
    axes = _place(figure, left=0.95, bottom=0.55, width=5.3, height=3.3, numbers=0.72)
    drawing.draw_strength(axes, strength)
    axes.yaxis.set_major_formatter(_short)
    order, n, low = mean_order(strength).item(), strength.shape[-1], 100 * low_order_share(strength).item()
    title = f"Mean order {order:.1f} of {n}, {low:.0f} % of the strength in orders 1 to {min(3, n)}"
    if order != order:
        title = "No salient interactions measured"
    axes.set_title(
        title if epoch is None else f"{begin_with_place(epoch, unit)}: {title[0].lower()}{title[1:]}", fontsize=11, y=1
    )
    return figure


def run_figure(run: RunRecord) -> Figure:
    """Draw a whole run: the two phases in the interactions, next to the losses.

    On top the strength by order at three epochs (as figure 2 of arXiv 2407.19198), in the middle the share of every
    order over time, at the bottom the losses. It is drawn to be read as a thumbnail too. Without interactions the
    sampled mean degree and the spread of the scores stand above the losses.
    """
    curve = _curve_of(run)
    figure, title, axis = _page(8.4, 7.6, dpi=120), headline(run), EpochAxis(run)
    # What the title's lines take, the panels below it have less.
    height = 1.76 - 0.24 * len(title.splitlines())
    draw, colour = (_draw_sampled, "black") if run.is_sampled else (_draw_interactions, "white")  # on the heat map
    above = draw(figure, run, curve, axis, height)
    losses = _place(figure, left=LEFT, bottom=0.78, width=WIDTH, height=1.43, numbers=0.68, sharex=above[0])
    _draw_losses(losses, run, axis)
    known = _events(run, axis)
    above[0].set_xlim(*axis.limits([at for _, at, _, _ in known]))
    axis.scale(losses)
    for name, at, style, _ in known:
        width = 1.0 if name == "boundary suspected" else 1.8
        for axes in above:
            axes.axvline(at, color=colour, linestyle=style, linewidth=width, gid=name)
        losses.axvline(at, color="black", linestyle=style, linewidth=width, gid=name)
    _label_events(losses, known, axis)
    figure.suptitle(title, y=1 - 0.08 / 7.6, va="top", fontsize=14, fontweight="bold")
    return figure


def _curve_of(run: RunRecord) -> Tensor:
    """The curve ``(E,)`` that turns at the boundary: the mean order, or the sampled mean degree."""
    return _curve(run, run.curve_key) if run.is_sampled else mean_order(run.strength)


def _draw_interactions(figure: Figure, run: RunRecord, curve: Tensor, axis: EpochAxis, height: float) -> list[Axes]:
    """Draw the strength by order at three epochs and the shares over time; return the axes that have epochs."""
    order, gap = curve.tolist(), 0.16
    panel = (WIDTH - 2 * gap) / 3
    places = [LEFT + i * (panel + gap) for i in range(3)]
    _draw_panels([_place(figure, left=x, bottom=5.2, width=panel, height=height) for x in places], run, order)
    heat = _place(figure, left=LEFT, bottom=2.64, width=WIDTH, height=1.8)
    mesh = _draw_heat_map(heat, run, order, axis)
    bar = figure.colorbar(mesh, cax=_place(figure, left=LEFT + WIDTH + 0.09, bottom=2.64, width=0.12, height=1.8))
    bar.set_label("share of strength (%)")
    bar.ax.yaxis.set_label_coords(1 + 0.38 / 0.12, 0.5)
    return [heat]


def _draw_sampled(figure: Figure, run: RunRecord, curve: Tensor, axis: EpochAxis, height: float) -> list[Axes]:
    """Draw mean degree and spread of the scores over time; return both axes."""
    degree = _place(figure, left=LEFT, bottom=2.64, width=WIDTH, height=1.8, numbers=0.68)
    _draw_curve(degree, run, curve, axis)
    degree.set_ylabel("mean degree")
    degree.set_title("Sampled mean degree over time, with its 95 % band", fontsize=12, y=1)
    spread = _place(figure, left=LEFT, bottom=5.2, width=WIDTH, height=height, numbers=0.68, sharex=degree)
    _line(spread, axis, _curve(run, "total_variance").sqrt(), BLUE)
    spread.set_ylabel("units of the score")
    spread.set_title("Standard deviation of the scores over random masks, sampled", fontsize=12, y=1)
    for axes in (degree, spread):
        axes.grid(axis="y", color="0.9")
        axes.tick_params(labelbottom=False)
    return [degree, spread]


def _draw_curve(axes: Axes, run: RunRecord, curve: Tensor, axis: EpochAxis) -> None:
    """Draw the curve that turns at the boundary, with its confidence band."""
    lower, upper = (_curve(run, f"{run.curve_key}_{end}").numpy() for end in ("lower", "upper"))
    axes.fill_between(axis.place.numpy(), lower, upper, color=BLUE, alpha=0.2, linewidth=0)
    _line(axes, axis, curve, BLUE)


def _line(axes: Axes, axis: EpochAxis, values: Tensor, colour: str) -> None:
    few = len(axis.place) < 3
    axes.plot(axis.place.numpy(), values.numpy(), color=colour, linewidth=2, marker="o" if few else None)


def _page(width: float, height: float, *, dpi: float) -> Figure:
    """An empty figure of so many inches. No layout engine: finding room for the texts would take most of the time."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi)


def _place(
    figure: Figure, *, left: float, bottom: float, width: float, height: float, numbers: float = 0.4, **options: Any
) -> Axes:
    """Add axes at a place given in inches, with room around them for the longest labels there are.

    The places of the axes' names are given too, that on the left by the room that the ``numbers`` at its ticks may
    need: to find them, matplotlib would measure all of those.
    """
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up), **options)
    axes.xaxis.set_label_coords(0.5, -0.29 / height)
    axes.yaxis.set_label_coords(-numbers / width, 0.5)
    return axes


def curves_figure(run: RunRecord) -> Figure:
    """Draw what the decision looks at over time: mean order with its confidence band, loss gap, overfitting risk."""
    from matplotlib.figure import Figure

    curve, axis = _curve_of(run), EpochAxis(run)
    known = _events(run, axis)
    figure = Figure(figsize=(10, 6.5), dpi=100, layout="constrained")
    orders, gap, risk = figure.subplots(3, 1, sharex=True, height_ratios=[1.5, 1, 1])
    _draw_curve(orders, run, curve, axis)
    _line(gap, axis, _curve(run, "val_loss") - _curve(run, "train_loss"), VERMILLION)
    _line(risk, axis, _curve(run, "overfitting_risk"), "black")
    for name, axes in ((run.curve_name, orders), ("loss gap", gap), ("overfitting risk", risk)):
        axes.set_ylabel(name)
        axes.grid(axis="y", color="0.9")
        for event, at, style, _ in known:
            axes.axvline(at, color="black", linestyle=style, linewidth=1.4, gid=event)
    risk.set_ylim(0, 1)
    risk.set_xlabel(axis.label)
    if axis.logarithmic:
        risk.set_xlim(*axis.limits([at for _, at, _, _ in known]))
    axis.scale(risk)
    orders.set_title(f"Phase 1: the {run.curve_name} falls. Phase 2: it rises and the loss gap widens", fontsize=11)
    _label_events(gap, known, axis)
    return figure


def changes_figure(run: RunRecord) -> Figure:
    """Draw what training kept, added and took away of the interactions: how much, of which order, how cancelling.

    Every curve has its 95 % confidence band. See `interaction_changes` for what the numbers are.
    """
    from matplotlib.figure import Figure

    axis = EpochAxis(run)
    place, known = axis.place.numpy(), _events(run, axis)
    figure = Figure(figsize=(10, 6.5), dpi=100, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[1.5, 1, 1])
    rows = {"share": ("share of strength (%)", 100), "order": ("mean order", 1), "ratio": ("not cancelled (%)", 100)}
    looks = {"preserved": (GREEN, "-"), "emerged": (ORANGE, "--"), "removed": ("0.35", ":")}
    for axes, (key, (label, unit)) in zip(panels, rows.items(), strict=True):
        for name, (colour, style) in looks.items():
            value, *band = (unit * _curve(run, f"change/{name}_{key}{end}") for end in ("", "_lower", "_upper"))
            axes.fill_between(place, *(end.numpy() for end in band), color=colour, alpha=0.18, linewidth=0)
            marker = "o" if value.isfinite().sum() < 3 else None
            axes.plot(place, value.numpy(), color=colour, linestyle=style, linewidth=2.2, marker=marker, label=name)
        axes.set_ylabel(label)
        axes.grid(axis="y", color="0.9")
        for event, at, style, _ in known:
            axes.axvline(at, color="black", linestyle=style, linewidth=1.4, gid=event)
    panels[0].set_ylim(-2, 102)  # room for lines at the ends
    panels[2].set_ylim(-2, 102)
    panels[2].set_xlabel(axis.label)
    if axis.logarithmic:
        panels[2].set_xlim(*axis.limits([at for _, at, _, _ in known]))
    axis.scale(panels[2])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    _label_events(panels[0], known, axis)
    return figure


def _curve(run: RunRecord, key: str) -> Tensor:
    """A column ``(E,)``; what is not finite is a gap."""
    values = torch.tensor(run.column(key), dtype=torch.float64)
    return values.masked_fill(~values.isfinite(), float("nan"))


def _events(run: RunRecord, axis: EpochAxis) -> list[tuple[str, float, str, str]]:
    """Name, place, line style and label of every event that stands: at most two, as none is suspected and found."""
    found = (
        ("boundary suspected", run.suspected_place, run.suspected_epoch, ":"),
        ("boundary", run.boundary_place, run.boundary_epoch, "--"),
        ("overfitting", run.overfitting_place, run.overfitting_epoch, "-"),
    )
    # On the log scale the numbers at the axis are epochs done, one more than the epoch that is over then.
    label = f"{{}} ({run.unit} {{}})" if axis.logarithmic else "{} {}"
    return [(name, axis.at(at), style, label.format(name, n)) for name, at, n, style in found if at is not None]


def _draw_panels(panels: list[Axes], run: RunRecord, orders: list[float]) -> None:
    epochs = run.history["epoch"]
    middle = middle_record(run, orders) or ("Half-way", len(epochs) // 2)
    chosen = dict([("Start", 0), middle, ("Now", len(epochs) - 1)])
    shares = 100 * run.strength / run.strength.sum((-1, -2), keepdim=True)
    height = 1.12 * max(1.0, shares[list(chosen.values())].nan_to_num().max().item())
    for axes, (name, index) in zip(panels, chosen.items(), strict=True):
        drawing.draw_bars(axes, shares[index], every=1 + (shares.shape[-1] > 8))
        axes.set_ylim(-height, height)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.tick_params(labelleft=axes is panels[0])
        order, title = orders[index], f"{name} ({run.tell(epochs[index], short=True)})"
        if order == order:
            axes.axvline(order, color="black", linestyle=":", linewidth=1.6)
            title += f"\nmean order {order:.1f}"
        axes.set_title(title, fontsize=12, y=1)  # given, or matplotlib would measure what may be in its way
    # The direction is in the label: a legend would cover bars in one run or another.
    panels[0].set_ylabel("share of strength (%)\n\u2190 negative  positive \u2192")


def _draw_heat_map(axes: Axes, run: RunRecord, order: list[float], axis: EpochAxis) -> Any:
    from matplotlib.colors import PowerNorm
    from matplotlib.patheffects import Normal, Stroke

    shares = 100 * order_distribution(run.strength).T
    n = shares.shape[0]
    top = max(1.0, shares.nan_to_num().max().item())
    axes.set_facecolor("0.88")
    border = torch.arange(n + 1).double() + 0.5
    # Bent a little to keep high orders visible beside the one or two orders that hold most of the strength.
    norm = PowerNorm(0.7, vmin=0, vmax=top)
    mesh = axes.pcolormesh(axis.edges().numpy(), border.numpy(), shares.numpy(), cmap="viridis", norm=norm)
    marker = "o" if len(axis.place) < 3 else None
    (line,) = axes.plot(axis.place.tolist(), order, color="white", linewidth=2.4, marker=marker, zorder=3)
    line.set_path_effects([Stroke(linewidth=4.5, foreground="black"), Normal()])
    axes.set_yticks(range(1, n + 1, 1 + (n > 8)))
    axes.set_ylabel(drawing.ORDER_LABEL)
    axes.set_title("Share of every order over time; the line is the mean order", fontsize=12, y=1)
    axes.tick_params(labelbottom=False)
    if not torch.isfinite(shares).any():
        axes.text(0.5, 0.5, "no salient interactions", transform=axes.transAxes, ha="center", va="center")
    return mesh


def _draw_losses(axes: Axes, run: RunRecord, axis: EpochAxis) -> None:
    place, train, val = axis.place.numpy(), _curve(run, "train_loss"), _curve(run, "val_loss")
    for name, values, colour in (("training loss", train, BLUE), ("validation loss", val, VERMILLION)):
        known = torch.isfinite(values)
        if known.any():
            marker = "o" if known.sum() < 3 else None
            x, y = axis.place[known].tolist(), values[known].tolist()
            axes.plot(x, y, color=colour, linewidth=2.6, marker=marker, label=name)
    if (wider := val > train).any():
        look: dict[str, Any] = {"color": VERMILLION, "alpha": 0.13, "linewidth": 0}
        axes.fill_between(place, train.numpy(), val.numpy(), where=wider.numpy(), label="loss gap", **look)
    if (lowest := lowest_index(val.tolist())) is not None:
        label = f"lowest ({run.tell(run.history['epoch'][lowest], short=True)})"
        star: dict[str, Any] = {"color": "black", "markersize": 13, "linestyle": "none"}
        axes.plot(place[lowest], val[lowest].item(), "*", label=label, **star)
    axes.set_xlabel(axis.label)
    axes.set_ylabel("loss")
    axes.yaxis.set_major_formatter(_short)
    axes.grid(axis="y", color="0.9")
    if axes.get_legend_handles_labels()[0]:
        # Below the axes, where it covers neither curves nor event lines.
        where: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3), "borderaxespad": 0}
        axes.legend(fontsize=11, ncol=4, frameon=False, columnspacing=1.2, **where)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no losses recorded", transform=axes.transAxes, ha="center", va="center")


def _short(value: float, _: Any) -> str:
    """A number at a tick, in no more room than there is, and without a common factor that would stand elsewhere."""
    return f"{value:.6g}"


def _label_events(axes: Axes, known: list[tuple[str, float, str, str]], axis: EpochAxis) -> None:
    """Write the names of the lines above the axes: apart where they would overlap, as one text where that fails."""
    events, limits = sorted((at, label) for _, at, _, label in known), axes.get_xlim()
    place = [axis.fraction(at, *limits) for at, _ in events]
    sides = ["left" if x < 0.15 else "right" if x > 0.85 else "center" for x in place]
    if len(events) == 2 and (gap := place[1] - place[0]) < 0.3:
        if gap < 0.02 or "left" in sides or "right" in sides:
            events = [(events[0][0], f"{events[0][1]}, {events[1][1]}")]
            # On the log scale the labels are longer, and events mostly late.
            sides = ["right"] if axis.logarithmic and place[0] > 0.5 else sides[:1]
        else:
            sides = ["right", "left"]
    for (at, text), side in zip(events, sides, strict=True):
        axes.text(at, 1.03, text, transform=axes.get_xaxis_transform(), ha=side, va="bottom", fontsize=12)
