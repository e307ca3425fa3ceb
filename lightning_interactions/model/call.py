"""Calling a model with inputs as they were read from a batch: by keyword, by position or as one mapping."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_interactions.errors import BatchError
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.packing import Field, unpack
from lightning_interactions.model.score import read_logits

Call = Callable[..., Any]  # (module, inputs as read from the batch, packed or not, *carried) -> model's output


def call_plainly(module: nn.Module, inputs: Tensor) -> Any:
    """Call a module with the inputs alone."""
    return module(inputs)


def find_call(
    module: nn.Module,
    batch: Batch,
    forward_fn: Callable[[Any, Any], Any] | None = None,
    ask: Callable[[Call], Any] | None = None,
) -> Call:
    """Find out how a model wants its inputs by trying it on a few samples on its device; call it inside `quiet`.

    ``forward_fn`` is the user's own way: it gets the tensor, or a mapping of tensors where several are packed. ``ask``
    tries a call on the batch and returns the output. Where no way gives logits, a `BatchError` names the first problem.
    """
    fields = batch.fields
    if forward_fn is not None:
        several = len(fields) > 1
        return lambda module, inputs: forward_fn(module, unpack(inputs, fields) if several else inputs)
    if not fields:
        return call_plainly
    problems = []
    for call in _ways(module, fields):
        try:
            read_logits(ask(call) if ask is not None else call(module, batch.inputs))
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

    def way(pass_on: Callable[[nn.Module, dict[str, Tensor]], Any]) -> Call:
        return lambda module, inputs: pass_on(module, unpack(inputs, fields))

    by_keyword = way(lambda module, x: module(**{key: x[key] for key in x if anything or key in known}))
    by_position = way(lambda module, x: module(*list(x.values())[:places]))
    as_mapping = way(lambda module, x: module(x))
    first_alone = way(lambda module, x: module(next(iter(x.values()))))
    named = [by_keyword] if anything or fields[0].name in known else []
    placed = [by_position] if len(fields) > 1 and places > 1 else []
    single = [as_mapping, first_alone] if len(fields) > 1 else [first_alone, as_mapping]
    return [*named, *placed, *single]
