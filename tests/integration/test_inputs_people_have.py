"""Small projects as people have them, each with nothing but `TwoPhaseMonitor()` or the one argument its error shows.

Each is trained with the monitor and without, to the same bits, and our validation loss is the one its author logs.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import Asked, Words, on_ranks
from situations import ForwardNet, Run, StepNet, assert_measured, assert_off, both, columns, layers, thirds, watch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_interactions import TimeWindows
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.measure.games import Game, find_rules
from lightning_interactions.measure.judge import compare_losses
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.measurement import measure
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.samples import Samples
from lightning_interactions.model.batch import Batch, read_batch

SIZE = 48


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(SIZE, *shape, generator=Generator().manual_seed(seed))


def whole(top: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, top, (SIZE, *shape), generator=Generator().manual_seed(seed))


def chosen(run: Run) -> str:
    """What is printed of the choice at the start."""
    rules = run.monitor._loop.rules
    assert rules is not None
    return rules.describe()


def shown(run: Run) -> Any:
    """The picture of the first watched sample."""
    return run.monitor._loop.games.picture("val", 0, shown=True)


class Classifier(ForwardNet):
    """The usual step on pairs."""

    def judge(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class Last(nn.Module):
    """A recurrent network, and a head on its last state."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(features, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


# -- series, sounds, vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [6, 3], ids=["(B, T, 6)", "(B, T, 3)"])
def test_a_time_series(features: int) -> None:
    x = random(30, features).cumsum(1)
    y = torch.bucketize(x[:, -5:, 0].mean(1), torch.tensor([-1.0, 1.0]))
    run = watch(lambda: Classifier(Last(features)), both(list(zip(x, y, strict=True))))
    assert_measured(run)
    assert "TimeWindows(num_windows=10, baseline='mean', along dimension 1" in chosen(run)
    assert ("players=PointClusters()" in chosen(run)) == (features == 3)
    assert shown(run).content.to_dict()["kind"] == "rows"


def test_series_of_different_length_are_padded_in_each_batch() -> None:
    class Net(Classifier):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            states = self.net.rnn(x)[0]
            return self.net.head(states[torch.arange(len(x)), lengths - 1])

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0], batch[1]), batch[2])

    def collate(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
        series = [x for x, _ in items]
        lengths = torch.tensor([len(x) for x in series])
        return pad_sequence(series, batch_first=True), lengths, torch.tensor([y for _, y in items])

    x = random(30, 6)
    items = [(own[: 12 + i % 17], i % 3) for i, own in enumerate(x)]
    run = watch(lambda: Net(Last(6)), both(items, size=12, collate_fn=collate))
    assert_measured(run, "look different in every epoch")  # for they are padded to the longest of another batch
    assert run.monitor._loop.games["val"].samples.sizes is not None


def test_keyword_spotting() -> None:
    """A tone in one of four quarters of a second, at one of three pitches."""
    time = torch.arange(400) / 400
    y, quarter = torch.arange(SIZE) % 3, whole(4)
    tones = torch.sin(2 * torch.pi * (20 + 25 * y).unsqueeze(1) * time)
    x = tones * ((4 * time).long() == quarter.unsqueeze(1)) + 0.1 * random(400)
    net = lambda: nn.Sequential(  # noqa: E731
        nn.Conv1d(1, 8, 16, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    for flat in (False, True):
        make = (lambda: nn.Sequential(nn.Unflatten(1, (1, -1)), net())) if flat else net
        data = both(list(zip(x if flat else x.unsqueeze(1), y, strict=True)))
        run = watch(lambda make=make: Classifier(make()), data)
        assert_measured(run)
        assert f"TimeWindows(num_windows=10, baseline='mean', along dimension {1 if flat else 2}" in chosen(run)
        assert all(name.startswith("steps ") for name in shown(run).names)


def test_embeddings_with_a_mask_of_padding() -> None:
    class Net(ForwardNet):
        def __init__(self) -> None:
            super().__init__(nn.Linear(16, 3))
            self.encoder = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True)

        def forward(self, embeddings: Tensor, padding: Tensor) -> Tensor:
            return self.net(self.encoder(embeddings, src_key_padding_mask=padding)[:, 0])

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["embeddings"], batch["padding"]), batch["label"])

    x, padding = random(12, 16), torch.arange(12) >= 8 + whole(4).unsqueeze(1)
    items = [{"embeddings": a, "padding": p, "label": i % 3} for i, (a, p) in enumerate(zip(x, padding, strict=True))]
    run = watch(Net, both(items))
    assert_measured(run)
    assert "along dimension 1) of embeddings of shape (B, 12, 16)" in chosen(run)


def test_where_it_cannot_be_told_the_error_shows_the_argument() -> None:
    data = both(list(zip(random(12, 4), torch.arange(SIZE) % 3, strict=True)))

    def net() -> Any:
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))

    assert_off(watch(net, data), r"series of 12 steps with 4 numbers each: `TimeWindows\(axis=0\)`")
    assert_measured(watch(net, data, {"players": TimeWindows(axis=0)}))


# -- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["forward", "hook"])
def test_images_of_bytes_that_the_module_normalises(where: str) -> None:
    class Net(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float() / 255 if where == "forward" else x)

        def on_after_batch_transfer(self, batch: Any, index: int) -> Any:
            return batch if where == "forward" else (batch[0].float() / 255, batch[1])

    x = whole(256, 3, 12, 12).to(torch.uint8)
    y = torch.bucketize(x.float().mean((1, 2, 3)), torch.tensor([126.0, 129.0]))
    net = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))  # noqa: E731
    run = watch(lambda: Net(net()), both(list(zip(x, y, strict=True))))
    assert_measured(run)
    assert "ImagePatches" in chosen(run)


class UNet(nn.Module):
    """One step down and up again, with a bridge."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)
        )
        self.out = nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down(x)
        return self.out(torch.cat([high, self.middle(high)], 1))


SQUARES = random(1, 12, 12)
LABELS = (F.avg_pool2d(SQUARES, 3, 1, 1)[:, 0] > 0.1).long() + (SQUARES[:, 0] > 1).long()


@pytest.mark.parametrize(("void", "module"), [(-100, False), (255, False), (255, True), (2, True)])
def test_segmentation(void: int, module: bool) -> None:
    class Net(ForwardNet):
        def __init__(self) -> None:
            super().__init__(UNet(3))
            if module:
                self.loss = nn.CrossEntropyLoss(ignore_index=void)

        def judge(self, batch: Any) -> Tensor:
            scores, labels = self(batch["image"]), batch["mask"]
            return self.loss(scores, labels) if module else F.cross_entropy(scores, labels, ignore_index=void)

    few = torch.arange(12) < whole(12).view(-1, 1, 1)  # of some samples only a column: each counts by its pixels
    labels = torch.where(few, void, LABELS)
    run = watch(Net, both([{"image": x, "mask": y} for x, y in zip(SQUARES, labels, strict=True)], size=SIZE))
    assert_measured(run)
    assert "mean of log_odds over the labels of all positions, of 3 classes" in chosen(run)
    assert all(0 <= sample["prediction"] <= 1 for sample in run.monitor.history.samples)
    loop = run.monitor._loop
    assert loop.rules is not None
    task, samples = loop.tasks.by_split["val"], loop.watchlist.losses["val"]
    verdict = compare_losses(loop.rules.model, task, samples, {"val_loss": run.logged}, Ranks())
    assert verdict is not None
    assert verdict.ours == pytest.approx(run.logged, rel=1e-5)


def test_a_segmentation_is_compared_with_another_network() -> None:
    class Net(StepNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    run = watch(
        lambda: Net(UNet(3)), both(list(zip(SQUARES, LABELS, strict=True))),
        {"reference": nn.Conv2d(1, 3, 3, padding=1)},
    )  # fmt: skip
    assert_measured(run)
    assert all(0 <= share <= 1 for share in run.monitor.history.column("reference/shared_share"))


@pytest.mark.parametrize("channel", [True, False])
def test_one_logit_for_every_pixel(channel: bool) -> None:
    class Net(ForwardNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if channel else self.net(x).squeeze(1)

        def judge(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    masks = (LABELS > 0).float()
    masks = masks.unsqueeze(1) if channel else masks
    run = watch(lambda: Net(UNet(1)), both(list(zip(SQUARES, masks, strict=True))))
    assert_measured(run)
    assert "of 2 classes" in chosen(run)


class Collecting(nn.Module):
    """Takes its features from hooks that its first forward pass registers, as those of a well-known library do."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1))
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "listening"):
            self.stages[0].register_forward_hook(lambda module, args, output: self.features.append(output))
            self.stages[2].register_forward_hook(lambda module, args, output: self.features.append(output))
            self.listening = True
        self.features: list[Tensor] = []
        self.stages(x)
        first, second = self.features  # each once, or it fails
        return self.out(F.avg_pool2d(second, 1) + F.max_pool2d(torch.cat([first, first], 1), 2))


@pytest.mark.parametrize("sanity", [0, 1])
def test_coarse_scores_of_a_model_that_hooks_itself(sanity: int) -> None:
    class Net(StepNet):
        def judge(self, batch: Any) -> Tensor:
            scores = self.net(batch[0])
            return F.cross_entropy(F.interpolate(scores, batch[1].shape[1:], mode="bilinear"), batch[1])

    run = watch(lambda: Net(Collecting()), both(list(zip(SQUARES, LABELS, strict=True))), num_sanity_val_steps=sanity)
    assert_measured(run)
    assert "mean of log_odds over the labels of all positions, of 3 classes" in chosen(run)


def test_a_later_batch_with_labels_that_are_no_classes_is_left_out() -> None:
    class Net(Classifier):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1].clamp(max=2))

    labels = LABELS.clone()
    labels[-1] = 7
    run = watch(lambda: Net(UNet(3)), both(list(zip(SQUARES, labels, strict=True)), size=12), num_sanity_val_steps=1)
    assert any("12 of 48 val samples are left out" in text and "from 7 to 7" in text for text in run.told)
    assert len(run.monitor.history) == 2


# -- numbers for every position --------------------------------------------------------------------------------------

X = columns(SIZE)
NOISY = SQUARES + 0.3 * random(*SQUARES.shape[1:], seed=5)
LARGE = random(1, 24, 24, seed=6)
SERIES = random(20, 3, seed=7).cumsum(1)

ANSWERS: dict[str, tuple[Any, list[Any], Any]] = {
    "denoised": (lambda: UNet(1), list(zip(NOISY, SQUARES, strict=True)), F.mse_loss),
    "denoised, with labels": (lambda: UNet(1), list(zip(NOISY, SQUARES, range(SIZE), strict=True)), F.mse_loss),
    "two maps of an image": (lambda: UNet(2), list(zip(SQUARES, random(2, 12, 12), strict=True)), F.l1_loss),
    "twice the size": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2)),
        list(zip(SQUARES, LARGE, strict=True)), F.smooth_l1_loss,
    ),
    "the next steps": (
        lambda: nn.Sequential(Last(3), nn.Linear(3, 8), nn.Unflatten(1, (4, 2))),
        list(zip(SERIES[:, :16], SERIES[:, 16:, :2], strict=True)), F.l1_loss,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "items", "loss"), ANSWERS.values(), ids=ANSWERS.keys())
def test_the_model_returns_another_sample(make: Any, items: list[Any], loss: Any) -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return loss(self(batch[0]), batch[1])

    run = watch(lambda: Net(make()), both(items))
    assert_measured(run)
    assert "negative squared error of what the model returns" in chosen(run)


def test_the_next_steps_are_given_to_the_model_too() -> None:
    """As those of a well-known library are, which return their loss."""

    class Net(StepNet):
        def forward(self, past: Tensor, future: Tensor) -> dict[str, Tensor]:
            found = self.net(past)
            return {"loss": F.mse_loss(found, future), "prediction": found}

        def judge(self, batch: Any) -> Tensor:
            return self(**batch)["loss"]

    net = lambda: Net(nn.Sequential(Last(3), nn.Linear(3, 8), nn.Unflatten(1, (4, 2))))  # noqa: E731
    items = [{"past": x[:16], "future": x[16:, :2]} for x in SERIES]
    run = watch(net, both(items))
    assert_measured(run)
    assert "of past of shape (B, 16, 3)" in chosen(run)


def test_of_several_numbers_one_is_followed() -> None:
    class Net(Classifier):
        def judge(self, batch: Any) -> Tensor:
            low, middle, high = self(batch[0]).unbind(1)
            return F.mse_loss(middle, batch[1]) + 0 * (low + high).sum()

    items = list(zip(X, X[:, 0] * X[:, 1], strict=True))
    assert_off(watch(lambda: Net(layers()), both(items)), "returns 3 numbers .*`target=0` to `target=2`")
    run = watch(lambda: Net(layers()), both(items), {"target": 1})
    assert_measured(run)
    assert "output 1 of 3" in chosen(run)


def test_what_else_can_be_masked_is_named_where_tokens_cannot() -> None:
    class Net(ForwardNet):
        def __init__(self) -> None:
            super().__init__(nn.Linear(8 + 144, 3))
            self.words = nn.EmbeddingBag(20, 8)

        def forward(self, pixels: Tensor, input_ids: Tensor) -> Tensor:
            return self.net(torch.cat([self.words(input_ids), pixels.flatten(1)], 1))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["pixels"], batch["ids"]), batch["label"])

    items = [
        {"pixels": x, "ids": ids, "label": i % 3} for i, (x, ids) in enumerate(zip(SQUARES, whole(20, 7), strict=True))
    ]
    assert_off(watch(Net, both(items)), "need a mask token.*To mask another tensor .*: `input='pixels'`")
    run = watch(Net, both(items), {"input": "pixels"})
    assert_measured(run)
    assert "ImagePatches" in chosen(run)


# -- several heads ---------------------------------------------------------------------------------------------------

KINDS, COLOURS = thirds(X), (X[:, 3] * X[:, 4] > 0).long()


class TwoHeads(StepNet):
    """Kind and colour; validated, and here also trained, is what the test is about."""

    form: Any = staticmethod(lambda kind, colour: {"kind": kind, "colour": colour})
    followed: Any = "colour"

    def __init__(self) -> None:
        super().__init__(layers(5, 8))
        self.kind, self.colour = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        shared = torch.tanh(self.net(x))
        return self.form(self.kind(shared), self.colour(shared))

    def judge(self, batch: Any) -> Tensor:
        found, targets = self(batch[0]), batch[1]
        return F.cross_entropy(found[self.followed], targets[self.followed])


def test_one_of_several_heads_is_named() -> None:
    items = [(x, {"kind": k, "colour": c}) for x, k, c in zip(X, KINDS, COLOURS, strict=True)]
    assert_off(watch(TwoHeads, both(items)), r"kind \(16, 3\), colour \(16, 2\).*Give `head='kind'` or `head='colour'`")
    run = watch(TwoHeads, both(items), {"head": "colour"})
    assert_measured(run)
    assert "of 2 classes" in chosen(run)


def test_heads_in_a_tuple_and_targets_in_another() -> None:
    class Net(TwoHeads):
        form = staticmethod(lambda kind, colour: (kind, colour))
        followed = 1

    items = list(zip(X, zip(KINDS, COLOURS, strict=True), strict=True))
    assert_off(watch(Net, both(items)), r"0 \(16, 3\), 1 \(16, 2\).*Give `head=0` or `head=1`")
    assert_measured(watch(Net, both(items), {"head": 1}))


def test_heads_by_the_losses_that_were_given_them() -> None:
    class Net(TwoHeads):
        def __init__(self) -> None:
            super().__init__()
            self.of_kind, self.of_colour = nn.CrossEntropyLoss(), nn.CrossEntropyLoss()

        def judge(self, batch: Any) -> Tensor:
            found = self(batch["x"])
            return self.of_colour(found["colour"], batch["b"]) + 0 * self.of_kind(found["kind"], batch["a"])

    items = [{"x": x, "a": k, "b": c} for x, k, c in zip(X, KINDS, COLOURS, strict=True)]
    assert_measured(watch(Net, both(items), {"head": "colour"}))


def test_a_head_with_targets_of_another_name() -> None:
    items = [(x, {"kind": k, "colour": c}) for x, k, c in zip(X, KINDS, COLOURS, strict=True)]

    class Net(TwoHeads):
        form = staticmethod(lambda kind, colour: {"kind": kind, "colour_logits": colour})

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0])["colour_logits"], batch[1]["colour"])

    named = {"head": "colour_logits"}
    run = watch(Net, both(items), named | {"target_fn": lambda batch: batch[1]["colour"]})
    assert_measured(run)


def test_a_head_beside_a_reconstruction() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__(layers(5, 8))
            self.back, self.kind = nn.Linear(8, 5), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            shared = torch.tanh(self.net(x))
            return {"image": self.back(shared), "kind": self.kind(shared)}

        def judge(self, batch: Any) -> Tensor:
            found = self(batch["x"])
            return F.cross_entropy(found["kind"], batch["kind"]) + 0 * F.mse_loss(found["image"], batch["x"])

    run = watch(Net, both([{"x": x, "kind": k} for x, k in zip(X, KINDS, strict=True)]), {"head": "kind"})
    assert_measured(run)
    assert "of 3 classes" in chosen(run)


def test_features_beside_logits_are_no_heads() -> None:
    class Net(TwoHeads):
        form = staticmethod(lambda kind, colour: (kind, torch.cat([kind, kind, colour], 1)))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0])[0], batch[1])

    assert_measured(watch(Net, both(list(zip(X, KINDS, range(SIZE), strict=True)))))


# -- language models -------------------------------------------------------------------------------------------------


class Language(ForwardNet):
    tokenizer = SimpleNamespace(mask_token_id=1, pad_token_id=0)

    def __init__(self) -> None:
        super().__init__(Words(20))


IDS = whole(18, 10) + 2


def test_a_language_model_whose_labels_are_moved_by_one() -> None:
    class Net(Language):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten())

    run = watch(Net, both(list(zip(IDS[:, :-1], IDS[:, 1:], strict=True))))
    assert_measured(run)
    assert "sum of log_odds over the labels of all positions, of 20 classes" in chosen(run)


def test_a_language_model_that_gets_the_tokens_but_the_last() -> None:
    class Net(Language):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    run = watch(Net, both(list(IDS)))
    assert_measured(run)
    assert "each of the next position" in chosen(run)


def test_a_language_model_without_labels_asks_for_them() -> None:
    class Net(Language):
        def judge(self, batch: Any) -> Tensor:
            scores = self(batch["input_ids"])
            return F.cross_entropy(scores[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    data = both([{"input_ids": x} for x in IDS])
    assert_off(
        watch(Net, data), r"numbers for every position \(16, 10, 20\).*give `target_fn=batch -> labels` \(16, 10\)"
    )
    assert_measured(watch(Net, data, {"target_fn": lambda batch: batch["input_ids"]}))


def test_gpt2_with_prompts_and_padding() -> None:
    """Hugging Face's own, of different length in each batch, of which only the answers count."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")

    class Net(StepNet):
        tokenizer = SimpleNamespace(unk_token_id=1, pad_token_id=0)

        def __init__(self) -> None:
            super().__init__()
            size = {"vocab_size": 20, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
            config = transformers.GPT2Config(**size, pad_token_id=0, bos_token_id=None, eos_token_id=None)
            self.gpt = transformers.GPT2LMHeadModel(config)

        def judge(self, batch: Any) -> Tensor:
            return self.gpt(**batch).loss

    def collate(items: list[Tensor]) -> dict[str, Tensor]:
        ids = pad_sequence(items, batch_first=True)
        labels = torch.where((ids == 0) | (torch.arange(ids.shape[1]) < 4), -100, ids)
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}

    items = [x[: 7 + i % 4] for i, x in enumerate(IDS)]
    run = watch(Net, both(items, size=SIZE, collate_fn=collate), monitor={"num_samples": 12})
    assert_measured(run)
    assert "Tokens(mask_token_id=1)" in chosen(run)
    assert "each of the next position" in chosen(run)
    small = watch(Net, both(items, size=5, collate_fn=collate), monitor={"num_samples": 12})
    assert [text for text in small.told if "left out" in text] == []


# -- tables ----------------------------------------------------------------------------------------------------------

AGE, INCOME, WORK = random(seed=1) * 10 + 40, random(seed=2), whole(7, seed=3)
CLASS = (AGE > 40).long() + (INCOME > 0).long()


class Census(StepNet):
    """What tabular libraries make: a mapping of columns goes in."""

    def __init__(self) -> None:
        super().__init__(layers(2 + 4))
        self.vectors = nn.Embedding(7, 4)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        numbers = torch.stack([(x["age"] - 40) / 10, x["income"]], 1)
        return self.net(torch.cat([numbers, self.vectors(x["workclass"])], 1))

    def judge(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch), batch["target"])


def census() -> list[dict[str, Tensor]]:
    every = {"age": AGE, "income": INCOME, "workclass": WORK, "target": CLASS}
    return [dict(zip(every, row, strict=True)) for row in zip(*every.values(), strict=True)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_a_mapping_of_columns(precision: Any) -> None:
    run = watch(Census, both(census()), {"num_players": 3}, precision=precision)
    assert_measured(run, rel=0.02)
    assert "of the columns age, income, workclass of shape (B, 3)" in chosen(run)
    assert [name.split(" = ")[0] for name in shown(run).names] == ["age", "income", "workclass"]


def test_an_absent_column_is_what_the_model_would_get() -> None:
    """The score of each coalition, from the model itself: the mean age and income, the most frequent class of work."""
    run = watch(Census, both(census()), {"num_players": 3})
    game, model = run.monitor._loop.games["val"], run.trainer.lightning_module
    watched = game.samples
    table = game.players._table  # type: ignore[attr-defined]
    values = table.values(watched.inputs)
    absent = torch.tensor([values[:, 0].mean(), values[:, 1].mean(), values[:, 2].mode().values])
    coalitions = coalition_masks(3)
    masked = game.players.mask_batch(watched.inputs[:1], game.labels[:1], coalitions)
    expected = torch.where(coalitions[:, game.labels[0]], values[0], absent)
    torch.testing.assert_close(table.values(masked), expected, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        own = model(dict(zip(["age", "income", "workclass"], table.unpack(masked), strict=True)))
    assert own.shape == (8, 3)


def test_numbers_and_categories() -> None:
    class Net(Census):
        def __init__(self) -> None:
            StepNet.__init__(self, layers(5 + 2 * 4))
            self.vectors = nn.Embedding(7, 4)

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return self.net(torch.cat([x["continuous"], self.vectors(x["categorical"]).flatten(1)], 1))

    items = [{"continuous": x, "categorical": c, "target": y} for x, c, y in zip(X, whole(7, 2), KINDS, strict=True)]
    run = watch(Net, both(items), {"num_players": 7})
    assert_measured_table(run)
    assert shown(run).names[-1].startswith("categorical 1 = ")
    alone = watch(Net, both(items), {"input": "continuous"})
    assert_measured(alone)
    assert "of x.continuous of shape (B, 5)" in chosen(alone)


def test_a_user_and_an_item() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(7, 4), nn.Embedding(9, 4)

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            return (self.users(user) * self.items(item)).sum(1)

        def judge(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0], batch[1]), batch[2])

    user, item = whole(7), whole(9, seed=1)
    run = watch(Net, both(list(zip(user, item, (user * item).float() / 10, strict=True))), {"num_players": 2})
    assert_measured(run)
    assert "of the columns user, item of shape (B, 2)" in chosen(run)


def assert_measured_table(run: Run) -> None:
    assert run.told == []
    assert all(1 <= order <= 7 for order in run.monitor.history.column("mean_order"))
    assert run.monitor.history.column("val_loss")[-1] == pytest.approx(run.logged, rel=1e-3)


def test_a_single_column_has_no_interactions() -> None:
    class Net(StepNet):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return self.net(x["age"].unsqueeze(1))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self({"age": batch["age"]}), batch["target"])

    items = [{"age": row["age"], "target": row["target"]} for row in census()]
    assert_off(watch(lambda: Net(layers(1, 3)), both(items)), r"several columns, but it is called with x.age \(16,\)")
    one = both([(x[:1], y) for x, y in zip(X, KINDS, strict=True)])
    assert_off(watch(lambda: Classifier(layers(1, 3)), one), r"called with x \(16, 1\)")


# -- several ranks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pixels", "table", "windows"])
def test_ranks_share_the_work_and_get_the_numbers_of_one(kind: str) -> None:
    torch.manual_seed(0)
    labels = torch.where(torch.arange(12) < whole(4).view(-1, 1, 1), 255, LABELS)
    row = {key: torch.stack([item[key] for item in census()]) for key in ("age", "income", "workclass")}
    net, inputs, targets = {
        "pixels": (UNet(3), SQUARES, labels),
        "table": (Census(), row, CLASS),
        "windows": (Last(6), random(30, 6), KINDS),
    }[kind]
    batch: Batch = read_batch((inputs, targets))
    rules = find_rules(net.eval(), batch, num_players=3)
    batch = rules.along(batch).rows(torch.arange(7))
    keys = content_keys(batch.inputs).sort()
    batch = batch.rows(keys.indices)
    samples = Samples(batch.inputs, batch.targets, keys.values, batch.carried)
    game = Game.draw(rules.model, samples, rules.players, 3)
    fields = {name: getattr(rules.model, name) for name in ("module", "call", "dense", "leaf")}
    model = Asked(**fields)

    def work(ranks: Ranks) -> Any:
        found, losses, each = measure(
            model, {"val": game}, {"val": samples}, ranks, tasks={"val": rules.task}, reading=Reading()
        )
        return found["val"].strength, losses["val"], each["val"]

    alone = work(Ranks())
    for shared in on_ranks(2, work):
        torch.testing.assert_close(shared[0], alone[0], rtol=1e-5, atol=1e-6)
        assert shared[1] == pytest.approx(alone[1], rel=1e-6)
        torch.testing.assert_close(shared[2], alone[2], rtol=1e-5, atol=1e-6)
