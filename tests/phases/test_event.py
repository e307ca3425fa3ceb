"""One event: what it withdraws, whether people are told, and that it survives strict JSON."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interactions.errors import ArgumentError
from lightning_interactions.phases import EventKind, PhaseEvent

KINDS = get_args(EventKind)
OTHERS = [kind for kind in KINDS if kind != "retracted"]


def through_json(event: PhaseEvent) -> PhaseEvent:
    return PhaseEvent.from_dict(json.loads(json.dumps(event.to_dict(), allow_nan=False)))


@given(
    st.sampled_from(KINDS), st.integers(0, 1000), st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False)),
    st.text(max_size=20), st.sampled_from(["boundary", "overfitting"]), st.sampled_from(["epoch", "step"]),
)  # fmt: skip
def test_it_survives_strict_json(
    kind: Any, epoch: int, evidence: dict[str, float], message: str, of: str, unit: Any
) -> None:
    event = PhaseEvent(kind, epoch, epoch + 1, 7, evidence, message, of if kind == "retracted" else "", unit)
    back = through_json(event)
    assert back.to_dict() == event.to_dict()
    finite = {name: value for name, value in evidence.items() if math.isfinite(value)}
    assert {name: back.evidence[name] for name in finite} == finite
    assert all(math.isnan(back.evidence[name]) for name in evidence.keys() - finite.keys())
    if finite == evidence:
        assert back == event


def test_a_retraction_says_of_what() -> None:
    assert PhaseEvent("retracted", 3, 5, retracts="overfitting").retracts == "overfitting"
    assert PhaseEvent("retracted", 3, 5, retracts="boundary").retracts == "boundary"
    with pytest.raises(ArgumentError, match="`retracts` to be 'boundary' or 'overfitting', but got 'suspected'"):
        PhaseEvent("retracted", 3, 5, retracts="suspected")


@pytest.mark.parametrize("kind", OTHERS)
def test_nothing_else_retracts_anything(kind: Any) -> None:
    assert PhaseEvent(kind, 3, 5).retracts == ""
    with pytest.raises(ArgumentError, match="`retracts`"):
        PhaseEvent(kind, 3, 5, retracts="boundary")


def test_people_are_told_all_but_suspicions() -> None:
    assert {kind for kind in KINDS if not PhaseEvent(kind, 1, 1).is_alert} == {"suspected"}


def test_events_of_earlier_versions_are_read() -> None:
    """They knew of no retraction but that of a boundary."""
    old = {"kind": "retracted", "epoch": 3, "detected_epoch": 9, "step": 4, "evidence": {"z": None}, "message": "m"}
    event = PhaseEvent.from_dict(old)
    assert (event.retracts, event.is_alert, event.epoch, event.detected_epoch) == ("boundary", True, 3, 9)
    assert through_json(event).retracts == "boundary"
    assert PhaseEvent.from_dict({**old, "kind": "boundary"}).retracts == ""
    bare = {"kind": "boundary", "epoch": 3, "detected_epoch": 9}
    assert PhaseEvent.from_dict(bare) == PhaseEvent("boundary", 3, 9)


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`unit` to be 'epoch' or 'step', but got 'steps'"):
        PhaseEvent("boundary", 1, 1, unit="steps")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="`kind` to be one of suspected, boundary"):
        PhaseEvent("border", 1, 1)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        PhaseEvent("boundary", 1, 1).epoch = 4  # type: ignore[misc]


def test_a_notebook_shows_the_sentence_and_the_evidence() -> None:
    event = PhaseEvent("probe_failed", 1, 1, evidence={"<z>": math.inf, "rise": 1.23456}, message="1 < 2")
    shown = event._repr_html_()
    assert "<b>probe failed.</b> 1 &lt; 2" in shown
    assert "<td>&lt;z&gt;</td><td>inf</td>" in shown
    assert "<td>rise</td><td>1.235</td>" in shown
