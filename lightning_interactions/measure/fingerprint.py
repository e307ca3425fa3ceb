"""What a setting is, in a short text that another process would give too: no addresses, and contents by their hash."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch

LONGEST = 160
"""Characters of a text that is still shown; of a longer one the start and a hash."""

PACKAGE = __name__.partition(".")[0]
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...), type(NotImplemented))
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")


def fingerprint(value: object) -> str:
    """Tell what a value is, so that two settings are the same if, and practically only if, their texts are.

    Plain values are shown as they are; what cannot be read is its class alone. No address is in the text.
    """
    try:
        return _Reader().read(value)
    except Exception:  # attributes, mappings and `repr` of the user's own classes may do anything
        return _name(type(value))


class _Reader:
    """Reads one value; an object that is met again is not read again, one inside itself ends the descent."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[object, str]] = {}  # with the object, or its id could be given away meanwhile
        self._open: set[int] = set()

    def read(self, value: Any) -> str:
        if type(value) in _PLAIN:
            return repr(value)
        if id(value) in self._open:
            return "<itself>"
        if id(value) not in self._done:
            self._open.add(id(value))
            text = self._read(value)
            self._done[id(value)] = value, text if len(text) <= LONGEST else f"{text[:LONGEST]}... {_hash(text)}"
            self._open.discard(id(value))
        return self._done[id(value)][1]

    def _read(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return _tensor(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asarray(value))
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, type):
            return _name(value)
        if isinstance(value, Enum):
            return f"{_name(type(value))}.{value.name}"
        if isinstance(value, functools.partial):
            return f"partial({self._arguments([value.func, *value.args], value.keywords)})"
        if callable(value) and isinstance(getattr(value, "__qualname__", None), str):
            return self._function(value)
        return self._container(value) or self._object(value)

    def _arguments(self, positional: Iterable[Any], named: Mapping[str, Any]) -> str:
        return ", ".join([*map(self.read, positional), *(f"{k}={self.read(v)}" for k, v in sorted(named.items()))])

    def _array(self, array: np.ndarray[Any, Any]) -> str:
        if array.dtype.hasobject:  # its bytes would be addresses
            content = _hash(" ".join(map(self.read, array.ravel().tolist())))
        else:
            content = _hash(array.tobytes())
        return f"array({array.dtype}, {array.shape}, {content})"

    def _container(self, value: Any) -> str | None:
        """Read the elements; those of mappings and sets in the order of their own texts, the same in every process."""
        named = "" if type(value) in (dict, list, tuple, set, frozenset) else _name(type(value))
        if isinstance(value, Mapping):
            pairs = sorted((self.read(key), self.read(item)) for key, item in value.items())
            return f"{named}{{{', '.join(f'{key}: {item}' for key, item in pairs)}}}"
        if isinstance(value, (set, frozenset)):
            return f"{named}{{{', '.join(sorted(map(self.read, value)))}}}"
        if isinstance(value, (list, tuple)):
            left, right = "[]" if isinstance(value, list) else "()"
            return f"{named}{left}{', '.join(map(self.read, value))}{right}"
        return None

    def _function(self, function: Any) -> str:
        """Name it; lambdas and closures have no name to rely on: their code and the values they took along count."""
        owner = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, (types.ModuleType, type)):  # a method of an object
            return f"{self.read(owner)}.{function.__name__}"
        code = getattr(function, "__code__", None)
        if code is None or "<" not in function.__qualname__:
            return _name(function)
        parts = [self._code(code)]
        for cell in function.__closure__ or ():
            try:
                parts.append(self.read(cell.cell_contents))
            except ValueError:
                parts.append("<empty>")
        parts += [self.read(function.__defaults__), self.read(function.__kwdefaults__)]
        return f"{_name(function)}({_hash(' '.join(parts))})"

    def _code(self, code: types.CodeType) -> str:
        """Read what the code does; not where it stands."""
        constants = [self._code(c) if isinstance(c, types.CodeType) else self.read(c) for c in code.co_consts]
        return " ".join([_hash(code.co_code), *code.co_names, *constants])

    def _object(self, value: Any) -> str:
        """Read class and public attributes: what begins with an underscore is learned, not set; weights change."""
        attributes = dict(getattr(value, "__dict__", {}))
        for cls in type(value).__mro__:
            slots = vars(cls).get("__slots__", ())
            slots = [slots] if isinstance(slots, str) else slots
            attributes |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
        public = {name: item for name, item in attributes.items() if not str(name).startswith("_")}
        if not hasattr(value, "__dict__") and not public and not _ADDRESS.search(repr(value)):
            return repr(value)  # a path, a device, a date: built in, and known by what it shows
        return f"{_name(type(value))}({self._arguments((), public)})"


def _tensor(tensor: torch.Tensor) -> str:
    kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    if tensor.is_meta:
        return f"tensor({kind}, {shape})"
    whole = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
    flat = whole.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return f"tensor({kind}, {shape}, {_hash(flat.view(torch.uint8).numpy().tobytes())})"


def _name(named: Any) -> str:
    """Module and qualified name; within this package no modules, which may change from one version to the next."""
    module = str(getattr(named, "__module__", None) or "").replace("__mp_main__", "__main__")
    module = "" if module in ("", "builtins") or module.partition(".")[0] == PACKAGE else f"{module}."
    return f"{module}{named.__qualname__}"


def _hash(content: str | bytes) -> str:
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return "#" + hashlib.sha256(content).hexdigest()[:16]
