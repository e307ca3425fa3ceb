"""The monitor of a plain loop: the numbers of the callback, without a Trainer."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import lightning as L
import pytest
import torch
from models import ScriptedDetector, TaskNet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import (
    ArgumentError,
    BatchError,
    InteractionMonitor,
    InteractionsWarning,
    Options,
    PhaseEvent,
    StateError,
    TwoPhaseMonitor,
)

OPTIONS: dict[str, Any] = {"num_samples": 6, "num_players": 4}


def rows(size: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 6, generator=generator)
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())


def loaders() -> tuple[DataLoader, DataLoader]:
    return DataLoader(rows(64, 1), 16), DataLoader(rows(40, 2), 16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))


def train(
    monitor: InteractionMonitor, epochs: int, *, net: nn.Module | None = None, first: int = 0, **options: Any
) -> list[PhaseEvent]:
    net = network() if net is None else net
    optimizer, events = torch.optim.SGD(net.parameters(), lr=0.1), []
    for epoch in range(first, first + epochs):
        for batch in loaders()[0]:
            optimizer.zero_grad()
            cross_entropy(net(batch[0]), batch[1]).backward()
            optimizer.step()
            monitor.observe("train", batch)
        for batch in loaders()[1]:
            monitor.observe("val", batch)
        events += monitor.measure(net, epoch, **options)
    return events


def test_the_numbers_are_those_of_the_callback() -> None:
    callback = TwoPhaseMonitor(**OPTIONS, verbose=False, every_n_epochs=1)
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    trainer.fit(TaskNet(network(), lr=0.1), *loaders())
    monitor = InteractionMonitor(Options(**OPTIONS))
    train(monitor, 3, last_epoch=2)
    own, theirs = monitor.history.to_dict(), callback.history.to_dict()
    assert set(own) == set(theirs)
    for key in set(own) - {"seconds", "step"}:
        assert torch.allclose(torch.tensor(own[key]), torch.tensor(theirs[key]), rtol=1e-6, equal_nan=True), key


def test_a_loop_without_epochs_counts_its_steps() -> None:
    told: list[str] = []
    monitor = InteractionMonitor(Options(**OPTIONS), tell=told.append)
    monitor.history.unit = "step"
    net = network()
    train(monitor, 2, net=net, first=40)
    net[0] = nn.Linear(5, 16)
    (failed,) = monitor.measure(net, 42)
    assert (failed.unit, failed.message[:9]) == ("step", "Step 42: ")
    assert "2 records, step 40 to step 41" in repr(monitor.history)
    again = InteractionMonitor(Options(**OPTIONS))
    again.load_state_dict(monitor.state_dict())
    assert again.history.unit == "step"


def test_the_model_is_left_as_it_was() -> None:
    with_monitor, without = network(), network()
    train(InteractionMonitor(Options(**OPTIONS)), 2, net=with_monitor)
    optimizer = torch.optim.SGD(without.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in loaders()[0]:
            optimizer.zero_grad()
            cross_entropy(without(x), y).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(with_monitor.parameters(), without.parameters(), strict=True))
    assert with_monitor.training


def test_batches_that_wait_for_the_model_are_copied() -> None:
    monitor, batch = InteractionMonitor(Options(num_samples=4, num_players=4)), [*next(iter(loaders()[1]))]
    kept = batch[0].clone()
    monitor.observe("val", batch)
    batch[0].zero_()
    monitor.measure(network(), 0)
    watched = monitor.watchlist.watched["val"].inputs
    assert all(any(torch.equal(row, other) for other in kept) for row in watched)


def test_losses_of_ones_own_take_the_place_of_the_measured_ones() -> None:
    monitor = InteractionMonitor(Options(**OPTIONS))
    monitor.observe("val", next(iter(loaders()[1])))
    monitor.measure(network(), 0, train_loss=1.0, val_loss=3.0)
    assert monitor.history.last is not None
    assert monitor.history.last["loss_gap"] == 2.0


def test_the_end_of_the_training_and_what_is_only_suspected_are_known_to_the_loop() -> None:
    events = train(InteractionMonitor(Options(**OPTIONS, detector=ScriptedDetector(suspected=1, boundary=2))), 3)
    assert [(event.kind, event.is_alert) for event in events] == [("suspected", False), ("boundary", True)]
    other, net = InteractionMonitor(Options(**OPTIONS)), network()
    train(other, 1, net=net)
    assert other.detector.evidence["horizon"] == 1, "not known: an octave"
    train(other, 1, net=net, first=1, last_epoch=15)
    assert other.detector.evidence["horizon"] == 3
    assert "val_growth_error" in other.detector.evidence


def test_a_resumed_loop_goes_on() -> None:
    whole, first = InteractionMonitor(Options(**OPTIONS)), InteractionMonitor(Options(**OPTIONS))
    nets = network(), network()
    train(whole, 4, net=nets[0])
    train(first, 2, net=nets[1])
    resumed = InteractionMonitor(Options(**OPTIONS))
    resumed.load_state_dict(first.state_dict())
    train(resumed, 2, net=nets[1], first=2)
    own, theirs = resumed.history.to_dict(), whole.history.to_dict()
    for key in set(own) - {"seconds"}:
        assert torch.allclose(torch.tensor(own[key]), torch.tensor(theirs[key]), rtol=1e-6, equal_nan=True), key
    with pytest.raises(StateError, match="num_players=4"):
        InteractionMonitor(Options(num_samples=6, num_players=5)).load_state_dict(first.state_dict())


@pytest.mark.parametrize("layer", [None, "1"])
def test_the_model_may_be_another_object_each_time(layer: str | None) -> None:
    same, copies = (InteractionMonitor(Options(**OPTIONS, layer=layer)) for _ in range(2))
    net, other = network(), network()
    torch.manual_seed(1)
    with torch.no_grad():
        other[0].weight.add_(torch.randn_like(other[0].weight))
    batch = next(iter(loaders()[1]))
    for monitor in (same, copies):
        monitor.observe("val", batch)
        monitor.measure(net, 0)
    copies.measure(other, 1)
    net.load_state_dict(other.state_dict())
    same.measure(net, 1)
    assert copies.history.column("mean_order") == same.history.column("mean_order")
    assert len(set(same.history.column("mean_order"))) == 2


def test_mistakes_are_named() -> None:
    with pytest.raises(ArgumentError, match="`num_samples`"):
        Options(num_samples=1)
    with pytest.raises(BatchError, match="nothing usable"):
        InteractionMonitor().measure(network(), 0)
    monitor = InteractionMonitor(Options(**OPTIONS))
    monitor.observe("val", torch.zeros(3))
    with pytest.raises(BatchError, match="input_fn"):
        monitor.measure(network(), 0)


def test_a_fault_in_a_later_measurement_is_an_event() -> None:
    def score(logits: Tensor, targets: Tensor) -> Tensor:
        if broken:
            raise KeyError("gone")
        return logits[:, 0]

    broken: list[bool] = []
    monitor = InteractionMonitor(Options(**OPTIONS, score=score))
    net = network()
    train(monitor, 1, net=net)
    broken.append(True)
    with pytest.warns(InteractionsWarning, match="gone"):
        (event,) = monitor.measure(net, 1)
    assert (event.kind, event.epoch) == ("probe_failed", 1)
    assert monitor.events == [event]
    broken.clear()
    train(monitor, 1, net=net, first=2)
    assert monitor.history.column("epoch") == [0, 2]
    with pytest.raises(ArgumentError, match="epoch"):
        monitor.measure(net, 1)
    strict = InteractionMonitor(Options(**OPTIONS, score=score, on_error="raise"))
    train(strict, 1, net=net)
    broken.append(True)
    with pytest.raises(RuntimeError, match="gone"):
        strict.measure(net, 1)


def test_only_as_many_samples_wait_as_can_be_used() -> None:
    monitor = InteractionMonitor(Options(**OPTIONS))
    for _ in range(100):
        monitor.observe("val", (torch.zeros(100, 6), torch.zeros(100, dtype=torch.long)))
    assert sum(len(seen.batch[0]) for _, seen in monitor.intake._waiting) == 600


def test_a_bad_batch_in_between_is_told_and_left_out() -> None:
    monitor = InteractionMonitor(Options(**OPTIONS))
    monitor.look(network(), next(iter(loaders()[1])))
    monitor.observe("val", (torch.zeros(3, 6), torch.zeros(2)))
    for batch in loaders()[1]:
        monitor.observe("val", batch)
    with pytest.warns(InteractionsWarning, match="3 of 43 val samples are left out: Expected a batch"):
        monitor.measure(network(), 0)
    assert len(monitor.history) == 1


def test_a_copy_does_not_take_the_model_along() -> None:
    monitor = InteractionMonitor(Options(**OPTIONS))
    train(monitor, 1)
    for other in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        assert other.rules is None
        assert str(other.history.to_dict()) == str(monitor.history.to_dict())


@pytest.mark.thorough
def test_the_loop_needs_no_lightning() -> None:
    code = (
        "import sys; from lightning_interactions import InteractionMonitor, Options; "
        "print([x for x in ('lightning', 'pytorch_lightning') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unpickled_monitor_takes_in_samples_and_measures() -> None:
    net, batch = nn.Linear(4, 2), (torch.eye(4), torch.tensor([0, 1, 0, 1]))
    monitor = pickle.loads(pickle.dumps(InteractionMonitor(Options(num_samples=2, num_players=4), tell=str)))
    monitor.observe("val", batch)
    assert monitor.measure(net, 0) == []
    again = pickle.loads(pickle.dumps(monitor))
    again.observe("val", batch)
    again.measure(net, 1)
    assert again.history.column("epoch") == [0, 1]
