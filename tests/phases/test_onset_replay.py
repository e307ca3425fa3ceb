"""The detector on the recorded runs of `tests/benchmarks/onset`, and on noise: real curves, replayed in seconds."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_interactions.phases import PhaseDetector, PhaseEvent
from lightning_interactions.phases.risk import CAPS, WITH_LOSSES, WITHOUT_LOSSES

RECALL, FALSE_ALARMS, FOUND = 0.94, 0.021, 0.98
"""As measured on all recorded runs, both halves; results.md has those of the half nothing was tuned on."""

pytestmark = pytest.mark.thorough
ONSET = Path(__file__).resolve().parents[1] / "benchmarks" / "onset"


def onset(name: str) -> Any:
    """A module of the benchmark: its scripts import one another by bare names."""
    sys.path.insert(0, str(ONSET))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ONSET))


@pytest.fixture(scope="module")
def runs() -> list[Any]:
    return list(onset("recordings").read())


@pytest.fixture(scope="module")
def reporting(runs: list[Any]) -> list[Any]:
    return [run for run in runs if run.data in onset("data").REPORTING]


def events_of(run: Any, detector: PhaseDetector | None = None, **conditions: Any) -> list[PhaseEvent]:
    detector = detector or PhaseDetector()
    methods = onset("methods")
    records = methods.records(run, methods.Conditions(**conditions))
    return [event for record in records for event in detector.update(*record)]


@pytest.fixture(scope="module")
def events(runs: list[Any]) -> list[tuple[Any, list[PhaseEvent]]]:
    return [(run, events_of(run)) for run in runs]


def kinds(events: list[PhaseEvent]) -> list[str]:
    return [event.kind for event in events]


# ------------------------------------------------------------------------------------------------ the recordings


def test_the_recordings_are_what_the_benchmark_says(runs: list[Any]) -> None:
    data = onset("data")
    quiet = sum(not run.truth.overfit for run in runs)
    assert len(runs) >= 64
    assert quiet >= 0.4 * len(runs)
    assert not set(data.TUNING) & set(data.REPORTING)
    assert {run.data for run in runs} == {*data.TUNING, *data.REPORTING}
    settings = [run.settings for run in runs]
    assert {s["optimiser"] for s in settings} == {"sgd", "momentum", "adam"}
    assert {s["schedule"] for s in settings} == {"constant", "cosine", "step"}
    assert {s["noise"] for s in settings} == {0.0, 0.1, 0.3}
    for run in runs:
        assert run.strength["val"].shape == (len(run.epochs), 32, 2, run.strength["train"].shape[-1])
        assert np.isfinite(run.strength["val"]).all()
    with np.load(ONSET / "recordings.npz") as stored:
        assert max(float(stored[key].max()) for key in stored.files if key.endswith("/gap")) <= 0.005


def test_the_weights_are_those_of_the_calibration() -> None:
    stored = json.loads((ONSET / "calibration.json").read_text())
    assert stored["caps"] == CAPS
    for model, name in ((WITH_LOSSES, "with losses"), (WITHOUT_LOSSES, "without losses")):
        assert dict(model.weights) == {key: value for key, value in stored[name]["weights"].items() if value}
        assert model.intercept == stored[name]["intercept"]


# --------------------------------------------------------------------------------------------------- real curves


def test_quiet_runs_stay_quiet_and_overfit_runs_alarm(events: list[tuple[Any, list[PhaseEvent]]]) -> None:
    alarmed: dict[bool, list[bool]] = {True: [], False: []}
    for run, found in events:
        alarmed[run.truth.overfit].append("overfitting" in kinds(found))
    assert np.mean(alarmed[True]) >= RECALL
    assert np.mean(alarmed[False]) <= FALSE_ALARMS


def test_boundaries_are_where_the_mean_order_turns(events: list[tuple[Any, list[PhaseEvent]]]) -> None:
    errors = []
    for run, found in events:
        told = [event for event in found if event.kind == "boundary"]
        if run.truth.turns:
            errors.append(abs(np.log2((told[-1].epoch + 1) / (run.truth.t_o + 1))) if told else np.inf)
    assert np.mean(np.isfinite(errors)) >= FOUND
    assert np.median(errors) <= 0.25


def test_the_order_of_events_is_sane(events: list[tuple[Any, list[PhaseEvent]]]) -> None:
    for _, found in events:
        boundary = alarm = False
        for event in found:
            assert event.epoch <= event.detected_epoch
            if event.kind == "boundary":
                assert not boundary
                boundary = True
            elif event.kind == "overfitting":
                assert boundary
                assert not alarm
                alarm = True
            else:
                assert boundary
                boundary = alarm = False
        detected = [event.detected_epoch for event in found]
        assert detected == sorted(detected)


@pytest.mark.parametrize("split", ["val", "train"])
def test_without_validation_loss_there_are_boundary_and_risk_but_no_alarm(reporting: list[Any], split: str) -> None:
    found = 0
    for run in reporting:
        detector = PhaseDetector()
        told = events_of(run, detector, split=split, val_size=0)
        assert set(kinds(told)) <= {"boundary", "retracted"}
        assert "val_growth" not in detector.evidence
        assert 0 < detector.overfitting_risk < 1
        found += detector.boundary_epoch is not None
    assert found >= 0.75 * len(reporting)  # of which 71 % have a turning point by hindsight


def test_a_boundary_that_the_curve_takes_back_is_retracted(reporting: list[Any]) -> None:
    """A real rise, cut off, then the real fall of the same run again: the boundary between was none."""
    run = next(run for run in reporting if run.data == "breast_cancer" and run.truth.turns and run.truth.t_o > 4)
    detector, found = PhaseDetector(), list[PhaseEvent]()
    turn = int(np.flatnonzero(run.epochs == run.truth.t_o)[0])
    early = next(e.detected_epoch for e in events_of(run, val_size=0) if e.kind == "boundary")
    until = int(np.flatnonzero(run.epochs >= early)[0])
    path = [*range(2, turn), *range(turn - 1, 0, -1), *range(1, until + 1)]  # half the fall, back up, and down for good
    for epoch, i in enumerate(path):
        found += detector.update(epoch, torch.from_numpy(run.strength["val"][i]), None, None)
    assert kinds(found)[:2] == ["boundary", "retracted"]


# ------------------------------------------------------------------------------------------- truth, rivals, measures


def history(train: list[float], val: list[float], changes: list[int] | None = None) -> Any:
    """A run with these losses (the test loss is the validation loss) whose mean order turns at epoch 3."""
    recordings, truth = onset("recordings"), onset("truth")
    epochs = np.arange(len(val))
    high = 0.2 + 0.05 * np.abs(epochs - 3)
    strength = np.stack([1 - high, high], -1)[:, None, None].repeat(4, 1).repeat(2, 2)
    losses = np.array(train, dtype=float), np.array(val, dtype=float)
    found = truth.truth_of(*losses, epochs, strength)
    return recordings.Recording("x", {"data": "x"}, epochs, {"val": strength}, *losses[:1], {1000: losses[1]},
                                np.array(changes or [0] * len(val)), found)  # fmt: skip


VAL = [2.0, 1.5, 1.2, 1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8]
TRAIN = [2.0, 1.5, 1.2, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]


def test_truth_by_hand() -> None:
    truth = history(TRAIN, VAL).truth
    assert truth.overfit
    assert truth.turns
    assert (truth.t_v, truth.t_g, truth.t_o) == (3, 3, 3)
    assert not history(TRAIN, [*VAL[:5], *[1.0] * 8]).truth.overfit


@pytest.mark.parametrize(
    ("name", "alarm"),
    [
        ("patience 3", 6),  # lowest at epoch 3
        ("patience 5", 8),
        ("patience 10", None),
        ("Prechelt GL5", 5),  # 10 % above at epoch 5
        ("Prechelt PQ2", None),  # the training loss still falls fast: progress of 560 and more
        ("Prechelt UP4", None),  # only two ends of strips
    ],
)
def test_rivals_by_hand(name: str, alarm: int | None) -> None:
    assert onset("rivals").RIVALS[name](history(TRAIN, VAL), 1000) == alarm


def test_rivals_that_need_more() -> None:
    rivals = onset("rivals").RIVALS
    stalled = history([0.1] * 60, [*np.linspace(1, 0.5, 10), *np.linspace(0.5, 1, 50)])
    assert rivals["Prechelt PQ2"](stalled, 1000) == 14  # first end of a strip past the minimum; no progress at all
    assert rivals["Prechelt UP4"](stalled, 1000) == 29  # strips end at 9, 14, 19, 24, 29: the fourth rise
    assert rivals["gap CUSUM"](history(TRAIN, VAL), 1000) is not None
    assert rivals["gap CUSUM"](history(TRAIN, TRAIN), 1000) is None
    # moving averages of epochs 1-3, 2-4, ...: 20, 14, 9, 11
    waves = [99, 30, 20, 10, 12, 5, 16, 3]
    assert rivals["Label Wave"](history(VAL[:8], VAL[:8], waves), 1000) == 6


def test_measures_by_hand() -> None:
    measures = onset("measures")
    run, quiet = history(TRAIN, VAL), history(TRAIN, [*VAL[:5], *[1.0] * 8])
    outcomes = [measures.Outcome(run, alarm=5, boundary=1, told=7, first_boundary=1, first_told=7),
                measures.Outcome(quiet, alarm=None)]  # fmt: skip
    found = measures.alarm_numbers(outcomes)
    assert (found["recall"], found["false_alarms"], found["lead"]) == (1.0, 0.0, -2.0)
    assert found["regret_overfit_median"] == pytest.approx(0.1)
    assert found["regret_mean"] == pytest.approx(0.05)
    assert found["kept_overfit_median"] == 0.0
    boundary = measures.boundary_numbers(outcomes)
    assert (boundary["found"], boundary["error_median"], boundary["delay"]) == (0.5, 1.0, 1.0)
    risks = ((run, 0.9), (run, 0.4), (quiet, 0.5), (quiet, 0.1))
    risky = [measures.Outcome(replace(of, name=f"run {r}"), None, risk=((0, r),)) for of, r in risks]
    forecast = measures.forecast_numbers(risky, {o.run.name: 1.0 for o in risky})
    assert forecast["auroc"] == 0.75  # one of four pairs is the wrong way round
    assert forecast["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4)


# --------------------------------------------------------------------------------------------------------- noise


def told_in_noise(rate: float, seed: int, common: float) -> bool:
    detector = PhaseDetector(false_alarm_rate=rate)
    sequence = onset("noise").noise_only(seed, 100, common=common)
    return any(detector.update(epoch, strength, None, None) for epoch, strength in enumerate(sequence))


@pytest.mark.parametrize("common", [0.0, 0.006])
def test_noise_gives_boundaries_at_most_at_the_configured_rate(common: float) -> None:
    told = {rate: sum(told_in_noise(rate, seed, common) for seed in range(20)) for rate in (0.01, 0.05, 0.2, 0.4)}
    assert all(found <= 20 * rate for rate, found in told.items())
    assert told[0.01] < told[0.4]


def test_noise_after_a_fall_is_rarely_taken_for_a_turn() -> None:
    told = 0
    for seed in range(20):
        detector = PhaseDetector()
        sequence = onset("noise").noise_only(seed, 40, fall=0.4)
        told += any(detector.update(epoch, strength, None, None) for epoch, strength in enumerate(sequence))
    assert told <= 3
