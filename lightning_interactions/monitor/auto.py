"""The monitor that the environment puts into every Trainer: it steps aside where it cannot work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_only

from lightning_interactions.errors import InteractionsError, sentence, warn
from lightning_interactions.monitor.callback import TwoPhaseMonitor

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class AutoMonitor(TwoPhaseMonitor):
    """A `TwoPhaseMonitor` nobody has put there by hand.

    Where an explicit monitor raises, because an option does not suit model or data, this one warns and switches itself
    off: the run is not to blame. It also makes way for a monitor the user has listed.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be known before training."""
        self._session = None
        listed = getattr(trainer, "callbacks", ())
        if any(isinstance(c, TwoPhaseMonitor) and not isinstance(c, AutoMonitor) for c in listed):
            return
        self._try(InteractionsError, super().setup, trainer, pl_module, stage)
        if self._session is not None:
            self._session.forgive()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layer."""
        self._try(InteractionsError, super().on_fit_start, trainer, pl_module)

    def _try(self, expected: type[Exception], hook: Callable[..., None], *arguments: Any) -> None:
        try:
            hook(*arguments)
        except expected as error:
            if self._session is not None:
                self._session.faults.switched_off = True  # the session stays: all ranks must agree on what is measured
            text = f"The monitor that LIGHTNING_INTERACTIONS_AUTO asked for is switched off for this run: {error}"
            rank_zero_only(warn)(sentence(text))
