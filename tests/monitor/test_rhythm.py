"""When to measure: a pure function of where the training is and of the last record."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interactions.monitor.rhythm import crossed, is_due, marks, marks_per_epoch


def schedule(
    epochs: int,
    *,
    batches: int = 100,
    per_octave: int = 16,
    most: int = 4,
    last: dict[str, Any] | None = None,
) -> list[float]:
    """Places of the records of a run that is validated at the end of each epoch, or that goes on after the last one."""
    found: list[float] = []
    resumed_at = -math.inf if last is None else last["epoch"]

    def ask(epoch: float, step: int) -> None:
        nonlocal last
        if epoch > resumed_at and is_due(epoch, step, last, per_octave=per_octave, every_n_epochs=None):
            last = {"epoch": epoch, "step": step - 1}
            found.append(epoch)

    ask(-1, 0)
    for epoch in range(epochs):
        for batch in sorted(marks(batches, marks_per_epoch(epoch, per_octave, most), [batches])):
            ask(epoch if batch == batches else epoch - 1 + batch / batches, epoch * batches + batch)
    return found


def test_a_run_begins_with_four_records_an_epoch() -> None:
    assert schedule(2) == [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(("epochs", "records"), [(1, 5), (2, 9), (10, 37), (100, 90), (1000, 143)])
def test_the_number_of_records_grows_with_the_logarithm_of_the_epochs(epochs: int, records: int) -> None:
    assert len(schedule(epochs)) == records


def test_a_late_octave_has_as_many_records_as_it_should() -> None:
    places = schedule(512)
    for octave in range(4, 9):
        inside = [place for place in places if 2**octave < place + 1 <= 2 ** (octave + 1)]
        assert len(inside) == pytest.approx(16, abs=1)


def test_records_are_spread_evenly_on_the_logarithmic_axis() -> None:
    done = [place + 1 for place in schedule(1000) if place + 1 >= 32]
    gaps = [math.log2(b / a) for a, b in pairwise(done)]
    assert all(gap < 2 / 16 for gap in gaps)
    assert max(gaps) - 1 / 16 < math.log2(1 + 1 / 32), "no further from even than an epoch is wide"


def test_late_records_are_made_at_the_ends_of_epochs() -> None:
    places = schedule(300)
    assert all(place == int(place) for place in places if place > 23)
    assert any(place != int(place) for place in places if 15 < place < 23)


@pytest.mark.parametrize(
    ("epoch", "step", "due"),
    [(4, 53, False), (4, 54, True), (5, 51, True), (4, 50, False)],
    ids=["hardly further", "on the next rung", "in the next epoch", "the same place"],
)
def test_steps_count_inside_of_an_epoch_of_unknown_length(epoch: int, step: int, due: bool) -> None:
    assert is_due(epoch, step, {"epoch": 4, "step": 49}, per_octave=4, every_n_epochs=None) == due


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (4, [0, 4])])
def test_every_so_many_epochs_is_the_plain_alternative(every: int, expected: list[int]) -> None:
    last, found = None, []
    for epoch in range(6):
        if is_due(epoch, epoch, last, per_octave=16, every_n_epochs=every):
            last = {"epoch": epoch, "step": epoch}
            found.append(epoch)
    assert found == expected


RUNS = {
    "epochs": st.integers(1, 30), "batches": st.integers(1, 40), "per_octave": st.integers(1, 24),
    "most": st.integers(1, 8),
}  # fmt: skip


@given(**RUNS)
def test_places_go_forward_and_no_epoch_has_more_than_the_most(
    epochs: int, batches: int, per_octave: int, most: int
) -> None:
    places = schedule(epochs, batches=batches, per_octave=per_octave, most=most)
    assert places == sorted(set(places))
    assert places[0] == -1
    for epoch in range(epochs):
        assert sum(epoch - 1 < place <= epoch for place in places) <= most


@given(data=st.data(), **RUNS)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(
    epochs: int, data: Any, batches: int, per_octave: int, most: int
) -> None:
    whole = schedule(epochs, batches=batches, per_octave=per_octave, most=most)
    at = data.draw(st.integers(0, len(whole) - 1))
    last = {"epoch": whole[at], "step": round((whole[at] + 1) * batches) - 1}
    more = schedule(epochs, batches=batches, per_octave=per_octave, most=most, last=last)
    assert whole[: at + 1] + more == whole


@given(st.floats(0.01, 1e4), st.floats(1, 100), st.integers(1, 64))
def test_twice_as_far_is_always_a_rung_further(before: float, factor: float, per_octave: int) -> None:
    assert crossed(per_octave, 2 * before * factor, before)
    assert not crossed(per_octave, before, before)


@given(st.integers(1, 500), st.integers(1, 12), st.data())
def test_marks_lie_in_the_epoch_and_validations_take_their_places(batches: int, number: int, data: Any) -> None:
    validations = data.draw(st.sets(st.integers(1, batches), max_size=6))
    found, plain = marks(batches, number, validations), marks(batches, number)
    assert 1 <= len(found) <= len(plain) == min(number, batches)
    assert batches in plain
    assert all(1 <= batch <= batches for batch in found)
    width = batches / min(number, batches)
    for batch in found - validations:
        assert all(abs(batch - validation) > width / 2 for validation in validations), "not twice almost at one place"


def test_a_place_read_from_a_history_is_the_same_place() -> None:
    """Places are kept less one, so that the last bit of what is done may change."""
    for batches in range(1, 200):
        for batch in range(1, batches + 1):
            done = batch / batches
            assert not crossed(16, done, (done - 1) + 1)
