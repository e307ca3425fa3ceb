"""A plain function in the place of a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lightning_interactions.errors import bad_argument


def as_module(model: Any, device: torch.device) -> nn.Module:
    """Return a module as it is; a function as one that calls it with inputs on ``device``.

    The modules a function is bound to, was given or names become parts of that module, so that they are in evaluation
    mode when it is called, and left as they were.

    Raises:
        ArgumentError: If the model cannot be called.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> module = as_module(lambda x: net(x).softmax(-1), torch.device("cpu"))
        >>> module(torch.zeros(4, 3)).shape, net in module.modules()
        (torch.Size([4, 2]), True)
    """
    if isinstance(model, nn.Module):
        return model
    if not callable(model) or isinstance(model, type):
        raise bad_argument("model", "an nn.Module or a function (inputs) -> logits", model)
    return _Function(model, device)


class _Function(nn.Module):
    """Calls a function; its signature, by which named inputs are handed over, is that of the function."""

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        super().__init__()
        self.parts = nn.ModuleList(dict.fromkeys(_modules_of(function)))
        self.forward = function
        if not any(True for _ in self.parts.parameters()):
            self.register_buffer("place", torch.empty(0, device=device))


def _modules_of(value: Any) -> Iterator[nn.Module]:
    """The modules in what a partial function was given, a function names or an object has as attributes."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _modules_of(part)
    elif inspect.ismethod(value):
        yield from _modules_of(value.__self__)
    else:
        yield from (named for named in _named_by(value) if isinstance(named, nn.Module))


def _named_by(value: Any) -> list[Any]:
    function = inspect.unwrap(value) if callable(value) else value  # a decorator such as torch.no_grad()
    if not inspect.isfunction(function):
        return list(getattr(value, "__dict__", {}).values())
    try:
        known = inspect.getclosurevars(function)
    except ValueError:  # a name that has no value yet
        return []
    return [*known.nonlocals.values(), *known.globals.values()]
