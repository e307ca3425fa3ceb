"""What a stream of measurements says so far: the numbers :class:`~lightning_interactions.phases.PhaseDetector` reads.

No threshold and no decision lives here. Two curves of the strength turn at the boundary: the mean order, and the share
of the interactions between two or more players. A :class:`Curve` follows one of them, its turning point and its noise;
``OrderTrack`` holds both, ``LossTrack`` the losses. All keep a bounded number of records, whatever the length of the
run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import median_high
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument
from lightning_interactions.functional.interval import weighted_mean

WINDOW = 3  # records in the running median
STEPS = 8  # latest records whose noise is averaged
MAX_BENDS = 256  # bends of a curve kept to judge how much it wobbles
MAX_TOTALS = 64  # records of the total strength kept; of more, every second is forgotten

_NAN = float("nan")
_ROUNDING = 1e-20  # a variance of the mean order (order of magnitude 1) below this is rounding of float64


def rise_z(before: Tensor, after: Tensor, *, paired: bool) -> float:
    """Significance of a rise of the mean order between two measurements, as a standard normal number.

    From the contributions ``(samples,)`` at both; it is the t statistic (``paired``: row i is the same sample in both;
    else Welch's) turned into the normal number of equal tail area, so that one threshold serves few samples and many;
    ``nan`` with fewer than two usable samples.
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
    # Wallace's (1959) approximation: right to about 0.01 from three degrees of freedom on, far into the tail.
    t = rise / math.sqrt(variance)
    size = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
    return math.copysign(size, t)


def _mean_variance(values: Tensor) -> float:
    """Squared standard error of the mean of what is finite."""
    values = values[values.isfinite()]
    return float(values.var(correction=1)) / len(values) if len(values) > 1 else _NAN


def _welch_freedom(a: float, count_a: int, b: float, count_b: int) -> float:
    """Degrees of freedom of the difference of two means with squared standard errors ``a`` and ``b``."""
    if min(count_a, count_b) < 2 or a + b <= _ROUNDING:
        return 1.0
    return (a + b) ** 2 / (a**2 / (count_a - 1) + b**2 / (count_b - 1))


@dataclass(frozen=True)
class Point:
    """One measurement of a curve, of all samples together and of each (``contributions``, see :func:`weighted_mean`).

    Points with an equal number of ``probes`` were measured on the same samples.
    """

    epoch: float
    value: float
    contributions: Tensor
    probes: int


@dataclass
class Curve:
    """A curve that falls in phase 1 and rises in phase 2: its trough, what came before and after, and its noise.

    The trough is the lowest running median of three records, at the lowest of the three: one odd measurement makes
    none. The level it is compared with is the lower of the last two records: one odd measurement does not leave it.
    The first record stands for itself: a network that starts nearly linear has its trough there.
    """

    recent: list[Point] = field(default_factory=list)
    trough: Point | None = None
    highest: float = -math.inf
    fall: float = 0.0
    steps: list[float] = field(default_factory=list)
    bends: list[float] = field(default_factory=list)
    count: int = 0

    def add(self, point: Point, *, frozen: bool) -> None:
        """Take one measurement; ``frozen`` keeps the trough."""
        self.count += 1
        if self.recent:
            step = _step_noise(self.recent[-1], point)
            self.steps = self.steps if math.isnan(step) else [*self.steps, step][-STEPS:]
        self.recent = [*self.recent, point][-WINDOW:]
        if self.trough is None:
            self._bottom_at(point)
        if len(self.recent) < WINDOW:
            return
        first, middle, last = self.recent
        self.bends = [*self.bends, abs(middle.value - (first.value + last.value) / 2)][-MAX_BENDS:]
        median = sorted(self.recent, key=lambda p: p.value)[1]
        self.highest = max(self.highest, median.value)
        if not frozen and self.trough is not None and median.value < self.trough.value:
            self._bottom_at(median, min(self.recent, key=lambda p: p.value).epoch)

    def _bottom_at(self, point: Point, epoch: float | None = None) -> None:
        self.trough = replace(point, epoch=point.epoch if epoch is None else epoch)
        self.highest = max(self.highest, point.value)
        self.fall = self.highest - point.value

    def restart(self) -> None:
        """Look for the turning point from the present on."""
        self._bottom_at(sorted(self.recent, key=lambda p: p.value)[len(self.recent) // 2])

    @property
    def rise(self) -> float:
        """By how much the last two records are both above the trough, or both below it (negative); else 0."""
        if self.trough is None:
            return 0.0
        last = [point.value - self.trough.value for point in self.recent[-2:]]
        return max(min(last), 0.0) + min(max(last), 0.0)

    @property
    def noise(self) -> float:
        """Standard deviation of one record about the curve's course; infinite while unknown.

        The larger of two estimates. How differently the samples moved from one record to the next: known at the second
        record, and blind to what moves all samples alike. The median bend (second difference) of the curve: sees that
        too, but takes a turn for noise while records are few. On recorded runs the second was 0.6 to 2 times the first.
        """
        if not self.steps:
            return math.inf
        bend = median_high(self.bends) if self.bends else 0.0
        return max(median_high(self.steps), 1.4826 * bend / math.sqrt(1.5))

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Curve:
        """Rebuild from its fields; missing entries start fresh, unknown ones are ignored."""
        known = {k: v for k, v in state.items() if k in cls.__dataclass_fields__}
        known["recent"] = [Point(**point) for point in known.get("recent", [])]
        known["trough"] = Point(**known["trough"]) if known.get("trough") else None
        return cls(**known)


def _step_noise(before: Point, after: Point) -> float:
    """Standard error of one record, from how differently the samples moved since the last one."""
    if before.probes == after.probes:
        return math.sqrt(_mean_variance(after.contributions - before.contributions) / 2)
    return math.sqrt((_mean_variance(before.contributions) + _mean_variance(after.contributions)) / 2)


@dataclass
class OrderTrack:
    """Both curves of the strength."""

    order: Curve = field(default_factory=Curve)  # the mean order, 1 to n
    shared: Curve = field(default_factory=Curve)  # share of the interactions between two or more players, 0 to 1
    # Epochs, and log2 of the mean total strength of a sample.
    totals: list[tuple[float, float]] = field(default_factory=list)
    num_players: int = 0
    probes: int = 0
    samples: int = 0

    def add(self, epoch: float, strength: Tensor, *, paired: bool, frozen: bool) -> bool:
        """Take one measurement ``(samples, 2, n)``; ``frozen`` keeps the trough. False if it holds no strength."""
        # Noted before anything else: a failed measurement on new samples must not leave the next one paired to the old.
        self.probes += not (paired and self.samples == len(strength))
        self.samples, self.num_players = len(strength), strength.shape[-1]
        orders = torch.arange(1, self.num_players + 1)
        points = [Point(epoch, *weighted_mean(strength, w), self.probes) for w in (orders, orders > 1)]
        if math.isnan(points[0].value):
            return False
        for curve, point in zip((self.order, self.shared), points, strict=True):
            curve.add(point, frozen=frozen)
        mean = float(strength.double().sum((1, 2)).nan_to_num(_NAN, _NAN, _NAN).nanmean())
        self.totals = [*self.totals, (epoch, math.log2(mean))]
        if len(self.totals) > MAX_TOTALS:
            self.totals = self.totals[1::2]
        return True

    def restart(self) -> None:
        """Look for the turning point from the present on."""
        self.order.restart()
        self.shared.restart()

    def evidence(self) -> dict[str, float]:
        """The numbers; orders from 1 to n, shares from 0 to 1."""
        order, shared = self.order, self.shared
        assert order.trough is not None  # something was measured
        now = order.recent[-1]
        # Octaves by which the total strength grew per octave of epochs, over the last octave of epochs; half an octave
        # at least, for after few epochs, or many measurements in one, a small step is no steep growth.
        epoch, total = self.totals[-1]
        earlier, then = next(record for record in self.totals if record[0] >= (epoch + 1) / 2 - 1)
        octaves = math.log2((epoch + 1) / (earlier + 1)) if earlier > -1 else 0.0  # nothing was trained by -1
        growth = (total - then) / max(octaves, 0.5)
        return {
            "mean_order": now.value,
            "level": order.trough.value + order.rise,
            "trough": order.trough.value,
            "trough_epoch": float(order.trough.epoch),
            "rise": order.rise,
            "fall": order.fall,
            "noise": order.noise,
            "first_order_share": 1 - shared.recent[-1].value,
            "first_order_fall": shared.rise,
            "first_order_noise": shared.noise,
            "z": rise_z(order.trough.contributions, now.contributions, paired=order.trough.probes == now.probes),
            "strength_growth": growth,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> OrderTrack:
        """Rebuild from its fields; missing entries start fresh, unknown ones are ignored."""
        known = {k: v for k, v in state.items() if k in cls.__dataclass_fields__}
        known |= {name: Curve.from_state(known.get(name, {})) for name in ("order", "shared")}
        return cls(**known)


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

    def add(self, epoch: float, train_loss: float | None, val_loss: float | None) -> None:
        """Take one pair of losses, in any unit."""
        if train_loss is None or val_loss is None or not math.isfinite(train_loss) or not math.isfinite(val_loss):
            return
        if not self.recent_val:
            self.first_val = val_loss
        self.recent_gap = [*self.recent_gap, val_loss - train_loss][-2:]
        self.recent_val = [*self.recent_val, val_loss][-2:]
        self.gap_low = min(self.gap_low, self.recent_gap[-1])
        if val_loss < self.best_val:
            self.best_val, self.best_epoch = val_loss, epoch

    def evidence(self) -> dict[str, float]:
        """The numbers; growths are relative to the lowest validation loss. Empty until there were losses."""
        if not self.recent_val:
            return {}
        # A loss that goes to zero would make any growth look large: a hundredth of the first value bounds the unit.
        unit = max(abs(self.best_val), 0.01 * abs(self.first_val)) or 1.0
        return {
            "gap": self.recent_gap[-1],
            "gap_low": self.gap_low,
            "gap_growth": (min(self.recent_gap) - self.gap_low) / unit,
            "val_loss": self.recent_val[-1],
            "best_val_loss": self.best_val,
            "best_val_epoch": float(self.best_epoch),
            "val_growth": (min(self.recent_val) - self.best_val) / unit,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LossTrack:
        """Rebuild from its fields; missing entries start fresh, unknown ones are ignored."""
        return cls(**{k: v for k, v in state.items() if k in cls.__dataclass_fields__})


def check_strength(strength: object) -> Tensor:
    """Turn an array-like into a detached floating tensor ``(samples, 2, n)`` on the CPU, or say why it is none."""
    try:
        tensor = torch.as_tensor(strength).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument("strength", "a tensor of shape (samples, 2, n)", strength) from error
    if tensor.ndim != 3 or tensor.shape[1] != 2 or tensor.shape[2] < 1:
        raise bad_argument("strength", "a tensor of shape (samples, 2, n)", f"shape {tuple(tensor.shape)}")
    if bool((tensor < 0).any()):
        raise bad_argument("strength", "not negative", float(tensor[tensor < 0].min()))
    return tensor if tensor.is_floating_point() else tensor.double()
