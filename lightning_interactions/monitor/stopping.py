"""The wish to stop training, and who else has it: a wish that is withdrawn must not withdraw that of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class StopRequest:
    """What one monitor asks of ``trainer.should_stop``, where Lightning may wait for its ``min_epochs``.

    Attributes:
        asking: Whether it asks for a stop now.
        ours: Whether the stop that is set is its own; it is not if somebody else had asked before.

    Example:
        >>> from types import SimpleNamespace
        >>> trainer, request = SimpleNamespace(should_stop=False), StopRequest()
        >>> request.update(trainer, True)
        >>> request.update(trainer, False)
        >>> trainer.should_stop
        False
    """

    asking: bool = False
    ours: bool = False

    def update(self, trainer: Any, wanted: bool) -> None:
        """Ask, go on asking, or take it back.

        Args:
            trainer: The Trainer.
            wanted: Whether to stop; the same on all ranks.
        """
        if wanted and not trainer.should_stop:
            trainer.should_stop = self.ours = True
        elif self.ours and not wanted:
            trainer.should_stop = self.ours = False
        self.asking = wanted
