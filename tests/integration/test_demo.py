"""The demo runs as a user would run it, small."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interactions.__main__ import main
from lightning_interactions.demo import run_demo


def test_demo_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_interactions", "demo", "--epochs", "2", "--train-size", "40"]
    done = subprocess.run(
        [*command, "--output", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Phase boundary          none found" in done.stdout, "two epochs are too few for one"
    assert "Lowest validation loss  epoch" in done.stdout
    assert "No boundary was found: train longer" in done.stdout
    assert "100%" in done.stdout + done.stderr, "a progress bar is shown"
    (run_folder,) = (tmp_path / "out").iterdir()
    assert (run_folder / "run.png").read_bytes().startswith(b"\x89PNG")
    assert "The run" in (run_folder / "report.html").read_text()
    assert (run_folder / "history.csv").read_text().startswith("epoch,step,mean_order")
    tags = EventAccumulator(str(run_folder)).Reload().Tags()
    assert "interactions/mean_order" in tags["scalars"]
    assert "interactions/run" in tags["images"]


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--epochs", "0", "epochs"), ("--train-size", "5000", "train_size"), ("--label-noise", "2", "label_noise")],
)
def test_bad_options_are_explained(option: str, value: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", option, value]) == 2
    assert f"`{word}`" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [[], ["demonstrate"], ["demo", "--epochs", "many"], ["demo", "--epoch", "3", "4"]])
def test_what_cannot_be_read_ends_with_the_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(wrong)
    assert stopped.value.code == 2
    assert "usage: lightning-interactions" in capsys.readouterr().err


def test_help_lists_the_commands_at_once() -> None:
    code = (
        "import sys; from lightning_interactions.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stopped: print(stopped.code, [x for x in ('torch', 'lightning') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("demo", "report", "analyze"):
        assert f"    {command}  " in done.stdout
    assert done.stdout.splitlines()[-1] == "0 []", "torch and lightning take seconds to import"


def test_the_options_are_those_of_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, parameter in inspect.signature(run_demo).parameters.items():
        if name != "folder":  # --output
            assert f"--{name} " in said
            assert f"default: {parameter.default})" in said
    assert "--output OUTPUT" in said
    assert "Training images, 10 to 1000." in said, "from its docstring"
