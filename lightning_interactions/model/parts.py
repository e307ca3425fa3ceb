"""How single things are kept and put back: a container, an object, a module, an array, a random generator, tensors.

Every part keeps what one thing holds, by identity and not deeper; what the things it holds hold in turn is kept by
parts of their own. So they can be put back in any order, and everything is again the same object in the same place.
A part writes only where something changed.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

_ABSENT = object()

INTERNAL = frozenset(nn.Module().__dict__)
"""What torch keeps in every module."""

_REGISTERS = tuple(name for name, value in nn.Module().__dict__.items() if isinstance(value, (dict, set)))
_STRUCTURE = ("_parameters", "_modules")
_NOT_STATE = INTERNAL | {"log", "log_dict", "_trainer", "_fabric", "_current_fx_name"}


class Part(Protocol):
    """One thing as it was."""

    def restore(self) -> bool:
        """Put it back, and say whether anything had changed."""

    def rewind(self) -> bool:
        """Put back what one forward pass leaves for the next; all of it but in modules."""


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(map(is_, first, second))


# -- containers and objects -------------------------------------------------------------------------------------------
# Written through the builtin class: a subclass may do something else when it is filled.


def _read_dict(held: Any) -> list[Any]:
    kind: Any = OrderedDict if isinstance(held, OrderedDict) else dict
    return [*kind.keys(held), *kind.values(held)]


def _write_dict(held: Any, was: list[Any]) -> None:
    kind: Any = OrderedDict if isinstance(held, OrderedDict) else dict
    kind.clear(held)
    half = len(was) // 2
    for key, value in zip(was[:half], was[half:], strict=True):
        kind.__setitem__(held, key, value)


def _read_list(held: Any) -> list[Any]:
    return list.copy(held)


def _write_list(held: Any, was: list[Any]) -> None:
    list.__setitem__(held, slice(None), was)


def _read_set(held: Any) -> list[Any]:
    return list(set.__iter__(held))


def _write_set(held: Any, was: list[Any]) -> None:
    set.clear(held)
    set.update(held, was)


def _read_deque(held: Any) -> list[Any]:
    return list(deque.__iter__(held))


def _write_deque(held: Any, was: list[Any]) -> None:
    deque.clear(held)
    deque.extend(held, was)


def _slots(cls: type) -> Iterator[Any]:
    """Find all slots of a class by their kind, for private names are mangled; ``default_factory`` of a dict is one."""
    for base in cls.__mro__:
        yield from (d for d in vars(base).values() if type(d) is _SLOT and d.__objclass__ is base)


class _Slotted:
    __slots__ = ("slot",)


_SLOT = type(vars(_Slotted)["slot"])


def has_slots(cls: type) -> bool:
    """Whether a class, or one that it derives from, has ``__slots__``."""
    return next(_slots(cls), None) is not None


def _read_slots(held: Any) -> list[Any]:
    return [_value(slot, held) for slot in _slots(type(held))]


def _value(slot: Any, held: Any) -> Any:
    try:
        return slot.__get__(held)
    except AttributeError:
        return _ABSENT


def _write_slots(held: Any, was: list[Any]) -> None:
    for slot, value in zip(_slots(type(held)), was, strict=True):
        if value is not _ABSENT:
            slot.__set__(held, value)  # also where the class is frozen
        elif _value(slot, held) is not _ABSENT:
            slot.__delete__(held)


class Holder:
    """Something that holds other things: which ones, in which order."""

    __slots__ = ("_held", "_read", "_write", "holds")

    def __init__(self, held: Any, read: Callable[[Any], list[Any]], write: Callable[[Any, list[Any]], None]) -> None:
        self._held, self._read, self._write = held, read, write
        self.holds = read(held)

    def changed(self) -> bool:
        """Whether it holds other things, or in another order."""
        return not _same(self._read(self._held), self.holds)

    def restore(self) -> bool:
        """Let it hold again what it held."""
        if not self.changed():
            return False
        self._write(self._held, self.holds)
        return True

    rewind = restore

    def swap(self, others: Mapping[int, Any]) -> None:
        """Let it hold other things in place of some, which are given by their ``id``."""
        if any(id(thing) in others for thing in self.holds):
            self._write(self._held, [others.get(id(thing), thing) for thing in self.holds])


def dict_part(held: Any) -> Holder:
    """Keep a dict of any kind, or the attributes of an object."""
    return Holder(held, _read_dict, _write_dict)


def list_part(held: Any) -> Holder:
    """Keep a list."""
    return Holder(held, _read_list, _write_list)


def set_part(held: Any) -> Holder:
    """Keep a set."""
    return Holder(held, _read_set, _write_set)


def deque_part(held: Any) -> Holder:
    """Keep a deque."""
    return Holder(held, _read_deque, _write_deque)


def slots_part(held: Any) -> Holder:
    """Keep the slots of an object."""
    return Holder(held, _read_slots, _write_slots)


# -- modules ----------------------------------------------------------------------------------------------------------


class ModulePart:
    """A module: its class, its attributes, and what is registered in it."""

    __slots__ = ("_class", "_empty", "_full", "_module", "attributes")

    def __init__(self, module: nn.Module) -> None:
        self._module, self._class = module, type(module)  # lazy modules become others
        self.attributes = dict(module.__dict__)
        found = {name: self.attributes[name] for name in _REGISTERS if name in self.attributes}
        self._full = {n: set_part(d) if isinstance(d, set) else dict_part(d) for n, d in found.items() if d}
        self._empty = [d for d in found.values() if not d]  # most are, so no more is kept of them

    def restore(self) -> bool:
        """Put everything back."""
        module, changed = self._module, False
        if type(module) is not self._class:
            module.__class__ = self._class
            changed = True
        now = module.__dict__
        if not self._has_its_attributes():
            now.clear()
            now.update(self.attributes)
            changed = True
        for register in self._empty:
            if register:
                register.clear()
                changed = True
        for part in self._full.values():
            changed |= part.restore()
        return changed

    def rewind(self) -> bool:
        """Put attributes and buffers back, but no mode, no hooks, and nothing where the forward pass built the module.

        What it built must not be built again, with other random weights, in every pass.
        """
        if type(self._module) is not self._class or any(map(self._registers_others, _STRUCTURE)):
            return False
        changed = self._registers_others("_buffers")
        if "_buffers" in self._full:
            self._full["_buffers"].restore()
        elif changed:
            self.attributes["_buffers"].clear()
        now, was = self._module.__dict__, self.attributes
        if self._has_its_attributes():
            return changed
        for name in [*was, *now]:
            if now.get(name, _ABSENT) is not was.get(name, _ABSENT) and name not in _NOT_STATE:
                changed = True
                if name in was:
                    now[name] = was[name]
                else:
                    del now[name]
        return changed

    def swap(self, others: Mapping[int, Any]) -> None:
        """Let attributes and buffers be others in place of some, which are given by their ``id``."""
        for name, value in self.attributes.items():
            if id(value) in others:
                self._module.__dict__[name] = others[id(value)]
        if "_buffers" in self._full:
            self._full["_buffers"].swap(others)

    def _has_its_attributes(self) -> bool:
        now, was = self._module.__dict__, self.attributes
        return _same(list(now.values()), list(was.values())) and list(now) == list(was)

    def _registers_others(self, register: str) -> bool:
        part = self._full.get(register)
        return part.changed() if part is not None else bool(self._module.__dict__.get(register))


class UnbornPart:
    """A parameter or buffer of a lazy module, before its shape is known."""

    def __init__(self, tensor: Any) -> None:
        self._tensor, self._class, self._data = tensor, type(tensor), tensor.data

    def restore(self) -> bool:
        """Take its shape away again."""
        if type(self._tensor) is self._class:
            return False
        self._tensor.data = self._data
        self._tensor.__class__ = self._class
        return True

    def rewind(self) -> bool:
        """Leave it: the next forward pass would begin with other random weights."""
        return False


# -- arrays and random generators -------------------------------------------------------------------------------------


class ArrayPart:
    """The content of a NumPy array."""

    def __init__(self, array: Any) -> None:
        self._array, self._was = array, array.copy()

    def restore(self) -> bool:
        """Write the content back."""
        if self._array.tobytes() == self._was.tobytes():
            return False
        self._array[...] = self._was
        return True

    rewind = restore


def _read_random(held: Any) -> Any:
    if isinstance(held, torch.Generator):
        return held.get_state().numpy().tobytes()
    if isinstance(held, random.Random):
        return held.getstate()
    if isinstance(held, np.random.RandomState):
        return _plain(held.get_state(legacy=False))
    return _plain(held.state if isinstance(held, np.random.BitGenerator) else held.bit_generator.state)


def _plain(state: Any) -> Any:
    """Copy a state with its arrays as bytes, which can be compared."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return (state.dtype.str, state.tobytes()) if isinstance(state, np.ndarray) else state


def _unplain(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _unplain(value) for key, value in state.items()}
    return np.frombuffer(state[1], state[0]).copy() if isinstance(state, tuple) else state


class RandomPart:
    """The state of a random generator, of Python, NumPy or torch."""

    def __init__(self, generator: Any) -> None:
        self._generator, self._was = generator, _read_random(generator)

    def restore(self) -> bool:
        """Let it draw the same numbers again."""
        held, was = self._generator, self._was
        if _read_random(held) == was:
            return False
        if isinstance(held, torch.Generator):
            held.set_state(torch.frombuffer(bytearray(was), dtype=torch.uint8))
        elif isinstance(held, random.Random):
            held.setstate(was)
        elif isinstance(held, np.random.RandomState):
            held.set_state(_unplain(was))
        elif isinstance(held, np.random.BitGenerator):
            held.state = _unplain(was)
        else:
            held.bit_generator.state = _unplain(was)
        return True

    rewind = restore
