"""`TwoPhaseMonitor()` on every kind of input, without a further argument where the model says what is needed."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from models import TaskNet, fit, small_monitor, told_during
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_interactions import ArgumentError, BatchError, FeatureMask, ImagePatches, Tokens
from lightning_interactions.errors import InteractionsError

SEEDED = torch.Generator().manual_seed(0)
TOKENIZER = SimpleNamespace(mask_token_id=4, pad_token_id=0, all_special_ids=[0, 1, 2, 4])


class Texts(Dataset[dict[str, Any]]):
    """Sentences of 3 to 9 words between two special tokens; the label says whether word 10 comes before word 11."""

    def __init__(self, size: int = 40, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.texts = []
        for _ in range(size):
            length = int(torch.randint(3, 10, (1,), generator=generator))
            words = torch.randint(10, 30, (length,), generator=generator).tolist()
            self.texts.append([1, *words, 2])

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.texts[index], "label": sum(self.texts[index]) % 2}


def pad_together(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What a padding collator of Hugging Face's makes: as long as the longest of this batch."""
    length = max(len(item["input_ids"]) for item in items)
    ids = torch.tensor([item["input_ids"] + [0] * (length - len(item["input_ids"])) for item in items])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([i["label"] for i in items])}


def as_pair(items: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    batch = pad_together(items)
    return batch["input_ids"], batch["labels"]


class TextNet(L.LightningModule):
    """Word vectors and the mean of those that are not padding."""

    def __init__(self, tokenizer: Any = TOKENIZER) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8, padding_idx=0)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
        if tokenizer is not None:
            self.tokenizer = tokenizer

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        mask = (input_ids != 0) if attention_mask is None else attention_mask
        vectors = (self.embedding(input_ids) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.head(vectors))

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, dict):
            return self(**{k: v for k, v in batch.items() if k != "labels"}).logits, batch["labels"]
        return self(batch[0]).logits, batch[1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(*self.read(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(*self.read(batch)), batch_size=len(self.read(batch)[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def text_loaders(collate: Any = pad_together) -> dict[str, Any]:
    return {
        "train_dataloaders": DataLoader(Texts(seed=1), batch_size=8, shuffle=True, collate_fn=collate),
        "val_dataloaders": DataLoader(Texts(seed=2), batch_size=8, collate_fn=collate),
    }


def tensor_loaders(*tensors: Tensor) -> dict[str, Any]:
    return {
        "train_dataloaders": DataLoader(TensorDataset(*tensors), batch_size=8, shuffle=True),
        "val_dataloaders": DataLoader(TensorDataset(*(t.flip(0) for t in tensors)), batch_size=8),
    }


def assert_measured(monitor: Any, epochs: int = 2) -> dict[str, list[Any]]:
    history = monitor.history.to_dict()
    assert history["epoch"] == list(range(epochs))
    assert all(1 <= order <= 4 for order in history["mean_order"])
    assert max(history["solver_gap"]) <= 0.0201
    assert all(value == value and value is not None for key in ("train_loss", "val_loss") for value in history[key])
    assert [e for e in monitor.events if e.kind == "probe_failed"] == []
    return history


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collate", [pad_together, as_pair], ids=["dict", "tensors"])
def test_texts_of_different_length(collate: Any) -> None:
    monitor = small_monitor(num_samples=20, on_error="raise")
    trainer = fit(monitor, model=TextNet, data=text_loaders(collate), max_epochs=2)
    history = assert_measured(monitor)
    # every sentence of the 40 is drawn from with its own players; those of 3 words have 3
    assert 3.0 < history["mean_players"][0] <= 4.0
    without = fit(None, model=TextNet, data=text_loaders(collate), max_epochs=2)
    for ours, theirs in zip(trainer.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_short_texts_are_told() -> None:
    with pytest.warns(UserWarning, match=r"\d+ of 20 val samples have fewer than 6 players \(the fewest 4\)"):
        fit(small_monitor(num_samples=20, num_players=6), model=TextNet, data=text_loaders(), max_epochs=1)


def test_the_same_texts_are_watched_whatever_the_batches() -> None:
    found = []
    for size in (5, 40):
        monitor = small_monitor(num_samples=10)
        data = text_loaders()
        data["val_dataloaders"] = DataLoader(Texts(seed=2), batch_size=size, collate_fn=pad_together)
        fit(monitor, model=TextNet, data=data, max_epochs=1)
        found.append(monitor.history.to_dict()["strength"][0])
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-4, atol=1e-5)


def test_a_text_model_without_tokenizer_is_asked_for_the_mask_token() -> None:
    with pytest.raises(BatchError, match=r"players=Tokens\(mask_token_id=\.\.\.\)"):
        fit(small_monitor(), model=TextNet(tokenizer=None), data=text_loaders())
    monitor = small_monitor(players=Tokens(mask_token_id=4, special_token_ids=(1, 2)))
    fit(monitor, model=TextNet(tokenizer=None), data=text_loaders(), max_epochs=2)
    assert_measured(monitor)


def test_the_tokenizer_may_be_the_data_modules() -> None:
    class Data(L.LightningDataModule):
        tokenizer = TOKENIZER

        def train_dataloader(self) -> Any:
            return text_loaders()["train_dataloaders"]

        def val_dataloader(self) -> Any:
            return text_loaders()["val_dataloaders"]

    monitor = small_monitor()
    fit(monitor, model=TextNet(tokenizer=None), data={"datamodule": Data()}, max_epochs=2)
    assert_measured(monitor)


def padded_by(items: list[dict[str, Any]], tokenizer: Any) -> dict[str, Tensor]:
    assert tokenizer is TOKENIZER
    return pad_together(items)


class Collator:
    tokenizer = TOKENIZER

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        return pad_together(items)

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        return pad_together(items)


class KnowingTexts(Texts):
    tokenizer = TOKENIZER


@pytest.mark.parametrize(
    ("texts", "collate"),
    [(Texts, Collator()), (Texts, Collator().collate), (Texts, partial(padded_by, tokenizer=TOKENIZER)),
     (KnowingTexts, pad_together), (lambda seed: Subset(KnowingTexts(seed=seed), range(30)), pad_together)],
    ids=["collator", "its method", "partial", "data set", "subset"],
)  # fmt: skip
def test_the_tokenizer_may_be_that_of_what_makes_the_batches(texts: Any, collate: Any) -> None:
    loader = DataLoader(texts(seed=2), batch_size=8, collate_fn=collate)
    monitor = small_monitor()
    data = {"train_dataloaders": text_loaders()["train_dataloaders"], "val_dataloaders": loader}
    fit(monitor, model=TextNet(tokenizer=None), data=data, max_epochs=2)
    assert_measured(monitor)


# -- point clouds, images, tables ------------------------------------------------------------------------------------


class PointNet(nn.Module):
    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last
        self.each = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.all = nn.Linear(8, 3)

    def forward(self, points: Tensor) -> Tensor:
        return self.all(self.each(points if self.last else points.transpose(1, 2)).amax(1))


@pytest.mark.parametrize("last", [True, False], ids=["(B, N, 3)", "(B, 3, N)"])
def test_point_clouds(last: bool) -> None:
    x = torch.randn(24, 50, 3)
    x = x if last else x.transpose(1, 2).contiguous()
    monitor = small_monitor()
    fit(monitor, model=TaskNet(PointNet(last)), data=tensor_loaders(x, torch.arange(24) % 3), max_epochs=2)
    assert_measured(monitor)


@pytest.mark.parametrize("last", [True, False], ids=["(B, N, 3)", "(B, 3, N)"])
def test_a_point_cloud_with_a_bad_coordinate_is_not_watched(last: bool) -> None:
    """It has no clusters, and would take the monitor down with it."""
    x = torch.randn(24, 50, 3)
    x = x if last else x.transpose(1, 2).contiguous()
    y, bad = torch.arange(24) % 3, x.clone()
    bad[7, 1, 1], bad[9, 0, 0] = torch.nan, torch.inf
    data = tensor_loaders(x, y) | {"val_dataloaders": tensor_loaders(bad, y)["val_dataloaders"]}
    monitor = small_monitor(num_samples=24)
    told = told_during(lambda: fit(monitor, model=TaskNet(PointNet(last)), data=data, max_epochs=2))
    assert ["only 22 val samples" in text for text in told] == [True]
    assert_measured(monitor)
    assert monitor.history.column("skipped_samples") == [0, 0]
    assert len(monitor.history.samples) == 22


class Pictures(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(index))
        return {"image": image, "label": index % 3, "path": f"{index}.png"}


def test_a_dict_of_images() -> None:
    model = TaskNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), keys=("image", "label"))
    data = {"train_dataloaders": DataLoader(Pictures(), 8), "val_dataloaders": DataLoader(Pictures(), 8)}
    monitor = small_monitor()
    fit(monitor, model=model, data=data, max_epochs=2)
    assert_measured(monitor)


class Patches(nn.Module):
    """A transformer on the 16 patches of an image, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, 2)
        self.sequence = nn.Identity()
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.embed(image).flatten(2).transpose(1, 2)
        tokens = self.sequence(torch.cat([self.first.expand(len(image), -1, -1), patches], 1))
        return self.head(self.block(tokens)[:, 0])


@pytest.mark.parametrize(
    ("layer", "players"),
    [
        (None, "auto"),
        ("net.embed", "auto"),
        ("net.sequence", FeatureMask(torch.tensor([-1, *range(16)]).view(-1, 1))),
    ],
    ids=["pixels", "patch map", "patch embeddings"],
)
def test_a_transformer_on_images(layer: str | None, players: Any) -> None:
    monitor = small_monitor(layer=layer, players=players)
    data = tensor_loaders(torch.randn(24, 1, 8, 8), torch.arange(24) % 3)
    fit(monitor, model=TaskNet(Patches()), data=data, max_epochs=2)
    assert_measured(monitor)


@pytest.mark.parametrize(
    ("outputs", "targets", "loss", "options"),
    [
        (1, torch.rand(24, 1, generator=SEEDED) * 9, F.mse_loss, {}),
        (4, (torch.rand(24, 4, generator=SEEDED) < 0.4).float(), F.binary_cross_entropy_with_logits, {}),
        (4, (torch.rand(24, 4, generator=SEEDED) < 0.4).float(), F.binary_cross_entropy_with_logits, {"target": 2}),
        (1, torch.randint(0, 2, (24, 1), generator=SEEDED).float(), F.binary_cross_entropy_with_logits, {}),
        (3, F.one_hot(torch.arange(24) % 3).float(), F.cross_entropy, {}),
        (3, torch.arange(24) % 3, F.cross_entropy, {"target": "predicted"}),
        (3, torch.randn(24, 3, generator=SEEDED), F.mse_loss, {"score": "output", "target": 1}),
    ],
    ids=["regression", "multi-label", "one label", "binary", "one-hot", "predicted", "several outputs"],
)
def test_tasks(outputs: int, targets: Tensor, loss: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = TaskNet(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs)), loss)
    monitor = small_monitor(**options)
    fit(monitor, model=model, data=tensor_loaders(torch.randn(24, 5), targets), max_epochs=2)
    history = assert_measured(monitor)
    with torch.no_grad():
        expected = float(loss(model(model_inputs(monitor, "val")), probe_targets(monitor, "val", outputs, targets)))
    assert history["val_loss"][-1] == pytest.approx(expected, rel=1e-4)


def model_inputs(monitor: Any, split: str) -> Tensor:
    return monitor._loop.watchlist.losses[split].inputs


def probe_targets(monitor: Any, split: str, outputs: int, like: Tensor) -> Tensor:
    targets = monitor._loop.watchlist.losses[split].targets
    if like.ndim == 2 and targets.ndim == 1:
        return F.one_hot(targets).float() if outputs > 1 else targets.float().unsqueeze(1)
    return targets.to(like.dtype)


# -- what cannot be done is said at the first batch ------------------------------------------------------------------


def spread_of(outputs: Any, targets: Tensor) -> Tensor:
    """A loss of any output at all."""
    return (outputs[0] if isinstance(outputs, tuple) else outputs).square().mean()


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(20, 3)), torch.randn(24, 5, 4), torch.arange(24) % 3, {},
         r'players="auto" recognises.*series of 5 steps with 4 numbers each: `TimeWindows\(axis=0\)`'),
        (nn.Linear(5, 3), torch.randn(24, 5), torch.arange(24) % 3, {"target": 3}, "`target`.*from 0 to 2"),
        (nn.Linear(5, 1), torch.randn(24, 5), torch.rand(24) * 9, {"target": "predicted"}, "`target`.*regression"),
        (nn.Linear(5, 3), torch.randn(24, 5), torch.arange(24) % 3, {"players": Tokens(3)}, "Tokens needs integer"),
        (nn.Linear(5, 3), torch.randn(24, 5), torch.arange(24) % 3, {"layer": "nett"}, r"`layer`.*Did you mean net"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.randn(24, 1, 8, 8), torch.arange(24) % 3,
         {"layer": "net.0", "players": ImagePatches()}, r"output of layer 'net.0'.*\(2, 64\).*ImagePatches needs"),
        (nn.Sequential(nn.LSTM(4, 3)), torch.randn(24, 4), torch.arange(24) % 3, {"layer": "net.0"},
         "should return a tensor|tuple"),
    ],
    ids=["sequence", "no such class", "no class", "tokens of floats", "no such layer", "not spatial",
         "not a tensor"],
)  # fmt: skip
def test_what_cannot_be_measured(model: nn.Module, x: Tensor, y: Tensor, options: dict[str, Any], says: str) -> None:
    run = {"model": TaskNet(model, spread_of), "data": tensor_loaders(x, y)}
    with pytest.raises(InteractionsError, match=says) as caught:
        fit(small_monitor(on_error="warn" if options else "raise", **options), **run)
    assert isinstance(caught.value, (ArgumentError, BatchError, InteractionsError))


def test_what_was_decided_is_printed_in_one_line(capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    with caplog.at_level("INFO"):
        fit(small_monitor(verbose=True), model=TextNet, data=text_loaders(), max_epochs=1)
    text = [m for m in caplog.messages if "players are" in m]
    assert len(text) == 1
    assert "players are Tokens(mask_token_id=4) of input_ids with attention_mask of shape (B, 11)" in text[0]
    assert "log_odds of the label, of 2 classes" in text[0]
