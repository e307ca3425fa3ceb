"""Calling a model with inputs as they were read from a batch: by keyword, by position or as one mapping."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_interactions.errors import BatchError
from lightning_interactions.model.batch import Batch, Field, unpack
from lightning_interactions.model.quiet import Forward
from lightning_interactions.model.score import read_logits

Call = Callable[[nn.Module, Tensor], Any]
"""``(module, inputs as read from the batch, packed or not) -> whatever the model returns``."""


def find_call(
    module: nn.Module,
    batch: Batch,
    forward_fn: Callable[[Any, Any], Any] | None = None,
    bind: Callable[[Call], Forward] | None = None,
) -> Call:
    """Find out how a model wants its inputs, by trying it on some: call it inside `probing`.

    Args:
        module: The model.
        batch: A few samples on the model's device.
        forward_fn: The user's own way; it gets the tensor, or a mapping of tensors where several are packed.
        bind: Makes a forward of a call, for the tries; by default it is called as it is.

    Returns:
        The call.

    Raises:
        BatchError: If the batch has named inputs and no way of passing them gave logits.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, pixels, labels=None):
        ...         return pixels.flatten(1)
        >>> batch = read_batch({"pixels": torch.zeros(2, 3), "label": torch.zeros(2)})
        >>> find_call(Net(), batch)(Net(), batch.inputs).shape
        torch.Size([2, 3])
    """
    fields = batch.fields
    if forward_fn is not None:
        several = len(fields) > 1
        return lambda module, inputs: forward_fn(module, unpack(inputs, fields) if several else inputs)
    if not fields:
        return lambda module, inputs: module(inputs)
    problems = []
    for call in _ways(module, fields):
        try:
            read_logits(bind(call)(batch.inputs) if bind is not None else call(module, batch.inputs))
        except Exception as error:  # a way that does not fit may fail in any manner
            problems.append(f"{type(error).__name__}: {error}")
        else:
            return call
    raise BatchError(
        f"{type(module).__name__} returned no logits when called with {', '.join(f.name for f in fields)} by keyword, "
        f"by position, as one mapping or with the first alone (first problem: {problems[0]}). Give "
        "`forward_fn=(module, inputs) -> logits`."
    )


def _ways(module: nn.Module, fields: Sequence[Field]) -> list[Call]:
    """Ways to call a model with named inputs, the likeliest first."""
    parameters = inspect.signature(module.forward).parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        places = len(fields)

    def by_keyword(module: nn.Module, inputs: Tensor) -> Any:
        tensors = unpack(inputs, fields)
        return module(**{key: tensors[key] for key in tensors if anything or key in known})

    def by_position(module: nn.Module, inputs: Tensor) -> Any:
        return module(*list(unpack(inputs, fields).values())[: max(places, 1)])

    def as_mapping(module: nn.Module, inputs: Tensor) -> Any:
        return module(unpack(inputs, fields))

    def first_alone(module: nn.Module, inputs: Tensor) -> Any:
        return module(next(iter(unpack(inputs, fields).values())))

    named = [by_keyword] if anything or fields[0].name in known else []
    placed = [by_position] if len(fields) > 1 and places > 1 else []
    single = [as_mapping, first_alone] if len(fields) > 1 else [first_alone, as_mapping]
    return [*named, *placed, *single]
