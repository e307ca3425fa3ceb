"""A user's model as it is asked: how it is called, in which precision, and where it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import ModelOutputError
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.call import Call, call_plainly, find_call
from lightning_interactions.model.chunks import ChunkSize, default_chunk_size
from lightning_interactions.model.keep import Kept
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.quiet import Forward, Quiet, device_of, float32_forward, in_format_of, quiet
from lightning_interactions.model.score import read_logits

ROUNDING = {"16": 2.0**-11, "bf16": 2.0**-8, "32": 2.0**-23, "64": 2.0**-52}
"""Relative size of a unit in the last place by the leading part of a Trainer's ``precision``."""


@dataclass(eq=False, repr=False)
class Model:
    """A module with all that is needed to ask it: a callable from inputs to whatever the module returns.

    It may be called only inside `quiet`, which makes sure that no trace is left. Where ``precision`` is ``None`` it
    computes in full float32 whatever dtype the weights are kept in; else it is an object with ``forward_context()`` and
    ``convert_input(inputs)``, as Lightning's precision plugins have them.
    """

    module: nn.Module
    call: Call = call_plainly
    precision: Any = None
    cut: LayerCut | None = None  # where it is masked; None for the input
    hooks: bool = False  # whether the user's forward hooks run
    _forward: Forward | None = field(default=None, init=False)
    _inside: Quiet | None = field(default=None, init=False)
    _writes: bool | None = field(default=None, init=False)  # whether it writes to its parameters; None: not known yet

    def __call__(self, inputs: Tensor) -> Any:
        """Return what the module returns, beginning from the state that `quiet` began from."""
        assert self._forward is not None, "a model is only asked inside `quiet`"
        assert self._inside is not None
        self._inside.rewind()
        return self._forward(inputs)

    def of(self, module: nn.Module) -> Model:
        """Ask another module of the same kind in the same way, for example an averaged copy."""
        cut = None if self.cut is None else self.cut.of(module)
        return Model(module, self.call, self.precision, cut, self.hooks)

    @contextmanager
    def quiet(self, start: Kept | None = None) -> Iterator[None]:
        """Leave no trace: see :func:`~lightning_interactions.model.quiet.quiet`. The weights are those at its begin.

        ``start`` is the state from which forward passes begin. Parameters are copied the first time only, unless that
        shows that the module writes to them.
        """
        own = self.precision is not None
        copied = self._writes is not False
        with quiet(
            self.module, full_precision=not own, start=start, hooks=self.hooks, parameters=copied
        ) as self._inside:
            self._forward = self._in_own_precision if own else float32_forward(self.module, self.call)
            try:
                yield
            finally:
                self._forward, inside, self._inside = None, self._inside, None
        self._writes = bool(self._writes) or inside.parameters_written

    def _in_own_precision(self, inputs: Tensor) -> Any:
        with self.precision.forward_context():
            return self.call(self.module, self.precision.convert_input(inputs))

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return device_of(self.module)

    def place(self, inputs: Tensor) -> Tensor:
        """Bring inputs to the device of the module, in the memory format that suits it."""
        return in_format_of(self.module, inputs.to(self.device))

    @property
    def rounding(self) -> float:
        """Relative rounding of its forward passes."""
        if self.precision is None:
            dtypes = {p.dtype for p in self.module.parameters() if p.is_floating_point()}
            return ROUNDING["64" if dtypes == {torch.float64} else "32"]
        own = str(getattr(self.precision, "precision", "32")).split("-")[0]
        tf32 = self.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
        return ROUNDING["16" if tf32 and own == "32" else own if own in ROUNDING else "32"]

    def logits(self, inputs: Tensor, chunk_size: int | None = None) -> Tensor:
        """Return the logits ``(B, C)`` of inputs ``(B, *shape)`` as they are, a chunk at a time."""
        # Models that squeeze their output mistake a single row.
        rows = inputs.expand(2, *inputs.shape[1:]) if len(inputs) == 1 else inputs
        size = max(chunk_size or default_chunk_size(rows), 2)
        logits = torch.cat([read_logits(self(part)) for part in rows.tensor_split(-(-len(rows) // size))])
        if len(logits) != len(rows):
            raise ModelOutputError(
                f"Expected one row of logits per input ({len(rows)}), but the model returned {len(logits)}."
            )
        return logits[: len(inputs)]

    def features(self, inputs: Tensor, chunk_size: int | None = None) -> Tensor:
        """Return what is masked: the inputs, or the output ``(B, *feature_shape)`` of the layer where it is cut."""
        return inputs if self.cut is None else layer_features(self, inputs, self.cut, chunk_size)


def layer_features(forward: Forward, samples: Tensor, cut: LayerCut, chunk_size: int | None = None) -> Tensor:
    """Return the output ``(B, *feature_shape)`` of an inner layer on samples, a chunk at a time."""
    parts: list[Tensor] = []

    def step(position: int, at_most: int) -> int:
        parts.append(cut.features(forward, samples[position : position + at_most]))
        return len(parts[-1])

    ChunkSize(chunk_size or default_chunk_size(samples)).run(len(samples), step, samples.device)
    return torch.cat(parts)


def find_model(
    module: nn.Module,
    few: Batch,
    *,
    forward_fn: Callable[[Any, Any], Any] | None = None,
    precision: Any = None,
    layer: str | None = None,
) -> Model:
    """Find out how a module takes its inputs, and whether it can be cut at a layer, by trying it on a few samples.

    They are two or more, on its device; ``forward_fn`` is the user's own way of calling it, ``precision`` as for
    `Model`.
    """
    cut = LayerCut(module, layer) if layer is not None else None

    def ask(call: Call) -> Any:
        attempt = Model(module, call, precision)
        with attempt.quiet():
            return attempt(few.inputs)

    model = Model(module, find_call(module, few, forward_fn, ask), precision, cut)
    with model.quiet():
        model.logits(few.inputs)
        if cut is not None:
            cut.check(model, few.inputs)
    return model
