"""Images and clouds of points as pixels: as a whole, or with the players of one interaction alone in full colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightning_interactions.pictures.sheet import Pixels
from lightning_interactions.players.picture import ImageContent, PointsContent

LIGHTNESS = np.array([0.299, 0.587, 0.114])
NOTHING = -2  # beside the players, of which -1 is the background
ROOMY = 350  # pixels of a player that has room for its number


@dataclass
class Canvas:
    """A sample as pixels, and the player of each; the points of a cloud have a ``shade`` besides: near ones dark."""

    pixels: Pixels
    players: NDArray[np.int16]
    shade: NDArray[np.float64] | None = None

    def whole(self) -> Pixels:
        """The sample; an image has thin lines around its players, and their numbers where there is room."""
        return self.pixels if self.shade is not None else _numbered(self._lined(), self.players)

    def panel(self, players: Sequence[int], colour: str) -> Pixels:
        """The sample dimmed, but for some players: those of an image outlined in a colour, those of a cloud in it."""
        inside, ink = np.isin(self.players, players), np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)
        if self.shade is None:
            return self._outlined(inside, ink)
        background = np.where(self.players == NOTHING, 250, 216)[..., None]
        return np.where(inside[..., None], 255 - self.shade[..., None] * (255 - ink), background).astype(np.uint8)

    def _lined(self) -> Pixels:
        lines = np.where(self._lightness > 127, self._lightness - 110, self._lightness + 110).astype(np.uint8)
        return np.where(_edges(self.players, [1])[..., None], lines[..., None], self.pixels)

    def _outlined(self, inside: NDArray[np.bool_], ink: Pixels) -> Pixels:
        edge = inside & self._wide_edges
        if 2 * edge.sum() > inside.sum():  # small players: leave most of them to see
            edge = inside & self._thin_edges
        panel = np.where(inside[..., None], self.pixels, self._dimmed[..., None])
        panel[edge] = ink
        return panel

    # The same in the panels of all interactions, so they are found once.

    @cached_property
    def _lightness(self) -> NDArray[np.float64]:
        return np.asarray(self.pixels @ LIGHTNESS)

    @cached_property
    def _dimmed(self) -> Pixels:
        return (0.3 * self._lightness + 0.7 * 232).astype(np.uint8)

    @cached_property
    def _thin_edges(self) -> NDArray[np.bool_]:
        return _edges(self.players, [-1, 1])

    @cached_property
    def _wide_edges(self) -> NDArray[np.bool_]:
        return _edges(self.players, [-2, -1, 1, 2])


def canvas_of(content: ImageContent | PointsContent, side: int) -> Canvas:
    """Paint a sample so that its longer side has so many pixels."""
    return _photo(content, side) if isinstance(content, ImageContent) else _cloud(content, side)


def _photo(content: ImageContent, side: int) -> Canvas:
    """Scale an image to ``side`` pixels: a small one to sharp squares, a large one smoothly, a strip wider."""
    from PIL import Image

    height, width = content.players.shape
    wide, high = (max(round(side * length / max(height, width)), side // 5) for length in (width, height))
    rows, columns = np.arange(high)[:, None] * height // high, np.arange(wide) * width // wide
    smooth = Image.fromarray(content.pixels).resize((wide, high), Image.Resampling.BOX)
    pixels = content.pixels[rows, columns] if max(height, width) <= side else np.asarray(smooth)
    return Canvas(pixels, content.players[rows, columns])


def _cloud(content: PointsContent, side: int) -> Canvas:
    """Paint every point as a small disc, near ones last and larger, every player in a colour of its own."""
    order = np.argsort(content.places[:, 2], kind="stable")
    places, players = content.places[order].clip(0, 1), content.players[order]
    nearest = _nearest(places, side)
    owner = np.append(players, np.int16(NOTHING))[nearest]  # the last place is for -1, where no point is
    hues = 150 + 90 * np.cos(2 * np.pi * (0.382 * np.arange(20)[:, None] + np.arange(3) / 3))
    colours = np.where(owner[..., None] == NOTHING, 250, np.where(owner[..., None] < 0, 190, hues[owner % 20]))
    return Canvas(colours.astype(np.uint8), owner, 0.55 + 0.45 * np.append(places[:, 2], 0)[nearest])


def _nearest(places: NDArray[np.float64], side: int) -> NDArray[np.int_]:
    """The point that is seen at each pixel, by its place in a list with the nearest last; -1 where there is none."""
    x, y = 4 + np.rint(places[:, 0] * (side - 9)).astype(int), side - 5 - np.rint(places[:, 1] * (side - 9)).astype(int)
    nearest = np.full((side, side), -1)
    for part in np.array_split(np.arange(len(x)), 8):
        for dy, dx in np.ndindex(5, 5):
            disc = part[np.hypot(dy - 2, dx - 2) <= 1.5 + 0.6 * (places[part, 2] > 0.5)]
            nearest[y[disc] + dy - 2, x[disc] + dx - 2] = disc
    return nearest


def _numbered(pixels: Pixels, players: NDArray[np.int16]) -> Pixels:
    """Write the number of each player on it, if it has room."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)  # much faster than matplotlib's texts, of which there would be dozens
    for player in range(int(players.max(initial=-1)) + 1):
        y, x = np.nonzero(players == player)
        if y.size > ROOMY:
            near = np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2)  # of its own pixels that in the middle
            left, top, half = int(x[near]), int(y[near]), 3 * len(str(player))
            pen.rectangle((left - half - 1, top - 5, left + half, top + 4), fill="white")
            pen.text((left - half, top - 6), str(player), fill="black")
    return np.asarray(image)


def _edges(players: NDArray[np.int16], shifts: Sequence[int]) -> NDArray[np.bool_]:
    """Pixels that have another player, or the frame, so many pixels above or left of them (below or right if < 0)."""
    most = max(map(abs, shifts))
    framed, inner = np.pad(players, most, constant_values=NOTHING), slice(most, -most)
    moved = [np.roll(framed, shift, axis)[inner, inner] for shift in shifts for axis in (0, 1)]
    return np.asarray(np.logical_or.reduce([other != players for other in moved]))
