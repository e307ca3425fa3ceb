"""The sheet on which samples are drawn: it measures inches from the top left, and becomes a figure in few artists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_interactions.pictures.texts import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN, DPI = 10.0, 0.25, 100
GRAY = "#595959"

Pixels = NDArray[np.uint8]


@dataclass
class Sheet:
    """Collects what is to be drawn, and draws it on one pair of axes: that is what makes it fast.

    Attributes:
        y: The first place from the top that is free.
        epochs: What the last key to the tints says.

    Example:
        >>> sheet = Sheet()
        >>> sheet.text(MARGIN, sheet.y, "a sample")
        >>> sheet.figure().texts[0].get_text()
        'a sample'
    """

    y: float = 0.1
    epochs: Mapping[str, float] = field(default_factory=dict)
    texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)
    images: list[tuple[float, float, Pixels]] = field(default_factory=list)
    boxes: list[tuple[list[tuple[float, float]], tuple[str, float]]] = field(default_factory=list)
    dots: list[tuple[float, float, float, str, str]] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, size: float = 9, colour: str = "black", **look: Any) -> None:
        """Write a text, to the right of a place and below it; ``look`` is what else matplotlib knows of texts.

        Without a text there is nothing to write.
        """
        if not text:
            return
        look = {"va": "top", "fontsize": size, "color": colour, "parse_math": False, **look}
        self.texts.append((x, y, drawable(text, look.get("family", "")), look))

    def box(self, x: float, y: float, width: float, height: float, colour: str, tint: float = 1) -> None:
        """Fill a rectangle, with a part of the colour."""
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        self.boxes.append((corners, (colour, tint)))

    def image(self, x: float, y: float, pixels: Pixels) -> None:
        """Put an image there, every pixel of it on one of the sheet; the place is to be one of whole pixels.

        It is ``(H, W, 4)``: to one without opacities matplotlib would add them, in float64, and be slower.
        """
        self.images.append((x, y, pixels))

    def dot(self, x: float, y: float, size: float, face: str, edge: str) -> None:
        """Draw a dot with an edge, around a place."""
        self.dots.append((x, y, size, face, edge))

    def figure(self) -> Figure:
        """Draw all of it: boxes, images, dots, and texts on top."""
        from matplotlib.figure import Figure

        height = math.ceil((self.y + 0.25) * DPI) / DPI  # whole pixels, or images would be shifted by part of one
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
        self._draw_boxes(axes)
        self._draw_images(axes)
        self._draw_dots(axes)
        for x, y, text, look in self.texts:
            figure.text(x, y, text, transform=axes.transData, **look)
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        return figure

    def _draw_boxes(self, axes: Axes) -> None:
        from matplotlib.collections import PolyCollection

        corners, colours = [box for box, _ in self.boxes], [colour for _, colour in self.boxes]
        axes.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="none"), autolim=False)

    def _draw_images(self, axes: Axes) -> None:
        for x, y, pixels in self.images:
            right, bottom = x + pixels.shape[1] / DPI, y + pixels.shape[0] / DPI
            axes.imshow(pixels, extent=(x, right, bottom, y), aspect="auto", interpolation="nearest")

    def _draw_dots(self, axes: Axes) -> None:
        if self.dots:
            across, down, sizes, faces, edges = (list(each) for each in zip(*self.dots, strict=True))
            axes.scatter(across, down, s=sizes, c=faces, edgecolors=edges, linewidths=1.8, zorder=3)
