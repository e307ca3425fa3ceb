"""A user's model as it is asked: how it is called, in which precision, and where it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import InteractionsError, ModelCallError, ModelOutputError, sentence
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.call import Call, call_plainly, find_call
from lightning_interactions.model.chunks import ChunkSize, at_least_two, default_chunk_size
from lightning_interactions.model.keep import Kept
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.lockstep import Lockstep
from lightning_interactions.model.memory import is_out_of_memory
from lightning_interactions.model.positions import Positions, Reads
from lightning_interactions.model.quiet import Forward, Quiet, device_of, float32_forward, in_format_of, quiet
from lightning_interactions.model.score import read_logits, read_whole
from lightning_interactions.model.shards import dtype_inside
from lightning_interactions.model.tree import Path

ROUNDING = {"16": 2.0**-11, "bf16": 2.0**-8, "32": 2.0**-23, "64": 2.0**-52}
"""Relative size of a unit in the last place by the leading part of a Trainer's ``precision``."""


@dataclass(eq=False, repr=False)
class Model:
    """A module with all that is needed to ask it: a callable from inputs, and what is carried along, to logits.

    It may be called only inside `quiet`, which makes sure that no trace is left. Where ``precision`` is ``None`` it
    computes in full float32 whatever dtype the weights are kept in; else it is an object with ``forward_context()`` and
    ``convert_input(inputs)``, as Lightning's precision plugins have them.
    """

    module: nn.Module
    call: Call = call_plainly
    precision: Any = None
    cut: LayerCut | None = None  # where it is masked; None for the input
    leaf: Path | None = None  # where its logits are in what it returns; None if that is plain
    whole: torch.Size | None = None  # shape of its outputs where they are no logits but a sample each
    dense: Reads | None = None  # reads scores of every position with the labels, the last tensor carried along
    rows: int | None = None  # the only number of rows it can be called with
    hooks: bool = False  # whether it needs the forward hooks its user put on it
    start: Kept | None = None  # the state from which its forward passes begin; that at hand, if `None`
    lockstep: Lockstep | None = None  # how it is asked where it is split over ranks
    _forward: Forward | None = field(default=None, init=False)
    _inside: Quiet | None = field(default=None, init=False)
    _writes: bool | None = field(default=None, init=False)  # whether it writes to its parameters; None: not known yet
    builds_hooks: bool = field(default=False, init=False)  # whether a forward pass was seen to put hooks on modules

    def __call__(self, inputs: Tensor, *carried: Tensor) -> Tensor:
        """Return the logits ``(B, C)``, or outputs ``(B, numbers)`` where it returns a sample each."""
        assert self._forward is not None, "a model is only asked inside `quiet`"
        if self.rows is None and self.cut is None and len(inputs) == 1:  # who squeezes outputs mistakes a single row
            return self._ask(*map(at_least_two, (inputs, *carried)))[:1]
        most = self.dense.rows_at_once if self.dense is not None and self.rows is None and self.cut is None else None
        if most is not None and len(inputs) > most:
            pieces = zip(*(x.tensor_split(-(-len(inputs) // most)) for x in (inputs, *carried)), strict=True)
            return torch.cat([self(*part) for part in pieces])
        if self.rows is None or len(inputs) == self.rows:
            return self._ask(inputs, *carried)
        parts = [self._ask(*block) for block in _blocks((inputs, *carried), self.rows)]
        return torch.cat(parts)[: len(inputs)]

    def _ask(self, *inputs: Tensor) -> Tensor:
        assert self._forward is not None
        assert self._inside is not None
        own = inputs if self.dense is None else inputs[:-1]
        with self._inside.forward_pass():
            try:
                output = self._pass(*own)
            except Exception as error:
                if isinstance(error, InteractionsError) or is_out_of_memory(error):
                    raise
                raise ModelCallError(_failed(self.module, own, error)) from error
        if self.dense is not None:
            return self.dense.read(output, inputs[-1])
        if self.whole is None:
            return read_logits(output, len(inputs[0]), self.leaf)
        found = read_whole(output, self.whole)
        if found is None:
            raise ModelOutputError(f"Expected the model to return a tensor (B, {_shape(self.whole)}), but it did not.")
        return found

    def _pass(self, *inputs: Tensor) -> Any:
        forward, lockstep = self._forward, self.lockstep
        assert forward is not None
        if lockstep is None:
            return forward(*inputs)
        if lockstep.repeats:
            few = [x[: self.rows or 2].clone() for x in inputs]  # two: some models mistake a single row
            lockstep.remember(lambda: self._repeat(few))
        return lockstep.call(lambda: forward(*inputs))

    def _repeat(self, inputs: Sequence[Tensor]) -> None:
        """Ask once more, for the sake of other ranks."""
        with self.quiet():
            assert self._forward is not None
            self._forward(*inputs)

    @property
    def positions(self) -> Positions | None:
        """How scores of every position are read, if they are."""
        return self.dense if isinstance(self.dense, Positions) else None

    def of(self, module: nn.Module) -> Model:
        """Ask another module of the same kind in the same way, for example an averaged copy."""
        cut = None if self.cut is None else self.cut.of(module)
        lockstep = self.lockstep if self.lockstep is None or self.lockstep.module is module else Lockstep.of(module)
        return replace(self, module=module, start=None, cut=cut, lockstep=lockstep)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Leave no trace: see :func:`~lightning_interactions.model.quiet.quiet`. The weights are those at its begin.

        Every forward pass begins from ``start``. Parameters are copied the first time only, unless that shows that the
        module writes to them.
        """
        own = self.precision is not None
        copied = self._writes is not False
        section = nullcontext() if self.lockstep is None else self.lockstep.section()
        with (
            section,
            quiet(
                self.module, full_precision=not own, start=self.start, hooks=self.hooks, parameters=copied
            ) as self._inside,
        ):
            # Of weights that are split nothing else can take the place.
            cast = self.lockstep is None
            forward = self._in_own_precision if own else float32_forward(self.module, self.call, cast=cast)
            self._forward = forward if self.lockstep is None else self.lockstep.through(forward)
            try:
                yield
            finally:
                self._forward, inside, self._inside = None, self._inside, None
        self._writes = bool(self._writes) or inside.parameters_written
        self.builds_hooks |= inside.builds_hooks

    def _in_own_precision(self, *inputs: Tensor) -> Any:
        with self.precision.forward_context():
            return self.call(self.module, *map(self.precision.convert_input, inputs))

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return device_of(self.module)

    def place(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Bring inputs, and what is carried along, to the device of the module, in the memory format that suits it."""
        return tuple(in_format_of(self.module, tensor.to(self.device)) for tensor in inputs)

    @property
    def rounding(self) -> float:
        """Relative rounding of its forward passes."""
        inside = dtype_inside(self.module)
        if inside is not None:
            return torch.finfo(inside).eps
        if self.precision is None:
            dtypes = {p.dtype for p in self.module.parameters() if p.is_floating_point()}
            return ROUNDING["64" if dtypes == {torch.float64} else "32"]
        own = str(getattr(self.precision, "precision", "32")).split("-")[0]
        tf32 = self.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
        return ROUNDING["16" if tf32 and own == "32" else own if own in ROUNDING else "32"]

    def logits(self, inputs: Tensor, chunk_size: int | None = None, carried: Sequence[Tensor] = ()) -> Tensor:
        """Return the logits ``(B, C)`` of inputs ``(B, *shape)`` as they are, a chunk at a time."""
        rows = [at_least_two(x.clone()) for x in (inputs, *carried)]  # copies, for it may write into its inputs
        parts: list[Tensor] = []

        def step(position: int, at_most: int) -> int:
            left = len(rows[0]) - position
            size = -(-left // -(-left // at_most))  # blocks of equal size
            parts.append(self(*(x[position : position + size] for x in rows)))
            return size

        size = max(chunk_size or default_chunk_size(rows[0]), 2)
        ChunkSize(size, lockstep=self.lockstep).run(len(rows[0]), step, rows[0].device)
        logits = torch.cat(parts)
        if len(logits) != len(rows[0]):
            raise ModelOutputError(
                f"Expected one row of logits per input ({len(rows[0])}), but the model returned {len(logits)}."
            )
        return logits[: len(inputs)]

    def features(self, inputs: Tensor, chunk_size: int | None = None, carried: Sequence[Tensor] = ()) -> Tensor:
        """Return what is masked: the inputs, or the output ``(B, *feature_shape)`` of the layer where it is cut."""
        return inputs if self.cut is None else layer_features(self, inputs, self.cut, chunk_size, carried)


def layer_features(
    forward: Forward, samples: Tensor, cut: LayerCut, chunk_size: int | None = None, carried: Sequence[Tensor] = ()
) -> Tensor:
    """Return the output ``(B, *feature_shape)`` of an inner layer on samples, a chunk at a time."""
    parts: list[Tensor] = []

    def step(position: int, at_most: int) -> int:
        rows = slice(position, position + at_most)
        parts.append(cut.features(forward, samples[rows].clone(), [tensor[rows].clone() for tensor in carried]))
        return len(parts[-1])

    ChunkSize(chunk_size or default_chunk_size(samples)).run(len(samples), step, samples.device)
    return torch.cat(parts)


def find_model(
    module: nn.Module,
    few: Batch,
    *,
    call: Call | None = None,
    forward_fn: Callable[[Any, Any], Any] | None = None,
    precision: Any = None,
    layer: str | None = None,
    leaf: Path | None = None,
    whole: torch.Size | None = None,
    dense: Reads | None = None,
    hooks: bool = False,
    start: Kept | None = None,
    rows: int | None = None,
    lockstep: Lockstep | None = None,
) -> Model:
    """Find out how a module takes its inputs, and whether it can be cut at a layer, by trying it on a few samples.

    Args:
        module: The module.
        few: Two samples or more, on its device.
        call: How it was seen to be called; else ways are tried, see `find_call`.
        forward_fn: The user's own way of calling it.
        precision: As for `Model`.
        layer: Where it is masked.
        leaf: As for `Model`.
        whole: As for `Model`.
        dense: As for `Model`.
        hooks: As for `Model`.
        start: As for `Model`.
        rows: As for `Model`.
        lockstep: As for `Model`.
    """
    cut = LayerCut(module, layer) if layer is not None else None
    if cut is not None and rows is not None:
        raise ModelOutputError(
            f"A model that only takes {rows} rows at once cannot be cut at a layer; use `layer=None`."
        )

    def ask(call: Call) -> Any:
        attempt = Model(module, call, precision, dense=dense, rows=rows, hooks=hooks, start=start, lockstep=lockstep)
        with attempt.quiet():
            return attempt(few.inputs, *few.carried)

    way = call if call is not None and forward_fn is None else find_call(module, few, forward_fn, ask)
    model = Model(module, way, precision, cut, leaf, whole, dense, rows, hooks=hooks, start=start, lockstep=lockstep)
    with model.quiet():
        model.logits(few.inputs, None, few.carried)
        if cut is not None:
            cut.check(model, few.inputs, few.carried)
    return model


def _blocks(inputs: Sequence[Tensor], rows: int) -> Iterator[list[Tensor]]:
    """Cut tensors into blocks of exactly so many rows; the last one is filled up by repeating its last row."""
    for start in range(0, len(inputs[0]), rows):
        block = [tensor[start : start + rows] for tensor in inputs]
        missing = rows - len(block[0])
        yield [torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x for x in block]


def _failed(module: nn.Module, inputs: Sequence[Tensor], error: Exception) -> str:
    shapes = ", ".join(f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for x in inputs)
    raised = sentence(f"{type(error).__name__}: {error}")
    return (
        f"TwoPhaseMonitor called {type(module).__name__} with {shapes}, and it raised {raised} Say how it is called: "
        "`input_fn=batch -> inputs` and `forward_fn=(module, inputs) -> logits`."
    )


def _shape(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
