"""One sample as an HTML card: its picture, and its interactions, each of which unfolds to where in the sample it is."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_interactions.phases.epochs import tell_place
from lightning_interactions.pictures.exhibit import Exhibit, Shown, signed
from lightning_interactions.players.picture import (
    ATTACHED,
    EXACT_SIDE,
    Content,
    ImageContent,
    PointsContent,
    RowsContent,
    WordsContent,
)

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

STYLE = (files(__package__) / "templates" / "card.css").read_text(encoding="utf-8")
"""The style sheet of the cards. It stands by itself, and has a light and a dark side."""

MOST_POINTS = 400
"""Points of a cloud that are drawn."""

MOST_WORDS = 60
"""Parts of a text up to which it is shown as a whole."""

NEARBY = 6
"""Of a longer text the marked words are shown, and so many parts on both sides of them."""

CLOUD_SIDE = 200


def card(exhibit: Exhibit, *, anchor: str, facts: Mapping[str, str] | None = None) -> Markup:
    """Return one sample as HTML, for a page that has `STYLE` in it.

    Closed, it shows the picture with the strongest interaction marked; it unfolds to all interactions, and each of
    these to a picture of its own and its effect over time.

    Args:
        exhibit: What is shown.
        anchor: Its id in the page, and the beginning of all ids inside of it.
        facts: What else is known of the sample, by name, for a table at the end.

    Example:
        >>> from lightning_interactions.players.picture import Picture, WordsContent
        >>> picture = Picture(["not", "good"], WordsContent([("not", 0), ("good", 1)]))
        >>> exhibit = Exhibit("val sample 3", picture, [Shown("and", (0, 1), -2.31)], count=1, strength=2.31)
        >>> html = card(exhibit, anchor="sample-3")
        >>> "AND -2.31" in html, '<mark class="negative">not</mark>' in html
        (True, True)
    """
    from markupsafe import Markup

    lines = list(_lines(exhibit, anchor))
    html = _template().render(
        anchor=anchor,
        exhibit=exhibit,
        lines=lines,
        strongest=lines[0] if exhibit.shown else None,
        scene=_scene(exhibit.picture.content),
        facts=facts or {},
    )
    return Markup(html)  # the template escapes what it is given


def new_anchor() -> str:
    """Return an id that no other card has: a notebook may show the same thing in several cells."""
    return f"card-{uuid.uuid4().hex}"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("lightning_interactions.pictures")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["excerpt"] = excerpt
    return environment.get_template("card.html")


# -- interactions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moment:
    """Effect of an interaction at one time, with its bar from the middle, in per cent of the width."""

    name: str
    effect: str
    sign: str
    left: float
    width: float


@dataclass(frozen=True)
class _Line:
    """One interaction, as the template needs it."""

    id: str
    effect: str
    words: str
    share: str
    status: str
    sign: str
    players: tuple[int, ...]
    label: str
    moments: Sequence[_Moment]


def _lines(exhibit: Exhibit, anchor: str) -> Iterator[_Line]:
    everyone = [*exhibit.shown, *exhibit.gone]
    longest = max((abs(value) for one in everyone for _, value in _values(one)), default=0.0) or 1.0
    for i, one in enumerate(everyone):
        gone = i >= len(exhibit.shown)
        value = max((value for _, value in _values(one)), key=abs) if gone else one.now
        sign, words = "positive" if value > 0 else "negative", one.words(exhibit.picture.names)
        kind = one.kind.upper() if len(one.players) > 1 else ""
        share = exhibit.share(one)
        yield _Line(
            id=f"{anchor}-{i}",
            effect=f"{kind} {'was ' if gone else ''}{signed(value)}".strip(),
            words=words,
            share="" if gone or share != share else f"{share:.0%}".replace("%", "\u00a0%"),
            status="gone" if gone else one.status,
            sign=sign,
            players=one.players,
            label=f"{exhibit.title}; marked as {sign}: {words}",
            moments=[_moment(exhibit, name, value, longest) for name, value in _values(one)],
        )


def _values(one: Shown) -> list[tuple[str, float]]:
    moments = (("start", one.start), ("boundary", one.boundary), ("now", one.now))
    return [(name, value) for name, value in moments if value is not None]


def _moment(exhibit: Exhibit, name: str, value: float, longest: float) -> _Moment:
    epoch, width = exhibit.epochs.get(name), 50 * abs(value) / longest
    return _Moment(
        name=name if epoch is None else f"{name} ({tell_place(epoch, exhibit.unit, short=True)})",
        effect=signed(value) if value else "none",
        sign="positive" if value > 0 else "negative",
        left=round(50 - width * (value < 0), 1),
        width=round(width, 1),
    )


# -- what can be drawn ------------------------------------------------------------------------------------------------


def _scene(content: Content | None) -> dict[str, Any]:
    """What the template draws of a sample: builtin values, and under ``kind`` how."""
    if isinstance(content, ImageContent):
        return _image(content)
    if isinstance(content, PointsContent):
        return {"kind": "points", "side": CLOUD_SIDE, "paths": _clouds(content.places, content.players)}
    if isinstance(content, WordsContent):
        return {"kind": "words", "parts": content.parts}
    if isinstance(content, RowsContent):
        return {"kind": "rows", "rows": content.rows}
    return {"kind": "nothing"}


def _image(content: ImageContent) -> dict[str, Any]:
    found = content.to_dict()
    width, height = found["size"]
    margin = round(0.02 * max(width, height), 3)  # outlines are drawn around the players
    return {
        "kind": "image",
        "url": found["url"],
        "size": (width, height),
        "box": f"{-margin} {-margin} {width + 2 * margin:g} {height + 2 * margin:g}",
        "pixelated": max(width, height) <= EXACT_SIDE,
        "paths": {player: _outline(boxes) for player, boxes in enumerate(found["players"]) if boxes},
    }


def _outline(boxes: Sequence[Sequence[int]]) -> str:
    """Rectangles ``[x, y, width, height]`` as the path of an SVG."""
    return "".join(f"M{x} {y}h{width}v{height}h-{width}z" for x, y, width, height in boxes)


def _clouds(places: NDArray[np.float64], players: NDArray[np.int16]) -> dict[int, str]:
    """The points of every player as a path of dots, seen from the front; -1 are those of no player."""
    order = np.argsort(players, kind="stable")  # thinned one player after the other, so that each keeps its part
    if len(order) > MOST_POINTS:
        order = order[np.linspace(0, len(order) - 1, MOST_POINTS).round().astype(int)]
    at = np.rint(CLOUD_SIDE * np.nan_to_num(places[order, :2])).astype(int)
    dots: dict[int, str] = {}
    for player, (x, up) in zip(players[order].tolist(), at.tolist(), strict=True):
        dots[player] = dots.get(player, "") + f"M{x} {CLOUD_SIDE - up}h0"
    return dots


def excerpt(parts: Sequence[tuple[str, int]], members: Collection[int]) -> list[tuple[str, bool, str]]:
    """Return the parts of a text with whether they are marked and what stands before them, and of a long text a few.

    Example:
        >>> excerpt([("not", 0), ("good", 1), ("\u2060!", -1)], [1])
        [('not', False, ''), ('good', True, ' '), ('!', False, '')]
    """
    marked = [i for i, (_, player) in enumerate(parts) if player in members]
    kept = set(range(len(parts)))
    if len(parts) > MOST_WORDS:
        near = {j for i in marked for j in range(i - NEARBY, i + NEARBY + 1)} or set(range(MOST_WORDS))
        kept &= near
    found: list[tuple[str, bool, str]] = []
    before = -1
    for i in sorted(kept):
        if i > before + 1:
            found.append(("\u2026", False, " " if found else ""))
        text, player = parts[i]
        space = " " if found and not text.startswith(ATTACHED) else ""
        found.append((text.removeprefix(ATTACHED), player in members, space))
        before = i
    return found if before == len(parts) - 1 else [*found, ("\u2026", False, " ")]
