"""Telling people: what happens with a `PhaseEvent` on rank 0."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from lightning_interactions.errors import InteractionsWarning, bad_argument
from lightning_interactions.phases import PhaseEvent


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
        """Tell one event. Called once per event, on rank 0 only; whatever it raises becomes a warning.

        Args:
            event: The event.
        """


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
        if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait < float("inf"):
            raise bad_argument("wait", "seconds, not below 0", wait)
        self.wait = float(wait)
        self._sent: dict[str, float] = {}

    def send(self, event: PhaseEvent) -> None:
        """See `Alert.send`."""
        now = time.monotonic()
        if now - self._sent.get(event.kind, -float("inf")) < self.wait:
            return
        self._sent[event.kind] = now
        problem = self._deliver(event)
        if problem is not None:
            warnings.warn(f"{type(self).__name__}: {problem}. The event was: {event.message}", InteractionsWarning, 2)

    @abstractmethod
    def _deliver(self, event: PhaseEvent) -> str | None:
        """Tell the event; return what went wrong, without anything secret in it."""

    def __getstate__(self) -> dict[str, Any]:
        # Clocks of other processes mean nothing here.
        return self.__dict__ | {"_sent": {}}


class WebhookAlert(_Throttled):
    """Posts the event's sentence to a webhook that understands Slack's ``{"text": ...}`` (Slack, Mattermost, Discord).

    The address is a secret. It is read from the environment when an event is sent, and never kept, logged or put into a
    checkpoint.

    Args:
        variable: Name of the environment variable that holds the address.
        title: Begin of the message, for example the name of the run.
        timeout: Seconds after which it gives up; training waits as long.
        wait: Seconds in which an event of the same kind is not sent again.

    Raises:
        ArgumentError: If the variable is not set to an ``http(s)`` address, or a number is out of range.

    Example:
        >>> os.environ["MY_WEBHOOK"] = "https://hooks.example.com/services/secret"
        >>> WebhookAlert("MY_WEBHOOK", title="run 7")
        WebhookAlert('MY_WEBHOOK')
    """

    def __init__(
        self, variable: str, *, title: str = "TwoPhaseMonitor", timeout: float = 5.0, wait: float = 60.0
    ) -> None:
        super().__init__(wait)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
            raise bad_argument("timeout", "seconds, above 0", timeout)
        if not isinstance(variable, str) or "://" in variable:  # never repeat what may be the address itself
            raise bad_argument("variable", "the name of an environment variable, not the address", "something else")
        self.variable = variable
        self.title = title
        self.timeout = float(timeout)
        if self._address() is None:
            raise bad_argument(
                "variable", "the name of an environment variable with an http(s) address in it", variable, "Export it."
            )

    def __repr__(self) -> str:
        return f"WebhookAlert({self.variable!r})"

    def _address(self) -> str | None:
        address = os.environ.get(self.variable, "").strip()
        return address if address.lower().startswith(("https://", "http://")) else None

    def _deliver(self, event: PhaseEvent) -> str | None:
        address = self._address()
        if address is None:
            return f"the environment variable {self.variable} holds no http(s) address"
        body = json.dumps({"text": f"*{self.title}* {event.message}"}).encode()
        try:
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=self.timeout):
                return None
        except urllib.error.HTTPError as error:
            return f"the webhook answered {error.code}"
        except Exception as error:  # the text of some errors repeats the address
            return f"the webhook could not be reached ({type(error).__name__})"


class WandbAlert(_Throttled):
    """An alert of the Weights & Biases run that is active (mail or Slack, as set up there).

    Args:
        title: Its title.
        wait: Seconds in which an event of the same kind is not sent again.
    """

    def __init__(self, *, title: str = "TwoPhaseMonitor", wait: float = 60.0) -> None:
        super().__init__(wait)
        self.title = title

    def _deliver(self, event: PhaseEvent) -> str | None:
        try:
            import wandb

            if wandb.run is None:
                return "there is no active Weights & Biases run"
            level = {"overfitting": "WARN", "probe_failed": "ERROR"}.get(event.kind, "INFO")
            wandb.run.alert(title=f"{self.title}: {event.kind}", text=event.message, level=level)
        except Exception as error:
            return f"the alert could not be sent ({type(error).__name__})"
        return None


def describe_alerts(alerts: Sequence[Alert]) -> list[str]:
    """Name who is told of events, without what they were made with: that may be secret.

    Args:
        alerts: What `resolve_alerts` returned.

    Example:
        >>> describe_alerts(resolve_alerts(["warn", print]))
        ['warn', 'print']
    """
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
    """Return the alerts the ``on_event`` argument stands for.

    Args:
        on_event: ``"warn"``, a callable, an `Alert`, a list of these, or ``None`` for silence.

    Raises:
        ArgumentError: If it is anything else.

    Example:
        >>> [type(alert).__name__ for alert in resolve_alerts(["warn", print])]
        ['WarnAlert', 'CallAlert']
    """
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
