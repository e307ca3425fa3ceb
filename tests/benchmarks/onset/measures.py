"""From what a detector said of runs to the numbers of the tables, with intervals over data sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from detectors import Conditions, Detector, records
from recordings import Recording
from truth import CLEARLY_NOT, ends_of_epochs

Numbers = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What one detector said of one run.

    Attributes:
        run: The recording.
        alarm: Place of the alarm that stands at the end, ``None`` without one.
        alarms: How often one was given.
        boundary: Where the boundary is that stands at the end.
        told: Where that was told.
        first_told: Where the first boundary was told, withdrawn later or not.
        retracted: How many boundaries were withdrawn.
        suspected: Where a boundary was first suspected or told.
        risk: Places and risks, at every record.
    """

    run: Recording
    alarm: float | None = None
    alarms: int = 0
    boundary: float | None = None
    told: float | None = None
    first_told: float | None = None
    retracted: int = 0
    suspected: float | None = None
    risk: tuple[tuple[float, float], ...] = field(default=(), repr=False)

    def risk_at(self, epoch: float) -> float:
        """The risk known at a place."""
        return next((risk for e, risk in reversed(self.risk) if e <= epoch), math.nan)


def replay(run: Recording, detector: Detector, conditions: Conditions) -> Outcome:
    """Show a run to a detector."""
    alarm = boundary = told = first_told = suspected = None
    alarms = retracted = 0
    risk = []
    for record in records(run, conditions):
        said = detector.update(record)
        if said.alarm and alarm is None:
            alarms += 1
        alarm = (record.epoch if alarm is None else alarm) if said.alarm else None
        if said.boundary is not None and told is None:
            told = record.epoch
            first_told = told if first_told is None else first_told
        elif said.boundary is None and told is not None:
            told, retracted = None, retracted + 1
        boundary = said.boundary
        if suspected is None and (said.suspected or said.boundary is not None):
            suspected = record.epoch
        risk.append((record.epoch, said.risk))
    return Outcome(run, alarm, alarms, boundary, told, first_told, retracted, suspected, tuple(risk))


def alarm_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """Recall, standing false alarms, signed lead, regret and saved epochs.

    Lead is ``t_v`` minus the alarm, in epochs: positive before the lowest test loss. Regret is the test loss at the
    alarm (or at the end) over its minimum, minus 1; ``kept`` is that of the checkpoint of the lowest validation loss
    (of the largest validation set) until then. Clear false alarms are those of runs that end within 5 % of their
    lowest test loss, among those.
    """
    overfit = [o for o in outcomes if o.run.truth.overfit]
    quiet = [o for o in outcomes if not o.run.truth.overfit]
    clear = [o for o in quiet if o.run.truth.ratio < CLEARLY_NOT]
    return {
        "recall": mean([o.alarm is not None for o in overfit]),
        "false_alarms": mean([o.alarm is not None for o in quiet]),
        "clear_false_alarms": mean([o.alarm is not None for o in clear]),
        "ever_alarmed_quiet": mean([o.alarms > 0 for o in quiet]),
        "regret_mean": mean([regret(o) for o in outcomes]),
        "regret_overfit_median": median([regret(o) for o in overfit]),
        "regret_overfit_p90": quantile([regret(o) for o in overfit], 0.9),
        "kept_overfit_p90": quantile([_kept_regret(o) for o in overfit], 0.9),
        "lead": median([o.run.truth.t_v - o.alarm for o in overfit if o.alarm is not None]),
        "epochs_saved": mean([1 - (o.alarm + 1) / _length(o) if o.alarm is not None else 0.0 for o in overfit]),
        "runs": float(len(outcomes)),
        "overfit": float(len(overfit)),
    }


def boundary_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """How often, how exactly and how early the turning point was told; errors and leads in octaves of epochs."""
    turning = [o for o in outcomes if o.run.truth.turns]
    found = [o for o in turning if o.boundary is not None and o.told is not None]
    overfit = [o for o in turning if o.run.truth.overfit]
    error = [abs(octaves(o.boundary, o.run.truth.t_o)) for o in found]
    still = [o for o in outcomes if not o.run.truth.turns]
    return {
        "found": mean([o.boundary is not None for o in turning]),
        "error_median": median(error),
        "error_p90": quantile(error, 0.9),
        "delay": median([octaves(o.told, o.run.truth.t_o) for o in found]),
        "turn_before_minimum": mean([o.run.truth.t_o < o.run.truth.t_v for o in overfit]),
        "told_before_minimum": mean([_before(o.first_told, o) for o in overfit]),
        "suspected_before_minimum": mean([_before(o.suspected, o) for o in overfit]),
        "told_ahead": median([octaves(o.run.truth.t_v, o.first_told) for o in overfit if o.first_told is not None]),
        "retracted": mean([o.retracted > 0 for o in outcomes]),
        "on_runs_without_turn": mean([o.boundary is not None for o in still]),
        "suspected_without_turn": mean([o.suspected is not None for o in still]),
        "overfit_and_turning": float(len(overfit)),
        "without_turn": float(len(still)),
    }


def _before(place: float | None, outcome: Outcome) -> bool:
    return place is not None and place < outcome.run.truth.t_v


def forecast_points(outcomes: Sequence[Outcome], multiple: float) -> dict[str, float]:
    """Places at which to ask for a forecast, by run: a multiple of the boundary, once told, before ``t_v``."""
    points = {}
    for o in outcomes:
        if o.first_told is not None:
            place = max(o.first_told, multiple * (o.first_told + 1) - 1)
            if place < o.run.truth.t_v:
                points[o.run.name] = place
    return points


def forecast_numbers(outcomes: Sequence[Outcome], points: dict[str, float]) -> Numbers:
    """AUROC (over all, and averaged inside data sets), Brier score, and how many runs of which how many overfit."""
    rows = [(o.run.data, o.risk_at(points[o.run.name]), o.run.truth.overfit) for o in outcomes if o.run.name in points]
    rows = [row for row in rows if not math.isnan(row[1])]
    inside = [_auroc([(r, y) for d, r, y in rows if d == data]) for data in sorted({d for d, _, _ in rows})]
    return {
        "auroc": _auroc([(r, y) for _, r, y in rows]),
        "auroc_inside": mean([a for a in inside if not math.isnan(a)]),
        "brier": mean([(r - y) ** 2 for _, r, y in rows]),
        "brier_of_base_rate": mean([y for _, _, y in rows]) * (1 - mean([y for _, _, y in rows])),
        "runs": float(len(rows)),
        "overfit": float(sum(y for _, _, y in rows)),
    }


def reliability(outcomes: Sequence[Outcome], points: dict[str, float], bins: int = 4) -> list[Numbers]:
    """Mean risk against the share of runs that overfit, in bins of equal width."""
    pairs = [(o.risk_at(points[o.run.name]), o.run.truth.overfit) for o in outcomes if o.run.name in points]
    out = []
    for i in range(bins):
        inside = [(r, y) for r, y in pairs if min(int(r * bins), bins - 1) == i]
        out.append({
            "runs": float(len(inside)), "risk": mean([r for r, _ in inside]), "overfit": mean([y for _, y in inside]),
        })  # fmt: skip
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
    return {key: (quantile([f[key] for f in found], 0.05), quantile([f[key] for f in found], 0.95)) for key in found[0]}


def regret(outcome: Outcome) -> float:
    """The test loss at the alarm, or at the end, over its minimum, minus 1."""
    loss = outcome.run.truth.test_loss
    at = len(loss) - 1 if outcome.alarm is None else max(math.ceil(outcome.alarm), 0)
    return float(loss[at] / np.nanmin(loss) - 1)


def _kept_regret(outcome: Outcome) -> float:
    run, loss = outcome.run, outcome.run.truth.test_loss
    ends = ends_of_epochs(run.loss_epochs)
    end = len(loss) if outcome.alarm is None else max(math.ceil(outcome.alarm), 0) + 1
    return float(loss[int(run.val(1000)[ends][:end].argmin())] / loss.min() - 1)


def _length(outcome: Outcome) -> int:
    return len(outcome.run.truth.test_loss)


def octaves(a: float | None, b: float | None) -> float:
    """How far a place is after another, in doublings of the epochs; a quarter of an epoch is the shortest time."""
    if a is None or b is None:
        return math.nan
    return math.log2(max(a + 1, 0.25) / max(b + 1, 0.25))


def _auroc(pairs: Sequence[tuple[float, bool]]) -> float:
    """Chance that an overfit run has the higher risk; ties count half."""
    high, low = [r for r, y in pairs if y], [r for r, y in pairs if not y]
    if not high or not low:
        return math.nan
    a, b = np.array(high)[:, None], np.array(low)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def mean(values: Sequence[float]) -> float:
    """Of what is a number."""
    finite = [v for v in values if not math.isnan(v)]
    return float(np.mean(finite)) if finite else math.nan


def median(values: Sequence[float]) -> float:
    """Likewise."""
    return quantile(values, 0.5)


def quantile(values: Sequence[float], q: float) -> float:
    """Likewise."""
    finite = [v for v in values if not math.isnan(v)]
    return float(np.quantile(finite, q)) if finite else math.nan
