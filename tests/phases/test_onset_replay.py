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

# As measured on the recorded runs that are not hard, both halves; results.md has the half that nothing was tuned on.
RECALL, FALSE_ALARMS, FOUND, TOLD_BEFORE = 0.96, 0.074, 0.94, 0.81

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
def ordinary(runs: list[Any]) -> list[Any]:
    return [run for run in runs if run.group != "hard"]


@pytest.fixture(scope="module")
def replayed(ordinary: list[Any]) -> list[tuple[Any, Any, list[PhaseEvent]]]:
    """Every run that is not hard with its outcome and its events."""
    detectors, measures = onset("detectors"), onset("measures")
    found = []
    for run in ordinary:
        ours = detectors.Ours()
        found.append((run, measures.replay(run, ours, detectors.Conditions()), ours.events))
    return found


def kinds(events: list[PhaseEvent]) -> list[str]:
    return [event.kind for event in events]


# ------------------------------------------------------------------------------------------------ the recordings


def test_the_recordings_are_what_the_benchmark_says(runs: list[Any]) -> None:
    data = onset("data")
    assert len(runs) == 200
    assert sum(not run.truth.overfit for run in runs) == 122
    assert not set(data.TUNING) & set(data.REPORTING)
    assert {run.data for run in runs} == {*data.TUNING, *data.REPORTING}
    groups = [run.group for run in runs]
    assert {group: groups.count(group) for group in set(groups)} == {"table": 104, "hard": 72, "deep": 24}
    for run in runs:
        samples = 16 if run.group == "deep" else 32
        assert run.strength["val"].shape == (len(run.epochs), samples, 2, 10)
        assert np.isin(run.epochs, run.loss_epochs).all()
        assert run.epochs[0] == -1
        assert run.last_epoch == run.settings["cut"] - 1 < run.settings["epochs"]
    with np.load(ONSET / "recordings.npz") as stored:
        gaps = np.array([float(np.nanmax(stored[key])) for key in stored.files if key.endswith("/gap")])
        assert np.mean(gaps <= 0.0201) > 0.95  # proven to be at most 2 % above the sparsest


def test_the_weights_are_those_of_the_calibration() -> None:
    stored = json.loads((ONSET / "calibration.json").read_text())
    assert stored["caps"] == CAPS
    for model, name in ((WITH_LOSSES, "with losses"), (WITHOUT_LOSSES, "without losses")):
        assert dict(model.weights) == {key: value for key, value in stored[name]["weights"].items() if value}
        assert model.intercept == stored[name]["intercept"]


def test_both_kinds_of_runs_come_from_one_loader() -> None:
    path = onset("data").SHARED / "loss_histories.npz"
    if not path.exists():
        pytest.skip("shared data is not at hand")
    histories = list(onset("recordings").histories(path))
    assert len(histories) == 459
    assert sum(run.truth.overfit for run in histories) == 73
    detectors, measures = onset("detectors"), onset("measures")
    papers = [run for run in histories if run.group == "papers"]
    outcomes = [measures.replay(run, detectors.LossesOnly(everywhere=True), detectors.Conditions()) for run in papers]
    numbers = measures.alarm_numbers(outcomes)
    assert numbers["recall"] >= 0.95
    assert numbers["false_alarms"] <= 0.1


# --------------------------------------------------------------------------------------------------- real curves


def test_quiet_runs_stay_quiet_and_overfit_runs_alarm(replayed: list[Any]) -> None:
    numbers = onset("measures").alarm_numbers([outcome for _, outcome, _ in replayed])
    assert numbers["recall"] >= RECALL
    assert numbers["false_alarms"] <= FALSE_ALARMS


def test_boundaries_are_where_the_mean_order_turns_and_told_in_time(replayed: list[Any]) -> None:
    numbers = onset("measures").boundary_numbers([outcome for _, outcome, _ in replayed])
    assert numbers["found"] >= FOUND
    assert numbers["error_median"] <= 0.1
    assert numbers["told_before_minimum"] >= TOLD_BEFORE


def test_the_order_of_events_is_sane(replayed: list[Any]) -> None:
    for _, _, found in replayed:
        stands = {"boundary": False, "overfitting": False}
        for event in found:
            assert event.epoch <= event.detected_epoch
            if event.kind == "retracted":
                assert stands[event.retracts]
                stands[event.retracts] = False
            elif event.kind == "suspected":
                assert not stands["boundary"]
            else:
                assert not stands[event.kind]
                stands[event.kind] = True
        detected = [event.detected_epoch for event in found]
        assert detected == sorted(detected)


@pytest.mark.parametrize("split", ["val", "train"])
def test_without_validation_loss_there_are_boundary_and_risk_but_no_alarm(ordinary: list[Any], split: str) -> None:
    detectors, measures = onset("detectors"), onset("measures")
    told = 0
    some = ordinary[::4]
    for run in some:
        ours = detectors.Ours()
        outcome = measures.replay(run, ours, detectors.Conditions(split=split, val_size=0))
        assert not {"overfitting"} & set(kinds(ours.events))
        assert "val_growth" not in ours.detector.evidence
        assert 0 < outcome.risk[-1][1] < 1
        told += outcome.first_told is not None
    assert told >= 0.65 * len(some)


def test_a_boundary_that_the_curve_takes_back_is_retracted(ordinary: list[Any]) -> None:
    """A real fall and rise, then the real fall of the same run down from where it began: the boundary was none."""
    run = next(run for run in ordinary if run.data == "planted" and run.truth.turns and run.truth.t_o > 2)
    strength, turn = run.strength["val"], int(np.flatnonzero(run.epochs == run.truth.t_o)[0])
    half = turn // 2
    detector, found = PhaseDetector(), list[PhaseEvent]()
    for epoch, i in enumerate([*range(half), *range(half, -1, -1), *range(turn + 1)]):  # half down, back up, all down
        found += detector.update(epoch, torch.from_numpy(strength[i]), None, None)
    told = [kind for kind in kinds(found) if kind != "suspected"]
    assert told[:2] == ["boundary", "retracted"]


# ------------------------------------------------------------------------------------------- truth, rivals, measures


def history(
    train: list[float], val: list[float], changes: list[int] | None = None, gwa: list[float] | None = None
) -> Any:
    """A run with these losses (the test loss is the validation loss) whose mean order turns at epoch 3."""
    recordings, truth = onset("recordings"), onset("truth")
    epochs = np.arange(len(val), dtype=float)
    high = 0.2 + 0.05 * np.abs(epochs - 3)
    strength = np.stack([1 - high, high], -1)[:, None, None].repeat(4, 1).repeat(2, 2)
    losses = np.array(train, dtype=float), np.array(val, dtype=float)
    return recordings.Recording(
        "x", "table", {"data": "x", "hard": ""}, epochs, {"val": strength}, {}, epochs, losses[0], {1000: losses[1]},
        np.repeat(losses[1][:, None], 4, 1), np.array(gwa or [0.0] * len(val)), np.array(changes or [0] * len(val)),
        truth.truth_of(losses[1], epochs, strength),
    )  # fmt: skip


def alarm_of(name: str, run: Any) -> float | None:
    detectors = onset("detectors")
    alarm: float | None = onset("measures").replay(run, detectors.RIVALS[name](), detectors.Conditions()).alarm
    return alarm


VAL = [2.0, 1.5, 1.2, 1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8]
TRAIN = [2.0, 1.5, 1.2, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]


def test_truth_by_hand() -> None:
    truth = history(TRAIN, VAL).truth
    assert truth.overfit
    assert truth.turns
    assert (truth.t_v, truth.t_o) == (3, 3)
    assert truth.ratio == pytest.approx(1.7)
    assert not truth.overfit_by(4)
    assert truth.overfit_by(7)
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
    assert alarm_of(name, history(TRAIN, VAL)) == alarm


def test_rivals_that_need_more() -> None:
    stalled = history([0.1] * 60, [*np.linspace(1, 0.5, 10), *np.linspace(0.5, 1, 50)])
    assert alarm_of("Prechelt PQ2", stalled) == 14  # first end of a strip past the minimum; no progress at all
    assert alarm_of("Prechelt UP4", stalled) == 29  # strips end at 9, 14, 19, 24, 29: the fourth rise
    assert alarm_of("gap CUSUM", history(TRAIN, VAL)) is not None
    assert alarm_of("gap CUSUM", history(TRAIN, TRAIN)) is None
    # moving averages of epochs 1-3, 2-4, ...: 20, 14, 9, 11
    waves = [99, 30, 20, 10, 12, 5, 16, 3]
    assert alarm_of("Label Wave", history(VAL[:8], VAL[:8], waves)) == 6
    # highest moving average at epochs 2 to 4, and five averages after it
    aligned = [0.1, 0.2, 0.5, 0.6, 0.5, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]
    assert alarm_of("GWA", history(VAL[:11], VAL[:11], gwa=aligned)) == 9


def test_measures_by_hand() -> None:
    measures = onset("measures")
    run, quiet = history(TRAIN, VAL), history(TRAIN, [*VAL[:5], *[1.0] * 8])
    outcomes = [measures.Outcome(run, alarm=4.25, alarms=2, boundary=1, told=7, first_told=2),
                measures.Outcome(quiet, alarms=1)]  # fmt: skip
    found = measures.alarm_numbers(outcomes)
    assert (found["recall"], found["false_alarms"], found["lead"]) == (1.0, 0.0, -1.25)
    assert found["ever_alarmed_quiet"] == 1.0
    assert found["regret_overfit_median"] == pytest.approx(0.1)  # at epoch 5, at whose end training would stop
    assert found["regret_mean"] == pytest.approx(0.05)
    boundary = measures.boundary_numbers(outcomes)
    assert (boundary["found"], boundary["error_median"], boundary["delay"]) == (0.5, 1.0, 1.0)
    assert boundary["told_before_minimum"] == 1.0
    assert boundary["told_ahead"] == pytest.approx(np.log2(4 / 3))
    risks = ((run, 0.9), (run, 0.4), (quiet, 0.5), (quiet, 0.1))
    risky = [measures.Outcome(replace(of, name=f"run {r}"), risk=((0, r),)) for of, r in risks]
    forecast = measures.forecast_numbers(risky, {o.run.name: 1.0 for o in risky})
    assert forecast["auroc"] == 0.75  # one of four pairs is the wrong way round
    assert forecast["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4)


def test_a_replay_says_what_stood() -> None:
    """An alarm that is taken back and given again counts from where it stands; so does a boundary."""
    detectors, measures = onset("detectors"), onset("measures")

    class Scripted:
        said = iter([(0, None), (1, 0), (0, None), (0, 1), (1, 1), (1, 1)])

        def update(self, record: Any) -> Any:
            alarm, boundary = next(self.said)
            return detectors.Said(bool(alarm), boundary)

    outcome = measures.replay(history(TRAIN[:6], VAL[:6]), Scripted(), detectors.Conditions())
    assert (outcome.alarm, outcome.alarms) == (4, 2)
    assert (outcome.boundary, outcome.told, outcome.first_told, outcome.retracted) == (1, 3, 1, 1)


# --------------------------------------------------------------------------------------------------------- noise


def told_in_noise(rate: float, seed: int, common: float, records: int = 100, fall: float = 0.0) -> bool:
    detector = PhaseDetector(false_alarm_rate=rate)
    sequence = onset("noise").noise_only(seed, records, common=common, fall=fall)
    told = [event for epoch, strength in enumerate(sequence) for event in detector.update(epoch, strength, None, None)]
    return "boundary" in kinds(told)


@pytest.mark.parametrize("common", [0.0, 0.006])
def test_noise_gives_boundaries_at_most_at_the_configured_rate(common: float) -> None:
    told = {rate: sum(told_in_noise(rate, seed, common) for seed in range(20)) for rate in (0.01, 0.05, 0.2, 0.4)}
    assert all(found <= 20 * rate + 1 for rate, found in told.items())


def test_noise_after_a_fall_is_rarely_taken_for_a_turn_however_long_it_lasts() -> None:
    assert sum(told_in_noise(0.05, seed, 0.0, records=300, fall=0.4) for seed in range(20)) <= 3
