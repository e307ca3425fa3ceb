"""Who is told of an event."""

from __future__ import annotations

import json
import pickle
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lightning_interactions import (
    Alert,
    ArgumentError,
    CallAlert,
    InteractionsWarning,
    PhaseEvent,
    TwoPhaseMonitor,
    WandbAlert,
    WarnAlert,
    WebhookAlert,
)
from lightning_interactions.alerts import resolve_alerts
from lightning_interactions.options import describe_options

EVENT = PhaseEvent("boundary", 3, 5, message="Epoch 3 was the boundary.")


class Keep(Alert):
    def __init__(self) -> None:
        self.events: list[PhaseEvent] = []

    def send(self, event: PhaseEvent) -> None:
        self.events.append(event)


class Listener:
    def __call__(self, event: PhaseEvent) -> None: ...


KEEP = Keep()
HERE = "127.0.0.1"


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


# -- webhooks ---------------------------------------------------------------------------------------------------------


class Receiver:
    """A real server on this machine."""

    def __init__(self, status: int = 200, delay: float = 0.0) -> None:
        self.bodies: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(delay)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer((HERE, 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def address(self) -> str:
        return f"http://{HERE}:{self.server.server_port}/services/{SECRET}"


SECRET = "T0P-SECRET"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", HERE)


def test_a_webhook_gets_slacks_format(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        WebhookAlert("HOOK", title="run 7").send(EVENT)
    assert receiver.bodies == [{"text": "*run 7* Epoch 3 was the boundary."}]


def test_events_of_one_kind_are_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        alert = WebhookAlert("HOOK")
        for kind in ("boundary", "overfitting", "boundary", "overfitting"):
            alert.send(replace(EVENT, kind=kind, message=kind))
        eager = WebhookAlert("HOOK", wait=0)
        eager.send(EVENT)
        eager.send(EVENT)
    assert [body["text"] for body in receiver.bodies[:2]] == [
        "*TwoPhaseMonitor* boundary",
        "*TwoPhaseMonitor* overfitting",
    ]
    assert len(receiver.bodies) == 4


@pytest.mark.parametrize("case", ["status", "refused", "slow", "unset", "malformed"])
def test_a_failure_is_a_warning_without_the_address(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(status=500 if case == "status" else 200, delay=1.0 if case == "slow" else 0.0) as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        alert = WebhookAlert("HOOK", timeout=0.2 if case == "slow" else 5.0)
        if case == "refused":
            monkeypatch.setenv("HOOK", f"http://{HERE}:1/{SECRET}")
        if case == "unset":
            monkeypatch.delenv("HOOK")
        if case == "malformed":
            monkeypatch.setenv("HOOK", f"http://{HERE}/with a blank/{SECRET}")  # its error repeats the address
        with pytest.warns(InteractionsWarning, match="WebhookAlert: .*Epoch 3 was the boundary") as caught:
            alert.send(EVENT)
    assert SECRET not in str(caught[0].message)
    assert ("answered 500" in str(caught[0].message)) == (case == "status")


def test_the_address_is_kept_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", f"https://example.com/{SECRET}")
    alert = WebhookAlert("HOOK")
    monitor = TwoPhaseMonitor(on_event=[alert])
    for kept in (
        repr(alert),
        pickle.dumps(alert),
        repr(vars(alert)),
        repr(monitor.state_dict()),
        pickle.dumps(monitor),
    ):
        assert SECRET not in str(kept)
    assert SECRET not in json.dumps(describe_options(monitor), default=str)


@pytest.mark.parametrize("value", [None, "", "file:///etc/passwd", "example.com"])
def test_a_variable_without_an_address_is_refused(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("HOOK", value)
    with pytest.raises(ArgumentError, match="`variable`"):
        WebhookAlert("HOOK")


def test_an_address_given_by_mistake_is_not_repeated() -> None:
    with pytest.raises(ArgumentError) as caught:
        WebhookAlert(f"https://example.com/{SECRET}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("option", [{"timeout": 0}, {"timeout": True}, {"wait": -1}, {"wait": float("inf")}])
def test_bad_numbers_are_refused(option: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://example.com")
    with pytest.raises(ArgumentError, match=next(iter(option))):
        WebhookAlert("HOOK", **option)


def test_wandb_without_a_run_is_a_warning() -> None:
    with pytest.warns(InteractionsWarning, match="WandbAlert: .*Epoch 3 was the boundary"):
        WandbAlert().send(EVENT)
