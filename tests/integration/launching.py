"""What tests of several real processes share: starting them, and comparing what they found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def launch(script: ModuleType, folder: Path) -> Path:
    """Run a script, which starts the other ranks itself, on a folder; return that."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    # The package beside these tests, where another copy is installed, and the models they share.
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), str(ROOT / "tests"), environment.get("PYTHONPATH")])
    )
    command = [sys.executable, str(script.__file__), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def assert_equal_histories(
    first: dict[str, list[Any]], second: dict[str, list[Any]], rel: float, *, absolute: float = 1e-9, rough: float = 0.0
) -> None:
    """Compare all columns, but for the time it took.

    Small differences of large numbers (noise floor, gap of the split) may be off by ``rough``, where that is more.
    """
    assert set(first) == set(second)
    for key in set(first) - {"seconds", "step", "strength", "val/strength", "train/strength"}:
        small = "noise_floor/" in key or "solver_gap" in key
        bound = max(absolute, rough) if small else absolute
        assert first[key] == pytest.approx(second[key], rel=rel, abs=bound, nan_ok=True), key
    for key in {"strength"} & set(first):
        assert torch.allclose(torch.tensor(first[key]), torch.tensor(second[key]), rtol=rel, atol=absolute)
