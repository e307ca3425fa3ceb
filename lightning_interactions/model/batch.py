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
    """One named tensor of an input.

    Attributes:
        name: Its key in the batch.
        dtype: Its own type: packed, all are 64-bit integers.
    """

    name: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Batch:
    """What was found in a batch.

    Attributes:
        inputs: ``(B, *shape)``, or ``(B, K, L)`` where ``K > 1`` fields are packed. Not copied unless packed.
        targets: ``(B, ...)``.
        fields: The tensors in ``inputs`` by name; empty if the batch gave a tensor without a name.
    """

    inputs: Tensor
    targets: Tensor
    fields: tuple[Field, ...] = ()

    def describe(self) -> str:
        """Name the inputs in a few words."""
        return " with ".join(field.name for field in self.fields) or "inputs"


def read_batch(
    batch: Any, input_fn: Callable[[Any], Any] | None = None, target_fn: Callable[[Any], Any] | None = None
) -> Batch:
    """Find inputs and targets in a batch.

    Understood are a tuple or list ``(inputs, targets)``, where the inputs are a tensor or a mapping of tensors;
    ``(ids, attention mask, targets)``; and a mapping with the inputs (token ids with their companions, or one tensor)
    and the targets under one of the usual names (``labels``, ``label``, ``targets``, ``target``, ``y``).

    Args:
        batch: What the loader gives.
        input_fn: ``batch -> inputs``, a tensor ``(B, *shape)`` or a mapping of tensors, where that does not fit.
        target_fn: ``batch -> targets (B,)``, likewise.

    Returns:
        What was found.

    Raises:
        BatchError: If one of them is not found; the text shows the structure of the batch.

    Example:
        >>> found = read_batch({"input_ids": torch.ones(2, 5).long(), "attention_mask": torch.ones(2, 5).long(),
        ...                     "labels": torch.zeros(2)})
        >>> found.inputs.shape, [field.name for field in found.fields]
        (torch.Size([2, 2, 5]), ['input_ids', 'attention_mask'])
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
    """Give the tensors of an input by name.

    Args:
        inputs: ``(B, *shape)``, or ``(B, K, L)`` where ``K > 1`` fields are packed.
        fields: The names, at least one.

    Returns:
        The tensors, each of its own type.

    Example:
        >>> fields = (Field("input_ids", torch.long), Field("attention_mask", torch.bool))
        >>> unpack(torch.tensor([[[5, 7], [1, 0]]]), fields)
        {'input_ids': tensor([[5, 7]]), 'attention_mask': tensor([[ True, False]])}
    """
    if len(fields) == 1:
        return {fields[0].name: inputs}
    return {field.name: inputs[:, row].to(field.dtype) for row, field in enumerate(fields)}


def describe_structure(batch: Any, depth: int = 3) -> str:
    """Describe a nested batch in one line, for error texts.

    Args:
        batch: Anything.
        depth: How many levels to open.

    Example:
        >>> describe_structure({"x": torch.zeros(4, 3), "meta": ["a", "b"]})
        "dict('x': float32 tensor (4, 3), 'meta': list(str, str))"
    """
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

    Attributes:
        token: Id put where a sequence has ended.
        attention_row: Row of the packed inputs that says which positions count; ``None`` if there is none, so that
            all positions count that do not hold ``token``.
        packed: Whether the inputs are packed.
    """

    token: int
    attention_row: int | None = None
    packed: bool = False

    def present(self, inputs: Tensor) -> Tensor:
        """Tell the positions that count.

        Args:
            inputs: ``(..., L)``, or packed ``(..., K, L)``.

        Returns:
            Boolean ``(..., L)``.
        """
        if self.attention_row is None:
            return self.ids(inputs) != self.token
        return inputs[..., self.attention_row, :] != 0

    def ids(self, inputs: Tensor) -> Tensor:
        """Give the token ids alone.

        Args:
            inputs: ``(..., L)``, or packed ``(..., K, L)``.

        Returns:
            ``(..., L)``.
        """
        return inputs[..., 0, :] if self.packed else inputs

    def extend(self, inputs: Tensor, length: int) -> Tensor:
        """Pad on the side on which the loader does.

        Args:
            inputs: ``(B, L)``, or packed ``(B, K, L)``.
            length: The new ``L``, not smaller.

        Returns:
            ``(B, length)`` or ``(B, K, length)``.

        Example:
            >>> Padding(token=9, attention_row=1, packed=True).extend(torch.tensor([[[5, 7], [1, 1]]]), 3)
            tensor([[[5, 7, 9],
                     [1, 1, 0]]])
        """
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
    both = isinstance(ids, Tensor) and isinstance(mask, Tensor) and ids.ndim == 2 and ids.shape == mask.shape
    return (
        both
        and not ids.is_floating_point()
        and not mask.is_floating_point()
        and bool(((mask == 0) | (mask == 1)).all())
    )
