"""Configuration errors surface before anything was trained, and say what came and what to do."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from models import AnyBatch, ColumnNet, column_data, fit, loaders, small_monitor, told_during
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_interactions import ArgumentError, BatchError, ImagePatches, InteractionsWarning, ModelOutputError


class Listed(Dataset[Any]):
    """Yields what a function makes of each (x, y)."""

    def __init__(self, make: Any) -> None:
        self.data, self.make = column_data(), make

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        return self.make(*self.data[i])


class WideOutput(AnyBatch):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unsqueeze(-1).expand(-1, -1, 2)


class TupleOutput(AnyBatch):
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
        (AnyBatch, batches(lambda x, y: {"a": x, "b": y}), {}, BatchError, ["dict('a': float32", "target_fn"]),
        (AnyBatch, batches(lambda x, y: {"a": x, "b": x, "y": y}), {}, BatchError, ["dict('a': float32", "input_fn"]),
        (AnyBatch, batches(lambda x, y: x), {}, BatchError, ["float32 tensor (8, 5)", "input_fn"]),
        (AnyBatch, batches(lambda x, y: (x, "label")), {}, BatchError, ["target_fn", "str"]),
        (AnyBatch, batches(lambda x, y: (x, y + 7)), {}, BatchError, ["from 0 to 2", "target_fn"]),
        (AnyBatch, batches(lambda x, y: (x, torch.rand(3))), {}, BatchError, ["(8, 3)", "Soft", "target_fn"]),
        (AnyBatch, batches(lambda x, y: (x.long(), y)), {}, BatchError, ["mask token", "players=Tokens(mask_token_id"]),
        (AnyBatch, None, {"players": ImagePatches()}, BatchError, ["(B, C, H, W)", "(5,)"]),
        (WideOutput, None, {}, ModelOutputError, ["(2, 3, 2)", "forward_fn"]),
        (TupleOutput, None, {}, ModelOutputError, ["tuple", "forward_fn"]),
        (ColumnNet, None, {"layer": "net.9"}, ArgumentError, ["`layer`", "'net.9'", "net.0"]),
        (NoForward, None, {}, ArgumentError, ["NoForward", "forward_fn"]),
        (ColumnNet, None, {"score": lambda z, y: z}, ModelOutputError, ["`score`", "(2, 3)"]),
    ],
    ids=[
        "dict-without-label", "dict-of-two", "no-targets", "string-targets", "targets-out-of-range", "soft-targets",
        "integer-inputs",
        "players-of-another-kind", "output-3d", "output-tuple", "layer", "no-forward", "score-shape",
    ],
)  # fmt: skip
def test_error_before_training(
    model: type[Any], data: Any, options: dict[str, Any], error: type[Exception], words: list[str], sanity: int
) -> None:
    module = model()
    with pytest.raises(error) as raised:
        fit(small_monitor(on_error="warn", **options), model=module, data=data, num_sanity_val_steps=sanity)
    for word in words:
        assert word in str(raised.value)
    assert getattr(module, "trained", 0) == 0, "nothing was trained"
    assert module.trainer.global_step == 0


def test_no_validation_loader_is_an_error_with_a_way_out() -> None:
    train_only = {"train_dataloaders": loaders()["train_dataloaders"]}
    with pytest.raises(ArgumentError, match=r'no validation loader.*watch="train"'):
        fit(small_monitor(), data=train_only)
    monitor = small_monitor(watch="train")
    fit(monitor, data=train_only)
    assert monitor.history.column("epoch") == [0, 1, 2]
    assert all(x == x for x in monitor.history.column("train_loss"))
    assert all(x != x for x in monitor.history.column("loss_gap")), "there is no validation loss to compare with"


def test_validation_switched_off_is_a_warning() -> None:
    monitor = small_monitor()
    with pytest.warns(InteractionsWarning, match="limit_val_batches=0"):
        fit(monitor, limit_val_batches=0)
    assert len(monitor.history) == 0


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
