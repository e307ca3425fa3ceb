"""Texts that can be drawn: no longer than there is room for, and of characters that a font has."""

from __future__ import annotations

from functools import lru_cache


def shorten(text: str, room: int) -> str:
    """Bring a text onto one line of at most so many characters; what is too much is left out of its middle.

    Example:
        >>> shorten("a  cat and a dog", 20), shorten("a cat and a dog", 10)
        ('a cat and a dog', 'a cat… dog')
    """
    text, end = " ".join(text.split()), (room - 1) // 2
    return text if len(text) <= room else f"{text[: room - 1 - end]}\u2026{text[len(text) - end :]}"


def drawable(text: str, family: str = "") -> str:
    """Put an empty box where no font has the character: matplotlib does so too, but it warns each time.

    Example:
        >>> drawable("café 日")
        'café □'
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    known = _characters(family)
    return "".join(c if c == "\n" or ord(c) in known else "\u25a1" if c.isprintable() else " " for c in text)


@lru_cache(maxsize=4)
def _characters(family: str) -> frozenset[int]:
    """The characters that a family of fonts, or else the usual one, has in normal and in bold."""
    from matplotlib import font_manager, rcParams

    families, known = [family] if family else list(rcParams["font.family"]), []
    for weight in ("normal", "bold"):
        looks = [font_manager.FontProperties(family=[each], weight=weight) for each in families]
        fonts = [font_manager.get_font(font_manager.findfont(look)) for look in looks]
        known.append({code for font in fonts for code in font.get_charmap()})
    return frozenset.intersection(*map(frozenset, known))
