"""The x axis of a run's figures: epochs, or what is done of the training on a log scale.

That is the number of its epochs where some were looked into, or of its steps where there are no epochs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_interactions.phases.epochs import START, is_inside
from lightning_interactions.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARGIN = 0.5, 0.25
"""Room beside the line of an event: in epochs, in doublings of them."""

_MOST_TICKS = 9


class EpochAxis:
    """Where the records and events of a run are.

    A record at initialisation, at which no epoch was done, has no place on a log scale: it stands at its left end.

    Attributes:
        logarithmic: Whether any record was made inside of an epoch or at initialisation, or steps are counted.
        place: Where the records are, ``(E,)``.
        label: What the axis is called.
    """

    def __init__(self, run: RunRecord) -> None:
        epochs = run.history["epoch"]
        self.logarithmic = run.unit == "step" or any(map(is_inside, epochs))
        self.label = f"{run.unit}s of training (log scale)" if self.logarithmic else "epoch"
        self.place, self._left = run.place, -math.inf
        if self.logarithmic:
            done = self.place - START
            trained = done[done > 0]
            self._left = trained.min().item() / 2 if len(trained) else 0.5
            self.place = done.clamp(min=self._left)

    def at(self, epoch: float) -> float:
        """Return where something that happened at this place of the run stands."""
        return max(epoch - START, self._left) if self.logarithmic else epoch

    def edges(self) -> Tensor:
        """Return borders ``(E + 1,)`` half-way between records, so that what was skipped widens its neighbours."""
        if not self.logarithmic:
            return _half_way(self.place)
        return _half_way(self.place.log2()).exp2()

    def limits(self, events: list[float]) -> tuple[float, float]:
        """Return the ends of the axis, with room for all records and for events that stand there."""
        edges, (epochs, doublings) = self.edges(), _MARGIN
        if self.logarithmic:
            beside = [(at / 2**doublings, at * 2**doublings) for at in events]
        else:
            beside = [(at - epochs, at + epochs) for at in events]
        left, right = min([edges[0].item(), *(a for a, _ in beside)]), max([edges[-1].item(), *(b for _, b in beside)])
        return left, right

    def fraction(self, at: float, left: float, right: float) -> float:
        """Return how far from the left end something stands, from 0 to 1."""
        if self.logarithmic:
            at, left, right = math.log2(at), math.log2(left), math.log2(right)
        return (at - left) / (right - left)

    def scale(self, axes: Axes) -> None:
        """Give axes (and those that share theirs with them) this scale and its ticks; their limits are set already."""
        from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

        if not self.logarithmic:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
            return
        left, right = axes.get_xlim()
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(self._ticks(left, right)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "init" if self._begins(value) else f"{value:g}"))
        axes.set_xlim(left, right)

    def _begins(self, value: float) -> bool:
        return math.isclose(value, self._left) and bool((self.place <= self._left).any())

    def _ticks(self, left: float, right: float) -> list[float]:
        """Numbers that people know, and the initialisation."""
        begins = [self._left] if self._begins(self._left) else []
        low = (begins[0] * 1.5) if begins else left
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [step * 10.0**power for power in range(-6, 10) for step in steps]
            ticks = [tick for tick in ticks if low <= tick <= right]
            if len(ticks) <= _MOST_TICKS:
                break
        return [*begins, *ticks]


def _half_way(place: Tensor) -> Tensor:
    if len(place) == 1:
        return torch.cat([place - 0.5, place + 0.5])
    between = (place[1:] + place[:-1]) / 2
    return torch.cat([2 * place[:1] - between[:1], between, 2 * place[-1:] - between[-1:]])
