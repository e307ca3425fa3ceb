"""Telling people: what happens with a `PhaseEvent` on rank 0."""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

from lightning_interactions.errors import ArgumentError, InteractionsWarning, bad_argument, is_number, sentence, warn
from lightning_interactions.phases.event import PhaseEvent


class Alert(ABC):
    """Somewhere an event is told; give one or a list of them as ``on_event``.

    Example:
        >>> class Print(Alert):
        ...     def send(self, event):
        ...         print(event.message)
        >>> Print().send(PhaseEvent("boundary", 3, 5, message="Epoch 3 was the boundary."))
        Epoch 3 was the boundary.
    """

    @abstractmethod
    def send(self, event: PhaseEvent) -> None:
        """Tell one event. Called once per event, on rank 0 only; whatever it raises becomes a warning."""


class WarnAlert(Alert):
    """A Python warning with the event's sentence: the default, ``on_event="warn"``."""

    def send(self, event: PhaseEvent) -> None:
        """See `Alert.send`."""
        # Told as from the epoch, not from a line of this file: that line would be printed below the sentence.
        warnings.warn_explicit(event.message, InteractionsWarning, "TwoPhaseMonitor", event.detected_epoch)


class CallAlert(Alert):
    """Calls a function with the event.

    Args:
        function: ``PhaseEvent -> None``; module-level if the Trainer spawns processes.
    """

    def __init__(self, function: Callable[[PhaseEvent], object]) -> None:
        self.function = function

    def send(self, event: PhaseEvent) -> None:
        """See `Alert.send`."""
        self.function(event)


class _Throttled(Alert):
    """An alert to the outside: each kind of event at most once in a while, and a failure is only ever a warning."""

    def __init__(self, wait: float) -> None:
        if not is_number(wait) or not 0 <= wait < float("inf"):
            raise bad_argument("wait", "seconds, not below 0", wait)
        self.wait = float(wait)
        self._sent: dict[tuple[str, str], float] = {}

    def send(self, event: PhaseEvent) -> None:
        """See `Alert.send`."""
        now, kind = time.monotonic(), (event.kind, event.retracts)
        if now - self._sent.get(kind, -float("inf")) < self.wait:
            return
        self._sent[kind] = now
        problem = self._deliver(event)
        if problem is not None:
            warn(f"{sentence(f'{type(self).__name__}: {problem}')} The event was: {event.message}")

    @abstractmethod
    def _deliver(self, event: PhaseEvent) -> str | None:
        """Tell the event; return what went wrong, without anything secret in it."""

    def __getstate__(self) -> dict[str, Any]:
        # Clocks of other processes mean nothing here.
        return self.__dict__ | {"_sent": {}}


class WebhookAlert(_Throttled):
    """Sends the event's sentence to a chat, a phone or a mailbox by the library ``apprise``: over 100 services.

    The addresses are [those of apprise](https://github.com/caronc/apprise/wiki): ``https://discord.com/api/...`` and
    ``https://hooks.slack.com/...`` as the service shows them, ``mailtos://user:password@example.com``,
    ``mmosts://chat.example.com/token`` for a Mattermost of your own, ``jsons://example.com/path`` for any server that
    takes JSON. They are secrets: read from the environment when an event is sent, and never kept, logged or put into a
    checkpoint.

    Args:
        variable: Name of the environment variable that holds one address, or several with spaces or commas between.
        title: Title of the message, for example the name of the run.
        timeout: Seconds after which it gives up; training waits as long.
        wait: Seconds in which an event of the same kind is not sent again.

    Raises:
        ArgumentError: If the variable holds no address apprise understands, if apprise is not installed (``pip install
            "lightning-interactions[notify]"``), or if a number is out of range.

    Example:
        >>> os.environ["MY_WEBHOOK"] = "discord://webhook-id/secret-token"
        >>> WebhookAlert("MY_WEBHOOK", title="run 7")
        WebhookAlert('MY_WEBHOOK')
    """

    def __init__(
        self, variable: str, *, title: str = "TwoPhaseMonitor", timeout: float = 5.0, wait: float = 60.0
    ) -> None:
        super().__init__(wait)
        if not is_number(timeout) or not 0 < timeout < float("inf"):
            raise bad_argument("timeout", "seconds, above 0", timeout)
        if not isinstance(variable, str) or not re.fullmatch(r"[\w.-]+", variable):  # never repeat an address
            raise bad_argument("variable", "the name of an environment variable, not the address", "something else")
        self.variable = variable
        self.title = title
        self.timeout = float(timeout)
        if not self._services():
            raise bad_argument(
                "variable",
                "the name of an environment variable with addresses that apprise understands",
                variable,
                "Export it; for a server of your own, begin with what it is instead of https://: mmosts:// "
                "(Mattermost), jsons:// (anything that takes JSON), ... See https://github.com/caronc/apprise/wiki.",
            )

    def __repr__(self) -> str:
        return f"WebhookAlert({self.variable!r})"

    def _services(self) -> list[Any]:
        """Return what apprise makes of the addresses, all of them or none."""
        try:
            import apprise
        except ImportError:
            raise ArgumentError(
                'WebhookAlert needs the library apprise: pip install "lightning-interactions[notify]".'
            ) from None
        with _silence():
            # In turn, not in apprise's own threads: they would be out of reach of the silence.
            asset = apprise.AppriseAsset(app_id="TwoPhaseMonitor", app_desc="TwoPhaseMonitor", async_mode=False)
            found = apprise.Apprise(asset=asset)
            understood = found.add(os.environ.get(self.variable, "").strip())
        return list(found) if understood else []

    def _deliver(self, event: PhaseEvent) -> str | None:
        state = random.getstate()  # a mail draws its number from Python's generator, which training may use
        try:
            services = self._services()
            if not services:
                return f"the environment variable {self.variable} holds no address that apprise understands"
            # In threads: apprise's time limits leave out name servers and hold for each part of a talk.
            problems = [f"{service.service_name} did not answer within {self.timeout:g} s" for service in services]
            until = time.monotonic() + self.timeout
            threads = [
                threading.Thread(target=self._tell, args=(service, event, problems, place), daemon=True)
                for place, service in enumerate(services)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(until - time.monotonic(), 0))
            return ", ".join(filter(None, problems)) or None
        except ArgumentError as error:  # our own: apprise is not installed here
            return str(error).removesuffix(".")
        except Exception as error:  # the text of some errors repeats the address
            return f"the event could not be sent ({type(error).__name__})"
        finally:
            random.setstate(state)

    def _tell(self, service: Any, event: PhaseEvent, problems: list[str], place: int) -> None:
        """Tell one service, and put what went wrong, or nothing, in its place."""
        import apprise

        kind = {"overfitting": apprise.NotifyType.WARNING, "probe_failed": apprise.NotifyType.FAILURE}
        with _silence() as said:
            try:
                service.socket_connect_timeout = service.socket_read_timeout = self.timeout
                sent = apprise.Apprise(service).notify(
                    title=self.title,
                    body=event.message,
                    notify_type=kind.get(event.kind, apprise.NotifyType.INFO),
                    body_format=apprise.NotifyFormat.TEXT,
                )
                status = re.search(r"\berror=(\d{3})\b", " ".join(said))
                why = f"it answered {status[1]}" if status else "it could not be reached or did not take it"
            except Exception as error:  # the text of some errors repeats the address
                sent, why = False, type(error).__name__
        problems[place] = "" if sent else f"{service.service_name} was not told: {why}"


_LOGGERS = ("apprise", "urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry")
"""Where addresses are logged, some of them in full."""

_said: ContextVar[list[str] | None] = ContextVar("_said", default=None)


def _keep_back(record: logging.LogRecord) -> bool:
    """Let only what is logged outside of `_silence` pass."""
    said = _said.get()
    if said is None:
        return True
    said.append(record.getMessage())
    return False


@contextmanager
def _silence() -> Iterator[list[str]]:
    """Keep back what this thread logs about addresses, and only what this thread does."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_keep_back)  # once, however often it is called
    said: list[str] = []
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


class _RunAlert(_Throttled):
    """An alert of the tracked run that is active."""

    def __init__(self, *, title: str = "TwoPhaseMonitor", wait: float = 60.0) -> None:
        super().__init__(wait)
        self.title = title

    def _deliver(self, event: PhaseEvent) -> str | None:
        level = {"overfitting": "WARN", "probe_failed": "ERROR"}.get(event.kind, "INFO")
        try:
            return self._alert(f"{self.title}: {event.kind}", event.message, level)
        except Exception as error:
            return f"the alert could not be sent ({type(error).__name__})"

    @abstractmethod
    def _alert(self, title: str, text: str, level: str) -> str | None:
        """Make the alert of a level, INFO, WARN or ERROR; return what is missing."""


class WandbAlert(_RunAlert):
    """An alert of the Weights & Biases run that is active (mail or Slack, as set up there).

    Args:
        title: Its title.
        wait: Seconds in which an event of the same kind is not sent again.
    """

    def _alert(self, title: str, text: str, level: str) -> str | None:
        import wandb

        if wandb.run is None:
            return "there is no active Weights & Biases run"
        wandb.run.alert(title=title, text=text, level=level)
        return None


class TrackioAlert(_RunAlert):
    """An alert of the Trackio run that is active: in its dashboard, and at the webhook set up there.

    Args:
        title: Its title.
        wait: Seconds in which an event of the same kind is not sent again.
    """

    def _alert(self, title: str, text: str, level: str) -> str | None:
        import trackio

        try:
            trackio.alert(title=title, text=text, level=trackio.AlertLevel[level])
        except RuntimeError:  # `trackio.init` was not called
            return "there is no active Trackio run"
        return None


def describe_alerts(alerts: Sequence[Alert]) -> list[str]:
    """Name who is told of events, without what they were made with: that may be secret."""
    return [_describe(alert) for alert in alerts]


def _describe(alert: Alert) -> str:
    if type(alert) is WarnAlert:
        return "warn"
    if type(alert) is WebhookAlert:
        return repr(alert)  # it names the variable, never the address in it
    if not isinstance(alert, CallAlert):
        return type(alert).__qualname__
    function: Any = alert.function
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


OnEvent = Literal["warn"] | Alert | Callable[[PhaseEvent], object]
"""What can be told of events, alone or in a list."""


def resolve_alerts(on_event: OnEvent | Sequence[OnEvent] | None) -> list[Alert]:
    """Return the alerts the ``on_event`` argument stands for; what stands for none is an `ArgumentError`."""
    if on_event is None:
        return []
    if isinstance(on_event, Alert):
        return [on_event]
    if isinstance(on_event, str) and on_event == "warn":
        return [WarnAlert()]
    if isinstance(on_event, Sequence) and not isinstance(on_event, str):
        return [alert for item in on_event for alert in resolve_alerts(item)]
    if callable(on_event) and not isinstance(on_event, type):
        return [CallAlert(on_event)]
    raise bad_argument("on_event", '"warn", a callable, an Alert, a list of these, or None', on_event)
