"""What is chosen of a sample's interactions, and what is said of them."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lightning_interactions.pictures.exhibit import (
    GONE,
    HANDFUL,
    Exhibit,
    Shown,
    choose,
    exhibit_of,
    interactions_of,
    title_of,
)
from lightning_interactions.players.picture import Picture

ABC = Picture(["a", "b", "c"])


@pytest.mark.parametrize(
    ("now", "boundary", "start", "status"),
    [
        (1.0, None, None, ""),
        (1.0, None, 2.0, "stayed"),
        (1.0, None, 0.0, "new since the start"),
        (1.0, None, -2.0, "new since the start"),
        (0.0, None, 2.0, "gone"),
        (1.0, 1.0, 1.0, "stayed"),
        (-1.0, -1.0, -1.0, "stayed"),
        (1.0, 1.0, 0.0, "new before the boundary"),
        (1.0, 1.0, -1.0, "new before the boundary"),
        (1.0, 0.0, 0.0, "new since the boundary"),
        (1.0, -1.0, -1.0, "new since the boundary"),
        (1.0, 0.0, 1.0, "back since the boundary"),
        (0.0, 1.0, 0.0, "gone"),
    ],
)
def test_status_says_since_when_it_is_there(
    now: float, boundary: float | None, start: float | None, status: str
) -> None:
    assert Shown("and", (0, 1), now, boundary, start).status == status


def test_players_without_a_name_have_a_number() -> None:
    assert Shown("and", (0, 5), 1.0).words(["a"]) == "a AND player 5"


def values(**at: float) -> torch.Tensor:
    """Interactions of four players: ``and3`` is the AND row's column 3, players 0 and 1."""
    found = torch.zeros(2, 16)
    for name, value in at.items():
        found[int(name.startswith("or")), int(name.lstrip("andor"))] = value
    return found


def test_the_strongest_are_chosen_in_their_order() -> None:
    now = values(and1=0.1, and3=-3.0, or5=2.0, and15=1.0, or8=0.5, and2=-0.4, or15=0.3)
    shown, gone = choose(now)
    assert [(one.kind, one.players) for one in shown] == [
        ("and", (0, 1)),
        ("or", (0, 2)),
        ("and", (0, 1, 2, 3)),
        ("or", (3,)),
        ("and", (1,)),
    ]
    assert len(shown) == HANDFUL
    assert gone == []
    assert all(one.boundary is None and one.start is None for one in shown)


def test_gone_are_the_strongest_of_before_that_are_not_salient_now() -> None:
    now = values(and3=1.0)
    boundary, start = values(and3=9.0, or5=2.0, and1=0.5), values(or6=-3.0, or5=0.1)
    shown, gone = choose(now, boundary, start)
    assert [(one.players, one.now, one.boundary, one.start) for one in shown] == [((0, 1), 1.0, 9.0, 0.0)]
    assert [(one.players, one.boundary, one.start) for one in gone] == [
        ((1, 2), 0.0, -3.0),
        ((0, 2), 2.0, pytest.approx(0.1)),
    ]
    assert len(gone) == GONE


def test_what_was_never_there_is_not_shown() -> None:
    assert choose(values(), values(), values()) == ([], [])
    assert choose(values(and1=math.nan)) == ([], [])


@pytest.mark.parametrize(
    ("shown", "count", "caption"),
    [
        ([], 0, "no salient interactions"),
        ([2.0], 1, "the only salient interaction has 25 % of the strength"),
        ([2.0, -4.0], 2, "all 2 salient interactions have 75 % of the strength"),
        ([2.0, -4.0], 7, "2 of 7 salient interactions have 75 % of the strength"),
    ],
)
def test_caption_says_how_much_is_shown(shown: list[float], count: int, caption: str) -> None:
    found = Exhibit("sample", ABC, [Shown("and", (0, 1), value) for value in shown], count=count, strength=8.0)
    assert found.caption == caption


def test_share_is_not_known_without_a_strength() -> None:
    found = Exhibit("sample", ABC, [Shown("and", (0,), 1.0)], count=3)
    assert math.isnan(found.share(found.shown[0]))
    assert found.caption == "1 of 3 salient interactions have a strength not known"


def test_a_row_of_the_history_becomes_an_exhibit_again() -> None:
    shown, gone = choose(values(and3=1.0, or5=-2.0), values(and1=3.0), values())
    row = {
        "split": "train",
        "index": 7,
        "target": 0.51234,
        "interactions": interactions_of(shown, gone),
        "salient_count": 2,
        "strength": 3.0,
        "score_of_nothing": -1.0,
        "score": 0.0,
        "epochs": {"start": -1.0, "boundary": 3.0, "now": 9.0},
    }
    found = exhibit_of(json.loads(json.dumps(row)), ABC)
    assert (list(found.shown), list(found.gone)) == (shown, gone)
    assert (found.title, found.count, found.strength, found.ends) == (
        "train sample 7: target 0.512", 2, 3.0, (-1.0, 0.0))  # fmt: skip
    assert found.epochs == row["epochs"]
    assert found.picture is ABC


def test_a_row_without_numbers_or_a_picture_still_is_an_exhibit() -> None:
    row = {"split": "val", "index": 1, "interactions": interactions_of([Shown("or", (0, 4), 1.0)], [])}
    found = exhibit_of(row)
    assert list(found.picture.names) == [f"player {i}" for i in range(5)]
    assert found.ends is None
    assert found.epochs == {}
    assert math.isnan(found.strength)


def test_titles_say_what_is_known() -> None:
    assert title_of({"split": "val", "index": 3}) == "val sample 3"
    assert title_of({"split": "val", "index": 3, "prediction": 1}) == "val sample 3: predicted 1"
