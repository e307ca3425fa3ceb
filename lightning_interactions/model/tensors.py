"""Tensors kept by memory and content, in few operations however many they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_SMALL = 2**14  # elements up to which tensors are copied and compared together, where single calls would cost more
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Tensors:
    """Tensors as they were: where their memory is, their shape, their flags, and with ``copy`` their content.

    Content is compared bit by bit: ``tensor.data`` can be written to without raising the tensor's version. And it is
    written back in the same way, for autograd counts other writes. Inside `torch.no_grad`.
    """

    def __init__(self, tensors: Iterable[Tensor], *, copy: bool = True) -> None:
        self._seats = [_Seat(tensor) for tensor in tensors]
        groups: dict[Any, list[Tensor]] = defaultdict(list)
        for seat in self._seats:
            if copy and seat.is_plain:
                data = seat.data
                small = data.numel() <= _SMALL
                groups[(data.dtype, data.device) if small else id(seat)].append(data)
        self._contents = [_Content(group) for group in groups.values()]
        self._odd = [(s, s.data.clone()) for s in self._seats if copy and not s.is_plain and not s.is_empty]

    def touched(self) -> bool:
        """Whether any was written to by a counted write; cheap, but not certain."""
        return any(seat.version != _version(seat.tensor) for seat in self._seats)

    def restore(self) -> bool:
        """Put back what changed, and say whether anything had."""
        changed = False
        for seat in self._seats:
            changed |= seat.restore()
        for content in self._contents:
            changed |= content.restore()
        for seat, was in self._odd:
            if seat.version != _version(seat.tensor):
                seat.data.copy_(was)
                changed = True
        return changed

    rewind = restore


class _Seat:
    """A tensor's memory, shape and flags; ``data`` shares the memory, but not the count of writes."""

    __slots__ = ("_place", "_requires_grad", "data", "is_empty", "is_plain", "tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.data, self.version = tensor, tensor.data, _version(tensor)
        self._requires_grad = tensor.requires_grad
        self.is_empty = tensor.is_meta or _is_freed(tensor)
        self.is_plain = _is_plain(tensor)
        self._place = _place(tensor) if self.is_plain else None

    def moved(self) -> bool:
        return self._place is not None and _place(self.tensor) != self._place

    def restore(self) -> bool:
        moved, tensor = self.moved(), self.tensor
        if moved:  # by `tensor.data = ...`, or a change of size
            with torch.inference_mode(tensor.is_inference()):
                tensor.data = self.data
        if tensor.requires_grad == self._requires_grad:
            return moved
        if tensor.is_leaf:
            tensor.requires_grad_(self._requires_grad)
        elif not self._requires_grad:
            tensor.detach_()  # written to under enable_grad
        return True


class _Content:
    """The content of one tensor, or of small ones of one kind in one piece."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._was = self._read()

    def _read(self) -> Tensor:
        if len(self._tensors) == 1:
            return self._tensors[0].clone()
        return torch.cat([tensor.reshape(-1) for tensor in self._tensors])

    def restore(self) -> bool:
        if len(self._tensors) == 1:
            return _write(self._tensors[0], self._was)
        if _equal(self._read(), self._was):
            return False
        pieces = torch.split(self._was, [tensor.numel() for tensor in self._tensors])
        for tensor, piece in zip(self._tensors, pieces, strict=True):
            _write(tensor, piece.view(tensor.shape))
        return True


def _write(tensor: Tensor, was: Tensor) -> bool:
    if _equal(tensor, was):
        return False
    with torch.inference_mode(tensor.is_inference()):
        tensor.copy_(was)
    return True


def _equal(first: Tensor, second: Tensor) -> bool:
    """Compare bit by bit, so that NaN equals itself and 0.0 is not -0.0."""
    return torch.equal(_bits(first), _bits(second))


def _bits(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.view(_BITS[real.element_size()])


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is strided memory that can be written to as it is."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_conj():
        return False
    if _is_freed(tensor):
        return False
    return not (tensor.is_neg() or is_traceable_wrapper_subclass(tensor))


def _is_freed(tensor: Tensor) -> bool:
    """Whether its memory was given back, as that of weights that FSDP gathers when they are needed: it has none."""
    if tensor.layout is not torch.strided or tensor.is_meta or is_traceable_wrapper_subclass(tensor):
        return False
    return bool(tensor.numel()) and tensor.untyped_storage().nbytes() == 0
