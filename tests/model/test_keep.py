"""A snapshot goes back to the same objects with the same contents, whatever a forward pass did to them."""

from __future__ import annotations

import copy
import random
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric, MetricCollection, SumMetric

from lightning_interactions.model.keep import LIMIT, Kept

# -- an oracle: what can be seen of a thing, by identity and content --------------------------------------------------


GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def drawn(generator: Any) -> Any:
    """What a copy of a random generator would draw."""
    if isinstance(generator, torch.Generator):
        return torch.rand(5, generator=generator.clone_state()).tolist()
    generator = copy.deepcopy(generator)
    if isinstance(generator, np.random.Generator):
        return generator.integers(3, size=5, dtype=np.int32).tolist()
    return [
        generator.normal() if isinstance(generator, np.random.RandomState) else generator.gauss(0, 1) for _ in "abc"
    ]


def seen(thing: Any, path: frozenset[int] = frozenset()) -> Any:
    """Everything that can be seen of a nested thing, with the identity of all that is in it."""
    if id(thing) in path:
        return id(thing)
    inside = partial(seen, path=path | {id(thing)})
    if isinstance(thing, Tensor):
        content = thing.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy()
        return id(thing), type(thing), tuple(thing.shape), thing.requires_grad, content.tobytes()
    if isinstance(thing, np.ndarray):
        return id(thing), [*map(inside, thing.tolist())] if thing.dtype.hasobject else thing.tobytes()
    if isinstance(thing, GENERATORS):
        return id(thing), drawn(thing)
    held: list[Any] = [id(thing), type(thing)]
    if isinstance(thing, dict):
        held += [(inside(k), inside(v)) for k, v in thing.items()]
        held.append(getattr(thing, "default_factory", None))
    elif isinstance(thing, (list, tuple, deque)):
        held += map(inside, list.copy(thing) if isinstance(thing, list) else thing)
    elif isinstance(thing, (set, frozenset)):
        held += sorted(map(id, thing))
    held += [inside(getattr(thing, name)) for name in getattr(type(thing), "__slots__", ()) if hasattr(thing, name)]
    if (hasattr(thing, "__dict__") and not callable(thing)) or isinstance(thing, nn.Module):
        held += [(name, inside(value)) for name, value in vars(thing).items()]
    return held


class Holding(nn.Module):
    """A module with one thing in an attribute, and a part that has the same."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.part = nn.Linear(2, 2)
        self.thing = self.part.__dict__["thing"] = thing


# -- every kind of thing ----------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


class Plain:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def look(self) -> None:
        pass


class Slotted:
    __slots__ = ("__private", "a", "b")

    def __init__(self) -> None:
        self.a, self.__private = torch.zeros(2), 1

    def change(self) -> None:
        self.a.add_(1)
        self.b = 3
        self.__private = 2
        assert self.__private

    @property
    def private(self) -> int:
        return self.__private


@dataclass(frozen=True)
class Frozen:
    values: list[int] = field(default_factory=lambda: [1, 2])
    count: int = 0


class OwnDict(dict[str, Any]):
    """Refuses to be filled, and has an attribute."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.note = [1]

    def __setitem__(self, key: str, value: Any) -> None:
        raise AssertionError("not to be called")


class OwnList(list[Any]):
    def __iter__(self) -> Any:
        raise AssertionError("not to be called")


def in_place(tensor: Tensor) -> None:
    tensor.add_(1)


def unnoticed(tensor: Tensor) -> None:
    tensor.data.add_(1)


def replaced(tensor: Tensor) -> None:
    tensor.data = torch.ones(7)


def grown(held: dict[Any, Any]) -> None:
    held["new"] = held.pop("old")
    held["more"] = 1


def reordered(held: OrderedDict[str, int]) -> None:
    held.move_to_end("a")


def cyclic() -> list[Any]:
    held: list[Any] = [torch.zeros(1)]
    held.append(held)
    return held


def grow_cyclic(held: list[Any]) -> None:
    held[0].add_(1)
    held.insert(0, held)


def change_all(*parts: Callable[[Any], object]) -> Callable[[Any], object]:
    def change(thing: Any) -> None:
        for part in parts:
            part(thing)

    return change


TENSORS: dict[str, Callable[[], Tensor]] = {
    "float": lambda: torch.zeros(3),
    "with-nan": lambda: torch.tensor([torch.nan, -0.0, 1.0]),
    "scalar": lambda: torch.zeros(()),
    "empty": lambda: torch.zeros(0),
    "bool": lambda: torch.zeros(3, dtype=torch.int8),
    "half": lambda: torch.zeros(3, dtype=torch.bfloat16),
    "complex": lambda: torch.zeros(3, dtype=torch.complex128),
    "large": lambda: torch.zeros(30_000),
    "channels-last": lambda: torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "strided": lambda: torch.zeros(6)[::2],
    "transposed": lambda: torch.zeros(2, 3).T,
    "with-gradient": lambda: torch.zeros(3, requires_grad=True),
    "part-of-a-graph": lambda: torch.zeros(3, requires_grad=True) * 2,
    "parameter": lambda: nn.Parameter(torch.zeros(3)),
    "inference": lambda: _inference(),
}
WRITES = {"in-place": in_place, "unnoticed": unnoticed, "replaced": replaced}


def _inference() -> Tensor:
    with torch.inference_mode():
        return torch.zeros(3)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("place", ["attribute", "list", "buffer"])
def test_tensors_are_the_same_with_the_same_content(place: str, kind: str, write: str) -> None:
    tensor = TENSORS[kind]()
    model = Holding([tensor, torch.ones(2)] if place == "list" else tensor)
    if place == "buffer" and not isinstance(tensor, nn.Parameter):
        model.register_buffer("buffer", tensor)
    before, version = seen(model), None if tensor.is_inference() else tensor._version
    kept = Kept(model, parameters=kind == "parameter")  # a module registers it
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        WRITES[write](tensor)
    assert seen(model) != before or kind == "empty"
    kept.restore()
    assert seen(model) == before
    if version is not None and write != "in-place":
        assert tensor._version == version, "autograd has nothing to count"


THINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "list": (lambda: [1, torch.zeros(2)], change_all(lambda x: x[1].add_(1), lambda x: x.append(2))),
    "list-reordered": (lambda: [[1], [2]], list.reverse),
    "list-of-its-own-kind": (lambda: OwnList([1, 2]), lambda x: x.append(3)),
    "dict": (lambda: {"old": 1, 2: [3]}, grown),
    "dict-keys": (lambda: {(1, 2): 3}, lambda x: x.update({(1, 3): 4})),
    "dict-of-its-own-kind": (lambda: OwnDict({"old": 1}), change_all(lambda x: x.update(n=2), lambda x: x.note.pop())),
    "ordered-dict": (lambda: OrderedDict(a=1, b=2), reordered),
    "ordered-dict-last": (lambda: OrderedDict(a=1, b=2), lambda x: x.popitem(last=False)),
    "default-dict": (lambda: defaultdict(list, a=[1]), change_all(lambda x: x["b"], lambda x: x["a"].append(2))),
    "default-dict-made-plain": (lambda: defaultdict(list, a=[1]), lambda x: setattr(x, "default_factory", None)),
    "counter": (lambda: Counter("aab"), lambda x: x.update("abc")),
    "set": (lambda: {1, 2, "a"}, change_all(lambda x: x.add(3), lambda x: x.discard("a"))),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda x: x.append(3)),
    "tuple": (lambda: (1, [2], torch.zeros(1)), change_all(lambda x: x[1].append(3), lambda x: x[2].add_(1))),
    "named-tuple": (lambda: Pair([1], {"a": 2}), lambda x: x.right.clear()),
    "cycle": (cyclic, grow_cyclic),
    "deep": (lambda: {"a": [({"b": [torch.zeros(1)]},)]}, lambda x: x["a"][0][0]["b"][0].add_(1)),
    "array": (lambda: np.zeros(3), lambda x: x.__iadd__(1)),
    "array-with-nan": (lambda: np.array([np.nan, 1]), lambda x: x.fill(np.nan)),
    "array-of-objects": (lambda: np.array([[1], None], dtype=object), lambda x: x[0].append(2)),
    "torch-generator": (lambda: torch.Generator().manual_seed(1), lambda x: torch.rand(1, generator=x)),
    "numpy-generator": (lambda: np.random.default_rng(1), lambda x: x.random()),
    "numpy-generator-twister": (lambda: np.random.Generator(np.random.MT19937(1)), lambda x: x.integers(3)),
    "numpy-random-state": (lambda: np.random.RandomState(1), lambda x: x.normal()),
    "python-random": (lambda: random.Random(1), lambda x: x.gauss(0, 1)),
    "generator-in-a-dict": (lambda: {"g": [np.random.default_rng(1)]}, lambda x: x["g"][0].integers(3)),
    "hidden-module": (lambda: [nn.BatchNorm1d(2)], lambda x: x[0](torch.rand(4, 2))),
    "hidden-parameter": (lambda: {"a": nn.Linear(2, 2)}, lambda x: x["a"].weight.data.mul_(2)),
    "object": (lambda: Plain(a=1, b=[2]), change_all(lambda x: x.b.append(3), lambda x: setattr(x, "a", 2))),
    "object-attributes": (lambda: Plain(a=1, b=[2]), lambda x: x.__dict__.update(c=x.__dict__.pop("a"))),
    "object-with-slots": (Slotted, Slotted.change),
    "frozen-object": (Frozen, change_all(lambda x: x.values.clear(), lambda x: object.__setattr__(x, "count", 5))),
    "partial": (lambda: partial(print, [1]), lambda x: x.args[0].append(2)),
    "method": (lambda: Plain(a=[1]).look, lambda x: x.__self__.a.append(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", THINGS)
def test_things_are_the_same_and_hold_the_same(name: str) -> None:
    make, change = THINGS[name]
    thing = make()
    model = Holding(thing)
    inside = thing if name not in ("partial", "method") else (thing.args if name == "partial" else thing.__self__)
    before, private = seen([model, inside]), getattr(thing, "private", None)
    kept = Kept(model)
    for _ in range(2):  # a snapshot can be used again
        change(thing)
        assert seen([model, inside])[2:] != before[2:], "it has changed"
        kept.restore()
        assert seen([model, inside])[2:] == before[2:]
        assert getattr(thing, "private", None) == private
    change(thing)
    assert kept.rewind()
    assert seen([model, inside])[2:] == before[2:]
    assert not kept.rewind()


def test_modes_of_hidden_modules_come_back() -> None:
    model = Holding([nn.Dropout()])
    kept = Kept(model)
    model.thing[0].eval()
    kept.restore()
    assert model.thing[0].training


@pytest.mark.parametrize("size", [3, 30_000])
def test_content_is_compared_bit_by_bit(size: int) -> None:
    model = Holding([torch.full((size,), torch.nan), torch.zeros(size)])
    kept = Kept(model)
    assert not kept.rewind(), "nan equals itself"
    model.thing[1].neg_()
    assert kept.rewind()
    assert not model.thing[1].signbit().any()


@pytest.mark.parametrize("write", [lambda t: t.requires_grad_(), lambda t: t.mul_(torch.ones(2, requires_grad=True))])
def test_tensors_that_came_to_need_gradients_do_not_any_more(write: Callable[[Tensor], object]) -> None:
    model = nn.Sequential()
    model.register_buffer("state", torch.ones(2))
    before, kept = seen(model), Kept(model)
    with torch.enable_grad():
        write(model.state)
    kept.restore()
    assert seen(model) == before
    assert model.state.is_leaf


def test_attributes_come_go_and_change() -> None:
    model = Holding([1])
    model.number, model.gone, model.nothing = 1, "here", None
    before, order = seen(model), list(vars(model))
    kept = Kept(model)
    model.number, model.new, model.thing, model.nothing = 2, 3, [1], nn.Linear(1, 1)  # the last is registered
    del model.gone
    kept.restore()
    assert seen(model) == before
    assert list(vars(model)) == order
    assert "nothing" not in model._modules


@pytest.mark.parametrize("back", [Kept.restore, Kept.rewind])
def test_attributes_that_are_new_or_renamed(back: Callable[[Kept], object]) -> None:
    model = nn.Sequential()
    model.last = [1]
    before = seen(model)
    kept = Kept(model)
    model.new = 1
    back(kept)
    assert seen(model) == before
    model.renamed = vars(model).pop("last")  # the same values in the same order
    back(kept)
    assert seen(model) == before


def test_what_is_registered_comes_goes_and_changes() -> None:
    model = Holding(None)
    model.register_buffer("kept", torch.zeros(2))
    model.register_buffer("gone", torch.zeros(2), persistent=False)
    model.register_buffer("none", None)
    before, names = seen(model), list(model.state_dict())
    kept = Kept(model)
    model.kept = torch.ones(2)
    model.none = torch.ones(1)
    del model.gone
    model.register_buffer("new", torch.ones(1), persistent=False)
    model.built = nn.Linear(2, 2)
    model.part.bias = None
    model.own = nn.Parameter(torch.ones(1))
    model.register_forward_hook(print)
    model.part.requires_grad_(False)
    kept.restore()
    assert seen(model) == before
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    "make", [MeanMetric, CatMetric, SumMetric, lambda: MetricCollection([SumMetric(), MeanMetric()])]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_metrics(make: Callable[[], Any], hidden: bool) -> None:
    metric = make()
    metric.update(torch.tensor([1.0, 2.0]))
    model = nn.Sequential()
    model.metric = [metric] if hidden else metric
    first = next(iter(metric.values())) if isinstance(metric, MetricCollection) else metric
    before, count, value = seen(model), first.update_count, first.compute()
    first._computed = None
    before = seen(model)
    kept = Kept(model)
    metric.update(torch.tensor([9.0]))
    metric(torch.tensor([4.0]))
    metric.compute()
    kept.restore()
    assert seen(model) == before
    assert first.update_count == count
    assert torch.equal(first.compute(), value)
    metric.reset()


def test_lazy_layers_are_lazy_again() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    model.train()
    kept = Kept(model)
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        out = model(torch.ones(4, 2))
        states.append((out, [type(part) for part in model]))
        kept.rewind()
        assert type(model[0]) is nn.Linear, "built once only, or every pass would have other weights"
        assert model[0].in_features == 2
        kept.restore()
        assert [type(part) for part in model] == [nn.LazyLinear, nn.LazyBatchNorm1d]
        assert model[0].weight.data.numel() == 0
        assert all(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), model[1].running_mean))
    assert torch.equal(states[0][0], states[1][0])
    model(torch.ones(4, 5))
    assert model[0].weight.shape == (3, 5)


def test_parts_built_by_a_forward_pass_are_not_built_again() -> None:
    class Building(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net: nn.Module | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.net is None:
                self.net = nn.Linear(x.shape[1], 3)
            return self.net(x)

    model = Building()
    kept = Kept(model)
    first = model(torch.ones(2, 2))
    kept.rewind()
    assert torch.equal(model(torch.ones(2, 2)), first)
    kept.restore()
    assert model.net is None
    assert not list(model.parameters())


# -- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITES)
def test_parameters_are_kept_on_request(write: str) -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    before = seen([model, model.weight.grad])
    kept = Kept(model, parameters=True)
    assert not kept.parameters_written
    for tensor in (model.weight, model.weight.grad):
        with torch.no_grad():
            WRITES[write](tensor)
    kept.restore()
    assert seen([model, model.weight.grad])[2:] == before[2:]
    assert kept.parameters_written


def test_parameters_are_watched_at_least() -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    gradient, kept = model.weight.grad, Kept(model)
    model.weight.grad = None
    model.weight.data = torch.ones(2, 2)  # other memory: the old is still there
    model.bias.requires_grad = False
    kept.restore()
    assert model.weight.grad is gradient
    assert model.bias.requires_grad
    assert not torch.equal(model.weight, torch.ones(2, 2))
    assert not kept.parameters_written
    with torch.no_grad():
        model.weight.add_(1)
    assert kept.parameters_written


# -- what is left alone -----------------------------------------------------------------------------------------------


def test_things_that_are_no_state_are_not_touched() -> None:
    class Refuses(threading.Thread):
        pass

    class Data(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.reads: list[int] = []

    model = Holding(None)
    data, lock, thread = Data(), threading.Lock(), Refuses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.others = {"data": data, "lock": lock, "thread": thread, "optimizer": optimizer, "log": print, "kind": Data}
    kept = Kept(model)
    data.reads.append(1)
    optimizer.param_groups[0]["lr"] = 0.2
    kept.restore()
    assert (data.reads, optimizer.param_groups[0]["lr"]) == ([1], 0.2)


def test_the_trainer_is_not_walked_into() -> None:
    model = Holding(None)
    trainer = model._trainer = Plain(epoch=[0])
    kept = Kept(model)
    trainer.epoch.append(1)
    kept.restore()
    assert trainer.epoch == [0, 1]
    assert model._trainer is trainer


def test_the_number_of_objects_is_bounded_and_the_nearest_come_first() -> None:
    model = Holding([[i] for i in range(2 * LIMIT)])
    model.near = [1]
    kept = Kept(model)
    model.near.append(2)
    model.thing[0].append(2)
    model.thing[-1].append(2)
    kept.restore()
    assert (model.near, model.thing[0], len(model.thing[-1])) == ([1], [0], 2)


def test_a_thing_that_refuses_does_not_keep_others_from_being_restored() -> None:
    class Refusing(np.ndarray):
        def __setitem__(self, key: Any, value: Any) -> None:
            raise ZeroDivisionError

    model = Holding([1])
    model.array, model.last = np.zeros(3).view(Refusing), torch.zeros(1)
    kept = Kept(model)
    model.array.fill(1)
    model.thing.append(2)
    model.last.add_(1)
    with pytest.raises(ZeroDivisionError):
        kept.restore()
    assert (model.thing, model.last.item()) == ([1], 0)


def test_nothing_is_written_where_nothing_changed() -> None:
    class Watched(nn.Module):
        def __setattr__(self, name: str, value: Any) -> None:
            assert "ready" not in self.__dict__
            super().__setattr__(name, value)

    model = Watched()
    model.held, model.tensor, model.ready = [1], torch.zeros(2), True
    kept, version = Kept(model), model.tensor._version
    kept.restore()
    assert not kept.rewind()
    assert model.tensor._version == version


def test_scripted_modules_keep_their_buffers() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted = torch.jit.script(Counting())
    model = nn.Sequential(scripted)
    kept = Kept(model)
    model(torch.ones(1))
    kept.restore()
    assert scripted.calls == 0


# -- any tree ---------------------------------------------------------------------------------------------------------

leaves = st.one_of(
    st.integers(-3, 3), st.text(max_size=2), st.none(), st.booleans(),
    st.integers(0, 3).map(lambda size: torch.arange(size, dtype=torch.float32)),
    st.integers(0, 3).map(lambda size: np.arange(size)),
    st.integers(0, 3).map(random.Random), st.integers(0, 3).map(lambda seed: torch.Generator().manual_seed(seed)),
)  # fmt: skip


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists, dicts = st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    return st.one_of(
        lists, dicts, lists.map(tuple), lists.map(deque), dicts.map(OrderedDict),
        dicts.map(lambda d: defaultdict(list, d)), dicts.map(lambda d: Plain(**d)), dicts.map(Holding),
        st.tuples(inner, inner).map(lambda both: Pair(*both)), st.sets(st.integers(0, 3)),
    )  # fmt: skip


trees = st.recursive(leaves, containers, max_leaves=12)


def everything_in(thing: Any) -> list[Any]:
    """All that can be reached, each once."""
    found, waiting = {}, [thing]
    while waiting:
        one = waiting.pop()
        if id(one) not in found:
            found[id(one)] = one
            if isinstance(one, dict):
                waiting += one.values()
            elif isinstance(one, (list, tuple, deque)):
                waiting += one
            elif isinstance(one, Plain):
                waiting += vars(one).values()
            elif isinstance(one, Holding):
                waiting.append(vars(one.part)["thing"])
    return list(found.values())


def mutate(thing: Any, data: st.DataObject) -> None:
    """Change one thing in one of the ways it can be changed."""
    if isinstance(thing, Tensor):
        with torch.no_grad():
            data.draw(st.sampled_from([*WRITES.values(), lambda t: t.fill_(torch.nan)]))(thing)
    elif isinstance(thing, np.ndarray):
        thing += 1
    elif isinstance(thing, GENERATORS):
        thing.random() if isinstance(thing, random.Random) else torch.rand(1, generator=thing)
    else:
        refill(thing, data.draw(trees), data)


def refill(thing: Any, other: Any, data: st.DataObject) -> None:
    """Let a container hold something else."""
    if isinstance(thing, dict) and all(isinstance(key, str) and len(key) == 1 for key in thing):
        thing[data.draw(st.sampled_from("abcd"))] = other
        if data.draw(st.booleans()):
            del thing[data.draw(st.sampled_from(list(thing)))]
    elif isinstance(thing, (list, deque)):
        thing.appendleft(other) if isinstance(thing, deque) else thing.insert(0, other)
        if data.draw(st.booleans()):
            thing.pop()
    elif isinstance(thing, set):
        thing ^= {data.draw(st.integers(0, 5))}
    elif isinstance(thing, (Plain, Holding)):
        name = data.draw(st.sampled_from(["thing", "a", "new"]))
        thing.__dict__[name] = other


@settings(max_examples=150)
@given(containers(trees), st.data())
def test_any_tree_changed_in_any_way_comes_back(tree: Any, data: st.DataObject) -> None:
    model = nn.Sequential(nn.Linear(1, 1), Holding(tree))
    before = seen(model)
    kept = Kept(model)
    for _ in range(data.draw(st.integers(1, 6))):
        mutate(data.draw(st.sampled_from(everything_in(tree))), data)
    if data.draw(st.booleans()):
        kept.rewind()
        assert seen(model) == before
    kept.restore()
    assert seen(model) == before
    assert not kept.rewind()


def test_copies_of_a_model_have_nothing_to_do_with_it() -> None:
    model = Holding([torch.zeros(1)])
    kept, other = Kept(model), copy.deepcopy(model)
    other.thing[0].add_(1)
    kept.restore()
    assert other.thing[0] == 1
