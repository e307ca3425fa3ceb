"""The detector without interactions: the mean degree of the scores in the place of the mean order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.phases import PhaseDetector, PhaseEvent

SAMPLES = 8
SAME = "level", "trough", "trough_epoch", "rise", "fall", "noise", "z"


def course(seed: int, records: int) -> list[Tensor]:
    """Strengths ``(samples, 2, 3)`` at random, the orders in no hurry."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(records, SAMPLES, 2, 3, generator=generator, dtype=torch.float64)
    return list((0.3 * steps.cumsum(0)).exp())


def v_shape(records: int = 12, turn: int = 5) -> Iterator[tuple[list[float], list[float]]]:
    for record in range(records):
        yield [1.5 + 0.1 * abs(record - turn) + 0.001 * i for i in range(SAMPLES)], [1.0] * SAMPLES


def told(detector: PhaseDetector, losses: Any = lambda record: (None, None)) -> list[PhaseEvent]:
    return [
        event
        for record, parts in enumerate(v_shape())
        for event in detector.update_degree(record, *parts, *losses(record))
    ]


@given(st.integers(0, 1000), st.integers(3, 30))
def test_it_is_the_same_curve_as_that_of_a_mean_order(seed: int, records: int) -> None:
    """The mean order is such a ratio too, of ``sum_k k J(k)`` to ``sum_k J(k)``."""
    one, other = PhaseDetector(), PhaseDetector()
    for record, strength in enumerate(course(seed, records)):
        by_order = strength.sum(1)
        one.update(record, strength, None, None)
        other.update_degree(record, by_order @ torch.arange(1.0, 4).double(), by_order.sum(1), None, None)
        for key in SAME:
            assert other.evidence[key] == pytest.approx(one.evidence[key], rel=1e-6, abs=1e-9), key
        assert other.evidence["mean_degree"] == pytest.approx(one.evidence["mean_order"], rel=1e-9)
    assert not {"mean_order", "first_order_share", "first_order_fall", "first_order_noise"} & set(other.evidence)


def test_it_finds_the_turn_and_says_that_it_is_sampled() -> None:
    detector = PhaseDetector()
    events = told(detector)
    assert [(event.kind, event.epoch) for event in events] == [("boundary", 5)]
    assert "sampled mean degree rose from 1.60 at epoch 5 to 1.70, z = " in events[0].message
    assert "mean order" not in events[0].message
    assert detector.phase == 2
    withdrawn = [
        event
        for record in range(12, 30)
        for event in detector.update_degree(record, [1.0 + 0.001 * i for i in range(SAMPLES)], [1.0] * 8, None, None)
    ]
    assert [(event.kind, event.retracts) for event in withdrawn] == [("retracted", "boundary")]
    assert "(sampled mean degree fell from 1.60 there to 1.00" in withdrawn[0].message


def test_the_losses_count_as_ever() -> None:
    never = told(PhaseDetector(), lambda record: (1.0, 1.0))
    assert not [event for event in never if event.kind == "boundary"], "the gap has not widened"
    events = told(PhaseDetector(), lambda record: (1 / (record + 1), 1 + 0.2 * max(record - 5, 0)))
    assert {event.kind for event in events} >= {"boundary", "overfitting"}


def test_samples_are_compared_in_pairs() -> None:
    """Samples that differ a lot but move alike show a turn; drawn anew each time they do not."""
    spread = torch.linspace(-1, 1, SAMPLES).double()
    found = {}
    for paired in (True, False):
        detector = PhaseDetector()
        for record in range(14):
            influence = 2.0 + 0.02 * abs(record - 6) + 0.5 * spread
            detector.update_degree(record, influence, torch.ones(SAMPLES), None, None, paired=paired)
        found[paired] = detector.boundary_epoch
    assert found == {True: 6, False: None}


def test_the_growth_of_the_scores_stands_for_that_of_the_strength() -> None:
    """Scores multiplied by c: the strength grows by c, influence and variance by its square."""
    one, other = PhaseDetector(), PhaseDetector()
    strength = course(0, 1)[0]
    by_order = strength.sum(1)
    for record in range(9):
        c = 1.4**record
        one.update(record, c * strength, None, None)
        influence = by_order @ torch.arange(1.0, 4).double()
        other.update_degree(record, c**2 * influence, c**2 * by_order.sum(1), None, None)
        assert other.evidence["strength_growth"] == pytest.approx(one.evidence["strength_growth"])
        assert other.overfitting_risk == pytest.approx(one.overfitting_risk)


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_restored_detector_goes_on(stop: int) -> None:
    whole, first, second = PhaseDetector(), PhaseDetector(), PhaseDetector()
    events: list[PhaseEvent] = []
    for record, parts in enumerate(v_shape()):
        if record == stop:
            second.load_state_dict(first.state_dict())
        expected = whole.update_degree(record, *parts, None, None)
        events += expected
        assert (first if record < stop else second).update_degree(record, *parts, None, None) == expected
    assert events
    assert second.evidence == whole.evidence


def test_a_bad_sample_is_left_out_and_nothing_at_all_decides_nothing() -> None:
    one, other = PhaseDetector(), PhaseDetector()
    for record, (influence, variance) in enumerate(v_shape()):
        one.update_degree(record, influence[1:], variance[1:], None, None)
        other.update_degree(record, [math.nan, *influence[1:]], [math.inf, *variance[1:]], None, None)
        assert other.evidence == pytest.approx(one.evidence)
    empty = PhaseDetector()
    assert empty.update_degree(0, [math.nan], [math.nan], None, None) == []
    assert empty.update_degree(1, [0.0, 0.0], [0.0, 0.0], None, None) == []
    assert math.isnan(empty.evidence["mean_degree"])


@pytest.mark.parametrize(
    ("influence", "variance", "name"),
    [
        ([1.0, 2.0], [[1.0, 2.0]], "variance"),
        ([[1.0], [2.0]], [1.0, 2.0], "influence"),
        ([1.0], [1.0, 2.0], "influence"),
        ([-1.0, 2.0], [1.0, 2.0], "influence"),
        ([1.0, 2.0], [1.0, -2.0], "variance"),
        ("much", [1.0], "influence"),
        ([1.0], None, "variance"),
    ],
)
def test_wrong_arguments_are_named_and_change_nothing(influence: Any, variance: Any, name: str) -> None:
    detector = PhaseDetector()
    before = str(detector.state_dict())
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        detector.update_degree(0, influence, variance, None, None)
    assert str(detector.state_dict()) == before


def test_mean_orders_and_mean_degrees_are_not_mixed() -> None:
    strength = course(0, 1)[0]
    orders, degrees = PhaseDetector(), PhaseDetector()
    orders.update(0, strength, None, None)
    degrees.update_degree(0, [1.0, 2.0], [1.0, 1.0], None, None)
    with pytest.raises(ArgumentError, match="`update` to be called as before, not `update_degree`"):
        orders.update_degree(1, [1.0, 2.0], [1.0, 1.0], None, None)
    with pytest.raises(ArgumentError, match="`update_degree` to be called as before, not `update`"):
        degrees.update(1, strength, None, None)


@pytest.mark.thorough
def test_noise_alone_makes_few_boundaries() -> None:
    """Degrees whose noise has a part of each sample and one of all, falling at first, then flat: 100 runs of 100."""
    found = 0
    for seed in range(100):
        generator, detector = torch.Generator().manual_seed(seed), PhaseDetector()
        size = torch.randn(16, generator=generator).exp()
        for record in range(100):
            own = 0.1 * torch.randn(16, generator=generator) + 0.03 * torch.randn(1, generator=generator)
            degree = (2 + 0.5 * math.exp(-record / 4) + own).clamp(min=0)
            if any(e.kind == "boundary" for e in detector.update_degree(record, size * degree, size, None, None)):
                found += 1
                break
    assert found <= 5 + 2 * math.sqrt(5)
