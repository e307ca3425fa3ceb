"""What the losses say so far: the numbers :class:`~lightning_interactions.phases.PhaseDetector` reads of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument


@dataclass
class LossTrack:
    """Validation loss and loss gap (validation minus train), and their running minima.

    A growth counts from the minimum to the lower of the last two records: one odd record is none. Records in which one
    of the two losses is missing or not finite leave everything as it was.
    """

    recent_gap: list[float] = field(default_factory=list)
    recent_val: list[float] = field(default_factory=list)
    first_val: float = 0.0
    gap_low: float = math.inf
    best_val: float = math.inf
    best_epoch: float = -1
    last_epoch: float = -1
    best_each: Tensor | None = None  # (samples,) losses of single validation samples at the lowest mean
    last_each: Tensor | None = None  # at the last record

    def add(self, epoch: float, train_loss: float | None, val_loss: float | None, each: Tensor | None = None) -> None:
        """Take one pair of losses, in any unit, and where known the validation loss of each sample."""
        if train_loss is None or val_loss is None or not math.isfinite(train_loss) or not math.isfinite(val_loss):
            return
        if not self.recent_val:
            self.first_val = val_loss
        self.recent_gap = [*self.recent_gap, val_loss - train_loss][-2:]
        self.recent_val = [*self.recent_val, val_loss][-2:]
        self.gap_low = min(self.gap_low, self.recent_gap[-1])
        self.last_epoch, self.last_each = epoch, each
        if val_loss < self.best_val:
            self.best_val, self.best_epoch, self.best_each = val_loss, epoch, each

    @property
    def unit(self) -> float:
        """What growths are relative to: the lowest validation loss.

        A loss that goes to zero would make any growth look large: a hundredth of the first value bounds it.
        """
        return max(abs(self.best_val), 0.01 * abs(self.first_val)) or 1.0

    def evidence(self) -> dict[str, float]:
        """The numbers; growths are relative to the lowest validation loss. Empty until there were losses."""
        if not self.recent_val:
            return {}
        found = {
            "gap": self.recent_gap[-1],
            "gap_low": self.gap_low,
            "gap_growth": (min(self.recent_gap) - self.gap_low) / self.unit,
            "val_loss": self.recent_val[-1],
            "best_val_loss": self.best_val,
            "best_val_epoch": float(self.best_epoch),
            "val_growth": (min(self.recent_val) - self.best_val) / self.unit,
            "growth_unit": self.unit,
            "val_growth_lasted": (self.last_epoch - self.best_epoch) / (self.best_epoch + 1 or 1.0),
        }
        error = self._error()
        return found if error is None else {**found, "val_growth_error": error}

    def _error(self) -> float | None:
        """Standard error of the growth of the validation loss, from how differently the samples' losses changed."""
        if self.best_each is None or self.last_each is None or self.best_each.shape != self.last_each.shape:
            return None
        change = self.last_each - self.best_each
        change = change[change.isfinite()]
        return float(change.std()) / math.sqrt(len(change)) / self.unit if len(change) > 1 else None

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LossTrack:
        """Rebuild from its fields; missing entries start fresh, unknown ones are ignored."""
        return cls(**{k: v for k, v in state.items() if k in cls.__dataclass_fields__})


def check_losses(losses: Any) -> Tensor | None:
    """Turn losses of single samples into a tensor ``(samples,)`` on the CPU, or say why they are none."""
    if losses is None:
        return None
    try:
        each = torch.as_tensor(losses).detach().to("cpu", torch.float64, copy=True)  # the caller may reuse it
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument("val_losses", "a tensor of shape (samples,) or None", losses) from error
    if each.ndim != 1:
        raise bad_argument("val_losses", "a tensor of shape (samples,) or None", f"shape {tuple(each.shape)}")
    return each
