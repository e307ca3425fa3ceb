"""The rule of `PhaseDetector`: what is told of a stream of measurements, when, and after a restart."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import ArgumentError, StateError
from lightning_interactions.phases import PhaseDetector, PhaseEvent, losses_show_overfitting, overfitting_risk
from lightning_interactions.phases.change import rise_evidence
from lightning_interactions.phases.risk import CAPS, WITH_LOSSES, WITHOUT_LOSSES, RiskModel

N = 10

Record = tuple[float, Tensor, "float | None", "float | None"]


def strength_of(order: float, *, samples: int = 12, noise: float = 0.05, seed: int = 0) -> Tensor:
    """Strength ``(samples, 2, N)`` whose mean order is about ``order``; samples differ, alike in every epoch."""
    fixed, fresh = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    own = order + 0.4 * torch.randn(samples, generator=fixed) + noise * torch.randn(samples, generator=fresh)
    k = torch.arange(1, N + 1)
    shape = torch.exp(-0.5 * (k - own[:, None]) ** 2)
    shape = shape / shape.sum(-1, keepdim=True) * (1 + torch.rand(samples, 1, generator=fixed))
    return torch.stack([0.6 * shape, 0.4 * shape], 1)


def curve(points: Sequence[tuple[int, float]]) -> list[float]:
    """Straight lines through ``(epoch, value)`` points."""
    out = []
    for (a, x), (b, y) in pairwise(points):
        out += [x + (y - x) * i / (b - a) for i in range(b - a)]
    return [*out, points[-1][1]]


def records(
    orders: Sequence[float],
    gaps: Sequence[float] | None = None,
    vals: Sequence[float] | None = None,
    epochs: Sequence[float] | None = None,
    **kwargs: Any,
) -> list[Record]:
    epochs = range(len(orders)) if epochs is None else epochs
    out: list[Record] = []
    for i, (epoch, order) in enumerate(zip(epochs, orders, strict=True)):
        val = None if gaps is None else 1.0 if vals is None else vals[i]
        train = None if gaps is None or val is None else val - gaps[i]
        out.append((epoch, strength_of(order, seed=i, **kwargs), train, val))
    return out


def replay(run: Iterable[Record], detector: PhaseDetector | None = None) -> list[PhaseEvent]:
    detector = detector or PhaseDetector()
    return [event for record in run for event in detector.update(*record)]


def kinds(events: Iterable[PhaseEvent]) -> list[str]:
    return [event.kind for event in events]


def alerts(events: Iterable[PhaseEvent]) -> list[str]:
    """What people are told, in short: ``"-boundary"`` is its retraction."""
    return [f"-{event.retracts}" if event.retracts else event.kind for event in events if event.is_alert]


V = curve([(0, 5.0), (12, 3.0), (30, 5.0)])
GAP = curve([(0, 0.0), (12, 0.0), (30, 0.77)])
VAL = curve([(0, 2.0), (18, 1.0), (30, 1.5)])
FULL = records(V, GAP, VAL)

# A boundary that is suspected, told and withdrawn; an alarm that is; and both again.
ORDERS = curve([(0, 5.0), (10, 4.0), (18, 4.6), (30, 2.5), (50, 3.4)])
VALS = curve([(0, 2.0), (14, 1.0), (22, 1.3), (32, 0.8), (50, 1.2)])
EVENTFUL = records(ORDERS, [0.02 * i for i in range(51)], VALS, noise=0.15)
ALL_OF_IT = ["boundary", "overfitting", "-boundary", "-overfitting", "overfitting", "boundary"]


# ---------------------------------------------------------------------------------------------------- boundary


@pytest.mark.parametrize(
    ("points", "turn"),
    [
        ([(0, 5.0), (12, 3.0), (30, 5.0)], 12),
        ([(0, 6.0), (4, 2.0), (20, 4.0)], 4),
        ([(0, 3.0), (40, 2.0), (80, 3.0)], 40),
        ([(0, 5.0), (1, 2.0), (20, 4.0)], 1),
        ([(0, 5.0), (5, 3.0), (15, 3.0), (30, 5.0)], 10),
    ],
    ids=["even", "steep", "slow", "at once", "flat bottom"],
)
@pytest.mark.parametrize("with_losses", [True, False])
def test_the_turning_point_of_a_v_is_found(points: list[tuple[int, float]], turn: int, with_losses: bool) -> None:
    orders = curve(points)
    gaps = [max(0.0, 0.02 * (i - turn)) for i in range(len(orders))] if with_losses else None
    detector = PhaseDetector()
    events = replay(records(orders, gaps), detector)
    assert alerts(events) == ["boundary"]
    event = events[-1]
    tolerance = 6 if points[1][1] == points[2][1] else 2
    assert abs(event.epoch - turn) <= tolerance
    assert event.epoch == detector.boundary_epoch
    assert detector.phase == 2
    assert turn < event.detected_epoch <= turn + 8
    assert event.evidence["e_value"] >= 20
    assert f"{event.evidence['level']:.2f}" in event.message
    assert f"epoch {event.epoch}" in event.message
    assert ("loss gap began to widen" in event.message) == with_losses


@pytest.mark.parametrize("slopes", [(0.1, 0.1), (0.2, 0.05), (0.05, 0.2)])
def test_the_tip_of_a_clean_v_is_found_to_the_epoch(slopes: tuple[float, float]) -> None:
    orders = curve([(0, 2.0 + 10 * slopes[0]), (10, 2.0), (30, 2.0 + 20 * slopes[1])])
    shares = torch.stack([torch.tensor([4 - m, m - 1]) for m in (1 + (o - 1) / 2 for o in orders)]) / 3
    events = replay((e, share.clamp(min=0).repeat(6, 2, 1), None, None) for e, share in enumerate(shares))
    assert [(event.kind, event.epoch) for event in events if event.is_alert] == [("boundary", 10)]


def test_an_empty_first_phase_has_its_boundary_at_the_first_measurement() -> None:
    low = torch.zeros(12, 2, N)
    low[:, :, 0] = 1 + torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    run: list[Record] = []
    for epoch in range(3, 20):
        high = low.roll(4, -1) * 0.05 * (epoch - 3)
        run.append((epoch, low + high, None, None))
    events = replay(run)
    assert alerts(events) == ["boundary"]
    assert events[-1].epoch == 3
    assert "no fall before it" in events[-1].message


def test_few_records_are_enough_for_a_clear_rise() -> None:

    def measured(*shares: float) -> list[tuple[str, int, int]]:
        own = 1 + 0.02 * torch.randn(len(shares), 12, generator=torch.Generator().manual_seed(0))
        high = torch.tensor(shares)[:, None] * own
        strengths = torch.stack([1 - high, high], -1)[:, :, None].repeat(1, 1, 2, 1)
        return summary(replay((epoch, strength, None, None) for epoch, strength in enumerate(strengths)))

    assert measured() == measured(0.2) == measured(0.2, 0.3) == []
    assert measured(0.2, 0.3, 0.4, 0.5)[-1][:2] == ("boundary", 0)
    assert measured(0.4, 0.2, 0.3, 0.4, 0.5)[-1][:2] == ("boundary", 1)
    assert measured(0.5, 0.4, 0.3, 0.2) == measured(0.2, 0.21, 0.2, 0.205) == []


@pytest.mark.parametrize(
    "orders",
    [curve([(0, 6.0), (60, 2.0)]), [1 + 4 * 0.9**i for i in range(80)], [3.0] * 60],
    ids=["line", "exponential", "flat"],
)
def test_a_falling_or_flat_mean_order_has_no_boundary(orders: list[float]) -> None:
    detector = PhaseDetector()
    assert replay(records(orders), detector) == []
    assert (detector.phase, detector.boundary_epoch, detector.suspected) == (1, None, False)


@pytest.mark.parametrize("size", [-1.5, -0.3, 0.3, 1.5])
@pytest.mark.parametrize("orders", [curve([(0, 5.0), (40, 3.0)]), [3.0] * 41], ids=["falling", "flat"])
def test_an_odd_record_makes_no_boundary(orders: list[float], size: float) -> None:
    wobbling = list(orders)
    for at in (10, 25):
        wobbling[at] += size
    assert alerts(replay(records(wobbling))) == []


def test_the_gap_must_begin_to_widen_when_losses_are_given() -> None:
    closed = [0.1] * len(V)
    assert alerts(replay(records(V, closed))) == []
    assert alerts(replay(records(V, None))) == ["boundary"]
    late = [0.1 if i < 28 else 0.3 for i in range(len(V))]
    event = replay(records(V, late))[-1]
    assert event.detected_epoch == 29, "two records"
    assert abs(event.epoch - 12) <= 2
    little = [0.1 if i < 28 else 0.109 for i in range(len(V))]
    assert alerts(replay(records(V, little))) == [], "less than 1 % of the validation loss"


@pytest.mark.parametrize("course", ["falling", "flat"])
def test_losses_alone_make_no_boundary(course: str) -> None:
    """A linear model's mean order never moves. That it overfits is told all the same, in phase 1."""
    orders = curve([(0, 5.0), (30, 3.0)]) if course == "falling" else [5.0] * len(V)
    detector = PhaseDetector()
    (overfitting,) = replay(records(orders, GAP, VAL, noise=0.0), detector)
    assert overfitting.kind == "overfitting"
    assert (detector.phase, detector.boundary_epoch) == (1, None)
    assert detector.overfitting_epoch == overfitting.epoch == overfitting.detected_epoch


@pytest.mark.parametrize(("risers", "told"), [(1, False), (8, True)])
def test_the_samples_must_agree(risers: int, told: bool) -> None:
    """One of eight that turns as far as all of them together is its own affair, however often it is seen."""
    fixed = torch.Generator().manual_seed(0)
    own = 0.3 + 0.1 * torch.rand(8, generator=fixed)
    rises = (torch.arange(8) < risers) * (0.6 if risers == 1 else 0.1)
    records = []
    for i in range(60):
        high = own + 0.02 * max(10 - i, 0) + rises * min(max((i - 20) / 20, 0), 1)
        high = high + 0.002 * torch.randn(8, generator=fixed)
        records.append((i, torch.stack([1 - high, high], -1)[:, None].repeat(1, 2, 1), None, None))
    assert (alerts(replay(records)) == ["boundary"]) == told


@pytest.mark.parametrize(("rise", "told"), [(0.025, False), (0.04, True)])
def test_a_rise_that_nobody_can_see_is_none(rise: float, told: bool) -> None:
    """However sure it is: these samples have no noise at all."""
    high = [0.5 + 0.02 * max(10 - i, 0) + (rise if i > 12 else 0.0) for i in range(30)]
    events = replay((i, torch.tensor([1 - h, h]).repeat(4, 2, 1), None, None) for i, h in enumerate(high))
    assert (alerts(events) == ["boundary"]) == told


@pytest.mark.parametrize(("train", "val"), [(None, 1.0), (1.0, None), (math.nan, 1.0), (1.0, math.inf)])
def test_one_loss_alone_or_one_that_is_not_finite_counts_as_none(train: float | None, val: float | None) -> None:
    run = [(epoch, strength, train, val) for epoch, strength, _, _ in FULL]
    assert [event.to_dict() for event in replay(run)] == [event.to_dict() for event in replay(records(V))]


# ------------------------------------------------------------------------------------------------------- suspicion


SLOW = curve([(0, 3.0), (40, 2.0), (120, 2.4)])


def test_a_boundary_is_suspected_once_and_before_it_is_told() -> None:
    detector, events, suspected = PhaseDetector(), list[PhaseEvent](), []
    for record in records(SLOW, noise=0.3):
        events += detector.update(*record)
        suspected.append(detector.suspected)
        certain = detector.evidence["e_value"] >= 1 and detector.evidence["rise"] > 0
        assert detector.suspected == (certain and detector.phase == 1)
    assert kinds(events) == ["suspected", "boundary"]
    hint, boundary = events
    assert (hint.is_alert, hint.epoch) == (False, boundary.epoch)
    assert 40 < hint.detected_epoch < boundary.detected_epoch
    assert 1 <= hint.evidence["e_value"] < 20 <= boundary.evidence["e_value"]
    assert suspected.index(True) == hint.detected_epoch
    assert not any(suspected[boundary.detected_epoch :])
    assert "may have ended" in hint.message
    assert "Nothing to do yet" in hint.message


def test_a_boundary_that_is_clear_at_once_was_never_suspected() -> None:
    assert kinds(replay(records(V))) == ["boundary"]


def test_a_doubtful_boundary_is_suspected_again_after_one_that_was_withdrawn() -> None:
    events = replay(EVENTFUL)
    assert kinds(events).count("suspected") == 2
    assert [e.epoch for e in events if e.kind == "suspected"] == [e.epoch for e in events if e.kind == "boundary"]


def test_a_suspicion_without_a_widening_gap_stays_one() -> None:
    detector = PhaseDetector()
    assert kinds(replay(records(V, [0.1] * len(V)), detector)) == ["suspected"]
    assert detector.suspected
    assert detector.evidence["e_value"] >= 20


# ------------------------------------------------------------------------------------------------ odd measurements


def test_rows_skipped_now_and_then_change_little() -> None:
    generator = torch.Generator().manual_seed(1)
    run = []
    for epoch, strength, train, val in FULL:
        holes = strength.clone()
        holes[torch.rand(len(holes), generator=generator) < 0.1] = math.nan
        run.append((epoch, holes, train, val))
    events = replay(run)
    assert alerts(events) == ["boundary", "overfitting"]
    assert abs(events[0].epoch - 12) <= 2


@pytest.mark.parametrize("empty", [math.nan, 0.0], ids=["nan", "no strength"])
def test_a_measurement_without_strength_decides_nothing(empty: float) -> None:
    detector = PhaseDetector()
    assert detector.update(0, torch.full((4, 2, N), empty), 1.0, 1.0) == []
    assert math.isnan(detector.evidence["mean_order"])
    assert detector.evidence["val_loss"] == 1.0
    assert not detector.suspected
    every_second: list[Record] = []
    for epoch, strength, train, val in FULL:
        every_second += [(2 * epoch, strength, train, val), (2 * epoch + 1, strength * empty, train, val)]
    boundary, _ = (event for event in replay(every_second) if event.is_alert)
    assert abs(boundary.epoch - 24) <= 4


def test_losses_are_remembered_where_nothing_was_measured() -> None:
    """A new lowest loss there withdraws the alarm at the next measurement."""
    nothing = torch.full((12, 2, N), math.nan)
    detector = PhaseDetector()
    replay(FULL, detector)
    assert detector.overfitting_epoch is not None
    assert detector.update(31, nothing, 0.0, 0.9) == []
    (event,) = detector.update(32, FULL[-1][1], 0.3, 1.3)
    assert alerts([event]) == ["-overfitting"]
    assert "loss 0.9, below the 1 it had" in event.message
    assert "checkpoint of epoch 31" in event.message


def test_losses_may_be_missing_now_and_then() -> None:
    run = [(epoch, s, *((None, None) if i % 3 else (train, val))) for i, (epoch, s, train, val) in enumerate(FULL)]
    events = replay(run)
    assert alerts(events) == ["boundary", "overfitting"]
    assert abs(events[0].epoch - 12) <= 2
    assert events[1].evidence["best_val_epoch"] == 18


@pytest.mark.parametrize("players", [1, 2])
def test_few_players_are_enough(players: int) -> None:
    detector = PhaseDetector()
    events = replay(((e, s[..., :players] + 0.1, None, None) for e, s, _, _ in FULL), detector)
    assert players > 1 or events == []
    assert 1 <= detector.evidence["mean_order"] <= players


def test_one_sample_has_no_noise_to_compare_with() -> None:
    detector = PhaseDetector()
    assert alerts(replay(((e, s[:1], train, val) for e, s, train, val in FULL), detector)) == ["overfitting"]
    assert detector.evidence["noise"] == math.inf
    assert detector.evidence["e_value"] == 0.0


def test_unpaired_samples_still_find_a_clear_boundary() -> None:
    detector, events = PhaseDetector(), []
    for epoch, order in enumerate(V):
        shuffled = strength_of(order, samples=32, seed=epoch)[torch.randperm(32)]
        events += detector.update(epoch, shuffled, None, None, paired=False)
    assert alerts(events) == ["boundary"]
    assert abs(events[-1].epoch - 12) <= 2


def test_a_new_sample_count_is_unpaired_by_itself() -> None:
    run = [(e, strength_of(order, samples=20 + e % 2, seed=e), None, None) for e, order in enumerate(V)]
    assert alerts(replay(run)) == ["boundary"]


@pytest.mark.parametrize("at", [1, 6, 12, 20])
def test_other_samples_from_some_record_on_are_no_turn_and_hide_none(at: int) -> None:
    """Their mean order is half an order higher; as in a run whose probes were chosen anew after a resume."""

    def moved(orders: Sequence[float], more: int = 0) -> list[Record]:
        higher = [order + 0.5 * (i >= at) for i, order in enumerate(orders)]
        return [(i, strength_of(o, samples=12 + (i >= at), seed=i + more), None, None) for i, o in enumerate(higher)]

    for more in range(0, 500, 50):
        assert alerts(replay(moved(curve([(0, 5.0), (40, 3.0)]), more))) == []
    events = replay(moved(V))
    assert alerts(events) == ["boundary"]
    assert abs(events[-1].epoch - 12) <= 2


def test_samples_redrawn_in_a_failed_measurement_are_not_paired_afterwards() -> None:
    detector = PhaseDetector()
    for epoch, strength, _, _ in FULL[:4]:
        detector.update(epoch, strength, None, None)
    before = detector._orders.order.recent[-1].probes
    detector.update(4, torch.full_like(FULL[4][1], math.nan), None, None, paired=False)
    detector.update(5, FULL[5][1], None, None)
    assert detector._orders.order.recent[-1].probes != before


def test_several_measurements_in_one_epoch() -> None:
    orders = curve([(0, 5.0), (48, 3.0), (120, 5.0)])
    events = replay(records(orders, epochs=[i // 4 for i in range(len(orders))]))
    assert alerts(events) == ["boundary"]
    assert abs(events[-1].epoch - 12) <= 1


def test_epochs_may_start_late_and_skip() -> None:
    events = replay(records(V, GAP, VAL, epochs=[10 + 5 * i for i in range(len(V))]))
    assert alerts(events) == ["boundary", "overfitting"]
    assert abs(events[0].epoch - 70) <= 10


def test_array_likes_and_steps() -> None:
    detector, events = PhaseDetector(), []
    for epoch, strength, train, val in FULL:
        events += detector.update(epoch, strength.tolist(), train, val, step=10 * int(epoch))
    assert alerts(events) == ["boundary", "overfitting"]
    assert all(event.step == 10 * event.detected_epoch for event in events)


# ---------------------------------------------------------------------------------------------------- overfitting


def lossy(val: Sequence[float], gap: Sequence[float], each: Sequence[Any] | None = None, start: float = 0) -> list[int]:
    """The records at which there is an alarm, in a run whose mean order stays: phase 1 to its end."""
    detector, told = PhaseDetector(), []
    for i, (v, g) in enumerate(zip(val, gap, strict=True)):
        events = detector.update(start + i, FULL[0][1], v - g, v, val_losses=each and each[i])
        assert detector.phase == 1
        told += [i for event in events if event.kind == "overfitting"]
    return told


FALL = [2.0, 1.0]
WIDE = [0.0, 0.0, *[0.5] * 8]


@pytest.mark.parametrize(
    ("after", "gaps", "alarms"),
    [
        ([1.11] * 8, WIDE, [3]),
        ([1.11, 1.0] * 4, WIDE, []),
        ([1.0, 1.3, 1.0, 1.3, 1.3, 1.0, 1.0, 1.0], WIDE, [6]),
        ([1.09] * 8, WIDE, []),
        ([1.11] * 8, [0.0, 0.0, *[0.39] * 8], []),
        ([1.11] * 8, [0.0, 0.0, *[0.5, 0.0] * 4], []),
        ([1.11] * 8, [0.0, 0.0, 0.0, 0.0, 0.0, *[0.41] * 5], [6]),
        ([1.11] * 8, [-3.0, -3.0, *[-2.5] * 8], [3]),
    ],
    ids=["both", "one record", "two after one", "9 % rise", "39 % gap", "one wide gap", "gap later", "gap below zero"],
)
def test_overfitting_is_a_tenth_and_a_gap_of_40_percent_for_two_records(
    after: list[float], gaps: list[float], alarms: list[int]
) -> None:
    assert lossy([*FALL, *after], gaps) == alarms


def test_the_rise_must_last_for_a_tenth_of_the_training_before_it() -> None:
    falling = curve([(0, 2.0), (99, 1.0)])
    val, gap = [*falling, *[1.5] * 15], [*[0.0] * 100, *[1.0] * 15]
    assert lossy(val, gap) == [109], "100 epochs until the lowest loss"
    assert lossy(val, gap, start=100) == [], "200 epochs"


@pytest.mark.parametrize(("spread", "alarms"), [(0.3, [3]), (0.5, [])])
def test_a_rise_within_one_standard_error_is_no_overfitting(spread: float, alarms: list[int]) -> None:
    """Of ten samples whose losses change by the rise, and by so much more or less: an error of a third of that."""
    more_or_less = spread * torch.tensor([1.0, -1.0] * 5)
    each = [torch.ones(10), torch.ones(10), *[torch.full((10,), 1.12) + more_or_less] * 8]
    assert lossy([*FALL, *[1.12] * 8], WIDE, each) == alarms
    assert lossy([*FALL, *[1.12] * 8], WIDE) == [3]


def test_losses_show_overfitting_by_the_numbers() -> None:
    enough = {"val_growth": 0.1, "gap_growth": 0.4, "val_growth_lasted": 0.1}
    assert losses_show_overfitting(enough)
    assert losses_show_overfitting({**enough, "val_growth_error": 0.1, "gap": -3.0})
    for name in enough:
        assert not losses_show_overfitting({**enough, name: 0.99 * enough[name]})
        assert not losses_show_overfitting({**enough, name: math.nan})
    assert not losses_show_overfitting({**enough, "val_growth_error": 0.11})
    assert not losses_show_overfitting({})


def test_overfitting_comes_once_and_says_what_to_keep() -> None:
    detector = PhaseDetector()
    events = replay(FULL, detector)
    assert alerts(events) == ["boundary", "overfitting"]
    assert events[0].detected_epoch <= events[1].detected_epoch == detector.overfitting_epoch
    assert abs(events[1].evidence["best_val_epoch"] - 18) <= 1
    assert "checkpoint of epoch 18" in events[1].message
    assert "loss gap from 0 to 0.471" in events[1].message


def test_a_boundary_found_in_the_same_record_comes_first() -> None:
    late = [gap if i >= 22 else 0.0 for i, gap in enumerate(GAP)]
    boundary, overfitting = (event for event in replay(records(V, late, VAL)) if event.is_alert)
    assert (boundary.kind, overfitting.kind) == ("boundary", "overfitting")
    assert boundary.detected_epoch == overfitting.detected_epoch


def test_the_error_of_the_rise_is_told_where_it_is_known() -> None:
    detector, plain = PhaseDetector(), replay(FULL)[-1]
    events = []
    for epoch, strength, train, val in FULL:
        assert val is not None
        each = val * torch.tensor([0.9, 1.0, 1.1]) if epoch > 18 else torch.full((3,), val)
        events += detector.update(epoch, strength, train, val, val_losses=each)
    event = events[-1]
    assert (event.kind, event.detected_epoch) == (plain.kind, plain.detected_epoch)
    loss = VAL[int(event.detected_epoch)]
    assert f"+{100 * (loss - 1):.1f} % +- {100 * loss * 0.1 / math.sqrt(3):.1f} %" in event.message
    assert f"+{100 * (loss - 1):.1f} %," in plain.message


def test_without_a_training_loss_no_gap_is_told() -> None:
    """The caller gives 0 for it, so that the gap is the validation loss."""
    (event,) = (e for e in replay([(e, s, 0.0, v) for e, s, _, v in FULL]) if e.kind == "overfitting")
    assert "loss gap" not in event.message
    assert event.evidence["gap_growth"] >= 0.4


def summary(events: list[PhaseEvent]) -> list[tuple[str, int, int]]:
    return [(event.kind, event.epoch, event.detected_epoch) for event in events]


LOSS = st.integers(1, 256).map(lambda part: part / 64)  # sums and differences of these are exact


@given(st.lists(st.tuples(LOSS, LOSS), min_size=4, max_size=len(V)), st.integers(-640, 640))
def test_a_constant_added_to_the_training_loss_changes_no_event(losses: list[tuple[float, float]], part: int) -> None:
    """It may be that of augmented copies, which are hard to fit in all epochs."""
    run = [(epoch, s, train, val) for (epoch, s, _, _), (train, val) in zip(FULL, losses, strict=False)]
    moved = [(epoch, s, train + part / 64, val) for epoch, s, train, val in run]
    one, other = PhaseDetector(), PhaseDetector()
    assert summary(replay(moved, other)) == summary(replay(run, one))
    assert other.overfitting_risk == one.overfitting_risk


# ---------------------------------------------------------------------------------------------------- retraction


def test_a_false_boundary_is_retracted_and_the_search_resumes() -> None:
    orders = curve([(0, 5.0), (10, 4.0), (18, 4.6), (40, 2.5), (60, 4.5)])
    detector = PhaseDetector()
    events = replay(records(orders), detector)
    assert alerts(events) == ["boundary", "-boundary", "boundary"]
    first, retracted, second = (event for event in events if event.is_alert)
    assert retracted.epoch == first.epoch
    assert abs(first.epoch - 10) <= 2
    assert abs(second.epoch - 40) <= 2
    assert detector.boundary_epoch == second.epoch
    assert "the boundary at epoch 10 is withdrawn" in retracted.message
    halfway = PhaseDetector()
    replay(records(orders)[:41], halfway)
    assert (halfway.phase, halfway.boundary_epoch) == (1, None)


def test_what_was_before_the_retraction_is_forgotten() -> None:
    """The search begins with the record that withdraws: a rise soon after is judged like one at the start of a run."""
    orders = curve([(0, 5.0), (10, 4.0), (20, 5.0), (22, 3.5), (50, 3.5)])
    detector, run = PhaseDetector(), records(orders, noise=0.1)
    events = replay(run[:24], detector)
    assert alerts(events) == ["boundary", "-boundary"]
    assert events[-1].detected_epoch == 23
    assert detector._orders.order.evidence(0.1) == 0.0
    assert alerts(replay(run[24:], detector)) == []
    for course in (detector._orders.order, detector._orders.shared):
        assert 0 < course.evidence(10.0) == rise_evidence(course.values[-28:], 10.0, 28), "records 23 to 50"


def test_the_search_resumes_at_the_level_of_the_retraction() -> None:
    """The fall that retracts ends at once: its lowest record is the new turning point."""
    orders = curve([(0, 5.0), (10, 4.0), (20, 5.0), (23, 3.2), (40, 3.8)])
    events = replay(records(orders, noise=0.0))
    found = [(name, event.epoch) for name, event in zip(alerts(events), events, strict=True)]
    assert found == [("boundary", 10), ("-boundary", 10), ("boundary", 23)]


def test_a_small_fall_below_the_turning_point_retracts_nothing() -> None:
    """It may be noise: two records below by three times that."""
    back = curve([(0, 5.0), (12, 3.0), (24, 4.0), (36, 3.0), (60, 3.0)])
    assert alerts(replay(records(back, noise=0.3))) == ["boundary"]
    *_, retracted = replay(records([*back[:40], *[1.9] * 2], noise=0.3))
    assert alerts([retracted]) == ["-boundary"]
    noises = -retracted.evidence["rise"] / retracted.evidence["noise"]
    assert noises >= 1.1 * math.sqrt(2 * math.log(retracted.detected_epoch + 1))


def with_losses_after(vals: Sequence[float]) -> tuple[PhaseDetector, list[PhaseEvent]]:
    """Follow a run with an alarm at epoch 23, over its lowest loss of 1, and then these losses."""
    detector = PhaseDetector()
    events = replay(FULL, detector)
    assert (detector.overfitting_epoch, alerts(events)) == (23, ["boundary", "overfitting"])
    for epoch, val in enumerate(vals, 31):
        events += detector.update(epoch, FULL[-1][1], val - 0.8, val)
    return detector, events[2:]


def test_a_loss_below_the_lowest_before_the_alarm_withdraws_it() -> None:
    detector, events = with_losses_after([1.2, 1.01, 0.99])
    (event,) = events
    assert alerts(events) == ["-overfitting"]
    assert (event.epoch, event.detected_epoch) == (23, 33)
    assert (event.evidence["alarm_epoch"], event.evidence["alarm_low"]) == (23, 1.0)
    assert detector.overfitting_epoch is None
    assert detector.boundary_epoch is not None, "the boundary is another matter"
    assert "the overfitting alarm of epoch 23 is withdrawn" in event.message
    assert "loss 0.99, below the 1 it had risen from" in event.message
    assert "checkpoint of epoch 33 is the best" in event.message


def test_a_loss_that_only_comes_back_does_not() -> None:
    detector, events = with_losses_after([1.2, 1.01, 1.0, 1.0])
    assert events == []
    assert detector.overfitting_epoch == 23


def test_an_alarm_that_was_withdrawn_may_be_given_again() -> None:
    detector, events = with_losses_after([1.2, 0.9, 0.8, *[1.0] * 10, 0.7])
    assert alerts(events) == ["-overfitting", "overfitting", "-overfitting"]
    again = events[1].detected_epoch
    assert again == 33 + 4, "the rise lasted for a tenth of 34 epochs"
    assert [event.evidence["alarm_low"] for event in events if event.retracts] == [1.0, 0.8]
    assert events[2].epoch == again
    assert detector.overfitting_epoch is None


def test_an_alarm_stands_once_the_losses_are_of_another_kind() -> None:
    detector = PhaseDetector()
    replay(FULL, detector)
    detector.forget_losses()
    restored = PhaseDetector()
    restored.load_state_dict(detector.state_dict())
    for each in (detector, restored):
        events = [e for i in range(31, 40) for e in each.update(i, FULL[-1][1], -9.0, -5.0 + (i > 35))]
        assert events == []
        assert each.overfitting_epoch == 23


def test_boundary_and_alarm_are_withdrawn_each_for_itself() -> None:
    events = replay(EVENTFUL)
    assert alerts(events) == ALL_OF_IT
    by_name = dict(zip(ALL_OF_IT, (event for event in events if event.is_alert), strict=True))
    assert by_name["-boundary"].evidence["val_growth"] > 0.1
    assert by_name["-overfitting"].evidence["rise"] <= 0


# ------------------------------------------------------------------------------------------------------ invariants


@pytest.mark.parametrize("end", range(0, len(EVENTFUL), 3))
def test_a_prefix_of_the_run_gives_a_prefix_of_the_events(end: int) -> None:
    assert replay(EVENTFUL[:end]) == [event for event in replay(EVENTFUL) if event.detected_epoch < end]


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_units_do_not_matter(factor: float) -> None:
    expected = summary(replay(FULL))
    assert len(expected) == 2
    assert summary(replay([(e, s * factor, t, v) for e, s, t, v in FULL])) == expected
    scaled = [(e, s, t * factor, v * factor) for e, s, t, v in FULL if t is not None and v is not None]
    assert summary(replay(scaled)) == expected


POINTS = st.lists(st.tuples(st.integers(1, 12), st.integers(4, 24)), min_size=2, max_size=5)


def through(points: list[tuple[int, int]], unit: float, length: int) -> list[float]:
    """A course of so many records through these values, each so many records after the one before."""
    at, path = 0, list[tuple[int, float]]()
    for step, value in points:
        path.append((at, value * unit))
        at += step
    course = curve(path)
    return (course + [course[-1]] * length)[:length]


@settings(max_examples=25)
@given(POINTS, POINTS, POINTS, st.sampled_from([0.0, 0.1, 0.5]))
def test_events_make_sense_whatever_the_course(
    orders: list[tuple[int, int]], vals: list[tuple[int, int]], gaps: list[tuple[int, int]], noise: float
) -> None:
    """What is told once is not told again before it was withdrawn; only what stands is withdrawn."""
    run = records(through(orders, 0.25, 40), through(gaps, 0.1, 40), through(vals, 0.2, 40), noise=noise)
    detector, standing = PhaseDetector(), dict[str, PhaseEvent]()
    hinted = False
    for epoch, *record in run:
        for event in detector.update(epoch, *record):
            assert event.epoch <= event.detected_epoch == epoch
            if event.kind == "retracted":
                assert standing.pop(event.retracts).epoch == event.epoch
                hinted &= event.retracts != "boundary"
            elif event.kind == "suspected":
                assert not hinted
                assert "boundary" not in standing
                hinted = True
            else:
                assert event.kind not in standing
                standing[event.kind] = event
        for kind, told in (("boundary", detector.boundary_epoch), ("overfitting", detector.overfitting_epoch)):
            assert told == (standing[kind].epoch if kind in standing else None)
        assert detector.phase == 1 + ("boundary" in standing)
        assert hinted or not detector.suspected or "boundary" in standing
        assert detector.evidence["e_value"] >= 0
        assert 0 < detector.overfitting_risk < 1


@settings(max_examples=25)
@given(st.floats(1e-6, 0.49), st.floats(1e-6, 0.49), st.sampled_from([0.1, 0.3, 0.6]), st.integers(0, 9))
def test_a_lower_false_alarm_rate_waits_for_more(one: float, other: float, noise: float, seed: int) -> None:
    run = [(i, strength_of(order, noise=noise, seed=100 * seed + i), None, None) for i, order in enumerate(V)]

    def first_told(rate: float) -> int:
        events = replay(run, PhaseDetector(false_alarm_rate=rate))
        return next((event.detected_epoch for event in events if event.kind == "boundary"), len(run))

    assert first_told(min(one, other)) >= first_told(max(one, other))


def test_the_rate_is_what_the_evidence_must_reach() -> None:
    events = replay(records(SLOW, noise=0.3), PhaseDetector(false_alarm_rate=0.2))
    late = replay(records(SLOW, noise=0.3), PhaseDetector(false_alarm_rate=0.001))
    assert 5 <= events[-1].evidence["e_value"] < 1000 <= late[-1].evidence["e_value"]
    assert events[-1].detected_epoch < late[-1].detected_epoch
    assert summary(events)[:1] == summary(late)[:1], "what is suspected does not depend on it"
    losses = [replay(FULL, PhaseDetector(false_alarm_rate=rate))[-1] for rate in (0.4, 0.001)]
    assert losses[0].detected_epoch == losses[1].detected_epoch, "nor does overfitting"


# ----------------------------------------------------------------------------------------------------------- state


@dataclass
class Measured:
    """All arguments of one update."""

    record: Record
    val_losses: Tensor | None
    paired: bool
    last_epoch: float | None

    def into(self, detector: PhaseDetector) -> list[PhaseEvent]:
        return detector.update(
            *self.record, paired=self.paired, val_losses=self.val_losses, last_epoch=self.last_epoch, step=3
        )


def with_everything() -> list[Measured]:
    """The eventful run with losses of samples, other samples now and then, and records that miss something."""
    generator, run = torch.Generator().manual_seed(5), []
    for i, (epoch, strength, train, val) in enumerate(EVENTFUL):
        assert val is not None
        each = val + 0.01 * torch.randn(20, generator=generator) if i % 7 else None
        record = (epoch / 2 - 1, strength * (math.nan if i in (5, 33) else 1.0), None if i == 8 else train, val)
        run.append(Measured(record, each, paired=i not in (4, 45), last_epoch=None if i < 9 else 30))
    return run


EVERYTHING = with_everything()


def restored(detector: PhaseDetector) -> PhaseDetector:
    buffer = io.BytesIO()
    torch.save(detector.state_dict(), buffer)
    buffer.seek(0)
    again = PhaseDetector(false_alarm_rate=detector.false_alarm_rate)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    return again


def plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


@given(st.lists(st.integers(0, len(EVERYTHING)), min_size=1, max_size=3))
def test_a_restored_detector_decides_as_an_uninterrupted_one(splits: list[int]) -> None:
    whole = PhaseDetector()
    expected = [event for each in EVERYTHING for event in each.into(whole)]
    assert alerts(expected) == ALL_OF_IT
    detector, events = PhaseDetector(), []
    for i, each in enumerate(EVERYTHING):
        for _ in range(splits.count(i)):
            detector = restored(detector)
        events += each.into(detector)
    detector = restored(detector)
    assert [event.to_dict() for event in events] == [event.to_dict() for event in expected]
    assert (detector.boundary_epoch, detector.overfitting_epoch) == (whole.boundary_epoch, whole.overfitting_epoch)
    assert (detector.overfitting_risk, detector.suspected) == (whole.overfitting_risk, whole.suspected)
    assert plain(detector.evidence) == plain(whole.evidence)


def test_a_state_is_a_snapshot() -> None:
    detector = PhaseDetector()
    replay(EVENTFUL[:20], detector)
    state = detector.state_dict()
    before = copy.deepcopy(state)
    replay(EVENTFUL[20:40], detector)
    assert repr(state) == repr(before), "the detector that gave it goes on"
    other = PhaseDetector()
    other.load_state_dict(state)
    replay(EVENTFUL[20:40], other)
    assert repr(state) == repr(before), "and so does the one that took it"
    assert repr(other.state_dict()) == repr(detector.state_dict())


def test_numbers_of_numpy_are_stored_as_plain_ones() -> None:
    detector = PhaseDetector()
    for epoch, strength, train, val in FULL[:20]:
        detector.update(
            np.float64(epoch), strength.numpy(), np.float32(train), np.float64(val), last_epoch=np.float64(40)
        )
    assert restored(detector).evidence == detector.evidence


@pytest.mark.thorough
def test_a_long_run_has_a_state_of_bounded_size_and_tells_nothing_twice() -> None:
    detector, sizes, events = PhaseDetector(), [], []
    generator = torch.Generator().manual_seed(0)
    low, tilt = torch.rand(4, 2, 3, generator=generator) + 0.5, torch.tensor([-1.0, 0.0, 1.0])
    for epoch in range(10_000):
        course = abs(min(epoch, 3000) - 1500) / 1500
        strength = low * (course * tilt + 0.1 * torch.randn(4, 2, 3, generator=generator)).exp()
        val = 1 + 0.5 * abs(min(epoch, 4000) - 1000) / 1000
        events += detector.update(epoch, strength, 0.5 * val, val, val_losses=[val, val, val + 0.1])
        if epoch in (999, 9_999):
            sizes.append(len(pickle.dumps(detector.state_dict())))
    assert alerts(events) == ["boundary", "overfitting"]
    assert kinds(events).count("suspected") <= 1
    assert sizes[1] < 1.02 * sizes[0] < 40_000


def version_1(detector: PhaseDetector) -> dict[str, Any]:
    """Write the state as version 1 would have: it kept bends, not values, and less of the losses."""

    def curve_of(state: dict[str, Any]) -> dict[str, Any]:
        bends = [abs(b - (a + c) / 2) for a, b, c in zip(*(state["values"][i:] for i in range(3)), strict=False)]
        kept = {name: state[name] for name in ("recent", "trough", "highest", "fall", "steps", "count")}
        return {**kept, "bends": bends}

    state = detector.state_dict()
    orders, losses = state["orders"], state["losses"]
    names = "recent_gap", "recent_val", "first_val", "gap_low", "best_val", "best_epoch"
    shared = "boundary_epoch", "overfitting_epoch", "overfitting_risk", "evidence", "last_epoch"
    return {
        "version": 1,
        **{name: state[name] for name in shared},
        "orders": {**orders, "order": curve_of(orders["order"]), "shared": curve_of(orders["shared"])},
        "losses": {name: losses[name] for name in names},
    }


@pytest.mark.parametrize("split", [1, 3, 8, 13, 17, 25])
def test_a_state_of_version_1_still_loads(split: int) -> None:
    first, second = PhaseDetector(), PhaseDetector()
    events = replay(FULL[:split], first)
    second.load_state_dict(version_1(first))
    assert (second.phase, second.boundary_epoch) == (first.phase, first.boundary_epoch)
    assert second.overfitting_epoch == first.overfitting_epoch
    assert second.evidence == first.evidence
    events += replay(FULL[split:], second)
    assert alerts(events) == ["boundary", "overfitting"]
    assert abs(events[0].epoch - 12) <= 2
    assert second.state_dict()["version"] == 2


def test_an_alarm_of_version_1_is_withdrawn_below_the_lowest_loss_known() -> None:
    first, second = PhaseDetector(), PhaseDetector()
    replay(FULL[:26], first)
    second.load_state_dict(version_1(first))
    assert second.overfitting_epoch == 23
    assert alerts(second.update(26, FULL[26][1], 0.1, 1.001)) == []
    assert alerts(second.update(27, FULL[27][1], 0.1, 0.999)) == ["-overfitting"]
    forgotten = PhaseDetector()
    forgotten.load_state_dict({**version_1(first), "losses": {}})
    assert alerts(forgotten.update(26, FULL[26][1], 0.1, 0.5)) == [], "there is nothing to compare it with"
    assert forgotten.overfitting_epoch == 23


def test_a_bare_state_loads_and_a_newer_one_is_refused() -> None:
    detector = PhaseDetector()
    detector.load_state_dict({"boundary_epoch": 3, "something": "else"})
    assert (detector.phase, detector.boundary_epoch) == (2, 3)
    with pytest.raises(StateError, match="version 2 or older, but got 3"):
        detector.load_state_dict({"version": 3})


# ------------------------------------------------------------------------------------------------------------ risk


@pytest.mark.parametrize("model", [WITH_LOSSES, WITHOUT_LOSSES])
def test_risk_climbs_with_each_of_its_numbers_up_to_their_caps(model: RiskModel) -> None:
    assert PhaseDetector().overfitting_risk == overfitting_risk({}) == WITHOUT_LOSSES.risk({})
    for name in model.weights:
        risks = [model.risk({name: CAPS[name] * part}) for part in (-1.0, 0.0, 0.1, 0.5, 1.0, 1e9)]
        assert 0 < risks[0] == risks[1] < risks[2] < risks[3] < risks[4] == risks[5] < 1
        assert model.risk({name: math.nan}) == model.risk({})


def test_the_losses_count_in_the_risk_where_there_are_any() -> None:
    with_losses, without = PhaseDetector(), PhaseDetector()
    for epoch, strength, train, val in FULL:
        with_losses.update(epoch, strength, train, val)
        without.update(epoch, strength, None, None)
    assert with_losses.overfitting_risk == WITH_LOSSES.risk(with_losses.evidence)
    assert without.overfitting_risk == WITHOUT_LOSSES.risk(with_losses.evidence) < with_losses.overfitting_risk


@pytest.mark.parametrize(
    ("epoch", "last_epoch", "octaves"),
    [(9, 39, 2), (9, 9, 0), (9, 5, 0), (9, -1, 0), (9, None, 1), (-1, 39, 1), (0, 7, 3), (0.5, 2, 1)],
)
def test_the_risk_is_that_until_the_end_of_the_training(epoch: float, last_epoch: float | None, octaves: float) -> None:
    detector = PhaseDetector()
    detector.update(epoch, FULL[0][1], 1.0, 1.0, last_epoch=last_epoch)
    assert detector.evidence["horizon"] == octaves
    assert detector.overfitting_risk == detector.evidence["risk"] == overfitting_risk(detector.evidence)


@pytest.mark.thorough
def test_growth_of_total_strength_is_per_octave_over_the_last_octave() -> None:
    """The total goes with the square of the epoch: two octaves per octave, before and after old records are thinned."""
    detector = PhaseDetector()
    for epoch in range(400):
        detector.update(epoch, FULL[0][1] * (epoch + 1) ** 2, None, None)
        if epoch > 1:
            assert detector.evidence["strength_growth"] == pytest.approx(2.0, rel=0.01)
    for epoch in range(400, 1000):
        detector.update(epoch, FULL[0][1] * 400**2, None, None)
    assert detector.evidence["strength_growth"] == pytest.approx(0.0, abs=0.01)


# ------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("value", [0.0, -0.1, 0.5, 1, math.nan, math.inf, True, "rare"])
def test_the_false_alarm_rate_is_checked(value: object) -> None:
    with pytest.raises(ArgumentError, match="`false_alarm_rate`"):
        PhaseDetector(false_alarm_rate=value)  # type: ignore[arg-type]


def test_repr_rebuilds_the_detector() -> None:
    assert repr(PhaseDetector(false_alarm_rate=0.2)) == "PhaseDetector(false_alarm_rate=0.2)"
    assert eval(repr(PhaseDetector(false_alarm_rate=0.2))).false_alarm_rate == 0.2


STRENGTH = FULL[0][1]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"epoch": 4}, "`epoch` to be 5 or later"),
        ({"epoch": math.nan}, "`epoch`"),
        ({"epoch": -1.5}, "`epoch`"),
        ({"epoch": "6"}, "`epoch`"),
        ({"strength": STRENGTH[0]}, "`strength`"),
        ({"strength": "strong"}, "`strength`"),
        ({"strength": -STRENGTH}, "`strength`"),
        ({"strength": STRENGTH[..., :5]}, "`strength` to have 10 orders"),
        ({"train_loss": "low"}, "`train_loss`"),
        ({"val_loss": [1.0, 2.0]}, "`val_loss`"),
        ({"last_epoch": "the last"}, "`last_epoch`"),
        ({"last_epoch": math.nan}, "`last_epoch`"),
        ({"last_epoch": math.inf}, "`last_epoch`"),
        ({"last_epoch": -2}, "`last_epoch`"),
        ({"val_losses": [[1.0]]}, "`val_losses`"),
    ],
)
def test_bad_updates_are_refused_and_change_nothing(changed: dict[str, Any], match: str) -> None:
    detector = PhaseDetector()
    detector.update(5, STRENGTH, 1.0, 1.0)
    before = repr(detector.state_dict())
    with pytest.raises(ArgumentError, match=match):
        detector.update(**{"epoch": 6, "strength": STRENGTH, "train_loss": 1.0, "val_loss": 1.0, **changed})
    assert repr(detector.state_dict()) == before


# -- inside of epochs --------------------------------------------------------------------------------------------------


def test_places_inside_of_epochs_are_told_and_counted_as_epochs() -> None:
    """The same run, measured four times as often: from the initialisation on."""
    whole = [(epoch / 4 - 1, strength, train, val) for epoch, strength, train, val in FULL]
    detector, events = PhaseDetector(), []
    for place, *record in whole:
        events += detector.update(place, *record)
    (first_of_all, *_), (first, *_) = replay(FULL), events
    place = first_of_all.evidence["trough_epoch"] / 4 - 1
    assert first.evidence["trough_epoch"] == place
    assert (first.epoch, first.detected_epoch) == (math.ceil(place), math.ceil(first_of_all.detected_epoch / 4 - 1))
    assert detector.boundary_epoch == first.epoch
    assert type(first.epoch) is int
    assert all(math.isfinite(event.evidence["strength_growth"]) for event in events)
    again = PhaseDetector()
    again.load_state_dict(detector.state_dict())
    with pytest.raises(ArgumentError, match="only go forward"):
        again.update(whole[-1][0] - 0.25, *whole[-1][1:])


@pytest.mark.parametrize("steps", [2, 100, 12_345])
def test_steps_are_decided_on_as_epochs_are(steps: int) -> None:
    """Only ratios of what is done count, so that the unit changes nothing but the words."""
    events: list[PhaseEvent] = []
    detector = PhaseDetector()
    for epoch, *record in FULL:
        events += detector.update((epoch + 1) * steps - 1, *record, unit="step")
    by_epochs = replay(FULL)
    assert kinds(events) == kinds(by_epochs)
    for one, other in zip(events, by_epochs, strict=True):
        assert [one.epoch + 1, one.detected_epoch + 1] == [(e + 1) * steps for e in (other.epoch, other.detected_epoch)]
        assert (one.unit, other.unit) == ("step", "epoch")
        for name in set(one.evidence) - {"trough_epoch", "best_val_epoch"}:
            assert one.evidence[name] == pytest.approx(other.evidence[name], nan_ok=True), name
        assert one.message.startswith(f"Step {one.detected_epoch}: ")
        assert "epoch" not in one.message


def test_a_turn_before_training_is_one_in_epoch_0() -> None:
    detector, events = PhaseDetector(), []
    for index in range(12):
        high = 0.2 + 0.1 * index
        strength = torch.tensor([1.0, high]).repeat(8, 2, 1)
        events += detector.update(index / 4 - 1, strength, None, None)
    event = events[-1]
    assert alerts(events) == ["boundary"]
    assert (event.epoch, event.evidence["trough_epoch"]) == (0, -1.0)
    assert " at initialisation to " in event.message
