"""Seeing how a user's own step calls the model: which module, with what, after every transform.

While a step runs, hooks note the calls of the model and of its parts that come from the step itself, not those that one
part makes of another. Arguments are copied before the model can write into them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from lightning_interactions.model.tree import Path, copied, tensors

OUTPUT_NUMBERS = 2**24
"""Outputs with more numbers are not kept."""

MAX_CALLS = 32
"""Calls of one step, and of the model's own parts by itself, that are kept; the first ones matter."""


Judge = Literal["", "loss", "metric"]


@dataclass
class SeenCall:
    """One call of a module by a step."""

    site: str  # name of the module, as in `named_modules`; empty for the model itself
    args: tuple[Any, ...]  # copied
    kwargs: dict[str, Any]  # copied
    rows: int  # the samples it is about
    training: bool  # whether the module was in training mode
    judge: Judge = ""  # whether the module is no model, but a "loss" or a "metric"
    parameters: Mapping[int, str] = field(default_factory=dict)  # names of positional arguments
    ignored: int | None = None  # the class index a loss ignores
    weights: bool = True  # whether the module has parameters
    inside: bool = False  # whether it was called by the model itself, not by the step
    output: Any = None  # copied; None where it is too large
    frozen: bool = False  # whether it has no parameters that are trained

    @property
    def given(self) -> dict[Path, Tensor]:
        """The tensors among its arguments ``(args, kwargs)``, by where they stand."""
        return tensors((self.args, self.kwargs))

    @property
    def samples(self) -> dict[Path, Tensor]:
        """Those with a row for every sample."""
        return {path: tensor for path, tensor in self.given.items() if tensor.ndim and len(tensor) == self.rows}


class Recorder:
    """Notes the calls a step makes of a model.

    ``sites`` limits it to modules that are known already: all others are left alone. ``before`` is called just before
    the first call, with the model as the step finds it.

    Attributes:
        calls: What was seen since `start`.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Collection[str] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        self.model = model
        self.calls: list[SeenCall] = []
        self._sites, self._before = sites, before
        self._handles: list[Any] = []
        self._depth = 0
        self._sizes: Sequence[int] = ()
        self._open: list[SeenCall] = []  # those that are under way

    def start(self, sizes: Sequence[int] = ()) -> Recorder:
        """Begin to listen to a step with a batch whose tensors have these first dimensions, the likeliest first.

        Calls with other tensors are not about its samples.
        """
        self.stop()
        self.calls, self._depth, self._sizes = [], 0, sizes
        self._open = []
        for name, module in _observable(self.model):
            if self._sites is None or name in self._sites:
                with suppress(Exception):  # scripted modules may refuse
                    enter, leave = (_Hook(self, name, enters=enters) for enters in (True, False))
                    self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                    self._handles.append(module.register_forward_hook(leave, always_call=True))
        return self

    def stop(self) -> list[SeenCall]:
        """Listen no longer; return what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return self.calls

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a module is called."""
        if _is_redirect(module):
            return
        self._depth += 1
        inside = self._depth == 2 and bool(self._open) and self._open[0].site == ""
        alike = sum(call.inside == inside for call in self.calls)
        wanted = (self._depth == 1 or inside) and alike < MAX_CALLS
        rows = _rows((args, kwargs), self._sizes) if wanted else None
        if rows is None:
            return
        if self._before is not None and not self.calls:
            self._before()
        judge = judge_of(module)
        call = SeenCall(
            name, copied(args), copied(kwargs), rows, module.training, judge,
            parameters=parameter_names(module), inside=inside,
            ignored=getattr(module, "ignore_index", None) if judge == "loss" else None,
            weights=any(True for _ in module.parameters()),
            frozen=not any(weight.requires_grad for weight in module.parameters()),
        )  # fmt: skip
        self.calls.append(call)
        self._open.append(call)

    def leave(self, name: str, output: Any) -> None:
        """Note what a module returned, or that it failed."""
        if self._depth == 0:  # the step itself, redirected
            return
        self._depth -= 1
        if len(self._open) > self._depth and self._open[-1].site == name:
            size = sum(tensor.numel() for tensor in tensors(output).values())
            self._open.pop().output = copied(output) if size <= OUTPUT_NUMBERS else None


class _Hook:
    """A hook of a recorder; copies of its module, made while a step runs, get one that is gone when it is called."""

    def __init__(self, recorder: Recorder, name: str, *, enters: bool) -> None:
        self._recorder, self._name, self._enters = recorder, name, enters

    def __call__(self, module: nn.Module, args: Any, rest: Any) -> None:
        if self._enters:
            self._recorder.enter(self._name, module, args, rest)
        else:
            self._recorder.leave(self._name, rest)

    def __deepcopy__(self, memo: Any) -> _Gone:
        return _Gone()

    def __reduce__(self) -> tuple[type[_Gone], tuple[()]]:
        return _Gone, ()


class _Gone:
    """What is left of a hook in a copy."""

    def __call__(self, module: nn.Module, *rest: Any) -> None:
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number in [number for number, hook in hooks.items() if hook is self]:
                del hooks[number]


def parameter_names(module: nn.Module) -> dict[int, str]:
    """Return the names of the arguments a module takes by position."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return {}
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return dict(enumerate(plain))


def judge_of(module: nn.Module) -> Judge:
    """Say whether a module is a loss or a metric."""
    kinds = {f"{cls.__module__}.{cls.__name__}" for cls in type(module).__mro__}
    if "torch.nn.modules.loss._Loss" in kinds:
        return "loss"
    return "metric" if any(kind.startswith("torchmetrics.") for kind in kinds) else ""


def can_be_seen(model: nn.Module) -> bool:
    """Whether hooks on a model are of use: not where its steps were compiled, for then they would be compiled along."""
    return getattr(model, "_compiler_ctx", None) is None and not _is_compiled(model)


def _observable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that hooks may be put on, by name: nothing inside of what is compiled, which they would change."""
    inside: list[str] = []
    found = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in inside):
            continue
        if _is_compiled(module):
            inside.append(name)
            if type(module).__name__ != "OptimizedModule":  # compiled in place: its own hooks are compiled along
                continue
        found.append((name, module))
    return found


def _is_compiled(module: nn.Module) -> bool:
    in_place = getattr(module, "_compiled_call_impl", None) is not None
    return in_place or type(module).__name__ == "OptimizedModule"


def _is_redirect(module: nn.Module) -> bool:
    """Whether Lightning is on its way through a wrapper to the step: it looks like a call of the model itself."""
    return "_ForwardRedirection" in getattr(module.forward, "__qualname__", "")


def sizes_of(batch: Any) -> list[int]:
    """First dimensions of the tensors of a batch, the most frequent first: that is the number of samples."""
    sizes = [len(tensor) for tensor in tensors(batch).values() if tensor.ndim]
    return sorted(dict.fromkeys(sizes), key=sizes.count, reverse=True)


def _rows(arguments: Any, known: Sequence[int]) -> int | None:
    """Number of samples a call is about; ``None`` where no tensor has a dimension for them."""
    own = [len(tensor) for tensor in tensors(arguments).values() if tensor.ndim]
    return next((size for size in known if size in own), None) if known else next(iter(own), None)
