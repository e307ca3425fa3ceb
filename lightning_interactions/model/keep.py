"""A snapshot of everything a forward pass may change in a model, to go back to."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache, partial
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_interactions.model.hooks import NotedHooks
from lightning_interactions.model.parts import (
    INTERNAL,
    ArrayPart,
    Holder,
    ModulePart,
    Part,
    RandomPart,
    UnbornPart,
    deque_part,
    dict_part,
    has_slots,
    list_part,
    set_part,
    slots_part,
)
from lightning_interactions.model.tensors import Tensors

LIMIT = 20_000
"""Objects that are looked at in one snapshot, modules not counted; those nearest to the model come first."""

_FOREIGN = frozenset({
    "torch", "torchvision", "torchaudio", "torchdata", "lightning", "pytorch_lightning", "lightning_fabric",
    "lightning_utilities", "lightning_interactions", "numpy", "scipy", "pandas", "pyarrow", "PIL", "datasets",
    "matplotlib", "tensorboard", "wandb", "mlflow", "comet_ml", "trackio", "neptune",
    "jsonargparse",
    "threading", "_thread", "logging", "multiprocessing", "concurrent", "asyncio", "socket", "io", "_io", "queue",
})  # fmt: skip
"""Whatever derives from a class of these is no state of a model: Trainers, data sets, optimizers, loggers, locks."""

_UNWALKED = INTERNAL | {
    "_trainer", "_fabric", "_hparams_initial", "_example_input_array", "_compiler_ctx", "_fabric_optimizers",
}  # fmt: skip
_GENERATORS = (torch.Generator, np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)


class Kept:
    """The state of a model at this moment: `restore` goes back to it, and so does `rewind`, for the next forward pass.

    Kept are, by identity and with their contents: the attributes of every module, its buffers, hooks and class, and
    whatever can be reached from the attributes: tensors, arrays, containers, random generators, modules that are not
    registered, and plain objects. Not kept are what functions refer to, and the contents of registered parameters: they
    are only watched, unless ``parameters`` is set, which takes as much memory again. Other parameters (an averaged copy
    in a list) are state. Of scripted modules only parameters and buffers are kept.

    Args:
        model: The model.
        parameters: Whether to keep the contents of its parameters and their gradients too.

    Attributes:
        modules: All modules that were found: those of the model and those that hide in attributes.
        hooks: The forward hooks on them.
        has_parameters: Whether the contents of parameters are kept.

    Example:
        >>> model = nn.Flatten()
        >>> model.seen = ["this"]
        >>> kept = Kept(model)
        >>> model.seen.append("that")
        >>> kept.restore()
        >>> model.seen
        ['this']
    """

    def __init__(self, model: nn.Module, *, parameters: bool = False) -> None:
        self.modules: list[nn.Module] = []
        self._parts: list[Part] = []
        self._state: list[Tensor] = []
        self._seen: set[int] = set()
        self._waiting: deque[Any] = deque()
        self.has_parameters = parameters
        with torch.inference_mode(False), torch.no_grad():
            weights = self._find_weights(model)
            for module in model.modules():
                self._visit(module)
            while self._waiting and len(self._seen) < LIMIT + len(self.modules):
                self._visit(self._waiting.popleft())
            self._waiting.clear()
            self._tensors = Tensors(self._state)
            self._frozen = [t for t in self._state if t.is_inference() and not isinstance(t, nn.Parameter)]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self._weights = Tensors([*weights, *gradients], copy=parameters)
            self._gradients = [(weight, weight.grad) for weight in weights]
        self._written = False
        self.hooks = NotedHooks(self.modules)

    @property
    def parameters_written(self) -> bool:
        """Whether a registered parameter has been found changed, for certain only where they are copied."""
        return self._written or self._weights.touched()

    def restore(self) -> None:
        """Put everything back; where a thing refuses, the others are put back all the same, and then it is raised."""
        problems = []
        with torch.inference_mode(False), torch.no_grad():
            for restore in (*(part.restore for part in self._parts), self._tensors.restore, self.rewind_parameters):
                try:
                    restore()
                except Exception as error:
                    problems.append(error)
        for weight, gradient in self._gradients:
            if weight.grad is not gradient:
                weight.grad = gradient
        if problems:
            raise problems[0]

    def rewind(self) -> bool:
        """Go back, for a forward pass, and say whether anything had changed.

        Left are what belongs to the calling and not to the state: modes, hooks, and parameters (`rewind_parameters`);
        and modules that were built by a forward pass since.
        """
        with torch.inference_mode(False), torch.no_grad():
            changed = [self._tensors.restore(), *[part.rewind() for part in self._parts]]
        self.thaw()
        return any(changed)

    def thaw(self) -> None:
        """Put copies in the place of tensors made in inference mode (a validation): elsewhere none can write to them.

        `restore` gives them back.
        """
        if self._frozen:
            with torch.inference_mode(False), torch.no_grad():
                copies = {id(tensor): tensor.clone() for tensor in self._frozen}
            for part in self._parts:
                if isinstance(part, (Holder, ModulePart)):
                    part.swap(copies)

    def rewind_parameters(self) -> bool:
        """Put parameters back as far as they are kept, and say whether anything had changed."""
        self._written |= self._weights.touched()
        with torch.inference_mode(False), torch.no_grad():
            changed = self._weights.restore()
        self._written |= changed and self.has_parameters
        return changed

    # -- finding ------------------------------------------------------------------------------------------------------

    def _find_weights(self, model: nn.Module) -> list[Tensor]:
        weights: list[Tensor] = []
        for parameter in model.parameters():
            self._seen.add(id(parameter))
            if is_lazy(parameter):
                self._parts.append(UnbornPart(parameter))
            else:
                weights.append(parameter)
        return weights

    def _visit(self, thing: Any) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        keep = _way_to_keep(type(thing))
        if keep is not None:
            keep(self, thing)

    def _wait(self, things: Iterable[Any]) -> None:
        """Look at some things later; numbers and the like are left out at once."""
        if any(_way_to_keep(kind) is not None for kind in set(map(type, things))):
            self._waiting += (thing for thing in things if _way_to_keep(type(thing)) is not None)

    def _keep_module(self, module: nn.Module) -> None:
        self.modules.append(module)
        if isinstance(module, torch.jit.ScriptModule):
            self._wait([*module.parameters(recurse=False), *module.buffers(recurse=False), *module.children()])
            return
        part = ModulePart(module)
        self._parts.append(part)
        for register in ("_buffers", "_parameters", "_modules"):
            self._wait(part.attributes[register].values())
        self._wait([value for name, value in part.attributes.items() if name not in _UNWALKED])

    def _keep_tensor(self, tensor: Tensor) -> None:
        if is_lazy(tensor):
            self._parts.append(UnbornPart(tensor))
        else:
            self._state.append(tensor)

    def _keep_array(self, array: Any) -> None:
        if array.dtype.hasobject:
            self._wait(array.ravel().tolist())
        elif array.flags.writeable:
            self._parts.append(ArrayPart(array))

    def _keep_generator(self, generator: Any) -> None:
        self._parts.append(RandomPart(generator))

    def _keep_object(self, thing: Any) -> None:
        """Keep a container, with the attributes it may have besides, or a plain object."""
        makers = [make for kind, make in _CONTAINERS.items() if isinstance(thing, kind)]
        makers += [slots_part] if has_slots(type(thing)) else []
        parts = [make(thing) for make in makers]
        attributes = getattr(thing, "__dict__", None)
        parts += [dict_part(attributes)] if isinstance(attributes, dict) else []
        self._parts += parts
        for part in parts:
            self._wait(part.holds)

    def _look_into(self, thing: Any) -> None:
        """Look at what something holds that cannot itself be changed."""
        if isinstance(thing, MethodType):
            self._wait((thing.__self__,))
        elif isinstance(thing, partial):
            self._wait((thing.func, *thing.args, *thing.keywords.values()))
        else:
            self._wait(tuple(thing))


_CONTAINERS = {dict: dict_part, list: list_part, set: set_part, deque: deque_part}
_Way = Callable[[Kept, Any], None]


def _find_way(cls: type) -> _Way | None:
    """How instances of a class are kept; ``None`` for what cannot change, and for what is no state of a model."""
    ways: list[tuple[Any, _Way]] = [
        (nn.Module, Kept._keep_module),
        (Tensor, Kept._keep_tensor),
        (_GENERATORS, Kept._keep_generator),
        (np.memmap, lambda *_: None),  # a data set on disk
        (np.ndarray, Kept._keep_array),
        ((tuple, frozenset, MethodType, partial), Kept._look_into),
        ((*_CONTAINERS, SimpleNamespace), Kept._keep_object),
    ]
    way = next((way for kinds, way in ways if issubclass(cls, kinds)), None)
    if way is not None:
        return None if issubclass(cls, torch.Size) else way
    return Kept._keep_object if _is_plain_object(cls) else None


def _is_plain_object(cls: type) -> bool:
    """Whether a class is somebody's own, with attributes or slots."""
    if cls.__module__.partition(".")[0] in sys.stdlib_module_names or issubclass(cls, (type, Enum, BaseException)):
        return False
    if any(base.__module__.partition(".")[0] in _FOREIGN for base in cls.__mro__):
        return False
    return cls.__dictoffset__ != 0 or has_slots(cls)


_way_to_keep: Callable[[type], _Way | None] = lru_cache(maxsize=4096)(_find_way)  # some classes have but one instance
