"""What is seen in the terminal, with every bar Lightning has; and silence."""

from __future__ import annotations

import io
import logging
import math
import re
import sys
import time
import warnings
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from models import ColumnNet, fit, small_monitor
from torch import Tensor

from lightning_interactions import InteractionsWarning, PhaseDetector, PhaseEvent, TwoPhaseMonitor
from lightning_interactions.monitor import terminal
from lightning_interactions.report.words import short_sentence


class Turning(PhaseDetector):
    """Finds a boundary in its second record, whatever comes."""

    def update(self, epoch: int, *args: Any, **options: Any) -> list[PhaseEvent]:
        if epoch <= 1:  # later the mean order of these few samples may fall again
            super().update(epoch, *args, **options)
        if epoch != 1:
            return []
        self.boundary_epoch = 0
        return [PhaseEvent("boundary", 0, 1, 7, {"trough": 1.5, "level": 2.25}, "The long sentence.")]


def watched(monitor: TwoPhaseMonitor, capfd: pytest.CaptureFixture[str], **options: Any) -> tuple[str, str]:
    capfd.readouterr()
    fit(monitor, **({"enable_progress_bar": True} | options))
    sys.stdout.flush()
    said = capfd.readouterr()
    return said.out, said.err


RICH = pytest.param(
    RichProgressBar, id="rich", marks=pytest.mark.skipif(find_spec("rich") is None, reason="rich is not installed")
)
TQDM = pytest.param(TQDMProgressBar, id="tqdm")
BARS = pytest.mark.parametrize("bar", [TQDM, RICH, pytest.param(None, id="no bar")])


@BARS
def test_the_boundary_is_one_short_sentence_and_the_end_a_table(
    bar: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monitor = small_monitor(verbose=True, on_event=None, detector=Turning())
    options: dict[str, Any] = {"callbacks": (bar(),)} if bar else {"enable_progress_bar": False}
    with caplog.at_level(logging.INFO):
        text = "".join(watched(monitor, capfd, **options)) + ("" if bar else caplog.text)
    assert text.count("TwoPhaseMonitor: Epoch 1: phase boundary at epoch 0 (mean order rose from 1.5 to 2.25).") == 1
    assert "The long sentence." not in text
    assert text.count("Phase boundary          epoch 0") == 1
    assert "every split within" in text


def test_a_warning_takes_the_place_of_the_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    monitor = small_monitor(verbose=True, on_event="warn", detector=Turning())
    with pytest.warns(InteractionsWarning, match="The long sentence"):
        text = "".join(watched(monitor, capfd))
    assert "phase boundary at epoch 0" not in text


def test_silence(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    def said(monitor: TwoPhaseMonitor | None) -> tuple[str, list[str]]:
        caplog.clear()
        capfd.readouterr()
        with warnings.catch_warnings(), caplog.at_level(logging.INFO):
            warnings.simplefilter("error", InteractionsWarning)
            fit(monitor, enable_progress_bar=False)
        return "".join(capfd.readouterr()), [record.getMessage() for record in caplog.records]

    assert said(small_monitor(verbose=False, on_event=None, detector=Turning())) == said(None)


def test_the_warning_is_told_from_the_epoch_and_without_a_line_of_code(capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_interactions import WarnAlert

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.showwarning
        stream = io.StringIO()
        warnings.showwarning = lambda *a, **k: stream.write(warnings.formatwarning(*a[:4]))
        try:
            WarnAlert().send(PhaseEvent("boundary", 3, 5, message="It ended."))
        finally:
            warnings.showwarning = shown
    assert stream.getvalue() == "TwoPhaseMonitor:5: InteractionsWarning: It ended.\n"


# -- a long measurement -----------------------------------------------------------------------------------------------


class SlowNet(ColumnNet):
    """A model whose masked forwards take a while."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            time.sleep(0.03)
        return super().forward(x)


@pytest.mark.parametrize(
    ("bar", "verbose", "shown"),
    [
        (TQDMProgressBar, True, True),
        (TQDMProgressBar, False, False),
        pytest.param(*(RichProgressBar, True, False), marks=RICH.marks),
    ],
)
def test_a_long_measurement_has_a_bar_below_that_of_tqdm(
    bar: Any, verbose: bool, shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "SHORT", 0.0)
    monitor = small_monitor(verbose=verbose, chunk_size=4)
    fit(monitor, model=SlowNet, callbacks=(bar(),), max_epochs=1, enable_progress_bar=True)
    seen = [text for text in re.split(r"[\r\n]", capfd.readouterr().err) if "Interactions" in text]
    assert len(monitor.history) == 1
    assert bool(seen) == shown
    if shown:
        shares = [int(found[1]) for text in seen if (found := re.search(r"(\d+)%", text))]
        assert shares == sorted(shares)
        assert len(set(shares)) >= 3


def test_a_bar_that_fails_does_not_fail_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm

    class Broken(tqdm.tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            raise RuntimeError("no terminal")

    monkeypatch.setattr(tqdm, "tqdm", Broken)
    monitor = small_monitor(verbose=True)
    fit(monitor)
    assert len(monitor.history) == 3


@pytest.mark.parametrize(
    ("kind", "evidence", "sentence"),
    [
        ("boundary", {}, "Epoch 5: phase boundary at epoch 3."),
        ("suspected", {"trough": 1.0, "level": 1.5},
         "Epoch 5: boundary suspected at epoch 3 (mean order rose from 1 to 1.5)."),
        ("overfitting", {"best_val_loss": 0.3, "val_loss": 0.41, "best_val_epoch": 4.0},
         "Epoch 5: overfitting (validation loss rose from 0.3 to 0.41). Keep the checkpoint of epoch 4."),
        ("overfitting", {"best_val_epoch": math.nan}, "Epoch 5: overfitting. Keep the checkpoint."),
        ("retracted", {}, "Epoch 5: the phase boundary at epoch 3 is withdrawn."),
        ("retracted overfitting", {"alarm_epoch": 2.5, "val_loss": 0.25},
         "Epoch 5: the overfitting alarm of epoch 3 (50 % through) is withdrawn (validation loss 0.25, its lowest)."),
        ("retracted overfitting", {}, "Epoch 5: the overfitting alarm of epoch 3 is withdrawn."),
        ("probe_failed", {}, "The message."),
    ],
)  # fmt: skip
def test_short_sentences(kind: Any, evidence: dict[str, float], sentence: str) -> None:
    kind, _, retracts = kind.partition(" ")
    assert short_sentence(PhaseEvent(kind, 3, 5, 0, evidence, "The message.", retracts)) == sentence


def test_random_states_are_left_alone() -> None:
    before = torch.get_rng_state()
    with terminal.measuring(None, 10, enabled=False) as progress:
        progress(5)
    assert torch.equal(before, torch.get_rng_state())
