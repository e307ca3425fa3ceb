"""What the strengths say so far: the numbers :class:`~lightning_interactions.phases.PhaseDetector` reads of them.

No threshold and no decision lives here. Two curves turn at the boundary: the mean order, and the share of the
interactions between two or more players. A :class:`Curve` follows one of them, its turning point and its noise;
``OrderTrack`` holds both. Without interactions there is one curve in their place, the mean degree of the scores. They
keep a bounded number of records, whatever the length of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import fmean, median, median_high
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument
from lightning_interactions.functional.interval import ratio_of_sums, weighted_mean
from lightning_interactions.phases.change import MEMORY, rise_evidence

WINDOW = 3  # records in the running median
STEPS = 8  # latest records whose noise is averaged
MAX_VALUES = 256  # values of a curve kept to judge how much it wobbles, and whether it rises
BLOCK, FIRST_BLOCKS = 4, 8  # noise that lasts for several records shows in means of so many, once there are some
MOST_SLOW = 3.0  # a turn bends such means too: so many times the noise of single records at most
ODD = 3.0  # noises by which a record may stand out from both its neighbours and count in full
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
    """One measurement of a curve, of all samples together and of each (``contributions``, see :func:`ratio_of_sums`).

    Points with an equal number of ``probes`` were measured on the same samples.
    """

    epoch: float
    value: float
    contributions: Tensor
    probes: int

    def moved(self, by: float) -> Point:
        """The same on another level."""
        return replace(self, value=self.value + by, contributions=self.contributions + by)


@dataclass
class Curve:
    """A curve that falls in phase 1 and rises in phase 2: its trough, what came before and after, and its noise.

    The trough is the lowest running median of three records, at the lowest of the three: one odd measurement makes
    none. The level it is compared with is the lower of the last two records: one odd measurement does not leave it.
    The first record stands for itself: a network that starts nearly linear has its trough there.

    Other samples have another level. Where they change once, what came before is moved to the level after. That is
    known to one record only, so that a rise is looked for in the records since, with their noise. Where the samples
    change at every record, their differences are part of the noise.
    """

    recent: list[Point] = field(default_factory=list)
    trough: Point | None = None
    highest: float = -math.inf
    fall: float = 0.0
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    count: int = 0  # records so far
    searched: int = 0  # of them since the search for the turning point began
    alike: int = 0  # of them in a row on the present samples
    comparable: int = 0  # of them in a row with no difference between samples but what is in the noise

    def add(self, point: Point, *, frozen: bool) -> None:
        """Take one measurement; ``frozen`` keeps the trough."""
        if self.recent:
            self._compare(self.recent[-1], point)
        self.alike += 1
        self.comparable += 1
        self.count += 1
        self.searched += 1
        self.values = [*self.values, point.value][-MAX_VALUES:]
        self.recent = [*self.recent, point][-WINDOW:]
        if self.trough is None:
            self._bottom_at(point)
        if len(self.recent) < WINDOW:
            return
        middle = sorted(self.recent, key=lambda p: p.value)[1]
        self.highest = max(self.highest, middle.value)
        if not frozen and self.trough is not None and middle.value < self.trough.value:
            self._bottom_at(middle, min(self.recent, key=lambda p: p.value).epoch)

    def _compare(self, last: Point, point: Point) -> None:
        """Note how differently the samples moved, or that they are others."""
        if last.probes != point.probes:
            joined, self.alike = self.alike > 1, 0
            if joined:
                self._move(point.value - last.value)
                self.comparable, self.steps = 0, []
                return
        elif self.alike == 1:
            self.comparable = 1  # the records before the last were on other samples
        step = _step_noise(last, point)
        self.steps = self.steps if math.isnan(step) else [*self.steps, step][-STEPS:]

    def _move(self, by: float) -> None:
        self.recent = [point.moved(by) for point in self.recent]
        self.trough = self.trough and self.trough.moved(by)
        self.values = [value + by for value in self.values]
        self.highest += by

    def _bottom_at(self, point: Point, epoch: float | None = None) -> None:
        self.trough = replace(point, epoch=point.epoch if epoch is None else epoch)
        self.highest = max(self.highest, point.value)
        self.fall = self.highest - point.value

    def restart(self) -> None:
        """Look for the turning point from the present on."""
        self._bottom_at(sorted(self.recent, key=lambda p: p.value)[len(self.recent) // 2])
        self.searched = 1

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

        The largest of three estimates. How differently the samples moved from one record to the next: known at the
        second record, and blind to what moves all samples alike. How the curve bends (its second differences): sees
        that too, but takes a turn for noise while records are few. How the means of four records bend: sees noise that
        lasts, which the others take for the course.
        """
        if not self.steps:
            return math.inf
        single = max(median_high(self.steps), _bend(self.values))
        blocks = len(self.values) // BLOCK
        if blocks < FIRST_BLOCKS:
            return single
        kept = self.values[-blocks * BLOCK :]
        means = [fmean(kept[i : i + BLOCK]) for i in range(0, len(kept), BLOCK)]
        return max(single, min(math.sqrt(BLOCK) * _bend(means), MOST_SLOW * single))

    def evidence(self, noise: float) -> float:
        """How strongly the records since the search began say that the curve rises: an e-value."""
        known = self.values[-min(self.searched, self.comparable, MEMORY) :]
        return rise_evidence(_without_odd(known, ODD * noise), noise, self.searched)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Curve:
        """Rebuild from its fields; missing entries start fresh, unknown ones are ignored."""
        known = {k: v for k, v in state.items() if k in cls.__dataclass_fields__}
        known["recent"] = [Point(**point) for point in known.get("recent", [])]
        known["trough"] = Point(**known["trough"]) if known.get("trough") else None
        return cls(**known)


def _bend(values: list[float]) -> float:
    """Noise of values that would bend a straight line as much as they do: from the median second difference."""
    bends = [abs(b - (a + c) / 2) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return 1.4826 * median(bends) / math.sqrt(1.5) if bends else 0.0


def _without_odd(values: list[float], most: float) -> list[float]:
    """Limit by how much a value stands out from both its neighbours; at the ends so that no rise becomes larger."""
    before, after = [math.inf, *values[:-1]], [*values[1:], -math.inf]
    around = zip(before, values, after, strict=True)
    return [min(max(value, min(a, b) - most), max(a, b) + most) for a, value, b in around]


def _step_noise(before: Point, after: Point) -> float:
    """Standard error of one record, from how differently the samples moved since the last one."""
    if before.probes == after.probes:
        return math.sqrt(_mean_variance(after.contributions - before.contributions) / 2)
    return math.sqrt((_mean_variance(before.contributions) + _mean_variance(after.contributions)) / 2)


@dataclass
class OrderTrack:
    """Both curves of the strength; or that of the mean degree, with the standard deviation of the scores as strength.

    Both are in units of the score: where all scores are multiplied by a number, so are they.
    """

    order: Curve = field(default_factory=Curve)  # the mean order, 1 to n, or the mean degree
    shared: Curve = field(default_factory=Curve)  # share of the interactions between two or more players, 0 to 1
    # Epochs, and log2 of the mean total strength of a sample.
    totals: list[tuple[float, float]] = field(default_factory=list)
    num_players: int = 0
    probes: int = 0
    samples: int = 0

    def add(self, epoch: float, strength: Tensor, *, paired: bool, frozen: bool) -> bool:
        """Take one measurement ``(samples, 2, n)``; ``frozen`` keeps the trough. False if it holds no strength."""
        self.num_players = strength.shape[-1]
        orders = torch.arange(1, self.num_players + 1)
        mean = float(strength.double().sum((1, 2)).nan_to_num(_NAN, _NAN, _NAN).nanmean())
        parts = [weighted_mean(strength, w) for w in (orders, orders > 1)]
        return self._add(epoch, parts, len(strength), mean, paired=paired, frozen=frozen)

    def add_degree(self, epoch: float, influence: Tensor, variance: Tensor, *, paired: bool, frozen: bool) -> bool:
        """Take influence and variance ``(samples,)`` of one measurement; False if nothing varies."""
        known = influence.isfinite() & variance.isfinite()
        deviation = math.sqrt(float(variance[known].double().mean())) if bool(known.any()) else 0.0
        parts = [ratio_of_sums(influence, variance)]
        return self._add(epoch, parts, len(variance), deviation, paired=paired, frozen=frozen)

    def _add(
        self, epoch: float, parts: list[tuple[float, Tensor]], samples: int, total: float, *, paired: bool, frozen: bool
    ) -> bool:
        # Noted before anything else: a failed measurement on new samples must not leave the next one paired to the old.
        self.probes += not (paired and self.samples == samples)
        self.samples = samples
        if math.isnan(parts[0][0]):
            return False
        for curve, part in zip((self.order, self.shared), parts, strict=False):
            curve.add(Point(epoch, *part, self.probes), frozen=frozen)
        self.totals = [*self.totals, (epoch, math.log2(total))]
        if len(self.totals) > MAX_TOTALS:
            self.totals = self.totals[1::2]
        return True

    @property
    def curves(self) -> list[Curve]:
        """Those that are followed."""
        return [curve for curve in (self.order, self.shared) if curve.recent]

    def restart(self) -> None:
        """Look for the turning point from the present on."""
        for curve in self.curves:
            curve.restart()

    def evidence(self) -> dict[str, float]:
        """The numbers; orders from 1 to n, shares from 0 to 1."""
        order, shared = self.order, self.shared
        assert order.trough is not None  # something was measured
        now, noises = order.recent[-1], [curve.noise for curve in self.curves]
        # Octaves by which the total strength grew per octave of epochs, over the last octave of epochs; half an octave
        # at least, for after few epochs, or many measurements in one, a small step is no steep growth.
        epoch, total = self.totals[-1]
        earlier, then = next(record for record in self.totals if record[0] >= (epoch + 1) / 2 - 1)
        octaves = math.log2((epoch + 1) / (earlier + 1)) if earlier > -1 else 0.0  # nothing was trained by -1
        growth = (total - then) / max(octaves, 0.5)
        first = {}
        if shared.recent:
            first = {
                "first_order_share": 1 - shared.recent[-1].value,
                "first_order_fall": shared.rise,
                "first_order_noise": noises[1],
            }
        return {
            self.name: now.value,
            "level": order.trough.value + order.rise,
            "trough": order.trough.value,
            "trough_epoch": float(order.trough.epoch),
            "rise": order.rise,
            "fall": order.fall,
            "noise": noises[0],
            **first,
            "e_value": fmean(curve.evidence(noise) for curve, noise in zip(self.curves, noises, strict=True)),
            "z": rise_z(order.trough.contributions, now.contributions, paired=order.trough.probes == now.probes),
            "strength_growth": growth,
        }

    @property
    def name(self) -> str:
        """What the first curve is called in the evidence."""
        return "mean_order" if self.num_players else "mean_degree"

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> OrderTrack:
        """Rebuild from its fields; missing entries start fresh, unknown ones are ignored."""
        known = {k: v for k, v in state.items() if k in cls.__dataclass_fields__}
        known |= {name: Curve.from_state(known.get(name, {})) for name in ("order", "shared")}
        return cls(**known)


def check_strength(strength: object) -> Tensor:
    """Turn an array-like into a detached floating tensor ``(samples, 2, n)`` on the CPU, or say why it is none."""
    tensor = _not_negative("strength", strength, "(samples, 2, n)")
    if tensor.ndim != 3 or tensor.shape[1] != 2 or tensor.shape[2] < 1:
        raise bad_argument("strength", "a tensor of shape (samples, 2, n)", f"shape {tuple(tensor.shape)}")
    return tensor


def check_degree(influence: object, variance: object) -> tuple[Tensor, Tensor]:
    """Turn two array-likes into such tensors ``(samples,)``."""
    top, bottom = (
        _not_negative(name, x, "(samples,)") for name, x in (("influence", influence), ("variance", variance))
    )
    for name, tensor in (("influence", top), ("variance", bottom)):
        if tensor.ndim != 1 or len(tensor) != len(bottom):
            expected = "a tensor of shape (samples,), of the same samples as `variance`"
            raise bad_argument(name, expected, f"shape {tuple(tensor.shape)}")
    return top, bottom


def _not_negative(name: str, value: object, shape: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument(name, f"a tensor of shape {shape}", value) from error
    if bool((tensor < 0).any()):
        raise bad_argument(name, "not negative", float(tensor[tensor < 0].min()))
    return tensor if tensor.is_floating_point() else tensor.double()
