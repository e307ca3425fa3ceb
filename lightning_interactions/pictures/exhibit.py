"""What is shown of one sample: a handful of interactions, what they were before, and how the sample looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import StateError
from lightning_interactions.functional.coalitions import coalition_masks, num_players_of
from lightning_interactions.phases.epochs import Unit
from lightning_interactions.players.picture import Picture

HANDFUL = 5
"""Interactions that are shown of a sample, at most."""

GONE = 2
"""Of those that were among the strongest once and are not salient any more, so many are named."""


@dataclass(frozen=True)
class Shown:
    """One interaction of a sample, over time. The values are effects on the score, and 0 where it is not salient."""

    kind: str  # "and" or "or"
    players: tuple[int, ...]  # ascending
    now: float
    boundary: float | None = None  # at the phase boundary; `None` without one
    start: float | None = None  # at the first record; `None` where only one moment is known

    @property
    def status(self) -> str:
        """Say since when there is an interaction of this sign, or that it is gone; empty where that is not known."""
        if self.start is None:
            return ""
        if not self.now:
            return "gone"
        if self.boundary is None:
            return "stayed" if self.now * self.start > 0 else "new since the start"
        if self.now * self.boundary > 0:
            return "stayed" if self.now * self.start > 0 else "new before the boundary"
        return "back since the boundary" if self.now * self.start > 0 else "new since the boundary"

    def words(self, names: Sequence[str]) -> str:
        """Name its players.

        Example:
            >>> Shown("or", (0, 2), 1.5).words(["not", "very", "good"]), Shown("and", (1,), 1.5).words(["not", "very"])
            ('not OR good', 'very alone')
        """
        called = [names[i] if i < len(names) else f"player {i}" for i in self.players]
        return f" {self.kind.upper()} ".join(called) if len(called) > 1 else f"{called[0]} alone"


@dataclass(frozen=True)
class Exhibit:
    """One sample for people to see.

    Attributes:
        title: Which sample it is, and what the network makes of it.
        picture: How it looks.
        shown: The strongest interactions now, strongest first.
        gone: The strongest ones of before that are not salient any more.
        count: How many salient interactions it has now; ``None`` where its scores are not finite.
        strength: Sum of their absolute values, in units of the score.
        ends: Score of the empty and of the whole sample; ``None`` where that is not known.
        epochs: Epoch of each moment: ``"start"``, ``"boundary"`` (where there is one), ``"now"``. Empty if only the
            present is known.
        unit: What these are counted in.
    """

    title: str
    picture: Picture
    shown: Sequence[Shown]
    gone: Sequence[Shown] = ()
    count: int | None = 0
    strength: float = math.nan
    ends: tuple[float, float] | None = None
    epochs: Mapping[str, float] = field(default_factory=dict)
    unit: Unit = "epoch"

    def share(self, one: Shown) -> float:
        """Share of the sample's strength that one interaction has."""
        return abs(one.now) / self.strength if self.strength > 0 else math.nan

    @property
    def caption(self) -> str:
        """Say how much of the score the shown interactions explain.

        Example:
            >>> shown = [Shown("and", (0, 1), 3.0), Shown("and", (2,), -1.0)]
            >>> Exhibit("sample 0", Picture(["a", "b", "c"]), shown, count=9, strength=8.0, ends=(-1.0, 2.0)).caption
            '2 of 9 salient interactions have 50 % of the strength; together +2.00 of +3.00, the effect of all parts'
        """
        if self.count is None:
            return "its scores are not finite, so that nothing is known of its interactions"
        if not self.shown:
            return "no salient interactions"
        of = f"{len(self.shown)} of {self.count} salient interactions have" if self.count > len(self.shown) else (
            f"all {self.count} salient interactions have" if self.count > 1 else "the only salient interaction has"
        )  # fmt: skip
        share = sum(map(self.share, self.shown))
        known = f"{share:.0%} of the strength".replace("%", " %") if math.isfinite(share) else "a strength not known"
        told = f"{of} {known}"
        if self.ends is None:
            return told
        total, effect = sum(one.now for one in self.shown), self.ends[1] - self.ends[0]
        return f"{told}; together {signed(total)} of {signed(effect)}, the effect of all parts"


def signed(value: float) -> str:
    """Write an effect with its sign, and small ones with digits that tell something.

    Example:
        >>> [signed(value) for value in (2.314, -0.0123, 0.0, math.nan)]
        ['+2.31', '-0.012', '+0.00', 'not known']
    """
    if not math.isfinite(value):
        return "not known"
    return f"{value:+.2f}" if abs(value) >= 0.095 or not value else f"{value:+.2g}"


def choose(now: Tensor, boundary: Tensor | None = None, start: Tensor | None = None) -> tuple[list[Shown], list[Shown]]:
    """Choose which interactions of one sample are shown.

    Args:
        now: Salient interactions ``(2, 2**n)``, 0 elsewhere, see `salient_interactions`.
        boundary: Those at the phase boundary, if there is one.
        start: Those at the first record, where they are known.

    Returns:
        The strongest ones now, and the strongest of before that are not salient now.

    Example:
        >>> now = torch.tensor([[0.0, 0.0, 1.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
        >>> shown, gone = choose(now, start=torch.tensor([[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        >>> [(one.kind, one.players, one.now) for one in shown], [(one.players, one.start) for one in gone]
        ([('and', (0, 1), -3.0), ('and', (1,), 1.0)], [((0,), 2.0)])
    """
    before = [moment.abs() for moment in (boundary, start) if moment is not None]
    lost = torch.stack(before).amax(0) * (now == 0) if before else torch.zeros_like(now)

    def shown(place: int) -> Shown:
        row, column = divmod(place, now.shape[-1])
        members = coalition_masks(num_players_of(now))[column]
        at = [None if moment is None else float(moment[row, column]) for moment in (boundary, start)]
        return Shown("or" if row else "and", tuple(members.nonzero().flatten().tolist()), float(now[row, column]), *at)

    return [shown(i) for i in _strongest(now, HANDFUL)], [shown(i) for i in _strongest(lost, GONE)]


def _strongest(values: Tensor, count: int) -> list[int]:
    """Places of the strongest ones in the flat tensor, strongest first; of equal ones the first."""
    flat = values.nan_to_num(0.0).flatten().abs()
    order = flat.argsort(descending=True, stable=True)[:count].tolist()
    return [i for i in order if float(flat[i]) > 0]


def interactions_of(shown: Sequence[Shown], gone: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return interactions as builtin values, as the rows of ``history.samples`` have them."""
    return [{**asdict(one), "players": list(one.players)} for one in (*shown, *gone)]


def exhibit_of(row: Mapping[str, Any], picture: Picture | None = None) -> Exhibit:
    """Make an exhibit of a row of ``history.samples``, or of ``RunRecord.samples``, which have pictures of their own.

    Without a picture, or with one that cannot be read, its players have numbers.
    """
    found = _own_interactions(row)
    count = 1 + max((player for one in found for player in one.players), default=-1)
    ends = (row.get("score_of_nothing"), row.get("score"))
    return Exhibit(
        title=title_of(row),
        picture=picture or _own_picture(row) or Picture([f"player {i}" for i in range(count)]),
        shown=[one for one in found if one.now],
        gone=[one for one in found if not one.now],
        count=row.get("salient_count", 0),
        strength=math.nan if row.get("strength") is None else float(row["strength"]),
        ends=None if ends[0] is None or ends[1] is None else (float(ends[0]), float(ends[1])),
        epochs=row.get("epochs") or {},
        unit=row.get("unit", "epoch"),
    )


def _own_interactions(row: Mapping[str, Any]) -> list[Shown]:
    """Those of a row; what another version of the package wrote, and this one cannot read, is left out."""
    names, found = {f.name for f in fields(Shown)}, []
    try:
        for one in row.get("interactions") or ():
            known: dict[str, Any] = {name: value for name, value in one.items() if name in names}
            found.append(Shown(**{**known, "players": tuple(known["players"])}))
    except (TypeError, AttributeError, KeyError):
        return []
    return found


def _own_picture(row: Mapping[str, Any]) -> Picture | None:
    try:
        return None if row.get("picture") is None else Picture.from_dict(row["picture"])
    except StateError:
        return None


def title_of(row: Mapping[str, Any]) -> str:
    """Say which sample it is, and what the network makes of it.

    Example:
        >>> title_of({"split": "val", "index": 3, "target": 7, "prediction": 1})
        'val sample 3: target 7, predicted 1'
    """
    told = [f"{word} {_short(row[key])}" for key, word in (("target", "target"), ("prediction", "predicted"))
            if row.get(key) is not None]  # fmt: skip
    which = (row.get("split"), "sample", row.get("index"))  # rows of old runs have neither
    return " ".join(str(part) for part in which if part is not None) + (f": {', '.join(told)}" if told else "")


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"
