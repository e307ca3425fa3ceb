"""Bars: the effects of interactions at every moment, one beside the other, and the key to their tints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_interactions.phases.epochs import tell_place
from lightning_interactions.pictures.exhibit import Exhibit, Shown
from lightning_interactions.pictures.sheet import GRAY, Sheet
from lightning_interactions.pictures.telling import colour_of, drawn_of, is_timed, moments_of, value_of

TINTS = {"start": 0.28, "boundary": 0.6, "now": 1.0}  # the earlier, the paler
THINNEST = 0.02  # of a bar, in inches: that of a zero is a trace


def draw_key(sheet: Sheet, exhibit: Exhibit, x: float) -> None:
    """Say which tint is which moment, unless the key before says just that."""
    if not is_timed(exhibit) or sheet.epochs == exhibit.epochs or not drawn_of(exhibit):
        return
    sheet.epochs = exhibit.epochs
    sheet.text(x, sheet.y, "over time:", 8, GRAY)
    for i, moment in enumerate(moments_of(exhibit)):
        left = x + 0.72 + 1.72 * i
        sheet.box(left, sheet.y + 0.02, 0.1, 0.1, "#404040", TINTS[moment])
        place = tell_place(exhibit.epochs[moment], exhibit.unit, short=True)
        sheet.text(left + 0.15, sheet.y, f"{moment} ({place})", 8)
    sheet.y += 0.24


@dataclass(frozen=True)
class Frame:
    """Where bars are drawn.

    Attributes:
        begin: Where along the bars their axis begins.
        length: Inches that the axis has.
        ends: Where along the row of bars the grid lines begin and end.
        thick: Inches that a bar has.
        across: Whether bars lie, and their row goes down; else they stand, and it goes to the right.
    """

    begin: float
    length: float
    ends: tuple[float, float]
    thick: float
    across: bool = False


def draw_bars(sheet: Sheet, exhibit: Exhibit, groups: Sequence[tuple[Shown, float]], frame: Frame) -> None:
    """Draw a group of bars around the place of each interaction, one bar for each moment, and their axis."""
    moments = moments_of(exhibit)
    values = [[value_of(one, moment) for moment in moments] for one, _ in groups]
    low = min(0.0, *map(min, values))
    high = max(0.0, *map(max, values)) or float(low == 0)
    axis = _Axis(sheet, frame, low, high)
    axis.draw_ticks()
    for (_, middle), row in zip(groups, values, strict=True):
        for k, (moment, value) in enumerate(zip(moments, row, strict=True)):
            axis.draw_bar(middle + (k - len(moments) / 2) * frame.thick, value, TINTS[moment])
    axis.draw_label()


@dataclass(frozen=True)
class _Axis:
    """The axis of effects from ``low`` to ``high``: to the right where the bars lie, upwards where they stand."""

    sheet: Sheet
    frame: Frame
    low: float
    high: float

    def place(self, effect: float) -> float:
        frame, scale = self.frame, self.frame.length / (self.high - self.low)
        zero = frame.begin + (-self.low if frame.across else self.high) * scale
        return zero + (1 if frame.across else -1) * effect * scale

    def box(self, at: float, thick: float, start: float, length: float, colour: str, tint: float = 1) -> None:
        left, top, width, height = (start, at, length, thick) if self.frame.across else (at, start, thick, length)
        self.sheet.box(left, top, width, height, colour, tint)

    def draw_bar(self, at: float, effect: float, tint: float) -> None:
        first, last = sorted((self.place(0.0), self.place(effect)))
        self.box(at, 0.92 * self.frame.thick, first, max(last - first, THINNEST), colour_of(effect), tint)

    def draw_ticks(self) -> None:
        """Draw a grid line at zero, and one at a round number on each side."""
        (first, last), step = self.frame.ends, self._step()
        for tick in (tick for tick in (-step, 0.0, step) if self.low <= tick <= self.high):
            place = self.place(tick)
            self.box(first, last - first, place - 0.005, 0.01, "#D0D0D0" if tick else "#000000")
            x, y = (place, last + 0.1) if self.frame.across else (first - 0.06, place)
            align = "center" if self.frame.across else "right"
            self.sheet.text(x, y, f"{tick:+g}" if tick else "0", 8, ha=align, va="center")

    def _step(self) -> float:
        reach = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(reach))
        return next(k * unit for k in (5, 2, 1, 0.5) if k * unit <= 0.7 * reach)

    def draw_label(self) -> None:
        (first, last), middle = self.frame.ends, self.frame.begin + self.frame.length / 2
        if self.frame.across:
            self.sheet.text(middle, last + 0.24, "effect on the score", 8, ha="center", va="center")
        else:
            label = "effect on\nthe score"
            self.sheet.text(first - 0.6, middle, label, 8, rotation=90, ha="center", va="center")
