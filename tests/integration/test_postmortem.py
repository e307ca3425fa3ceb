"""Checkpoints of a finished run give the numbers the live monitor gave."""

from __future__ import annotations

import inspect
import math
import re
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from models import ScriptedDetector, small_monitor
from postmortem_project import Broken, Data, Net
from torch.utils.data import DataLoader, default_collate

from lightning_interactions import (
    ArgumentError,
    BatchError,
    InteractionsWarning,
    RunRecord,
    TwoPhaseMonitor,
    analyze_checkpoints,
)
from lightning_interactions.__main__ import main
from lightning_interactions.monitor.checkpoints import LIVE_ONLY

OPTIONS: dict[str, Any] = {"num_samples": 6, "num_players": 4, "sanity_val_steps": 0}
"""Of a live monitor with ``every_n_epochs``, which watches no samples of the sanity check."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TwoPhaseMonitor, Path]:
    """A run of four epochs under a live monitor, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("run")
    L.seed_everything(0, verbose=False)
    monitor = small_monitor()
    trainer = L.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[monitor, ModelCheckpoint(folder / "checkpoints", save_top_k=-1, save_last=True)],
    )  # fmt: skip
    trainer.fit(Net(hidden=12), datamodule=Data())
    return monitor, folder / "checkpoints"


def assert_same(found: TwoPhaseMonitor, live: TwoPhaseMonitor, rows: slice = slice(None)) -> None:
    one, other = found.history.to_dict(), live.history.to_dict()
    assert set(one) == set(other)
    for key, column in one.items():
        if key != "seconds":
            np.testing.assert_allclose(column, other[key][rows], rtol=0, atol=1e-6, err_msg=key)


def analyze(checkpoints: Any, **options: Any) -> Any:
    quiet = {"progress": False, "verbose": False, "accelerator": "cpu"}
    given = {"model": Net, "data": Data} | options
    return analyze_checkpoints(given.pop("model"), given.pop("data"), checkpoints, **(OPTIONS | quiet | given))


def test_the_numbers_are_those_of_the_live_monitor(run: tuple[TwoPhaseMonitor, Path]) -> None:
    live, folder = run
    found = analyze(folder)
    assert_same(found, live)
    assert found.history.column("epoch") == [0, 1, 2, 3]
    assert found.skipped == {}
    assert [event.to_dict() for event in found.events] == [event.to_dict() for event in live.events]
    assert len(found.plot().axes) == 6


def test_of_what_is_only_suspected_nobody_is_told(
    run: tuple[TwoPhaseMonitor, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    found = analyze(run[1], detector=ScriptedDetector(suspected=1, boundary=2), progress=True, verbose=True)
    assert [event.kind for event in found.events] == ["suspected", "boundary"]
    said = "".join(capfd.readouterr())
    assert ("suspected" in said, "Epoch 2: phase boundary at epoch 2." in said) == (False, True)


def test_the_samples_of_the_sanity_check_are_found_again(tmp_path: Path) -> None:
    """The default rhythm has watched them; at the ends of epochs the numbers are those of the live monitor."""
    L.seed_everything(0, verbose=False)
    live = small_monitor(every_n_epochs=None)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[live, ModelCheckpoint(tmp_path, save_top_k=-1)], num_sanity_val_steps=1,
    )  # fmt: skip
    trainer.fit(Net(hidden=12), datamodule=Data())
    found, of_all = analyze(tmp_path, sanity_val_steps=1), analyze(tmp_path)
    keys = [monitor.watchlist.watched["val"].keys for monitor in (live._loop, found, of_all)]
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2]), "or this says nothing"
    rows = [live.history.column("epoch").index(epoch) for epoch in (0, 1)]
    for key in ("mean_order", "salient_count", "train_loss", "val_loss", "step"):
        column = [live.history.column(key)[row] for row in rows]
        assert found.history.column(key) == pytest.approx(column, abs=1e-6), key


def test_checkpoints_of_one_epoch_are_counted_in_steps(tmp_path: Path) -> None:
    """Of two batches each, they are as many places in the one epoch of a live run."""
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1)],
    )  # fmt: skip
    trainer.fit(Net(hidden=12), datamodule=Data())
    count = len(list(tmp_path.glob("*.ckpt")))
    assert count > 2
    found = analyze(tmp_path, output=tmp_path / "out", detector=ScriptedDetector(boundary=1))
    assert (found.history.unit, found.history.column("epoch")) == ("step", list(range(count)))
    assert found.history.column("epoch") == found.history.column("step")
    again = analyze(tmp_path, output=tmp_path / "out", detector=ScriptedDetector(boundary=1))
    assert (again.history.unit, len(again.history)) == ("step", count)


@pytest.mark.parametrize("kind", ["instance", "loaders", "files", "no training data"])
def test_other_ways_to_say_it(kind: str, run: tuple[TwoPhaseMonitor, Path]) -> None:
    live, folder = run
    options: dict[str, Any] = {}
    checkpoints: Any = folder
    if kind == "instance":
        options = {"model": Net(hidden=12), "data": Data()}
    if kind in ("loaders", "no training data"):
        data = Data()
        data.setup("fit")

        def moved(batch: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = default_collate(batch)
            return 2 * x + 1, y

        train, val = (DataLoader(part, batch_size=16, collate_fn=moved) for part in (data.train, data.val))
        options = {"data": (train if kind == "loaders" else None, val)}
    if kind == "files":
        checkpoints = sorted(folder.glob("epoch=*.ckpt"), reverse=True)
    found = analyze(checkpoints, **options)
    if kind == "no training data":
        assert all(map(math.isnan, found.history.column("loss_gap")))
        assert found.history.column("mean_order") == pytest.approx(live.history.column("mean_order"), abs=1e-6)
    else:
        assert_same(found, live)


def test_what_does_not_load_is_named_and_skipped(run: tuple[TwoPhaseMonitor, Path], tmp_path: Path) -> None:
    live, folder = run
    for file in folder.glob("epoch=*.ckpt"):
        shutil.copy(file, tmp_path)
    (tmp_path / "epoch=9.ckpt").write_bytes(b"not a checkpoint")
    weights = torch.load(tmp_path / "epoch=1-step=6.ckpt", weights_only=False)
    weights["state_dict"].popitem()
    torch.save(weights, tmp_path / "epoch=1-step=6.ckpt")
    torch.save({"epoch": 3}, tmp_path / "half.ckpt")
    with pytest.warns(InteractionsWarning, match="is left out") as caught:
        found = analyze(tmp_path)
    assert {Path(path).name for path in found.skipped} == {"epoch=9.ckpt", "epoch=1-step=6.ckpt", "half.ckpt"}
    told = " ".join(str(item.message) for item in caught)
    assert all(name in told for name in ("epoch=9.ckpt", "epoch=1-step=6.ckpt", "half.ckpt"))
    assert found.history.column("epoch") == [0, 2, 3]
    kept = [live.history.column("mean_order")[i] for i in (0, 2, 3)]
    assert found.history.column("mean_order") == pytest.approx(kept, abs=1e-6)


def test_an_interrupted_analysis_goes_on(
    run: tuple[TwoPhaseMonitor, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, folder = run
    from lightning_interactions.monitor.checkpoints import CheckpointMonitor

    measure, calls = CheckpointMonitor.measure, []

    def until_the_third(self: Any, module: Any, epoch: int, **options: Any) -> Any:
        calls.append(epoch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, module, epoch, **options)

    monkeypatch.setattr(CheckpointMonitor, "measure", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        analyze(folder, output=tmp_path)
    assert not (tmp_path / "interactions.json").exists()
    found = analyze(folder, output=tmp_path)
    assert calls == [0, 1, 2, 2, 3], "the first two are not measured again"
    assert_same(found, live)
    kept = RunRecord.from_json((tmp_path / "interactions.json").read_text())
    assert kept.to_json() == found.record().to_json()
    again = analyze(folder, output=tmp_path)
    assert len(calls) == 5
    assert_same(again, live)
    analyze(folder, output=tmp_path, num_samples=5)
    assert len(calls) == 9, "other settings begin anew"


def test_the_command_line_writes_the_report(
    run: tuple[TwoPhaseMonitor, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    live, folder = run
    monkeypatch.chdir(tmp_path)
    arguments = ["analyze", "--model", "postmortem_project.Net", "--data", "postmortem_project:Data", "--checkpoints"]
    small = ["--num-samples", "6", "--num-players", "4", "--output", "out", "--accelerator=cpu", "--sanity-val-steps=0"]
    assert main([*arguments, str(folder), *small]) == 0
    said = capsys.readouterr()
    assert "No phase boundary was found in 4 measured epochs" in said.out
    assert "4/4" in said.err, "a progress bar over the checkpoints"
    assert {path.name for path in Path("out").iterdir()} == {
        "analysis.ckpt",
        "interactions.json",
        "interactions.html",
        "run.png",
    }
    kept = RunRecord.from_json(Path("out/interactions.json").read_text())
    assert kept.column("mean_order") == pytest.approx(live.history.column("mean_order"), abs=1e-6)
    other = ["--model-args", '{"hidden": 7}', "--output", "other"]
    with pytest.warns(InteractionsWarning, match="size mismatch|Error"):
        assert main([*arguments, str(folder), *small, *other]) == 2
    assert "None of the checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"model": "Net"}, "`model`"),
        ({"model": dict}, "`model`"),
        ({"data": 3}, "`data`"),
        ({"stop_on": "boundary"}, "stop_on"),
        ({"monitor": "val_loss", "on_event": None}, "monitor, on_event"),
        ({"num_samples": 1}, "`num_samples`"),
        ({"sanity_val_steps": -2}, "`sanity_val_steps`"),
    ],
    ids=["text", "other class", "no data", "stop_on", "two options", "option", "sanity check"],
)
def test_bad_arguments_are_explained(options: dict[str, Any], word: str, run: tuple[TwoPhaseMonitor, Path]) -> None:
    with pytest.raises(ArgumentError, match=word):
        analyze(run[1], **options)


def test_without_any_checkpoint_there_is_an_error(tmp_path: Path, run: tuple[TwoPhaseMonitor, Path]) -> None:
    with pytest.raises(ArgumentError, match="`checkpoints`"):
        analyze(tmp_path)
    with pytest.warns(InteractionsWarning), pytest.raises(ArgumentError, match="needs a part that is not there"):
        analyze(run[1], model=Broken)
    with pytest.raises(BatchError, match="target_fn"):
        analyze(run[1], data=(None, [torch.zeros(3, 5)]))


def test_the_command_line_offers_every_option_that_means_something(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["analyze", "--help"])
    offered = set(re.findall(r"^  --(\w+) ", capsys.readouterr().out, re.MULTILINE))
    passed_on = set(inspect.signature(TwoPhaseMonitor).parameters) - set(LIVE_ONLY)
    own = {"model", "data", "checkpoints", "output", "model_args", "data_args"}
    assert offered == passed_on | own | {"accelerator", "progress", "sanity_val_steps"}


def test_any_option_of_the_monitor_can_be_given(
    run: tuple[TwoPhaseMonitor, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["analyze", "--model=postmortem_project.Net", "--data=postmortem_project.Data", "--progress=false"]
    players = '{"class_path": "lightning_interactions.TabularFeatures", "init_args": {"groups": [[0, 1], [2, 3]]}}'
    others = [
        "--players",
        players,
        "--num-samples=6",
        "--num-players=3",
        "--noise-bound",
        "0.02",
        "--score",
        "logit",
        "--verbose=false",
    ]
    out = ["--checkpoints", str(run[1]), "-o", str(tmp_path / "out"), "--accelerator=cpu"]
    assert main([*arguments, *others, *out]) == 0
    settings = RunRecord.from_json((tmp_path / "out" / "interactions.json").read_text()).settings
    assert (settings["num_samples"], settings["noise_bound"], settings["score"]) == (6, 0.02, "logit")
    assert "TabularFeatures" in str(settings["players"])
    assert main([*arguments, *out, "--num-samples=1"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("lightning-interactions: Expected argument `num_samples`")
    )


@pytest.mark.parametrize("path", ["Net", "postmortem_project.Nothing", "no_such_package.Net"])
def test_a_wrong_import_path_is_explained(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--model", path, "--data", "postmortem_project.Data", "--checkpoints", str(tmp_path)]) == 2
    assert "`model` to be an import path" in capsys.readouterr().err
