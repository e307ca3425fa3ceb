"""The files of `record.py`: many runs in few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
FILE_BYTES = 14 << 20


def read(folder: Path) -> dict[str, Arrays]:
    """Read all runs of a folder, by name; what is in each is told in `record.py`."""
    runs: dict[str, Arrays] = {}
    for path in sorted(folder.glob("signal_*.npz")):
        with np.load(path) as file:
            for key in file.files:
                name, _, array = key.partition("/")
                runs.setdefault(name, {})[array] = file[key]
    return runs


def write(parts: list[Path], folder: Path) -> list[Path]:
    """Merge one-run files into files of less than 15 MiB, ``signal_0.npz`` and so on."""
    groups: list[list[Path]] = []
    room = 0
    for part in sorted(parts):
        size = part.stat().st_size
        if size > room:
            groups.append([])
            room = FILE_BYTES
        groups[-1].append(part)
        room -= size
    found = []
    for number, group in enumerate(groups):
        arrays = {}
        for part in group:
            with np.load(part) as file:
                arrays |= {f"{part.stem}/{key}": file[key] for key in file.files}
        found.append(folder / f"signal_{number}.npz")
        np.savez_compressed(found[-1], **arrays)
    return found
