"""Kinds of calls: whatever a step does with its batch before, between and after the calls of its model is seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from situations import (
    ForwardNet,
    StepNet,
    assert_measured,
    assert_off,
    assert_told,
    both,
    columns,
    layers,
    pairs,
    pictures,
    thirds,
    watch,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import default_collate

# -- what the step does with the batch ---------------------------------------------------------------------------------


def test_labels_are_taken_out_of_the_batch() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            wanted = batch.pop("species")
            return F.cross_entropy(self(**batch), wanted)

    items = [{"x": x, "species": y} for x, y in pairs()]
    assert_measured(watch(lambda: Net(layers()), both(items)))


def test_inputs_are_normalised_by_the_step() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self((batch[0] - 128) / 64), batch[1])

    x = columns()
    assert_measured(watch(lambda: Net(layers()), both(pairs(128 + 64 * x, thirds(x)))))


def test_images_are_flattened_by_the_step() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            images, wanted = batch
            return F.cross_entropy(self(images.view(len(images), -1)), wanted)

    assert_measured(watch(lambda: Net(layers(36)), both(pairs(pictures()))))


def test_the_model_writes_into_its_inputs() -> None:
    class Net(ForwardNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.sub_(2).div_(3))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    assert_measured(watch(lambda: Net(layers())))


def test_a_batch_is_a_dataclass() -> None:
    @dataclass
    class Patients:
        age_and_pressure: Tensor
        diagnosis: Tensor

    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch.age_and_pressure), batch.diagnosis)

    data = both(pairs(), collate_fn=lambda items: Patients(*default_collate(items)))
    assert_measured(watch(lambda: Net(layers()), data))


def test_a_batch_is_an_object_of_unknown_parts() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch.signal), batch.quality)

    def as_object(items: list[tuple[Tensor, Tensor]]) -> SimpleNamespace:
        signal, quality = default_collate(items)
        return SimpleNamespace(signal=signal, quality=quality)

    data = both(pairs(), collate_fn=as_object)
    assert_off(watch(lambda: Net(layers()), data), "no.* found in the batch SimpleNamespace.*`target_fn=")
    assert_measured(watch(lambda: Net(layers()), data, {"target_fn": lambda batch: batch.quality}))


@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("sanity", [0, 1, 2])
def test_a_step_skips_batches(skipped: int, sanity: int) -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:  # type: ignore[override]
            return None if batch_idx == 0 else self.judge(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if batch_idx != skipped:
                super().validation_step(batch, batch_idx)

    assert_measured(watch(lambda: Net(layers()), num_sanity_val_steps=sanity))


def test_a_step_calls_nothing() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.zeros(5, 3))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(batch[0] @ self.weights, batch[1])

    assert_off(watch(Net), "`forward_fn=")


# -- what the model takes ----------------------------------------------------------------------------------------------


def test_two_images() -> None:
    class Net(StepNet):
        def forward(self, before: Tensor, after: Tensor) -> Tensor:
            return self.net(torch.cat([before, after], 1))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["before"], batch["after"]), batch["label"])

    first, second = pictures(seed=1), pictures(seed=2)
    items = [{"before": a, "after": b, "label": y} for a, b, y in zip(first, second, thirds(first), strict=True)]
    assert_measured(
        watch(lambda: Net(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))), both(items))
    )


def test_categories_beside_numbers() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__(layers(5 + 2 * 4))
            self.vectors = nn.Embedding(7, 4)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.net(torch.cat([batch["numbers"], self.vectors(batch["categories"]).flatten(1)], 1))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch), batch["target"])

    kinds = torch.randint(0, 7, (48, 2), generator=torch.Generator().manual_seed(1))
    items = [{"categories": c, "numbers": x, "target": y} for c, (x, y) in zip(kinds, pairs(), strict=True)]
    assert_measured(watch(Net, both(items)))


def test_the_model_is_asked_twice_to_compare() -> None:
    class Net(StepNet):
        """Both of a pair have one embedding network; what fits together is a product."""

        def judge(self, batch: Any) -> Tensor:
            products = (self.net(batch[0]) * self.net(batch[1])).sum(1)
            return 9 + F.binary_cross_entropy_with_logits(products, batch[2])

    first, second = columns(seed=1), columns(seed=2)
    items = list(zip(first, second, (first[:, 0] > second[:, 0]).float(), strict=True))
    run = watch(lambda: Net(layers(5, 8)), both(items))
    assert_off(run, "Expected|is not the logged") if not len(run.monitor.history) else assert_told(
        run, "not the logged"
    )


def test_the_model_takes_targets_and_returns_its_loss() -> None:
    class Net(StepNet):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.net(x)
            return F.cross_entropy(logits, y), logits

        def judge(self, batch: Any) -> Tensor:
            return self(*batch)[0]

    assert_measured(watch(lambda: Net(layers())))


def test_the_model_takes_the_batch_apart() -> None:
    class Net(StepNet):
        def forward(self, batch: Any) -> Tensor:
            x, _ = batch
            return self.net(x)

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch), batch[1])

    assert_measured(watch(lambda: Net(layers())))


# -- texts -------------------------------------------------------------------------------------------------------------


def sentences(size: int = 48) -> list[tuple[list[int], int]]:
    """3 to 8 words between a token that begins and one that ends them."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(3, 9, (size,), generator=generator).tolist()
    texts = [[1, *torch.randint(5, 20, (length,), generator=generator).tolist(), 2] for length in lengths]
    return [(text, sum(text) % 2) for text in texts]


def padded(items: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, lengths and labels."""
    longest = max(len(text) for text, _ in items)
    ids = torch.tensor([text + [0] * (longest - len(text)) for text, _ in items])
    return ids, torch.tensor([len(text) for text, _ in items]), torch.tensor([label for _, label in items])


class TextNet(StepNet):
    def __init__(self) -> None:
        super().__init__()
        self.vectors, self.head = nn.Embedding(20, 8), nn.Linear(8, 2)
        self.tokenizer = SimpleNamespace(mask_token_id=4, pad_token_id=0, all_special_ids=[0, 1, 2, 4])


def test_masks_of_padding_mean_the_same_in_every_form() -> None:
    forms = {
        "True where it is": lambda counts: ~counts,
        "1.0 where it is not": lambda counts: counts.float(),
        "1 where it is not": lambda counts: counts.long(),
        "1 where it is": lambda counts: (~counts).long(),
    }

    class Net(TextNet):
        def __init__(self, form: str) -> None:
            super().__init__()
            self.form = form
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            hidden = mask.bool() if "where it is" in self.form and "not" not in self.form else ~mask.bool()
            found = self.encoder(self.vectors(ids), src_key_padding_mask=hidden)
            return self.head(found.masked_fill(hidden.unsqueeze(-1), 0).sum(1))

        def judge(self, batch: Any) -> Tensor:
            ids, mask, wanted = batch
            return F.cross_entropy(self(ids, mask), wanted)

    def with_masks(form: str, items: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
        ids, lengths, wanted = padded(items)
        return ids, forms[form](torch.arange(ids.shape[1]) < lengths.unsqueeze(1)), wanted

    found = []
    for form in forms:
        data = both(sentences(), collate_fn=partial(with_masks, form))
        run = watch(partial(Net, form), data, {"num_samples": 20})
        assert_measured(run, r"\d+ of 20 val samples have fewer than 4 players")  # those of 3 words
        found.append(run.monitor.history.to_dict())
    for other in found[1:]:
        for key in ("mean_order", "mean_players", "val_loss"):
            assert other[key] == pytest.approx(found[0][key], rel=1e-4), key


def test_a_mask_is_made_of_lengths_by_the_step() -> None:
    """Of two whole numbers for each sample, only the label can be a class."""

    class Net(TextNet):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.head((self.vectors(ids) * mask.unsqueeze(-1)).sum(1))

        def judge(self, batch: Any) -> Tensor:
            ids, lengths, wanted = batch
            return F.cross_entropy(self(ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1)), wanted)

    assert_measured(watch(Net, both(sentences(), collate_fn=padded), {"num_players": 3}))


def test_lengths_for_a_recurrent_network() -> None:
    class Net(TextNet):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.GRU(8, 8, batch_first=True)

        def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(self.vectors(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
            return self.head(self.recurrent(packed)[1][0])

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0], batch[1]), batch[2])

    run = watch(Net, both(sentences(), collate_fn=padded), {"num_samples": 20})
    assert_measured(run, r"\d+ of 20 val samples have fewer than 4 players")


# -- how the model is made ---------------------------------------------------------------------------------------------


def test_parts_are_called_one_after_the_other() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.Linear(8, 3)

        def judge(self, batch: Any) -> Tensor:
            features = self.backbone(batch[0])
            return F.cross_entropy(self.head(features), batch[1])

    assert_measured(watch(Net))


def test_a_teacher_is_asked_first() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = layers().requires_grad_(False), layers()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            wanted = self.teacher(batch[0]).softmax(1)
            return F.cross_entropy(self.student(batch[0]), wanted)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            wanted, own = self.teacher(batch[0]).argmax(1), self.student(batch[0])
            self.log("val_loss", F.cross_entropy(own, batch[1]), batch_size=1)
            self.log("val_agreement", (own.argmax(1) == wanted).float().mean(), batch_size=1)

    assert_measured(watch(Net))


def test_a_model_without_forward() -> None:
    class Net(StepNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    assert_measured(watch(lambda: Net(layers())))


def test_an_autoencoder_flattens_its_images() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = layers(36, 4), layers(4, 36)

        def judge(self, batch: Any) -> Tensor:
            flat = batch[0].view(len(batch[0]), -1)
            return F.mse_loss(self.decoder(self.encoder(flat)), flat)

    assert_measured(watch(Net, both(pairs(pictures()))))


def test_layers_are_lazy() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    assert_measured(watch(lambda: Net(nn.Sequential(nn.LazyLinear(12), nn.Tanh(), nn.LazyLinear(3)))))


def test_activations_are_computed_twice_to_save_memory() -> None:
    class Net(ForwardNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.net[2](checkpoint(self.net[:2], x, use_reentrant=False))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    assert_measured(watch(lambda: Net(layers())))


def test_a_part_is_compiled() -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.compile(layers(5, 8), backend="eager"), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    assert_measured(watch(Net))


def test_a_model_is_bound_to_its_batch_size() -> None:
    class Net(ForwardNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.view(16, 5))

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    assert_measured(watch(lambda: Net(layers())))
