"""A run as one HTML file that opens anywhere: figures inside, no network."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_interactions.errors import ArgumentError
from lightning_interactions.metrics.drawing import GREEN, ORANGE, VERMILLION
from lightning_interactions.phases.epochs import begin_with_place
from lightning_interactions.pictures.card import STYLE, card
from lightning_interactions.pictures.exhibit import exhibit_of
from lightning_interactions.report.figures import changes_figure, curves_figure, run_figure
from lightning_interactions.report.history import count_records, span, write_whole
from lightning_interactions.report.record import RunRecord, find_run, middle_record
from lightning_interactions.report.words import finite, summary, verdict

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

MOST_FRAMES = 400
"""Epochs the slider offers; of longer runs every second, third, ... one."""

IN_TITLES = ("split", "index", "target", "prediction")
"""Columns of a sample that the title of its card tells."""

NOT_TOLD = ("key", "picture", "interactions", "epochs", "unit")
"""Columns of a sample that are no numbers to read."""


def write_report(
    run: RunRecord | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "Interactions by order",
) -> Path:
    """Write a run as one self-contained HTML file; return where it was written.

    Verdict in words, boundary, risk over time, the order distribution at every measured epoch (a slider), what changed
    since the first record, the watched samples with their interactions, events with their evidence, cost, solver gaps,
    noise floor, settings and versions.

    Args:
        run: A run, or the folder it logged to (or the ``interactions.json`` in there).
        path: Where to write; ``interactions.html`` beside the run's file by default.
        title: Headline of the page.

    Raises:
        ArgumentError: If there is no run, or nothing was measured in it, or no ``path`` to write to.
        StateError: If the run's file cannot be read.
    """
    if not isinstance(run, RunRecord):
        file = find_run(run)
        path = path or file.with_suffix(".html")
        run = RunRecord.from_json(file.read_text(encoding="utf-8"))
    if path is None:
        raise ArgumentError("Expected argument `path` to say where the report of this run should be written.")
    target = Path(path)
    write_whole(target, render_report(run, title))
    return target


def render_report(run: RunRecord, title: str) -> str:
    """Return the HTML of a report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if not run.history.get("epoch"):
        raise ArgumentError("Nothing was measured in this run, so there is nothing to report.")
    loader = PackageLoader("lightning_interactions.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["cell"] = _cell
    epochs = run.history["epoch"]
    colour = VERMILLION if run.overfitting_epoch is not None else ORANGE if run.boundary_epoch is not None else GREEN
    return environment.get_template("report.html").render(
        title=title,
        subtitle=f"{count_records(epochs, run.unit)}, {span(epochs, run.unit)}; lightning-interactions "
        f"{run.versions.get('lightning-interactions', '')}",
        verdict=verdict(run),
        colour=colour,
        card_style=STYLE,
        summary=summary(run),
        run_figure=_png(run_figure(run)),
        curves=_png(curves_figure(run)),
        changes=_png(changes_figure(run)) if finite(run.column("change/emerged_share")) else None,
        unit=run.unit,
        curve=run.curve_name,
        frames=None if run.is_sampled else _frames(run),
        events=run.events,
        samples=[{name: value for name, value in row.items() if name not in NOT_TOLD} for row in run.samples],
        cards=_cards(run),
        trust=_trust(run),
        noise=_noise(run),
        settings=run.settings,
        versions=run.versions,
    )


def _cards(run: RunRecord) -> list[Markup]:
    """The watched samples as people see them; none where nothing is known of their interactions."""
    if not any(row.get("interactions") for row in run.samples):
        return []
    return [card(exhibit_of(row), anchor=f"sample-{i}", facts=_facts(row)) for i, row in enumerate(run.samples)]


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    told = {name: value for name, value in row.items() if name not in (*IN_TITLES, *NOT_TOLD)}
    unit = row.get("unit", "epoch")
    words = {name: name.replace("_", " ").replace("epoch", unit) for name in told}
    return {words[name]: _cell(value) for name, value in told.items() if value is not None}


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def _frames(run: RunRecord) -> dict[str, Any]:
    """Data of the slider: per frame the shares of strength in per cent, by sign and order."""
    epochs, orders = run.history["epoch"], run.column("mean_order")
    marks = dict(filter(None, [("Start", 0), middle_record(run, orders), ("Now", len(epochs) - 1)]))
    step = -(-len(epochs) // MOST_FRAMES)
    kept = sorted({*range(0, len(epochs), step), *marks.values()})
    return {
        "epochs": [epochs[i] for i in kept],
        "names": [begin_with_place(epochs[i], run.unit) for i in kept],
        "shares": [_shares(run.history["strength"][i]) for i in kept],
        "mean_order": [round(orders[i], 4) if math.isfinite(orders[i]) else None for i in kept],
        "marks": {name: kept.index(i) for name, i in marks.items()},
        "start": len(kept) - 1,
    }


def _shares(strength: list[list[float | None]]) -> list[list[float]]:
    known = [[value if value is not None and math.isfinite(value) else 0.0 for value in row] for row in strength]
    total = sum(map(sum, known)) or 1.0
    return [[round(100 * value / total, 3) for value in row] for row in known]


def _trust(run: RunRecord) -> dict[str, str]:
    gaps, skipped = finite(run.column("solver_gap")), finite(run.column("skipped_samples"))
    seconds = sorted(finite(run.column("seconds")))
    rows = {}
    errors = finite(run.column("mean_degree_error")) if run.is_sampled else []
    if errors:
        rows["Sampled"] = (
            "the mean degree is estimated from random mask pairs, and there are no interactions; standard error "
            f"{errors[-1]:.2g} at the last record, {max(errors):.2g} at most. Records share their samples and masks, "
            "so they differ by less than their bands: the boundary is tested in pairs"
        )
    if gaps:
        rows["Solver gap"] = (
            f"at most {max(gaps):.2%}: no split of any watched sample is further than that from the sparsest one"
        )
    if seconds:
        rows["Cost"] = (
            f"{len(seconds)} measurements, {run.seconds:.1f} s in all, logging and drawing included; median "
            f"{seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.2f} s"
        )
    if skipped:
        rows["Skipped samples"] = f"{max(skipped):.0f} at most in one measurement (scores that were not finite)"
    return rows


def _noise(run: RunRecord) -> list[dict[str, float]]:
    if run.is_sampled:
        return []
    last = [[value or 0.0 for value in row] for row in run.history["strength"][-1]]
    rows = []
    for order, (positive, negative) in enumerate(zip(*last, strict=True), start=1):
        column = run.column(f"noise_floor/order_{order:02d}")
        if math.isfinite(column[-1]):
            rows.append({"order": order, "strength": positive + negative, "noise": column[-1]})
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return str(value)
