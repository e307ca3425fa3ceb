"""What a model keeps in forward is as it was after the probing context, and every pass inside begins from one state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from leaving import BoomError, however, run
from models import mlp
from torch import Tensor, nn
from torchmetrics import CatMetric, SumMetric

from lightning_interactions import InteractionsWarning
from lightning_interactions.model.keep import Kept
from lightning_interactions.model.quiet import quiet


class Remembering(nn.Module):
    """Keeps something in every kind of place, and returns how much there is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.hidden: Tensor | None = None
        self.cache: dict[str, list[int]] = {"seen": []}
        self.generator = torch.Generator().manual_seed(3)
        self.averaged = [nn.Linear(1, 1)]
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.total = self.total + x.sum()  # another tensor in its place
        self.hidden = x.mean() if self.hidden is None else self.hidden + x.mean()
        self.cache["seen"].append(len(x))
        self.count += 1
        self.averaged[0].weight.data += 1
        kept = self.count + self.total
        return self.calls + kept + self.hidden + len(self.cache["seen"]) + torch.rand(1, generator=self.generator)

    def state(self) -> tuple[Any, ...]:
        weight = self.averaged[0].weight
        kept = (self.calls, self.hidden, list(self.cache["seen"]), self.generator.get_state().tolist())
        contents = (self.count.item(), self.total.item(), weight.item())
        return (*kept, *contents, *map(id, (weight, self.cache["seen"], self.count, self.total)))


@however
def test_whatever_a_forward_pass_keeps_is_as_it_was(fails: bool) -> None:
    model = Remembering()
    model(torch.ones(2, 1))
    before = model.state()
    run(model, lambda: [model(torch.ones(3, 1)) for _ in range(3)], fails=fails)
    assert model.state() == before
    assert model.state()[1] is before[1]


@pytest.mark.parametrize("begun", [False, True])
def test_every_forward_pass_can_begin_from_the_state_that_was_found(begun: bool) -> None:
    model, x = Remembering(), torch.ones(3, 1)
    if begun:
        model(torch.ones(2, 1))
    before = model.state()
    with quiet(model) as inside:
        outputs = []
        for _ in range(4):
            inside.rewind()
            assert model.state() == before
            outputs.append(model(x))
        assert all(torch.equal(out, outputs[0]) for out in outputs)
        assert not torch.equal(model(x), outputs[0]), "only where it is asked for"
    assert model.state() == before


@however
def test_forward_passes_can_begin_from_an_earlier_state(fails: bool) -> None:
    model, x = Remembering(), torch.ones(3, 1)
    first = copy.deepcopy(model)(x)
    start, before_all = Kept(model), model.state()
    model.train()
    model(torch.ones(2, 1))
    model.new = 1
    model.hidden.add_(1)
    before, hidden = model.state(), model.hidden
    outputs = []
    try:
        with quiet(model, start=start) as inside:
            for _ in range(3):
                inside.rewind()
                assert model.state() == before_all
                assert not model.training, "what belongs to the calling is not rewound"
                outputs.append(model(x))
            if fails:
                raise BoomError
    except BoomError:
        assert fails
    assert all(torch.equal(out, first) for out in outputs)
    assert model.state() == before
    assert (model.hidden is hidden, model.new, model.training) == (True, 1, True)


def test_a_model_without_state_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    own = Kept.rewind
    monkeypatch.setattr(Kept, "rewind", lambda self: looked.append(1) or own(self))
    for model, expected in ((mlp(), 1), (Remembering(), 4)):
        looked.clear()
        with quiet(model) as inside:
            for _ in range(5):
                inside.rewind()
                model(torch.ones(1, 5))
        assert len(looked) == expected


def test_global_random_states_are_not_rewound() -> None:
    with quiet(mlp()) as inside:
        inside.rewind()
        first = torch.rand(3)
        inside.rewind()
        assert not torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("place", ["attribute", "buffer", "list"])
def test_a_state_from_inference_mode_can_be_written_to(place: str) -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            state = self.state[0] if place == "list" else self.state
            return x + state.add_(1)

    model = Writing()
    with torch.inference_mode():  # as a validation is
        state = torch.zeros(2)
        if place == "buffer":
            model.register_buffer("state", state)
        else:
            model.state = [state] if place == "list" else state
        model(torch.ones(2))
    with quiet(model) as inside:
        for _ in range(3):
            inside.rewind()
            assert torch.equal(model(torch.ones(2)), torch.full((2,), 3.0))
    assert (model.state[0] if place == "list" else model.state) is state
    assert torch.equal(state, torch.ones(2))


@however
def test_parameters_are_put_back_on_request(fails: bool) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    passes = []
    try:
        with quiet(model, parameters=True) as inside:
            for _ in range(3):
                inside.rewind()
                model.weight.data.mul_(2)
                passes.append(model.weight.clone())
            if fails:
                raise BoomError
    except BoomError:
        assert fails
    assert torch.equal(model.weight, before)
    assert all(torch.equal(each, 2 * before) for each in passes)
    assert inside.parameters_written
    with quiet(model, parameters=True) as inside:
        model(torch.ones(1, 2))
    assert not inside.parameters_written


def test_parameters_that_were_not_kept_and_are_lost_are_told_of() -> None:
    model = nn.Linear(2, 2)
    with pytest.warns(InteractionsWarning, match="wrote to its parameters"), quiet(model) as inside:
        model.weight.mul_(2)
    assert inside.parameters_written


def test_metrics_go_on_where_they_were() -> None:
    class Measuring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sum, self.all = SumMetric(), CatMetric()

        def forward(self, x: Tensor) -> Tensor:
            self.all.update(x.mean())
            return self.sum(x.sum()) + self.sum.update_count

    model, x = Measuring(), torch.ones(2)
    model(x)
    with quiet(model) as inside:
        inside.rewind()
        first = model(x)
        inside.rewind()
        assert torch.equal(model(x), first)
    assert (model.sum.update_count, model.all.update_count, len(model.all.value)) == (1, 1, 1)
    assert model.sum.compute() == 2
    assert model.all.compute() == 1


def test_nested_contexts_go_back_one_by_one() -> None:
    model = Remembering()
    with quiet(model):
        model(torch.ones(1, 1))
        inner = model.state()
        with quiet(model):
            model(torch.ones(2, 1))
        assert model.state() == inner
    assert model.calls == 0
