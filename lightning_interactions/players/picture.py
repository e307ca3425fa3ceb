"""How a sample looks to people, and where in it the players are: plain data, which `pictures` draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_interactions.errors import StateError

EXACT_SIDE = 64
"""Up to so many pixels a side an image is kept to the last bit; a larger one is a photograph (JPEG)."""

LONGEST_NOTE = 200
"""Characters of what is said of an error, at most."""

TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Characters that turn the direction of writing, as `str.translate` takes them."""

ATTACHED = "\u2060"
"""A part of a text that begins with it (the word joiner, which is not seen) has no space before it."""


class Content(Protocol):
    """What of a sample can be drawn."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as builtin values that JSON has."""


@dataclass(frozen=True, eq=False)
class ImageContent:
    """An image, and the player of each of its pixels."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    players: NDArray[np.int16]  # (H, W): -1 is background

    def to_dict(self) -> dict[str, Any]:
        """Return the image as a data URL, and the players as rectangles ``[x, y, width, height]``."""
        return dict(self._state)

    @cached_property
    def _state(self) -> dict[str, Any]:
        # Once: a run writes its file again and again.
        height, width = self.players.shape
        count = int(self.players.max(initial=-1)) + 1
        return {
            "kind": "image",
            "url": _data_url(self.pixels),
            "size": [width, height],
            "players": [rectangles(self.players == player) for player in range(count)],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ImageContent:
        """Read what `to_dict` gave."""
        width, height = state["size"]
        players = np.full((height, width), -1, dtype=np.int16)
        for player, boxes in enumerate(state["players"]):
            for x, y, w, h in boxes:
                players[y : y + h, x : x + w] = player
        return cls(_from_data_url(state["url"]), players)


@dataclass(frozen=True)
class WordsContent:
    """A text in parts, in the order in which it is read; each with its player, or -1.

    Between two parts there is a space, unless the second begins with `ATTACHED`: it is then the rest of a word, or a
    full stop. Whoever draws the text takes that character away.
    """

    parts: Sequence[tuple[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return the parts as lists."""
        return {"kind": "words", "parts": [list(part) for part in self.parts]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> WordsContent:
        """Read what `to_dict` gave."""
        return cls([(str(text), int(player)) for text, player in state["parts"]])


@dataclass(frozen=True)
class RowsContent:
    """Named values, such as the columns of a table; each with its player, or -1."""

    rows: Sequence[tuple[str, str, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return the rows as lists."""
        return {"kind": "rows", "rows": [list(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> RowsContent:
        """Read what `to_dict` gave."""
        return cls([(str(name), str(value), int(player)) for name, value, player in state["rows"]])


@dataclass(frozen=True, eq=False)
class PointsContent:
    """A cloud of points, seen from one side; each point with its player, or -1."""

    places: NDArray[np.float64]  # (N, 3): right, up, and towards the one who looks; from 0 to 1
    players: NDArray[np.int16]  # (N,)

    def to_dict(self) -> dict[str, Any]:
        """Return places in thousandths, which are finer than a pixel."""
        places = np.rint(1000 * self.places).astype(int).tolist()
        return {"kind": "points", "places": places, "players": self.players.tolist()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> PointsContent:
        """Read what `to_dict` gave."""
        places = np.asarray(state["places"], dtype=np.float64).reshape(-1, 3) / 1000
        return cls(places, np.asarray(state["players"], dtype=np.int16))


_KINDS: dict[str, Any] = {
    "image": ImageContent,
    "words": WordsContent,
    "rows": RowsContent,
    "points": PointsContent,
}


@dataclass(frozen=True)
class Picture:
    """What `Players.picture` returns: a sample as people see it.

    Attributes:
        names: What each of the players ``0 .. n-1`` is called, in a word or two.
        content: What can be drawn of the sample; ``None``: nothing, and its interactions are shown as a list of bars.
        note: Why nothing can be drawn, in one line; empty if nothing need be said.

    Example:
        >>> picture = Picture(["not", "good"], WordsContent([("not", 0), ("good", 1), (".", -1)]))
        >>> Picture.from_dict(picture.to_dict()) == picture
        True
    """

    names: Sequence[str]
    content: Content | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as builtin values that JSON has."""
        content = None if self.content is None else self.content.to_dict()
        return {"names": list(self.names), "note": self.note, "content": content}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Picture:
        """Read what `to_dict` gave; anything else is a `StateError`."""
        try:
            content = state["content"]
            read = None if content is None else _KINDS[content["kind"]].from_dict(content)
            return cls([str(name) for name in state["names"]], read, str(state["note"]))
        except (KeyError, TypeError, ValueError, OSError, IndexError) as error:
            raise StateError(f"Expected a picture as `Picture.to_dict` gives it, but got {error!r}.") from error


class Shows(Protocol):
    """A kind of players, see `Players`: what of it matters here."""

    def names(self, players: Tensor) -> list[str]:
        """Say what the players of one sample are called."""

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show how a sample looks."""


def picture_of(players: Shows, sample: Tensor, labels: Tensor) -> Picture:
    """Ask a kind of players for the picture of a sample; if that fails, return their names and a note that says why.

    The kind gets copies: one that writes into what it is given changes nothing.

    Args:
        players: The kind.
        sample: One input, on the CPU.
        labels: What `Players.draw` returned for it.

    Example:
        >>> import torch
        >>> from lightning_interactions.players import FeatureMask
        >>> class Broken(FeatureMask):
        ...     def picture(self, sample, players):
        ...         return 1 / 0
        >>> picture = picture_of(Broken([0, 4]), torch.ones(2), torch.tensor([0, 1]))
        >>> picture.names, picture.content, picture.note
        (['region 0', 'region 4'], None, 'Broken.picture: ZeroDivisionError: division by zero')
    """
    try:
        picture = players.picture(sample.detach().clone().cpu(), labels.clone().cpu())
        wrong = _wrong(picture, count_of(labels))
    except Exception as error:  # the user's own code may do anything
        wrong = f"{type(error).__name__}: {error}"
    if not wrong:
        return replace(picture, names=list(map(one_way, picture.names)), content=_one_way_content(picture.content))
    told = " ".join(f"{type(players).__name__}.picture: {wrong}".split())
    return Picture(names_of(players, labels), None, told[:LONGEST_NOTE])


def names_of(players: Shows, labels: Tensor) -> list[str]:
    """Ask a kind of players for their names; if that fails they are numbered.

    Example:
        >>> import torch
        >>> from lightning_interactions.players import Tokens
        >>> names_of(Tokens(), torch.tensor([-1, 0, 1]))
        ['token 2', 'token 3']
    """
    try:
        names = list(players.names(labels.clone().cpu()))
    except Exception:  # the user's own code may do anything
        names = []
    if len(names) == count_of(labels) and all(isinstance(name, str) for name in names):
        return list(map(one_way, names))
    return numbered(labels)


def one_way(text: str) -> str:
    r"""Leave out the characters that turn the direction of what follows, which would reach into other texts.

    Example:
        >>> one_way("age\u202e")
        'age'
    """
    return text.translate(TURNS)


def _one_way_content(content: Content | None) -> Content | None:
    if isinstance(content, RowsContent):
        return RowsContent([(one_way(name), one_way(value), player) for name, value, player in content.rows])
    if isinstance(content, WordsContent):
        return WordsContent([(one_way(text), player) for text, player in content.parts])
    return content


def _wrong(picture: object, count: int) -> str:
    """Say what is wrong with what a kind returned; empty if nothing is."""
    if not isinstance(picture, Picture):
        return f"expected a Picture, but it returned {type(picture).__name__}"
    if len(picture.names) != count or not all(isinstance(name, str) for name in picture.names):
        return f"expected {count} names, but got {list(picture.names)!r:.80}"
    if picture.content is not None and not isinstance(picture.content, tuple(_KINDS.values())):
        return f"expected a content that can be drawn, but got {type(picture.content).__name__}"
    return ""


def count_of(labels: Tensor) -> int:
    """Count the players of one sample, by what `Players.draw` returned for it."""
    return int(labels.max()) + 1 if labels.numel() else 0


def numbered(labels: Tensor) -> list[str]:
    """Names of players of which nothing is known."""
    return [f"player {i}" for i in range(count_of(labels))]


def rectangles(region: NDArray[np.bool_]) -> list[list[int]]:
    """Cut a region ``(H, W)`` into few rectangles ``[x, y, width, height]``: runs of rows that are alike are one.

    Example:
        >>> rectangles(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool))
        [[0, 0, 2, 2], [2, 2, 1, 1]]
    """
    new = np.flatnonzero(np.append(True, (region[1:] != region[:-1]).any(1)))
    found = []
    for top, bottom in zip(new.tolist(), [*new[1:].tolist(), len(region)], strict=True):
        edges = np.flatnonzero(np.diff(region[top].astype(np.int8), prepend=0, append=0)).tolist()
        found += [[a, top, b - a, bottom - top] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return found


def _data_url(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image  # comes with matplotlib

    encoded = io.BytesIO()
    exact = max(pixels.shape[:2]) <= EXACT_SIDE
    image = Image.fromarray(pixels)
    image.save(encoded, format="PNG", optimize=True) if exact else image.save(encoded, format="JPEG", quality=80)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _from_data_url(url: str) -> NDArray[np.uint8]:
    from PIL import Image

    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
