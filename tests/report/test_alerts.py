"""Who is told of an event."""

from __future__ import annotations

import json
import logging
import pickle
import random
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest

from lightning_interactions import (
    Alert,
    ArgumentError,
    CallAlert,
    InteractionsWarning,
    PhaseEvent,
    TrackioAlert,
    TwoPhaseMonitor,
    WandbAlert,
    WarnAlert,
    WebhookAlert,
)
from lightning_interactions.report.alerts import resolve_alerts

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
                answer = b"ok"  # Slack's, and apprise insists on it
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                with suppress(ConnectionError):  # who gave up does not listen any more
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer((HERE, 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Receiver:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def base(self) -> str:
        return f"http://{HERE}:{self.server.server_port}"

    @property
    def address(self) -> str:
        return f"json://{HERE}:{self.server.server_port}/services/{SECRET}"


SECRET = "T0P-SECRET"
DISCORD = f"https://discord.com/api/webhooks/123456789012345678/{SECRET}-{'x' * 57}"
SLACK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", HERE)


def test_a_server_is_told_the_title_the_sentence_and_how_serious_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver, warnings.catch_warnings():
        warnings.simplefilter("error", InteractionsWarning)
        monkeypatch.setenv("HOOK", receiver.address)
        alert = WebhookAlert("HOOK", title="run 7", wait=0)
        for kind in ("boundary", "overfitting", "probe_failed"):
            alert.send(replace(EVENT, kind=kind))
    assert {(body["title"], body["message"]) for body in receiver.bodies} == {("run 7", "Epoch 3 was the boundary.")}
    assert [body["type"] for body in receiver.bodies] == ["info", "warning", "failure"]


def test_discord_and_slack_get_their_own_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their addresses are understood as they are shown, and what is posted has the fields they document."""
    from apprise.plugins.discord import NotifyDiscord
    from apprise.plugins.slack import NotifySlack

    monkeypatch.setenv("HOOK", f"{DISCORD}, {SLACK}")
    alert = WebhookAlert("HOOK", title="run 7")
    assert {type(service) for service in alert._services()} == {NotifyDiscord, NotifySlack}
    with Receiver() as receiver, warnings.catch_warnings():
        warnings.simplefilter("error", InteractionsWarning)
        monkeypatch.setattr(NotifyDiscord, "notify_url", f"{receiver.base}/discord")
        monkeypatch.setattr(NotifySlack, "webhook_url", f"{receiver.base}/slack")
        alert.send(EVENT)
    (discord,) = (body for body in receiver.bodies if "content" in body)
    (slack,) = (body for body in receiver.bodies if "attachments" in body)
    assert "text" not in discord, "which Discord does not know"
    assert discord["content"].split() == ["run", "7", *EVENT.message.split()]
    (attached,) = slack["attachments"]
    assert (attached["title"], attached["text"]) == ("run 7", EVENT.message)


@pytest.mark.parametrize("between", [" ", ", ", ","])
def test_several_addresses_are_all_told(between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as first, Receiver() as second:
        monkeypatch.setenv("HOOK", between.join([first.address, f"json://{HERE}:1/{SECRET}", second.address]))
        with pytest.warns(InteractionsWarning, match="JSON was not told") as caught:
            WebhookAlert("HOOK").send(EVENT)
    assert len(caught) == 1
    assert len(first.bodies) == len(second.bodies) == 1, "one that fails is not in the others' way"


def test_events_of_one_kind_are_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        alert = WebhookAlert("HOOK")
        for kind in ("boundary", "overfitting", "boundary", "overfitting"):
            alert.send(replace(EVENT, kind=kind, message=kind))
        for retracts in ("boundary", "overfitting", "boundary"):
            alert.send(replace(EVENT, kind="retracted", retracts=retracts, message=f"no {retracts}"))
        eager = WebhookAlert("HOOK", wait=0)
        eager.send(EVENT)
        eager.send(EVENT)
    told = ["boundary", "overfitting", "no boundary", "no overfitting"]
    assert [body["message"] for body in receiver.bodies[:4]] == told
    assert len(receiver.bodies) == 6


@pytest.mark.parametrize("case", ["status", "refused", "slow", "unset", "malformed", "not installed", "fine"])
def test_a_failure_is_a_warning_without_the_address(
    case: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(1)  # apprise logs whole addresses, and so does urllib3
    with Receiver(status=500 if case == "status" else 200, delay=1.0 if case == "slow" else 0.0) as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        alert = WebhookAlert("HOOK", timeout=0.2 if case == "slow" else 5.0)
        if case == "refused":
            monkeypatch.setenv("HOOK", f"json://{HERE}:1/{SECRET}")
        if case == "unset":
            monkeypatch.delenv("HOOK")
        if case == "malformed":
            monkeypatch.setenv("HOOK", f"discord://{SECRET}")
        if case == "not installed":
            monkeypatch.setitem(sys.modules, "apprise", None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            alert.send(EVENT)
    said = [str(warning.message) for warning in caught]
    assert len(said) == (case != "fine")
    for text in said:
        assert text.startswith("WebhookAlert: ")
        assert text.endswith("Epoch 3 was the boundary.")
        assert ("answered 500" in text) == (case == "status")
        assert ("did not answer within 0.2 s" in text) == (case == "slow")
        assert ("pip install" in text) == (case == "not installed")
    assert SECRET not in "".join([*said, caplog.text, *capfd.readouterr()])


def test_what_others_log_is_left_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("HOOK", f"json://{HERE}:1/{SECRET}")
    with pytest.warns(InteractionsWarning):
        WebhookAlert("HOOK").send(EVENT)
    logging.getLogger("apprise").warning("of the user's own messages")
    assert "of the user's own messages" in caplog.text


def test_training_waits_no_longer_than_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses there are, and whatever it is that takes so long."""
    with Receiver(delay=1.5) as receiver:
        monkeypatch.setenv("HOOK", " ".join([receiver.address] * 4))
        alert = WebhookAlert("HOOK", timeout=0.3)
        begin = time.monotonic()
        with pytest.warns(InteractionsWarning, match="did not answer"):
            alert.send(EVENT)
        assert time.monotonic() - begin < 1


class MailBox(StreamRequestHandler):
    """As much of a mail server as one mail needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                MAILS.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.wfile.write(b"250 fine\r\n")


MAILS: list[str] = []


def test_pythons_random_numbers_go_on_as_if_no_mail_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail gets a random number, and training may draw from the same generator."""
    with ThreadingTCPServer((HERE, 0), MailBox) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_address[1]
        monkeypatch.setenv("HOOK", f"mailto://{HERE}:{port}?from=a@example.com&to=b@example.com&mode=insecure")
        before = random.getstate()
        WebhookAlert("HOOK", title="run 7").send(EVENT)
        server.shutdown()
    (mail,) = MAILS
    assert "Subject: run 7" in mail
    assert EVENT.message in mail
    assert random.getstate() == before


def test_the_address_is_kept_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", f"json://example.com/{SECRET}")
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
    assert SECRET not in json.dumps(monitor.options.settings, default=str)


@pytest.mark.parametrize(
    "value",
    [None, "", "file:///etc/passwd", "example.com", f"https://example.com/{SECRET}", f"discord://{SECRET}",
     f"json://example.com, discord://{SECRET}"],
)  # fmt: skip
def test_a_variable_without_an_address_is_refused(
    value: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("HOOK", value)
    with pytest.raises(ArgumentError, match=r"`variable`.*'HOOK'\. Export it") as caught:
        WebhookAlert("HOOK")
    assert SECRET not in str(caught.value) + caplog.text


@pytest.mark.parametrize("address", [f"https://example.com/{SECRET}", f"user:{SECRET}@example.com"])
def test_an_address_given_by_mistake_is_not_repeated(address: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        WebhookAlert(address)
    assert SECRET not in str(caught.value)


def test_without_apprise_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ArgumentError, match=r'pip install "lightning-interactions\[notify\]"'):
        WebhookAlert("HOOK")


@pytest.mark.parametrize("option", [{"timeout": 0}, {"timeout": True}, {"wait": -1}, {"wait": float("inf")}])
def test_bad_numbers_are_refused(option: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "json://example.com")
    with pytest.raises(ArgumentError, match=next(iter(option))):
        WebhookAlert("HOOK", **option)


@pytest.mark.parametrize("kind", [WandbAlert, TrackioAlert])
def test_an_alert_of_a_run_that_is_not_there_is_a_warning(kind: type[Alert]) -> None:
    with pytest.warns(InteractionsWarning, match=f"{kind.__name__}: .*Epoch 3 was the boundary"):
        kind().send(EVENT)
