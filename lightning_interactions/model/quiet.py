"""Calling somebody's model in the middle of training without leaving a trace.

`probing` is the context for it; `float32_forward` makes the call compute in full precision whatever the weights are.
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

Forward = Callable[[Tensor], Any]
"""Inputs ``(B, *shape)`` to whatever the model returns."""


@contextmanager
def probing(model: nn.Module, *, full_precision: bool = True) -> Iterator[None]:
    """Evaluation mode without gradients, leaving the model and the process exactly as they were, also after an error.

    Restored: the training flag of every submodule, buffers (some models count or average in evaluation mode too), the
    random states (Python, NumPy, torch, the model's accelerator), grad and inference mode, TF32 settings. Inside,
    ``log`` and ``log_dict`` of Lightning modules do nothing, autocast and TF32 are off, and ``torch.compile``-d parts
    run eagerly (new batch shapes would recompile them).

    Args:
        model: The module about to be called.
        full_precision: Whether to switch TF32 off.

    Example:
        >>> net = nn.Dropout(0.5)
        >>> with probing(net):
        ...     net(torch.ones(3))
        tensor([1., 1., 1.])
        >>> net.training
        True
    """
    device = device_of(model)
    with ExitStack() as stack:
        stack.enter_context(_random_states(device))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if full_precision:
            stack.enter_context(_full_float32())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_eval_mode(model))
        stack.enter_context(_buffers(model))
        stack.enter_context(_silent_log(model))
        if "torch._dynamo" in sys.modules:  # nothing can be compiled if it was never imported
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer; the CPU if it has none.

    Args:
        model: Any module.

    Example:
        >>> device_of(nn.Linear(1, 1))
        device(type='cpu')
    """
    tensors = list(model.parameters())[:1] or list(model.buffers())[:1]
    return tensors[0].device if tensors else torch.device("cpu")


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """``torch.channels_last`` for 4-D tensors kept so, else ``torch.contiguous_format``.

    Args:
        tensor: Any tensor.

    Example:
        >>> memory_format_of(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
        torch.channels_last
    """
    kept_so = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if kept_so and not tensor.is_contiguous() else torch.contiguous_format


def in_format_of(model: nn.Module, samples: Tensor) -> Tensor:
    """Return images in ``channels_last`` memory if the model keeps its convolutions so; anything else as it is.

    Args:
        model: The model.
        samples: ``(B, *shape)``.

    Example:
        >>> net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        >>> in_format_of(net, torch.zeros(2, 3, 8, 8)).stride()
        (192, 1, 24, 3)
    """
    if samples.ndim == 4 and any(memory_format_of(p) == torch.channels_last for p in model.parameters()):
        return samples.contiguous(memory_format=torch.channels_last)
    return samples


def float32_forward(model: nn.Module, call: Callable[[nn.Module, Tensor], Any] | None = None) -> Forward:
    """Return a forward that computes in float32 (float64 for float64 models), whatever dtype the weights are kept in.

    Rounding noise in ``v`` grows like ``2**(|S|/2)`` in the interactions and would look like high orders, so weights
    kept in half precision are cast up for the call.

    Args:
        model: The module.
        call: ``(module, inputs) -> output``; the module itself by default.

    Returns:
        ``inputs -> output``. Make a new one after every change of the weights.

    Example:
        >>> float32_forward(nn.Linear(2, 1).bfloat16())(torch.ones(1, 2)).dtype
        torch.float32
    """
    run = call or (lambda module, inputs: module(inputs))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = [t for t in tensors.values() if t.is_floating_point() and isinstance(t, nn.Parameter)]
    wide = bool(weights) and all(t.dtype == torch.float64 for t in weights)
    dtype = torch.float64 if wide else torch.float32
    half = {name: t.detach().to(dtype) for name, t in tensors.items() if t.dtype in (torch.float16, torch.bfloat16)}

    def forward(inputs: Tensor) -> Any:
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        if not half:
            return run(model, inputs)
        return torch.func.functional_call(_Call(model, run), {f"model.{k}": v for k, v in half.items()}, (inputs,))

    return forward


class _Call(nn.Module):
    """Lets `functional_call`, which wants a module, go through a user's own way of calling the model."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, inputs: Tensor) -> Any:
        return self.run(self.model, inputs)


@contextmanager
def _random_states(device: torch.device) -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    accelerator = getattr(torch, device.type, None) if device.type != "cpu" else None
    local = accelerator.get_rng_state(*_index(device)) if accelerator is not None else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if accelerator is not None:
            accelerator.set_rng_state(local, *_index(device))


def _index(device: torch.device) -> tuple[torch.device, ...]:
    return (device,) if device.type != "mps" else ()  # torch.mps has one device and takes no argument


@contextmanager
def _full_float32() -> Iterator[None]:
    with ExitStack() as undo:
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
        for place in _newer_settings():
            if place.fp32_precision in ("tf32", "bf16"):
                undo.callback(setattr, place, "fp32_precision", place.fp32_precision)
                place.fp32_precision = "ieee"
        yield


def _newer_settings() -> list[Any]:
    """Owners of an ``fp32_precision`` (torch 2.9 and later), the general before the special, which may inherit."""
    top: Any = torch.backends
    if not hasattr(top, "fp32_precision"):
        return []
    special = [top.cuda.matmul, top.cudnn.conv, top.cudnn.rnn, top.mkldnn.matmul, top.mkldnn.conv, top.mkldnn.rnn]
    return [top, top.cudnn, top.mkldnn, *special]


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    # The flags are set one by one: eval() and train() would unfreeze what the user froze, and may be overridden.
    flags = [(module, module.training) for module in model.modules()]
    for module, _ in flags:
        module.training = False
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    owned = [
        (m, name, b, _version(b), b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, version, copy in owned:
            module._buffers[name] = buffer
            if _version(buffer) != version:  # not written to unless it has to be: autograd counts that
                buffer.copy_(copy)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


@contextmanager
def _silent_log(model: nn.Module) -> Iterator[None]:
    """Stub ``log`` and ``log_dict``: a model that logs in ``forward`` must not mix our passes into the user's."""
    loggers = [m for m in model.modules() if callable(getattr(m, "log", None)) and hasattr(m, "log_dict")]
    saved = [(m, name, m.__dict__.get(name)) for m in loggers for name in ("log", "log_dict")]
    for module, name, _ in saved:
        module.__dict__[name] = _ignore
    try:
        yield
    finally:
        for module, name, own in saved:
            if own is None:
                del module.__dict__[name]
            else:
                module.__dict__[name] = own


def _ignore(*args: object, **kwargs: object) -> None:
    """Stand in for ``log`` while the monitor calls the model."""
