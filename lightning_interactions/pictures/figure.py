"""Samples with their strongest interactions as one figure.

What draws a kind of content has a module of its own; all draw on a `Sheet`. matplotlib is imported when one is drawn,
never its pyplot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_interactions.pictures.exhibit import Exhibit
from lightning_interactions.pictures.lists import draw_list
from lightning_interactions.pictures.matrix import draw_matrix
from lightning_interactions.pictures.panels import draw_panels
from lightning_interactions.pictures.sentences import draw_sentences
from lightning_interactions.pictures.sheet import GRAY, MARGIN, WIDTH, Sheet
from lightning_interactions.pictures.texts import drawable
from lightning_interactions.players.picture import ImageContent, PointsContent, RowsContent, WordsContent
from lightning_interactions.players.rows import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "Blue raises the score, orange-red lowers it.  AND acts only with all of its parts, OR with any of them."
TITLE: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "va": "top", "parse_math": False}
ROOM = 80  # characters of a title


def samples_figure(exhibits: Sequence[Exhibit]) -> Figure:
    """Draw samples one below the other: how each looks, its strongest interactions, and what they were before.

    Args:
        exhibits: What is shown of each sample, see `exhibit_of`.

    Example:
        >>> from lightning_interactions.pictures.exhibit import Shown
        >>> from lightning_interactions.players.picture import Picture, WordsContent
        >>> picture = Picture(["not", "good"], WordsContent([("not", 0), ("good", 1)]))
        >>> figure = samples_figure([Exhibit("val sample 0", picture, [Shown("and", (0, 1), -2.5)], count=1)])
        >>> figure.get_suptitle()
        'val sample 0'
    """
    sheet = Sheet()
    for exhibit in exhibits:
        if len(exhibits) > 1:
            sheet.text(MARGIN, sheet.y, shorten(exhibit.title, ROOM), **TITLE)
        _draw(sheet, exhibit)
    sheet.text(MARGIN, sheet.y, KEY, 8.5, GRAY)
    figure = sheet.figure()
    if len(exhibits) == 1:
        title, y = drawable(shorten(exhibits[0].title, ROOM)), 1 - 0.1 / figure.get_figheight()
        figure.suptitle(title, x=MARGIN / WIDTH, y=y, ha="left", **TITLE)
    return figure


def _draw(sheet: Sheet, exhibit: Exhibit) -> None:
    """Draw what is below the title of one block: caption, sample and interactions, note."""
    sheet.text(MARGIN, sheet.y + 0.25, shorten(exhibit.caption, 140), 9.5, GRAY)
    sheet.y += 0.52
    content = exhibit.picture.content
    if isinstance(content, ImageContent | PointsContent):
        draw_panels(sheet, exhibit, content)
    elif isinstance(content, WordsContent):
        draw_sentences(sheet, exhibit, content)
    elif isinstance(content, RowsContent):
        draw_matrix(sheet, exhibit, content)
    else:
        draw_list(sheet, exhibit)
    sheet.text(MARGIN, sheet.y, shorten(exhibit.picture.note, 130), 8, GRAY)
    sheet.y += 0.34 if exhibit.picture.note else 0.14
