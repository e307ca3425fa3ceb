"""Nested structures: taken apart and put together again, whatever they are made of."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, defaultdict
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_interactions.model.tree import DEPTH, copied, leaves, rebuild, tensors


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Record:
    inputs: Any
    note: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    inputs: Any


class Encoding(UserDict):  # type: ignore[type-arg]
    """As tokenizers return them: with attributes of their own."""

    def __init__(self, data: Any = None, kind: str = "encoding") -> None:
        super().__init__(data)
        self.kind = kind


plain = st.integers() | st.text(max_size=3) | st.none() | st.booleans()
names = st.text("abc", min_size=1, max_size=2)


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    mappings = st.dictionaries(names | st.integers(), children, max_size=3)
    return (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | mappings
        | mappings.map(OrderedDict)
        | mappings.map(Encoding)
        | st.builds(Pair, children, children)
        | st.builds(Record, children, children)
        | st.builds(Frozen, children)
    )


structures = st.recursive(plain, containers, max_leaves=12)


def kinds(value: Any) -> Any:
    """The types of a structure, nested as it is."""
    if dataclasses.is_dataclass(value):
        return type(value), [kinds(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, (dict, UserDict)):
        return type(value), [(key, kinds(item)) for key, item in value.items()]
    return type(value), [kinds(item) for item in value] if isinstance(value, (list, tuple)) else []


@given(structures)
def test_rebuilt_from_the_same_leaves_it_is_the_same(value: Any) -> None:
    again = rebuild(value, lambda path, leaf: leaf)
    assert again == value
    assert kinds(again) == kinds(value)


@given(structures)
def test_every_leaf_is_visited_once_in_order_with_its_path(value: Any) -> None:
    seen: list[tuple[Any, Any]] = []
    rebuild(value, lambda path, leaf: seen.append((path, leaf)))
    assert seen == list(leaves(value))
    assert len({path for path, _ in seen}) == len(seen)


@given(structures)
def test_a_path_leads_to_its_leaf(value: Any) -> None:
    for path, leaf in leaves(value):
        found = value
        for key in path:
            found = getattr(found, key) if isinstance(found, (Record, Frozen)) else found[key]
        assert found is leaf


@given(structures)
def test_other_leaves_leave_the_structure_as_it_was(value: Any) -> None:
    before, paths = kinds(value), [path for path, _ in leaves(value)]
    changed = rebuild(value, lambda path, leaf: len(path))
    assert kinds(value) == before
    assert list(leaves(changed)) == [(path, len(path)) for path in paths]


def test_what_is_no_container_is_a_leaf() -> None:
    class Own(list):  # type: ignore[type-arg]
        pass

    for leaf in (Own([1]), {1, 2}, "text", torch.Size([2, 3]), Record, range(3), None):
        assert list(leaves([leaf])) == [((0,), leaf)]
        assert rebuild([leaf], lambda path, leaf: leaf)[0] is leaf


def test_mappings_stay_what_they_are() -> None:
    encoding = Encoding({"ids": 1}, kind="mine")
    again = rebuild(encoding, lambda path, leaf: leaf + 1)
    assert (type(again), again["ids"], again.kind) == (Encoding, 2, "mine")
    assert encoding["ids"] == 1
    usual = rebuild(defaultdict(list, {"a": 1}), lambda path, leaf: leaf)
    assert usual["b"] == []
    assert rebuild(MappingProxyType({"a": 1}), lambda path, leaf: leaf + 1) == {"a": 2}, "it cannot be written to"


def test_dataclasses_keep_what_is_no_field() -> None:
    record = Record(1)
    record.extra = "kept"  # type: ignore[attr-defined]
    again = rebuild(record, lambda path, leaf: 5)
    assert (again.inputs, again.note, again.extra) == (5, 5, "kept")
    assert rebuild(Frozen([1]), lambda path, leaf: leaf + 1) == Frozen([2])


def test_structures_that_contain_themselves_end_somewhere() -> None:
    endless: list[Any] = [torch.ones(1)]
    endless.append(endless)
    paths = [path for path, _ in leaves(endless)]
    assert max(map(len, paths)) == DEPTH
    assert len(tensors(endless)) == DEPTH
    copied(endless)


def test_deeper_levels_are_leaves() -> None:
    value: Any = torch.ones(1)
    for _ in range(DEPTH):
        value = [value]
    assert list(tensors(value)) == [(0,) * DEPTH]
    assert list(tensors([value])) == []
    ((path, leaf),) = leaves([value])
    assert path == (0,) * DEPTH
    assert isinstance(leaf, list)
    assert len(leaf) == 1


@pytest.mark.parametrize("build", [lambda x: [x], lambda x: {"a": (x,)}, Record, lambda x: Pair(x, 1)])
def test_copies_do_not_change_with_what_they_were_copied_from(build: Any) -> None:
    x = torch.ones(2, requires_grad=True)
    (copy,) = tensors(copied(build(x))).values()
    with torch.no_grad():
        x.zero_()
    assert copy.tolist() == [1.0, 1.0]
    assert not copy.requires_grad


def test_packed_sequences_are_taken_apart_and_put_together() -> None:
    packed = pack_padded_sequence(torch.randn(3, 4, 2), torch.tensor([2, 4, 1]), batch_first=True, enforce_sorted=False)
    again = copied(packed)
    assert type(again) is type(packed)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(again, packed, strict=True))
