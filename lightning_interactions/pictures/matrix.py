"""Named values as a matrix: a row for each of them, a column for each interaction, dots where they meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from lightning_interactions.pictures.bars import Frame, draw_bars, draw_key
from lightning_interactions.pictures.exhibit import Exhibit, Shown
from lightning_interactions.pictures.sheet import MARGIN, Sheet
from lightning_interactions.pictures.telling import colour_of, drawn_of, tell_share, tell_value, value_of
from lightning_interactions.players.picture import RowsContent
from lightning_interactions.players.rows import shorten

LEFT, PITCH, ROW = 3.4, 0.92, 0.22
PALE = "#D9D9D9"

Columns = Sequence[tuple[Shown, float]]
"""Interactions, each with the middle of its column."""


def draw_matrix(sheet: Sheet, exhibit: Exhibit, content: RowsContent) -> None:
    """Draw a column for each interaction: bars on top, below a dot for each of its players, hollow for OR."""
    columns = [(one, LEFT + PITCH * (i + 0.5)) for i, one in enumerate(drawn_of(exhibit))]
    if columns:
        _draw_heads(sheet, exhibit, columns)
        draw_key(sheet, exhibit, LEFT)
        ends = LEFT, LEFT + PITCH * len(columns)
        draw_bars(sheet, exhibit, columns, Frame(sheet.y, 0.75, ends, 0.2))
        sheet.y += 0.85
    told = _told(content)
    players = _ordered(columns, told)
    for i, player in enumerate(players):
        called = told.get(player) or exhibit.picture.names[player]
        _draw_row(sheet, sheet.y + ROW * i, called, LEFT + PITCH * len(columns), shaded=i % 2 == 0)
    _draw_dots(sheet, columns, {player: sheet.y + ROW * i + ROW / 2 for i, player in enumerate(players)})
    sheet.y += ROW * len(players) + 0.06


def _told(content: RowsContent) -> dict[int, str]:
    """What is said of each player: all of its values."""
    told: dict[int, list[str]] = {}
    for name, value, player in content.rows:
        told.setdefault(player, []).append(f"{name} = {value}" if value else name)
    return {player: ", ".join(each) for player, each in told.items()}


def _ordered(columns: Columns, told: Mapping[int, str]) -> list[int]:
    """The players of the interactions, and for comparison a few that are in none."""
    inside = sorted({player for one, _ in columns for player in one.players})
    others = [player for player in sorted(told) if player >= 0 and player not in inside]
    return [*inside, *others[: 2 if columns else 8]]


def _draw_heads(sheet: Sheet, exhibit: Exhibit, columns: Columns) -> None:
    most = 0
    for one, x in columns:
        head = [tell_value(one), *filter(None, [tell_share(exhibit, one)]), *wrap(one.status, int(13.1 * PITCH))]
        sheet.text(x, sheet.y, "\n".join(head), 7.5, colour_of(value_of(one)), fontweight="bold", ha="center")
        most = max(most, len(head))
    sheet.y += 0.135 * most + 0.08


def _draw_row(sheet: Sheet, y: float, called: str, right: float, *, shaded: bool) -> None:
    if shaded:
        sheet.box(MARGIN, y, right - MARGIN, ROW, "#F3F3F3")
    sheet.text(LEFT - 0.15, y + ROW / 2, shorten(called, 34), 9, ha="right", va="center")


def _draw_dots(sheet: Sheet, columns: Columns, rows: Mapping[int, float]) -> None:
    """Draw a column of dots for each interaction, those of its players joined; ``rows`` has the middle of each row."""
    for one, x in columns:
        colour, own = colour_of(value_of(one)), [rows[player] for player in one.players]
        sheet.box(x - 0.012, min(own), 0.024, max(own) - min(own), colour)
        for player, y in rows.items():
            if player in one.players:
                sheet.dot(x, y, 62, colour if one.kind == "and" else "white", colour)
            else:
                sheet.dot(x, y, 12, PALE, PALE)
