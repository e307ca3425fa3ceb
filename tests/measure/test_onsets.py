"""Every watched sample on its own: planted turns are found at their epoch, and nothing else is called a turn."""

from __future__ import annotations

import copy
import json
import math
import statistics
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import StateError
from lightning_interactions.functional import mean_order
from lightning_interactions.measure.measurement import Measurement
from lightning_interactions.measure.onsets import MIN_RISE, SampleTrack, SampleTracks, sample_table
from lightning_interactions.measure.samples import Samples

N = 5
NAN = math.nan


def strength_of(orders: list[float]) -> Tensor:
    """Strengths ``(B, 2, N)`` with these mean orders, all of it positive; none at all for ``nan``."""
    out = torch.zeros(len(orders), 2, N, dtype=torch.float64)
    for row, order in enumerate(orders):
        if not math.isnan(order):
            low = min(int(order), N - 1)
            out[row, 0, low - 1], out[row, 0, low] = low + 1 - order, order - low
    return out


def keys(size: int) -> Tensor:
    return torch.arange(size) * 11


def follow(curves: list[list[float]], track: SampleTrack | None = None, start: int = 0) -> SampleTrack:
    """Feed one curve of mean orders per sample, a value per epoch."""
    track = track or SampleTrack()
    for epoch, orders in enumerate(zip(*curves, strict=True), start=start):
        track.update(epoch, strength_of(list(orders)), keys(len(curves)))
    return track


def onset_by_loop(curve: list[float]) -> int | None:
    """The definition, word by word, for one sample."""
    records: list[tuple[int, float]] = [(epoch, order) for epoch, order in enumerate(curve) if not math.isnan(order)]
    levels: list[tuple[float, float, int]] = []
    for i in range(len(records)):
        window = [order for _, order in records[max(i - 2, 0) : i + 1]]
        if i == 0:
            levels.append((window[0], window[0], records[0][0]))
        elif i >= 2:
            levels.append((statistics.median(window), window[1], records[i - 1][0]))
    if not levels:
        return None
    lowest = levels.index(min(levels, key=lambda level: level[:2]))
    rises = [level[0] - levels[lowest][0] >= MIN_RISE * (N - 1) for level in levels[lowest + 1 :]]
    return levels[lowest][2] if any(first and second for first, second in pairwise(rises)) else None


def v_shape(turn: int, epochs: int = 16, slope: float = 0.2) -> list[float]:
    return [1.5 + slope * abs(epoch - turn) for epoch in range(epochs)]


# -- planted turns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(11))
def test_a_planted_turn_is_found_at_its_epoch(turn: int) -> None:
    assert follow([v_shape(turn)]).onset_epochs() == [turn]


def test_a_turn_is_told_only_once_it_has_risen() -> None:
    curve = v_shape(6, slope=0.08)  # smoothed, the tip is 0.08 higher, and 0.2 of an order above it is needed
    told = [follow([curve[: epoch + 1]]).onset_epochs()[0] for epoch in range(len(curve))]
    first = next(epoch for epoch, onset in enumerate(told) if onset is not None)
    assert told[first:] == [6] * (len(curve) - first)
    assert first == 6 + 4 + 1 + 1, "four epochs to rise, one more in a row, one for the median"


def test_no_strength_no_turn_and_no_rise_no_turn() -> None:
    falls, flat = [3 - 0.1 * epoch for epoch in range(12)], [2.0] * 12
    rises_too_little = [2 + 0.19 * (epoch > 5) for epoch in range(12)]
    assert follow([falls, flat, rises_too_little, [NAN] * 12]).onset_epochs() == [None] * 4


def test_one_odd_record_is_no_turn() -> None:
    curve = [3 - 0.1 * epoch for epoch in range(12)]
    curve[4], curve[8] = 1.0, 4.5
    assert follow([curve]).onset_epochs() == [None]


def test_a_turn_below_which_the_curve_falls_is_withdrawn() -> None:
    curve = [*v_shape(3, 9), *(2.5 - 0.2 * k for k in range(1, 8))]
    assert follow([curve[:9]]).onset_epochs() == [3]
    assert follow([curve]).onset_epochs() == [None]
    assert follow([[*curve, *(1.1 + 0.3 * k for k in range(1, 5))]]).onset_epochs() == [15]


def test_records_without_strength_are_passed_over() -> None:
    curve = v_shape(8)
    curve[2] = curve[9] = NAN
    assert follow([curve]).onset_epochs() == [8]
    late = [NAN] * 4 + v_shape(3)
    assert follow([late]).onset_epochs() == [7]


def test_a_sample_that_was_not_finite_keeps_its_track() -> None:
    track = follow([v_shape(4), v_shape(4)])
    broken = strength_of([3.0, 3.0])
    broken[1] = NAN
    track.update(16, broken, keys(2))
    assert track.onset_epochs() == [4, 4]


def test_quantiles_are_over_all_samples() -> None:
    turns = [2, 4, 4, 6, 8, 9]
    track = follow([v_shape(turn) for turn in turns] + [[2.0] * 16] * 4)
    assert track.scalars() == {"onset/turned": 0.6, "onset/q10": 2.0, "onset/q50": 8.0, "onset/q90": -1.0}
    few = follow([v_shape(turn) for turn in (2, 4, 6)])  # a tenth of three samples is one, half are two
    assert few.scalars() == {"onset/turned": 1.0, "onset/q10": 2.0, "onset/q50": 4.0, "onset/q90": 6.0}
    assert SampleTrack().scalars() == {"onset/turned": 0.0, "onset/q10": -1.0, "onset/q50": -1.0, "onset/q90": -1.0}


def test_other_samples_begin_anew() -> None:
    track = follow([v_shape(4)])
    track.update(16, strength_of([3.0]), keys(1) + 1)
    assert track.onset_epochs() == [None]


# -- properties ------------------------------------------------------------------------------------------------------

orders = st.one_of(st.just(NAN), st.floats(1, N).map(lambda x: round(x, 1)))
curves = (
    st.integers(1, 4)
    .flatmap(lambda size: st.lists(st.lists(orders, min_size=size, max_size=size), min_size=1, max_size=20))
    .map(lambda rows: [list(column) for column in zip(*rows, strict=True)])
)


@given(curves)
def test_equals_the_definition_word_by_word(columns: list[list[float]]) -> None:
    # what update() sees: the orders of the strengths, with their rounding
    seen = [mean_order(strength_of(column)).tolist() for column in columns]
    assert follow(columns).onset_epochs() == [onset_by_loop(column) for column in seen]


@given(curves, st.data())
def test_samples_do_not_touch_each_other(columns: list[list[float]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(columns))))
    onsets = follow(columns).onset_epochs()
    assert follow([columns[i] for i in order]).onset_epochs() == [onsets[i] for i in order]


@given(curves, st.lists(st.integers(-30, 30), min_size=4, max_size=4))
def test_the_unit_of_strength_does_not_matter(columns: list[list[float]], powers: list[int]) -> None:
    track = SampleTrack()
    for epoch, row in enumerate(zip(*columns, strict=True)):
        scale = torch.tensor([2.0**power for power in powers[: len(row)]]).view(-1, 1, 1)  # exact in floating point
        track.update(epoch, strength_of(list(row)) * scale, keys(len(row)))
    assert track.onset_epochs() == follow(columns).onset_epochs()


@given(curves, st.data())
def test_resumed_equals_uninterrupted(columns: list[list[float]], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(columns[0])))
    first, second = follow([column[:stop] for column in columns]), SampleTrack()
    second.load_state_dict(first.state_dict())
    follow([column[stop:] for column in columns], second, start=stop)
    whole = follow(columns)
    assert second.onset_epochs() == whole.onset_epochs()
    assert str(second.state_dict()) == str(whole.state_dict())


def test_memory_does_not_grow_with_the_run() -> None:
    short, long = follow([v_shape(3, 5)] * 4), follow([v_shape(3, 50)] * 4)
    sizes = [sum(value.numel() for value in track.state_dict().values()) for track in (short, long)]
    assert sizes[0] == sizes[1] <= 4 * 12


def test_a_state_that_does_not_fit_is_refused() -> None:
    track = follow([v_shape(4)])
    with pytest.raises(StateError, match="SampleTrack"):
        track.load_state_dict({"keys": keys(1)})
    assert track.onset_epochs() == [4]


def test_the_state_is_a_copy() -> None:
    track = follow([v_shape(4)])
    track.state_dict()["turned"].zero_()
    assert track.onset_epochs() == [4]


# -- the table of the samples ----------------------------------------------------------------------------------------


def measurement(strength: Tensor) -> Measurement:
    size = len(strength)
    gap = torch.where(strength.isfinite().all(-1).all(-1), 0.0, NAN)
    return Measurement(
        strength=strength,
        mean_strength=strength.nanmean(0),
        numbers={},
        histogram=torch.zeros(N, 1).long(),
        edges=torch.zeros(2),
        energy=torch.zeros(size, N),
        tail=strength,
        gap=gap,
        noise=torch.zeros(N),
        target=torch.arange(size) % 3 + gap,
        prediction=torch.tensor([0.0, 2.5, 2.0, 1.0])[:size] + gap,
        followed=torch.arange(size) % 2 + gap,
        salient=torch.zeros(size, 2, 2**N),
        ends=torch.zeros(size, 2),
    )


def probe(size: int) -> Samples:
    return Samples(torch.zeros(size, 3), torch.arange(size) % 3, keys(size))


def four_samples() -> Tensor:
    strength = torch.zeros(4, 2, N, dtype=torch.float64)
    strength[0, 0, 0], strength[0, 1, 0] = 5.0, 5.0  # cancels, but in low orders
    strength[1, 0, 4] = 9.0  # high orders that do not cancel
    strength[2, 0, 2], strength[2, 1, 3], strength[2, 0, 0] = 3.0, 1.5, 0.5  # high orders that do
    strength[3] = NAN
    return strength


def test_the_table_says_what_each_sample_has() -> None:
    rows = sample_table("val", probe(4), measurement(four_samples()), [1, None, 3, None])
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [row["key"] for row in rows] == keys(4).tolist()
    assert [row["target"] for row in rows] == [0, 1, 2, None]
    assert [row["prediction"] for row in rows] == [0, 2.5, 2, None]
    assert [row["followed"] for row in rows] == [0, 1, 0, None]
    assert type(rows[0]["prediction"]) is int
    assert [row["onset_epoch"] for row in rows] == [1, None, 3, None]
    assert [row["strength"] for row in rows] == [10.0, 9.0, 5.0, None]
    assert [row["mean_order"] for row in rows] == [1.0, 5.0, pytest.approx((0.5 + 9 + 6) / 5), None]
    assert [row["high_order_share"] for row in rows] == [0.0, 1.0, pytest.approx(0.9), None]
    assert [row["cancellation"] for row in rows] == [1.0, 0.0, pytest.approx(0.6), None]
    assert [row["high_order_cancelled"] for row in rows] == [0.0, 0.0, 3.0, None]
    json.dumps(rows, allow_nan=False)


def test_the_most_cancelling_samples_come_first_over_both_splits() -> None:
    tracks = SampleTracks()
    val, train = measurement(four_samples()), measurement(2 * four_samples())
    scalars, rows = tracks.update(0, {"val": val, "train": train}, {"val": probe(4), "train": probe(4)})
    assert [(row["split"], row["index"]) for row in rows[:2]] == [("train", 2), ("val", 2)]
    assert len(rows) == 8
    assert set(scalars) == {f"{s}/onset/{k}" for s in ("val", "train") for k in ("turned", "q10", "q50", "q90")}
    restored = SampleTracks()
    restored.load_state_dict(copy.deepcopy(tracks.state_dict()))
    assert str(restored.state_dict()) == str(tracks.state_dict())
    assert set(tracks.update(1, {"val": val}, {"val": probe(4)})[0]) == {
        "onset/turned", "onset/q10", "onset/q50", "onset/q90",
    }  # fmt: skip
