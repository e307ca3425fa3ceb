"""Nested structures of tensors, as batches and arguments are: taken apart, and put together again."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Path = tuple[str | int, ...]
"""Where a leaf is: keys, indices and names of fields, from the outside in."""

DEPTH = 8
"""Structures nested deeper are leaves: they may contain themselves."""


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every leaf with its path; containers are mappings, lists, tuples and dataclasses.

    Example:
        >>> list(leaves({"a": [1, 2], "b": (3,)}))
        [(('a', 0), 1), (('a', 1), 2), (('b', 0), 3)]
    """
    children = _children(value) if len(path) < DEPTH else None
    if children is None:
        yield path, value
        return
    for key, child in children:
        yield from leaves(child, (*path, key))


def tensors(value: Any) -> dict[Path, Tensor]:
    """Return the tensors among the leaves."""
    return {path: leaf for path, leaf in leaves(value) if isinstance(leaf, Tensor)}


def rebuild(value: Any, change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """Return the same structure with other leaves; containers are new ones of the same kind.

    Example:
        >>> rebuild({"a": [1, 2]}, lambda path, leaf: 10 * leaf)
        {'a': [10, 20]}
    """
    children = _children(value) if len(path) < DEPTH else None
    if children is None:
        return change(path, value)
    new = [(key, rebuild(child, change, (*path, key))) for key, child in children]
    if isinstance(value, Mapping):
        return _mapping(value, dict(new))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(child for _, child in new))
    if isinstance(value, (list, tuple)):
        plain: list[Any] = [child for _, child in new]
        return plain if isinstance(value, list) else tuple(plain)
    clone = copy.copy(value)
    for key, child in new:
        object.__setattr__(clone, str(key), child)
    return clone


def same(a: Tensor, b: Tensor) -> bool:
    """Whether tensors have the same content; what is not a number is the same as itself.

    Example:
        >>> same(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
        True
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def copied(value: Any) -> Any:
    """Copy the tensors of a structure, so that what is written into them later does not matter."""
    return rebuild(value, lambda _, leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf)


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    """Keys and elements of a container; ``None`` for a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    if type(value) in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _mapping(like: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """Make a mapping of the same kind where that can be; models ask for attributes of Hugging Face's."""
    if type(like) is dict:
        return items
    try:
        clone: Any = copy.copy(like)
        for key, item in items.items():
            clone[key] = item
    except Exception:  # one that cannot be written to
        return items
    return clone  # type: ignore[no-any-return]
