"""Write all curves as CSV, one file a run, and `runs.csv` with settings and truth.

python tests/benchmarks/onset/export.py FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from recordings import Recording, half, read
from truth import mean_orders


def curves(run: Recording) -> dict[str, list[float]]:
    """Columns of equal length, one row for each place where losses are known; ``nan`` where a curve is not."""
    at = np.searchsorted(run.loss_epochs, run.epochs)

    def spread(values: np.ndarray) -> list[float]:
        column = np.full(len(run.loss_epochs), np.nan)
        column[at] = values
        return column.tolist()

    found = {"epoch": run.loss_epochs.tolist(), "train_loss": run.train_loss.tolist()}
    found |= {f"val_loss_{size}": loss.tolist() for size, loss in run.val_loss.items()}
    found |= {f"mean_order_{split}": spread(mean_orders(strength)) for split, strength in run.strength.items()}
    found["strength_val"] = spread(np.nansum(run.strength["val"], (2, 3)).mean(1))
    for name, moments in run.moments.items():
        total, weighted = moments.mean(1).T
        found[name] = spread(weighted / np.maximum(total, 1e-12))
    return {**found, "gwa": run.gwa.tolist()}


def main() -> None:
    """Write them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    runs = list(read())
    tuning = {run.name for run in half("tuning", runs)}
    with (folder / "runs.csv").open("w", newline="") as file:
        truth = "half", "group", "overfit", "ratio", "t_v", "t_o", "turns"
        writer = csv.DictWriter(file, ["name", *truth, *runs[0].settings])
        writer.writeheader()
        for run in runs:
            told = {"name": run.name, "half": "tuning" if run.name in tuning else "reporting", "group": run.group}
            writer.writerow(run.settings | told | {key: getattr(run.truth, key) for key in truth[2:]})
    for run in runs:
        columns = curves(run)
        with (folder / f"{run.name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values(), strict=True))
    print(f"{folder}: {len(runs)} runs")


if __name__ == "__main__":
    main()
