"""Replay the recorded runs through our detector, its ablations and the rivals; write `results.json` and `results.md`.

    python tests/benchmarks/onset/run.py

Everything is reported on the half of the data sets that nothing was tuned on (`data.REPORTING`); `--half tuning` shows
the other. Intervals are 90 %, over data sets and runs in them. Takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from data import REPORTING, SHARED, TUNING
from measures import (
    Numbers,
    Outcome,
    alarm_numbers,
    bootstrap,
    boundary_numbers,
    forecast_numbers,
    forecast_points,
    reliability,
)
from methods import Conditions, interactions_only, losses_only, losses_only_alarm, ours, rival
from noise import false_boundaries
from recordings import HERE, Recording, read
from rivals import RIVALS

MULTIPLES = 1.0, 1.5, 2.0, 3.0
Method = Callable[[Recording, Conditions], Outcome]

OURS: dict[str, tuple[Method, Conditions]] = {
    "losses and interactions": (ours, Conditions()),
    "losses only": (losses_only, Conditions()),
    "interactions only": (interactions_only, Conditions(val_size=0)),
    "no validation data": (interactions_only, Conditions(split="train", val_size=0)),
}
FACTORS: dict[str, list[dict[str, Any]]] = {
    "measured every (epochs)": [{"every": k} for k in (1, 2, 5)],
    "watched samples": [{"samples": k} for k in (32, 16, 8)],
    "validation samples": [{"val_size": k} for k in (1000, 300, 100)],
}


def replay(runs: Sequence[Recording], method: Method, conditions: Conditions) -> list[Outcome]:
    return [method(run, conditions) for run in runs]


def with_intervals(outcomes: list[Outcome], numbers: Callable[[Sequence[Outcome]], Numbers]) -> dict[str, list[float]]:
    """Each number with the ends of its interval."""
    ends = bootstrap(outcomes, numbers)
    return {key: [value, *ends[key]] for key, value in numbers(outcomes).items()}


def compare(runs: list[Recording]) -> dict[str, Any]:
    """Every method on the same runs, under the conditions a user gets by default."""
    outcomes = {name: replay(runs, method, conditions) for name, (method, conditions) in OURS.items()}
    rivals = {name: replay(runs, rival(name), Conditions()) for name in RIVALS}
    forecasts = {}
    for multiple in MULTIPLES:
        points = forecast_points(outcomes["losses and interactions"], multiple)
        at = {
            name: with_intervals(found, lambda some, points=points: forecast_numbers(some, points))
            for name, found in outcomes.items()
        }
        at["reliability"] = reliability(outcomes["losses and interactions"], points)
        at["both minus losses"] = _difference(outcomes["losses and interactions"], outcomes["losses only"], points)
        forecasts[f"{multiple:g}"] = at
    return {
        "alarm": {name: with_intervals(found, alarm_numbers) for name, found in (outcomes | rivals).items()},
        "boundary": {name: with_intervals(outcomes[name], boundary_numbers) for name in OURS if name != "losses only"},
        "forecast": forecasts,
    }


def _difference(both: list[Outcome], losses: list[Outcome], points: dict[str, float]) -> dict[str, list[float]]:
    """AUROC with interactions minus without, on the same draws of data sets and runs."""
    other = {o.run.name: o for o in losses}

    def numbers(some: Sequence[Outcome]) -> Numbers:
        with_, without = (forecast_numbers(s, points) for s in (some, [other[o.run.name] for o in some]))
        return {key: with_[key] - without[key] for key in ("auroc", "auroc_inside", "brier")}

    return with_intervals(both, numbers)


def factors(runs: list[Recording]) -> dict[str, Any]:
    """What measuring less, or on fewer samples, costs."""
    found: dict[str, Any] = {}
    for factor, levels in FACTORS.items():
        found[factor] = {}
        for level in levels:
            row = {}
            for name in ("losses and interactions", "losses only", "interactions only"):
                method, conditions = OURS[name]
                if name == "interactions only" and "val_size" in level:
                    continue
                outcomes = replay(runs, method, replace(conditions, **level))
                points = forecast_points(outcomes, 2.0)
                row[name] = alarm_numbers(outcomes)
                if name != "losses only":
                    row[name] |= boundary_numbers(outcomes) | {
                        "auroc_at_2": forecast_numbers(outcomes, points)["auroc"]
                    }
            found[factor][str(next(iter(level.values())))] = row
    return found


def public_histories() -> dict[str, Any]:
    """Losses only and the rivals on the labelled histories of OverfitGuard: those of papers, and simulated ones."""
    path = SHARED / "loss_histories.npz"
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as z:
        train, val, length, label, real = (z[k] for k in ("train_loss", "val_loss", "length", "overfit", "real"))
    found: dict[str, Any] = {}
    for kind, chosen in (("from papers", real == 1), ("simulated", real == 0)):
        alarms: dict[str, list[tuple[bool, bool]]] = {}
        for i in np.flatnonzero(chosen):
            losses = train[i, : length[i]].astype(float), val[i, : length[i]].astype(float)
            said = {"losses only": losses_only_alarm(*losses)}
            said |= {name: RIVALS[name](_History(*losses), 0) for name in RIVALS if name != "Label Wave"}
            for name, alarm in said.items():
                alarms.setdefault(name, []).append((bool(label[i]), alarm is not None))
        found[kind] = {
            name: {
                "recall": float(np.mean([a for y, a in pairs if y])),
                "false_alarms": float(np.mean([a for y, a in pairs if not y])),
            }
            for name, pairs in alarms.items()
        }
    return found


class _History:
    """A history of losses, for the rules in `rivals.py`."""

    def __init__(self, train_loss: Any, val_loss: Any) -> None:
        self.train_loss, self._val = train_loss, val_loss

    def val(self, size: int) -> Any:
        return self._val


def describe(runs: Sequence[Recording]) -> Numbers:
    """What the runs are."""
    return {
        "runs": len(runs),
        "data_sets": len({run.data for run in runs}),
        "overfit": sum(run.truth.overfit for run in runs),
        "turning": sum(run.truth.turns for run in runs),
    }


def _cell(value: Any, digits: int = 2) -> str:
    if isinstance(value, list):
        middle, low, high = value
        return f"{_cell(middle, digits)} [{_cell(low, digits)}, {_cell(high, digits)}]"
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _table(rows: dict[str, dict[str, Any]], columns: dict[str, str], first: str = "") -> str:
    lines = ["| " + " | ".join([first, *columns]) + " |", "|" + " --- |" * (len(columns) + 1)]
    for name, row in rows.items():
        lines.append("| " + " | ".join([name, *(_cell(row.get(key)) for key in columns.values())]) + " |")
    return "\n".join(lines)


ALARM = {
    "recall": "recall",
    "false alarms": "false_alarms",
    "regret, overfit runs: median": "regret_overfit_median",
    "90th percentile": "regret_overfit_p90",
    "mean regret, all runs": "regret_mean",
    "regret of the kept checkpoint: median": "kept_overfit_median",
    "its 90th percentile": "kept_overfit_p90",
    "lead (epochs)": "lead",
    "epochs saved": "epochs_saved",
}
BOUNDARY = {
    "found": "found",
    "error (octaves): median": "error_median",
    "90th percentile": "error_p90",
    "delay (octaves)": "delay",
    "told before the lowest test loss": "told_before_minimum",
    "turn itself before it": "turn_before_minimum",
    "turn ahead of it (octaves)": "turn_leads_minimum",
    "turn ahead of the gap (octaves)": "turn_leads_gap",
    "runs with a retraction": "retracted",
}
FORECAST = {
    "AUROC": "auroc",
    "inside data sets": "auroc_inside",
    "Brier": "brier",
    "Brier of the base rate": "brier_of_base_rate",
    "runs": "runs",
    "of them overfit": "overfit",
}
FACTOR = {
    "boundary found": "found",
    "told before the lowest test loss": "told_before_minimum",
    "recall": "recall",
    "false alarms": "false_alarms",
    "median regret": "regret_overfit_median",
    "mean regret": "regret_mean",
    "AUROC at twice the boundary": "auroc_at_2",
}


def markdown(results: dict[str, Any]) -> str:
    """All tables."""
    what = results["runs"]
    parts = [
        "# Onset benchmark",
        f"The {results['half']} half: {what['runs']} runs on {what['data_sets']} data sets, {what['overfit']} of them "
        "overfit, "
        f"{what['turning']} with a turning point. In brackets 90 % intervals over data sets and runs.",
        "## Alarm",
        _table(results["alarm"], ALARM),
        "## Boundary",
        _table(results["boundary"], BOUNDARY),
    ]
    for multiple, rows in results["forecast"].items():
        parts += [
            f"## Forecast at {multiple} times the boundary, before the lowest test loss",
            _table({k: v for k, v in rows.items() if k != "reliability"}, FORECAST),
            "Reliability (losses and interactions): "
            + "; ".join(
                f"risk {_cell(row['risk'])}: {_cell(row['overfit'])} of {row['runs']:.0f} runs overfit"
                for row in rows["reliability"]
                if row["runs"]
            ),
        ]
    for factor, levels in results["factors"].items():
        rows = {f"{level}: {name}": row for level, named in levels.items() for name, row in named.items()}
        parts += [f"## {factor.capitalize()}", _table(rows, FACTOR)]
    for kind, rows in results["public_histories"].items():
        parts += [
            f"## Public loss histories, {kind}",
            _table(rows, {"recall": "recall", "false alarms": "false_alarms"}),
        ]
    parts += ["## Boundaries told in noise alone", _table(results["noise"], {"share of sequences": "boundary"})]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--half", choices=("reporting", "tuning"), default="reporting")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    names = REPORTING if options.half == "reporting" else TUNING
    runs = [run for run in read() if run.data in names]
    results = {
        "half": options.half,
        "runs": describe(runs),
        **compare(runs),
        "factors": factors(runs),
        "public_histories": public_histories(),
        "noise": false_boundaries(),
    }
    text = markdown(results)
    print(text)
    (options.out / "results.json").write_text(json.dumps(results, indent=1, default=float) + "\n")
    (options.out / "results.md").write_text(text)


if __name__ == "__main__":
    main()
