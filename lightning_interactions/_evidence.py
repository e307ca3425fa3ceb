"""What a stream of measurements says so far: the numbers :class:`~lightning_interactions.phases.PhaseDetector` reads.

No threshold and no decision lives here. ``OrderTrack`` follows the mean order and its turning point, ``LossTrack`` the
loss gap. Both keep a bounded number of records, whatever the length of the run.

Curves are smoothed by the running median of 3 records. One odd measurement then moves nothing, and since the median
of three *is* one of them, the samples behind a smoothed value are at hand for a paired test. The price: a value is
known one record later.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument
from lightning_interactions.functional.strength import mean_order, order_distribution

WINDOW = 3
"""Records in the running median."""

MAX_BENDS = 256
"""Bends of the curve kept to judge how much it wobbles."""

_NAN = float("nan")
_ROUNDING = 1e-20  # a variance of the mean order (order of magnitude 1) below this is rounding of float64


@dataclass(frozen=True)
class OrderRecord:
    """The orders at one measurement.

    Args:
        epoch: When it was measured.
        mean_order: Of the mean strength over samples, from 1 to ``num_players``; smoothed in a level or trough.
        measured: The mean order at ``epoch`` before smoothing.
        first_order_share: Share of the one-player interactions, 0 to 1.
        contributions: ``(samples,)`` float64, see :func:`mean_order_contributions`; ``nan`` for a skipped sample.
        probes: Number of the sample set; records with equal numbers were measured on the same samples.
        num_players: Orders in the strength.
    """

    epoch: int
    mean_order: float
    measured: float
    first_order_share: float
    contributions: Tensor
    probes: int
    num_players: int


def mean_order_contributions(strength: Tensor) -> Tensor:
    """Split the mean order into one number per sample, with the mean order as their mean.

    The mean order of several samples is a ratio of sums, ``m = sum_k k J(k) / sum_k J(k)``, so strong samples weigh
    more and per-sample mean orders do not average to it. The delta method gives each sample's share of its change:
    ``m + sum_k (k - m) J_i(k) / mean_i total_i``.

    Args:
        strength: ``(samples, 2, n)``; samples with a value that is not finite are left out.

    Returns:
        ``(samples,)`` float64 in units of order; ``nan`` for samples left out, or when nothing has strength.

    Example:
        >>> mean_order_contributions(torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])).tolist()
        [1.0, 2.0]
    """
    total = strength.double().sum(-2)
    finite = total.isfinite().all(-1)
    used = total[finite]
    out = total.new_full((len(total),), _NAN)
    if len(used) and float(used.sum()) > 0:
        m = float(mean_order(strength.double()[finite].mean(0)))
        k = torch.arange(1, total.shape[-1] + 1, dtype=total.dtype, device=total.device)
        out[finite] = m + used @ (k - m) / used.sum(-1).mean()
    return out


def rise_z(before: Tensor, after: Tensor, *, paired: bool) -> float:
    """Significance of a rise of the mean order, as a standard normal number.

    Args:
        before: ``(samples,)`` contributions at the earlier measurement.
        after: The same at the later one.
        paired: Whether row i is the same sample in both.

    Returns:
        The t statistic (paired, or Welch's) turned into the normal number of equal tail area, so that one threshold
        serves few samples and many; ``nan`` with fewer than two usable samples.

    Example:
        >>> before = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> round(rise_z(before, before + torch.tensor([0.9, 1.0, 1.1, 1.0]), paired=True), 1)
        3.7
        >>> round(rise_z(before, before + torch.tensor([0.9, 1.0, 1.1, 1.0]), paired=False), 1)
        1.0
    """
    if paired:
        difference = after - before
        difference = difference[difference.isfinite()]
        rise, count = float(difference.mean()), len(difference)
        variance, freedom = _mean_variance(difference), count - 1.0
    else:
        before, after = before[before.isfinite()], after[after.isfinite()]
        rise, count = float(after.mean() - before.mean()), min(len(before), len(after))
        a, b = _mean_variance(before), _mean_variance(after)
        variance, freedom = a + b, _welch_freedom(a, len(before), b, len(after))
    if count < 2:
        return _NAN
    if variance <= _ROUNDING:
        return math.copysign(math.inf, rise) if abs(rise) > 1e-9 else 0.0
    return _normal_of_t(rise / math.sqrt(variance), freedom)


def _mean_variance(values: Tensor) -> float:
    """Squared standard error of the mean."""
    return float(values.var(correction=1)) / len(values) if len(values) > 1 else _NAN


def _welch_freedom(a: float, count_a: int, b: float, count_b: int) -> float:
    """Degrees of freedom of the difference of two means with squared standard errors ``a`` and ``b``."""
    if min(count_a, count_b) < 2 or a + b <= _ROUNDING:
        return 1.0
    return (a + b) ** 2 / (a**2 / (count_a - 1) + b**2 / (count_b - 1))


def _normal_of_t(t: float, freedom: float) -> float:
    """Wallace's (1959) approximation: right to about 0.01 from three degrees of freedom on, far into the tail."""
    size = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
    return math.copysign(size, t)


@dataclass
class OrderTrack:
    """The smoothed mean order, its running minimum (the trough) and what came before and after.

    The first record stands for itself: a network that starts nearly linear has its trough there.
    """

    recent: list[OrderRecord] = field(default_factory=list)
    level: OrderRecord | None = None
    trough: OrderRecord | None = None
    highest: float = -math.inf
    fall: float = 0.0
    share_peak: float = -math.inf
    bends: list[float] = field(default_factory=list)
    probes: int = 0
    samples: int = 0

    def add(self, epoch: int, strength: Tensor, *, paired: bool, frozen: bool) -> bool:
        """Take one measurement ``(samples, 2, n)``; ``frozen`` keeps the trough. False if it holds no strength."""
        # Noted before anything else: a failed measurement on new samples must not leave the next one paired to the old.
        self.probes += not (paired and self.samples == len(strength))
        self.samples = len(strength)
        contributions = mean_order_contributions(strength)
        finite = contributions.isfinite()
        if not bool(finite.any()):
            return False
        mean = strength.double()[finite].mean(0)
        m, share = float(mean_order(mean)), float(order_distribution(mean)[0])
        self.recent = [
            *self.recent,
            OrderRecord(epoch, m, m, share, contributions, self.probes, strength.shape[-1]),
        ][-WINDOW:]
        if self.trough is None:
            self._move_to(self.recent[-1], frozen)
        elif len(self.recent) == WINDOW:
            first, middle, last = self.recent
            bend = abs(middle.mean_order - (first.mean_order + last.mean_order) / 2)
            self.bends = [*self.bends, bend][-MAX_BENDS:]
            value = sorted(self.recent, key=lambda r: r.mean_order)[WINDOW // 2]
            # The value of one record at the place of the middle one: its argmin is that of the smoothed curve.
            self._move_to(replace(value, epoch=middle.epoch, measured=middle.mean_order), frozen)
        return True

    def _move_to(self, level: OrderRecord, frozen: bool) -> None:
        self.level = level
        self.highest = max(self.highest, level.mean_order)
        self.share_peak = max(self.share_peak, level.first_order_share)
        # At the tip of a V neighbouring medians are the same record; the measured values tell which place is the tip.
        if self.trough is None or (
            not frozen and (level.mean_order, level.measured) < (self.trough.mean_order, self.trough.measured)
        ):
            self.restart()

    def restart(self) -> None:
        """Look for the turning point from the present level on."""
        self.trough = self.level
        self.fall = self.highest - self.level.mean_order if self.level else 0.0

    def wobble(self) -> float:
        """Standard deviation of the mean order about its course, in units of order; infinite while unknown.

        From the median bend (second difference) of the curve, so that a steady fall or rise adds nothing and a jump
        little. Widened while the bends are few, since it is then itself uncertain.
        """
        if not self.bends:
            return math.inf
        middle = sorted(self.bends)[len(self.bends) // 2]
        return 1.4826 * middle / math.sqrt(1.5) * (1 + 2 / len(self.bends))

    def evidence(self) -> dict[str, float]:
        """The numbers, in units of order where nothing else is said; ``rise`` is negative below a frozen trough."""
        if self.trough is None or self.level is None:
            return {}
        trough, level = self.trough, self.level
        rise = level.mean_order - trough.mean_order
        octaves = math.log2((level.epoch + 1) / (trough.epoch + 1))
        same, wobble = level.probes == trough.probes, self.wobble()
        return {
            "mean_order": self.recent[-1].mean_order,
            "level": level.mean_order,
            "trough": trough.mean_order,
            "trough_epoch": float(trough.epoch),
            "fall": self.fall,
            "rise": rise,
            "z": rise_z(trough.contributions, level.contributions, paired=same) if rise else 0.0,
            "wobbles": rise / wobble if wobble > 0 else math.copysign(math.inf, rise) if rise else 0.0,
            "samples": float(int(level.contributions.isfinite().sum())),
            # Half an octave at least: right after the trough the quotient says nothing yet.
            "rise_per_octave": max(rise, 0.0) / max(octaves, 0.5) / max(level.num_players - 1, 1),
            "first_order_fall": self.share_peak - level.first_order_share,
        }

    def state_dict(self) -> dict[str, Any]:
        """Builtin containers and tensors."""
        return {
            "recent": [asdict(r) for r in self.recent],
            "level": asdict(self.level) if self.level else None,
            "trough": asdict(self.trough) if self.trough else None,
            "highest": self.highest,
            "fall": self.fall,
            "share_peak": self.share_peak,
            "bends": list(self.bends),
            "probes": self.probes,
            "samples": self.samples,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> OrderTrack:
        """Rebuild what :meth:`state_dict` gave; missing entries start fresh."""
        level, trough = state.get("level"), state.get("trough")
        return cls(
            recent=[OrderRecord(**r) for r in state.get("recent", [])],
            level=OrderRecord(**level) if level else None,
            trough=OrderRecord(**trough) if trough else None,
            highest=state.get("highest", -math.inf),
            fall=state.get("fall", 0.0),
            share_peak=state.get("share_peak", -math.inf),
            bends=list(state.get("bends", [])),
            probes=state.get("probes", 0),
            samples=state.get("samples", 0),
        )


@dataclass
class LossTrack:
    """Validation loss and loss gap (validation minus train), smoothed, with their running minima.

    Records in which one of the two is missing or not finite leave everything as it was.
    """

    recent_gap: list[float] = field(default_factory=list)
    recent_val: list[float] = field(default_factory=list)
    recent_epoch: list[int] = field(default_factory=list)
    first_val: float = 0.0
    gap_low: float = math.inf
    best_val: float = math.inf
    best_epoch: int = -1

    def add(self, epoch: int, train_loss: float | None, val_loss: float | None) -> None:
        """Take one pair of losses, in any unit."""
        if train_loss is None or val_loss is None or not math.isfinite(train_loss) or not math.isfinite(val_loss):
            return
        if not self.recent_val:
            self.first_val = val_loss
        self.recent_gap = [*self.recent_gap, val_loss - train_loss][-WINDOW:]
        self.recent_val = [*self.recent_val, val_loss][-WINDOW:]
        self.recent_epoch = [*self.recent_epoch, epoch][-WINDOW:]
        self.gap_low = min(self.gap_low, _median(self.recent_gap))
        if _median(self.recent_val) < self.best_val:
            self.best_val = _median(self.recent_val)
            self.best_epoch = self.recent_epoch[len(self.recent_epoch) // 2]

    def evidence(self) -> dict[str, float]:
        """The numbers; growths are relative to the lowest validation loss. Empty until there were losses."""
        if not self.recent_val:
            return {}
        gap, val = _median(self.recent_gap), _median(self.recent_val)
        # A loss that goes to zero would make any growth look large: a hundredth of the first value bounds the unit.
        unit = max(abs(self.best_val), 0.01 * abs(self.first_val)) or 1.0
        return {
            "gap": gap,
            "gap_low": self.gap_low,
            "gap_growth": (gap - self.gap_low) / unit,
            "val_loss": val,
            "best_val_loss": self.best_val,
            "best_val_epoch": float(self.best_epoch),
            "val_growth": (val - self.best_val) / unit,
        }

    def state_dict(self) -> dict[str, Any]:
        """Builtin containers."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LossTrack:
        """Rebuild what :meth:`state_dict` gave; missing entries start fresh, unknown ones are ignored."""
        return cls(**{k: v for k, v in state.items() if k in cls.__dataclass_fields__})


def _median(values: list[float]) -> float:
    """Middle value; the larger of two, so that a loss is not called low on its first fall."""
    return sorted(values)[len(values) // 2]


def check_strength(strength: object) -> Tensor:
    """Turn an array-like into a detached floating tensor ``(samples, 2, n)`` on the CPU.

    Raises:
        ArgumentError: If it cannot be.
    """
    try:
        tensor = torch.as_tensor(strength).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument("strength", "a tensor of shape (samples, 2, n)", strength) from error
    if tensor.ndim != 3 or tensor.shape[1] != 2 or tensor.shape[2] < 1:
        raise bad_argument("strength", "a tensor of shape (samples, 2, n)", f"shape {tuple(tensor.shape)}")
    if bool((tensor < 0).any()):
        raise bad_argument("strength", "not negative", float(tensor[tensor < 0].min()))
    return tensor if tensor.is_floating_point() else tensor.double()
