"""Finding inputs and targets in whatever a loader gives, or a model was called with.

The watched part of an input is one tensor, into which several may be packed (see `packing`): token ids with their
companions, or the columns of a table. Other tensors with a row for each sample are carried along.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_interactions.errors import BatchError, bad_argument
from lightning_interactions.model.packing import ATTENTION_KEY, Field, Role, Table, column_field, pack, table_of
from lightning_interactions.model.targets import zeros_and_ones
from lightning_interactions.model.tree import Path, tensors

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
INPUT_KEYS = ("input_ids", "pixel_values", "inputs", "input", "images", "image", "points", "features", "x")
SPECIAL_KEY = "special_tokens_mask"


@dataclass(frozen=True)
class Batch:
    """What was found in a batch."""

    inputs: Tensor  # (B, *shape), or where several fields are packed (B, K, L) or (B, F); not copied unless packed
    targets: Tensor  # (B, ...)
    fields: tuple[Field, ...] = ()  # the tensors in `inputs` by name; empty if the batch gave a tensor without a name
    carried: tuple[Tensor, ...] = ()  # (B, ...) each: what else a model that was seen is called with
    names: tuple[str, ...] = ()  # of the tensors that are carried along
    judged: Tensor | None = None  # what a loss was given of it
    seen: Any = None  # what it was seen to return for the whole batch
    leaf: Path | None = None  # where in that is what is followed, of several heads

    @property
    def table(self) -> Table | None:
        """What the inputs are, where they are columns of several types."""
        return table_of(self.fields)

    def describe(self) -> str:
        """Name the inputs in a few words."""
        if self.table is not None:
            return self.table.describe()
        return " with ".join(field.name for field in self.fields if field.name) or "inputs"

    def rows(self, rows: Tensor) -> Batch:
        """Return some of the samples."""

        def some(tensor: Tensor) -> Tensor:
            return tensor[rows.to(tensor.device)]

        return replace(
            self,
            inputs=some(self.inputs),
            targets=some(self.targets),
            carried=tuple(map(some, self.carried)),
            judged=None,
            seen=None,
        )


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
    inputs, fields = _read_inputs(ask("input_fn", input_fn, batch) if input_fn else own_inputs)
    if inputs is None or inputs.ndim < 2:
        raise BatchError(
            f"Expected a batch (inputs, targets) with inputs of shape (B, ...), but the batch is "
            f"{describe_structure(batch)}. Give `input_fn=batch -> inputs` and `target_fn=batch -> targets`."
        )
    targets = ask("target_fn", target_fn, batch) if target_fn else own_targets
    if not isinstance(targets, Tensor) or targets.ndim == 0 or len(targets) != len(inputs):
        raise BatchError(
            f"Expected a batch (inputs, targets) with one target for each of {len(inputs)} inputs, but the batch is "
            f"{describe_structure(batch)}. Give `target_fn=batch -> targets`."
        )
    return Batch(inputs, targets, fields)


def ask(name: str, function: Callable[[Any], Any], batch: Any) -> Any:
    """Call a user's function of a batch; what it raises becomes a `BatchError` that names it."""
    try:
        return function(batch)
    except Exception as error:
        raise BatchError(
            f"`{name}` raised {type(error).__name__} ({error}) for the batch {describe_structure(batch)}."
        ) from error


def pick_columns(named: Mapping[str, Tensor], positional: Collection[str] = ()) -> list[str]:
    """Choose the tensors that are columns of one table; none where these are something else.

    They are all that is ``(B,)`` or ``(B, K)`` and has a name of its own, floating-point or whole numbers, as tabular
    libraries pass them; arguments that are handed over by position only where one is called categories, or where all
    are single numbers (a user and an item), so that nothing else could be masked. There is no table where anything has
    more dimensions, or is a text; and none where a single tensor has several columns and a usual name: the others then
    go along with it.
    """
    own = {name: x for name, x in named.items() if _last(name) not in TARGET_KEYS and not x.is_complex()}
    if any(x.ndim > 2 or "mask" in _last(name) or _is_text(name, x) for name, x in own.items()):
        return []
    wide = [name for name, x in own.items() if x.ndim == 2]
    by_name = [name for name in own if name not in positional]
    categories = any("cat" in _last(name) for name in wide)
    chosen = by_name if len(by_name) > 1 else wide if categories else [] if wide else list(own)
    usual = len(wide) == 1 and _last(wide[0]) in INPUT_KEYS
    return chosen if len(chosen) > 1 and not usual else []


def pick_input(named: Mapping[str, Tensor], wanted: str | int | None = None) -> list[str]:
    """Choose the tensor that is masked by what suits; return its name and those of its companions.

    The first whose name is usual for inputs (`INPUT_KEYS`) is taken, else an image before a sequence before columns
    before ids. A `BatchError` says that there is none, an `ArgumentError` that there is no ``wanted`` one.
    """
    if wanted is not None:
        return _with_companions(_wanted(named, wanted), named)
    playable = {name: x for name, x in named.items() if x.ndim >= 2 and x.shape[1:].numel() > 1}
    labels = [name for name in playable if _last(name) in TARGET_KEYS]
    if len(labels) < len(playable):
        playable = {name: x for name, x in playable.items() if name not in labels}
    if not playable:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in named.items()) or "no tensors"
        raise BatchError(
            "Expected the model to be called with a tensor (B, ...) whose parts can be masked, or with several "
            f"columns, but it is called with {shapes}. Give `input_fn=batch -> inputs` and "
            "`forward_fn=(module, inputs) -> logits`."
        )
    usual = [name for key in INPUT_KEYS for name in playable if _last(name) == key]
    masks = {name for name, x in playable.items() if _is_mask(name, x)}
    ranked = sorted(playable, key=lambda name: (name in masks, _rank(playable[name])))
    return _with_companions((usual or ranked)[0], named)


def companion_role(name: str, tensor: Tensor, ids: Tensor) -> Role:
    """Say whether a companion of token ids is a mask of the positions that count, and which way round it is.

    The value that stands for a token occurs in every text; where both do, the ids at the places of the other one are
    all the same: padding.
    """
    if "mask" not in _last(name) or _last(name) == SPECIAL_KEY or not zeros_and_ones(tensor):
        return ""
    if _last(name) == ATTENTION_KEY:
        return "counts"
    ones, zeros = tensor != 0, tensor == 0
    every_one, every_zero = bool(ones.any(1).all()), bool(zeros.any(1).all())
    if every_one != every_zero:
        return "counts" if every_one else "padding"
    return "counts" if len(torch.unique(ids[zeros])) <= len(torch.unique(ids[ones])) else "padding"


def target_leaf(batch: Any) -> Path | None:
    """Find a target under one of the usual names (`TARGET_KEYS`), at whatever depth; ``None`` if there is none."""
    named = [path for path, _ in sorted(tensors(batch).items(), key=lambda item: len(item[0])) if path]
    return next((path for key in TARGET_KEYS for path in named if path[-1] == key), None)


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

    def sides(self, inputs: Tensor, length: int) -> tuple[int, int]:
        """How much is to be padded left and right up to a ``length`` that is not smaller: where the loader does."""
        more = length - inputs.shape[-1]
        counts = self.present(inputs)
        left = bool(counts[:, -1].all()) and not bool(counts[:, 0].all())
        return (more, 0) if left else (0, more)

    def extend(self, inputs: Tensor, length: int) -> Tensor:
        """Pad to a ``length`` that is not smaller."""
        sides = self.sides(inputs, length)
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
    every = {str(key): value for key, value in inputs.items() if isinstance(value, Tensor) and value.ndim}
    columns = pick_columns(every)
    if columns and sum(x.ndim == 2 for x in every.values()) != 1:  # else what goes with the only one may be anything
        fields = tuple(column_field(name, every[name]) for name in columns)
        return pack([every[name] for name in columns], fields), fields
    named = {name: value for name, value in every.items() if value.ndim >= 2}
    main = next((key for key in INPUT_KEYS if key in named), None)
    if main is None:
        if len(named) != 1:
            return None, ()
        main = next(iter(named))
    ids = named[main]
    packed = [main]
    if ids.ndim == 2 and not ids.is_floating_point():
        companions = [k for k, t in named.items() if k != main and not t.is_floating_point() and t.shape == ids.shape]
        packed += sorted(companions, key=lambda key: key != ATTENTION_KEY)  # where a model takes them by position
    fields = tuple(Field(key, named[key].dtype, "counts" if key == ATTENTION_KEY else "") for key in packed)
    return pack([named[key] for key in packed], fields), fields


def _with_companions(name: str, named: Mapping[str, Tensor]) -> list[str]:
    ids = named[name]
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
        return [name]
    alike = [other for other, x in named.items() if other != name and x.shape == ids.shape]
    return [name, *(other for other in alike if not named[other].is_floating_point() or _is_plain_mask(other, named))]


def _is_plain_mask(name: str, named: Mapping[str, Tensor]) -> bool:
    """Whether a floating-point companion is a mask of 0 and 1: other numbers would not survive the packing."""
    return "mask" in _last(name) and zeros_and_ones(named[name])


def _wanted(named: Mapping[str, Tensor], wanted: str | int) -> str:
    names = list(named)
    found = [name for name in names if wanted in (name, _last(name))]
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        found = [names[wanted]]
    if not found or named[found[0]].ndim < 2:
        known = ", ".join(f"{name} {tuple(x.shape)}" for name, x in named.items())
        raise bad_argument(
            "input", f"the name or position of a tensor (B, ...) the model is called with: {known}", wanted
        )
    return found[0]


def _rank(tensor: Tensor) -> int:
    """Order by what suits best: images, sequences and clouds, columns, ids."""
    if tensor.is_floating_point():
        return {4: 0, 3: 1, 2: 2}.get(tensor.ndim, 4)
    if tensor.dtype == torch.uint8 and tensor.ndim == 4:
        return 0
    return 3 if tensor.ndim == 2 else 4


def _is_mask(name: str, tensor: Tensor) -> bool:
    """Whether a tensor says what counts: by its type or name, or as it is nothing but 0 and minus infinity."""
    if tensor.dtype == torch.bool or "mask" in _last(name):
        return True
    return tensor.is_floating_point() and bool((tensor == -torch.inf).any()) and not bool((tensor > 0).any())


def _is_text(name: str, tensor: Tensor) -> bool:
    """Whether whole numbers in several columns are called tokens."""
    whole = tensor.ndim == 2 and not tensor.is_floating_point()
    return whole and any(word in _last(name) for word in ("ids", "token", "text", "word"))


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _are_ids_and_mask(ids: Any, mask: Any) -> bool:
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or ids.ndim != 2 or ids.shape != mask.shape:
        return False
    whole = not ids.is_floating_point() and not mask.is_floating_point()
    return whole and zeros_and_ones(mask)
