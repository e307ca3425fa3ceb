"""What a figure tells of an interaction: when, how strong, in which colour, in a few words."""

from __future__ import annotations

import math

from lightning_interactions.metrics.drawing import BLUE, VERMILLION
from lightning_interactions.pictures.exhibit import Exhibit, Shown, signed
from lightning_interactions.pictures.sheet import GRAY


def moments_of(exhibit: Exhibit) -> list[str]:
    """Say which moments are told apart: only the present, unless there is a start to compare it with.

    Example:
        >>> from lightning_interactions.players.picture import Picture
        >>> moments_of(Exhibit("sample 0", Picture(["a"]), [], epochs={"now": 4, "start": -1}))
        ['start', 'now']
    """
    known = [moment for moment in ("start", "boundary", "now") if moment in exhibit.epochs]
    return known if "start" in known else ["now"]


def is_timed(exhibit: Exhibit) -> bool:
    """Whether the past of its interactions can be drawn."""
    return len(moments_of(exhibit)) > 1


def drawn_of(exhibit: Exhibit) -> list[Shown]:
    """Return the interactions that are drawn: those that are gone too, where their past is."""
    return [*exhibit.shown, *(exhibit.gone if is_timed(exhibit) else ())]


def value_of(one: Shown, moment: str = "") -> float:
    """Return its value at a moment; without one, now, or if it is gone the last that is known.

    Example:
        >>> gone = Shown("and", (0, 1), 0.0, boundary=-1.5, start=0.5)
        >>> value_of(gone), value_of(gone, "start"), value_of(gone, "now")
        (-1.5, 0.5, 0.0)
    """
    value: float | None = getattr(one, moment) if moment else one.now or one.boundary or one.start
    return value if value is not None and math.isfinite(value) else 0.0


def colour_of(value: float) -> str:
    """Return the colour of a value's sign."""
    return BLUE if value > 0 else VERMILLION if value < 0 else GRAY


def tell_value(one: Shown) -> str:
    """Say its kind and its value, in brackets if it is gone.

    Example:
        >>> tell_value(Shown("and", (0, 1), -1.5)), tell_value(Shown("or", (2,), 0.0, start=0.5))
        ('AND -1.50', 'alone (+0.50)')
    """
    kind = one.kind.upper() if len(one.players) > 1 else "alone"
    value = signed(value_of(one) if math.isfinite(one.now) else one.now)
    return f"{kind} {value if one.now else f'({value})'}"


def tell_share(exhibit: Exhibit, one: Shown) -> str:
    """Say which share of the sample's strength it has; empty where that is not known."""
    share = exhibit.share(one)
    return f"{100 * share:.0f} %" if one.now and math.isfinite(share) else ""
