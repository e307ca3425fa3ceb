"""Fit the weights of `overfitting_risk` on the tuning half, and print what belongs into `_risk.py`.

    python tests/benchmarks/onset/calibrate.py

Every record of every run counts, as the risk is told at every one, with the weight of its share of an octave of epochs;
all runs weigh the same. Validation sets of 1000, 300 and 100 samples are used in turn, so that the fit knows how noisy
a loss can be. A small ridge penalty keeps the weights finite. No weight may be negative: each number is a reason to
expect overfitting, and a fit that says otherwise has found a peculiarity of the runs. Other numbers were tried (rise of
the mean order per octave, fall of the first-order share, rebound, cancellation, training loss against validation loss):
left out one data set at a time, none of them made the forecast better.
"""

from __future__ import annotations

import json

import numpy as np
from data import TUNING
from methods import Conditions, records
from numpy.typing import NDArray
from recordings import HERE, Recording, read
from scipy.optimize import minimize

from lightning_interactions.phases import PhaseDetector
from lightning_interactions.phases.risk import CAPS, clamped

STORED = HERE / "calibration.json"
RIDGE = 0.02
INTERACTIONS = ("strength_growth",)
LOSSES = ("gap_growth", "val_growth")
BASES: dict[str, tuple[tuple[str, ...], list[Conditions]]] = {
    "with losses": ((*INTERACTIONS, *LOSSES), [Conditions(val_size=size) for size in (1000, 300, 100)]),
    "losses only": (LOSSES, [Conditions(val_size=size) for size in (1000, 300, 100)]),
    "without losses": (INTERACTIONS, [Conditions(val_size=0), Conditions(split="train", val_size=0)]),
}
Floats = NDArray[np.float64]


def table(
    runs: list[Recording], names: tuple[str, ...], conditions: list[Conditions]
) -> tuple[list[Floats], list[bool]]:
    """Per replay the numbers ``(records, names)``, and whether the run overfits; a first column holds weights."""
    rows, labels = [], []
    for run in runs:
        for condition in conditions:
            detector, found, epochs = PhaseDetector(), [], []
            for record in records(run, condition):
                detector.update(*record)
                found.append([clamped(name, detector.evidence) for name in names])
                epochs.append(record[0])
            octaves = np.diff(np.log2(np.array([0, *epochs]) + 1.0), prepend=0)[1:]
            rows.append(np.column_stack([octaves / octaves.sum(), np.array(found)]))
            labels.append(run.truth.overfit)
    return rows, labels


def fit(rows: list[Floats], labels: list[bool]) -> Floats:
    """Intercept and weights, by weighted maximum likelihood."""
    x = np.concatenate([r[:, 1:] for r in rows])
    weight = np.concatenate([r[:, 0] for r in rows]) / len(rows)
    sign = np.concatenate([np.full(len(r), 1.0 if y else -1.0) for r, y in zip(rows, labels, strict=True)])
    scale = np.sqrt((x**2 * weight[:, None]).sum(0)) + 1e-9

    def loss(w: Floats) -> float:
        odds = w[0] + (x / scale) @ w[1:]
        return float((weight * np.logaddexp(0, -sign * odds)).sum() + RIDGE / 2 * (w[1:] ** 2).sum() / 10)

    bounds = [(None, None)] + [(0, None)] * x.shape[1]
    found = minimize(loss, np.zeros(x.shape[1] + 1), bounds=bounds, method="L-BFGS-B").x
    return np.concatenate([found[:1], found[1:] / scale])


def quiet(rows: list[Floats], labels: list[bool], weights: Floats) -> tuple[float, float]:
    """Mean and standard deviation, over quiet replays, of the highest log-odds that two records in a row reach."""
    peaks = []
    for r, overfit in zip(rows, labels, strict=True):
        odds = weights[0] + r[:, 1:] @ weights[1:]
        if not overfit:
            peaks.append(np.minimum(odds[1:], odds[:-1]).max())
    return float(np.mean(peaks)), float(np.std(peaks, ddof=1))


def calibrate(runs: list[Recording]) -> dict[str, dict[str, object]]:
    """Fit all three."""
    found = {}
    for basis, (names, conditions) in BASES.items():
        rows, labels = table(runs, names, conditions)
        weights = fit(rows, labels)
        found[basis] = {
            "weights": {name: round(float(w), 2) for name, w in zip(names, weights[1:], strict=True)},
            "intercept": round(float(weights[0]), 2),
            "quiet": [round(value, 2) for value in quiet(rows, labels, weights)],
        }
    return found


def main() -> None:
    """Fit on the stored runs of the tuning half."""
    found = calibrate([run for run in read() if run.data in TUNING])
    STORED.write_text(json.dumps({"caps": CAPS, **found}, indent=1) + "\n")
    print(STORED.read_text())


if __name__ == "__main__":
    main()
