"""The texts of tokens, by whatever the tokenizer offers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

from lightning_interactions.players.picture import ATTACHED

BYTES, PIECES, SPACE = "Ġ", "▁", " "
"""What a token begins with that begins a word: in byte-level BPE, in SentencePiece, in plain text."""

CONTINUES = "##"
"""What the other tokens of a word begin with, of WordPiece."""

PROBED = 1000
"""So many tokens of the vocabulary are looked at to see how it marks the beginning of a word."""

_WAYS: dict[str, Callable[[Any, int], Any]] = {
    "convert_ids_to_tokens": lambda function, index: function([index])[0],
    "id_to_token": lambda function, index: function(index),
    "decode": lambda function, index: function([index]),
}


class Speller:
    r"""Tells the text of tokens; without a tokenizer, or where that fails, it is their id.

    Copies share the tokenizer, and pickles leave it out: it may be large, or not be made for either.

    Args:
        tokenizer: Anything with ``convert_ids_to_tokens(ids)``, ``id_to_token(id)`` or ``decode(ids)``.

    Example:
        >>> class Vocabulary:
        ...     def id_to_token(self, index):
        ...         return ["[CLS]", "play", "##ing", "well"][index]
        >>> [part.replace("\u2060", "+") for part in Speller(Vocabulary()).parts([0, 1, 2, 3], special=[0])]
        ['[CLS]', 'play', '+ing', 'well']
        >>> Speller().parts([5, 7])
        ['5', '7']
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer

    def __deepcopy__(self, memo: Any) -> Speller:
        return self

    def __reduce__(self) -> tuple[type[Speller], tuple[()]]:
        return Speller, ()

    def parts(self, ids: Sequence[int], special: Collection[int] = ()) -> list[str]:
        """Return the text of every token, after `ATTACHED` where there is no space before it.

        Args:
            ids: A text in reading order.
            special: Ids that are no part of a text: they stand alone.
        """
        tokens = [self._token(index) for index in ids]
        marker = self._marker or _marker_of(tokens)
        found, inside = [], False
        for index, token in zip(ids, tokens, strict=True):
            text, attached = (token, False) if index in special else _read(token, marker)
            found.append(ATTACHED * (attached and inside) + _visible(text))
            inside = index not in special
        return found

    @cached_property
    def _marker(self) -> str:
        return "" if self._tokenizer is None else _marker_of([self._token(index) for index in range(PROBED)])

    def _token(self, index: int) -> str:
        for name, way in _WAYS.items():
            try:
                token = way(getattr(self._tokenizer, name), index)
            except Exception:  # it has no such method, or no such token; libraries differ in what they raise then
                continue
            token = token.decode("utf-8", "replace") if isinstance(token, bytes) else token
            if isinstance(token, str) and token:
                return token
        return str(index)


def _marker_of(tokens: Sequence[str]) -> str:
    """The marker that most of the tokens begin with; empty if none does."""
    counts = {
        marker: sum(len(token) > 1 and token.startswith(marker) for token in tokens)
        for marker in (BYTES, PIECES, SPACE)
    }
    most = max(counts, key=lambda marker: counts[marker])
    return most if counts[most] else ""


def _read(token: str, marker: str) -> tuple[str, bool]:
    """Text of a token, and whether it goes on with the word before."""
    if not marker:
        attached = token.startswith(CONTINUES) and len(token) > len(CONTINUES)
        return (token.removeprefix(CONTINUES), True) if attached else (token, False)
    text = token.lstrip(marker)
    return _from_bytes(text) if marker == BYTES else text, text == token


def _from_bytes(text: str) -> str:
    """Undo byte-level BPE, which writes every byte as a character that can be seen."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    unseen = [byte for byte in range(256) if byte not in seen]
    table = {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(unseen)}
    return bytes(map(table.__getitem__, text)).decode("utf-8", "replace") if set(text) <= set(table) else text


def _visible(text: str) -> str:
    """One line that can be written, in which also a space can be seen where it is all."""
    words = " ".join(text.split()) or ("↵" if "\n" in text else "␣")
    written = words.encode("utf-8", "replace").decode().lstrip(ATTACHED)
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" else char for char in written)
