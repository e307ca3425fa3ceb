"""The monitor by configuration: LightningCLI files, the environment, and the other distribution of Lightning."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from models import AnyBatch, ColumnNet, fit, loaders, small_monitor, told_during
from torch import Tensor

from lightning_interactions import ArgumentError, InteractionsWarning, PhaseEvent, TwoPhaseMonitor
from lightning_interactions._factory import callbacks_from_environment
from lightning_interactions.monitor import trainer as trainer_module
from lightning_interactions.monitor.auto import AutoMonitor

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "examples").glob("*.yaml"))
SMALL = ["--trainer.max_epochs=2", "--trainer.logger=false", "--trainer.enable_progress_bar=false",
         "--trainer.enable_model_summary=false", "--data.init_args.train_size=64"]  # fmt: skip


def run_cli(*arguments: str, folder: Path) -> L.Trainer:
    command = ["fit", *arguments, *SMALL, f"--trainer.default_root_dir={folder}"]
    return LightningCLI(args=command, save_config_callback=None).trainer


def monitor_of(trainer: L.Trainer) -> TwoPhaseMonitor:
    (monitor,) = (c for c in trainer.callbacks if isinstance(c, TwoPhaseMonitor))
    return monitor


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_run(path: Path, tmp_path: Path) -> None:
    monitor = monitor_of(run_cli("--config", str(path), folder=tmp_path))
    # Two batches an epoch: the default rhythm begins before them and looks into the epochs.
    expected = [1] if monitor.options.start_epoch == 1 else [-1, -0.5, 0, 0.5, 1]
    assert monitor.history.column("epoch") == expected


def test_the_shipped_file_has_every_option() -> None:
    config = yaml.safe_load((ROOT / "examples" / "every_option.yaml").read_text())
    given = config["trainer"]["callbacks"][0]["init_args"]
    assert list(given) == list(inspect.signature(TwoPhaseMonitor).parameters)


def test_a_monitor_is_added_on_the_command_line(tmp_path: Path) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text(
        "model: {class_path: lightning_interactions.demo.DigitsNet}\n"
        "data: {class_path: lightning_interactions.demo.DigitsData}\n"
    )
    trainer = run_cli(
        "--config", str(bare), "--seed_everything=0",  # without one, Lightning 2.5 warns
        "--trainer.callbacks+=lightning_interactions.TwoPhaseMonitor",
        "--trainer.callbacks.num_samples=4", "--trainer.callbacks.num_players=3", folder=tmp_path,
    )  # fmt: skip
    assert monitor_of(trainer).options.num_samples == 4
    assert len(monitor_of(trainer).history) == 5


def annotated_score(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


def annotated_input(batch: Any) -> Any:
    return batch[0]


def annotated_target(batch: Any) -> Tensor:
    return batch[1]


def annotated_forward(module: Any, inputs: Any) -> Any:
    return module(inputs)


TOLD: list[PhaseEvent] = []


def announce(event: PhaseEvent) -> object:
    return TOLD.append(event)


FUNCTIONS = {
    "score": annotated_score,
    "input_fn": annotated_input,
    "target_fn": annotated_target,
    "forward_fn": annotated_forward,
    "on_event": announce,
}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((name, f"test_configuration.{function.__name__}") for name, function in FUNCTIONS.items()),
        ("players", {"class_path": "lightning_interactions.FeatureMask", "init_args": {"mask": [[0, 1], [1, 0]]}}),
        ("players", "auto"),
        ("layer", "net.1"),
        ("target", "predicted"),
        ("target", 3),
        ("score", "probability"),
        ("watch", "train"),
        ("resample", True),
        ("on_event", None),
        ("on_event", {"class_path": "lightning_interactions.WarnAlert"}),
        ("on_event", ["warn", {"class_path": "lightning_interactions.WarnAlert"}, "test_configuration.announce"]),
        ("stop_on", "boundary"),
        ("precision", "inherit"),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_value_can_be_configured(option: str, value: Any) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.Callback, "callback")
    given = {"class_path": "lightning_interactions.TwoPhaseMonitor", "init_args": {option: value}}
    configured = parser.parse_object({"callback": given})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jsonargparse is about to rename this method
        monitor = parser.instantiate_classes(configured).callback
    if isinstance(value, list):
        assert len(monitor.options.on_event) == len(value)
    elif option in FUNCTIONS and option != "on_event" and str(value).startswith("test_"):
        assert getattr(monitor.options, option).__name__ == FUNCTIONS[option].__name__
    elif option not in ("on_event", "players"):
        assert getattr(monitor.options, option) == value


# -- the environment -------------------------------------------------------------------------------------------------


@pytest.fixture
def automatic(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("LIGHTNING_INTERACTIONS_AUTO", "1")
    return monkeypatch


@pytest.mark.parametrize("value", ["", "0", "true", None])
def test_nothing_is_added_unless_asked(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTNING_INTERACTIONS_AUTO", raising=False)
    if value is not None:
        monkeypatch.setenv("LIGHTNING_INTERACTIONS_AUTO", value)
    assert callbacks_from_environment() == []


def test_the_factory_imports_nothing_unless_asked() -> None:
    code = (
        "import sys; from lightning_interactions._factory import callbacks_from_environment as f; "
        "assert f() == []; print([m for m in ('torch', 'lightning', 'yaml', 'numpy') if m in sys.modules])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIGHTNING_INTERACTIONS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("write", [yaml.safe_dump, json.dumps], ids=["yaml", "json"])
def test_options_come_from_a_file(write: Any, automatic: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "options").write_text(write({"num_samples": 5, "watch": "train"}))
    automatic.setenv("LIGHTNING_INTERACTIONS_CONFIG", str(tmp_path / "options"))
    (monitor,) = callbacks_from_environment()
    assert (monitor.options.num_samples, monitor.options.watch) == (5, "train")


@pytest.mark.parametrize(
    ("text", "words"),
    [("samples: 5", ["LIGHTNING_INTERACTIONS_CONFIG", "num_samples", "'samples': 5"]),
     ("num_samples: [", ["LIGHTNING_INTERACTIONS_CONFIG"]), ("num_samples: many", ["`num_samples`", "'many'"]),
     (None, ["LIGHTNING_INTERACTIONS_CONFIG", "No such file"])],
    ids=["unknown", "not-yaml", "wrong-value", "no-file"],
)  # fmt: skip
def test_bad_options_are_told(text: str | None, words: list[str], automatic: Any, tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    if text is not None:
        path.write_text(text)
    automatic.setenv("LIGHTNING_INTERACTIONS_CONFIG", str(path))
    with pytest.raises(ArgumentError) as raised:
        callbacks_from_environment()
    for word in words:
        assert word in str(raised.value)


def test_the_entry_points_of_both_distributions(tmp_path: Path) -> None:
    """Lightning itself finds the factory: what pyproject.toml declares is written where an installer would."""
    declared = (ROOT / "pyproject.toml").read_text()
    sections = re.findall(r'\[project\.entry-points\."(.+)"\]\nlightning_interactions = "(.+)"', declared)
    assert {group for group, _ in sections} == {
        "lightning.pytorch.callbacks_factory",
        "pytorch_lightning.callbacks_factory",
    }
    info = tmp_path / "lightning_interactions-0.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lightning-interactions\nVersion: 0.0.0\n")
    (info / "entry_points.txt").write_text("".join(f"[{g}]\nlightning_interactions = {f}\n" for g, f in sections))
    code = (
        "import os, warnings; warnings.filterwarnings('ignore'); import lightning, pytorch_lightning\n"
        "for switch in '10':\n"
        "    os.environ['LIGHTNING_INTERACTIONS_AUTO'] = switch\n"
        "    for package in (lightning, pytorch_lightning):\n"
        "        trainer = package.Trainer(logger=False, barebones=True)\n"
        "        print('found', [type(c).__name__ for c in trainer.callbacks if 'Monitor' in type(c).__name__])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    found = re.findall(r"found (.*)", done.stdout)
    assert found == ["['AutoMonitor']", "['AutoMonitor']", "[]", "[]"], done.stderr[-2000:]


def auto(**options: Any) -> AutoMonitor:
    return AutoMonitor(**{"num_samples": 6, "num_players": 4, "verbose": False} | options)


def test_the_environments_monitor_measures() -> None:
    monitor = auto()
    told_during(lambda: fit(monitor))  # whatever it finds
    assert monitor.history.column("epoch") == [x / 4 for x in range(-4, 9)], "in the default rhythm"


@pytest.mark.parametrize("why", ["batch", "layer"])
def test_the_environments_monitor_steps_aside_where_it_cannot_work(why: str) -> None:
    options: dict[str, Any] = {
        "batch": {"model": AnyBatch, "data": AnyBatch.strange_batches()},
        "layer": {},
    }[why]
    monitor = auto(**({"layer": "net.99"} if why == "layer" else {}))
    with pytest.warns(InteractionsWarning, match="switched off for this run"):
        trainer = fit(monitor, **options)
    assert (trainer.current_epoch, len(monitor.history)) == (3, 0)


def test_the_environments_monitor_makes_way_for_the_users() -> None:
    own, other = small_monitor(), auto()
    fit(own, callbacks=(other,))
    assert (len(own.history), len(other.history)) == (3, 0)


# -- the other distribution ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "both"), [("2.5.6", True), ("2.6.0", False), ("unknown", False)])
def test_older_versions_of_it_get_a_callback_of_their_own(
    found: str, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pytorch_lightning as pl

    monkeypatch.setattr(trainer_module, "version", lambda name: found)
    base = trainer_module.callback_base()
    assert issubclass(base, L.Callback)
    assert issubclass(base, pl.Callback) == both


def test_pytorch_lightning_gives_the_same_history(tmp_path: Path) -> None:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import TensorBoardLogger

    class OtherNet(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = ColumnNet().net

        forward = ColumnNet.forward
        training_step = ColumnNet.training_step
        validation_step = ColumnNet.validation_step
        configure_optimizers = ColumnNet.configure_optimizers

    ours = small_monitor(watch="both")
    fit(ours)
    theirs = small_monitor(watch="both")
    L.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", devices=1, logger=TensorBoardLogger(tmp_path), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, callbacks=[theirs],
    )  # fmt: skip
    trainer.fit(OtherNet(), **loaders())
    first, second = ours.history.to_dict(), theirs.history.to_dict()
    for key in set(first) - {"seconds"}:
        assert torch.allclose(torch.tensor(first[key]), torch.tensor(second[key]), rtol=1e-6, equal_nan=True), key
    assert float(trainer.callback_metrics["interactions/val/mean_order"]) == pytest.approx(first["val/mean_order"][-1])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(trainer.log_dir).Reload().Tags()
    assert "interactions/run" in tags["images"]
    assert "interactions/val/order_distribution" in tags["histograms"]


def test_pytorch_lightning_resumes(tmp_path: Path) -> None:
    import pytorch_lightning as pl
    from pytorch_lightning.demos.boring_classes import BoringModel

    class Classifier(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return torch.nn.functional.cross_entropy(self(batch), torch.zeros(len(batch), dtype=torch.long))

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)

    def target(batch: Any) -> Tensor:
        return torch.zeros(len(batch), dtype=torch.long)

    def trained(epochs: int, path: str | None) -> TwoPhaseMonitor:
        monitor = small_monitor(input_fn=lambda batch: batch, target_fn=target)
        keeper = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
        trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, logger=False, limit_train_batches=2,
                             limit_val_batches=8, enable_progress_bar=False, enable_model_summary=False,
                             callbacks=[monitor, keeper])  # fmt: skip
        trainer.fit(Classifier(), ckpt_path=path)
        return monitor

    trained(1, None)
    with pytest.warns(InteractionsWarning, match="did not pass by again"):  # its data set draws new numbers
        resumed = trained(2, str(tmp_path / "last.ckpt"))
    assert resumed.history.column("epoch") == [0, 1]
