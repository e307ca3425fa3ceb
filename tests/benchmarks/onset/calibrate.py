"""Fit the weights of `overfitting_risk` on the tuning half, and print what belongs into `risk.py`.

    python tests/benchmarks/onset/calibrate.py

The risk is that of being overfit at a horizon: at the end of the training where that is known, else after twice the
epochs. So a run counts with every record at several horizons (half an octave, one, two, and its end), as if it had been
cut off there, with the test loss there for truth. Records weigh by their share of an octave of epochs, all runs weigh
the same. Validation sets of 1000, 300 and 100 samples are used in turn, so that the fit knows how noisy a loss can be.
A small ridge penalty keeps the weights finite. No weight may be negative: each number is a reason to expect
overfitting, and a fit that says otherwise has found a peculiarity of the runs. The growth of the validation loss had a
weight of 0 beside that of the gap, and was left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
from detectors import Conditions, Ours, records
from numpy.typing import NDArray
from recordings import HERE, Recording, half, read
from scipy.optimize import minimize

from lightning_interactions.phases.risk import CAPS, clamped, horizon

STORED = HERE / "calibration.json"
RIDGE = 0.02
AHEAD = 0.5, 1.0, 2.0, math.inf
INTERACTIONS = ("strength_growth",)
LOSSES = ("gap_growth",)
VALIDATION = [Conditions(val_size=size) for size in (1000, 300, 100)]
BASES: dict[str, tuple[tuple[str, ...], list[Conditions]]] = {
    "with losses": ((*INTERACTIONS, *LOSSES, "horizon"), VALIDATION),
    "losses only": ((*LOSSES, "horizon"), VALIDATION),
    "without losses": ((*INTERACTIONS, "horizon"), [Conditions(val_size=0), Conditions(split="train", val_size=0)]),
}
Floats = NDArray[np.float64]
Rows = tuple[Floats, Floats, Floats]  # numbers (records, names), weights (records,), signs (records,)


def replay(run: Recording, names: tuple[str, ...], condition: Conditions) -> Rows:
    """All records of a run at all horizons: its numbers, its weight, and 1 if it is overfit there, else -1."""
    ours = Ours()
    numbers, weights, signs, before = list[list[float]](), list[float](), list[float](), 0.0
    for record in records(run, condition):
        ours.update(record)
        if record.strength is None or record.epoch < 0:
            continue
        octaves, before = math.log2(record.epoch + 1) - before, math.log2(record.epoch + 1)
        for last in _horizons(record.epoch, run.last_epoch):
            evidence = ours.detector.evidence | {"horizon": horizon(record.epoch, last)}
            numbers.append([clamped(name, evidence) for name in names])
            weights.append(max(octaves, 0.0) / len(AHEAD))
            signs.append(1.0 if run.truth.overfit_by(last) else -1.0)
    return np.array(numbers), np.array(weights) / sum(weights), np.array(signs)


def _horizons(epoch: float, end: int) -> Iterator[int]:
    for ahead in AHEAD:
        yield end if math.isinf(ahead) else min(math.ceil((epoch + 1) * 2**ahead) - 1, end)


def fit(parts: list[Rows]) -> Floats:
    """Intercept and weights, by weighted maximum likelihood."""
    x, weight, sign = (np.concatenate(some) for some in zip(*parts, strict=True))
    weight = weight / len(parts)
    scale = np.sqrt((x**2 * weight[:, None]).sum(0)) + 1e-9

    def loss(w: Floats) -> float:
        odds = w[0] + (x / scale) @ w[1:]
        return float((weight * np.logaddexp(0, -sign * odds)).sum() + RIDGE / 2 * (w[1:] ** 2).sum() / 10)

    bounds = [(None, None)] + [(0, None)] * x.shape[1]
    found = minimize(loss, np.zeros(x.shape[1] + 1), bounds=bounds, method="L-BFGS-B").x
    return np.concatenate([found[:1], found[1:] / scale])


def calibrate(runs: list[Recording]) -> dict[str, dict[str, object]]:
    """Fit all three."""
    found = {}
    for basis, (names, conditions) in BASES.items():
        weights = fit([replay(run, names, condition) for run in runs for condition in conditions])
        found[basis] = {
            "weights": {name: round(float(w), 2) for name, w in zip(names, weights[1:], strict=True)},
            "intercept": round(float(weights[0]), 2),
        }
    return found


def main() -> None:
    """Fit on the stored runs of the tuning half."""
    found = calibrate(half("tuning", list(read())))
    STORED.write_text(json.dumps({"caps": CAPS, **found}, indent=1) + "\n")
    print(STORED.read_text())


if __name__ == "__main__":
    main()
