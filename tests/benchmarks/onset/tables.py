"""`results.json` as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALARM = {
    "recall": "recall",
    "false_alarms": "standing false alarms",
    "clear_false_alarms": "of runs within 5 %",
    "regret_mean": "mean regret",
    "regret_overfit_median": "of overfit runs: median",
    "regret_overfit_p90": "90th percentile",
    "lead": "lead (epochs)",
    "epochs_saved": "epochs saved",
}
BOUNDARY = {
    "found": "found",
    "error_median": "error (octaves): median",
    "error_p90": "90th percentile",
    "told_before_minimum": "told before the lowest test loss",
    "suspected_before_minimum": "suspected before it",
    "turn_before_minimum": "turn itself before it",
    "told_ahead": "told ahead of it (octaves)",
    "retracted": "runs with a retraction",
    "on_runs_without_turn": "on runs without a turn",
}
FORECAST = {
    "auroc": "AUROC",
    "auroc_inside": "inside data sets",
    "brier": "Brier",
    "brier_of_base_rate": "Brier of the base rate",
    "runs": "runs",
    "overfit": "of them overfit",
}
CONDITIONS = {
    "found": "boundary found",
    "told_before_minimum": "told before the lowest test loss",
    "recall": "recall",
    "false_alarms": "false alarms",
    "regret_mean": "mean regret",
}
SAMPLES = {"turned": "share that has turned", "error": "median onset from the turn of the mean (octaves)"}
STOPPING = {"stopped_overfit": "overfit runs stopped", "stopped_quiet": "quiet runs stopped", "regret_mean": "regret"}
GROUPS = {
    "table": "Ordinary runs",
    "hard": "Hard runs",
    "deep": "Deep networks",
    "table and deep": "Ordinary runs and deep networks",
    "papers": "Public loss histories, from papers",
    "simulated": "Public loss histories, simulated",
}


def render(found: Mapping[str, Any]) -> str:
    """All tables."""
    parts = [
        "# Onset benchmark",
        f"The {found['half']} half of the data sets, on which nothing was tuned. In brackets 90 % intervals over data "
        "sets and runs. README.md says what the words mean. Left out, as their losses are not finite in the end: "
        f"{', '.join(f'`{name}`' for name in found['diverged']) or 'none'}.",
        "## Alarm",
    ]
    for group, rows in found["alarm"].items():
        size = next(iter(rows.values()))
        title = GROUPS.get(group, group.capitalize())
        parts += [f"### {title}: {size['runs'][0]:.0f} runs, {size['overfit'][0]:.0f} overfit", table(rows, ALARM)]
    parts += ["Misjudged (final test loss over its lowest; alarm):", misjudged(found["misjudged"])]
    for group, rows in found["public"].items():
        parts += [f"### {GROUPS[group]}", table(rows, {k: ALARM[k] for k in ("recall", "false_alarms")})]
    parts += ["### Stopping once the alarm has stood for so many further records", table(found["stopping"], STOPPING)]
    parts += ["## Boundary"]
    for group, rows in found["boundary"].items():
        size = next(iter(rows.values()))
        head = f"### {GROUPS[group]}: {size['overfit_and_turning'][0]:.0f} overfit, turning runs; "
        parts += [f"{head}{size['without_turn'][0]:.0f} without a turn", table(rows, BOUNDARY)]
    parts += ["### Onsets of single samples", table(found["single samples"], SAMPLES)]
    if found["noise"]:
        rows = found["noise"]["boundary"]
        lengths = {key: f"{key} records" for key in next(iter(rows.values()))}
        parts += [f"### Told in noise alone, share of {found['noise']['sequences']} sequences", table(rows, lengths)]
    parts += ["## Forecast"]
    for multiple, rows in found["forecast"].items():
        numbers = {k: v for k, v in rows.items() if k != "reliability"}
        parts += [f"### At {multiple} times the epoch of the boundary's telling", table(numbers, FORECAST)]
        bins = [
            f"risk {b['risk']:.2f}: {b['overfit']:.2f} of {b['runs']:.0f}" for b in rows["reliability"] if b["runs"]
        ]
        parts.append(f"Overfit, by risk: {'; '.join(bins)}")
    parts += ["## Conditions, on ordinary and deep runs"]
    parts += [part for name, rows in found["conditions"].items() for part in (f"### {name}", table(rows, CONDITIONS))]
    if found["frontier"]:
        parts += ["## Cost", found["frontier"]["text"]]
    return "\n\n".join(parts) + "\n"


def misjudged(rows: Sequence[Sequence[Any]]) -> str:
    """One line each."""
    lines = [
        f"- `{name}` ({'not a number' if ratio is None else f'{ratio:.2f}'}; "
        f"{'missed' if alarm is None else f'alarm at {alarm:.3g}'})"
        for name, ratio, alarm in rows
    ]
    return "\n".join(lines)


def table(rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows of numbers, with intervals where there are."""
    lines = [f"| | {' | '.join(columns.values())} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(_cell(row.get(key)) for key in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, list) and value[0] is None):
        return "-"
    if isinstance(value, list):
        low, high = ("-" if end is None else f"{end:.2f}" for end in value[1:])
        return f"{value[0]:.2f} [{low}, {high}]"
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:.2f}"
