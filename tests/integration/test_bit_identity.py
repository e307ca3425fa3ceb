"""Training with the monitor is bit-identical to training without it, whatever the Trainer does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import lightning as L
import pytest
import torch
from identity import Spy, assert_identical, outcome
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from models import (
    ColumnNet,
    HookedNet,
    LbfgsNet,
    LoggingForward,
    ManualNet,
    ModeChanging,
    PictureNet,
    PlateauNet,
    QuietNet,
    SkippingNet,
    TwoLoadersNet,
    column_data,
    endless_loaders,
    fit,
    listening,
    loaders,
    picture_loaders,
    small_monitor,
    stream_loaders,
)
from torch import nn
from torch.utils.data import DataLoader

from lightning_interactions import ImagePatches, InteractionsWarning


def channels_last() -> nn.Module:
    return PictureNet().to(memory_format=torch.channels_last)


def compiled_whole() -> nn.Module:
    return torch.compile(QuietNet(), backend="eager")


def compiled_part() -> nn.Module:
    model = ColumnNet()
    model.net = torch.compile(model.net, backend="eager")
    return model


def two_loaders() -> dict[str, Any]:
    data = loaders()
    return data | {"val_dataloaders": [data["val_dataloaders"], DataLoader(column_data(20, seed=9), 8)]}


def named_loaders() -> dict[str, Any]:
    both = two_loaders()
    return both | {"val_dataloaders": dict(zip("ab", both["val_dataloaders"], strict=True))}


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        records: How many measurements there should be, one at each validation.
        inside: How many there should be in the default rhythm before training and inside of epochs.
        model: Makes the model.
        options: The Trainer's.
        callbacks: Makes the user's callbacks.
        data: Makes the loaders.
        monitor: The monitor's options.
    """

    records: int = 3
    model: Callable[[], nn.Module] = ColumnNet
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[L.Callback]] = list
    data: Callable[[], dict[str, Any]] = loaders
    monitor: dict[str, Any] = field(default_factory=dict)
    inside: int = 10


CASES = {
    "plain": Case(),
    # the model
    "log-and-random-numbers-in-forward": Case(model=LoggingForward),
    "hooks-and-counting-buffer": Case(model=HookedNet),
    "modes-changed-in-forward": Case(model=ModeChanging),
    "frozen-batch-norm": Case(model=PictureNet, data=picture_loaders, inside=7,
                                monitor={"players": ImagePatches(grid=4)}),
    "channels-last": Case(model=channels_last, data=picture_loaders, inside=7,
                                monitor={"players": ImagePatches(grid=4)}),
    "compiled-module": Case(model=compiled_whole),
    "compiled-part": Case(model=compiled_part),
    # optimisation
    "accumulation": Case(options={"accumulate_grad_batches": 3}),
    "accumulation-scheduled": Case(callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 2})]),
    "clipping": Case(options={"gradient_clip_val": 0.1}),
    "manual-with-two-optimizers": Case(model=ManualNet),
    "skipped-steps": Case(model=SkippingNet),
    "plateau-scheduler": Case(model=PlateauNet),
    "closure-optimizer": Case(model=LbfgsNet),
    "ema": Case(callbacks=lambda: [EMAWeightAveraging(decay=0.9)], inside=1),
    "swa": Case(4, callbacks=lambda: [StochasticWeightAveraging(0.01, swa_epoch_start=1)], inside=13),
    "early-stopping": Case(2, callbacks=lambda: [EarlyStopping("val_loss", min_delta=10.0, patience=1)], inside=7),
    # loops
    "validation-twice-an-epoch": Case(6, options={"val_check_interval": 0.5}),
    "validation-every-second-epoch": Case(1, options={"check_val_every_n_epoch": 2}),
    "validation-by-steps": Case(4, options={"val_check_interval": 3, "check_val_every_n_epoch": None}),
    "max-steps": Case(2, options={"max_epochs": -1, "max_steps": 8}, inside=7),
    "min-epochs": Case(options={"min_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 2}, inside=7),
    "fast-dev-run": Case(1, options={"fast_dev_run": 2}, inside=0),
    "overfit-batches": Case(options={"overfit_batches": 2}, inside=4),
    "no-sanity-check": Case(options={"num_sanity_val_steps": 0}, inside=6),
    "long-sanity-check": Case(options={"num_sanity_val_steps": -1}),
    "reloaded-loaders": Case(options={"reload_dataloaders_every_n_epochs": 1}),
    "deterministic": Case(options={"deterministic": True}),
    "barebones": Case(options={"barebones": True, "enable_checkpointing": None, "logger": None,
                               "enable_progress_bar": None, "enable_model_summary": None, "log_every_n_steps": None},
                      model=QuietNet, inside=6),
    "anomaly-detection": Case(options={"detect_anomaly": True}),
    "inference-mode-off": Case(options={"inference_mode": False}),
    # data
    "streams": Case(data=stream_loaders, options={"val_check_interval": 4}, inside=1),
    "endless-stream": Case(data=endless_loaders, inside=1,
                           options={"max_epochs": -1, "max_steps": 12, "val_check_interval": 4}),
    "endless-stream-alone": Case(1, data=endless_loaders, inside=0, monitor={"watch": "train"},
                                 options={"max_epochs": -1, "max_steps": 12, "limit_val_batches": 0,
                                          "log_every_n_steps": 4}),
    "two-loaders": Case(model=TwoLoadersNet, data=two_loaders),
    "named-loaders": Case(model=TwoLoadersNet, data=named_loaders),
    # the monitor
    "both-splits": Case(monitor={"watch": "both"}, inside=6),
    "train-split": Case(monitor={"watch": "train"}, inside=6),
    "resampled": Case(monitor={"resample": True}, inside=0),
    "inner-layer": Case(monitor={"layer": "net.2", "chunk_size": 8}),
    "inherited-precision": Case(monitor={"precision": "inherit"}),
    "logged-losses": Case(monitor={"monitor": "val_loss"}),
    "residual-allowed": Case(monitor={"noise_bound": 0.02}),
}  # fmt: skip

PRECISIONS = ("bf16-mixed", "bf16-true", "64-true")


def run(case: Case, with_monitor: bool, *, every: int | None = 1, **options: Any) -> dict[str, Any]:
    """What is left of a run, measured at every validation; or in the default rhythm, with ``every=None``."""
    spy = Spy()
    told = {} if every is not None else {"on_event": None}  # of a few batches there is much noise
    monitor = small_monitor(**case.monitor, **told, every_n_epochs=every) if with_monitor else None
    trainer = fit(
        monitor, model=case.model, data=case.data(), callbacks=(spy, *case.callbacks()), seed=7,
        **(case.options | options),
    )  # fmt: skip
    if monitor is not None and every is not None:
        assert len(monitor.history) == case.records, "it must have measured, or the comparison says nothing"
    elif monitor is not None:
        epochs = monitor.history.column("epoch")
        inside = [epoch for epoch in epochs if epoch != int(epoch) or epoch < 0]
        assert epochs
        assert len(inside) == case.inside, epochs
    return outcome(trainer, spy)


def check(name: str, precision: str, every: int | None = 1) -> None:
    without = run(CASES[name], False, precision=precision)
    with listening() as told:
        with_monitor = run(CASES[name], True, precision=precision, every=every)
    assert_identical(without, with_monitor)
    for text in told:  # what is random is told as that; of everything else the test is to know
        if not (name == "modes-changed-in-forward" and "answers at random" in text):
            warnings.warn(text, InteractionsWarning, stacklevel=1)


@pytest.mark.parametrize("name", CASES)
def test_training_is_bit_identical(name: str) -> None:
    check(name, "32-true")


@pytest.mark.parametrize(("name", "precision"), list(zip(CASES, cycle(PRECISIONS), strict=False)))
def test_training_is_bit_identical_in_other_precisions(name: str, precision: str) -> None:
    """Each case in one of the other precisions; the slow test has all of them."""
    check(name, precision)


@pytest.mark.parametrize("name", CASES)
def test_training_is_bit_identical_in_the_default_rhythm(name: str) -> None:
    """Before training, and in the middle of epochs: between the batches of an accumulated gradient, for example."""
    check(name, "32-true", every=None)


NAN_IN_HALF = ("early-stopping", "anomaly-detection")
"""Without loss scaling float16 comes to NaN, with the monitor and without: both of these then end the run."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lightning_interactions.InteractionsWarning")  # in float16 some diverge
@pytest.mark.parametrize("precision", ["32-true", "16-true", "16-mixed", *PRECISIONS])
@pytest.mark.parametrize("name", CASES)
def test_training_is_bit_identical_in_the_whole_matrix(name: str, precision: str) -> None:
    if not (precision == "16-true" and name in NAN_IN_HALF):
        check(name, precision)


def test_the_comparison_can_fail() -> None:
    class Careless(L.Callback):
        def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            torch.rand(())

    found = []
    for callbacks in ((), (Careless(),)):
        spy = Spy()
        found.append(outcome(fit(None, callbacks=(spy, *callbacks)), spy))
    with pytest.raises(AssertionError):
        assert_identical(*found)
