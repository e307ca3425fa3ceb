"""Two real processes give the numbers of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("ddp_run.py")


def run(devices: int, scenario: str, folder: Path) -> list[dict[str, Any]]:
    output = folder / f"{scenario}_{devices}"
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    command = [sys.executable, str(SCRIPT), str(devices), scenario, str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(output.with_suffix(f".rank{rank}"), weights_only=True) for rank in range(devices)]


def assert_equal_histories(first: dict[str, list[Any]], second: dict[str, list[Any]], rel: float) -> None:
    assert set(first) == set(second)
    for key in set(first) - {"seconds", "step", "strength", "val/strength", "train/strength"}:
        assert first[key] == pytest.approx(second[key], rel=rel, abs=1e-9, nan_ok=True), key
    assert torch.allclose(torch.tensor(first["strength"]), torch.tensor(second["strength"]), rtol=rel, atol=1e-9)


@pytest.mark.parametrize("scenario", ["plain", "both"])
def test_two_ranks_give_the_numbers_of_one(scenario: str, tmp_path: Path) -> None:
    (single,), ranks = run(1, scenario, tmp_path), run(2, scenario, tmp_path)
    assert single["history"]["epoch"] == [0, 1, 2]
    for split, keys in single["keys"].items():
        assert torch.equal(keys, ranks[0]["keys"][split]), "the same samples are watched"
    assert_equal_histories(ranks[0]["history"], single["history"], rel=1e-5)
    for rank in ranks:
        assert len(rank["samples"]) == len(single["samples"]) > 0
        for one, other in zip(rank["samples"], single["samples"], strict=True):
            for key, value in other.items():
                close = pytest.approx(value, rel=1e-5, abs=1e-9) if isinstance(value, float) else value
                assert one[key] == close, key


def test_ranks_stop_together_even_if_one_cannot_write(tmp_path: Path) -> None:
    ranks = run(2, "stop", tmp_path)
    assert [rank["history"]["epoch"] for rank in ranks] == [[0, 1], [0, 1]]
    assert [rank["told"].count("boundary") for rank in ranks] == [1, 0]
    assert any("NoneType" in event["message"] for event in ranks[0]["events"]), "the fault was there"


def test_ranks_agree_and_only_one_tells(tmp_path: Path) -> None:
    first, second = run(2, "logged_loss", tmp_path)
    assert first["history"]["epoch"] == [0, 1, 2]
    assert_equal_histories(first["history"], second["history"], rel=0)
    for key in ("events", "keys"):
        assert str(first[key]) == str(second[key])
    assert second["told"] == []
    assert str(first["state"]["detector"]) == str(second["state"]["detector"])


def test_a_fault_on_one_rank_stops_no_rank(tmp_path: Path) -> None:
    ranks = run(2, "fault", tmp_path)
    assert all(rank["history"]["epoch"] == [] for rank in ranks)
    assert [event["kind"] for event in ranks[0]["events"]] == ["probe_failed"]
    assert len(ranks[1]["events"]) == 1
    assert all(torch.isfinite(w.float()).all() for w in ranks[0]["weights"].values())
