"""A curve: its trough, its noise, which samples it was measured on, and when it says that it rises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.functional.interval import weighted_mean
from lightning_interactions.functional.strength import mean_order
from lightning_interactions.phases.curves import MAX_TOTALS, MAX_VALUES, STEPS, WINDOW, Curve, OrderTrack, Point, rise_z

SAMPLES = 16
SPREAD = torch.linspace(-0.5, 0.5, SAMPLES, dtype=torch.float64)


def add(curve: Curve, value: float, probes: int = 0, own: Tensor = SPREAD) -> None:
    """Add a measurement of this value, of samples that differ by ``own``."""
    curve.add(Point(curve.count, value, value + own, probes), frozen=False)


def curve_through(values: Sequence[float]) -> Curve:
    """Follow these values, on the same samples; they all move alike."""
    curve = Curve()
    for value in values:
        add(curve, value)
    return curve


def follow(
    contributions: Sequence[Tensor], probes: Callable[[int], int] = lambda _: 0, curve: Curve | None = None
) -> Curve:
    """Follow contributions ``(samples,)``, one tensor a record, on samples that this gives by the number of record."""
    curve = curve or Curve()
    for each in contributions:
        curve.add(Point(curve.count, float(each.mean()), each, probes(curve.count)), frozen=False)
    return curve


def course(records: int, wobble: float, own: float, seed: int = 0) -> list[Tensor]:
    """A straight descent. All samples wobble alike by ``wobble``; and each by itself, so that their mean stays."""
    generator = torch.Generator().manual_seed(seed)
    levels = 5 - 0.05 * torch.arange(records) + wobble * torch.randn(records, generator=generator)
    single = torch.randn(records, SAMPLES, generator=generator)
    single = (single - single.mean(1, keepdim=True)) * own * math.sqrt(SAMPLES)
    return list(levels.double().unsqueeze(1) + single.double())


def scattered(levels: Sequence[float], seed: int, samples: int = SAMPLES) -> list[Tensor]:
    """Each sample draws noise of size 0.4 anew in each record; the mean of these samples has a quarter of it."""
    generator = torch.Generator().manual_seed(seed)
    return [level + 0.4 * torch.randn(samples, generator=generator, dtype=torch.float64) for level in levels]


# ------------------------------------------------------------------------------------------------------ the trough


def place_and_height(curve: Curve) -> tuple[float, float]:
    assert curve.trough is not None
    return curve.trough.epoch, curve.trough.value


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30))
def test_the_trough_is_the_lowest_median_of_three_or_the_first_record(values: list[int]) -> None:
    lowest, epoch, highest, fall = values[0], 0, values[0], 0
    for end in range(2, len(values)):
        three = values[end - 2 : end + 1]
        highest = max(highest, median(three))
        if median(three) < lowest:
            lowest, epoch = median(three), end - 2 + three.index(min(three))
            fall = highest - lowest
    above = [value - lowest for value in values[-2:]]
    curve = curve_through(values)
    assert (*place_and_height(curve), curve.fall) == (epoch, lowest, fall)
    assert curve.rise == (min(above) if min(above) > 0 else max(above) if max(above) < 0 else 0)


def test_one_odd_record_makes_no_trough_and_leaves_none() -> None:
    falling = [5 - 0.1 * record for record in range(20)]
    odd = [*falling[:8], 1.0, *falling[9:]]
    assert place_and_height(curve_through(odd)) == place_and_height(curve_through(falling)) == (19, falling[18])
    assert curve_through([*falling, 4.9]).rise <= 0


def test_the_first_record_stands_for_itself() -> None:
    curve = curve_through([1.0, 1.4, 1.8])
    assert (*place_and_height(curve), curve.fall) == (0, 1.0, 0.0)
    assert curve.rise == pytest.approx(0.4)
    assert Curve().rise == 0.0


def test_a_frozen_trough_stays() -> None:
    curve = curve_through([3.0, 2.0, 2.0, 2.5])
    for value in (1.5, 1.0, 0.5):
        curve.add(Point(curve.count, value, value + SPREAD, 0), frozen=True)
    assert place_and_height(curve) == (1, 2.0)
    assert curve.rise == -1.0


def test_after_a_restart_only_what_follows_counts() -> None:
    risen = curve_through([1.0, 1.1, 0.9, 1.0, 1.1, 0.9] * 3 + [3.0, 3.1, 2.9, 3.0, 3.1])
    assert risen.evidence(0.1) > 20
    risen.restart()
    assert (*place_and_height(risen), risen.rise) == (risen.count - 2, 3.0, 0.0)
    assert risen.evidence(0.1) == 0.0
    add(risen, 3.0)
    assert risen.evidence(0.1) == curve_through([3.1, 3.0]).evidence(0.1) < 1
    for value in (4.0, 4.1, 3.9):
        add(risen, value)
    assert risen.evidence(0.1) == curve_through([3.1, 3.0, 4.0, 4.1, 3.9]).evidence(0.1) > 20


# ------------------------------------------------------------------------------------------------------- the noise


@pytest.mark.parametrize("wobble", [0.1, 0.4])
def test_noise_that_all_samples_share_is_seen_in_the_bends(wobble: float) -> None:
    """The samples keep their distances from record to record, so that the steps tell of no noise at all."""
    curve = follow(course(200, wobble, own=0.0))
    assert max(curve.steps) < 1e-9
    assert curve.noise == pytest.approx(wobble, rel=0.25)


@pytest.mark.parametrize("own", [0.1, 0.4])
def test_noise_of_each_sample_is_seen_in_the_steps(own: float) -> None:
    """The mean of these samples runs straight, so that the bends tell of no noise at all."""
    curve = follow(course(200, 0.0, own))
    assert np.abs(np.diff(curve.values, 2)).max() < 1e-5
    assert curve.noise == pytest.approx(own, rel=0.25)


def test_the_larger_of_the_two_counts() -> None:
    both = [follow(course(200, 0.4, 0.1)).noise, follow(course(200, 0.1, 0.4)).noise]
    assert both == pytest.approx([0.4, 0.4], rel=0.25)


def test_ordinary_noise_is_judged_alike_by_all() -> None:
    """Every sample draws its own noise, and a record has the standard error of their mean."""
    records = scattered([5.0] * 200, seed=1)
    for probes in (lambda _: 0, lambda record: record):  # new samples each time have the noise of the draw, here equal
        assert follow(records, probes).noise == pytest.approx(0.4 / math.sqrt(SAMPLES), rel=0.25)


def test_the_noise_is_known_from_the_second_record_on() -> None:
    records = course(3, 0.2, 0.1)
    assert Curve().noise == follow(records[:1]).noise == math.inf
    assert 0 < follow(records[:2]).noise < math.inf
    single = follow([x[:1] for x in records])
    assert single.noise == math.inf, "the noise of a single sample is unknown"
    assert single.evidence(single.noise) == 0.0


def test_one_odd_record_is_no_noise() -> None:
    """Medians: neither a jump of the curve nor a record in which the samples scatter makes the others uncertain."""
    quiet = course(30, 0.02, 0.02)
    odd = list(quiet)
    odd[20] = odd[20] + 3 * torch.linspace(0, 2, SAMPLES)
    assert follow(odd).noise < 2 * follow(quiet).noise


def noise_of_bends(values: Sequence[float]) -> float:
    """White noise whose second differences ``a - 2 b + c`` have this median size; their variance is 6 of its."""
    return 1.4826 * float(np.median(np.abs(np.diff(values, 2)))) / math.sqrt(6)


def lasting(records: int, correlation: float, seed: int) -> list[float]:
    """Noise of size 1 that is correlated from record to record."""
    fresh = np.random.default_rng(seed).normal(size=records)
    values = [fresh[0]]
    for each in fresh[1:]:
        values.append(correlation * values[-1] + math.sqrt(1 - correlation**2) * each)
    return values


def test_noise_that_lasts_is_larger_than_white_noise_of_the_same_size() -> None:
    """To single records it looks small, for it hardly changes from one to the next."""
    curves = {by: [curve_through(lasting(200, by, seed)) for seed in range(10)] for by in (0.0, 0.6)}
    noises = {by: np.mean([curve.noise for curve in found]) for by, found in curves.items()}
    assert noises[0.0] == pytest.approx(1.0, rel=0.15)
    assert noises[0.6] > 1.05 * noises[0.0]
    assert noises[0.6] > 1.8 * np.mean([noise_of_bends(curve.values) for curve in curves[0.6]])
    few = curve_through(lasting(31, 0.8, 0))
    add(few, lasting(32, 0.8, 0)[-1])
    assert few.noise > 1.5 * curve_through(lasting(31, 0.8, 0)).noise, "means of four are looked at from 32 records on"


def test_a_slow_turn_is_not_all_taken_for_noise() -> None:
    """Means of four records bend with it; that counts as three times the noise of single ones at most."""
    waves = [math.sin(record / 6) for record in range(200)]
    assert curve_through(waves).noise == pytest.approx(3 * noise_of_bends(waves))


# ------------------------------------------------------------------------------------------------- the rise of a curve


ODD = pytest.mark.parametrize("size", [-100.0, -2.0, -0.7, 0.7, 2.0, 100.0])


@ODD
@pytest.mark.parametrize("at", [0, 1, 20, 39])
def test_one_odd_record_is_no_rise(size: float, at: int) -> None:
    """Neither a high one, nor the records after a low one, in most cases: it counts as little as noise may."""
    reached = 0
    for seed in range(40):
        flat = scattered([5.0] * 40, seed)
        flat[at] = flat[at] + size
        curve = Curve()
        reached += max(follow([each], curve=curve).evidence(0.1) for each in flat) >= 20
    assert reached <= 16, "of 40; counted in full a low one would make it 40"


@ODD
def test_one_odd_record_hides_no_rise(size: float) -> None:
    risen = scattered([*[5.0] * 20, *[5.5] * 10], seed=0)
    risen[15] = risen[15] + size
    assert follow(risen).evidence(0.1) > 20


def test_the_noise_decides_what_is_a_rise() -> None:
    curve = follow(scattered([*[5.0] * 20, *[5.3] * 10], seed=0))
    found = [curve.evidence(noise) for noise in (0.05, 0.1, 0.2, 1.0, math.inf)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 20 > 1 > found[3] > found[4] == 0.0


def test_samples_that_are_all_alike_have_no_noise() -> None:
    level = torch.full((SAMPLES,), 3.0, dtype=torch.float64)
    curve = follow([level] * 20)
    assert curve.noise == 0.0
    assert 0 < curve.evidence(curve.noise) < 1
    assert follow([level + 0.1] * 3, curve=curve).evidence(0.0) == math.exp(27)


# ------------------------------------------------------------------------------------------------------ other samples


def on_others(level: float, rise: Sequence[float], seed: int = 0, at: int = 20) -> Curve:
    """Forty records, from ``at`` on other samples, whose level is another."""
    rises = [*rise, *[rise[-1]] * (40 - len(rise))]
    levels = [x + (level if record >= at else 0) for record, x in enumerate(rises)]
    return follow(scattered(levels, seed), lambda record: int(record >= at))


@pytest.mark.parametrize("level", [-3.0, 0.01, 3.0])
@pytest.mark.parametrize("at", [5, 20])
def test_the_level_of_other_samples_does_not_matter(level: float, at: int) -> None:
    falling = [5 - 0.1 * record for record in range(12)] + [3.8 + 0.05 * record for record in range(28)]
    same, moved = on_others(0.0, falling, at=at), on_others(level, falling, at=at)
    assert moved.noise == pytest.approx(same.noise)
    assert moved.rise == pytest.approx(same.rise)
    assert moved.fall == pytest.approx(same.fall)
    assert moved.evidence(moved.noise) == pytest.approx(same.evidence(same.noise))
    assert same.evidence(same.noise) > 20
    epoch, height = place_and_height(same)
    assert place_and_height(moved) == (epoch, pytest.approx(height + level))
    kept = follow(scattered(falling, 0))
    assert same.noise == pytest.approx(kept.noise, rel=0.25), "the noise is that of each set of samples by itself"


@pytest.mark.parametrize("at", [1, 2, 3, 20])
def test_other_samples_are_no_rise(at: int) -> None:
    """Their level is known to one record only: that a level before them is too low lasts for good, and is no rise."""
    reached = 0
    for seed in range(40):
        curve = Curve()
        for record, each in enumerate(scattered([5.0] * at + [5.6] * (60 - at), seed)):
            follow([each], lambda record: int(record >= at), curve)
            if record > at + 1 and curve.evidence(0.1) >= 20:
                reached += 1
                break
    assert reached <= 2


def test_a_rise_after_the_samples_changed_is_found() -> None:
    falling, rising = [5 - 0.1 * record for record in range(15)], [3.5 + 0.1 * record for record in range(25)]
    assert on_others(1.0, [*falling, *rising], at=10).evidence(0.1) > 20
    assert on_others(1.0, [*falling, *rising], at=30).evidence(0.1) > 20


def test_the_samples_may_change_several_times() -> None:
    falling = [5 - 0.1 * record for record in range(40)]
    curve = follow(scattered([x + record // 10 for record, x in enumerate(falling)], 0), lambda record: record // 10)
    assert curve.rise <= 0
    assert place_and_height(curve)[0] >= 37
    assert curve.evidence(curve.noise) < 1


def redrawn(rises: Sequence[float], seed: int) -> list[Tensor]:
    """Samples with levels of their own, others in each record, that would hardly change from record to record."""
    generator = torch.Generator().manual_seed(seed)
    return [
        x
        + 0.8 * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
        + 0.01 * torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
        for x in rises
    ]


def test_samples_drawn_anew_in_each_record_have_the_noise_of_the_draw() -> None:
    curve = follow(redrawn([5.0] * 200, 0), lambda record: record)
    assert curve.noise == pytest.approx(0.2, rel=0.25)
    assert curve.evidence(curve.noise) < 1
    risen = follow(redrawn([*[5.0] * 30, *[6.0] * 20], 0), lambda record: record)
    assert risen.evidence(risen.noise) > 20, "all records are compared"


def test_samples_that_begin_to_be_drawn_anew_bring_their_noise() -> None:
    """It is twenty times that of the same samples, and a jump by that much would be a rise."""
    reached = 0
    for seed in range(30):
        curve = follow([5 + SPREAD + x / 40 for x in scattered([0.0] * 20, seed, 1)])
        assert curve.noise < 0.02
        for each in redrawn([5.0] * 20, seed):
            follow([each], lambda record: record, curve)
            reached += curve.evidence(curve.noise) >= 20
    assert reached <= 2


def test_samples_that_cease_to_be_drawn_anew_leave_their_noise() -> None:
    """Levels of draws differ by much more than the same samples do from record to record."""
    reached = 0
    for seed in range(30):
        curve = follow(redrawn([5.0] * 4, seed), lambda record: record)
        last = curve.recent[-1].contributions
        for x in scattered([0.0] * 20, seed, 1):
            follow([last + x / 40], lambda _: 3, curve)
            reached += curve.evidence(curve.noise) >= 20
    assert reached <= 2
    for rise in (0.2, 0.4, 0.6):
        follow([last + rise], lambda _: 3, curve)
    assert curve.evidence(curve.noise) > 20


# ------------------------------------------------------------------------------------------------------------- bounds


def test_a_long_run_keeps_a_bounded_number_of_records() -> None:
    track, generator = OrderTrack(), torch.Generator().manual_seed(0)
    for record in range(10_000):  # other samples now and then
        assert track.add(record, torch.rand(3, 2, 4, generator=generator), paired=record % 100 > 0, frozen=False)
    for curve in (track.order, track.shared):
        assert curve.count == curve.searched == 10_000
        assert (len(curve.values), len(curve.steps), len(curve.recent)) == (MAX_VALUES, STEPS, WINDOW)
    assert len(track.totals) <= MAX_TOTALS
    assert math.isfinite(track.evidence()["noise"])


def test_it_comes_back_from_its_fields() -> None:
    track = OrderTrack()
    generator = torch.Generator().manual_seed(0)
    strengths = [torch.rand(6, 2, 4, generator=generator) for _ in range(40)]
    for record, strength in enumerate(strengths[:30]):
        track.add(record, strength, paired=record != 20, frozen=False)
    again = OrderTrack.from_state({**asdict(track), "of a later version": 1})
    for record, strength in enumerate(strengths[30:], 30):
        for each in (track, again):
            each.add(record, strength, paired=record != 35, frozen=False)
        assert again.evidence() == track.evidence()


# ---------------------------------------------------------------------------------------------------- per-sample parts


def test_contributions_average_to_the_mean_order_and_give_its_standard_error() -> None:
    generator = torch.Generator().manual_seed(0)
    population = torch.rand(400, 2, 10, generator=generator, dtype=torch.float64) ** 2
    _, parts = weighted_mean(population, torch.arange(1, 11))
    assert float(parts.mean()) == pytest.approx(float(mean_order(population.mean(0))))
    again = [float(mean_order(population[torch.randint(400, (400,), generator=generator)].mean(0))) for _ in range(400)]
    assert float(parts.std() / 20) == pytest.approx(float(torch.tensor(again).std()), rel=0.15)


@pytest.mark.parametrize("samples", [4, 12, 40])
def test_z_of_a_difference_matches_the_t_test(samples: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(samples)
    before = torch.randn(samples, generator=generator, dtype=torch.float64)
    after = before + 0.7 + 0.5 * torch.randn(samples, generator=generator, dtype=torch.float64)
    paired = stats.norm.isf(stats.ttest_rel(after, before, alternative="greater").pvalue)
    unpaired = stats.norm.isf(stats.ttest_ind(after, before, equal_var=False, alternative="greater").pvalue)
    assert rise_z(before, after, paired=True) == pytest.approx(paired, abs=0.03)
    assert rise_z(before, after, paired=False) == pytest.approx(unpaired, abs=0.03)
    assert rise_z(after, before, paired=True) == pytest.approx(-paired, abs=0.03)
    assert math.isnan(rise_z(before[:1], after[:1], paired=True))
