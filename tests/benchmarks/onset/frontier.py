"""What more samples, players and records buy: error and earliness of the boundary against forward passes.

    python tests/benchmarks/onset/record.py FOLDER --frontier --only ...    # 64 samples with 6 to 12 players
    python tests/benchmarks/onset/frontier.py FOLDER                        # writes frontier.json

The detector sees watched subsets of what was recorded: the first samples, the first players with the others always
present, every so many records. Truth is the turning point of all of it.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import octaves
from numpy.typing import NDArray
from tables import table
from truth import ends_of_epochs, mean_orders, truth_of

from lightning_interactions.monitor.rhythm import is_due
from lightning_interactions.phases import PhaseDetector

STORED = Path(__file__).parent / "frontier.json"
SAMPLES, PLAYERS, PER_OCTAVE = (8, 16, 32, 64), (6, 8, 10, 12), (16, 8, 4)
TOLERANCE = 0.5
"""Octaves: a boundary this near to the true one is right."""

Arrays = dict[str, NDArray[Any]]


def look(run: Arrays, samples: int, players: int, per_octave: int) -> dict[str, float]:
    """Replay one run under these conditions."""
    strength, places = run[f"players_{players}"][:, :samples].astype(np.float32), run["epoch"].tolist()
    at = np.searchsorted(run["loss_epoch"], run["epoch"])
    detector, told, last, count = PhaseDetector(), np.nan, None, 0
    for i, (place, j) in enumerate(zip(places, at, strict=True)):
        if not is_due(place, 0, last, per_octave=per_octave, every_n_epochs=None):
            continue
        last, count = {"epoch": place, "step": i}, count + 1
        losses = float(run["train_loss"][j]), float(run["val_loss"][j, -1])
        for event in detector.update(place, torch.from_numpy(strength[i]), *losses):
            if event.kind == "boundary":
                told = place if np.isnan(told) else told
                boundary = event.evidence["trough_epoch"]
    stands = detector.boundary_epoch is not None
    error = abs(octaves(boundary, float(run["t_o"]))) if stands else np.inf
    return {
        "forwards": float(samples * 2**players * count),
        "right": float(error <= TOLERANCE),
        "told_before": float(told < float(run["t_v"])),
        "noise": wobble(strength),
    }


def wobble(strength: NDArray[np.float32]) -> float:
    """Median bend of the mean order over the range of orders: how noisy the curve is to look at."""
    order = mean_orders(strength)
    return float(np.median(np.abs(order[1:-1] - (order[:-2] + order[2:]) / 2)) / (strength.shape[-1] - 1))


def runs_of(folder: Path) -> list[Arrays]:
    """Overfit, turning runs."""
    found = []
    for path in sorted(folder.glob("frontier_*.npz")):
        with np.load(path) as z:
            run = dict(z)
        ends = ends_of_epochs(run["loss_epoch"])
        truth = truth_of(run["test_loss"][ends].astype(float), run["epoch"].astype(float), run["players_12"])
        if truth.overfit and truth.turns:
            found.append({**run, "t_o": np.array(truth.t_o), "t_v": np.array(truth.t_v)})
    return found


def main() -> None:
    """Try all conditions."""
    runs = runs_of(Path(sys.argv[1]))
    rows = {}
    for samples, players, per_octave in itertools.product(SAMPLES, PLAYERS, PER_OCTAVE):
        looks = [look(run, samples, players, per_octave) for run in runs]
        name = f"{samples} samples, {players} players, {per_octave} an octave"
        rows[name] = {key: float(np.mean([one[key] for one in looks])) for key in looks[0]}
    default = rows["32 samples, 10 players, 16 an octave"]["forwards"]
    for row in rows.values():
        row["cost"] = row.pop("forwards") / default
    ordered = dict(sorted(rows.items(), key=lambda item: item[1]["cost"]))
    columns = {
        "cost": "cost (default = 1)", "right": f"boundary within {TOLERANCE:g} octave",
        "told_before": "told before the lowest test loss", "noise": "wobble of the mean order (of its range)",
    }  # fmt: skip
    text = (
        f"{len(runs)} overfit, turning runs; forward passes against those of the default.\n\n{table(ordered, columns)}"
    )
    STORED.write_text(json.dumps({"runs": len(runs), "rows": ordered, "text": text}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
