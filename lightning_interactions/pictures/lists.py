"""Interactions as a list, for a sample that cannot be drawn: names, bars, and what is known of each."""

from __future__ import annotations

from lightning_interactions.pictures.bars import Frame, draw_bars, draw_key
from lightning_interactions.pictures.exhibit import Exhibit
from lightning_interactions.pictures.sheet import Sheet
from lightning_interactions.pictures.telling import (
    colour_of,
    drawn_of,
    moments_of,
    tell_share,
    tell_value,
    value_of,
)
from lightning_interactions.players.rows import shorten

LEFT, LENGTH, ROW = 3.7, 3.3, 0.34


def draw_list(sheet: Sheet, exhibit: Exhibit) -> None:
    """Draw bars across, with the names of the players to the left and what is known of each to the right."""
    ones = drawn_of(exhibit)
    if not ones:
        return
    draw_key(sheet, exhibit, LEFT)
    groups = [(one, sheet.y + ROW / 2 + ROW * i) for i, one in enumerate(ones)]
    for one, y in groups:
        told = ", ".join(filter(None, (tell_value(one), tell_share(exhibit, one), one.status)))
        sheet.text(LEFT - 0.15, y, shorten(one.words(exhibit.picture.names), 42), 8.5, ha="right", va="center")
        sheet.text(LEFT + LENGTH + 0.2, y, told, 8, colour_of(value_of(one)), va="center")
    top, thick = sheet.y, 0.27 / max(2, len(moments_of(exhibit)))
    sheet.y += ROW * len(ones)
    draw_bars(sheet, exhibit, groups, Frame(LEFT, LENGTH, (top, sheet.y), thick, across=True))
    sheet.y += 0.4
