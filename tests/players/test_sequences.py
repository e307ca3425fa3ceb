"""Arguments from configuration files: lists may be any sequence, mappings any mapping."""

from __future__ import annotations

from collections import UserDict, UserList
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator

from lightning_interactions import TwoPhaseMonitor, WarnAlert
from lightning_interactions.errors import ArgumentError
from lightning_interactions.measure.fingerprint import fingerprint
from lightning_interactions.monitor.options import Options
from lightning_interactions.players import FeatureMask, ImagePatches, Players, TabularFeatures, Tokens
from lightning_interactions.players.base import plain
from lightning_interactions.report.alerts import CallAlert, resolve_alerts


def own(value: Any) -> Any:
    """Containers of somebody else, also inside of each other."""
    if isinstance(value, dict):
        return UserDict({key: own(item) for key, item in value.items()})
    return UserList(map(own, value)) if isinstance(value, list) else value


def of_omegaconf(value: Any) -> Any:
    return pytest.importorskip("omegaconf").OmegaConf.create(value)


def tuples(value: Any) -> Any:
    return tuple(map(tuples, value)) if isinstance(value, list) else value


GIVEN: dict[str, tuple[Callable[..., Players], dict[str, Any], torch.Tensor]] = {
    "grid": (ImagePatches, {"grid": [2, 4]}, torch.randn(1, 8, 8)),
    "mask": (FeatureMask, {"mask": [0, 0, 1, -1]}, torch.randn(4)),
    "nested mask": (FeatureMask, {"mask": [[0, 0], [1, 2]]}, torch.randn(2, 2)),
    "groups": (TabularFeatures, {"baseline": "zero", "groups": [[0, 2], [1, 3]]}, torch.randn(4)),
    "named groups": (TabularFeatures, {"baseline": "zero", "groups": {"a": [0, 2], "b": [1, 3]}}, torch.randn(4)),
    "special_token_ids": (Tokens, {"mask_token_id": 9, "special_token_ids": [1, 2]}, torch.tensor([1, 5, 6, 2])),
}


@pytest.mark.parametrize("convert", [own, of_omegaconf, tuples], ids=["of somebody", "omegaconf", "tuples"])
@pytest.mark.parametrize(("make", "options", "sample"), GIVEN.values(), ids=GIVEN.keys())
def test_players_from_any_sequence(
    make: Callable[..., Players], options: dict[str, Any], sample: torch.Tensor, convert: Callable[[Any], Any]
) -> None:
    given = {name: convert(value) if isinstance(value, (list, dict)) else value for name, value in options.items()}
    players, plainly = make(**given), make(**options)
    drawn = [kind.draw(sample, 4, Generator().manual_seed(0)).tolist() for kind in (players, plainly)]
    assert drawn[0] == drawn[1]
    if convert is not tuples:  # which were taken before, and shown as given
        assert repr(players) == repr(plainly)
        assert fingerprint(players) == fingerprint(plainly), "a run can be resumed with its options from elsewhere"


def test_players_from_hydra() -> None:
    instantiate = pytest.importorskip("hydra.utils").instantiate
    yaml = """
    _target_: lightning_interactions.TwoPhaseMonitor
    players: {_target_: lightning_interactions.%s}
    on_event: [warn, {_target_: lightning_interactions.WarnAlert}]
    """
    for written, expected in {
        "ImagePatches, grid: [4, 5]": ImagePatches((4, 5)),
        "FeatureMask, mask: [[0, 0], [1, 1]]": FeatureMask([[0, 0], [1, 1]]),
        "TabularFeatures, groups: [[0, 1], [2]]": TabularFeatures(groups=[[0, 1], [2]]),
        "TabularFeatures, groups: {a: [0, 1]}": TabularFeatures(groups={"a": [0, 1]}),
        "Tokens, mask_token_id: 4, special_token_ids: [1, 2]": Tokens(4, [1, 2]),
    }.items():
        monitor = instantiate(of_omegaconf_text(yaml % written))
        assert fingerprint(monitor.options.players) == fingerprint(expected)
        assert monitor.options.settings["on_event"] == ["warn", "warn"]


def of_omegaconf_text(yaml: str) -> Any:
    return pytest.importorskip("omegaconf").OmegaConf.create(yaml)


@pytest.mark.parametrize("convert", [own, tuples], ids=["of somebody", "tuples"])
def test_those_told_of_events_from_any_sequence(convert: Callable[[Any], Any]) -> None:
    told = convert(["warn", [WarnAlert(), print]])
    assert [type(alert) for alert in resolve_alerts(told)] == [WarnAlert, WarnAlert, CallAlert]
    assert Options(on_event=told).settings["on_event"] == ["warn", "warn", "print"]
    assert TwoPhaseMonitor(on_event=of_omegaconf(["warn"])).options.settings["on_event"] == ["warn"]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ImagePatches(grid=own([4])), "grid"),
        (lambda: ImagePatches(grid=own([4, "5"])), "grid"),
        (lambda: ImagePatches(grid=b"44"), "grid"),
        (lambda: FeatureMask(own([[0, 1], [2]])), "mask"),
        (lambda: FeatureMask(own(["a", "b"])), "mask"),
        (lambda: TabularFeatures(groups=own([[0, 1], [1, 2]])), "groups"),
        (lambda: TabularFeatures(groups=own({"a": 1})), "groups"),
        (lambda: Tokens(special_token_ids=own(["a"])), "special_token_ids"),
        (lambda: Tokens(special_token_ids=5), "special_token_ids"),
        (lambda: Tokens(special_token_ids=None), "special_token_ids"),
    ],
)
def test_what_is_in_them_is_still_checked(make: Callable[[], Players], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        make()


def test_ids_may_be_a_set() -> None:
    assert Tokens(special_token_ids={1, 2}).special_token_ids == (1, 2)


def test_plain_leaves_what_is_plain() -> None:
    value = {"a": [1, (2, [3])], "b": "text", "c": range(3), "d": b"x", "e": None}
    assert plain(value) == value
    assert plain(own(value)) == value
