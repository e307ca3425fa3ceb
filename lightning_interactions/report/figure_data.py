"""What the figure of a run needs to know, read from the columns of a history; no drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.strength import mean_order


@dataclass(frozen=True)
class RunData:
    """The columns of a history as tensors.

    Args:
        epoch: ``(E,)``, of every record.
        place: ``(E,)``, where the record is on the x axis.
        strength: ``(E, 2, n)``.
        train_loss: ``(E,)``, nan where there is none.
        val_loss: ``(E,)``, nan where there is none.
        band: ``(2, E)``, lower and upper end of the mean order's confidence interval, nan where there is none.
        risk: ``(E,)``, overfitting risk, nan where there is none.
        boundary_epoch: Where phase 1 ended, if it has.
        overfitting_epoch: Where overfitting began, if it has.
    """

    epoch: Tensor
    place: Tensor
    strength: Tensor
    train_loss: Tensor
    val_loss: Tensor
    band: Tensor
    risk: Tensor
    boundary_epoch: int | None
    overfitting_epoch: int | None

    @classmethod
    def read(cls, history: Mapping[str, Sequence[Any]], boundary: int | None, overfitting: int | None) -> RunData:
        """Check and convert the columns of ``History.to_dict``.

        Args:
            history: Columns of equal length: ``epoch``, ``strength``, and perhaps ``train_loss`` and ``val_loss``.
            boundary: The boundary epoch.
            overfitting: The overfitting epoch.

        Raises:
            ArgumentError: If nothing has been measured, or columns are missing or of unequal length.
        """
        for key in ("epoch", "strength"):
            if not history.get(key):
                raise ArgumentError(f"Expected `history` to have records in column {key!r}, but nothing was measured.")
        count = len(history["epoch"])
        unequal = [key for key in ("strength", "train_loss", "val_loss") if len(history.get(key, [0] * count)) != count]
        if unequal:
            raise ArgumentError(f"Expected columns of equal length ({count}, as `epoch`), but {unequal} differ.")
        strength = torch.as_tensor(history["strength"], dtype=torch.float64)
        if strength.ndim != 3 or strength.shape[1] != 2:
            raise ArgumentError(f"Expected `strength` of shape (epochs, 2, n), but got {tuple(strength.shape)}.")
        missing = [None] * count

        def column(key: str) -> Tensor:
            return _with_gaps(history.get(key) or history.get(f"val/{key}") or missing)

        epoch = torch.as_tensor(history["epoch"])
        band = torch.stack([column("mean_order_lower"), column("mean_order_upper")])
        train, val, risk = column("train_loss"), column("val_loss"), column("overfitting_risk")
        return cls(epoch, _places(epoch), strength, train, val, band, risk, boundary, overfitting)

    @property
    def events(self) -> list[tuple[str, int, str]]:
        """Name, epoch and line style of every event that happened."""
        all_ = ("boundary", self.boundary_epoch, "--"), ("overfitting", self.overfitting_epoch, "-")
        return [(name, at, style) for name, at, style in all_ if at is not None]

    @property
    def lowest_val(self) -> int | None:
        """Index of the record with the lowest validation loss."""
        return _argmin(self.val_loss)

    @property
    def edges(self) -> Tensor:
        """Borders ``(E + 1,)`` half-way between records, so that epochs that were skipped widen their neighbours."""
        place = self.place
        if len(place) == 1:
            return torch.cat([place - 0.5, place + 0.5])
        between = (place[1:] + place[:-1]) / 2
        return torch.cat([2 * place[:1] - between[:1], between, 2 * place[-1:] - between[-1:]])

    @property
    def middle(self) -> tuple[str, int]:
        """Name and index of the record nearest to the boundary, or of the lowest mean order if there is none."""
        if self.boundary_epoch is not None:
            return "Boundary", int((self.epoch - self.boundary_epoch).abs().argmin())
        lowest = _argmin(mean_order(self.strength))
        return ("Half-way", len(self.epoch) // 2) if lowest is None else ("Lowest", lowest)


def _places(epoch: Tensor) -> Tensor:
    """Spread the records of an epoch with several validations over its width; a single one stays where it is."""
    same = epoch[:, None] == epoch
    return epoch.double() + same.tril(-1).sum(1) / same.sum(1)


def _with_gaps(column: Sequence[float | None]) -> Tensor:
    values = torch.tensor([float("nan") if x is None else float(x) for x in column], dtype=torch.float64)
    return torch.where(torch.isfinite(values), values, torch.full_like(values, float("nan")))


def _argmin(values: Tensor) -> int | None:
    known = torch.isfinite(values)
    return int(values.masked_fill(~known, float("inf")).argmin()) if known.any() else None
