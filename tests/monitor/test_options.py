"""Arguments of `TwoPhaseMonitor`: what is wrong is said at once, by name."""

from __future__ import annotations

import inspect
import json
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_interactions import (
    ArgumentError,
    ImagePatches,
    InteractionsWarning,
    PhaseDetector,
    TabularFeatures,
    TwoPhaseMonitor,
    WarnAlert,
    WebhookAlert,
)
from lightning_interactions.monitor.checkpoints import CheckpointMonitor
from lightning_interactions.monitor.options import Options
from lightning_interactions.monitor.trainer import check_forward, check_trainer, lacks_validation

BAD: dict[str, list[Any]] = {
    "resample": ["yes", None, 2],
    "one_group": ["yes", None, 1],
    "log_figures": ["png", None],
    "show_samples": ["no", None, 0],
    "reference": ["nowhere.ckpt", 3],
    "extras": ["persistence", ("speed",), 3, None, (1,), ["cutoff_order"]],
    "verbose": [1, "no"],
    "players": ["images", None, ImagePatches, 3],
    "num_players": [1, 513, 0, -3, 10.0, True, "10", None],
    "num_pairs": [15, 0, -16, 96.0, True, "96"],
    "num_samples": [1, 0, -1, 2.5, True, "32", None],
    "keep_samples": ["all", "Keys", None, True, ("keys",)],
    "watch": ["test", "VAL", None, True, ("train", "val")],
    "layer": [4, True, ["features.4"]],
    "score": ["logodds", None, 1],
    "target": ["class", None, -1, True, 1.0],
    "noise_bound": [-0.1, 1.0, math.nan, math.inf, "0.02", None, True],
    "salience": [-0.1, 1.0, math.nan, math.inf, "0.03", None, True],
    "scale": ["mean", None, 1.0],
    "tolerance": [0.0, 1.0, -0.1, math.nan, "0.02", True],
    "per_octave": [0, -1, 1.5, True, "16", None],
    "max_per_epoch": [0, -1, 1.5, True, "4", None],
    "every_n_epochs": [0, -1, 1.5, True, "1"],
    "start_epoch": [-1, 0.5, True, "1", None],
    "max_overhead": [0, 0.0, -0.1, math.nan, "10%", True],
    "detector": ["default", PhaseDetector, 3],
    "monitor": [True, 3, ["val_loss"]],
    "on_event": ["print", 3, WarnAlert, ["warn", "mail"], {"warn"}],
    "stop_on": ["retracted", "Boundary", True, 3],
    "chunk_size": [0, -1, 1.5, True, "64"],
    "sharded": ["fsdp", None, True],
    "precision": ["16-mixed", 32, None],
    "input": [True, 1.5, ["x"]],
    "head": [True, 1.5, ["x"]],
    "loss_fn": ["mse", 0],
    "input_fn": ["x", 0],
    "forward_fn": ["forward", 0],
    "target_fn": ["y", 0],
    "log_key_prefix": ["", None, 3],
    "seed": [-1, 0.5, True, None, "0"],
    "on_error": ["ignore", None, True],
}
GOOD: dict[str, list[Any]] = {
    "players": ["auto", ImagePatches(), TabularFeatures()],
    "num_players": [2, 16, 17, 512],
    "num_pairs": [None, 16, 1000],
    "num_samples": [2, 1000],
    "keep_samples": ["keys", "inputs", "nothing"],
    "watch": ["val", "train", "both"],
    "resample": [True],
    "layer": ["features.4"],
    "target": ["label", "predicted", 0, 7],
    "score": ["logit", "probability", "output", lambda z, y: z[:, 0]],
    "noise_bound": [0, 0.02],
    "salience": [0, 0.5],
    "scale": ["std", "difference"],
    "tolerance": [None, 0.001, 0.5],
    "per_octave": [1, 50],
    "max_per_epoch": [1, 100],
    "every_n_epochs": [5, None],
    "start_epoch": [0, 50],
    "max_overhead": [0.1, 2, math.inf, None],
    "detector": [PhaseDetector()],
    "monitor": ["val_loss"],
    "on_event": [None, "warn", print, WarnAlert(), [WarnAlert(), print]],
    "stop_on": [None, "boundary", "overfitting"],
    "chunk_size": [None, 1, 4096],
    "sharded": ["auto", "lockstep", "off"],
    "precision": ["32-true", "inherit"],
    "input": [None, "pixels", 0],
    "head": [None, "colour", 1],
    "loss_fn": [lambda outputs, targets: outputs[:, 0]],
    "input_fn": [lambda batch: batch],
    "forward_fn": [lambda module, x: x],
    "target_fn": [lambda batch: batch],
    "log_key_prefix": ["x/"],
    "one_group": [True],
    "log_figures": [False],
    "show_samples": [False],
    "reference": [None, nn.Linear(2, 2), __file__],
    "extras": [(), ["persistence", "spindle_share"]],
    "seed": [0, 2**40],
    "on_error": ["warn", "raise"],
    "verbose": [False],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{i}") for name, values in table.items() for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_bad_arguments_are_refused_by_the_constructor(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        TwoPhaseMonitor(**{name: value})
    text = str(caught.value)
    assert f"`{name}`" in text
    got = value if name != "on_event" or not isinstance(value, list) else "mail"
    assert f"but got {got!r}" in text


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_good_arguments_are_taken(name: str, value: Any) -> None:
    monitor = TwoPhaseMonitor(**{name: value})
    assert len(monitor.history) == 0


def test_every_argument_is_in_the_tables() -> None:
    names = set(inspect.signature(TwoPhaseMonitor).parameters)
    assert set(GOOD) == names
    assert set(BAD) == names


def test_only_the_players_are_positional() -> None:
    assert isinstance(TwoPhaseMonitor(ImagePatches()).options.players, ImagePatches)
    with pytest.raises(TypeError):
        TwoPhaseMonitor("auto", 32)  # type: ignore[misc]


# -- what is said of them --------------------------------------------------------------------------------------------


class Everywhere(TwoPhaseMonitor):
    """A subclass that passes its arguments on."""

    def __init__(self, note: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.note = note


class Posts(WarnAlert):
    """An alert whose attributes are nobody's business."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __repr__(self) -> str:
        return f"Posts({self.address})"


def announce(event: Any, to: str = "") -> None: ...


def test_every_argument_is_in_the_settings_of_a_run() -> None:
    names = set(inspect.signature(TwoPhaseMonitor).parameters)
    assert set(Options().settings) == names
    assert set(TwoPhaseMonitor().record().settings) == names
    assert Everywhere(seed=1).record().settings == TwoPhaseMonitor(seed=1).record().settings
    assert set(CheckpointMonitor(Options()).record().settings) == names


def test_the_options_are_the_arguments_of_the_monitor() -> None:
    own, theirs = (inspect.signature(kind).parameters for kind in (Options, TwoPhaseMonitor))
    assert {name: p.default for name, p in own.items()} == {name: p.default for name, p in theirs.items()}


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_settings_can_be_read_and_name_no_address(name: str, value: Any) -> None:
    said = TwoPhaseMonitor(**{name: value}).options.settings[name]
    assert " at 0x" not in json.dumps(said)
    if value is None or isinstance(value, (bool, int, float, str)):
        assert said in (value, [value] if value else [])


def test_those_told_of_events_are_named_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_WEBHOOK", "json://hooks.example.com/services/SECRET")
    told = ["warn", WebhookAlert("TEAM_WEBHOOK"), Posts("SECRET"), partial(announce, to="SECRET"), announce, [].append]
    monitor = TwoPhaseMonitor(on_event=told, max_overhead=0.5)
    said = monitor.options.settings
    assert said["max_overhead"] == 0.5
    assert said["on_event"] == ["warn", "WebhookAlert('TEAM_WEBHOOK')", "Posts", "announce", "announce", "list.append"]
    assert "SECRET" not in monitor.record().to_json()


# -- the Trainer -----------------------------------------------------------------------------------------------------


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def training_step(self, batch: Any) -> Tensor:
        return self.inner(batch[0]).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Calling(Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def trainer_with(**changed: Any) -> Any:
    usual = {"strategy": strategy_called("SingleDeviceStrategy"), "enable_validation": True, "limit_val_batches": 1.0}
    return SimpleNamespace(**{**usual, **changed})


def strategy_called(name: str) -> Any:
    """A user's own strategy that derives from one of this name."""
    return type("Own", (type(name, (), {}),), {})()


def test_a_module_without_forward_may_have_a_part_that_is_called() -> None:
    check_forward(Calling(), Options())
    check_forward(Module(), Options(forward_fn=lambda module, x: module.inner(x)))
    module = Module()
    module.forward = module.inner.forward  # type: ignore[method-assign]
    check_forward(module, Options())
    with pytest.raises(ArgumentError, match=r"Module defines no `forward`.*`forward_fn="):
        check_forward(Module(), Options())


@pytest.mark.parametrize("watch", ["val", "both"])
def test_missing_validation_is_said(watch: str) -> None:
    said = lacks_validation(trainer_with(enable_validation=False), Options(watch=watch))
    assert said is not None
    assert "no validation loader" in said
    assert lacks_validation(trainer_with(), Options(watch=watch)) is None


def test_training_samples_need_no_validation() -> None:
    assert lacks_validation(trainer_with(enable_validation=False), Options(watch="train")) is None


def test_validation_that_is_switched_off_is_said() -> None:
    said = lacks_validation(trainer_with(enable_validation=False, limit_val_batches=0), Options())
    assert said is not None
    assert "limit_val_batches=0" in said


STRATEGIES = {  # by "sharded"
    "SingleDeviceStrategy": {"auto": True, "lockstep": True, "off": True},
    "DDPStrategy": {"auto": True, "lockstep": True, "off": True},
    "ModelParallelStrategy": {"auto": True, "lockstep": True, "off": False},
    "FSDPStrategy": {"auto": False, "lockstep": True, "off": False},
    "DeepSpeedStrategy": {"auto": False, "lockstep": True, "off": False},
    "XLAStrategy": {"auto": False, "lockstep": False, "off": False},
    "Horovod": {"auto": False, "lockstep": False, "off": False},
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("sharded", ["auto", "lockstep", "off"])
def test_where_the_monitor_works(name: str, sharded: str) -> None:
    trainer, options = trainer_with(strategy=strategy_called(name)), Options(sharded=sharded)
    if STRATEGIES[name][sharded]:
        assert check_trainer(trainer, options)
        return
    with pytest.warns(InteractionsWarning, match="does not know the strategy Own" if name == "Horovod" else name):
        assert not check_trainer(trainer, options)


def test_a_real_trainer_is_understood(tmp_path: Any) -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, max_epochs=1, limit_val_batches=0,
    )  # fmt: skip
    module = Calling()
    trainer.strategy.connect(module)
    assert check_trainer(trainer, Options())
    assert "limit_val_batches=0" in str(lacks_validation(trainer, Options()))
