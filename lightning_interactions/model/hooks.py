"""Forward hooks that are somebody's own: they may write to lists we know nothing of, so ours must not reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.modules import module as _torchs

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


class NotedHooks:
    """The forward hooks that are on modules at this moment, by their numbers.

    Example:
        >>> model = nn.Flatten()
        >>> noted = NotedHooks([model])
        >>> handle = model.register_forward_hook(print)
        >>> noted.drop_later(), len(model._forward_hooks), noted.drop_later()
        (True, 0, False)
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        registers = [module.__dict__[name] for module in modules for name in _HOOKS if name in module.__dict__]
        self._noted = [(register, frozenset(register)) for register in registers]

    def drop_later(self) -> bool:
        """Take out those that came since, and say whether there were any."""
        found = False
        for register, known in self._noted:
            for number in [number for number in register if number not in known]:
                del register[number]
                found = True
        return found


@contextmanager
def without_foreign_hooks(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Take out the forward hooks that are not torch's own, and at the end put them back in their order.

    Spectral norm, pruning and the like compute weights in such hooks: those stay. Hooks that are registered inside run,
    and are gone at the end. What torch notes of a hook besides (whether it takes keywords) is looked up by its number
    and can stay.
    """
    registers = [getattr(_torchs, name) for name in _GLOBAL_HOOKS]
    registers += [module.__dict__[name] for module in modules for name in _HOOKS if module.__dict__.get(name)]
    thinned = []
    try:
        for register in registers:
            foreign = [number for number, hook in register.items() if not is_torchs_own(hook)]
            if foreign:
                thinned.append((register, dict(register)))
                for number in foreign:  # in place: handles refer to this very dict
                    del register[number]
        yield
    finally:
        for register, hooks in thinned:
            register.clear()
            register.update(hooks)


def has_foreign_hooks(model: nn.Module) -> bool:
    """Whether forward hooks that are not torch's own are on a model."""
    return any(
        not is_torchs_own(hook)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    )


def is_torchs_own(hook: Callable[..., Any]) -> bool:
    """Whether a hook is defined in torch, also where it belongs to a user's subclass (of a pruning method, say)."""
    while isinstance(hook, partial):
        hook = hook.func
    code: Any = hook.__func__ if isinstance(hook, MethodType) else hook
    if isinstance(code, nn.Module):
        code = type(code).forward
    elif not hasattr(code, "__code__") and not isinstance(code, type):  # an object that can be called
        code = getattr(type(code), "__call__", code)  # noqa: B004
    return str(getattr(code, "__module__", "")).partition(".")[0] == "torch"
