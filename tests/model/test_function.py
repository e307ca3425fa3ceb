"""Functions in the place of a model."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from models import mlp
from torch import Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.errors import ArgumentError
from lightning_interactions.model.function import as_module
from lightning_interactions.players import TabularFeatures, Tokens

CPU = torch.device("cpu")
ZERO = TabularFeatures("zero")
NET = mlp()


def dropping(p: float = 0.5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(p), nn.Linear(16, 3)).train()


def at_module_level(x: Tensor) -> Tensor:
    return NET(x)


def scaled(net: nn.Module, x: Tensor, by: float = 1.0) -> Tensor:
    return by * net(x)


class Keeper:
    """A user's own wrapper, which is no module."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)

    def logits(self, x: Tensor) -> Tensor:
        return self.net(x)


def interactions(model: Any, **options: Any) -> Any:
    x = torch.linspace(-1, 1, 10).view(2, 5)
    return compute_interactions(model, x, torch.tensor([0, 2]), ZERO, num_players=4, **options)


FUNCTIONS: dict[str, Any] = {
    "lambda": lambda net: lambda x: net(x),
    "method": lambda net: net.forward,
    "method of an object": lambda net: Keeper(net).logits,
    "object": lambda net: Keeper(net),
    "partial": lambda net: functools.partial(scaled, net),
    "partial with keywords": lambda net: functools.partial(scaled, net, by=1.0),
    "partial of a lambda": lambda net: functools.partial(lambda x, by: by * net(x), by=1.0),
    "decorated": lambda net: torch.no_grad()(lambda x: net(x)),
}


@pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_a_function_is_asked_as_its_model_would_be(make: Any) -> None:
    net = dropping()
    expected = interactions(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = interactions(make(net))
    assert torch.equal(found.values, expected.values)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_function_of_a_module_and_one_of_none() -> None:
    assert torch.equal(interactions(at_module_level).values, interactions(NET).values)
    found = interactions(lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3]], 1))
    assert found.values.shape == (2, 16)


def test_weights_kept_in_half_precision_are_cast_up_inside_a_function() -> None:
    net = mlp().half()
    assert torch.equal(interactions(lambda x: net(x)).values, interactions(net).values)


def test_named_inputs_reach_a_function_by_name() -> None:
    table = nn.Embedding(30, 3)
    seen = []

    def model(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen.append(attention_mask.sum().item())
        return (table(input_ids) * attention_mask.unsqueeze(-1)).sum(1)

    ids = torch.randint(5, 30, (2, 6))
    inputs = {"attention_mask": torch.ones_like(ids), "input_ids": ids}
    found = compute_interactions(model, inputs, torch.tensor([0, 1]), Tokens(1), num_players=3)
    assert found.num_players == 3
    assert seen


def test_a_layer_is_found_below_a_function() -> None:
    net = mlp()
    with pytest.raises(ArgumentError, match=r"`layer`.*Did you mean .*parts\.0"):
        interactions(lambda x: net(x), layer="1")
    found = interactions(lambda x: net(x), layer="parts.0.1")
    torch.testing.assert_close(found.values, interactions(net, layer="1").values)


@pytest.mark.parametrize("model", ["mlp", None, 3, nn.Linear, torch.zeros(3)], ids=repr)
def test_what_cannot_be_called_is_refused(model: Any) -> None:
    with pytest.raises(ArgumentError, match=r"`model` to be an nn\.Module or a function"):
        interactions(model)


def test_a_module_stays_what_it_is() -> None:
    assert as_module(NET, CPU) is NET


def test_a_name_without_a_value_yet_is_no_module() -> None:
    module = as_module(lambda x: later(x), CPU)
    later = mlp()
    assert module(torch.zeros(2, 5)).shape == (2, 3)


def test_a_function_of_no_module_is_asked_where_its_inputs_are() -> None:
    assert [b.device.type for b in as_module(lambda x: x, torch.device("meta")).buffers()] == ["meta"]
    assert not list(as_module(lambda x: NET(x), torch.device("meta")).buffers())


@pytest.mark.cuda
def test_functions_on_a_gpu() -> None:
    net = mlp().cuda()
    x, y = torch.randn(2, 5).cuda(), torch.tensor([0, 2])
    for function in (lambda x: net(x), lambda x: x[:, :3] * x[:, 2:].sum(1, keepdim=True)):
        found = compute_interactions(function, x, y, ZERO, num_players=4)
        assert found.values.isfinite().all()
