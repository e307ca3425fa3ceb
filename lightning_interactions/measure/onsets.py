"""The watched samples one by one: when each of them turned, and which of them carry cancelling high-order strength.

The mean over samples hides that they turn at different times. The onset of one sample is the turning point of its own
mean order, found with hindsight of a few records only:

- Its mean order is smoothed by the running median of 3 records (the first record stands for itself), as the detector
  smooths the mean.
- The turning point is the running minimum of that curve.
- It counts once the curve has been `MIN_RISE` of the range of orders above it for `PERSISTENCE` records in a row, and
  no longer when the curve falls below it again: the search then goes on from the new minimum.

It describes a sample; it is no test. A single sample wobbles more than the mean does, and a minimum by chance that is
followed by a rise counts too. Decisions are left to :class:`~lightning_interactions.phases.PhaseDetector`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import StateError
from lightning_interactions.functional.strength import cancellation, first_high_order, high_order_share, mean_order
from lightning_interactions.measure.measurement import Measurement, part_of
from lightning_interactions.measure.samples import Samples
from lightning_interactions.phases.epochs import whole_epoch

WINDOW = 3
"""Records in the running median."""

MIN_RISE = 0.05
"""Rise that confirms a turn, as a fraction of the range of orders, ``n - 1``: 0.45 of an order with 10 players."""

PERSISTENCE = 2
"""Records in a row that must have risen so far."""

QUANTILES = {"q10": 10, "q50": 50, "q90": 90}
"""In percent of the samples: whole numbers, so that nothing is rounded."""


class SampleTrack:
    """Follows the mean order of every watched sample of one split. Memory does not grow with the run."""

    def __init__(self) -> None:
        self._start(torch.zeros(0, dtype=torch.int64))

    def _start(self, keys: Tensor) -> None:
        size = len(keys)
        self._state = {
            "keys": keys.clone(),
            "orders": torch.full((WINDOW, size), math.nan, dtype=torch.float64),
            "epochs": torch.zeros(WINDOW, size, dtype=torch.float64),
            "trough": torch.full((size,), math.inf, dtype=torch.float64),
            "measured": torch.full((size,), math.inf, dtype=torch.float64),  # at the trough, before smoothing
            "trough_epoch": torch.zeros(size, dtype=torch.float64),
            "streak": torch.zeros(size, dtype=torch.int64),
            "turned": torch.zeros(size, dtype=torch.bool),
        }

    def update(self, epoch: float, strength: Tensor, keys: Tensor) -> None:
        """Take one measurement ``(B, 2, n)`` of an epoch that is not before the last one.

        A sample without any strength, or with a value that is not finite, has no order: its track stays as it is. With
        other ``keys``, long ``(B,)``, than before all tracks begin anew.
        """
        if not torch.equal(keys, self._state["keys"]):
            self._start(keys)
        level, measured, place = self._smooth(epoch, mean_order(strength.double()))
        s = self._state
        # At the tip of a V neighbouring medians are the same record; the measured values tell which place is the tip.
        lower = (level < s["trough"]) | ((level == s["trough"]) & (measured < s["measured"]))
        for name, value in (("trough", level), ("measured", measured), ("trough_epoch", place)):
            s[name] = torch.where(lower, value, s[name])
        risen = level - s["trough"] >= MIN_RISE * (strength.shape[-1] - 1)
        s["streak"] = torch.where(level.isnan(), s["streak"], torch.where(risen, s["streak"] + 1, 0))
        s["turned"] = (s["turned"] & ~lower) | (s["streak"] >= PERSISTENCE)

    def _smooth(self, epoch: float, orders: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return smoothed mean orders (``nan`` where nothing is new), the measured ones, and the epochs of those."""
        s = self._state
        valid, first = orders.isfinite(), s["orders"].isnan().all(0)
        for name, new in (("orders", orders), ("epochs", torch.full_like(s["epochs"][0], epoch))):
            s[name] = torch.where(valid, torch.cat([s[name][1:], new[None]]), s[name])
        row = torch.where(first, WINDOW - 1, WINDOW // 2)[None]
        measured, place = s["orders"].gather(0, row)[0], s["epochs"].gather(0, row)[0]
        level = torch.where(first, measured, s["orders"].median(0).values)  # nan while a record is missing
        return torch.where(valid, level, math.nan), measured, place

    @property
    def keys(self) -> Tensor:
        """Keys ``(B,)`` of the samples."""
        return self._state["keys"]

    def onset_epochs(self) -> list[int | None]:
        """Return for each sample the epoch in which it turned; ``None`` if it has not, or never had strength."""
        epochs, turned = self._state["trough_epoch"].tolist(), self._state["turned"].tolist()
        return [whole_epoch(epoch) if has else None for epoch, has in zip(epochs, turned, strict=True)]

    def scalars(self) -> dict[str, float]:
        """Return the share of the samples that have turned, and by which epoch so many had; -1 while fewer have.

        The places may be inside of epochs (see `tell_place`), but are not below 0: that is how -1 is told from them.
        """
        size, turned = len(self.keys), self._state["turned"]
        epochs = self._state["trough_epoch"][turned].sort().values.tolist()
        scalars = {"onset/turned": len(epochs) / size if size else 0.0}
        for name, percent in QUANTILES.items():
            needed = max(-(-percent * size // 100), 1)
            scalars[f"onset/{name}"] = max(epochs[needed - 1], 0.0) if needed <= len(epochs) else -1.0
        return scalars

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of everything, as tensors."""
        return {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; anything else is a `StateError`."""
        if set(state) != set(self._state):
            raise StateError(
                f"Expected the state of a SampleTrack with {sorted(self._state)}, but got {sorted(state)}."
            )
        # States of version 2 have whole epochs.
        self._state = {name: state[name].to(own.dtype, copy=True) for name, own in self._state.items()}


class SampleTracks:
    """The tracks of all splits, and the table of the samples."""

    def __init__(self) -> None:
        self._tracks: dict[str, SampleTrack] = {}

    def update(
        self, epoch: float, found: Mapping[str, Measurement], samples: Mapping[str, Samples]
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Take the measurements of one epoch; return the scalars, and a row of `sample_table` for each sample.

        The rows with the most cancelling strength come first.
        """
        scalars: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        for split, measurement in found.items():
            track, own = self._tracks.setdefault(split, SampleTrack()), samples[split]
            track.update(epoch, measurement.strength, own.keys)
            part = part_of(split, found)
            scalars |= {part + key: value for key, value in track.scalars().items()}
            rows += sample_table(split, own, measurement, track.onset_epochs())
        return scalars, sorted(rows, key=lambda row: -(row["high_order_cancelled"] or 0.0))

    def keys_of(self, split: str) -> Tensor | None:
        """Return the keys of the samples of a split that were followed last; ``None`` if there were none."""
        return self._tracks[split].keys if split in self._tracks else None

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of all tracks, by split."""
        return {split: track.state_dict() for split, track in self._tracks.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from :meth:`state_dict`; a track that cannot be read is a `StateError`, and nothing is changed."""
        tracks = {split: SampleTrack() for split in state}
        for split, track in tracks.items():
            track.load_state_dict(state[split])
        self._tracks = tracks


def sample_table(
    split: str, samples: Samples, measurement: Measurement, onsets: list[int | None]
) -> list[dict[str, Any]]:
    """Describe every watched sample by builtin values, in their order.

    The columns: ``split``; ``index`` among them; ``key``, the hash of the input's content
    (:func:`~lightning_interactions.measure.samples.content_keys`), by which it is found again in the data; ``target``
    and ``prediction``: the class, or 0 or 1 for one of several labels, or the number; ``followed``: the index of the
    class, label or output whose score is split; ``strength``: all orders and signs together, in units of the score;
    ``mean_order``; ``high_order_share``; ``cancellation``; ``high_order_cancelled``: the strength of the high orders
    that positive and negative interactions take from each other, ``P + M - |P - M|``, in units of the score;
    ``onset_epoch``. ``None`` stands for what is undefined: all measured ones where the model's outputs were not finite.
    """
    strength = measurement.strength
    high = first_high_order(strength.shape[-1])
    columns = {
        "key": samples.keys,
        "target": measurement.target,
        "prediction": measurement.prediction,
        "followed": measurement.followed,
        "strength": strength.sum((-2, -1)),
        "mean_order": mean_order(strength),
        "high_order_share": high_order_share(strength),
        "cancellation": cancellation(strength),
        "high_order_cancelled": 2 * strength[..., high:].sum(-1).min(-1).values,
    }
    rows: list[dict[str, Any]] = []
    for index, values in enumerate(zip(*(column.tolist() for column in columns.values()), strict=True)):
        row: dict[str, Any] = {"split": split, "index": index}
        for name, value in zip(columns, values, strict=True):
            whole = name in ("target", "prediction", "followed") and math.isfinite(value) and value == int(value)
            row[name] = int(value) if whole else value if math.isfinite(value) else None
        rows.append({**row, "onset_epoch": onsets[index]})
    return rows
