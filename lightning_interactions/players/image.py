"""Image patches as players."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.players.base import BACKGROUND, Baseline, RegionPlayers, mean_of_finite
from lightning_interactions.players.evidence import first_channels, image_channels
from lightning_interactions.players.picture import Picture
from lightning_interactions.players.pixels import COLOURS, channel_ranges, picture_of_image

DEFAULT_GRID = 8
"""The papers cut the masked map into 8 x 8 patches and draw the players from the central 6 x 6 (arXiv 2407.19198)."""


class ImagePatches(RegionPlayers):
    """Patches of a regular grid over an image or a feature map ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)``.

    Args:
        grid: Patches per side, or ``(rows, columns)``. ``None``: 8, or the number of pixels where that is smaller.
        margin: Rings of outer patches that are background, never players. ``None``: 1 where at least 4 x 4 patches
            remain inside, else 0.
        baseline: What an absent patch shows: ``"zero"``, ``"mean"`` (of each channel over the watched samples), a
            number, or a tensor that broadcasts to a sample.
        channels_last: Whether samples are ``(H, W, C)``. ``None``: where their last dimension, and not their first, is
            what the model's first convolution takes; or else is 1, 3 or 4 and smaller than both others, while the first
            is neither 1, 3 or 4 nor a number of channels of any convolution of the model.

    Raises:
        ArgumentError: If an argument has another form, or the margin leaves fewer than 2 patches.

    Example:
        >>> patches = ImagePatches(grid=2, margin=0)
        >>> patches.partition(torch.zeros(1, 2, 4), torch.Generator())
        tensor([[0, 0, 1, 1],
                [2, 2, 3, 3]])
        >>> patches.partition(torch.zeros(2, 4, 1), torch.Generator()).squeeze(-1)
        tensor([[0, 0, 1, 1],
                [2, 2, 3, 3]])
    """

    any_size = True
    channels_last: bool | None = None

    def __init__(
        self,
        grid: int | Sequence[int] | None = None,
        margin: int | None = None,
        baseline: Baseline = "zero",
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(baseline)
        sides = (grid, grid) if isinstance(grid, int) else grid
        if sides is not None and not _is_pair(sides):
            raise bad_argument("grid", "a positive integer, a pair (rows, columns) of them, or None", grid)
        if margin is not None and not is_whole(margin, 0):
            raise bad_argument("margin", "an integer not below 0, or None", margin)
        if sides is not None and margin is not None and _inner(sides[0], margin) * _inner(sides[1], margin) < 2:
            expected = f"small enough to leave 2 patches of a {sides[0]} x {sides[1]} grid"
            raise bad_argument("margin", expected, margin, "Use 0.")
        if channels_last is not None and not isinstance(channels_last, bool):
            raise bad_argument("channels_last", "True, False or None", channels_last)
        self.grid = grid if grid is None or isinstance(grid, int) else tuple(grid)
        self.margin = margin
        if channels_last is not None:  # left out, it is no setting: runs of before are then still comparable
            self.channels_last = channels_last
        self._first: int | None = None  # channels that the model's first convolution takes
        self._known: set[int] = set()  # all numbers of channels in its convolutions
        self._last = False  # whether the channels were found there, for people to read
        self._ranges: Tensor | None = None  # of the channels, for people to see

    def suit(self, model: nn.Module, fields: Sequence[str] = (), tokenizer: Any = None) -> None:
        """Find out which numbers of channels the model's convolutions take and give."""
        self._first, self._known = first_channels(model), image_channels(model)

    def see(self, samples: Tensor) -> None:
        """Take note where the channels are, for `describe`."""
        self._last = self._channels_are_last(samples.shape[1:])

    def describe(self) -> str:
        """Say that the channels are the last dimension, where they are."""
        return f"{repr(self)[:-1]}, channels last)" if self._last and not self.channels_last else repr(self)

    def takes(self, samples: Tensor) -> bool:
        """See `RegionPlayers.takes`: bytes too, which a model makes numbers of itself."""
        return super().takes(samples) or samples.dtype == torch.uint8

    def fit(self, samples: Tensor) -> None:
        """Learn from which value to which the channels go too, see `picture`."""
        super().fit(samples)
        last = samples.ndim == 4 and self._channels_are_last(samples.shape[1:])
        self._ranges = channel_ranges(samples, last=last)

    def finer(self, num_players: int) -> str:
        """See `Players.finer`: a square grid without margin.

        Example:
            >>> ImagePatches().finer(64)
            'ImagePatches(grid=8, margin=0)'
        """
        return f"ImagePatches(grid={math.isqrt(num_players - 1) + 1}, margin=0)"

    def names(self, players: Tensor) -> list[str]:
        """Call each patch by its row and column in the whole grid with its margin; ``patch 1,1`` is at the top left.

        Where the players are not whole patches of the grid they have numbers.

        Example:
            >>> patches = ImagePatches(grid=4, margin=1)
            >>> patches.names(patches.draw(torch.zeros(1, 8, 8), 4, torch.Generator()))
            ['patch 2,2', 'patch 2,3', 'patch 3,2', 'patch 3,3']
        """
        names, labels = super().names(players), _plane(players)
        grid = self._grid_of(labels)
        if grid is None:
            return names
        (rows, columns), patches = grid
        sizes = patches.flatten().bincount(minlength=rows * columns)
        pairs = ((labels + 1) * rows * columns + patches).flatten()
        shared = pairs.bincount(minlength=(len(names) + 1) * rows * columns).view(-1, rows * columns)[1:]  # of players
        for player, pixels in enumerate(shared):
            own = pixels.nonzero().flatten().tolist()
            if len(own) > 1 or not torch.equal(pixels[own], sizes[own]):
                return super().names(players)
            for patch in own:  # one, or none where the player has no pixels
                names[player] = f"patch {patch // columns + 1},{patch % columns + 1}"
        return names

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show the image, of 1, 3 or 4 channels.

        Values in [0, 1] or [0, 255] are taken for colours; others go, channel by channel, from the lowest to the
        highest of the watched samples. Patches of a layer's map are stretched over the image.
        """
        return picture_of_image(
            self.names(players), sample, _plane(players), self._ranges, last=_last_in_picture(sample, players)
        )

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Number the patches row by row; -1 in the margin.

        The ids are ``(H, W)`` for a sample ``(C, H, W)`` or ``(H, W)``, and ``(H, W, 1)`` for ``(H, W, C)``.
        """
        if sample.ndim not in (2, 3):
            raise BatchError(
                "ImagePatches needs images of shape (B, C, H, W), (B, H, W, C) or (B, H, W), but one sample has shape "
                f"{tuple(sample.shape)}. Give `input_fn=batch -> images`, or other players."
            )
        last = self._channels_are_last(sample.shape)
        height, width = sample.shape[:2] if last else sample.shape[-2:]
        rows, columns = self._sides(height, width)
        margin = self.margin if self.margin is not None else int(min(rows, columns) >= 6)
        row, column = _patch_of(height, rows, margin), _patch_of(width, columns, margin)
        labels = row.unsqueeze(1) * _inner(columns, margin) + column
        labels = torch.where((row.unsqueeze(1) < 0) | (column < 0), BACKGROUND, labels)
        return labels.unsqueeze(-1) if last else labels

    def _channels_are_last(self, shape: torch.Size) -> bool:
        if len(shape) != 3 or self.channels_last is not None:
            return len(shape) == 3 and bool(self.channels_last)
        first, last = shape[0], shape[2]
        if (first == self._first) != (last == self._first):
            return last == self._first
        unlike = first not in COLOURS and first not in self._known
        # Smaller than height and width: a feature map of a deep layer is (512, 4, 4).
        return last in COLOURS and last < min(shape[:2]) and unlike

    def _grid_of(self, labels: Tensor) -> tuple[tuple[int, int], Tensor] | None:
        """Find rows and columns of the grid, and the patch of every pixel, with the margin; ``None``: no grid."""
        if labels.ndim != 2 or not labels.numel():
            return None
        height, width = labels.shape
        try:
            rows, columns = self._sides(height, width)
        except BatchError:
            return None
        return (rows, columns), _patch_of(height, rows, 0).unsqueeze(1) * columns + _patch_of(width, columns, 0)

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        if self.grid is None:
            return min(DEFAULT_GRID, height), min(DEFAULT_GRID, width)
        rows, columns = (self.grid, self.grid) if isinstance(self.grid, int) else self.grid
        if rows > height or columns > width:
            raise BatchError(
                f"A grid of {rows} x {columns} patches does not fit an image of {height} x {width} pixels. "
                "Use a smaller `grid`."
            )
        return rows, columns

    def _mean(self, samples: Tensor) -> Tensor:
        if samples.ndim != 4:
            return mean_of_finite(samples, range(samples.ndim))
        if self._channels_are_last(samples.shape[1:]):
            return mean_of_finite(samples, (0, 1, 2))
        return mean_of_finite(samples, (0, 2, 3)).view(-1, 1, 1)


def _plane(players: Tensor) -> Tensor:
    """Players ``(H, W)``, also of those ``(H, W, 1)``."""
    return players.squeeze(-1) if players.ndim == 3 else players


def _last_in_picture(sample: Tensor, players: Tensor) -> bool:
    """Whether the channels of what is shown are its last dimension; it need not be what is masked."""
    if sample.ndim != 3:
        return False
    if players.ndim == 3 and players.shape[:2] == sample.shape[:2]:
        return True
    if players.ndim == 2 and players.shape == sample.shape[1:]:
        return False
    return sample.shape[0] not in COLOURS and sample.shape[2] in COLOURS


def _is_pair(sides: object) -> bool:
    if not isinstance(sides, Sequence) or isinstance(sides, (str, bytes)):
        return False
    return len(sides) == 2 and all(is_whole(side, 1) for side in sides)


def _inner(patches: int, margin: int) -> int:
    return max(patches - 2 * margin, 0)


def _patch_of(pixels: int, patches: int, margin: int) -> Tensor:
    """Patch number of every pixel along one side, counted from the margin; -1 inside the margin."""
    patch = torch.arange(pixels) * patches // pixels - margin
    return torch.where((patch < 0) | (patch >= patches - 2 * margin), BACKGROUND, patch)
