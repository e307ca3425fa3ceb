"""Recorded runs, and the public loss histories, as detectors and hindsight see them: one loader for both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from data import REPORTING, SHARED, TUNING
from numpy.typing import NDArray
from truth import Floats, Truth, ends_of_epochs, truth_of

HERE = Path(__file__).parent
STORED = HERE / "recordings.npz"
KEPT = (
    "run", "epoch", "scale_val", "scale_train", "bounded_val", "bounded_train", "loss_epoch", "train_loss", "val_loss",
    "test_loss", "val_sizes", "val_each", "gwa", "changes", "gap",
)  # fmt: skip
MOMENTS = {"exact_val": "exact", "energy_val": "degree", "tail_val": "effect_order"}
"""Arrays by order of which only two numbers per sample are kept: the sum, and that of each part times its order."""

BITS = 6
"""Digits kept of half-precision numbers: right to 1 %, far less than samples differ, in half the space."""

EACH = 100


@dataclass(frozen=True)
class Recording:
    """One recorded run. Places are the monitor's: -1 before training, 2.25 inside epoch 3, 3 at its end.

    Attributes:
        name: Of the run.
        group: ``"table"``, ``"hard"``, ``"deep"``; of public histories ``"papers"`` and ``"simulated"``.
        settings: As in `runs.Run`.
        epochs: ``(M,)`` places where the strengths are known.
        strength: By split, ``(M, samples, 2, n)`` at these, in units of the score; empty for public histories.
        moments: By reading (`MOMENTS`), ``(M, samples, 2)``: what a mean order is the ratio of.
        loss_epochs: ``(L,)`` places where the losses are known: those, and the ends of all epochs.
        train_loss: ``(L,)``.
        val_loss: ``(L,)`` by number of validation samples.
        val_each: ``(L, up to 100)`` losses of the first validation samples.
        gwa: ``(L,)`` gradient-weight alignment, see `record.py`.
        changes: ``(E,)`` changed predictions of every epoch.
        truth: What hindsight says.
    """

    name: str
    group: str
    settings: dict[str, Any]
    epochs: Floats
    strength: dict[str, NDArray[np.float32]]
    moments: dict[str, Floats]
    loss_epochs: Floats
    train_loss: Floats
    val_loss: dict[int, Floats]
    val_each: Floats
    gwa: Floats
    changes: NDArray[np.int64]
    truth: Truth = field(repr=False)

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.settings["data"])

    @property
    def last_epoch(self) -> int:
        """The last one."""
        return int(self.loss_epochs[-1])

    def val(self, size: int) -> Floats:
        """Validation loss on the first ``size`` samples, or on all there are."""
        return self.val_loss[min((s for s in self.val_loss if s >= size), default=max(self.val_loss))]


def reduce(arrays: dict[str, Any]) -> dict[str, Any]:
    """What is kept in the repository of one file of `record.py`."""
    kept = {key: arrays[key] for key in KEPT}
    for key, name in MOMENTS.items():
        parts = arrays[key].astype(np.float64)
        orders = np.arange(1, parts.shape[-1] + 1)
        kept[f"moments/{name}"] = np.stack([parts.sum(-1), parts @ orders], -1).clip(max=6e4).astype(np.float16)
    kept["val_each"] = kept["val_each"][:, :EACH]
    return {key: _coarse(value) if value.dtype == np.float16 else value for key, value in kept.items()}


def _coarse(values: NDArray[np.float16]) -> NDArray[np.float16]:
    mantissa, exponent = np.frexp(values.astype(np.float32))
    return np.ldexp(np.round(mantissa * 2**BITS) / 2**BITS, exponent).astype(np.float16)


def from_arrays(name: str, z: dict[str, Any]) -> Recording:
    """Read what `reduce` kept."""
    settings = json.loads(str(z["run"]))
    group = "hard" if settings["hard"] else "deep" if settings["data"].endswith("_deep") else "table"
    strength = {
        split: z[f"bounded_{split}"].astype(np.float32) * z[f"scale_{split}"][:, None, None, None]
        for split in ("val", "train")
    }
    places = z["loss_epoch"].astype(np.float64)
    ends = ends_of_epochs(places)
    losses = {key: z[f"{key}_loss"].astype(np.float64) for key in ("train", "val", "test")}
    epochs = z["epoch"].astype(np.float64)
    return Recording(
        name, group, settings, epochs, strength,
        {key: z[f"moments/{key}"].astype(np.float64) for key in MOMENTS.values()},
        places, losses["train"], {int(size): losses["val"][:, i] for i, size in enumerate(z["val_sizes"])},
        z["val_each"].astype(np.float64), z["gwa"].astype(np.float64), z["changes"],
        truth_of(losses["test"][ends], epochs, strength["val"]),
    )  # fmt: skip


def read(path: Path = STORED) -> Iterator[Recording]:
    """Read the stored runs."""
    with np.load(path, allow_pickle=False) as z:
        runs: dict[str, dict[str, str]] = {}
        for key in z.files:
            name, _, array = key.partition("/")
            runs.setdefault(name, {})[array] = key
        for name in sorted(runs):
            yield from_arrays(name, {array: z[key] for array, key in runs[name].items()})


def half(name: str, runs: list[Recording]) -> list[Recording]:
    """Those of the tuning or of the reporting half."""
    wanted = {"tuning": TUNING, "reporting": REPORTING}[name]
    return [run for run in runs if run.data in wanted]


def histories(path: Path = SHARED / "loss_histories.npz") -> Iterator[Recording]:
    """Read the labelled public histories of OverfitGuard (Li et al. 2024): losses at the ends of epochs, no strengths.

    Of most of them the monitored loss is all there is: its minimum stands for that of the test loss.
    """
    with np.load(path, allow_pickle=False) as z:
        for i, length in enumerate(z["length"].tolist()):
            train, val = (z[f"{split}_loss"][i, :length].astype(np.float64) for split in ("train", "val"))
            group = "papers" if z["real"][i] else "simulated"
            yield Recording(
                str(z["name"][i]), group, {"data": group}, np.arange(length, dtype=np.float64), {}, {},
                np.arange(length, dtype=np.float64), train, {0: val}, np.zeros((length, 0)), np.full(length, np.nan),
                np.zeros(0, dtype=np.int64), replace(truth_of(val), overfit=bool(z["overfit"][i])),
            )  # fmt: skip


def store(folder: Path, path: Path = STORED) -> None:
    """Put the files of single runs into one."""
    arrays = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as z:
            arrays |= {f"{file.stem}/{key}": value for key, value in reduce(dict(z)).items()}
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
