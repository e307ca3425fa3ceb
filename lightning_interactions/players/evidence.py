"""What the layers of a model say of its inputs, where a shape alone could be more than one thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_ORDERED = (nn.Embedding, nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer)
_LIBRARY = "torch.nn"

CLOUD_POINTS = 256
"""From so many points on, how they lie one after the other tells a cloud from a series."""


class Layer(NamedTuple):
    """What a layer takes of ``(B, A, C)``: so many numbers, in the dimension where layers of its kind expect them."""

    channels: Literal["first", "last"]
    width: int


def widths(model: nn.Module) -> tuple[Layer, ...]:
    """How many numbers the layers of a model take at every step of time, in the order in which they were made.

    Example:
        >>> widths(nn.Sequential(nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(64, 2)))
        (Layer(channels='first', width=4), Layer(channels='last', width=64))
    """
    return tuple(layer for module in model.modules() if (layer := _layer_of(module)) is not None and layer.width > 0)


def time_axis(layers: Sequence[Layer], shape: Sequence[int]) -> int | None:
    """Tell along which dimension of a sample ``(A, C)`` time goes; ``None`` where that is not known.

    A dimension of size 1 is not it. Else the first layer that takes as many numbers as one of the dimensions has says
    that the other one is: an ``nn.LSTM(8, ...)`` of ``(50, 8)`` the first. Where both have that size, convolutions and
    recurrent layers expect time where they always do.

    Example:
        >>> time_axis([Layer("last", 8)], (50, 8)), time_axis([Layer("first", 1)], (1, 16000)), time_axis([], (5, 6))
        (0, 1, None)
    """
    long = [axis for axis, size in enumerate(shape) if size > 1]
    if len(long) == 1:
        return long[0]
    layer = next((layer for layer in layers if layer.width in shape), None)
    if layer is None:
        return None
    if shape[0] == shape[1]:
        return 1 if layer.channels == "first" else 0
    return 0 if layer.width == shape[1] else 1


def takes_steps(model: nn.Module, length: int) -> bool | None:
    """Tell whether a sample ``(T,)`` is a series to a model, which takes one number at each step, or a row of columns.

    The first layer settles it that takes all ``T`` numbers at once, or one by one as layers for time do.

    Returns:
        ``True`` or ``False``, or ``None`` where no layer does either.

    Example:
        >>> takes_steps(nn.Sequential(nn.Conv1d(1, 8, 5), nn.Flatten(), nn.Linear(480, 2)), 64)
        True
        >>> takes_steps(nn.Sequential(nn.Linear(64, 8), nn.Conv1d(1, 8, 5)), 64)
        False
    """
    for module in model.modules():
        layer = _layer_of(module)
        if layer is not None and layer.width == length:
            return False
        if layer is not None and layer.width == 1 and (isinstance(module, _RECURRENT) or _slides(module)):
            return True
    return None


def reads_time(model: nn.Module) -> bool:
    """Whether a model has layers made for time: recurrent ones, or convolutions that slide along one dimension.

    Example:
        >>> reads_time(nn.GRU(3, 8)), reads_time(nn.Conv1d(3, 8, 1))
        (True, False)
    """
    return any(isinstance(m, _RECURRENT) or (isinstance(m, nn.Conv1d) and _slides(m)) for m in model.modules())


def order_matters(model: nn.Module, shape: Sequence[int], axis: int) -> bool | None:
    """Tell whether the order along a dimension of a sample matters to a model: the order of time does, of points not.

    A layer that is recurrent, or slides over neighbours, or takes the flattened sample depends on it. So may one with
    an embedding, a table of its own that is long enough to hold positions, or an encoder of torch; and of a model
    without linear layers and convolutions nothing is known.

    Args:
        model: The model.
        shape: That of one sample, ``(N, 3)`` or ``(3, N)``.
        axis: The dimension of length ``N``.

    Returns:
        ``True`` or ``False``, or ``None`` where the layers do not settle it.

    Example:
        >>> order_matters(nn.Sequential(nn.Linear(3, 8), nn.ReLU()), (50, 3), 0)
        False
        >>> order_matters(nn.LSTM(3, 8), (50, 3), 0)
        True
    """
    modules = list(model.modules())
    if any(isinstance(m, _RECURRENT) or _slides(m) or _flattens(m, math.prod(shape)) for m in modules):
        return True
    if any(isinstance(m, _ORDERED) or _has_table(m, shape[axis]) for m in modules):
        return None
    return False if any(isinstance(m, (nn.Linear, *_CONVOLUTIONS)) for m in modules) else None


def lies_at_random(samples: Tensor, axis: int) -> bool:
    """Whether neighbours along a dimension of ``(B, ...)`` are no more alike than any others: so lie points of a cloud.

    A short or constant sample tells nothing, nor does one that is not finite.
    """
    return _von_neumann(samples, axis) > _smooth_below(samples.shape[axis])


def lies_in_order(samples: Tensor, axis: int) -> bool:
    """Whether neighbours along a dimension of ``(B, ...)`` are more alike than others, as in a sound.

    What tells nothing to `lies_at_random` tells nothing here.
    """
    return _von_neumann(samples, axis) <= _smooth_below(samples.shape[axis])


def _von_neumann(samples: Tensor, axis: int) -> float:
    """Mean square of the differences of neighbours over twice the variance; ``nan`` where that tells nothing."""
    points = samples.detach().double().movedim(axis, 1)
    if points.shape[1] < CLOUD_POINTS:
        return math.nan
    spread = 2 * float(points.var(1, correction=0).mean())
    return float(points.diff(dim=1).square().mean()) / spread if spread > 0 else math.nan


def _smooth_below(length: int) -> float:
    """Von Neumann's ratio is 1 in an order at random, with a deviation of ``N ** -0.5`` in one sample; 0 if smooth."""
    return 1 - 3 / math.sqrt(length)


def first_channels(model: nn.Module) -> int | None:
    """Number of channels that the model's first convolution over images takes; ``None`` if it has none.

    Example:
        >>> first_channels(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5)))
        3
    """
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), None)


def image_channels(model: nn.Module) -> set[int]:
    """All numbers of channels that convolutions over images of the model take or give."""
    found = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    return {size for m in found for size in (m.in_channels, m.out_channels)}


def largest_table(model: nn.Module) -> int:
    """Rows of the largest embedding of a model; 0 if it has none."""
    return max((m.num_embeddings for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))), default=0)


def reads_images_alone(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a sample ``(H, W)`` can only be an image to a model: its convolutions take one channel.

    A sound ``(1, T)`` of which the model makes an image itself, a spectrogram, is none.
    """
    if first_channels(model) != 1 or 1 in shape:
        return False
    other = (*_RECURRENT, *_ORDERED, nn.Conv1d, nn.MultiheadAttention)
    return not any(isinstance(m, other) or _has_table(m, min(shape)) for m in model.modules())


def _layer_of(module: nn.Module) -> Layer | None:
    if isinstance(module, nn.Conv1d):
        return Layer("first", module.in_channels)
    if isinstance(module, nn.BatchNorm1d):
        return Layer("first", module.num_features)
    if isinstance(module, _RECURRENT):
        return Layer("last", module.input_size)
    if isinstance(module, nn.Linear):
        return Layer("last", module.in_features)
    if isinstance(module, nn.MultiheadAttention):
        return Layer("last", module.embed_dim)
    return Layer("last", module.normalized_shape[-1]) if isinstance(module, nn.LayerNorm) else None


def _slides(module: nn.Module) -> bool:
    return isinstance(module, _CONVOLUTIONS) and max(module.kernel_size) > 1


def _flattens(module: nn.Module, size: int) -> bool:
    return isinstance(module, nn.Linear) and module.in_features == size


def _has_table(module: nn.Module, length: int) -> bool:
    """Whether a user's own module holds a table that could give each position a row."""
    if type(module).__module__.startswith(_LIBRARY):
        return False
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(t.ndim >= 2 and max(t.shape) >= length for t in tensors)
