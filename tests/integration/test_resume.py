"""A resumed run has the history of an uninterrupted one."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from models import Asks, ColumnNet, ScriptedDetector, column_data, fit, loaders, small_monitor, told_during
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_interactions import (
    FeatureMask,
    InteractionsWarning,
    PhaseDetector,
    PhaseEvent,
    StateError,
    TabularFeatures,
    TwoPhaseMonitor,
)
from lightning_interactions.measure import watchlist
from lightning_interactions.monitor.loop import STATE_VERSION


def history_without_times(monitor: TwoPhaseMonitor) -> dict[str, list[Any]]:
    history = monitor.history.to_dict()
    del history["seconds"]
    return history


def assert_same(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> None:
    assert set(first) == set(second)
    for key, column in first.items():
        assert torch.allclose(torch.tensor(column), torch.tensor(second[key]), rtol=1e-6, equal_nan=True), key


@pytest.mark.parametrize(
    ("when", "monitor_options"),
    [
        pytest.param({"save_on_train_epoch_end": True}, {}, id="after-epoch"),
        pytest.param({"save_on_train_epoch_end": False}, {}, id="after-validation"),
        pytest.param({"every_n_train_steps": 6}, {}, id="mid-epoch"),
        pytest.param({"save_on_train_epoch_end": True}, {"watch": "both"}, id="both-splits"),
        pytest.param({"save_on_train_epoch_end": True}, {"resample": True}, id="resampled"),
        pytest.param({"save_on_train_epoch_end": False}, {"monitor": "val_loss"}, id="logged-loss"),
        pytest.param({"save_on_train_epoch_end": True}, {"keep_samples": "inputs"}, id="with-inputs"),
    ],
)
def test_resume_continues_the_history(when: dict[str, Any], monitor_options: dict[str, Any], tmp_path: Path) -> None:
    uninterrupted = small_monitor(**monitor_options)
    fit(uninterrupted, max_epochs=4)
    keeper = ModelCheckpoint(tmp_path, save_top_k=-1, **when)
    fit(small_monitor(**monitor_options), callbacks=(keeper, Asks(1)), max_epochs=4, enable_checkpointing=True)
    checkpoints = sorted(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    chosen = checkpoints[-1]
    resumed = small_monitor(**monitor_options)
    told = told_during(lambda: fit(resumed, max_epochs=4, ckpt_path=str(chosen)))
    assert resumed.history.column("epoch") == [0, 1, 2, 3], "neither gap nor duplicate"
    mid_epoch = "every_n_train_steps" in when
    assert ["32 of 64 train samples for the loss" in text for text in told] == [True] * mid_epoch
    if not mid_epoch:  # Lightning itself repeats other batches after a mid-epoch resume
        # The shuffle of a resumed run differs from that of one that was never stopped, so its weights do too:
        # what was measured before the stop, and which samples are watched, must be the same.
        before = {key: column[:2] for key, column in history_without_times(uninterrupted).items()}
        assert_same({key: column[:2] for key, column in history_without_times(resumed).items()}, before)


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    """Without a shuffle and with the random state in hand, all of it is equal, not only the part before the stop."""

    class NoDropout(ColumnNet):
        def __init__(self) -> None:
            super().__init__()
            self.net[3] = torch.nn.Identity()

    def data() -> dict[str, Any]:
        return {
            "train_dataloaders": DataLoader(column_data(64, seed=1), 16),
            "val_dataloaders": DataLoader(column_data(48, seed=2), 16),
        }

    uninterrupted = small_monitor()
    fit(uninterrupted, model=NoDropout, data=data(), max_epochs=6)
    keeper = ModelCheckpoint(tmp_path, filename="stop")
    stopped: dict[str, Any] = {"callbacks": (keeper, Asks(2)), "enable_checkpointing": True}
    fit(small_monitor(), model=NoDropout, data=data(), max_epochs=6, **stopped)
    resumed = small_monitor()
    fit(resumed, model=NoDropout, data=data(), max_epochs=6, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert resumed.history.column("epoch") == list(range(6))
    assert_same(history_without_times(resumed), history_without_times(uninterrupted))
    assert resumed.history.samples == uninterrupted.history.samples
    one, other = (monitor.detector.state_dict()["losses"] for monitor in (resumed, uninterrupted))
    torch.testing.assert_close(one["last_each"], other["last_each"])
    assert len(one["last_each"]) == 48


def test_state_loads_with_weights_only(tmp_path: Path) -> None:
    monitor = small_monitor(watch="both")
    fit(monitor)
    torch.save(monitor.state_dict(), tmp_path / "state.pt")
    restored = small_monitor(watch="both")
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert str(restored.history.to_dict()) == str(monitor.history.to_dict())
    assert str(restored.state_dict()) == str(monitor.state_dict())


def test_settings_that_differ_are_refused(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(tmp_path, filename="last")
    fit(small_monitor(), callbacks=(keeper,), enable_checkpointing=True)
    with pytest.raises(StateError, match=r"num_players=4 \(now 5\).*log_key_prefix"):
        fit(small_monitor(num_players=5), max_epochs=5, ckpt_path=str(tmp_path / "last.ckpt"))
    with pytest.raises(StateError, match=r"scale=std \(now difference\)"):
        fit(small_monitor(scale="difference"), max_epochs=5, ckpt_path=str(tmp_path / "last.ckpt"))


class Doubled(TabularFeatures):
    """Players with a function among their settings, which any two processes have at different addresses."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        masked: Tensor = self.change(super().mask_batch(samples, players, coalitions))
        return masked


class Times:
    """A function with a setting, and with something it counts."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.factor * x


class Summed:
    """A score with a setting, and with something it counts."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.calls = 0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return self.factor * logits.sum(1)


@pytest.mark.parametrize("case", ["object", "lambda", "score"])
def test_settings_without_a_plain_value_resume(case: str, tmp_path: Path) -> None:
    def make(factor: float) -> TwoPhaseMonitor:
        if case == "score":
            return small_monitor(score=Summed(factor))
        return small_monitor(players=Doubled(Times(factor) if case == "object" else lambda x: factor * x))

    keeper = ModelCheckpoint(tmp_path, filename="stop")
    fit(make(2.0), callbacks=(keeper,), max_epochs=2, enable_checkpointing=True)
    resumed = make(2.0)
    fit(resumed, max_epochs=3, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert resumed.history.column("epoch") == [0, 1, 2]
    with pytest.raises(StateError, match="score=" if case == "score" else "players=") as caught:
        fit(make(3.0), max_epochs=3, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert " at 0x" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FeatureMask([0, 0, 1, 1, 2]), FeatureMask([0, 1, 1, 2, 2])),
        (TabularFeatures(torch.zeros(5)), TabularFeatures(torch.ones(5))),
    ],
    ids=["masks", "baselines"],
)
def test_tensors_of_one_shape_are_told_apart(first: Any, second: Any) -> None:
    state = small_monitor(players=first).state_dict()
    small_monitor(players=copy.deepcopy(first)).load_state_dict(state)
    with pytest.raises(StateError, match=rf"players={type(first).__name__}\(.*\(now {type(first).__name__}\("):
        small_monitor(players=second).load_state_dict(state)


def test_state_of_version_1_still_loads() -> None:
    """Its players were told apart by their ``repr``, which says too little or too much; the plain settings count."""
    first = small_monitor(players=TabularFeatures())
    fit(first, max_epochs=1)
    state = first.state_dict()
    assert state["version"] == STATE_VERSION == 3
    settings = state["settings"] | {"players": "Doubled(change=<function f at 0x7f00>)", "score": "f"}
    state |= {"version": 1, "settings": settings}
    second = small_monitor(players=Doubled(Times(2.0)), score=Summed())
    second.load_state_dict(state)
    assert len(second.history) == 1
    with pytest.raises(StateError, match=r"with num_players=4 \(now 5\); its"):
        small_monitor(num_players=5, score=Summed()).load_state_dict(state)
    with pytest.raises(StateError, match=r"with score=f \(now log_odds\); its"):
        small_monitor().load_state_dict(state)


def test_probes_too_large_for_the_checkpoint_are_collected_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(watchlist, "STATE_LIMIT_BYTES", 10)
    keeper = ModelCheckpoint(tmp_path, filename="last")
    first = small_monitor(keep_samples="inputs")
    fit(first, callbacks=(keeper,), enable_checkpointing=True)
    resumed = small_monitor(keep_samples="inputs")
    told = told_during(lambda: fit(resumed, max_epochs=5, ckpt_path=str(tmp_path / "last.ckpt")))
    assert any("collected again" in text for text in told)
    assert resumed.history.column("epoch") == list(range(5))
    assert torch.equal(resumed._loop.watchlist.watched["val"].keys, first._loop.watchlist.watched["val"].keys), (
        "samples are chosen by content, so the same ones are found again"
    )


def test_older_and_partial_state_loads() -> None:
    monitor = small_monitor()
    monitor.load_state_dict({"version": 0})
    assert len(monitor.history) == 0


def test_state_key_is_fixed() -> None:
    assert small_monitor().state_key == "TwoPhaseMonitor{'watch': 'val', 'log_key_prefix': 'interactions/'}"


def test_second_fit_begins_anew_and_continued_fit_goes_on() -> None:
    monitor = small_monitor()
    trainer = fit(monitor, max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(trainer.lightning_module, **loaders())
    assert monitor.history.column("epoch") == [0, 1, 2, 3]
    fit(monitor, max_epochs=2)
    assert monitor.history.column("epoch") == [0, 1]


def test_an_alert_is_not_repeated_after_a_resume(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []

    def make() -> TwoPhaseMonitor:
        return small_monitor(detector=ScriptedDetector(), on_event=lambda e: told.append((e.kind, e.epoch)))

    keeper = ModelCheckpoint(tmp_path, filename="stop")
    fit(make(), callbacks=(keeper,), max_epochs=2, enable_checkpointing=True)
    assert told == [("boundary", 1)]
    resumed = make()
    fit(resumed, max_epochs=4, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert told == [("boundary", 1), ("overfitting", 2)]
    assert [(event.kind, event.epoch) for event in resumed.events] == told, "the earlier one is still known"


EVENTS = {"suspected": 1, "boundary": 2, "overfitting": 3, "retracted": 4, "probe_failed": 5}


@pytest.mark.parametrize("rhythm", [1, None], ids=["every epoch", "inside of epochs"])
@pytest.mark.parametrize("late", [False, True], ids=["after the epoch", "after the validation"])
@pytest.mark.parametrize("stops", [(1, 2), (2, 4), (0, 3), (3, 3)], ids=str)
def test_a_run_resumed_twice_has_every_event_once(
    stops: tuple[int, int], late: bool, rhythm: int | None, tmp_path: Path
) -> None:
    told: list[str] = []

    def make() -> TwoPhaseMonitor:
        return small_monitor(
            detector=ScriptedDetector(**EVENTS), on_event=lambda e: told.append(e.kind), every_n_epochs=rhythm
        )

    path, monitor = None, make()
    for stop in stops:
        keeper = ModelCheckpoint(tmp_path, filename=f"{stop}-{path is None}", save_on_train_epoch_end=not late)
        callbacks = (keeper, Asks(stop))
        fit(monitor, callbacks=callbacks, max_epochs=7, ckpt_path=path, enable_checkpointing=True)
        path, monitor = keeper.best_model_path, make()
    fit(monitor, max_epochs=7, ckpt_path=path)
    assert [event.kind for event in monitor.events] == list(EVENTS)
    assert [event.epoch for event in monitor.events] == list(EVENTS.values())
    assert told == list(EVENTS)[1:], "and of a suspicion nobody is alerted"
    epochs = monitor.history.column("epoch")
    assert epochs == sorted(set(epochs))
    assert epochs[-1] > 5


def test_resume_with_weights_only_loading(tmp_path: Path) -> None:
    """What torch does by default: builtin containers and tensors, nothing that runs code."""
    keeper = ModelCheckpoint(tmp_path, filename="stop")
    fit(small_monitor(watch="both"), callbacks=(keeper,), max_epochs=2, enable_checkpointing=True)
    state = torch.load(tmp_path / "stop.ckpt", weights_only=True)
    assert small_monitor(watch="both").state_key in state["callbacks"]
    resumed = small_monitor(watch="both")
    fit(resumed, max_epochs=3, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert resumed.history.column("epoch") == [0, 1, 2]


def test_state_of_a_newer_version_is_refused() -> None:
    with pytest.raises(StateError, match="newer version"):
        small_monitor().load_state_dict({"version": STATE_VERSION + 1})


@pytest.mark.parametrize("lacking", ["version", "settings", "history", "events", "detector", "watchlist"])
def test_state_without_a_part_loads(lacking: str) -> None:
    first = small_monitor()
    fit(first, max_epochs=1)
    state = first.state_dict()
    del state[lacking]
    second = small_monitor()
    second.load_state_dict(state | {"from_another_time": 1})
    assert len(second.history) == (0 if lacking == "history" else 1)


# -- which samples, after a resume -------------------------------------------------------------------------------------


class PairedDetector(PhaseDetector):
    """Notes whether the rows it is given are said to be the samples of the last time."""

    def __init__(self) -> None:
        super().__init__()
        self.paired: list[bool] = []

    def update(self, *args: Any, paired: bool = True, **kwargs: Any) -> list[PhaseEvent]:
        self.paired.append(paired)
        return super().update(*args, paired=paired, **kwargs)


def stopped_run(tmp_path: Path, data: dict[str, Any] | None = None, **options: Any) -> str:
    keeper = ModelCheckpoint(tmp_path, filename="stop")
    fit(small_monitor(**options), data=data, callbacks=(keeper,), max_epochs=2, enable_checkpointing=True)
    return str(tmp_path / "stop.ckpt")


def other_validation_data() -> dict[str, Any]:
    return loaders() | {"val_dataloaders": DataLoader(column_data(48, seed=3), 16)}


@pytest.mark.filterwarnings("ignore::lightning_interactions.InteractionsWarning")
def test_other_samples_after_a_resume_are_not_paired(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(watchlist, "STATE_LIMIT_BYTES", 10)
    checkpoint, detector = stopped_run(tmp_path), PairedDetector()
    fit(small_monitor(detector=detector), data=other_validation_data(), max_epochs=5, ckpt_path=checkpoint)
    assert detector.paired == [False, True, True]


@pytest.mark.parametrize("keep", ["keys", "inputs"])
def test_the_same_samples_after_a_resume_are_paired(keep: str, tmp_path: Path) -> None:
    checkpoint, detector = stopped_run(tmp_path, keep_samples=keep), PairedDetector()
    fit(small_monitor(detector=detector, keep_samples=keep), max_epochs=4, ckpt_path=checkpoint)
    assert detector.paired == [True, True]


def test_samples_exchanged_during_a_run_are_not_paired() -> None:
    class Exchange(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            if trainer.current_epoch == 2:
                other = small_monitor()
                fit(other, data=other_validation_data(), max_epochs=1)
                monitor._loop.watchlist.watched["val"] = other._loop.watchlist.watched["val"]

    detector = PairedDetector()
    monitor = small_monitor(detector=detector)
    fit(monitor, callbacks=(Exchange(),), max_epochs=4)
    assert detector.paired == [False, True, False, True]


@pytest.mark.parametrize(("resample", "expected"), [(False, [False, True, True]), (True, [False] * 3)])
def test_samples_are_paired_as_long_as_they_stay(resample: bool, expected: list[bool]) -> None:
    detector = PairedDetector()
    fit(small_monitor(detector=detector, resample=resample))
    assert detector.paired == expected


# -- what a checkpoint keeps -------------------------------------------------------------------------------------------


def tensors_in(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def integers_in(state: Any) -> set[int]:
    if isinstance(state, Tensor):
        return set() if state.is_floating_point() else set(state.flatten().tolist())
    if isinstance(state, dict):
        return set().union(*map(integers_in, state.values()))
    if isinstance(state, (list, tuple)):
        return set().union(*map(integers_in, state))
    return {state} if isinstance(state, int) else set()


@pytest.mark.parametrize("options", [{}, {"watch": "both"}, {"resample": True}], ids=["val", "both", "resample"])
def test_a_checkpoint_holds_no_inputs_by_default(options: dict[str, Any]) -> None:
    monitor = small_monitor(**options)
    fit(monitor)
    numbers = set(column_data(64, seed=1).tensors[0].flatten().tolist())
    numbers |= set(column_data(48, seed=2).tensors[0].flatten().tolist())
    for tensor in tensors_in(monitor.state_dict()):
        assert not numbers & set(tensor.flatten().tolist())
    assert monitor._loop.watchlist.losses["train"].keys[0].item() in integers_in(monitor.state_dict())


def test_a_checkpoint_holds_inputs_where_asked_for() -> None:
    monitor = small_monitor(keep_samples="inputs")
    fit(monitor)
    kept = monitor.state_dict()["watchlist"]
    assert torch.equal(kept["watched"]["val"]["inputs"], monitor._loop.watchlist.watched["val"].inputs)
    assert torch.equal(kept["losses"]["train"]["inputs"], monitor._loop.watchlist.losses["train"].inputs)


@pytest.mark.parametrize("options", [{}, {"watch": "both"}, {"resample": True}], ids=["val", "both", "resample"])
def test_nothing_of_single_samples_is_kept_where_asked_for(options: dict[str, Any], tmp_path: Path) -> None:
    monitor = small_monitor(keep_samples="nothing", **options)
    with pytest.warns(InteractionsWarning, match="CSVLogger can show neither"):
        fit(monitor, tmp_path, logger=CSVLogger(tmp_path))
    probes = [*monitor._loop.watchlist.watched.values(), *monitor._loop.watchlist.losses.values()]
    keys = {key for probe in probes for key in probe.keys.tolist()}
    state = monitor.state_dict()
    assert not keys & integers_in(state)
    assert state["history"]["samples"] == []
    (file,) = tmp_path.rglob("interactions.json")
    content = json.loads(file.read_text())
    assert content["samples"] == []
    assert not keys & integers_in(content)


@pytest.mark.filterwarnings("ignore::lightning_interactions.InteractionsWarning")
def test_without_kept_samples_a_resumed_run_goes_on(tmp_path: Path) -> None:
    checkpoint, detector = stopped_run(tmp_path, keep_samples="nothing"), PairedDetector()
    resumed = small_monitor(detector=detector, keep_samples="nothing")
    fit(resumed, max_epochs=4, ckpt_path=checkpoint)
    assert resumed.history.column("epoch") == [0, 1, 2, 3]
    assert detector.paired == [False, True], "whether they are the same is not known"
    assert "val_growth_error" not in detector.evidence, "nor if the samples in the loss are"


class Noisy(Dataset[Any]):
    """Every sample looks different each time."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        return x + 0.01 * torch.randn(x.shape), y

    def __len__(self) -> int:
        return len(self.data)


def test_samples_that_do_not_come_again_are_told_once_with_numbers(tmp_path: Path) -> None:
    def data() -> dict[str, Any]:
        return loaders() | {"val_dataloaders": DataLoader(Noisy(column_data(48, seed=2)), 16)}

    checkpoint, detector = stopped_run(tmp_path, data()), PairedDetector()
    resumed = small_monitor(detector=detector)
    told = told_during(lambda: fit(resumed, data=data(), max_epochs=5, ckpt_path=checkpoint, seed=1))
    assert len([text for text in told if "did not pass" in text]) == 1
    (text,) = [text for text in told if "did not pass" in text]
    assert "6 of 6 watched val samples" in text
    assert "48 of 48 val samples for the loss" in text
    assert "train" not in text
    assert len(resumed._loop.watchlist.watched["val"]) == 6
    assert detector.paired == [False, True, True]


def test_those_found_again_are_watched_with_new_ones(tmp_path: Path) -> None:
    x, y = column_data(48, seed=2).tensors
    first = small_monitor()
    fit(first, max_epochs=1)
    gone = first._loop.watchlist.watched["val"].inputs[:2]
    stay = ~(x.unsqueeze(1) == gone).all(-1).any(1)
    checkpoint = stopped_run(tmp_path)
    fewer = loaders() | {"val_dataloaders": DataLoader(TensorDataset(x[stay], y[stay]), 16)}
    resumed = small_monitor()
    told = told_during(lambda: fit(resumed, data=fewer, max_epochs=3, ckpt_path=checkpoint))
    assert any("2 of 6 watched val samples" in text for text in told)
    known, now = (set(monitor._loop.watchlist.watched["val"].keys.tolist()) for monitor in (first, resumed))
    assert (len(now), len(now & known)) == (6, 4)
    losses = resumed.detector.state_dict()["losses"]["last_each"]
    assert (len(losses), int(losses.isnan().sum())) == (48, 2), "compared with those of the same samples only"


def test_keys_outlive_a_second_stop_before_the_first_measurement(tmp_path: Path) -> None:
    checkpoint = stopped_run(tmp_path)
    state = torch.load(checkpoint, weights_only=True)["callbacks"][small_monitor().state_key]
    resumed = small_monitor()
    resumed.load_state_dict(state)
    assert str(resumed.state_dict()["watchlist"]) == str(state["watchlist"])


def test_checkpoints_with_inputs_of_older_versions_load(tmp_path: Path) -> None:
    """They have neither an option of their own nor the keys of the last decision."""
    first = small_monitor(keep_samples="inputs")
    fit(first, max_epochs=2)
    state = first.state_dict()
    del state["decided_on"], state["watchlist"]["keys"]
    again = small_monitor(detector=PairedDetector())
    again.load_state_dict(state)
    assert torch.equal(again._loop.watchlist.watched["val"].inputs, first._loop.watchlist.watched["val"].inputs)
    assert not again._loop.watchlist.wants("val")


# -- in the default rhythm ---------------------------------------------------------------------------------------------


class Resumable(DataLoader[Any]):
    """A loader that goes on where it was: Lightning keeps its state, and gives it back in the middle of an epoch."""

    def __init__(self, data: Dataset[Any]) -> None:
        super().__init__(data, 8, shuffle=True)
        self.done = 0

    def __iter__(self) -> Any:
        if self.done == len(self):  # Lightning does not ask for what comes after the last batch
            self.done = 0
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(0))  # type: ignore
        for rows in order.view(-1, 8)[self.done :]:
            self.done += 1
            yield [tensor[rows] for tensor in self.dataset.tensors]  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


class WithoutNoise(ColumnNet):
    """No dropout: its random numbers are not in a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3] = torch.nn.Identity()


def resumable() -> dict[str, Any]:
    return {
        "train_dataloaders": Resumable(column_data(64, seed=1)),
        "val_dataloaders": DataLoader(column_data(48, seed=2), 16),
    }


@pytest.mark.parametrize("keep", ["keys", "inputs"])
@pytest.mark.parametrize("step", [11, 18, 16], ids=["between two records", "at a record", "after an epoch"])
def test_a_resume_in_the_middle_of_an_epoch_gives_the_history_of_an_uninterrupted_run(
    step: int, keep: str, tmp_path: Path
) -> None:
    """But for what lies between the resume and the next validation: model and samples are seen again only then."""
    options: dict[str, Any] = {"every_n_epochs": None, "keep_samples": keep, "on_event": None}
    whole = small_monitor(**options)
    fit(whole, model=WithoutNoise, data=resumable(), max_epochs=5)
    # What is saved after the last batch of an epoch would be resumed without its validation.
    when: dict[str, Any] = {"every_n_epochs": 1, "save_on_train_epoch_end": True} if step == 16 else {}
    keeper = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **(when or {"every_n_train_steps": 1}))
    stopped = small_monitor(**options)
    fit(stopped, model=WithoutNoise, data=resumable(), callbacks=(keeper,), max_epochs=3, enable_checkpointing=True)
    resumed = small_monitor(**options)
    path = str(tmp_path / f"step={step}.ckpt")
    told = told_during(lambda: fit(resumed, model=WithoutNoise, data=resumable(), max_epochs=5, ckpt_path=path))
    assert ["train samples for the loss" in text for text in told] == [True] * len(told)
    epochs = whole.history.column("epoch")
    assert epochs[:5] == [-1, -0.75, -0.5, -0.25, 0]
    stop = step / 8 - 1
    again = math.floor(stop) + 1
    rows = [row for row, epoch in enumerate(epochs) if not stop < epoch < again]
    assert resumed.history.column("epoch") == [epochs[row] for row in rows]
    assert len(rows) > len(epochs) - 4
    # Losses are of fixed samples, of which some did not come again before the first measurement in half an epoch.
    for key in ("mean_order", "step", "salient_count", "val_loss", *(["train_loss"] if keep == "inputs" else [])):
        column = whole.history.column(key)
        assert resumed.history.column(key) == pytest.approx([column[row] for row in rows], rel=1e-5, nan_ok=True), key


def test_states_of_version_2_load_and_go_on_in_the_default_rhythm() -> None:
    first = small_monitor()
    fit(first, max_epochs=2)
    state = first.state_dict() | {"version": 2}
    for name in ("epochs", "trough_epoch"):  # they were whole numbers
        state["samples"]["val"][name] = state["samples"]["val"][name].long()
    second = small_monitor(every_n_epochs=None)
    second.load_state_dict(state)
    assert second.history.column("epoch") == [0, 1]
    assert {type(row["onset_epoch"]) for row in second.history.samples} <= {int, type(None)}
    assert second.should_probe(1.25, 21)
    assert not second.should_probe(1.0, 8), "that was measured"
