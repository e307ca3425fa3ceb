"""Which of several outputs is followed, and which targets are its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, BatchError
from lightning_interactions.model.heads import Head, choose_head, find_heads
from lightning_interactions.model.seen import SeenCall

X, KIND, COLOUR = torch.randn(6, 5), torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([0, 1, 1, 0, 0, 1])
OF_KIND, OF_COLOUR, MAPS = torch.randn(6, 3), torch.randn(6, 2), torch.randn(6, 3, 4, 4)
MASK = torch.randint(0, 3, (6, 4, 4))


def call(output: Any, *given: Tensor, **options: Any) -> SeenCall:
    return SeenCall("", given or (X,), {}, 6, False, output=output, **options)


NAMED = {"kind": OF_KIND, "colour": OF_COLOUR}
FOUND: dict[str, tuple[list[SeenCall], Any, dict[str | int, Any]]] = {
    "by name": ([call(NAMED)], {"x": X, "kind": KIND, "colour": COLOUR}, {"kind": ("kind",), "colour": ("colour",)}),
    "by name, deeper": (
        [call({"out": NAMED})], (X, {"colour": COLOUR, "kind": KIND}), {"kind": (1, "kind"), "colour": (1, "colour")}),
    "by place": ([call((OF_KIND, OF_COLOUR))], (X, KIND, COLOUR), {0: (1,), 1: (2,)}),
    "by place, maps": ([call((MAPS, OF_COLOUR))], (X, MASK, COLOUR), {0: (1,), 1: (2,)}),
    "by the losses": (
        [call((OF_KIND, OF_COLOUR)), call(torch.tensor(1.0), OF_COLOUR, COLOUR, judge="loss"),
         call(torch.tensor(1.0), OF_KIND, KIND, judge="loss")], (X, COLOUR, KIND), {0: (2,), 1: (1,)}),
    "only one has targets": ([call(NAMED)], {"x": X, "kind": KIND}, {"kind": ("kind",), "colour": None}),
    "an index is no target": ([call((OF_KIND, OF_COLOUR))], (X, KIND, torch.arange(6)), {0: None, 1: None}),
    "the model was given it": ([call(NAMED, X, KIND)], {"x": X, "kind": KIND}, {"kind": None, "colour": None}),
    "one output": ([call(OF_KIND)], (X, KIND), {}),
    "a loss beside it": ([call((torch.tensor(1.0), OF_KIND))], (X, KIND), {1: None}),
    "nothing was called": ([], (X, KIND), {}),
}  # fmt: skip


@pytest.mark.parametrize(("calls", "batch", "expected"), FOUND.values(), ids=FOUND.keys())
def test_outputs_and_their_targets(calls: list[SeenCall], batch: Any, expected: dict[str | int, Any]) -> None:
    assert {head.name: head.target for head in find_heads(calls, batch, 6)} == expected


def test_equal_names_are_told_apart_by_where_they_are() -> None:
    heads = find_heads([call({"a": {"logits": OF_KIND}, "b": {"logits": OF_COLOUR}})], (X, KIND), 6)
    assert [head.name for head in heads] == ["a.logits", "b.logits"]


KINDS = Head("kind", ("kind",), (6, 3), ("kind",))
COLOURS = Head("colour", ("colour",), (6, 2), ("colour",))
AUXILIARY = Head("aux", ("aux",), (6, 3), ("kind",))


def test_one_is_chosen_by_name_or_position() -> None:
    for wanted in ("colour", 1):
        assert choose_head([KINDS, COLOURS], wanted) is COLOURS
    assert choose_head([KINDS, COLOURS], None, ask=False) is None


@pytest.mark.parametrize("heads", [[], [KINDS], [KINDS, AUXILIARY]], ids=["none", "one", "the same targets twice"])
def test_where_there_is_no_choice_none_is_made(heads: list[Head]) -> None:
    assert choose_head(heads, None) is None


def test_several_are_named_in_the_error() -> None:
    with pytest.raises(BatchError, match=r"kind \(6, 3\), colour \(6, 2\).*`head='kind'` or `head='colour'`"):
        choose_head([KINDS, COLOURS], None)


@pytest.mark.parametrize("wanted", ["size", 2, -1])
def test_a_head_that_is_not_there(wanted: Any) -> None:
    with pytest.raises(ArgumentError, match=r"`head`.*kind \(6, 3\), colour \(6, 2\), but got"):
        choose_head([KINDS, COLOURS], wanted)
    with pytest.raises(ArgumentError, match="a single tensor"):
        choose_head([], wanted)
