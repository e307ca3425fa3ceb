"""Calling somebody's model in the middle of training without leaving a trace.

`quiet` is the context for it; `float32_forward` makes the call compute in full precision whatever the weights are.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_interactions.errors import warn
from lightning_interactions.model.hooks import NotedHooks, without_foreign_hooks
from lightning_interactions.model.keep import Kept

Forward = Callable[..., Any]  # inputs (B, *shape), *carried (B, ...) -> whatever the model returns

_HALF = (torch.float16, torch.bfloat16)


class Quiet:
    """What `quiet` gives: a way to let every forward pass begin from the same state.

    Attributes:
        parameters_written: At the end, whether the model's own parameters were found changed.
        builds_hooks: Whether a forward pass has put hooks on modules.
    """

    def __init__(self, kept: Kept, start: Kept | None) -> None:
        self._kept, self._start = kept, start
        self._forwards = 0
        self._stateless = False
        self.parameters_written = False
        self.builds_hooks = False

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Go back to the start for what is inside; hooks it leaves on modules go, as what it notes of them does."""
        self.rewind()
        if self._stateless:
            yield
            return
        noted = NotedHooks(self._kept.modules)
        try:
            yield
        finally:
            self.builds_hooks |= noted.drop_later()

    def rewind(self) -> None:
        """Go back to the start; call it before every forward pass.

        Where the first one has changed nothing at all, the model has no state, and nobody looks again.
        """
        if self._stateless:
            return
        if self._forwards or self._start is not None:
            changed = (self._start or self._kept).rewind()
            changed |= self._kept.rewind_parameters()
            self._stateless = self._forwards == 1 and not changed
        self._forwards += 1

    def _leave(self) -> None:
        self.parameters_written = self._kept.parameters_written
        try:
            self._kept.restore()
        finally:
            self.parameters_written |= self._kept.parameters_written
        if self.parameters_written and not self._kept.has_parameters:
            warn("The model wrote to its parameters in evaluation mode, and what was in them is lost.")


@contextmanager
def quiet(
    model: nn.Module,
    *,
    full_precision: bool = True,
    start: Kept | None = None,
    hooks: bool = False,
    parameters: bool = False,
) -> Iterator[Quiet]:
    """Evaluation mode without gradients, leaving the model and the process exactly as they were, also after an error.

    Restored: all that `Kept` keeps of the model (attributes, buffers, hidden states, metrics, random generators, by
    identity and content), the random states (Python, NumPy, torch, the model's accelerator), grad and inference mode,
    TF32 settings. Inside, ``log`` and ``log_dict`` of Lightning modules do nothing, forward hooks other than torch's
    own do not run (they may write to what nobody can restore), autocast and (with ``full_precision``) TF32 are off, and
    ``torch.compile``-d parts run eagerly (new batch shapes would recompile them).

    Args:
        model: The model.
        full_precision: Whether TF32 is off.
        start: The state from which forward passes begin, see `Quiet.rewind`, for example that before the user's own
            first forward pass of an epoch; by default the present one, which is restored at the end in any case.
        hooks: Whether forward hooks run all the same; for models that collect features by hooks.
        parameters: Whether the contents of parameters are kept too, for models that write to them in evaluation mode.
    """
    device = device_of(model)
    with ExitStack() as undo:
        _keep_random_states(device, undo)
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.no_grad())
        if full_precision:
            _use_full_float32(undo)
        undo.enter_context(torch.autocast(device.type, enabled=False))
        for module in model.modules():
            _set_aside(module, undo)
        kept = Kept(model, parameters=parameters)
        inside = Quiet(kept, start)
        undo.callback(inside._leave)
        kept.thaw()
        if not hooks:
            undo.enter_context(without_foreign_hooks(kept.modules))
        elif start is not None:  # what the model noted of those that came since is not there either
            start.hooks.drop_later()
        if "torch._dynamo" in sys.modules:  # nothing can be compiled if it was never imported
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield inside


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU if it has none."""
    tensors = list(model.parameters())[:1] or list(model.buffers())[:1]
    return tensors[0].device if tensors else torch.device("cpu")


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """Return ``torch.channels_last`` for 4-D tensors kept so, else ``torch.contiguous_format``."""
    kept_so = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if kept_so and not tensor.is_contiguous() else torch.contiguous_format


def in_format_of(model: nn.Module, samples: Tensor) -> Tensor:
    """Return images in ``channels_last`` memory if the model keeps its convolutions so; anything else as it is."""
    if samples.ndim == 4 and any(memory_format_of(p) == torch.channels_last for p in model.parameters()):
        return samples.contiguous(memory_format=torch.channels_last)
    return samples


def float32_forward(model: nn.Module, call: Callable[..., Any] | None = None, *, cast: bool = True) -> Forward:
    """Return a forward that computes in float32 (float64 for float64 models), whatever dtype the weights are kept in.

    Rounding noise in ``v`` grows like ``2**(|S|/2)`` in the interactions and would look like high orders, so weights
    kept in half precision are cast up for the call, unless ``cast`` is false; such models then refuse the inputs. Make
    a new one after every change of the weights.
    """
    run = call or (lambda module, *inputs: module(*inputs))
    weights = [p for p in model.parameters() if p.is_floating_point()]
    wide = bool(weights) and all(p.dtype == torch.float64 for p in weights)
    dtype = torch.float64 if wide else torch.float32
    half = {name: p.detach().to(dtype) for name, p in model.named_parameters() if cast and p.dtype in _HALF}
    count_in_half = cast and any(buffer.dtype in _HALF for buffer in model.buffers())

    def forward(*inputs: Tensor) -> Any:
        wide_inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
        own = dict(half)
        if count_in_half:  # each time anew: a forward pass may write to them, and the next begins from the model's own
            own |= {name: b.to(dtype) for name, b in model.named_buffers() if b.dtype in _HALF}
        if not own:
            return run(model, *wide_inputs)
        return torch.func.functional_call(_Call(model, run), {f"model.{k}": v for k, v in own.items()}, wide_inputs)

    return forward


class _Call(nn.Module):
    """Lets `functional_call`, which wants a module, go through a user's own way of calling the model."""

    def __init__(self, model: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self.model, *inputs)


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Put the states of all random generators back at the end: what is drawn inside changes nothing."""
    with ExitStack() as undo:
        _keep_random_states(device, undo)
        yield


def _keep_random_states(device: torch.device, undo: ExitStack) -> None:
    accelerator = getattr(torch, device.type, None) if device.type != "cpu" else None
    if accelerator is not None:
        place = (device,) if device.type != "mps" else ()  # torch.mps has one device and takes no argument
        undo.callback(accelerator.set_rng_state, accelerator.get_rng_state(*place), *place)
    undo.callback(torch.set_rng_state, torch.get_rng_state())
    undo.callback(np.random.set_state, np.random.get_state())
    undo.callback(random.setstate, random.getstate())


def _use_full_float32(undo: ExitStack) -> None:
    try:
        matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the user took the settings of torch 2.9 and later, which refuse to be mixed with these
        matmul, convolution = "highest", False
    # What is off already is not written: that would count as a choice, and newer settings then no longer inherit.
    if matmul != "highest":
        undo.callback(torch.set_float32_matmul_precision, matmul)
        torch.set_float32_matmul_precision("highest")
    if convolution:
        undo.callback(setattr, torch.backends.cudnn, "allow_tf32", True)
        torch.backends.cudnn.allow_tf32 = False
    top: Any = torch.backends
    if not hasattr(top, "fp32_precision"):  # torch 2.9 and later: the general before the special, which may inherit
        return
    special = [top.cuda.matmul, top.cudnn.conv, top.cudnn.rnn, top.mkldnn.matmul, top.mkldnn.conv, top.mkldnn.rnn]
    for place in (top, top.cudnn, top.mkldnn, *special):
        if place.fp32_precision in ("tf32", "bf16"):
            undo.callback(setattr, place, "fp32_precision", place.fp32_precision)
            place.fp32_precision = "ieee"


def _set_aside(module: nn.Module, undo: ExitStack) -> None:
    """Put one module into evaluation mode, and its ways of logging aside."""
    # The flag is set by hand: eval() and train() would unfreeze what the user froze, and may be overridden.
    undo.callback(setattr, module, "training", module.training)
    module.training = False
    # A model that logs in `forward` must not mix our passes into the user's.
    if callable(getattr(module, "log", None)) and hasattr(module, "log_dict"):
        for name in ("log", "log_dict"):
            if name in module.__dict__:
                undo.callback(module.__dict__.__setitem__, name, module.__dict__[name])
            undo.callback(module.__dict__.pop, name)
            module.__dict__[name] = _ignore


def _ignore(*args: object, **kwargs: object) -> None:
    """Stand in for ``log`` while the monitor calls the model."""
