"""Image patches as players."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.players.base import BACKGROUND, Baseline, RegionPlayers, mean_of_finite

DEFAULT_GRID = 8
"""The papers cut the masked map into 8 x 8 patches and draw the players from the central 6 x 6 (arXiv 2407.19198)."""


class ImagePatches(RegionPlayers):
    """Patches of a regular grid over an image or a feature map.

    Args:
        grid: Patches per side, or ``(rows, columns)``. ``None``: 8, or the number of pixels where that is smaller.
        margin: Rings of outer patches that are background, never players. ``None``: 1 where at least 4 x 4 patches
            remain inside, else 0.
        baseline: What an absent patch shows: ``"zero"``, ``"mean"`` (of each channel over the watched samples), a
            number, or a tensor that broadcasts to ``(C, H, W)``.

    Raises:
        ArgumentError: If an argument has another form, or the margin leaves fewer than 2 patches.

    Example:
        >>> patches = ImagePatches(grid=2, margin=0)
        >>> patches.partition(torch.zeros(1, 2, 4), torch.Generator())
        tensor([[0, 0, 1, 1],
                [2, 2, 3, 3]])
    """

    any_size = True

    def __init__(
        self, grid: int | tuple[int, int] | None = None, margin: int | None = None, baseline: Baseline = "zero"
    ) -> None:
        super().__init__(baseline)
        sides = (grid, grid) if isinstance(grid, int) else grid
        pair = isinstance(sides, (tuple, list)) and len(sides) == 2 and all(is_whole(side, 1) for side in sides)
        if sides is not None and not pair:
            raise bad_argument("grid", "a positive integer, a pair (rows, columns) of them, or None", grid)
        if margin is not None and not is_whole(margin, 0):
            raise bad_argument("margin", "an integer not below 0, or None", margin)
        if sides is not None and margin is not None and _inner(sides[0], margin) * _inner(sides[1], margin) < 2:
            expected = f"small enough to leave 2 patches of a {sides[0]} x {sides[1]} grid"
            raise bad_argument("margin", expected, margin, "Use 0.")
        self.grid = grid
        self.margin = margin

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Number the patches row by row, ``(H, W)`` ids for a sample ``(C, H, W)``; -1 in the margin."""
        if sample.ndim != 3:
            raise BatchError(
                f"ImagePatches needs images of shape (B, C, H, W), but one sample has shape {tuple(sample.shape)}. "
                "Give `input_fn=batch -> images`, or other players."
            )
        rows, columns = self._sides(sample.shape[-2], sample.shape[-1])
        margin = self.margin if self.margin is not None else int(min(rows, columns) >= 6)
        row, column = _patch_of(sample.shape[-2], rows, margin), _patch_of(sample.shape[-1], columns, margin)
        labels = row.unsqueeze(1) * _inner(columns, margin) + column
        return torch.where((row.unsqueeze(1) < 0) | (column < 0), BACKGROUND, labels)

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
        return mean_of_finite(samples, (0, 2, 3)).view(-1, 1, 1)


def _inner(patches: int, margin: int) -> int:
    return max(patches - 2 * margin, 0)


def _patch_of(pixels: int, patches: int, margin: int) -> Tensor:
    """Patch number of every pixel along one side, counted from the margin; -1 inside the margin."""
    patch = torch.arange(pixels) * patches // pixels - margin
    return torch.where((patch < 0) | (patch >= patches - 2 * margin), BACKGROUND, patch)
