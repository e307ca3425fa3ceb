"""From the numbers of a sample to pixels for the eye, and the player of each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_interactions.players.picture import ImageContent, Picture

COLOURS = (1, 3, 4)
"""Channels of an image as it comes from a file: gray, red with green and blue, and these with transparency."""

LONGEST_SIDE = 128
"""Pixels of the longer side of a picture, at most."""

MOST_READ = 4 * LONGEST_SIDE
"""Of a larger image every second, third, ... row and column is read: reading all would take seconds."""

GRAY = 128 / 255
"""Shown where there is no number."""


def picture_of_image(
    names: Sequence[str], sample: Tensor, labels: Tensor, ranges: Tensor | None = None, *, last: bool = False
) -> Picture:
    """Show a sample that is an image; one that is none gives a picture with a note.

    Args:
        names: Of the players.
        sample: ``(C, H, W)`` or ``(H, W)``, or ``(H, W, C)`` where the channels are ``last``.
        labels: Players ``(h, w)``. Where that is not the size of the image they are stretched over it.
        ranges: From `channel_ranges`, of samples like this one; ``None``: this one alone tells.
        last: Whether the channels are the last dimension.

    Example:
        >>> picture = picture_of_image(["left", "right"], torch.rand(3, 4, 6), torch.tensor([[0, 1]]))
        >>> picture.content.players[0].tolist()
        [0, 0, 0, 1, 1, 1]
    """
    image = _as_image(sample, last=last)
    if image is None or labels.ndim != 2 or not labels.numel():
        return Picture(names, None, f"not shown as an image: {_told(sample)}, players {tuple(labels.shape)}")
    masked = labels.shape == image.shape[:2]  # else it is the map of a layer, and so were the ranges learned
    step = max(max(image.shape[:2]) // MOST_READ, 1)
    image = image[::step, ::step]
    height, width = image.shape[:2]
    colours = _colours(image, ranges if masked else None)
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    if scale < 1:
        planes = interpolate(colours.movedim(-1, 0)[None], size=size, mode="bilinear", antialias=True)
        colours = planes[0].movedim(0, -1)
    pixels = (colours * 255).round().clamp(0, 255).to(torch.uint8).contiguous()
    return Picture(names, ImageContent(pixels.numpy(), _resized(labels, *size).to(torch.int16).numpy()))


def channel_ranges(images: Tensor, *, last: bool = False) -> Tensor | None:
    """Find the lowest and the highest finite value of every channel ``(C, 2)``.

    It is ``None`` of what are no such images, and of bytes, which need none.

    Args:
        images: ``(B, C, H, W)``, ``(B, H, W)``, or ``(B, H, W, C)`` where the channels are ``last``.
        last: Whether the channels are the last dimension.

    Example:
        >>> channel_ranges(torch.tensor([[[-1.0, 3.0], [torch.nan, 0.0]]])).tolist()
        [[-1.0, 3.0]]
    """
    planes = images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1) if last else images
    if planes.ndim != 4 or planes.shape[1] not in COLOURS or not planes.numel():
        return None
    if images.is_complex() or images.dtype == torch.uint8:
        return None
    ranges = torch.stack([_range(image.detach().flatten(1)) for image in planes])  # one at a time: they may be large
    return torch.stack([ranges[..., 0].amin(0), ranges[..., 1].amax(0)], 1)


def _range(values: Tensor) -> Tensor:
    """Lowest and highest finite value ``(C, 2)`` of channels ``(C, pixels)``."""
    values = values if values.is_floating_point() else values.double()
    finite = values.isfinite()
    low, high = torch.where(finite, values, math.inf).amin(1), torch.where(finite, values, -math.inf).amax(1)
    return torch.stack([low, high], 1).double()


def _as_image(sample: Tensor, *, last: bool) -> Tensor | None:
    """The sample as ``(H, W, C)``, if it is an image."""
    if sample.ndim not in (2, 3) or sample.is_complex() or not sample.numel():
        return None
    image = sample.detach()
    image = image.unsqueeze(-1) if image.ndim == 2 else image if last else image.movedim(0, -1)
    return image if image.shape[-1] in COLOURS else None


def _colours(image: Tensor, ranges: Tensor | None) -> Tensor:
    """Red, green and blue ``(H, W, 3)`` from 0 to 1 of an image ``(H, W, C)``."""
    values = image.double()
    if image.dtype == torch.uint8:
        unit = values / 255
    else:
        own = channel_ranges(image.unsqueeze(0), last=True)
        assert own is not None  # `_as_image` looked
        unit = _to_unit(values, ranges if ranges is not None and _within(own, ranges) else own)
    colours = unit[..., :3].expand(*unit.shape[:2], 3)
    if unit.shape[-1] == 4:
        colours = colours * unit[..., 3:] + (1 - unit[..., 3:])
    known = (values.isfinite() & unit.isfinite()).all(-1, keepdim=True)
    return torch.where(known, colours, GRAY)


def _to_unit(values: Tensor, ranges: Tensor) -> Tensor:
    low, high = ranges.to(values).unbind(1)
    if float(low.min()) >= 0 and float(high.max()) <= 255:
        return values if float(high.max()) <= 1 else values / 255
    unit = ((values - low) / (high - low)).clamp(0, 1)
    flat = torch.tensor([GRAY] * 3 + [1.0])[: len(low)].to(unit)  # nothing is transparent if all is so alike
    return torch.where(values.isfinite() & (high <= low), flat, unit)


def _within(own: Tensor, ranges: Tensor) -> bool:
    """Whether these may be the ranges of samples of which this is one."""
    if ranges.shape != own.shape:
        return False
    return bool((own[:, 0] >= ranges[:, 0]).all()) and bool((own[:, 1] <= ranges[:, 1]).all())


def _resized(labels: Tensor, height: int, width: int) -> Tensor:
    """Players ``(height, width)`` by nearest neighbour; one that fell between the pixels is given one of them."""
    rows, columns = _nearest(labels.shape[0], height), _nearest(labels.shape[1], width)
    found = labels[rows.unsqueeze(1), columns]
    flat = found.view(-1)
    lost = set(labels[labels >= 0].tolist()) - set(flat.tolist())
    for player in sorted(lost):
        y, x = (labels == player).nonzero().unbind(1)
        places = y * height // labels.shape[0] * width + x * width // labels.shape[1]
        for place in places.unique().tolist():
            if flat[place] < 0 or int((flat == flat[place]).sum()) > 1:  # not the only pixel of another one
                flat[place] = player
                break
    return found


def _nearest(size: int, wanted: int) -> Tensor:
    return (2 * torch.arange(wanted) + 1) * size // (2 * wanted)


def _told(sample: Tensor) -> str:
    return f"{str(sample.dtype).removeprefix('torch.')} of shape {tuple(sample.shape)}"
