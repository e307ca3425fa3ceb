"""The edge cases of Lightning, as tests; README.md beside this file has the table of all 25 and says where each is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch._dynamo
from identity import Spy, assert_identical, outcome
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from models import (
    ColumnNet,
    ManualNet,
    QuietNet,
    ScriptedDetector,
    TwoLoadersNet,
    column_data,
    fit,
    loaders,
    small_monitor,
    told_during,
)
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_interactions import compute_interactions
from lightning_interactions.model import score as scores

TABLE = Path(__file__).with_name("README.md")


def rows() -> list[list[str]]:
    lines = re.findall(r"^\| (\d+) \| (.+) \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return [[number, *(cell.strip() for cell in rest.split(" | "))] for number, rest in lines]


def test_the_table_has_every_case_and_every_test_is_there() -> None:
    assert [int(row[0]) for row in rows()] == list(range(1, 26))
    here = [name for name in globals() if re.match(r"test_\d\d_", name)]
    for number, _, _, where, passed in rows():
        assert passed.startswith("yes")
        named = re.findall(r"`(?:(\w+\.py)::)?(test_\w+)`", where)
        assert named, f"case {number} names no test"
        for file, test in named:
            source = Path(__file__).with_name(file or Path(__file__).name).read_text(encoding="utf-8")
            assert f"def {test}(" in source, f"case {number}: {file} has no {test}"
        assert all(int(test[5:7]) == int(number) for _, test in named if test in here)
    assert set(here) <= {test for row in rows() for _, test in re.findall(r"`(?:(\w+\.py)::)?(test_\w+)`", row[3])}


def test_01_sanity_validation_leaves_nothing() -> None:
    told: list[Any] = []
    seen: list[Any] = []

    class Look(L.Callback):
        def on_sanity_check_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            kept = [c.result() for c in monitor._loop.watchlist._pools.values()]
            ours = [key for key in trainer.callback_metrics if key.startswith("interactions")]
            seen.append((len(monitor.history), monitor.events, kept, ours, len(monitor._loop.watchlist.watched)))

    monitor = small_monitor(detector=ScriptedDetector(), on_event=told.append)
    fit(monitor, callbacks=(Look(),), num_sanity_val_steps=-1, max_epochs=1)
    assert seen == [(0, [], [None, None, None], [], 0)]
    assert monitor.history.column("epoch") == [0]
    assert told == []


def test_04_validation_every_fifth_epoch_keeps_true_epochs_and_steps() -> None:
    monitor = small_monitor()
    fit(monitor, check_val_every_n_epoch=5, max_epochs=10)
    assert monitor.history.column("epoch") == [4, 9]
    assert monitor.history.column("step") == [20 - 1, 40 - 1], "4 batches an epoch; Lightning logs at the last step"


def test_05_four_validations_in_an_epoch() -> None:
    monitor = small_monitor()
    fit(monitor, val_check_interval=0.25, max_epochs=2)
    history = monitor.history.to_dict()
    assert history["epoch"] == [0] * 4 + [1] * 4
    assert history["step"] == sorted(set(history["step"]))
    assert len(set(history["train_loss"])) == 8, "each under the weights of its validation"


def test_06_validation_by_steps_across_epochs() -> None:
    monitor = small_monitor()
    fit(monitor, val_check_interval=3, check_val_every_n_epoch=None, max_epochs=3)
    assert monitor.history.column("epoch") == [0, 1, 2, 2], "the first lies before the end of epoch 0"
    assert monitor.history.column("step") == [2, 5, 8, 11]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        data = column_data(40, seed=2)
        return (data[i % 40] for i in itertools.count())

    def __len__(self) -> int:
        raise AssertionError("nobody knows how long it is")


def test_07_endless_validation_loader_is_never_asked_its_length() -> None:
    class NoLength(DataLoader[Any]):
        def __len__(self) -> int:
            raise TypeError("an endless loader has no length")

    data = loaders() | {"val_dataloaders": NoLength(Endless(), 8)}
    monitor = small_monitor()
    fit(monitor, data=data, limit_val_batches=3)
    assert monitor.history.column("epoch") == [0, 1, 2]
    assert len(monitor._loop.watchlist.losses["val"]) == 24


@pytest.mark.parametrize("kind", ["list", "dict", "combined"])
def test_08_several_validation_loaders(kind: str) -> None:
    first, second = loaders()["val_dataloaders"], DataLoader(column_data(32, seed=9), 8)
    several: Any = {
        "list": [first, second],
        "dict": {"a": first, "b": second},
        "combined": CombinedLoader([first, second], "sequential"),
    }[kind]
    monitor = small_monitor(monitor="val_loss/dataloader_idx_0")
    trainer = fit(monitor, model=TwoLoadersNet, data=loaders() | {"val_dataloaders": several})
    alone = small_monitor()
    fit(alone)
    assert torch.equal(monitor._loop.watchlist.watched["val"].keys, alone._loop.watchlist.watched["val"].keys)
    last = float(trainer.callback_metrics["val_loss/dataloader_idx_0"])
    assert monitor.history.column("val_loss")[-1] == pytest.approx(last)


def test_08_a_loss_without_its_suffix_is_told_with_the_keys_there_are() -> None:
    data = loaders()
    data["val_dataloaders"] = [data["val_dataloaders"], DataLoader(column_data(32, seed=9), 8)]
    told = told_during(lambda: fit(small_monitor(monitor="val_loss"), model=TwoLoadersNet, data=data))
    assert any("no metric 'val_loss'" in text and "val_loss/dataloader_idx_0" in text for text in told)


def test_10_accumulation_does_not_scale_the_losses() -> None:
    class NoLearning(ColumnNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    losses = []
    for batches in (1, 4):
        monitor = small_monitor()
        fit(monitor, model=NoLearning, accumulate_grad_batches=batches, max_epochs=1)
        losses += monitor.history.column("train_loss")
    assert losses[0] == pytest.approx(losses[1], rel=0.2), "batch norm saw other batches"


def test_11_manual_optimisation_has_a_training_loss() -> None:
    monitor = small_monitor()
    fit(monitor, model=ManualNet)
    assert all(x > 0 for x in monitor.history.column("train_loss"))


def test_12_a_training_loss_that_is_logged_late_is_not_waited_for() -> None:
    class LateLog(ColumnNet):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def on_train_epoch_end(self) -> None:
            self.log("train_loss", 99.0)

    monitor = small_monitor()
    trainer = fit(monitor, model=LateLog)
    assert all(0 < loss < 10 for loss in monitor.history.column("train_loss"))
    assert "interactions/loss_gap" in trainer.callback_metrics


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_14_precision_does_not_change_what_is_measured(precision: Any) -> None:
    class NoLearning(QuietNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            self.net.eval()
            return super().training_step(batch, batch_idx)

    monitor = small_monitor(num_players=5)
    trainer = fit(monitor, model=NoLearning, max_epochs=1, precision=precision)
    probe, module = monitor._loop.watchlist.watched["val"], trainer.lightning_module
    dtype = torch.float64 if precision == "64-true" else torch.float32
    exact = compute_interactions(
        module.to(dtype), probe.inputs.to(dtype), probe.targets, num_players=5, noise_bound=0.05
    ).strength()
    found = torch.tensor(monitor.history.last["strength"], dtype=torch.float64)
    assert torch.allclose(exact.mean(0), found, rtol=0.02, atol=1e-4), "as these weights say in full precision"


@pytest.mark.parametrize("first", [True, False], ids=["monitor-first", "averaging-first"])
def test_18_averaged_weights_are_measured_where_the_monitor_comes_first(first: bool) -> None:
    monitor, averaging = small_monitor(monitor="val_loss"), EMAWeightAveraging(decay=0.9)
    own = small_monitor(log_key_prefix="own/")
    listed = [monitor, own, averaging] if first else [averaging, monitor, own]
    told = told_during(lambda: fit(listed[0], callbacks=tuple(listed[1:]), max_epochs=2))
    assert any("before EMAWeightAveraging" in text for text in told) != first
    logged, measured = monitor.history.column("val_loss"), own.history.column("val_loss")
    assert logged == pytest.approx(measured, rel=1e-4)
    assert (own.run.judge is None) == first, "the loss of other weights than were validated does not decide"


@pytest.mark.parametrize("part", [False, True], ids=["module", "part"])
def test_19_compiled_modules_are_not_compiled_again(part: bool) -> None:
    def make() -> torch.nn.Module:
        if not part:
            return torch.compile(QuietNet(), backend="eager")
        model = QuietNet()
        model.net = torch.compile(model.net, backend="eager")
        return model

    def graphs(monitor: Any) -> int:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        fit(monitor, model=make)
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    monitor = small_monitor(num_samples=5, watch="both")
    assert graphs(monitor) == graphs(None) > 0
    assert len(monitor.history) == 3


@pytest.mark.slow
def test_19_inductor_does_not_compile_again(tmp_path: Path) -> None:
    """The real compiler, which needs a C compiler and takes a minute."""
    counts = []
    for monitor in (None, small_monitor()):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        spy = Spy()
        trainer = fit(monitor, model=lambda: torch.compile(QuietNet()), callbacks=(spy,))
        counts.append((int(torch._dynamo.utils.counters["stats"]["unique_graphs"]), outcome(trainer, spy)))
    assert counts[0][0] == counts[1][0] > 0
    assert_identical(counts[0][1], counts[1][1])


class Interrupting:
    """A score that stops the first measurement in the middle."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if len(logits) > 2:
            raise self.error
        return scores.log_odds(logits, targets)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_23_an_exception_in_a_measurement_leaves_no_trace(error: BaseException) -> None:
    before: list[Any] = []

    class Look(L.Callback):
        def state(self, module: L.LightningModule) -> Any:
            return {"modes": [m.training for m in module.modules()], "random": torch.get_rng_state(),
                    "weights": dict(module.state_dict()), "own": sorted(vars(module))}  # fmt: skip

        def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            before.append(self.state(module))

    look, model = Look(), ColumnNet()
    L.seed_everything(0, verbose=False)
    # Callbacks run in order: what `look` sees is the state in which the measurement begins.
    with pytest.raises(BaseException) as raised:  # noqa: PT011
        fit(look, callbacks=(small_monitor(score=Interrupting(error)),), model=model, num_sanity_val_steps=0)
    assert_identical(look.state(model) | {"modes": None}, before[0] | {"modes": None})
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    if isinstance(error, ValueError):
        assert raised.value.__cause__ is error
        assert look.state(model)["modes"] == before[0]["modes"]
    elif isinstance(error, SystemExit):
        assert raised.value is error


def test_24_two_monitors_with_one_identity_are_refused_by_lightning() -> None:
    with pytest.raises(RuntimeError, match="state_key"):
        fit(small_monitor(), callbacks=(small_monitor(),))


@pytest.mark.cuda
def test_25_out_of_memory_on_a_real_device() -> None:
    class Huge(ColumnNet):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training and len(x) > 20:
                torch.empty(2**50, device=x.device)
            return super().forward(x)

    limited, free = small_monitor(monitor="val_loss"), small_monitor()
    spies = [Spy(), Spy()]
    first = fit(limited, model=Huge, accelerator="cuda", callbacks=(spies[0],))
    second = fit(free, accelerator="cuda", callbacks=(spies[1],))
    assert limited.history.column("mean_order") == pytest.approx(free.history.column("mean_order"), rel=1e-4)
    assert_identical(outcome(first, spies[0]), outcome(second, spies[1]))


def test_25_memory_that_never_suffices_switches_the_monitor_off() -> None:
    def no_memory(module: L.LightningModule, x: Tensor) -> Tensor:
        if module.global_step > 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return module(x)

    found = []
    monitor = small_monitor(forward_fn=no_memory, on_error="warn", on_event=None)
    for each in (None, monitor):
        spy = Spy()
        run = lambda each=each, spy=spy: found.append(outcome(fit(each, callbacks=(spy,), max_epochs=5), spy))  # noqa: E731
        told = told_during(run)
    assert_identical(*found)
    assert len([text for text in told if "out of memory" in text]) == 1
    assert len([text for text in told if "switched off" in text]) == 1
