"""A text, once for each interaction, with the words of that marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from lightning_interactions.pictures.bars import Frame, draw_bars, draw_key
from lightning_interactions.pictures.exhibit import Exhibit, Shown
from lightning_interactions.pictures.sheet import GRAY, MARGIN, Sheet
from lightning_interactions.pictures.telling import colour_of, drawn_of, is_timed, tell_share, tell_value, value_of
from lightning_interactions.players.picture import ATTACHED, WordsContent
from lightning_interactions.players.rows import shorten

MONO = "DejaVu Sans Mono"
# A whole number of pixels for each character, as hinting makes it anyway; the font's characters are 0.602 em wide.
CELL, MONO_SIZE = 0.08, 0.08 * 72 / 0.602
LEFT = MARGIN + 1.65  # to the left of it is said how strong the interaction is
MOST_LINES = 3


class _Word(NamedTuple):
    """A word, its player or -1, and how many characters there are between it and the one before."""

    gap: int
    text: str
    player: int


class _Placed(NamedTuple):
    """A word in a line: the column where it starts, and whether it is marked."""

    start: int
    text: str
    marked: bool


def draw_sentences(sheet: Sheet, exhibit: Exhibit, content: WordsContent) -> None:
    """Draw the text once for each interaction, with the words of that marked; what they were before to the right."""
    timed, words, groups = is_timed(exhibit) and bool(drawn_of(exhibit)), _words(content), []
    room = int(((7.35 if timed else 9.75) - LEFT) / CELL)
    draw_key(sheet, exhibit, LEFT)
    for one in drawn_of(exhibit) or [Shown("and", (), 0.0)]:  # without any: the bare text
        top, colour = sheet.y, colour_of(value_of(one))
        if one.players:
            sheet.text(MARGIN, top, f"{tell_value(one)}  {tell_share(exhibit, one)}", 9.5, colour, fontweight="bold")
            sheet.text(MARGIN, top + 0.17, one.status, 7.5, GRAY)
        for line in _fitted(words, one.players, room):
            _draw_line(sheet, line, colour)
            sheet.y += 0.18
        groups.append((one, top + 0.16))
        sheet.y = max(sheet.y, top + 0.3) + 0.1
    if timed:
        draw_bars(sheet, exhibit, groups, Frame(7.6, 2.1, (groups[0][1] - 0.18, sheet.y), 0.09, across=True))
        sheet.y += 0.4


def _words(content: WordsContent) -> list[_Word]:
    return [
        _Word(int(i > 0 or not part.startswith(ATTACHED)), shorten(word, 28), player)
        for part, player in content.parts
        for i, word in enumerate(part.replace(ATTACHED, "").split())
    ]


def _draw_line(sheet: Sheet, line: Sequence[_Placed], colour: str) -> None:
    """Draw the words of a line that are alike, all marked or none, as one text: each text takes its time."""
    for marked, run in groupby(line, attrgetter("marked")):
        placed = list(run)
        begin, row = placed[0].start, ""
        for word in placed:
            row = row.ljust(word.start - begin) + word.text
            if marked:
                sheet.box(LEFT + word.start * CELL - 0.02, sheet.y, len(word.text) * CELL + 0.04, 0.165, colour)
        ink, weight = ("white", "bold") if marked else (GRAY, "normal")
        sheet.text(LEFT + begin * CELL, sheet.y + 0.01, row, MONO_SIZE, ink, family=MONO, fontweight=weight)


def _fitted(words: Sequence[_Word], players: Sequence[int], room: int) -> list[list[_Placed]]:
    """Lines of words. What is far from the players' words is left out first, until few lines are left."""
    marked = [i for i, word in enumerate(words) if word.player in players] or [0]
    far = np.abs(np.arange(len(words))[:, None] - np.array(marked)).min(1).tolist()
    for reach in (len(words), 32, 16, 8, 4, 2, 1, 0):
        lines = _set(_within(words, far, reach), players, room)
        if len(lines) <= MOST_LINES:
            break
    return lines


def _within(words: Sequence[_Word], far: Sequence[int], reach: int) -> list[_Word]:
    """Only what is not farther away than so many words, and dots where something is left out."""
    kept: list[_Word] = []
    left_out = False
    for word, away in zip(words, far, strict=True):
        if away <= reach:
            kept.append(word)
        elif not left_out:
            kept.append(_Word(1, "\u2026", -1))
        left_out = away > reach
    return kept


def _set(words: Sequence[_Word], players: Sequence[int], room: int) -> list[list[_Placed]]:
    """Set words into lines of so many columns."""
    lines: list[list[_Placed]] = [[]]
    end = 0
    for gap, text, player in words:
        if lines[-1] and end + gap + len(text) > room:
            lines.append([])
        start = end + gap if lines[-1] else 0
        lines[-1].append(_Placed(start, text, player in players))
        end = start + len(text)
    return lines
