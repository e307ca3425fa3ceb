"""Why there is no game: one sentence for each kind of training that cannot be measured, and none for any other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_interactions.model.reader import Sighting
from lightning_interactions.model.refusal import why_never, why_not
from lightning_interactions.model.seen import SeenCall

X = torch.randn(6, 5)
Y = torch.tensor([0, 2, 1, 1, 0, 2])
IDS = torch.ones(6, 7).long()
MAPS = torch.randn(6, 4, 8, 8)
LOGITS = torch.randn(6, 3)

GRAPHS = "graphs are not supported"
DETECTION = "object detection is not supported"
DENSE = "numbers for every position"
ADVERSARIAL = "adversarial networks"
UNLABELLED = "self-supervised"


def call(output: Any, given: Any = X, **options: Any) -> SeenCall:
    return SeenCall("", (given,), {}, 6, False, output=output, **options)


class Graph:
    """As those of torch_geometric are."""

    def __init__(self) -> None:
        self.x, self.y, self.edge_index = X, Y, torch.zeros(2, 9).long()


def of(package: str) -> Any:
    """Something that only the package it comes from tells apart."""
    return type("Data", (), {"__module__": f"{package}.data"})()


SAID: dict[str, tuple[Any, list[SeenCall] | None, int, str]] = {
    "a graph": (Graph(), [call(LOGITS)], 1, GRAPHS),
    "graphs inside": ({"graphs": [Graph(), Graph()], "labels": Y}, None, 1, GRAPHS),
    "torch_geometric": (of("torch_geometric"), [], 1, GRAPHS),
    "dgl": ([of("dgl"), Y], None, 1, GRAPHS),
    "boxes": ({"images": MAPS, "boxes": torch.zeros(6, 4), "labels": Y}, [call(LOGITS)], 1, DETECTION),
    "boxes of every image": (
        [[MAPS[0], MAPS[1]], [{"boxes": torch.zeros(2, 4), "labels": Y[:2]}, {"boxes": torch.zeros(1, 4)}]],
        None, 1, DETECTION),
    "segmentation without labels": ([MAPS], [call({"out": MAPS, "aux": MAPS}, MAPS)], 1, DENSE),
    "a language model without labels": (
        {"input_ids": IDS, "attention_mask": IDS}, [call(torch.randn(6, 7, 99), IDS)], 1, DENSE),
    "adversaries without labels": ([X], [call(LOGITS)], 2, ADVERSARIAL),
    "adversaries whose step calls nothing": ([X, Y], [], 2, ADVERSARIAL),
    "two views": ([X, X + 1], [call(LOGITS), call(LOGITS, X + 1)], 1, UNLABELLED),
    "only inputs": (X, None, 1, UNLABELLED),
}  # fmt: skip


@pytest.mark.parametrize(("batch", "calls", "optimizers", "said"), SAID.values(), ids=SAID.keys())
def test_why_there_is_no_game(batch: Any, calls: Any, optimizers: int, said: str) -> None:
    text = why_not(Sighting(batch, calls), optimizers)
    assert text is not None
    assert said in text
    assert "\n" not in text
    assert not text.endswith(".")


NOTHING: dict[str, tuple[Any, list[SeenCall] | None, int]] = {
    "segmentation": ([MAPS, (MAPS[:, 0] > 0).long()], [call(MAPS)], 1),
    "translation": ([Y, Y], [call((torch.tensor(1.0), torch.randn(6, 7, 99)))], 1),
    "classes": ([X, Y], [call(LOGITS)], 1),
    "classes in a column": ([X, Y.unsqueeze(1)], [call(LOGITS)], 1),
    "classes inside": ({"views": {"x": X}, "number": Y}, None, 1),
    "several optimizers": ([X, Y], [call(LOGITS)], 2),
    "several optimizers, not looked at": ([X, Y], None, 2),
    "targets made in the step": ([X], [call(LOGITS), call(torch.tensor(0.5), judge="loss")], 1),
    "features beside logits": ([X, Y], [call((MAPS, LOGITS))], 1),
    "maps of one pixel": ([X, Y], [call(MAPS[:, :, :1, :1])], 1),
    "maps inside the model": ([X, Y], [call(torch.tensor(0.5)), call(MAPS, inside=True)], 1),
    "maps of a loss": ([X, Y], [call(torch.tensor(0.5)), call(MAPS, judge="loss")], 1),
    "classes of every position": ([X, Y], [call(MAPS.argmax(1)), call(LOGITS)], 1),
    "an output that was too large": ([X, Y], [call(None)], 1),
    "only a loss": ([X, Y], [call(torch.tensor(0.5))], 1),
    "an object": (SimpleNamespace(x=X), [call(LOGITS), call(LOGITS, judge="metric")], 1),
}  # fmt: skip


@pytest.mark.parametrize(("batch", "calls", "optimizers"), NOTHING.values(), ids=NOTHING.keys())
def test_nothing_is_known_against_other_kinds(batch: Any, calls: Any, optimizers: int) -> None:
    assert why_not(Sighting(batch, calls), optimizers) is None


@pytest.mark.parametrize(
    "batch", [(X, X[:, 0]), {"x": X, "target": X[:, 0]}, {"x": X, "y": torch.rand(6, 2)}], ids=["pair", "target", "y"]
)
def test_numbers_to_predict_are_targets(batch: Any) -> None:
    """Whatever went wrong with a regression, it is not that there are no targets."""
    assert why_not(Sighting(batch, [call(LOGITS[:, :1])])) is None


@pytest.mark.parametrize("others", [[X, Y], [MAPS, (MAPS[:, 0] > 0).long()]], ids=["classes", "maps"])
def test_the_most_particular_kind_is_told(others: list[Tensor]) -> None:
    """A graph is no segmentation, whatever is returned for it, and boxes are no maps."""
    assert GRAPHS in str(why_not(Sighting([Graph(), *others], [call(MAPS)]), 2))
    assert DETECTION in str(why_not(Sighting({"boxes": X, "others": others}, [call(MAPS)]), 2))


def test_what_came_is_named() -> None:
    said = str(why_never(Sighting([of("torch_geometric"), Y])))
    assert said.startswith("the batch holds torch_geometric's Data, and")
    collated = type("DataBatch", (type(of("torch_geometric")),), {"__module__": "abc"})  # as its loaders make them
    assert str(why_never(Sighting(collated()))).startswith("the batch holds torch_geometric's DataBatch, and")
    boxes = [[MAPS[0]], [{"boxes": torch.zeros(2, 4), "labels": Y[:2]}]]
    assert str(why_never(Sighting(boxes))).startswith("the batch holds boxes (2, 4), and")
    assert "(6, 8, 8), with -100" in str(why_not(Sighting([MAPS], [call(MAPS, MAPS)])))
    assert "(6, 7), with -100" in str(why_not(Sighting({"input_ids": IDS}, [call(torch.randn(6, 7, 99), IDS)])))


def test_classes_beside_boxes_are_tried_first() -> None:
    assert why_never(Sighting({"images": MAPS, "boxes": X, "labels": Y}, [call(LOGITS)])) is None
