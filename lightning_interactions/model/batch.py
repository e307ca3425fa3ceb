"""Finding inputs and targets in whatever a loader gives, and calling the model with masked copies of them.

The watched part of an input is one tensor. Where a batch has more than one (token ids with an attention mask), the
integer tensors of the same shape are packed into one, ``(B, K, L)``: the ids in row 0, their companions below. They are
collected, hashed, masked and repeated together, and unpacked again when the model is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_interactions.errors import BatchError

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
INPUT_KEYS = ("input_ids", "pixel_values", "inputs", "input", "images", "image", "points", "features", "x")
ATTENTION_KEY = "attention_mask"


class Field(NamedTuple):
    """One named tensor of an input: its key in the batch, and its own type (packed, all are 64-bit integers)."""

    name: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Batch:
    """What was found in a batch."""

    inputs: Tensor  # (B, *shape), or (B, K, L) where K > 1 fields are packed; not copied unless packed
    targets: Tensor  # (B, ...)
    fields: tuple[Field, ...] = ()  # the tensors in `inputs` by name; empty if the batch gave a tensor without a name

    def describe(self) -> str:
        """Name the inputs in a few words."""
        return " with ".join(field.name for field in self.fields) or "inputs"


def read_batch(
    batch: Any, input_fn: Callable[[Any], Any] | None = None, target_fn: Callable[[Any], Any] | None = None
) -> Batch:
    """Find inputs and targets in a batch; where they are not found, a `BatchError` shows the structure of the batch.

    Understood are a tuple or list ``(inputs, targets)``, where the inputs are a tensor or a mapping of tensors;
    ``(ids, attention mask, targets)``; and a mapping with the inputs (token ids with their companions, or one tensor)
    and the targets under one of the usual names (`TARGET_KEYS`).
    """
    if isinstance(batch, Mapping):
        own_inputs: Any = {key: value for key, value in batch.items() if key not in TARGET_KEYS}
        own_targets = next((batch[key] for key in TARGET_KEYS if key in batch), None)
    elif isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)) and len(batch) >= 2:
        own_inputs, own_targets = batch[0], batch[1]
        if len(batch) == 3 and _are_ids_and_mask(batch[0], batch[1]):
            own_inputs, own_targets = {"input_ids": batch[0], ATTENTION_KEY: batch[1]}, batch[2]
    else:
        own_inputs = own_targets = None
    inputs, fields = _read_inputs(input_fn(batch) if input_fn else own_inputs)
    if inputs is None or inputs.ndim < 2:
        raise BatchError(
            f"Expected a batch (inputs, targets) with inputs of shape (B, ...), but the batch is "
            f"{describe_structure(batch)}. Give `input_fn=batch -> inputs` and `target_fn=batch -> targets`."
        )
    targets = target_fn(batch) if target_fn else own_targets
    if not isinstance(targets, Tensor) or targets.ndim == 0 or len(targets) != len(inputs):
        raise BatchError(
            f"Expected a batch (inputs, targets) with one target for each of {len(inputs)} inputs, but the batch is "
            f"{describe_structure(batch)}. Give `target_fn=batch -> targets`."
        )
    return Batch(inputs, targets, fields)


def unpack(inputs: Tensor, fields: Sequence[Field]) -> dict[str, Tensor]:
    """Give the tensors of an input, packed or not, by name and each of its own type; there must be a name."""
    if len(fields) == 1:
        return {fields[0].name: inputs}
    return {field.name: inputs[:, row].to(field.dtype) for row, field in enumerate(fields)}


def describe_structure(batch: Any, depth: int = 3) -> str:
    """Describe a nested batch in one line, for error texts; ``depth`` says how many levels are opened."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} tensor {tuple(batch.shape)}"
    name = type(batch).__name__
    if depth and isinstance(batch, Mapping):
        return f"{name}({', '.join(f'{k!r}: {describe_structure(v, depth - 1)}' for k, v in list(batch.items())[:8])})"
    if depth and isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)):
        return f"{name}({', '.join(describe_structure(v, depth - 1) for v in batch[:8])})"
    return name


@dataclass(frozen=True)
class Padding:
    """How sequences are brought to one length, and which of their positions count.

    Loaders pad each batch to its longest sequence, so one sample comes in many lengths.
    """

    token: int  # id put where a sequence has ended
    attention_row: int | None = None  # of the packed inputs: which positions count; None: those not holding `token`
    packed: bool = False  # whether the inputs are packed, (B, K, L)

    def present(self, inputs: Tensor) -> Tensor:
        """Tell the positions that count, boolean ``(..., L)``, of inputs ``(..., L)`` or packed ``(..., K, L)``."""
        if self.attention_row is None:
            return self.ids(inputs) != self.token
        return inputs[..., self.attention_row, :] != 0

    def ids(self, inputs: Tensor) -> Tensor:
        """Give the token ids ``(..., L)`` alone."""
        return inputs[..., 0, :] if self.packed else inputs

    def extend(self, inputs: Tensor, length: int) -> Tensor:
        """Pad to a ``length`` that is not smaller, on the side on which the loader does."""
        more = length - inputs.shape[-1]
        counts = self.present(inputs)
        left = bool(counts[:, -1].all()) and not bool(counts[:, 0].all())
        sides = (more, 0) if left else (0, more)
        if not self.packed:
            return pad(inputs, sides, value=self.token)
        out = pad(inputs, sides, value=0)
        out[:, 0] = pad(inputs[:, 0], sides, value=self.token)
        return out


def _read_inputs(inputs: Any) -> tuple[Tensor | None, tuple[Field, ...]]:
    if isinstance(inputs, Tensor):
        return inputs, ()
    if not isinstance(inputs, Mapping):
        return None, ()
    tensors = {str(key): value for key, value in inputs.items() if isinstance(value, Tensor) and value.ndim >= 2}
    main = next((key for key in INPUT_KEYS if key in tensors), None)
    if main is None:
        if len(tensors) != 1:
            return None, ()
        main = next(iter(tensors))
    ids = tensors[main]
    packed = [main]
    if ids.ndim == 2 and not ids.is_floating_point():
        companions = [k for k, t in tensors.items() if k != main and not t.is_floating_point() and t.shape == ids.shape]
        packed += sorted(companions, key=lambda key: key != ATTENTION_KEY)  # where a model takes them by position
    fields = tuple(Field(key, tensors[key].dtype) for key in packed)
    return (ids, fields) if len(packed) == 1 else (torch.stack([tensors[key].long() for key in packed], 1), fields)


def _are_ids_and_mask(ids: Any, mask: Any) -> bool:
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or ids.ndim != 2 or ids.shape != mask.shape:
        return False
    whole = not ids.is_floating_point() and not mask.is_floating_point()
    return whole and bool(((mask == 0) | (mask == 1)).all())
