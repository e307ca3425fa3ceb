"""Replay the recorded runs through our detector, parts of it and the rivals; write `results.json` and `results.md`.

    python tests/benchmarks/onset/run.py

Everything is reported on the half of the data sets that nothing was tuned on (`data.REPORTING`); `--half tuning` shows
the other, without writing. Intervals are 90 %, over data sets and runs in them. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from data import SHARED
from detectors import RIVALS, Conditions, Detector, LossesOnly, Ours
from measures import (
    Numbers,
    Outcome,
    alarm_numbers,
    bootstrap,
    boundary_numbers,
    forecast_numbers,
    forecast_points,
    mean,
    median,
    octaves,
    regret,
    reliability,
    replay,
)
from recordings import HERE, Recording, half, histories, read
from tables import render

from lightning_interactions.measure.onsets import SampleTrack

MULTIPLES = 1.0, 2.0
GROUPS = "table", "hard", "deep"
FULL, LOSSES, ALONE, BLIND, OPEN = (
    "losses and interactions", "losses only", "interactions only", "no validation data", "end not known",
)  # fmt: skip
METHODS: dict[str, tuple[Callable[[], Detector], Conditions]] = {
    FULL: (Ours, Conditions()),
    LOSSES: (LossesOnly, Conditions()),
    ALONE: (Ours, Conditions(val_size=0)),
    BLIND: (Ours, Conditions(split="train", val_size=0)),
    OPEN: (lambda: Ours(tell_end=False), Conditions()),
    **{name: (make, Conditions()) for name, make in RIVALS.items()},
}
FACTORS: dict[str, list[dict[str, Any]]] = {
    "records per octave": [{"per_octave": k} for k in (16, 8, 4)],
    "epochs from record to record": [{"every": k} for k in (1, 2, 5)],
    "watched samples": [{"samples": k} for k in (32, 16, 8)],
    "validation samples": [{"val_size": k} for k in (1000, 300, 100)],
}
STANDING = 0, 1, 2, 3, 5


def outcomes_of(runs: Sequence[Recording], method: str, **changes: Any) -> list[Outcome]:
    make, conditions = METHODS[method]
    return [replay(run, make(), replace(conditions, **changes)) for run in runs]


def with_intervals(outcomes: list[Outcome], numbers: Callable[[Sequence[Outcome]], Numbers]) -> dict[str, list[float]]:
    """Each number with the ends of its interval."""
    ends = bootstrap(outcomes, numbers)
    return {key: [value, *ends[key]] for key, value in numbers(outcomes).items()}


def compare(runs: list[Recording]) -> dict[str, Any]:
    """Every method on the same runs, under the conditions a user gets by default."""
    outcomes = {name: outcomes_of(runs, name) for name in METHODS}
    found: dict[str, Any] = {"alarm": {}, "boundary": {}}
    for group in (*GROUPS, *(f"hard: {kind}" for kind in _kinds(runs))):
        some = {name: [o for o in all_ if _belongs(o.run, group)] for name, all_ in outcomes.items()}
        if not some[FULL]:
            continue
        found["alarm"][group] = {
            name: with_intervals(o, alarm_numbers) for name, o in some.items() if name not in (ALONE, BLIND, OPEN)
        }
        if group in GROUPS:
            found["boundary"][group] = {
                name: with_intervals(some[name], boundary_numbers) for name in (FULL, ALONE, BLIND)
            }
    everything = [o for o in outcomes[FULL] if not o.run.settings["hard"]]
    found["boundary"]["table and deep"] = {FULL: with_intervals(everything, boundary_numbers)}
    found["misjudged"] = [
        [o.run.name, round(o.run.truth.ratio, 3), o.alarm]
        for o in outcomes[FULL]
        if (o.alarm is not None) != o.run.truth.overfit
    ]
    found["stopping"] = {
        f"{name}: {stood}": stopping([o for o in outcomes[FULL] if (o.run.group == "hard") is hard], stood)
        for name, hard in (("ordinary and deep", False), ("hard", True))
        for stood in STANDING
    }
    found["single samples"] = single_samples(runs)
    found["forecast"] = forecasts(outcomes)
    return found


def _kinds(runs: list[Recording]) -> list[str]:
    return sorted({run.settings["hard"] for run in runs} - {""})


def _belongs(run: Recording, group: str) -> bool:
    return group in (run.group, f"hard: {run.settings['hard']}")


def stopping(outcomes: list[Outcome], stood: int) -> Numbers:
    """What it costs and brings to stop once the alarm has stood for so many further records."""
    stopped = [_stopped(o.run, stood) for o in outcomes]
    return {
        "stopped_overfit": mean([o.alarm is not None for o in stopped if o.run.truth.overfit]),
        "stopped_quiet": mean([o.alarm is not None for o in stopped if not o.run.truth.overfit]),
        "regret_mean": mean([regret(o) for o in stopped]),
    }


def _stopped(run: Recording, stood: int) -> Outcome:
    """The first alarm that stands for so many further records stops the run, whatever would have come later."""

    class Stopping(Ours):
        count, stopped = -1, False

        def update(self, record: Any) -> Any:
            said = super().update(record)
            if record.strength is not None:
                self.count = self.count + 1 if said.alarm else -1
                self.stopped = self.stopped or self.count >= stood
            return replace(said, alarm=self.stopped)

    return replay(run, Stopping(), Conditions())


def single_samples(runs: list[Recording]) -> dict[str, Numbers]:
    """Onsets of single watched samples: how many have turned, and where their median is to the turn of the mean."""
    found: dict[str, list[tuple[float, float]]] = {"turning runs": [], "runs without a turn": []}
    for run in runs:
        track, keys = SampleTrack(), torch.arange(run.strength["val"].shape[1])
        for epoch, strength in zip(run.epochs.tolist(), run.strength["val"], strict=True):
            track.update(epoch, torch.from_numpy(strength), keys)
        scalars = track.scalars()
        middle = scalars["onset/q50"]
        error = abs(octaves(middle, run.truth.t_o)) if run.truth.turns and middle >= 0 else math.nan
        found["turning runs" if run.truth.turns else "runs without a turn"].append((scalars["onset/turned"], error))
    return {
        name: {"turned": mean([share for share, _ in rows]), "error": median([error for _, error in rows])}
        for name, rows in found.items()
    }


def forecasts(outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    """The risk, once the boundary is told, against what came; with the end of the training known, and without."""
    found = {}
    for multiple in MULTIPLES:
        points = forecast_points(outcomes[FULL], multiple)
        at: dict[str, Any] = {
            name: with_intervals(outcomes[name], lambda some, points=points: forecast_numbers(some, points))
            for name in (FULL, LOSSES, ALONE, BLIND, OPEN)
        }
        at["reliability"] = reliability(outcomes[FULL], points)
        at["both minus losses"] = _difference(outcomes[FULL], outcomes[LOSSES], points)
        found[f"{multiple:g}"] = at
    return found


def _difference(both: list[Outcome], losses: list[Outcome], points: dict[str, float]) -> dict[str, list[float]]:
    """AUROC with interactions minus without, on the same draws of data sets and runs."""
    other = {o.run.name: o for o in losses}

    def numbers(some: Sequence[Outcome]) -> Numbers:
        with_, without = (forecast_numbers(s, points) for s in (some, [other[o.run.name] for o in some]))
        return {key: with_[key] - without[key] for key in ("auroc", "auroc_inside", "brier")}

    return with_intervals(both, numbers)


def vary(runs: list[Recording]) -> dict[str, dict[str, Numbers]]:
    """One condition at a time changed, on runs that are not hard."""
    found: dict[str, dict[str, Numbers]] = {}
    for factor, values in FACTORS.items():
        for value in values:
            some = outcomes_of(runs, FULL, **value)
            both = {**boundary_numbers(some), **alarm_numbers(some)}
            found.setdefault(factor, {})[str(next(iter(value.values())))] = both
    return found


def public(path: Path) -> dict[str, dict[str, Numbers]]:
    """Alarms on labelled histories of others, judged at every epoch; nothing but losses is known there."""
    found: dict[str, dict[str, Numbers]] = {}
    methods: dict[str, Callable[[], Detector]] = {LOSSES: lambda: LossesOnly(everywhere=True)}
    methods |= {name: make for name, make in RIVALS.items() if name not in ("Label Wave", "GWA")}
    runs = list(histories(path))
    for group in ("papers", "simulated"):
        for name, make in methods.items():
            some = [replay(run, make(), Conditions()) for run in runs if run.group == group]
            numbers = alarm_numbers(some)
            found.setdefault(group, {})[name] = {k: numbers[k] for k in ("recall", "false_alarms", "runs", "overfit")}
    return found


def plain(value: Any) -> Any:
    """Numbers that JSON can hold, four digits of each."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return (None if math.isnan(value) else round(float(value), 4)) if isinstance(value, float) else value


def main() -> None:
    """Compare, and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--half", choices=("reporting", "tuning"), default="reporting")
    options = parser.parse_args()
    every = half(options.half, list(read()))
    runs = [run for run in every if math.isfinite(run.truth.ratio)]
    diverged = [run.name for run in every if not math.isfinite(run.truth.ratio)]
    print(f"{len(runs)} runs; diverged and left out: {diverged}", flush=True)
    found: dict[str, Any] = {"half": options.half, "diverged": diverged, **compare(runs)}
    found["conditions"] = vary([run for run in runs if run.group != "hard"])
    path = SHARED / "loss_histories.npz"
    found["public"] = public(path) if path.exists() else {}
    noise, frontier = (HERE / f"{name}.json" for name in ("noise", "frontier"))
    found["noise"] = json.loads(noise.read_text()) if noise.exists() else {}
    found["frontier"] = json.loads(frontier.read_text()) if frontier.exists() else {}
    found = plain(found)
    text = render(found)
    print(text)
    if options.half == "reporting":
        (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        (HERE / "results.md").write_text(text)


if __name__ == "__main__":
    main()
