"""Recorded runs as the detectors and hindsight see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from truth import Truth, truth_of

HERE = Path(__file__).parent
STORED = HERE / "recordings.npz"
ARRAYS = (
    "run", "epoch", "strength_val", "strength_train", "train_loss", "val_loss", "test_loss", "val_sizes",
    "changes", "gap",
)  # fmt: skip
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """One recorded run; epochs count from 0, after the first epoch of training.

    Attributes:
        name: Of the run.
        settings: As in `runs.Run`.
        epochs: ``(M,)`` measured epochs.
        strength: By split, ``(M, samples, 2, n)`` at these.
        train_loss, val_loss, changes: ``(E,)`` at all epochs: what rivals see. ``val_loss`` by size of the set.
        truth: What hindsight says.
    """

    name: str
    settings: dict[str, Any]
    epochs: NDArray[np.int64]
    strength: dict[str, NDArray[np.float32]]
    train_loss: Floats
    val_loss: dict[int, Floats]
    changes: NDArray[np.int64]
    truth: Truth

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.settings["data"])

    def val(self, size: int) -> Floats:
        """Validation loss on the first ``size`` samples, or on all there are."""
        return self.val_loss[min((s for s in self.val_loss if s >= size), default=max(self.val_loss))]


def from_arrays(name: str, z: Any) -> Recording:
    """Read what `record.py` wrote; the record before training is left out, as no monitor has it."""
    settings = json.loads(str(z["run"]))
    epoch = z["epoch"].astype(np.int64)
    after = epoch >= 0
    strength = {split: z[f"strength_{split}"][after].astype(np.float32) for split in ("val", "train")}
    train_loss, test_loss = z["train_loss"][1:].astype(np.float64), z["test_loss"][1:].astype(np.float64)
    val = {int(size): z["val_loss"][1:, i].astype(np.float64) for i, size in enumerate(z["val_sizes"])}
    truth = truth_of(train_loss, test_loss, epoch[after], strength["val"])
    return Recording(name, settings, epoch[after], strength, train_loss, val, z["changes"], truth)


def read(path: Path = STORED) -> Iterator[Recording]:
    """Read the stored runs."""
    with np.load(path, allow_pickle=False) as z:
        for name in sorted({key.partition("/")[0] for key in z.files}):
            yield from_arrays(name, {key: z[f"{name}/{key}"] for key in ARRAYS})


def read_folder(folder: Path) -> Iterator[Recording]:
    """Read files of single runs, as `record.py` writes them."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as z:
            yield from_arrays(path.stem, {key: z[key] for key in z.files})


def store(folder: Path, path: Path = STORED) -> None:
    """Put the files of single runs into one."""
    arrays = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as z:
            arrays |= {f"{file.stem}/{key}": z[key] for key in ARRAYS}
    np.savez_compressed(path, **arrays)
