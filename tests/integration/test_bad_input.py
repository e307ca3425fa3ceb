"""Mistakes in what was chosen surface before anything was trained; what only data can show leaves the run alone."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from models import AnyBatch, ColumnNet, column_data, fit, loaders, small_monitor, told_during
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_interactions import (
    ArgumentError,
    BatchError,
    ImagePatches,
    InteractionsError,
    InteractionsWarning,
    ModelOutputError,
)


class Listed(Dataset[Any]):
    """Yields what a function makes of each (x, y)."""

    def __init__(self, make: Any) -> None:
        self.data, self.make = column_data(), make

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        return self.make(*self.data[i])


class Calling(AnyBatch):
    """Its validation step calls the model with what a batch holds under a name or number."""

    key: Any = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[self.key])


class Named(Calling):
    key = "a"


class WideOutput(Calling):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unsqueeze(-1).expand(-1, -1, 2)


class TupleOutput(Calling):
    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return out if self.training else (out, out)


class NoForward(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(5, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(make: Any) -> dict[str, Any]:
    return {"train_dataloaders": DataLoader(Listed(make), 8), "val_dataloaders": DataLoader(Listed(make), 8)}


@pytest.mark.parametrize("sanity", [2, 0], ids=["sanity-check", "no-sanity-check"])
@pytest.mark.parametrize(
    ("model", "data", "options", "error", "words"),
    [
        (ColumnNet, None, {"players": ImagePatches()}, BatchError, ["(B, H, W, C)", "(5,)"]),
        (ColumnNet, None, {"layer": "net.9"}, ArgumentError, ["`layer`", "'net.9'", "net.0"]),
        (ColumnNet, None, {"input": "pixels"}, ArgumentError, ["`input`", "x (", "'pixels'"]),
        (ColumnNet, None, {"score": lambda z, y: z}, ModelOutputError, ["`score`", "(2, 3)"]),
    ],
    ids=["players-of-another-kind", "layer", "input", "score-shape"],
)
def test_error_before_training(
    model: type[Any], data: Any, options: dict[str, Any], error: type[Exception], words: list[str], sanity: int
) -> None:
    module = model()
    with pytest.raises(error) as raised:
        fit(small_monitor(on_error="warn", **options), model=module, data=data, num_sanity_val_steps=sanity)
    for word in words:
        assert word in str(raised.value)
    # Without a sanity check the first batch that shows how the model is called is that of the first step.
    assert module.trainer.global_step == (0 if sanity or options.keys() == {"layer"} else 1)


@pytest.mark.parametrize("sanity", [2, 0], ids=["sanity-check", "no-sanity-check"])
@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (AnyBatch, batches(lambda x, y: x), ["no targets", "self-supervised"]),
        (AnyBatch, batches(lambda x, y: (x, "label")), ["no targets"]),
        (AnyBatch, batches(lambda x, y: (x, y + 7)), ["from 0 to 2", "target_fn"]),
        (AnyBatch, batches(lambda x, y: (x.long(), y)), ["mask token", "players=Tokens(mask_token_id"]),
        (WideOutput, None, ["every position"]),
        (NoForward, None, ["NoForward", "forward_fn"]),
    ],
    ids=["no-targets", "string-targets", "targets-out-of-range", "integer-inputs", "output-3d", "no-forward"],
)
def test_what_only_data_can_show_switches_the_monitor_off(
    model: type[Any], data: Any, words: list[str], sanity: int
) -> None:
    module, monitor = model(), small_monitor(on_error="warn")
    told = told_during(lambda: fit(monitor, model=module, data=data, num_sanity_val_steps=sanity, max_epochs=2))
    (off,) = [text for text in told if "switched off for this run" in text]
    assert not [text for text in told if text != off and "reads" not in text and "read from" not in text]
    for word in words:
        assert word in off
    assert module.trainer.current_epoch == 2, "the run is left alone"
    with pytest.raises(InteractionsError):
        fit(small_monitor(on_error="raise"), model=model(), data=data, num_sanity_val_steps=sanity)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (Named, batches(lambda x, y: {"a": x, "b": y})),
        (Named, batches(lambda x, y: {"a": x, "b": x, "y": y})),
        (TupleOutput, None),
    ],
    ids=["dict-without-label", "dict-of-two", "output-tuple"],
)
def test_what_the_step_shows_need_not_be_said(model: type[Any], data: Any) -> None:
    monitor = small_monitor()
    told = told_during(lambda: fit(monitor, model=model, data=data))
    assert len(monitor.history) == 3
    assert all("train loss is missing" in text for text in told), "its training step does not look at the batch"


def test_without_a_validation_loader_the_training_samples_are_watched() -> None:
    train_only = {"train_dataloaders": loaders()["train_dataloaders"]}
    monitor = small_monitor()
    with pytest.warns(InteractionsWarning, match="no validation loader.*the training samples are watched"):
        fit(monitor, data=train_only)
    told, monitor = monitor, small_monitor(watch="train")
    fit(monitor, data=train_only)
    assert told.history.column("mean_order") == monitor.history.column("mean_order")
    assert monitor.history.column("epoch") == [0, 1, 2]
    assert all(x == x for x in monitor.history.column("train_loss"))
    assert all(x != x for x in monitor.history.column("loss_gap")), "there is no validation loss to compare with"


def test_with_validation_switched_off_the_training_samples_are_watched() -> None:
    monitor = small_monitor()
    with pytest.warns(InteractionsWarning, match="limit_val_batches=0"):
        fit(monitor, limit_val_batches=0)
    assert len(monitor.history) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_players": 9}, "num_players=9"), ({"num_samples": 500}, "only 48 val samples")],
    ids=["players", "samples"],
)
def test_less_than_asked_for_is_used_and_told_once(options: dict[str, int], words: str) -> None:
    monitor = small_monitor(**options)
    told = told_during(lambda: fit(monitor))
    assert [words in text for text in told] == [True]
    assert len(monitor.history) == 3


def test_missing_metric_is_told_with_what_there_is() -> None:
    monitor = small_monitor(monitor="valid_loss")
    with pytest.warns(InteractionsWarning, match=r"'valid_loss' was logged.*val_loss"):
        fit(monitor)
    assert len(monitor.history) == 3


def test_way_out_of_each_batch_error_works() -> None:
    monitor = small_monitor(input_fn=lambda b: b["a"], target_fn=lambda b: b["b"])
    fit(monitor, model=AnyBatch, data=batches(lambda x, y: {"a": x, "b": y}))
    assert len(monitor.history) == 3
    monitor = small_monitor(forward_fn=lambda module, x: module.net(x))
    fit(monitor, model=NoForward)
    assert len(monitor.history) == 3
