"""Cut the data sets down to the rows that `record.py` reads, in files that `examples/data.py` reads as well: 36 MB."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

ROWS = {
    "cifar10_jpeg.npz": (10_000, 1000),
    "mnist.npz": (1000, 1000),
    "modelnet10_points.npz": (1000, 400),
    "tabular_adult.npz": (2000, 1000),
    "tabular_spambase.npz": (2000, 1000),
}
POINTS = 256
WHOLE = "sst2_train.tsv.gz", "sst2_dev.tsv.gz"  # its training sentences are drawn from all


def pack(source: Path, target: Path) -> int:
    """Write them and return how many bytes they are."""
    target.mkdir(parents=True, exist_ok=True)
    for name, (train, val) in ROWS.items():
        with np.load(source / name) as file:
            arrays = {key: file[key] for key in file.files if not key.startswith("source_index")}
        for split, count in (("train", train), ("test", val)):
            for key in (f"x_{split}", f"y_{split}"):
                arrays[key] = arrays[key][:count]
            if name.startswith("modelnet"):
                arrays[f"x_{split}"] = arrays[f"x_{split}"][:, :POINTS]
        np.savez_compressed(target / name, **arrays)
    for name in WHOLE:
        shutil.copyfile(source / name, target / name)
    return sum((target / name).stat().st_size for name in (*ROWS, *WHOLE))
