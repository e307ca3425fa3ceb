"""The interactions of the watched samples over time: what stayed, came and went, and how they were at moments.

The numbers are those of :mod:`~lightning_interactions.functional.changes`. Kept of a run are the salient interactions
at the first record, which of them are preserved, those at the phase boundary, and, as long as it is not known where
that is, those at the records where it may turn out to be.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import StateError
from lightning_interactions.functional.changes import interaction_changes, known_samples, still_preserved
from lightning_interactions.measure.extras import persisting, spindle_share
from lightning_interactions.measure.measurement import Measurement, part_of
from lightning_interactions.measure.samples import Samples
from lightning_interactions.pictures.exhibit import choose, interactions_of

RECENT = 4
"""Latest records that may turn out to be the turning point: it is sought on a curve that lags by one or two."""


class Moment(NamedTuple):
    """The salient interactions ``(B, 2, 2**n)`` at one record; only those that are not 0 are kept."""

    epoch: float
    place: Tensor  # int32: where they are in the flat tensor
    value: Tensor  # float32
    unknown: Tensor  # boolean (B,): samples that were not finite
    shape: tuple[int, ...]

    @classmethod
    def of(cls, epoch: float, salient: Tensor) -> Moment:
        """Keep those of a record."""
        unknown = salient.isnan().flatten(1).any(1)
        flat = salient.nan_to_num(0.0).flatten()
        place = flat.nonzero().flatten()
        return cls(epoch, place.int(), flat[place].float(), unknown, tuple(salient.shape))

    @property
    def salient(self) -> Tensor:
        """The whole tensor; ``nan`` of samples that were not finite."""
        flat = torch.zeros(math.prod(self.shape))
        flat[self.place.long()] = self.value
        whole = flat.view(self.shape)
        whole[self.unknown] = math.nan
        return whole


class ChangeTrack:
    """Follows the interactions of the watched samples of one split.

    Each sample begins with the first record at which it is finite.
    """

    def __init__(self) -> None:
        self._begin(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2))

    def _begin(self, keys: Tensor, salient: Tensor) -> None:
        self.keys, self.first = keys.clone(), torch.full_like(salient, math.nan)
        self.since = torch.full((len(salient),), math.nan, dtype=torch.float64)  # epochs of the first records
        self.preserved = torch.ones_like(salient, dtype=torch.bool)
        self.turn = math.nan  # where the boundary is, or would be as far as is known
        self.moments: list[Moment] = []  # of the record there, and of the latest ones

    def update(self, epoch: float, salient: Tensor, keys: Tensor, turn: float = math.nan) -> dict[str, float]:
        """Take the salient interactions ``(B, 2, 2**n)`` of a record; with other ``keys`` it all begins anew.

        The boundary is now thought to be at ``turn``; ``nan``: where it was before. Returned are the scalars to log. A
        sample that is not finite stays as it was, and does not count this time.
        """
        if not torch.equal(keys, self.keys) or self.first.shape != salient.shape:
            self._begin(keys, salient)
        finite = known_samples(salient)
        fresh = finite & self.since.isnan()
        self.since[fresh] = epoch
        self.first = torch.where(fresh.view(-1, 1, 1), salient, self.first)
        still = still_preserved(self.preserved, self.first, salient)
        self.preserved = torch.where(finite.view(-1, 1, 1), still, self.preserved)
        self.turn = self.turn if math.isnan(turn) else turn
        self.moments.append(Moment.of(epoch, salient))
        older = [moment for moment in self.moments[:-RECENT] if moment.epoch == self.turn]
        self.moments = [*older[-1:], *self.moments[-RECENT:]]
        scalars: dict[str, float] = {}
        for name, estimate in interaction_changes(self.first, self.preserved, salient).items():
            scalars |= estimate.named(f"change/{name}")
        return scalars

    @property
    def at_turn(self) -> Moment | None:
        """The record at the turn; ``None`` where these samples were not watched then."""
        return next((moment for moment in reversed(self.moments) if moment.epoch == self.turn), None)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as builtin containers and tensors."""
        first = Moment.of(math.nan, self.first)
        return {
            "keys": self.keys.clone(),
            "first": tuple(first),
            "since": self.since.clone(),
            "preserved": self.preserved.flatten()[first.place.long()],
            "turn": self.turn,
            "moments": [tuple(moment) for moment in self.moments],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ChangeTrack:
        """Continue from `state_dict`; anything else is a `StateError`."""
        track = cls()
        try:
            first = Moment(*state["first"])
            track._begin(state["keys"], first.salient)
            track.first, track.since, track.turn = first.salient, state["since"].clone(), float(state["turn"])
            track.preserved = first.unknown.view(-1, 1, 1).expand(first.shape).clone()
            track.preserved.view(-1)[first.place.long()] = state["preserved"]
            track.moments = [Moment(*moment) for moment in state["moments"]]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise StateError(f"Expected the state of a ChangeTrack, but it cannot be read: {error!r}.") from error
        return track


class Changes:
    """The tracks of all splits."""

    def __init__(self) -> None:
        self._tracks: dict[str, ChangeTrack] = {}

    def update(
        self,
        epoch: float,
        found: Mapping[str, Measurement],
        samples: Mapping[str, Samples],
        turn: float,
        extras: Collection[str] = (),
    ) -> dict[str, float]:
        """Take the measurements of a record; for ``turn`` see `ChangeTrack.update`, for ``extras`` `EXTRAS`."""
        scalars: dict[str, float] = {}
        for split, measurement in found.items():
            track = self._tracks.setdefault(split, ChangeTrack())
            own = track.update(epoch, measurement.salient, samples[split].keys, turn)
            if "spindle_share" in extras:
                own |= spindle_share(track.first, measurement.salient)
            if "persistence" in extras:
                before = track.moments[-2].salient if len(track.moments) > 1 else None
                own |= persisting(before, measurement.salient)
            scalars |= {part_of(split, found) + key: value for key, value in own.items()}
        return scalars

    def describe(self, split: str, measurement: Measurement, *, turned: bool) -> list[dict[str, Any]]:
        """Return for every sample what its row tells of interactions: see `sample_table`.

        ``turned``: the boundary is told, so that the turn is one of the moments.
        """
        track = self._tracks[split]
        middle, now = track.at_turn if turned else None, track.moments[-1].epoch
        then = None if middle is None else middle.salient
        return [
            _row(
                salient,
                measurement.ends[i],
                {"start": float(track.since[i]), "boundary": math.nan if middle is None else middle.epoch, "now": now},
                {"start": track.first[i], "boundary": None if then is None else then[i]},
            )
            for i, salient in enumerate(measurement.salient)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all tracks, by split."""
        return {split: track.state_dict() for split, track in self._tracks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; a track that cannot be read is a `StateError`, and nothing is changed."""
        self._tracks = {split: ChangeTrack.from_state(own) for split, own in state.items()}


def _row(now: Tensor, ends: Tensor, epochs: Mapping[str, float], before: Mapping[str, Tensor | None]) -> dict[str, Any]:
    """What is told of one sample: its salient interactions ``(2, 2**n)`` now, and at moments before."""
    known = bool(now.isfinite().all())
    told = {
        name: salient
        for name, salient in before.items()
        if salient is not None and not bool(salient.isnan().any()) and epochs[name] < epochs["now"]
    }
    shown = choose(now, told.get("boundary"), told.get("start")) if known else ((), ())
    return {
        "salient_count": int((now != 0).sum()) if known else None,
        "score_of_nothing": _finite(ends[0]),
        "score": _finite(ends[1]),
        "epochs": {name: epoch for name, epoch in epochs.items() if name in told or name == "now"},
        "interactions": interactions_of(*shown),
    }


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None
