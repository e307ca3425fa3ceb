"""The scripts that reproduce the papers' figures run, in fast mode, on recordings that they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PAPERS = Path(__file__).resolve().parents[2] / "examples" / "papers"
SCRIPTS = sorted(path.stem for path in PAPERS.glob("*.py") if path.stem not in ("recording", "reading"))

pytestmark = pytest.mark.thorough


def run(script: str, records: Path, output: Path, *more: str) -> str:
    command = [sys.executable, f"{script}.py", "--fast", "--records", str(records), *more]
    command += ["--output", str(output)] if script != "recording" else []
    environment = os.environ | {"TMPDIR": str(output)}  # of the splits that are kept
    done = subprocess.run(command, cwd=PAPERS, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    data = ["--data", str(folder / "nowhere")]  # stand-ins, which are everywhere
    names = ["lenet_mnist", "vgg11_cifar10", "mlp_adult", "lenet_mnist_relabelled"]
    run("recording", folder, folder, *names, *data, "--seeds", "0")
    return folder


def test_each_script_is_in_the_table() -> None:
    told = (PAPERS / "README.md").read_text("utf-8")
    assert all(f"({script}.py)" in told for script in SCRIPTS)
    assert len(SCRIPTS) == 7


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_makes_its_figure_and_its_numbers(script: str, records: Path, tmp_path: Path) -> None:
    said = run(script, records, tmp_path, "--again")
    assert len(said.splitlines()) > 3
    assert (tmp_path / f"{script}.png").read_bytes().startswith(b"\x89PNG")
    json.loads((tmp_path / f"{script}.json").read_text())


def test_without_data_a_text_is_left_out_and_said_so(tmp_path: Path) -> None:
    said = run("recording", tmp_path, tmp_path, "transformer_sst2", "--data", str(tmp_path / "nowhere"), "--seeds", "0")
    assert "is left out" in said
    assert not list(tmp_path.glob("*.npz"))
