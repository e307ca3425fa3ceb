"""Texts that can be drawn: of characters that a font has."""

from __future__ import annotations

from functools import lru_cache


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
