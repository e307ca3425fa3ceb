from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import ArgumentError, StateError
from lightning_interactions.functional.interval import weighted_mean
from lightning_interactions.functional.strength import mean_order
from lightning_interactions.phases import PhaseDetector, PhaseEvent, overfitting_risk
from lightning_interactions.phases.curves import rise_z
from lightning_interactions.phases.risk import CAPS, WITH_LOSSES, WITHOUT_LOSSES, RiskModel

N = 10

Record = tuple[int, Tensor, "float | None", "float | None"]


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
    epochs: Sequence[int] | None = None,
    **kwargs: float,
) -> list[Record]:
    epochs = range(len(orders)) if epochs is None else epochs
    out: list[Record] = []
    for i, (epoch, order) in enumerate(zip(epochs, orders, strict=True)):
        val = None if gaps is None else 1.0 if vals is None else vals[i]
        train = None if gaps is None or val is None else val - gaps[i]
        out.append((epoch, strength_of(order, seed=i, **kwargs), train, val))  # type: ignore[arg-type]
    return out


def replay(
    run: Iterable[Record], detector: PhaseDetector | None = None, *, augmented: bool = False
) -> list[PhaseEvent]:
    detector = detector or PhaseDetector()
    return [event for record in run for event in detector.update(*record, augmented=augmented)]


def kinds(events: Iterable[PhaseEvent]) -> list[str]:
    return [event.kind for event in events]


V = curve([(0, 5.0), (12, 3.0), (30, 5.0)])
GAP = curve([(0, 0.0), (12, 0.0), (30, 0.77)])
VAL = curve([(0, 2.0), (18, 1.0), (30, 1.5)])
FULL = records(V, GAP, VAL)


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
    assert kinds(events) == ["boundary"]
    (event,) = events
    tolerance = 6 if points[1][1] == points[2][1] else 2
    assert abs(event.epoch - turn) <= tolerance
    assert event.epoch == detector.boundary_epoch
    assert detector.phase == 2
    assert turn < event.detected_epoch <= turn + 16
    assert event.evidence["significant"] == 1.0
    assert f"{event.evidence['level']:.2f}" in event.message
    assert f"epoch {event.epoch}" in event.message


@pytest.mark.parametrize("slopes", [(0.1, 0.1), (0.2, 0.05), (0.05, 0.2)])
def test_the_tip_of_a_clean_v_is_found_to_the_epoch(slopes: tuple[float, float]) -> None:
    orders = curve([(0, 2.0 + 10 * slopes[0]), (10, 2.0), (30, 2.0 + 20 * slopes[1])])
    shares = torch.stack([torch.tensor([4 - m, m - 1]) for m in (1 + (o - 1) / 2 for o in orders)]) / 3
    events = replay((e, share.clamp(min=0).repeat(6, 2, 1), None, None) for e, share in enumerate(shares))
    assert [(event.kind, event.epoch) for event in events] == [("boundary", 10)]


def test_an_empty_first_phase_has_its_boundary_at_the_first_measurement() -> None:
    low = torch.zeros(12, 2, N)
    low[:, :, 0] = 1 + torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    run: list[Record] = []
    for epoch in range(3, 20):
        high = low.roll(4, -1) * 0.05 * (epoch - 3)
        run.append((epoch, low + high, None, None))
    events = replay(run)
    assert kinds(events) == ["boundary"]
    assert events[0].epoch == 3
    assert "no fall before it" in events[0].message


@pytest.mark.parametrize(
    "orders",
    [curve([(0, 6.0), (60, 2.0)]), [1 + 4 * 0.9**i for i in range(80)], [3.0] * 60],
    ids=["line", "exponential", "flat"],
)
def test_a_falling_or_flat_mean_order_has_no_boundary(orders: list[float]) -> None:
    detector = PhaseDetector()
    assert replay(records(orders), detector) == []
    assert detector.phase == 1
    assert detector.boundary_epoch is None


def test_a_wobble_in_one_epoch_does_not_fire() -> None:
    orders = curve([(0, 5.0), (40, 3.0)])
    for at in (10, 25):
        orders[at] += 1.5
    assert replay(records(orders)) == []


def test_the_gap_must_begin_to_widen_when_losses_are_given() -> None:
    closed = [0.1] * len(V)
    assert replay(records(V, closed)) == []
    assert kinds(replay(records(V, None))) == ["boundary"]
    late = [0.1 if i < 28 else 0.3 for i in range(len(V))]
    (event,) = replay(records(V, late))
    assert event.detected_epoch >= 28
    assert abs(event.epoch - 12) <= 2


@pytest.mark.parametrize(("train", "val"), [(None, 1.0), (1.0, None), (math.nan, 1.0), (1.0, math.inf)])
def test_one_loss_alone_or_one_that_is_not_finite_counts_as_none(train: float | None, val: float | None) -> None:
    run = [(epoch, strength, train, val) for epoch, strength, _, _ in FULL]
    assert [(e.kind, e.epoch) for e in replay(run)] == [(e.kind, e.epoch) for e in replay(records(V))]


# ------------------------------------------------------------------------------------------------ odd measurements


def test_rows_skipped_now_and_then_change_little() -> None:
    generator = torch.Generator().manual_seed(1)
    run = []
    for epoch, strength, train, val in FULL:
        holes = strength.clone()
        holes[torch.rand(len(holes), generator=generator) < 0.1] = math.nan
        run.append((epoch, holes, train, val))
    events = replay(run)
    assert kinds(events) == ["boundary", "overfitting"]
    assert abs(events[0].epoch - 12) <= 2


@pytest.mark.parametrize("empty", [math.nan, 0.0], ids=["nan", "no strength"])
def test_a_measurement_without_strength_decides_nothing(empty: float) -> None:
    detector = PhaseDetector()
    assert detector.update(0, torch.full((4, 2, N), empty), 1.0, 1.0) == []
    assert math.isnan(detector.evidence["mean_order"])
    assert detector.evidence["val_loss"] == 1.0
    with pytest.raises(ArgumentError, match="epoch"):
        PhaseDetector().update(-1.5, FULL[0][1], None, None)
    every_second: list[Record] = []
    for epoch, strength, train, val in FULL:
        every_second += [(2 * epoch, strength, train, val), (2 * epoch + 1, strength * empty, train, val)]
    (boundary, _) = replay(every_second)
    assert abs(boundary.epoch - 24) <= 4


def test_unpaired_samples_still_find_a_clear_boundary() -> None:
    detector, events = PhaseDetector(), []
    for epoch, order in enumerate(V):
        shuffled = strength_of(order, samples=32, seed=epoch)[torch.randperm(32)]
        events += detector.update(epoch, shuffled, None, None, paired=False)
    assert kinds(events) == ["boundary"]
    assert abs(events[0].epoch - 12) <= 2


def test_a_new_sample_count_is_unpaired_by_itself() -> None:
    run = [(e, strength_of(order, samples=20 + e % 2, seed=e), None, None) for e, order in enumerate(V)]
    events = replay(run)
    assert kinds(events) == ["boundary"]


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
    assert kinds(events) == ["boundary"]
    assert abs(events[0].epoch - 12) <= 1


def test_epochs_may_start_late_and_skip() -> None:
    events = replay(records(V, GAP, VAL, epochs=[100 + 5 * i for i in range(len(V))]))
    assert kinds(events) == ["boundary", "overfitting"]
    assert abs(events[0].epoch - 160) <= 10


def test_array_likes_and_steps() -> None:
    detector, events = PhaseDetector(), []
    for epoch, strength, train, val in FULL:
        events += detector.update(epoch, strength.tolist(), train, val, step=10 * epoch)
    assert kinds(events) == ["boundary", "overfitting"]
    assert all(event.step == 10 * event.detected_epoch for event in events)


# ---------------------------------------------------------------------------------------- overfitting, retraction


def test_overfitting_comes_once_and_after_the_boundary() -> None:
    detector = PhaseDetector()
    events = replay(FULL, detector)
    assert kinds(events) == ["boundary", "overfitting"]
    assert events[0].detected_epoch <= events[1].detected_epoch == detector.overfitting_epoch
    assert abs(events[1].evidence["best_val_epoch"] - 18) <= 1
    assert "checkpoint of epoch 18" in events[1].message


@pytest.mark.parametrize("course", ["falling", "flat"])
def test_losses_that_show_overfitting_end_phase_1_whatever_the_mean_order_does(course: str) -> None:
    """A linear model's mean order never moves."""
    orders = curve([(0, 5.0), (30, 3.0)]) if course == "falling" else [5.0] * len(V)
    run = records(orders, GAP, VAL, noise=0.0)
    assert replay([(epoch, strength, None, None) for epoch, strength, _, _ in run]) == []
    boundary, overfitting = replay(run)
    assert (boundary.kind, overfitting.kind) == ("boundary", "overfitting")
    assert boundary.evidence["significant"] == 0.0
    assert boundary.detected_epoch == overfitting.detected_epoch
    assert "has not risen significantly" in boundary.message


def one_sample_rises() -> list[Record]:
    """Time alone would call the rise clear, but the samples do not agree."""
    out = []
    for (epoch, strength, train, val), rise in zip(FULL, curve([(0, 0.0), (12, -0.6), (30, 0.6)]), strict=True):
        strength = strength_of(4.0, noise=0.01, seed=epoch)
        strength[0] = strength_of(4.0 + 5 * rise, samples=1, noise=0.0)[0]
        out.append((epoch, strength, train, val))
    return out


def test_a_rise_of_one_sample_is_not_significant() -> None:
    run = one_sample_rises()
    assert replay([(epoch, strength, None, None) for epoch, strength, _, _ in run]) == []
    boundary, _ = replay(run)
    assert boundary.evidence["significant"] == 0.0


def told(events: Iterable[PhaseEvent]) -> list[tuple[str, int, int, dict[str, float]]]:
    """What was said, without the two levels of the gap that the messages name."""
    levels = "gap", "gap_low"
    return [
        (e.kind, e.epoch, e.detected_epoch, {k: v for k, v in e.evidence.items() if k not in levels}) for e in events
    ]


def test_augmented_training_copies_do_not_mute_the_alarm() -> None:
    """They are hard to fit in all epochs, so the gap widens far below zero."""
    vals = curve([(0, 2.0), (18, 1.0), (30, 1.3)])
    plain, shifted = records(V, GAP, vals), records(V, [gap - 5.0 for gap in GAP], vals)
    expected, events = replay(plain), replay(shifted, augmented=True)
    assert kinds(events) == ["boundary", "overfitting"]
    assert [e.detected_epoch for e in events] == [e.detected_epoch for e in expected]
    assert events[-1].evidence["gap"] < 0
    assert "loss gap from -5 to -4." in events[-1].message
    assert kinds(replay(shifted)) == ["boundary"], "of plain samples the level counts: these may be noisy labels"


def test_a_large_rise_needs_no_training_loss_below_it() -> None:
    vals = curve([(0, 2.0), (18, 1.0), (30, 1.6)])
    overfitting = replay(records(V, [gap - 5.0 for gap in GAP], vals))[-1]
    assert overfitting.evidence["val_growth"] >= 0.3
    assert overfitting.evidence["gap"] < 0


LOSS = st.integers(1, 256).map(lambda part: part / 64)  # sums and differences of these are exact


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(LOSS, LOSS), min_size=4, max_size=len(V)), st.integers(-640, 640))
def test_a_constant_added_to_the_loss_of_augmented_copies_changes_no_event(
    losses: list[tuple[float, float]], part: int
) -> None:
    run = [(epoch, s, train, val) for (epoch, s, _, _), (train, val) in zip(FULL, losses, strict=False)]
    moved = [(epoch, s, train + part / 64, val) for epoch, s, train, val in run]
    one, other = PhaseDetector(), PhaseDetector()
    assert told(replay(moved, other, augmented=True)) == told(replay(run, one, augmented=True))
    assert other.overfitting_risk == one.overfitting_risk


def test_both_curves_must_rise() -> None:
    """Second orders turn into third ones: the mean order rises, the share of the first order does not fall."""
    run = []
    for epoch, high in enumerate(curve([(0, 0.8), (10, 0.1), (30, 0.8)])):
        first = 0.3 + 0.002 * epoch
        shape = torch.tensor([first, (1 - first) * (1 - high), (1 - first) * high])
        run.append((epoch, shape.repeat(8, 2, 1) * (1 + torch.arange(8.0)).view(8, 1, 1), None, None))
    assert replay(run) == []


def test_a_lower_false_alarm_rate_waits_for_more() -> None:
    told = []
    for rate in (0.3, 0.05, 0.01):
        boundary, overfitting = replay(FULL, PhaseDetector(false_alarm_rate=rate))
        told.append((boundary.detected_epoch, overfitting.detected_epoch))
    assert told[0][0] <= told[1][0] <= told[2][0]
    assert told[0][1] < told[1][1] < told[2][1]


def test_quiet_losses_never_alarm() -> None:
    events = replay(records(V, curve([(0, 0.0), (30, 0.2)]), curve([(0, 2.0), (30, 1.0)])))
    assert kinds(events) == ["boundary"]


def test_a_false_boundary_is_retracted_and_the_search_resumes() -> None:
    orders = curve([(0, 5.0), (10, 4.0), (18, 4.6), (40, 2.5), (60, 4.5)])
    detector = PhaseDetector()
    events = replay(records(orders), detector)
    assert kinds(events) == ["boundary", "retracted", "boundary"]
    first, retracted, second = events
    assert retracted.epoch == first.epoch
    assert abs(first.epoch - 10) <= 2
    assert abs(second.epoch - 40) <= 2
    assert detector.boundary_epoch == second.epoch
    halfway = PhaseDetector()
    replay(records(orders)[:41], halfway)
    assert (halfway.phase, halfway.boundary_epoch) == (1, None)


def test_the_search_resumes_at_the_level_of_the_retraction() -> None:
    """The fall that retracts ends at once: its lowest record is the new turning point."""
    orders = curve([(0, 5.0), (10, 4.0), (20, 5.0), (23, 3.2), (40, 3.8)])
    events = replay(records(orders, noise=0.0))
    assert [(event.kind, event.epoch) for event in events] == [("boundary", 10), ("retracted", 10), ("boundary", 23)]


def test_retraction_withdraws_overfitting_too_but_waits_for_the_losses() -> None:
    orders = curve([(0, 5.0), (12, 3.0), (30, 5.0), (60, 2.0)])
    gaps = GAP + [GAP[-1]] * (len(orders) - len(GAP))
    vals = VAL + [1.5] * (len(orders) - len(VAL))
    detector = PhaseDetector()
    assert kinds(replay(records(orders, gaps, vals, noise=0.0), detector)) == ["boundary", "overfitting"]
    assert detector.evidence["rise"] < -0.5
    detector, back = PhaseDetector(), 52
    vals[back:] = [0.9] * (len(orders) - back)
    events = replay(records(orders, gaps, vals, noise=0.0), detector)
    assert kinds(events) == ["boundary", "overfitting", "retracted"]
    assert events[-1].detected_epoch == back
    assert detector.overfitting_epoch is None


# ------------------------------------------------------------------------------------------------------ invariants


@pytest.mark.parametrize("end", range(0, len(FULL), 3))
def test_a_prefix_of_the_run_gives_a_prefix_of_the_events(end: int) -> None:
    assert replay(FULL[:end]) == [event for event in replay(FULL) if event.detected_epoch < end]


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_units_do_not_matter(factor: float) -> None:
    def summary(events: list[PhaseEvent]) -> list[tuple[str, int, int]]:
        return [(event.kind, event.epoch, event.detected_epoch) for event in events]

    expected = summary(replay(FULL))
    assert len(expected) == 2
    assert summary(replay([(e, s * factor, t, v) for e, s, t, v in FULL])) == expected
    scaled = [(e, s, t * factor, v * factor) for e, s, t, v in FULL if t is not None and v is not None]
    assert summary(replay(scaled)) == expected


RETRACTING = records(
    curve([(0, 5.0), (6, 4.0), (12, 4.6), (25, 2.5), (40, 4.5)]),
    [0.02 * i for i in range(41)],
    curve([(0, 2.0), (28, 1.0), (40, 1.5)]),
)


@pytest.mark.thorough
@pytest.mark.parametrize("split", range(len(RETRACTING) + 1))
def test_a_restored_detector_decides_as_an_uninterrupted_one(split: int) -> None:
    whole = PhaseDetector()
    expected = replay(RETRACTING, whole)
    assert kinds(expected) == ["boundary", "retracted", "boundary", "overfitting"]
    first, second = PhaseDetector(), PhaseDetector()
    events = replay(RETRACTING[:split], first)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert events + replay(RETRACTING[split:], second) == expected
    assert (second.boundary_epoch, second.overfitting_epoch) == (whole.boundary_epoch, whole.overfitting_epoch)
    assert second.overfitting_risk == whole.overfitting_risk
    assert second.evidence == whole.evidence


@pytest.mark.thorough
def test_the_state_is_a_snapshot_of_bounded_size() -> None:
    detector, sizes, noise = PhaseDetector(), [], torch.Generator().manual_seed(0)
    snapshot = detector.state_dict()
    for epoch in range(600):
        detector.update(epoch, torch.rand(16, 2, N, generator=noise), 1.0, 1.0)
        if epoch in (299, 599):
            buffer = io.BytesIO()
            torch.save(detector.state_dict(), buffer)
            sizes.append(buffer.tell())
    assert abs(sizes[1] - sizes[0]) < 200
    assert snapshot["last_epoch"] is None
    assert snapshot["version"] == 1


def test_an_old_state_loads_and_a_newer_one_is_refused() -> None:
    detector = PhaseDetector()
    detector.load_state_dict({"boundary_epoch": 3, "something": "else"})
    assert (detector.phase, detector.boundary_epoch) == (2, 3)
    with pytest.raises(StateError, match="version"):
        detector.load_state_dict({"version": 2})


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
    assert with_losses.overfitting_risk == WITH_LOSSES.risk(with_losses.evidence) > 0.8
    assert without.overfitting_risk == WITHOUT_LOSSES.risk(with_losses.evidence) < with_losses.overfitting_risk


@pytest.mark.thorough
def test_growth_of_total_strength_is_per_octave_over_the_last_octave() -> None:
    detector = PhaseDetector()
    for epoch in range(
        400
    ):  # the square of the epoch: two octaves per octave, before and after old records are thinned
        detector.update(epoch, FULL[0][1] * (epoch + 1) ** 2, None, None)
        if epoch > 1:
            assert detector.evidence["strength_growth"] == pytest.approx(2.0, rel=0.01)
    for epoch in range(400, 1000):
        detector.update(epoch, FULL[0][1] * 400**2, None, None)
    assert detector.evidence["strength_growth"] == pytest.approx(0.0, abs=0.01)


# -------------------------------------------------------------------------------------------------- events, arguments


def test_events_survive_strict_json() -> None:
    for event in replay(FULL):
        assert PhaseEvent.from_dict(json.loads(json.dumps(event.to_dict(), allow_nan=False))) == event
    odd = PhaseEvent("probe_failed", 3, 3, evidence={"a": math.nan, "b": math.inf, "c": 1.0}, message="no memory")
    back = PhaseEvent.from_dict(json.loads(json.dumps(odd.to_dict(), allow_nan=False)))
    assert back.to_dict() == odd.to_dict()
    assert math.isnan(back.evidence["a"])
    with pytest.raises(ArgumentError, match="kind"):
        PhaseEvent("boundry", 1, 1)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        odd.epoch = 4  # type: ignore[misc]


@pytest.mark.parametrize("value", [0.0, -0.1, 0.5, 1, math.nan, math.inf, True, "rare"])
def test_the_false_alarm_rate_is_checked(value: object) -> None:
    with pytest.raises(ArgumentError, match="`false_alarm_rate`"):
        PhaseDetector(false_alarm_rate=value)  # type: ignore[arg-type]


def test_repr_rebuilds_the_detector() -> None:
    assert repr(PhaseDetector(false_alarm_rate=0.2)) == "PhaseDetector(false_alarm_rate=0.2)"
    assert eval(repr(PhaseDetector(false_alarm_rate=0.2))).false_alarm_rate == 0.2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((4, FULL[0][1], None, None), "epoch"),
        ((math.nan, FULL[0][1], None, None), "epoch"),
        (("6", FULL[0][1], None, None), "epoch"),
        ((6, FULL[0][1][0], None, None), "strength"),
        ((6, "strong", None, None), "strength"),
        ((6, -FULL[0][1], None, None), "strength"),
        ((6, FULL[0][1][..., :5], None, None), "orders"),
        ((6, FULL[0][1], "low", None), "train_loss"),
        ((6, FULL[0][1], None, [1.0, 2.0]), "val_loss"),
    ],
)
def test_bad_updates_are_refused_and_change_nothing(arguments: tuple[object, ...], match: str) -> None:
    detector = PhaseDetector()
    detector.update(5, FULL[0][1], 1.0, 1.0)
    with pytest.raises(ArgumentError, match=match):
        detector.update(*arguments)  # type: ignore[arg-type]
    assert detector._last_epoch == 5
    assert len(detector._orders.order.recent) == len(detector._losses.recent_val) == 1


# ------------------------------------------------------------------------------------------------ evidence, real runs


def test_contributions_average_to_the_mean_order_and_give_its_standard_error() -> None:
    generator = torch.Generator().manual_seed(0)
    population = torch.rand(400, 2, N, generator=generator, dtype=torch.float64) ** 2
    _, parts = weighted_mean(population, torch.arange(1, N + 1))
    assert float(parts.mean()) == pytest.approx(float(mean_order(population.mean(0))))
    redrawn = [
        float(mean_order(population[torch.randint(400, (400,), generator=generator)].mean(0))) for _ in range(400)
    ]
    assert float(parts.std() / 20) == pytest.approx(float(torch.tensor(redrawn).std()), rel=0.15)


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


# -- inside of epochs --------------------------------------------------------------------------------------------------


def test_places_inside_of_epochs_are_told_and_counted_as_epochs() -> None:
    """The same run, measured four times as often: from the initialisation on."""
    whole = [(epoch / 4 - 1, strength, train, val) for epoch, strength, train, val in FULL]
    detector, events = PhaseDetector(), []
    for place, *record in whole:
        events += detector.update(place, *record)
    (plain, *_), (first, *_) = replay(FULL), events
    place = plain.evidence["trough_epoch"] / 4 - 1
    assert first.evidence["trough_epoch"] == place
    assert (first.epoch, first.detected_epoch) == (math.ceil(place), math.ceil(plain.detected_epoch / 4 - 1))
    assert detector.boundary_epoch == first.epoch
    assert type(first.epoch) is int
    assert all(math.isfinite(event.evidence["strength_growth"]) for event in events)
    again = PhaseDetector()
    again.load_state_dict(detector.state_dict())
    with pytest.raises(ArgumentError, match="only go forward"):
        again.update(whole[-1][0] - 0.25, *whole[-1][1:])


def test_a_turn_before_training_is_one_in_epoch_0() -> None:
    detector, events = PhaseDetector(), []
    for index in range(12):
        high = 0.2 + 0.1 * index
        strength = torch.tensor([1.0, high]).repeat(8, 2, 1)
        events += detector.update(index / 4 - 1, strength, None, None)
    (event,) = events
    assert (event.epoch, event.evidence["trough_epoch"]) == (0, -1.0)
    assert " at initialisation to " in event.message
