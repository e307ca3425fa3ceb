"""What tells two settings apart, in this process and in any other."""

from __future__ import annotations

import copy
import enum
import functools
import os
import pathlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_interactions import FeatureMask, ImagePatches, TabularFeatures
from lightning_interactions.measure.fingerprint import LONGEST, fingerprint

ROOT = Path(__file__).resolve().parents[2]


class Scaled:
    """A setting, something learned, and a method."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._learned = object()

    def __call__(self, x: Any) -> Any:
        return self.factor * x

    def times(self, x: Any) -> Any:
        return self.factor * x


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def named(x: Any, y: int = 0) -> Any:
    return x


def closure(factor: float) -> Any:
    def scaled(x: Any) -> Any:
        return factor * x

    return scaled


def nested(constant: int) -> Any:
    if constant == 1:
        return lambda xs: [x + 1 for x in xs]
    return lambda xs: [x + 2 for x in xs]


def after(first: Any, default: int) -> Any:
    def inner(x: Any = default) -> Any:
        return first(x)

    return inner


MAKERS: dict[str, list[Any]] = {
    "numbers": [lambda: 1, lambda: 1.0, lambda: True, lambda: "1", lambda: None, lambda: 1j, lambda: b"1"],
    "tensors": [
        lambda: torch.tensor([0, 1]),
        lambda: torch.tensor([1, 0]),
        lambda: torch.tensor([[0, 1]]),
        lambda: torch.tensor([0, 1], dtype=torch.int32),
        lambda: torch.tensor([0.0, 1.0]),
        lambda: torch.tensor([0.0, 1.0], dtype=torch.bfloat16),
        lambda: torch.tensor([False, True]),
        lambda: torch.tensor(0),
        lambda: torch.zeros(0),
        lambda: torch.tensor([1j, 0]),
        lambda: torch.tensor([1j, 0]).conj(),
    ],
    "arrays": [
        lambda: np.arange(3),
        lambda: np.arange(3)[::-1],
        lambda: np.arange(3.0),
        lambda: np.float64(1),
        lambda: np.array(["a", 1], dtype=object),
        lambda: np.array(["a", 2], dtype=object),
    ],
    "functions": [
        lambda: named,
        lambda: closure,
        lambda: functools.partial(named, y=1),
        lambda: functools.partial(named, y=2),
        lambda: functools.partial(named, 2),
        lambda: torch.nn.functional.relu,
        lambda: len,
        lambda: closure(1.0),
        lambda: closure(2.0),
        lambda: nested(1),
        lambda: nested(2),
        lambda: after(named, 1),
        lambda: after(named, 2),
        lambda: after(closure(1.0), 1),
        lambda: lambda z: z.sum(),
        lambda: lambda z: z.mean(),
        lambda: Scaled(1.0).times,
        lambda: Scaled(2.0).times,
        lambda: Scaled(1.0).__call__,
        lambda: Scaled.times,
    ],
    "containers": [
        lambda: [1, 2],
        lambda: [2, 1],
        lambda: (1, 2),
        lambda: {1, 2},
        lambda: {1: 2},
        lambda: {2: 1},
        lambda: [1, [2]],
        lambda: [torch.tensor(1)],
        lambda: [torch.tensor(2)],
        lambda: [],
        lambda: (),
        lambda: {},
    ],
    "objects": [
        lambda: Scaled(1.0),
        lambda: Scaled(2.0),
        lambda: Slotted(1.0),
        lambda: Slotted(2.0),
        lambda: SimpleNamespace(factor=1.0),
        lambda: Colour.RED,
        lambda: Colour.BLUE,
        lambda: Colour,
        lambda: Scaled,
        lambda: torch.float32,
        lambda: torch.device("cpu"),
        lambda: pathlib.PurePosixPath("a"),
        lambda: pathlib.PurePosixPath("b"),
        lambda: object(),
        lambda: np,
    ],
    "players": [
        lambda: FeatureMask([0, 0, 1]),
        lambda: FeatureMask([0, 1, 1]),
        lambda: FeatureMask([0, 1, 1], baseline=torch.ones(3)),
        lambda: FeatureMask([0, 1, 1], baseline=torch.zeros(3)),
        lambda: TabularFeatures(),
        lambda: ImagePatches(),
        lambda: ImagePatches(grid=(4, 4)),
    ],
}


@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_is_the_same_and_others_are_not(kind: str) -> None:
    first, again = ([fingerprint(make()) for make in MAKERS[kind]] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first), "all of these differ"
    assert not any("0x" in text for text in first)
    assert max(map(len, first)) < LONGEST


def test_a_copy_is_the_same() -> None:
    for value in (Scaled(1.0), FeatureMask([0, 1]), {"a": [torch.ones(2)]}, SimpleNamespace(f=closure(1.0))):
        assert fingerprint(copy.deepcopy(value)) == fingerprint(value)


@pytest.mark.thorough
def test_another_process_says_the_same() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/measure'); import test_fingerprint as t; "
        "print([t.fingerprint(make()) for makers in t.MAKERS.values() for make in makers]); "
        "print(t.fingerprint({'names': set('abcdefgh'), 'f': lambda x: x in {'a', 'b', 'c', 'd'}}))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1
    assert str([fingerprint(make()) for makers in MAKERS.values() for make in makers]) in said.pop()


def test_the_order_of_mappings_and_sets_does_not_count() -> None:
    assert fingerprint({"a": 1, "b": {3, 1}}) == fingerprint({"b": {1, 3}, "a": 1}) == "{'a': 1, 'b': {1, 3}}"


def test_what_contains_itself_ends() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    knot = SimpleNamespace(name="x")
    knot.again = {"knot": knot}

    def recursive(x: int) -> int:
        return recursive(x - 1) if x else 0

    assert fingerprint(ring) == "[1, <itself>]"
    assert fingerprint(knot) == "types.SimpleNamespace(again={'knot': <itself>}, name='x')"
    assert fingerprint(recursive) == fingerprint(recursive)


def test_what_is_shared_many_times_is_read_once_and_stays_short() -> None:
    value: Any = [0.5]
    for _ in range(60):
        value = SimpleNamespace(left=value, right=value)
    assert len(fingerprint(value)) < 2 * LONGEST
    other: Any = [0.25]
    for _ in range(60):
        other = SimpleNamespace(left=other, right=other)
    assert fingerprint(value) != fingerprint(other), "the hash reaches all the way down"


def test_a_function_of_a_script_has_the_same_name_in_spawned_processes() -> None:
    child, parent = (lambda x: x), (lambda x: x)
    child.__module__, parent.__module__ = "__mp_main__", "__main__"
    assert fingerprint(child) == fingerprint(parent)


def test_what_cannot_be_read_is_its_class() -> None:
    class Broken:
        __slots__ = ()

        def __repr__(self) -> str:
            raise ValueError("no")

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert fingerprint(Broken()).endswith("Broken")
    assert fingerprint(deep) == "list"


def test_sparse_and_meta_tensors_have_one_too() -> None:
    dense = torch.eye(3)
    assert fingerprint(dense.to_sparse()) == fingerprint(dense)
    assert fingerprint(torch.zeros(2, device="meta")) != fingerprint(torch.zeros(3, device="meta"))


def test_nothing_is_changed_by_reading() -> None:
    weights: Tensor = torch.ones(3, requires_grad=True)
    state = torch.get_rng_state()
    fingerprint([weights, closure(2.0)])
    assert weights.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
