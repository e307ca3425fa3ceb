"""The monitor that the environment puts into every Trainer: it steps aside where it cannot work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_interactions.errors import InteractionsError, InteractionsWarning
from lightning_interactions.monitor.callback import TwoPhaseMonitor

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class AutoMonitor(TwoPhaseMonitor):
    """A `TwoPhaseMonitor` nobody has put there by hand.

    Where an explicit monitor raises before training, because of a model or batches it cannot read, this one warns and
    switches itself off: the run is not to blame. It also makes way for a monitor the user has listed.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be known before training."""
        self._usable = False
        listed = getattr(trainer, "callbacks", ())
        if any(isinstance(c, TwoPhaseMonitor) and not isinstance(c, AutoMonitor) for c in listed):
            return
        try:
            super().setup(trainer, pl_module, stage)
        except InteractionsError as error:
            self._step_aside(error)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layer."""
        try:
            super().on_fit_start(trainer, pl_module)
        except InteractionsError as error:
            self._step_aside(error)

    def _check_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        try:
            super()._check_batch(trainer, pl_module, batch)
        except Exception as error:  # a model that expects something else than a batch's inputs raises whatever it likes
            self._step_aside(error)

    def _step_aside(self, error: Exception) -> None:
        self._faults.switched_off = True  # not `_usable`, which all ranks must agree on
        text = f"The monitor that LIGHTNING_INTERACTIONS_AUTO asked for is switched off for this run: {error}"
        rank_zero_warn(text, category=InteractionsWarning)
