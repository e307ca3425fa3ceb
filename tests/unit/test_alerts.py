"""Who is told of an event."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_interactions import Alert, ArgumentError, CallAlert, InteractionsWarning, PhaseEvent, WarnAlert
from lightning_interactions.alerts import resolve_alerts

EVENT = PhaseEvent("boundary", 3, 5, message="Epoch 3 was the boundary.")


class Keep(Alert):
    def __init__(self) -> None:
        self.events: list[PhaseEvent] = []

    def send(self, event: PhaseEvent) -> None:
        self.events.append(event)


class Listener:
    def __call__(self, event: PhaseEvent) -> None: ...


KEEP = Keep()


@pytest.mark.parametrize(
    ("on_event", "kinds"),
    [
        (None, []),
        ("warn", [WarnAlert]),
        (print, [CallAlert]),
        (lambda event: None, [CallAlert]),
        (Listener(), [CallAlert]),
        (KEEP, [Keep]),
        ([], []),
        (["warn", KEEP, print], [WarnAlert, Keep, CallAlert]),
        (("warn", KEEP), [WarnAlert, Keep]),
        ([["warn"], [KEEP]], [WarnAlert, Keep]),
        ([None, "warn"], [WarnAlert]),
    ],
    ids=["none", "warn", "function", "lambda", "callable", "alert", "empty", "list", "tuple", "nested", "none in list"],
)
def test_on_event_is_understood(on_event: Any, kinds: list[type]) -> None:
    found = resolve_alerts(on_event)
    assert [type(alert) for alert in found] == kinds
    assert all(alert is KEEP for alert in found if isinstance(alert, Keep))


@pytest.mark.parametrize("on_event", ["print", "", 3, True, Keep, {"warn": True}, ["warn", "mail"]], ids=repr)
def test_anything_else_is_refused(on_event: Any) -> None:
    with pytest.raises(ArgumentError, match='`on_event` to be "warn", a callable, an Alert'):
        resolve_alerts(on_event)


def test_a_warning_carries_the_message() -> None:
    with pytest.warns(InteractionsWarning) as caught:
        WarnAlert().send(EVENT)
    assert [str(warning.message) for warning in caught] == ["Epoch 3 was the boundary."]


def test_a_function_gets_the_event_itself() -> None:
    heard: list[PhaseEvent] = []
    (alert,) = resolve_alerts(heard.append)
    alert.send(EVENT)
    assert heard == [EVENT]
    assert heard[0] is EVENT


def test_an_alert_must_say_how_to_send() -> None:
    with pytest.raises(TypeError, match="send"):
        Alert()  # type: ignore[abstract]
