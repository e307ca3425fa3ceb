"""Finding inputs and targets in batches of every form, and calling models that want them in every form."""

from __future__ import annotations

from collections import UserDict, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_interactions.errors import BatchError
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.samples import Pool
from lightning_interactions.model.batch import Batch, Padding, describe_structure, read_batch
from lightning_interactions.model.call import find_call
from lightning_interactions.model.packing import Field, unpack

# -- reading batches -------------------------------------------------------------------------------------------------

X, Y = torch.zeros(4, 3), torch.arange(4)
X3 = X.unsqueeze(-1)
Pair = namedtuple("Pair", ["image", "label"])


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], Pair(X, Y), (X, Y, "names"), (X, Y.view(4, 1))],
                         ids=["tuple", "list", "namedtuple", "three", "column"])  # fmt: skip
def test_usual_batches_are_read(batch: Any) -> None:
    found = read_batch(batch)
    assert found.inputs is X
    assert found.targets is batch[1]
    assert found.fields == ()


@pytest.mark.parametrize("batch", [{"x": X, "y": Y}, (Y, {"x": X}, Y)], ids=["dict", "nested"])
def test_functions_read_any_batch(batch: Any) -> None:
    def find(key: str) -> Tensor:
        return batch[key] if isinstance(batch, dict) else {"x": X, "y": Y}[key]

    found = read_batch(batch, lambda _: find("x"), lambda _: find("y"))
    assert found.inputs is X
    assert found.targets is Y


def test_one_function_leaves_the_rest_to_the_usual_form() -> None:
    assert read_batch(((X, None), Y), input_fn=lambda batch: batch[0][0]).targets is Y
    assert read_batch((X, {"label": Y}), target_fn=lambda batch: batch[1]["label"]).inputs is X


@pytest.mark.parametrize(
    ("batch", "shown"),
    [
        (
            {"a": X3, "b": X3, "label": Y},
            "dict('a': float32 tensor (4, 3, 1), 'b': float32 tensor (4, 3, 1), 'label': int64",
        ),
        ({"image": X, "class": Y}, "dict('image': float32 tensor (4, 3), 'class': int64 tensor (4,))"),
        (X, "float32 tensor (4, 3)"),
        ((X,), "tuple(float32 tensor (4, 3))"),
        ((torch.zeros(4), Y), "tuple(float32 tensor (4,), int64 tensor (4,))"),
        ((X, Y[:3]), "tuple(float32 tensor (4, 3), int64 tensor (3,))"),
        ((X, 3), "tuple(float32 tensor (4, 3), int)"),
        ((X, torch.tensor(1)), "tuple(float32 tensor (4, 3), int64 tensor ())"),
        (([X, X], Y), "tuple(list(float32 tensor (4, 3), float32 tensor (4, 3)), int64 tensor (4,))"),
        ("ab", "str"),
        (None, "NoneType"),
    ],
    ids=[
        "two unnamed",
        "no label",
        "tensor",
        "one",
        "1-D",
        "lengths",
        "number",
        "scalar",
        "two inputs",
        "text",
        "nothing",
    ],
)
def test_other_batches_are_described(batch: Any, shown: str) -> None:
    with pytest.raises(BatchError) as caught:
        read_batch(batch)
    assert shown in str(caught.value)
    assert "target_fn" in str(caught.value)
    readable = isinstance(batch, dict) and "image" in batch
    pair = isinstance(batch, tuple) and len(batch) > 1 and isinstance(batch[0], Tensor) and batch[0].ndim > 1
    if not readable and not pair:
        assert "input_fn" in str(caught.value)


def test_deep_and_long_batches_are_described_briefly() -> None:
    assert describe_structure([[[[[1]]]]]) == "list(list(list(list)))"
    assert describe_structure(list(range(100))).count("int") == 8
    assert describe_structure({i: i for i in range(100)}).count("int") == 8


# -- named inputs ----------------------------------------------------------------------------------------------------

IDS = torch.tensor([[5, 6, 7], [8, 9, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
SEGMENTS = torch.tensor([[0, 0, 1], [0, 1, 0]])
LABELS = torch.tensor([1, 0])
HF = {"input_ids": IDS, "token_type_ids": SEGMENTS, "attention_mask": MASK, "labels": LABELS, "idx": torch.arange(2)}


@pytest.mark.parametrize("batch", [HF, UserDict(HF), ({k: v for k, v in HF.items() if k != "labels"}, LABELS)],
                         ids=["dict", "BatchEncoding", "pair"])  # fmt: skip
def test_token_batches_are_packed_with_their_companions(batch: Any) -> None:
    found = read_batch(batch)
    assert [field.name for field in found.fields] == ["input_ids", "attention_mask", "token_type_ids"]
    assert torch.equal(found.inputs, torch.stack([IDS, MASK, SEGMENTS], 1))
    assert torch.equal(found.targets, LABELS)


def test_ids_and_mask_without_names() -> None:
    found = read_batch((IDS, MASK, LABELS))
    assert torch.equal(found.inputs, torch.stack([IDS, MASK], 1))
    assert torch.equal(found.targets, LABELS)
    assert read_batch((IDS, LABELS, MASK)).fields == ()


@pytest.mark.parametrize("name", ["pixel_values", "image", "x", "something"])
def test_a_dict_with_one_tensor(name: str) -> None:
    found = read_batch({name: X, "label": Y, "path": ["a", "b", "c", "d"], "weight": torch.ones(4)})
    assert found.inputs is X
    assert found.targets is Y
    assert found.describe() == name


def test_unpacked_tensors_have_their_own_type() -> None:
    fields = (Field("input_ids", torch.int32), Field("attention_mask", torch.bool))
    tensors = unpack(torch.stack([IDS, MASK], 1), fields)
    assert torch.equal(tensors["input_ids"], IDS.int())
    assert torch.equal(tensors["attention_mask"], MASK.bool())
    assert tensors["input_ids"].dtype == torch.int32


def scores(ids: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([(ids * mask).sum(1).double(), mask.sum(1).double()], 1)


class Keywords(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(logits=scores(input_ids, attention_mask))


class Anything(nn.Module):
    def forward(self, **inputs: Tensor) -> Any:
        assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
        return {"logits": scores(inputs["input_ids"], inputs["attention_mask"]), "loss": None}


class Positions(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return scores(ids, mask)


class Mapping(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return scores(batch["input_ids"], batch["attention_mask"])


class Passing(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return Positions()(*args, **kwargs)


@pytest.mark.parametrize("model", [Keywords(), Anything(), Positions(), Mapping()], ids=lambda m: type(m).__name__)
def test_models_are_called_the_way_they_want_it(model: nn.Module) -> None:
    found = read_batch(HF)
    output = find_call(model, found)(model, found.inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    torch.testing.assert_close(output["logits"] if logits is None else logits, scores(IDS, MASK))


def test_a_model_may_pass_everything_on() -> None:
    found = read_batch((IDS, MASK, LABELS))
    torch.testing.assert_close(find_call(Passing(), found)(Passing(), found.inputs), scores(IDS, MASK))


def test_a_model_that_takes_the_ids_alone() -> None:
    class Bag(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens.double()

    found = read_batch(HF)
    torch.testing.assert_close(find_call(Bag(), found)(Bag(), found.inputs), IDS.double())


def test_the_users_own_call_gets_the_mapping() -> None:
    found = read_batch(HF)
    call = find_call(nn.Identity(), found, lambda module, inputs: scores(inputs["input_ids"], inputs["attention_mask"]))
    torch.testing.assert_close(call(nn.Identity(), found.inputs), scores(IDS, MASK))
    single = find_call(nn.Identity(), Batch(X, Y), lambda module, inputs: inputs + 1)
    torch.testing.assert_close(single(nn.Identity(), X), X + 1)


def test_a_model_nothing_works_with_asks_for_forward_fn() -> None:
    class Stubborn(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            raise KeyError("weights")

    with pytest.raises(BatchError, match=r"input_ids.*KeyError: 'weights'.*forward_fn"):
        find_call(Stubborn(), read_batch(HF))


# -- padding ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_a_text_keeps_its_key_however_it_is_padded(text: list[int], left: int, right: int, packed: bool) -> None:
    def padded(left: int, right: int, rubbish: int) -> Tensor:
        ids = torch.tensor([[rubbish] * left + text + [rubbish] * right])
        mask = torch.tensor([[0] * left + [1] * len(text) + [0] * right])
        return torch.stack([ids, mask], 1) if packed else ids

    padding = Padding(0, 1 if packed else None, packed)
    plain = content_keys(padded(0, 0, 0), 3, padding)
    assert torch.equal(content_keys(padded(left, right, 0), 3, padding), plain)
    if packed:
        assert torch.equal(content_keys(padded(left, right, 17), 3, padding), plain)
    other = torch.tensor([[*text, 51]])
    other = torch.stack([other, torch.ones_like(other)], 1) if packed else other
    assert not torch.equal(content_keys(other, 3, padding), plain)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_of_different_length_are_collected_together(side: str) -> None:
    def batch(ids: list[list[int]], length: int) -> Tensor:
        rows = []
        for text in ids:
            gap = [0] * (length - len(text))
            ones = [1] * len(text)
            rows.append([gap + text, gap + ones] if side == "left" else [text + gap, ones + gap])
        return torch.tensor(rows)

    collector = Pool(10)
    padding = Padding(0, 1, packed=True)
    collector.offer(Batch(batch([[1, 2], [3]], 2), torch.tensor([0, 1])), padding)
    collector.offer(Batch(batch([[4, 5, 6, 7], [8]], 4), torch.tensor([2, 3])), padding)
    collector.offer(Batch(batch([[9, 9], [3]], 3), torch.tensor([4, 1])), padding)  # one of them is known already
    found = collector.result()
    assert found is not None
    by_target = {int(t): row.tolist() for t, row in zip(found.targets, found.inputs, strict=True)}
    expected = batch([[1, 2], [3], [4, 5, 6, 7], [8], [9, 9]], 4)
    assert by_target == {i: row.tolist() for i, row in enumerate(expected)}


def test_without_padding_lengths_must_agree() -> None:
    collector = Pool(10)
    collector.offer(Batch(torch.ones(2, 3).long(), torch.zeros(2)))
    with pytest.raises(BatchError, match=r"one shape, but got \(4,\) after \(3,\)"):
        collector.offer(Batch(torch.ones(2, 4).long(), torch.zeros(2)))
