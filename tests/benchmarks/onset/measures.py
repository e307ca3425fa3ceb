"""From what a method said about runs to the numbers of the tables, with intervals over data sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from recordings import Recording

Numbers = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What one method said about one run.

    Attributes:
        run: The recording.
        alarm: Epoch of the alarm, ``None`` without one.
        boundary: Epoch of the last boundary that stood at the end, ``None`` without one.
        told: Epoch in which that boundary was told.
        first_boundary: The first boundary, retracted later or not.
        first_told: Epoch in which that was told.
        retracted: How many boundaries were withdrawn.
        risk: Epochs and risks, at every measurement.
    """

    run: Recording
    alarm: int | None
    boundary: int | None = None
    told: int | None = None
    first_boundary: int | None = None
    first_told: int | None = None
    retracted: int = 0
    risk: tuple[tuple[int, float], ...] = field(default=(), repr=False)

    def risk_at(self, epoch: float) -> float:
        """The risk known at an epoch."""
        return next((risk for e, risk in reversed(self.risk) if e <= epoch), math.nan)


def alarm_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """Recall, false alarms, signed lead, regret and saved epochs.

    Lead is ``t_v`` minus the alarm, in epochs: positive before the lowest test loss. Regret is the test loss at the
    alarm (or at the end) over its minimum, minus 1; ``kept`` is that of the checkpoint of the lowest validation loss
    (of the largest validation set) until then.
    """
    overfit = [o for o in outcomes if o.run.truth.overfit]
    quiet = [o for o in outcomes if not o.run.truth.overfit]
    regret = {id(o): _regret(o) for o in outcomes}
    return {
        "recall": _mean([o.alarm is not None for o in overfit]),
        "false_alarms": _mean([o.alarm is not None for o in quiet]),
        "lead": _median([o.run.truth.t_v - o.alarm for o in overfit if o.alarm is not None]),
        "regret_overfit_median": _median([regret[id(o)] for o in overfit]),
        "regret_overfit_p90": _quantile([regret[id(o)] for o in overfit], 0.9),
        "regret_mean": _mean([regret[id(o)] for o in outcomes]),
        "kept_overfit_median": _median([_kept_regret(o) for o in overfit]),
        "kept_overfit_p90": _quantile([_kept_regret(o) for o in overfit], 0.9),
        "epochs_saved": _mean([1 - (o.alarm + 1) / _length(o) if o.alarm is not None else 0.0 for o in overfit]),
    }


def boundary_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """How often, how exactly and how early the turning point was told; errors and leads in octaves of epochs."""
    turning = [o for o in outcomes if o.run.truth.turns]
    found = [o for o in turning if o.boundary is not None and o.told is not None]
    error = [abs(_octaves(o.boundary, o.run.truth.t_o)) for o in found]
    overfit = [o for o in turning if o.run.truth.overfit]
    return {
        "found": _mean([o.boundary is not None for o in turning]),
        "error_median": _median(error),
        "error_p90": _quantile(error, 0.9),
        "delay": _median([_octaves(o.told, o.run.truth.t_o) for o in found]),
        "turn_leads_gap": _median([_octaves(o.run.truth.t_g, o.run.truth.t_o) for o in overfit]),
        "turn_leads_minimum": _median([_octaves(o.run.truth.t_v, o.run.truth.t_o) for o in overfit]),
        "turn_before_minimum": _mean([o.run.truth.t_o < o.run.truth.t_v for o in overfit]),
        "told_before_minimum": _mean([o.first_told is not None and o.first_told < o.run.truth.t_v for o in overfit]),
        "retracted": _mean([o.retracted > 0 for o in outcomes]),
        "on_runs_without_turn": _mean([o.boundary is not None for o in outcomes if not o.run.truth.turns]),
    }


def forecast_points(outcomes: Sequence[Outcome], multiple: float) -> dict[str, float]:
    """Epochs at which to ask for a forecast, by run: a multiple of the boundary, once told, before ``t_v``."""
    points = {}
    for o in outcomes:
        if o.first_told is not None and o.first_boundary is not None:
            epoch = max(o.first_told, multiple * (o.first_boundary + 1) - 1)
            if epoch < o.run.truth.t_v:
                points[o.run.name] = epoch
    return points


def forecast_numbers(outcomes: Sequence[Outcome], points: dict[str, float]) -> Numbers:
    """AUROC (over all, and averaged inside data sets), Brier score, and how many runs of which how many overfit."""
    rows = [(o.run.data, o.risk_at(points[o.run.name]), o.run.truth.overfit) for o in outcomes if o.run.name in points]
    rows = [row for row in rows if not math.isnan(row[1])]
    inside = [_auroc([(r, y) for d, r, y in rows if d == data]) for data in sorted({d for d, _, _ in rows})]
    return {
        "auroc": _auroc([(r, y) for _, r, y in rows]),
        "auroc_inside": _mean([a for a in inside if not math.isnan(a)]),
        "brier": _mean([(r - y) ** 2 for _, r, y in rows]),
        "brier_of_base_rate": _mean([y for _, _, y in rows]) * (1 - _mean([y for _, _, y in rows])),
        "runs": float(len(rows)),
        "overfit": float(sum(y for _, _, y in rows)),
    }


def reliability(outcomes: Sequence[Outcome], points: dict[str, float], bins: int = 4) -> list[Numbers]:
    """Mean risk against the share of runs that overfit, in bins of equal width."""
    pairs = [(o.risk_at(points[o.run.name]), o.run.truth.overfit) for o in outcomes if o.run.name in points]
    out = []
    for i in range(bins):
        inside = [(r, y) for r, y in pairs if min(int(r * bins), bins - 1) == i]
        row = {
            "runs": float(len(inside)),
            "risk": _mean([r for r, _ in inside]),
            "overfit": _mean([y for _, y in inside]),
        }
        out.append(row)
    return out


def bootstrap(
    outcomes: Sequence[Outcome], numbers: Callable[[Sequence[Outcome]], Numbers], draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """90 % intervals: data sets are drawn with replacement, then runs inside each."""
    rng = np.random.default_rng(seed)
    names = sorted({o.run.data for o in outcomes})
    groups = {name: [o for o in outcomes if o.run.data == name] for name in names}
    found: list[Numbers] = []
    for _ in range(draws):
        chosen = [groups[name] for name in rng.choice(names, len(names))]
        found.append(numbers([group[i] for group in chosen for i in rng.integers(0, len(group), len(group))]))
    return {
        key: (_quantile([f[key] for f in found], 0.05), _quantile([f[key] for f in found], 0.95)) for key in found[0]
    }


def _regret(outcome: Outcome) -> float:
    loss = outcome.run.truth.test_loss
    return float(loss[-1 if outcome.alarm is None else outcome.alarm] / loss.min() - 1)


def _kept_regret(outcome: Outcome) -> float:
    loss, val = outcome.run.truth.test_loss, outcome.run.val(1000)
    end = len(loss) if outcome.alarm is None else outcome.alarm + 1
    return float(loss[int(val[:end].argmin())] / loss.min() - 1)


def _length(outcome: Outcome) -> int:
    return len(outcome.run.truth.test_loss)


def _octaves(a: int | None, b: int) -> float:
    return math.nan if a is None else math.log2((a + 1) / (b + 1))


def _auroc(pairs: Sequence[tuple[float, bool]]) -> float:
    """Chance that an overfit run has the higher risk; ties count half."""
    high, low = [r for r, y in pairs if y], [r for r, y in pairs if not y]
    if not high or not low:
        return math.nan
    a, b = np.array(high)[:, None], np.array(low)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _median(values: Sequence[float]) -> float:
    return _quantile(values, 0.5)


def _quantile(values: Sequence[float], q: float) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return float(np.quantile(finite, q)) if finite else math.nan
