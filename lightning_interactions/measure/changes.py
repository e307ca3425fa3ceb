"""The interactions of the watched samples over time: what stayed, came and went, and how they were at moments.

The numbers are those of :mod:`~lightning_interactions.functional.changes`. Kept of a run are the salient interactions
at the first record, which of them are preserved, those at the phase boundary, and, as long as it is not known where
that is, those at the records where it may turn out to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import StateError
from lightning_interactions.functional.changes import interaction_changes, still_preserved
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
    shape: tuple[int, ...]

    @classmethod
    def of(cls, epoch: float, salient: Tensor) -> Moment:
        """Keep those of a record; of samples that are not finite nothing."""
        flat = salient.nan_to_num(0.0).flatten()
        place = flat.nonzero().flatten()
        return cls(epoch, place.int(), flat[place].float(), tuple(salient.shape))

    @property
    def salient(self) -> Tensor:
        """The whole tensor."""
        flat = torch.zeros(math.prod(self.shape))
        flat[self.place.long()] = self.value
        return flat.view(self.shape)


class ChangeTrack:
    """Follows the interactions of the watched samples of one split."""

    def __init__(self) -> None:
        self.keys = torch.zeros(0, dtype=torch.int64)
        self.first = torch.zeros(0)  # (B, 2, 2**n): of every sample those at the first record where it was finite
        self.preserved = torch.zeros(0, dtype=torch.bool)
        self.start = math.nan  # epoch of the first record
        self.moments: list[Moment] = []  # where the boundary is, or may be

    def update(self, epoch: float, salient: Tensor, keys: Tensor) -> dict[str, float]:
        """Take the salient interactions ``(B, 2, 2**n)`` of a record; with other ``keys`` it all begins anew.

        Returned are the scalars to log. A sample that is not finite stays as it was, and does not count this time.
        """
        if not torch.equal(keys, self.keys) or self.first.shape != salient.shape:
            self.keys, self.start, self.moments = keys.clone(), epoch, []
            self.first, self.preserved = torch.full_like(salient, math.nan), torch.ones_like(salient, dtype=torch.bool)
        finite = salient.isfinite().all(-1).all(-1).view(-1, 1, 1)
        fresh = finite & self.first.isnan()
        self.first = torch.where(fresh, salient, self.first)
        self.preserved = torch.where(finite, still_preserved(self.preserved, self.first, salient), self.preserved)
        self.moments.append(Moment.of(epoch, salient))
        found = interaction_changes(self.first, self.preserved, salient)
        return {
            f"change/{name}{end}": value
            for name, estimate in found.items()
            for end, value in zip(("", "_lower", "_upper"), estimate, strict=True)
        }

    def settle(self, turn: float) -> None:
        """Let go of the records that are not, and will not be, where the boundary is, if that is now at ``turn``."""
        nearest = self._nearest(turn)
        recent = max(len(self.moments) - RECENT, 0)
        self.moments = [moment for i, moment in enumerate(self.moments) if i >= recent or moment is nearest]

    def moment(self, place: float | None) -> Moment | None:
        """The record nearest to a place; ``None`` without a place."""
        return None if place is None else self._nearest(place)

    def _nearest(self, place: float) -> Moment | None:
        if math.isnan(place):
            return None
        return min(self.moments, key=lambda moment: abs(moment.epoch - place), default=None)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as builtin containers and tensors."""
        first = Moment.of(self.start, self.first)
        return {
            "keys": self.keys.clone(),
            "first": tuple(first),
            "unknown": self.first.isnan().flatten(1).any(1) if self.first.ndim > 1 else self.preserved.clone(),
            "preserved": self.preserved.flatten()[first.place.long()],
            "moments": [tuple(moment) for moment in self.moments],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ChangeTrack:
        """Continue from `state_dict`; anything else is a `StateError`."""
        track = cls()
        try:
            first = Moment(*state["first"])
            track.keys, track.start = state["keys"].clone(), first.epoch
            track.first, track.moments = first.salient, [Moment(*moment) for moment in state["moments"]]
            track.preserved = torch.zeros(math.prod(first.shape), dtype=torch.bool)
            track.preserved[first.place.long()] = state["preserved"]
            track.preserved = track.preserved.view(first.shape)
            track.first[state["unknown"]], track.preserved[state["unknown"]] = math.nan, True
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise StateError(f"Expected the state of a ChangeTrack, but it cannot be read: {error!r}.") from error
        return track


class Changes:
    """The tracks of all splits."""

    def __init__(self) -> None:
        self._tracks: dict[str, ChangeTrack] = {}

    def update(
        self, epoch: float, found: Mapping[str, Measurement], samples: Mapping[str, Samples], turn: float
    ) -> dict[str, float]:
        """Take the measurements of a record; the boundary is, or as far as is known will be, at ``turn``."""
        scalars: dict[str, float] = {}
        for split, measurement in found.items():
            track = self._tracks.setdefault(split, ChangeTrack())
            own = track.update(epoch, measurement.salient, samples[split].keys)
            track.settle(turn)
            scalars |= {part_of(split, found) + key: value for key, value in own.items()}
        return scalars

    def describe(self, split: str, measurement: Measurement, boundary: float | None) -> list[dict[str, Any]]:
        """Return for every sample what its row tells of interactions: see `sample_table`."""
        track = self._tracks[split]
        middle = track.moment(boundary)
        first, then = track.first.nan_to_num(0.0), None if middle is None else middle.salient
        now = track.moments[-1].epoch
        epochs = {"start": track.start, **({} if middle is None else {"boundary": middle.epoch}), "now": now}
        rows = []
        for i, salient in enumerate(measurement.salient):
            known = bool(salient.isfinite().all())
            shown = choose(salient, None if then is None else then[i], first[i] if now > track.start else None)
            rows.append(
                {
                    "salient_count": int((salient != 0).sum()) if known else None,
                    "score_of_nothing": _finite(measurement.ends[i, 0]),
                    "score": _finite(measurement.ends[i, 1]),
                    "epochs": dict(epochs),
                    "interactions": interactions_of(*shown) if known else [],
                }
            )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all tracks, by split."""
        return {split: track.state_dict() for split, track in self._tracks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; a track that cannot be read is a `StateError`, and nothing is changed."""
        self._tracks = {split: ChangeTrack.from_state(own) for split, own in state.items()}


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None
