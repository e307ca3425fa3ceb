"""The noise of a curve: two estimates, each of which sees what the other is blind to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lightning_interactions.phases.curves import Curve, Point

SAMPLES = 16


def curve_of(contributions: Sequence[Tensor], *, paired: bool = True) -> Curve:
    """Follow contributions ``(samples,)``, one tensor a record."""
    curve = Curve()
    for epoch, each in enumerate(contributions):
        curve.add(Point(epoch, float(each.mean()), each, 0 if paired else epoch), frozen=False)
    return curve


def course(records: int, wobble: float, own: float, seed: int = 0) -> list[Tensor]:
    """A straight descent. All samples wobble alike by ``wobble``; and each by itself, so that their mean stays."""
    generator = torch.Generator().manual_seed(seed)
    levels = 5 - 0.05 * torch.arange(records) + wobble * torch.randn(records, generator=generator)
    single = torch.randn(records, SAMPLES, generator=generator)
    single = (single - single.mean(1, keepdim=True)) * own * math.sqrt(SAMPLES)
    return list(levels.double().unsqueeze(1) + single.double())


@pytest.mark.parametrize("wobble", [0.1, 0.4])
def test_noise_that_all_samples_share_is_seen_in_the_bends(wobble: float) -> None:
    """The samples keep their distances from record to record, so that the steps tell of no noise at all."""
    curve = curve_of(course(200, wobble, own=0.0))
    assert max(curve.steps) < 1e-9
    assert curve.noise == pytest.approx(wobble, rel=0.25)


@pytest.mark.parametrize("own", [0.1, 0.4])
def test_noise_of_each_sample_is_seen_in_the_steps(own: float) -> None:
    """The mean of these samples runs straight, so that the bends tell of no noise at all."""
    curve = curve_of(course(200, 0.0, own))
    assert max(curve.bends) < 1e-6
    assert curve.noise == pytest.approx(own, rel=0.25)


def test_the_larger_of_the_two_counts() -> None:
    both = [curve_of(course(200, 0.4, 0.1)).noise, curve_of(course(200, 0.1, 0.4)).noise]
    assert both == pytest.approx([0.4, 0.4], rel=0.25)


def test_ordinary_noise_is_judged_alike_by_both() -> None:
    """Every sample draws its own noise, and a record has the standard error of their mean."""
    generator = torch.Generator().manual_seed(1)
    records = [5 + 0.8 * torch.randn(SAMPLES, generator=generator, dtype=torch.float64) for _ in range(200)]
    for paired in (True, False):  # on new samples each time the noise is that of the draw, here the same
        assert curve_of(records, paired=paired).noise == pytest.approx(0.8 / math.sqrt(SAMPLES), rel=0.25)


def test_the_noise_is_known_from_the_second_record_on() -> None:
    records = course(3, 0.2, 0.1)
    assert Curve().noise == curve_of(records[:1]).noise == math.inf
    assert 0 < curve_of(records[:2]).noise < math.inf
    assert curve_of([x[:1] for x in records]).noise == math.inf, "the noise of a single sample is unknown"


def test_one_odd_record_is_no_noise() -> None:
    """Medians: neither a jump of the curve nor a record in which the samples scatter makes the others uncertain."""
    quiet = course(30, 0.02, 0.02)
    odd = list(quiet)
    odd[20] = odd[20] + 3 * torch.linspace(0, 2, SAMPLES)
    assert curve_of(odd).noise < 2 * curve_of(quiet).noise
