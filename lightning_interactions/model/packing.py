"""Several tensors in one, so that they are collected, hashed, masked and repeated together.

Token ids have companions of the same shape (an attention mask, segments): they become ``(B, K, L)``, the ids in row 0.
The columns of a table may come as several tensors of several types, as tabular libraries pass them: they become
``(B, F)``. Either way all are 64-bit integers (of floating-point columns the bits), which no precision changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument

ATTENTION_KEY = "attention_mask"

Role = Literal["", "counts", "padding", "lengths"]

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Field(NamedTuple):
    """One named tensor of an input: its key in the batch, and its own type (packed, all are 64-bit integers).

    Packed, a mask of the positions that count is 1 where they do, whichever way the model wants it.
    """

    name: str
    dtype: torch.dtype
    role: Role = ""  # "counts": a mask of what counts; "padding": one of what does not; "lengths": made of lengths
    columns: int | None = None  # of a table: how many; 0 for one that comes as ``(B,)``. None: no table

    @property
    def row(self) -> str:
        """Its name as a row of the packed input."""
        return ATTENTION_KEY if self.role else self.name


@dataclass(frozen=True)
class Table:
    """The columns of a table that came as several tensors, ``(B,)`` or ``(B, K)`` each.

    Example:
        >>> table = Table((Field("age", torch.float32, columns=0), Field("jobs", torch.int64, columns=2)))
        >>> packed = table.pack([torch.tensor([39.5]), torch.tensor([[3, 7]])])
        >>> packed.shape, table.values(packed).tolist(), table.names
        (torch.Size([1, 3]), [[39.5, 3.0, 7.0]], ['age', 'jobs 0', 'jobs 1'])
    """

    fields: tuple[Field, ...]

    @property
    def names(self) -> list[str]:
        """What the columns are called: by their tensor, and their number in it."""
        found = []
        for field in self.fields:
            name = field.name.rpartition(".")[2]
            found += [f"{name} {i}" for i in range(field.columns)] if field.columns else [name]
        return found

    @property
    def whole(self) -> Tensor:
        """Boolean ``(F,)``: which columns are whole numbers, such as the ids of categories."""
        kinds = [[not field.dtype.is_floating_point] * _width(field) for field in self.fields]
        return torch.tensor([kind for some in kinds for kind in some])

    def pack(self, own: Sequence[Tensor]) -> Tensor:
        """Put the tensors together, ``(B, F)``."""
        return torch.cat([_words(tensor.reshape(len(tensor), -1)) for tensor in own], 1)

    def unpack(self, packed: Tensor) -> list[Tensor]:
        """Take them apart again, each of its own type and shape."""
        parts = torch.split(packed, [_width(field) for field in self.fields], 1)
        own = [_numbers(part, field.dtype) for part, field in zip(parts, self.fields, strict=True)]
        return [x if field.columns else x.squeeze(1) for x, field in zip(own, self.fields, strict=True)]

    def values(self, packed: Tensor) -> Tensor:
        """The numbers themselves, float64, of ``(F,)`` or ``(B, F)`` on the CPU."""
        rows = self.unpack(packed.reshape(-1, packed.shape[-1]))
        return torch.cat([x.reshape(len(x), -1).double() for x in rows], 1).view(packed.shape)

    def words(self, values: Tensor) -> Tensor:
        """Pack numbers ``(F,)`` as one sample."""
        parts = torch.split(values, [_width(field) for field in self.fields])
        for part, field in zip(parts, self.fields, strict=True):
            if not field.dtype.is_floating_point and not torch.equal(part, part.round()):
                raise bad_argument("baseline", f"whole numbers for the columns of {field.name!r}", part.tolist())
        return torch.cat([_words(x.to(field.dtype)) for x, field in zip(parts, self.fields, strict=True)])

    def describe(self) -> str:
        """Name the columns in a few words."""
        named = [field.name.rpartition(".")[2] for field in self.fields]
        more = f" and {len(named) - 5} more" if len(named) > 6 else ""
        return f"the columns {', '.join(named[:5] if more else named)}{more}"


def pack(own: Sequence[Tensor], fields: Sequence[Field], lengths: Tensor | None = None) -> Tensor:
    """Pack columns of a table, or token ids ``(B, L)`` with their companions; one tensor alone stays as it is.

    ``lengths``, long ``(B,)``, make the row of the field whose role that is. Undone by `unpack`.
    """
    if len(fields) == 1:
        return own[0]
    table = table_of(fields)
    if table is not None:
        return table.pack(own)
    rows = []
    for tensor, field in zip(own, fields, strict=False):
        rows.append((tensor == 0).long() if field.role == "padding" else tensor.long())
    if lengths is not None:
        places = torch.arange(own[0].shape[-1], device=own[0].device)
        rows.append((places < lengths.to(places).unsqueeze(1)).long())
    return torch.stack(rows, 1)


def unpack(inputs: Tensor, fields: Sequence[Field]) -> dict[str, Tensor]:
    """Give the tensors of an input, packed or not, by name and each of its own type; there must be a name."""
    if len(fields) == 1:
        return {fields[0].name: inputs}
    table = table_of(fields)
    if table is not None:
        return dict(zip([field.name for field in fields], table.unpack(inputs), strict=True))
    found = {}
    for row, field in enumerate(fields):
        if field.role != "lengths":
            own = inputs[:, row].contiguous()
            found[field.name] = (1 - own if field.role == "padding" else own).to(field.dtype)
    return found


def table_of(fields: Sequence[Field]) -> Table | None:
    """Return the table these fields are the columns of; ``None`` if they are something else."""
    return Table(tuple(fields)) if fields and fields[0].columns is not None else None


def column_field(name: str, tensor: Tensor) -> Field:
    """Describe a tensor ``(B,)`` or ``(B, K)`` as columns of a table."""
    return Field(name, tensor.dtype, columns=tensor.shape[1] if tensor.ndim > 1 else 0)


def _width(field: Field) -> int:
    return field.columns or 1


def _words(numbers: Tensor) -> Tensor:
    return (numbers.contiguous().view(_BITS[numbers.itemsize]) if numbers.is_floating_point() else numbers).long()


def _numbers(words: Tensor, dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        return words.to(dtype)
    return words.to(_BITS[dtype.itemsize]).contiguous().view(dtype)
