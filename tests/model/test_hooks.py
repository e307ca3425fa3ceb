"""Hooks of the user's own do not run inside the probing context, those of torch do, and all are back afterwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from leaving import however, run
from models import mlp
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_forward_hooks,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lightning_interactions.model.hooks import is_torchs_own
from lightning_interactions.model.quiet import quiet


def wandbs_hook(*args: Any) -> None:
    """Stands for what ``logger.watch`` registers."""
    HEARD.append("wandb")


wandbs_hook.__module__ = "wandb.integration.torch.wandb_torch"
HEARD: list[str] = []


class Listener:
    def __call__(self, *args: Any) -> None:
        HEARD.append("object")

    def method(self, *args: Any) -> None:
        HEARD.append("method")


class ListeningModule(nn.Module):
    def forward(self, *args: Any) -> None:
        HEARD.append("module")


HOOKS: dict[str, Callable[..., Any]] = {
    "function": lambda *args: HEARD.append("function"),
    "wandb": wandbs_hook,
    "partial": partial(partial(lambda note, *args: HEARD.append(note)), "partial"),
    "object": Listener(),
    "method": Listener().method,
    "module": ListeningModule(),
}


def unless_heard(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook for all modules, which may be called by one itself."""
    return lambda module, *args: None if isinstance(module, ListeningModule) else hook(module, *args)


WAYS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "after": lambda module, hook: module.register_forward_hook(hook),
    "after-always": lambda module, hook: module.register_forward_hook(hook, always_call=True),
    "before": lambda module, hook: module.register_forward_pre_hook(lambda *args: hook(*args)),
    "everywhere": lambda module, hook: register_module_forward_hook(unless_heard(hook)),
    "everywhere-before": lambda module, hook: register_module_forward_pre_hook(unless_heard(hook)),
    "hidden": lambda module, hook: module.hidden[0].register_forward_hook(hook),
}


class WithHidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.hidden = nn.Linear(5, 3), [nn.Identity()]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden[0](self.inner(x))


@however
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_that_are_not_torchs_do_not_run(kind: str, way: str, fails: bool) -> None:
    model, x = WithHidden(), torch.ones(2, 5)
    HEARD.clear()
    handle = WAYS[way](model, HOOKS[kind])
    try:
        run(model, lambda: model(x), fails=fails)
        assert not HEARD
        model(x)
        assert set(HEARD) == {kind}
        HEARD.clear()
        with quiet(model, hooks=True):
            model(x)
        assert set(HEARD) == {kind}
    finally:
        handle.remove()
    HEARD.clear()
    model(x)
    assert not HEARD, "the handle still knows its hook"


def test_hooks_come_back_in_their_order_and_those_registered_inside_run() -> None:
    model, x, heard = nn.Sequential(nn.Linear(5, 3)), torch.ones(2, 5), []
    spectral_norm(model[0])
    for name in "abc":
        model[0].register_forward_hook(lambda *args, name=name: heard.append(name), prepend=name == "c")
    model[0].register_forward_pre_hook(lambda module, args, kwargs: heard.append("before"), with_kwargs=True)
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    registers = [getattr(model[0], name) for name in names]
    before = [list(register.items()) for register in registers]
    with quiet(model):
        handle = model[0].register_forward_hook(lambda *args: heard.append("inside"), prepend=True)
        model(x)
        assert heard == ["inside"]
        handle.remove()
        model(x)
        left = model[0].register_forward_hook(lambda *args: heard.append("left"))
    assert heard == ["inside"]
    assert [list(register.items()) for register in registers] == before
    assert all(getattr(model[0], name) is register for name, register in zip(names, registers, strict=True))
    left.remove()
    model(x)
    assert heard == ["inside", "before", "c", "a", "b"]


def test_a_hook_removed_inside_is_there_afterwards() -> None:
    model = mlp()
    HEARD.clear()
    handle = model[0].register_forward_hook(HOOKS["function"])
    with quiet(model):
        handle.remove()
    model(torch.ones(1, 5))
    assert HEARD == ["function"]
    handle.remove()
    assert not model[0]._forward_hooks


class OwnPruning(prune.L1Unstructured):
    """A user's own pruning method is still torch's hook."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: spectral_norm(nn.Linear(5, 3)),
        lambda: weight_norm(nn.Linear(5, 3)),
        lambda: parametrizations.spectral_norm(nn.Linear(5, 3)),
        lambda: prune.l1_unstructured(nn.Linear(5, 3), "weight", 4),
        lambda: (OwnPruning.apply(layer := nn.Linear(5, 3), "weight", 4), layer)[1],
        lambda: nn.LazyLinear(3),
    ],
    ids=["spectral norm", "weight norm", "parametrization", "pruning", "own pruning", "lazy"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_torchs_own_hooks_run(make: Callable[[], nn.Module]) -> None:
    model, x = make(), torch.ones(2, 5)
    if isinstance(model, nn.LazyLinear):
        with quiet(model):
            assert model(x).shape == (2, 3)
        return
    model.train()(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))  # the weight that the last pass left is out of date
        stale = torch.nn.functional.linear(x, model.weight.detach().clone(), model.bias)
        with quiet(model):
            found = model(x)
        assert torch.equal(found, model.eval()(x))
    if not isinstance(getattr(model, "parametrizations", None), nn.ModuleDict):
        assert not torch.equal(found, stale), "without the hook it would be this"


@pytest.mark.thorough
def test_compiled_models_with_state_and_hooks() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = nn.Linear(5, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x) + self.calls

    plain, heard = Counting(), []
    model = torch.compile(plain, backend="eager")
    plain.inner.register_forward_hook(lambda *args: heard.append(1))
    x = torch.randn(4, 5)
    model(x)
    heard.clear()
    with quiet(model) as inside:
        inside.rewind()
        first = model(x)
        inside.rewind()
        assert torch.equal(model(x), first)
    assert (plain.calls, heard) == (1, [])
    model(x)
    assert (plain.calls, len(heard)) == (2, 1)


class OwnLinear(nn.Linear):
    """A user's class with torch's forward."""


@pytest.mark.parametrize(
    ("hook", "own"),
    [
        (torch.relu, False),  # of no module that could be told
        (nn.functional.softmax, True),
        (partial(partial(nn.functional.softmax), dim=1), True),
        (partial(wandbs_hook), False),
        (nn.Identity(), True),
        (OwnLinear(1, 1), True),
        (ListeningModule(), False),
        (nn.LazyLinear(1)._infer_parameters, True),
        (Listener().method, False),
        (HEARD.append, False),
    ],
)
def test_hooks_are_torchs_own_by_where_they_are_defined(hook: Callable[..., Any], own: bool) -> None:
    assert is_torchs_own(hook) is own


def test_hooks_for_all_modules_come_back_in_their_order() -> None:
    def hook(*args: Any) -> None:
        pass

    handles = [register_module_forward_hook(each) for each in (hook, nn.functional.softmax, hook)]
    try:
        before = list(_global_forward_hooks.items())
        with quiet(mlp()):
            assert list(_global_forward_hooks.values()) == [nn.functional.softmax]
        assert list(_global_forward_hooks.items()) == before
    finally:
        for handle in handles:
            handle.remove()
