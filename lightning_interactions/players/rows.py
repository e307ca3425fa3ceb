"""Values in words: short numbers, short names, and a table that does not grow too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_ROWS = 12
"""Rows of a picture; more only if more of them play."""

LONGEST_NAME = 24
"""Characters of a player's name that is made of what the sample contains."""

Row = tuple[str, str, int]
"""Name, value and player."""


def shorten(text: str, longest: int = LONGEST_NAME) -> str:
    """Bring a text onto one line, and leave out the middle of one that is too long.

    Example:
        >>> shorten("good"), shorten("antidisestablishmentarianism")
        ('good', 'antidisesta...ntarianism')
    """
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    end = (longest - 3) // 2
    return f"{text[: longest - 3 - end]}...{text[-end:]}"


def number(value: float) -> str:
    """Write a value shortly.

    Example:
        >>> [number(x) for x in (39.0, 0.42149, -1.3, 12345.6, 7, True)]
        ['39', '0.421', '-1.3', '12346', '7', 'True']
    """
    if isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return str(int(value))
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def first_rows(rows: Sequence[Row]) -> list[Row]:
    """Put the rows that play first, player by player, then others; what is too much is only counted.

    Example:
        >>> first_rows([(f"column {i}", "0", 0 if i == 30 else -1) for i in range(40)])[0]
        ('column 30', '0', 0)
        >>> first_rows([(f"column {i}", "0", -1) for i in range(40)])[-1]
        ('and 28 more', '', -1)
    """
    count = 1 + max((player for *_, player in rows), default=-1)
    own: list[list[Row]] = [[] for _ in range(count + 1)]  # background is the last
    for row in rows:
        own[row[2]].append(row)
    found = [row for player in range(count) for row in _some(own[player], MOST_ROWS)]
    return found + _some(own[count], max(MOST_ROWS - len(found), 0))


def _some(rows: Sequence[Row], most: int) -> list[Row]:
    rest = len(rows) - most
    return [*rows[:most], (f"and {rest} more", "", rows[0][2])] if rest > 0 else list(rows)
