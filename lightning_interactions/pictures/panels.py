"""An image or a cloud of points, and beside it the same again for each interaction, with bars below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap

import numpy as np

from lightning_interactions.pictures.bars import Frame, draw_bars, draw_key
from lightning_interactions.pictures.canvas import canvas_of
from lightning_interactions.pictures.exhibit import Exhibit, Shown
from lightning_interactions.pictures.sheet import DPI, GRAY, MARGIN, WIDTH, Pixels, Sheet
from lightning_interactions.pictures.telling import colour_of, drawn_of, is_timed, tell_share, tell_value, value_of
from lightning_interactions.players.picture import ImageContent, PointsContent

GAP = 0.12  # between two panels


def draw_panels(sheet: Sheet, exhibit: Exhibit, content: ImageContent | PointsContent) -> None:
    """Draw the sample, and it again for each interaction, with the players of that alone in full colour."""
    ones = drawn_of(exhibit)
    # Whole pixels, so that the panels of a row can be one image.
    pitch = math.floor(DPI * min(1.4, (WIDTH - 2 * MARGIN) / (1 + len(ones)))) / DPI
    side = round(DPI * (pitch - GAP))
    canvas = canvas_of(content, side)
    panels = [canvas.whole(), *(canvas.panel(one.players, colour_of(value_of(one))) for one in ones)]
    row, top = _in_a_row(panels, round(DPI * pitch), side), math.ceil(DPI * (sheet.y + 0.2)) / DPI
    sheet.image(MARGIN, top, row)
    under = top + row.shape[0] / DPI + 0.05
    _draw_words(sheet, exhibit, pitch, under)
    timed = is_timed(exhibit) and bool(ones)
    lines = bool(ones) + timed * (2 if pitch < 1.3 else 1)  # the share, and the status, which breaks where it is narrow
    sheet.y = under + 0.14 * lines + 0.08
    if timed:
        _draw_bars_below(sheet, exhibit, ones, pitch, side / DPI)


def _in_a_row(panels: Sequence[Pixels], pitch: int, side: int) -> Pixels:
    """Panels side by side, each in the middle of the ``side`` pixels that are its own, as one opaque image."""
    row = np.full((panels[0].shape[0], pitch * len(panels), 4), 255, dtype=np.uint8)
    inset = (side - panels[0].shape[1]) // 2
    for i, panel in enumerate(panels):
        row[:, pitch * i + inset :, :3][:, : panel.shape[1]] = panel
    return row


def _draw_words(sheet: Sheet, exhibit: Exhibit, pitch: float, under: float) -> None:
    """Say above each panel how strong the interaction is, and under it what else is known."""
    sheet.text(MARGIN, sheet.y, "the sample", 9.5)
    room = int(17 * pitch)
    for i, one in enumerate(drawn_of(exhibit), 1):
        left, share = MARGIN + pitch * i, tell_share(exhibit, one)
        sheet.text(left, sheet.y, tell_value(one), 9.5, colour_of(value_of(one)), fontweight="bold")
        told = [*wrap(share and f"{share} of the strength", room), *wrap(one.status, room)]
        sheet.text(left, under, "\n".join(told), 7.5, GRAY)


def _draw_bars_below(sheet: Sheet, exhibit: Exhibit, ones: Sequence[Shown], pitch: float, side: float) -> None:
    left = MARGIN + pitch
    draw_key(sheet, exhibit, left)
    groups = [(one, left + pitch * i + side / 2) for i, one in enumerate(ones)]
    ends = left, left + pitch * len(ones) - GAP
    draw_bars(sheet, exhibit, groups, Frame(sheet.y, 0.75, ends, min(0.2, 0.22 * pitch)))
    sheet.y += 0.85
