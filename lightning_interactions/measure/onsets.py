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
from lightning_interactions.functional.strength import cancellation, high_order_share, mean_order
from lightning_interactions.measure.measurement import Measurement
from lightning_interactions.measure.samples import ProbeSet

WINDOW = 3
"""Records in the running median."""

MIN_RISE = 0.05
"""Rise that confirms a turn, as a fraction of the range of orders, ``n - 1``: 0.45 of an order with 10 players."""

PERSISTENCE = 2
"""Records in a row that must have risen so far."""

QUANTILES = {"q10": 10, "q50": 50, "q90": 90}
"""In percent of the samples: whole numbers, so that nothing is rounded."""


class SampleTrack:
    """Follows the mean order of every watched sample of one split. Memory does not grow with the run.

    Example:
        Both samples fall; the first turns at epoch 2, the second never does:

        >>> track, keys = SampleTrack(), torch.tensor([7, 8])
        >>> for epoch in range(7):
        ...     high = torch.tensor([0.2 + 0.2 * abs(epoch - 2), 0.9 - 0.1 * epoch])
        ...     strength = torch.stack([1 - high, high], -1).unsqueeze(1).repeat(1, 2, 1)
        ...     track.update(epoch, strength, keys)
        >>> track.onset_epochs()
        [2, None]
        >>> track.scalars()
        {'onset/turned': 0.5, 'onset/q10': 2.0, 'onset/q50': 2.0, 'onset/q90': -1.0}
    """

    def __init__(self) -> None:
        self._start(torch.zeros(0, dtype=torch.int64))

    def _start(self, keys: Tensor) -> None:
        size = len(keys)
        self._state = {
            "keys": keys.clone(),
            "orders": torch.full((WINDOW, size), math.nan, dtype=torch.float64),
            "epochs": torch.zeros(WINDOW, size, dtype=torch.int64),
            "trough": torch.full((size,), math.inf, dtype=torch.float64),
            "measured": torch.full((size,), math.inf, dtype=torch.float64),  # at the trough, before smoothing
            "trough_epoch": torch.zeros(size, dtype=torch.int64),
            "streak": torch.zeros(size, dtype=torch.int64),
            "turned": torch.zeros(size, dtype=torch.bool),
        }

    def update(self, epoch: int, strength: Tensor, keys: Tensor) -> None:
        """Take one measurement.

        Args:
            epoch: Not before the last one.
            strength: ``(B, 2, n)``. A sample without any strength, or with a value that is not finite, has no order:
                its track stays as it is.
            keys: Long ``(B,)``: which samples they are. With others than before all tracks begin anew.
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

    def _smooth(self, epoch: int, orders: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take the mean orders ``(B,)``; return the smoothed ones, and the measured ones and epochs they stand at.

        The smoothed ones are ``nan`` where nothing new is known: comparisons with them are false.
        """
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
        """Return for each sample the epoch at which it turned; ``None`` if it has not, or never had strength."""
        epochs, turned = self._state["trough_epoch"].tolist(), self._state["turned"].tolist()
        return [epoch if has else None for epoch, has in zip(epochs, turned, strict=True)]

    def scalars(self) -> dict[str, float]:
        """Return the numbers logged.

        Returns:
            ``onset/turned``, the share of the samples that have turned, and ``onset/q10``, ``q50``, ``q90``: the
            epoch by which a tenth, half, nine tenths of all samples had turned; -1 while fewer have.
        """
        size = len(self._state["keys"])
        epochs = sorted(epoch for epoch in self.onset_epochs() if epoch is not None)
        needed = {name: max(-(-percent * size // 100), 1) for name, percent in QUANTILES.items()}
        return {
            "onset/turned": len(epochs) / size if size else 0.0,
            **{f"onset/{q}": float(epochs[k - 1]) if k <= len(epochs) else -1.0 for q, k in needed.items()},
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of everything, as tensors."""
        return {name: value.clone() for name, value in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`.

        Args:
            state: What :meth:`state_dict` returned.

        Raises:
            StateError: If it is something else.
        """
        if set(state) != set(self._state):
            raise StateError(
                f"Expected the state of a SampleTrack with {sorted(self._state)}, but got {sorted(state)}."
            )
        self._state = {name: state[name].clone() for name in self._state}


class SampleTracks:
    """The tracks of all splits, and the table of the samples."""

    def __init__(self) -> None:
        self._tracks: dict[str, SampleTrack] = {}

    def update(
        self, epoch: int, found: Mapping[str, Measurement], probes: Mapping[str, ProbeSet]
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Take the measurements of one epoch.

        Args:
            epoch: The epoch.
            found: Measurements by split.
            probes: The samples they were made on, by split.

        Returns:
            The scalars, as of :meth:`SampleTrack.scalars` with a part ``train/`` or ``val/`` if there are two splits;
            and one row per sample as of :func:`sample_table`, those with the most cancelling strength first.
        """
        scalars: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        for split, measurement in found.items():
            track, probe = self._tracks.setdefault(split, SampleTrack()), probes[split]
            track.update(epoch, measurement.strength, probe.keys)
            part = f"{split}/" if len(found) > 1 else ""
            scalars |= {part + key: value for key, value in track.scalars().items()}
            rows += sample_table(split, probe, measurement, track.onset_epochs())
        return scalars, sorted(rows, key=lambda row: -(row["high_order_cancelled"] or 0.0))

    def keys_of(self, split: str) -> Tensor | None:
        """Return the keys of the samples that were followed last; ``None`` if there were none.

        Args:
            split: ``"train"`` or ``"val"``.
        """
        return self._tracks[split].keys if split in self._tracks else None

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of all tracks, by split."""
        return {split: track.state_dict() for split, track in self._tracks.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from :meth:`state_dict`.

        Args:
            state: What :meth:`state_dict` returned.

        Raises:
            StateError: If a track cannot be read.
        """
        tracks = {split: SampleTrack() for split in state}
        for split, track in tracks.items():
            track.load_state_dict(state[split])
        self._tracks = tracks


def sample_table(
    split: str, probe: ProbeSet, measurement: Measurement, onsets: list[int | None]
) -> list[dict[str, Any]]:
    """Describe every watched sample by builtin values.

    Args:
        split: ``"train"`` or ``"val"``.
        probe: The samples.
        measurement: What was measured on them.
        onsets: Their onset epochs.

    Returns:
        Rows in the order of the probe: ``split``; ``index`` in the probe; ``key``, the hash of the input's content
        (:func:`~lightning_interactions.measure.samples.content_keys`), by which it is found again in the data;
        ``target`` and ``prediction``: the class, or 0 or 1 for one of several labels, or the number; ``followed``: the
        index of the class, label or output whose score is split; ``strength``: all orders and signs together, in units
        of the score; ``mean_order``; ``high_order_share``; ``cancellation``; ``high_order_cancelled``: the strength of
        the high orders that positive and negative interactions take from each other, ``P + M - |P - M|``, in units of
        the score; ``onset_epoch``. ``None`` stands for what is undefined: all measured ones where the model's outputs
        were not finite.
    """
    strength = measurement.strength
    high = (strength.shape[-1] + 1) // 2 - 1  # as in high_order_share
    columns = {
        "key": probe.keys,
        "target": measurement.target,
        "prediction": measurement.prediction,
        "followed": measurement.followed,
        "strength": strength.sum((-2, -1)),
        "mean_order": mean_order(strength),
        "high_order_share": high_order_share(strength),
        "cancellation": cancellation(strength),
        "high_order_cancelled": 2 * strength[..., high:].sum(-1).min(-1).values,
    }
    values = {name: [_plain(name, value) for value in column.tolist()] for name, column in columns.items()}
    return [
        {"split": split, "index": i, **{name: column[i] for name, column in values.items()}, "onset_epoch": onset}
        for i, onset in enumerate(onsets)
    ]


def _plain(name: str, value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if name in ("target", "prediction", "followed") and value == int(value) else value
