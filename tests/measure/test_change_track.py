"""The interactions of watched samples over time."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_onsets import four_samples, keys, measurement, probe
from torch import Tensor

from lightning_interactions.errors import StateError
from lightning_interactions.measure.changes import RECENT, Changes, ChangeTrack, Moment

SHAPE = (2, 2, 8)


def salient(seed: int) -> Tensor:
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    values[..., 0] = 0
    return torch.where(values.abs() > 0.7, values, 0.0)


def follow(records: list[Tensor], turns: list[float] | None = None) -> tuple[ChangeTrack, list[dict[str, float]]]:
    track = ChangeTrack()
    found = []
    for epoch, record in enumerate(records):
        found.append(track.update(epoch, record, keys(2), math.nan if turns is None else turns[epoch]))
    return track, found


def test_at_first_everything_is_preserved() -> None:
    _, (first,) = follow([salient(0)])
    assert first["change/preserved_share"] == first["change/preserved_share_lower"] == 1
    assert first["change/emerged_share"] == first["change/removed_share"] == 0
    assert math.isnan(first["change/emerged_order"])
    assert len(first) == 27


def test_other_samples_begin_anew() -> None:
    track, _ = follow([salient(0), salient(1)])
    assert track.update(2, salient(2), keys(2) + 1)["change/emerged_share"] == 0
    assert track.since.tolist() == [2, 2]
    assert len(track.moments) == 1


def test_a_sample_begins_with_its_first_finite_record() -> None:
    bad, good = salient(0), salient(1)
    bad[1] = math.nan
    track, found = follow([bad, good, good])
    assert torch.equal(track.first[0], bad[0])
    assert torch.equal(track.first[1], good[1])
    assert track.preserved[1][good[1] != 0].all()
    assert found[1]["change/emerged_share"] > 0, "of the other sample"
    assert track.since.tolist() == [0, 1]


def test_a_bad_record_changes_nothing() -> None:
    bad = torch.full(SHAPE, math.nan)
    _, found = follow([salient(0), bad, salient(0)])
    assert math.isnan(found[1]["change/preserved_share"])
    assert found[2]["change/preserved_share"] == 1


def test_a_moment_keeps_what_is_not_zero() -> None:
    record = salient(3)
    moment = Moment.of(4.5, record)
    assert torch.equal(moment.salient, record)
    assert len(moment.value) == int((record != 0).sum())


def test_the_turning_point_is_kept_whenever_it_is_found() -> None:
    """The running minimum lags by two records; a record that was one stays as long as it is the lowest."""
    turns = [0.0, 0.0, 0.0, 1.0, 2.0, *[3.0] * 40]
    track, _ = follow([salient(i) for i in range(45)], turns)
    assert len(track.moments) == RECENT + 1
    assert track.at_turn is not None
    assert torch.equal(track.at_turn.salient, salient(3))


def test_a_record_without_a_turn_leaves_it_where_it_was() -> None:
    track, _ = follow([salient(i) for i in range(12)], [*[3.0] * 8, math.nan, *[3.0] * 3])
    assert track.at_turn is not None
    assert track.at_turn.epoch == 3


def test_a_turn_at_which_others_were_watched_is_not_known() -> None:
    track, _ = follow([salient(0)])
    for epoch in range(5, 9):
        track.update(epoch, salient(epoch), keys(2) + 1, turn=3.0)
    assert track.at_turn is None


def test_the_state_is_whole() -> None:
    bad = salient(7)
    bad[1] = math.nan
    for records in ([], [salient(0)], [salient(0), salient(1), salient(2)], [bad, salient(1)], [bad]):
        track, _ = follow(records)
        file = io.BytesIO()
        torch.save(track.state_dict(), file)
        file.seek(0)
        again = ChangeTrack.from_state(torch.load(file, weights_only=True))
        assert str(again.state_dict()) == str(track.state_dict())
        if records:
            following = salient(9)
            assert str(again.update(9, following, keys(2))) == str(track.update(9, following, keys(2)))


@pytest.mark.parametrize("state", [{}, {"first": 3}, {"first": (0.0, 1, 2, 3), "keys": torch.zeros(2)}])
def test_another_state_is_refused(state: dict[str, Any]) -> None:
    changes = Changes()
    before = copy.deepcopy(changes.state_dict())
    with pytest.raises(StateError, match="ChangeTrack"):
        changes.load_state_dict({"val": state})
    assert changes.state_dict() == before


def described(*records: Tensor, boundary: float | None = None) -> list[dict[str, Any]]:
    changes = Changes()
    found = measurement(four_samples()[:2])
    for epoch, record in enumerate(records):
        found = replace(found, salient=record)
        changes.update(epoch, {"val": found}, {"val": probe(2)}, math.nan if boundary is None else boundary)
    return changes.describe("val", found, turned=boundary is not None)


def test_a_row_tells_of_a_handful_over_time() -> None:
    start, then, now = torch.zeros(3, *SHAPE)
    start[0, 0, 3], then[0, 0, 3], now[0, 0, 3] = 1.0, 2.0, 4.0  # stays
    start[0, 0, 1] = -3.0  # goes
    then[0, 1, 6], now[0, 1, 6] = 1.0, -5.0  # another sign: new since the boundary
    rows = described(start, then, now, boundary=1)
    assert rows[0]["epochs"] == {"start": 0, "boundary": 1, "now": 2}
    assert rows[0]["salient_count"] == 2
    assert rows[0]["interactions"] == [
        {"kind": "or", "players": [1, 2], "now": -5.0, "boundary": 1.0, "start": 0.0},
        {"kind": "and", "players": [0, 1], "now": 4.0, "boundary": 2.0, "start": 1.0},
        {"kind": "and", "players": [0], "now": 0.0, "boundary": 0.0, "start": -3.0},
    ]
    assert rows[1]["interactions"] == []


def test_without_a_boundary_there_are_two_moments_and_at_first_one() -> None:
    assert described(salient(0))[0]["interactions"][0]["start"] is None
    row = described(salient(0), salient(1))[0]
    assert set(row["epochs"]) == {"start", "now"}
    assert row["interactions"][0]["boundary"] is None
    assert row["interactions"][0]["start"] is not None


def test_a_sample_that_is_not_finite_shows_nothing() -> None:
    bad = salient(0)
    bad[0] = math.nan
    rows = described(bad)
    assert (rows[0]["interactions"], rows[0]["salient_count"]) == ([], None)
    assert rows[1]["salient_count"] > 0


def test_of_a_sample_that_was_not_finite_at_a_moment_nothing_is_told_there() -> None:
    bad = salient(1)
    bad[0] = math.nan
    rows = described(salient(0), bad, salient(2), boundary=1)
    assert [set(row["epochs"]) for row in rows] == [{"start", "now"}, {"start", "boundary", "now"}]
    assert {one["boundary"] for one in rows[0]["interactions"]} == {None}
    rows = described(bad, salient(1), salient(2))
    assert [row["epochs"]["start"] for row in rows] == [1, 0]
