"""Telling people: what happens with a `PhaseEvent` on rank 0."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

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
        warnings.warn(event.message, InteractionsWarning, stacklevel=2)


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
