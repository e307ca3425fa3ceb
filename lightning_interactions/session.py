"""The measuring side of one training run: the first batch, the passing batches, the measurements.

`TwoPhaseMonitor` says when; here is how. Nothing is decided or told to people here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from lightning_interactions import bridge
from lightning_interactions.chunks import ChunkSize
from lightning_interactions.errors import BatchError
from lightning_interactions.layers import LayerCut
from lightning_interactions.measure import Measurement, Measurer, MeasureSettings, Watched, check_model
from lightning_interactions.players import Players, choose_players
from lightning_interactions.probes import ProbeSet, content_keys, draw_players, read_batch
from lightning_interactions.probing import Forward, float32_forward, in_format_of, probing
from lightning_interactions.watchlist import Watchlist


@dataclass
class Record:
    """One measurement on its way to the history: it may wait for losses that the user's code has yet to log.

    Attributes:
        epoch: The Trainer's epoch.
        step: The step at which Lightning logs.
        scalars: What is logged, by key without prefix.
        found: Measurements by split.
        losses: Mean losses of the loss probes by split, nats per sample.
    """

    epoch: int
    step: int
    scalars: dict[str, float]
    found: dict[str, Measurement]
    losses: dict[str, float]

    @property
    def deciding(self) -> Measurement:
        """The measurement the detector looks at: that of the validation samples where there is one."""
        return self.found.get("val") or self.found["train"]


@dataclass
class Session:
    """What is needed to measure one run.

    Attributes:
        players: ``"auto"`` or a kind of players, as the user gave it.
        settings: What to compute.
        layer: Mask the output of this module instead of the input.
        precision: ``"32-true"`` or ``"inherit"``.
        input_fn: ``batch -> inputs``.
        forward_fn: ``(module, inputs) -> logits``.
        target_fn: ``batch -> targets``.
        seed: Seed of the players' draw.
        tell: Takes the text of a problem that was worked around.
        masker: The kind of players in use; ``None`` until the first batch was seen.
    """

    players: Players | str
    settings: MeasureSettings
    layer: str | None
    precision: str
    input_fn: Callable[[Any], Tensor] | None
    forward_fn: Callable[[Any, Tensor], Any] | None
    target_fn: Callable[[Any], Tensor] | None
    seed: int
    tell: Callable[[str], object]
    masker: Players | None = None
    _cut: LayerCut | None = None
    _chunks: ChunkSize | None = None
    _watched: dict[str, Watched] = field(default_factory=dict)

    def cut_model(self, pl_module: Any) -> None:
        """Find the inner layer.

        Args:
            pl_module: The LightningModule, complete.

        Raises:
            ArgumentError: If there is no such layer.
        """
        self._cut = LayerCut(pl_module, self.layer) if self.layer is not None else None

    def check_batch(self, trainer: Any, pl_module: Any, batch: Any) -> str:
        """Try everything that depends on data on two samples, while an error still costs nobody a run.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            batch: The first batch, on the device.

        Returns:
            What was chosen, in one sentence.

        Raises:
            BatchError: If the batch cannot be read or does not suit the players.
            ModelOutputError: If the model does not return logits, or cannot be cut at the layer.
        """
        inputs, targets = read_batch(batch, self.input_fn, self.target_fn)
        few = inputs[:2]
        masker = self._try_players(few, few) if self._cut is None else None
        with self._probing(pl_module):
            forward = self._forward(trainer, pl_module)
            check_model(forward, few, targets[:2], self.settings.score)
            masked = few
            if self._cut is not None:
                self._cut.check(forward, few)
                masked = self._cut.features(forward, few)
        masker = masker or self._try_players(masked, few)
        self.masker = masker
        what = f"the output of layer {self.layer!r}" if self.layer else "inputs"
        return f"players are {masker!r} of {what} of shape (B, {', '.join(map(str, masked.shape[1:]))})"

    def _try_players(self, masked: Tensor, inputs: Tensor) -> Players:
        masked = masked.cpu()
        masker = copy.deepcopy(self.players) if isinstance(self.players, Players) else choose_players(masked)
        masker.fit(masked)
        draw_players(masker, masked, content_keys(inputs, self.seed).cpu(), self.settings.num_players)
        return masker

    def offer(self, watchlist: Watchlist, split: str, batch: Any) -> None:
        """Consider the samples of a passing batch.

        Args:
            watchlist: Where they may go.
            split: ``"train"`` or ``"val"``.
            batch: The batch.
        """
        if self.masker is None or not watchlist.wants(split):
            return
        try:
            watchlist.offer(split, *read_batch(batch, self.input_fn, self.target_fn))
        except BatchError as error:
            self.tell(f"a {split} batch is left out: {error}")

    def measure(self, trainer: Any, pl_module: Any, watchlist: Watchlist) -> Record:
        """Measure all splits under the present weights.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            watchlist: The samples; their collection ends here.

        Returns:
            The record, the same on every rank.

        Raises:
            BatchError: If no usable sample has been seen.
            MeasureError: On every rank, if one of them failed.
        """
        started = time.perf_counter()
        watchlist.freeze(lambda item: bridge.gather_objects(trainer, item))
        if not watchlist.watched:
            raise BatchError("no batch with usable samples has passed")
        self._chunks = self._chunks or ChunkSize.of(self.settings.chunk_size)
        settings = replace(self.settings, rounding=bridge.rounding(trainer, self.precision), chunk_size=self._chunks)
        arrange = partial(in_format_of, pl_module)
        measurer = Measurer(settings, bridge.ranks_of(trainer), pl_module.device, arrange)
        found, losses = measurer.measure(
            lambda: self._probing(pl_module),
            lambda: self._forward(trainer, pl_module),
            lambda forward: self._players_of(watchlist, forward, measurer),
            watchlist.losses,
            self._cut,
        )
        watchlist.renew()
        if any(measurement.is_noisy for measurement in found.values()):
            self.tell(
                "rounding noise of the forward passes may exceed the strength of the high orders; "
                + ('use precision="32-true"' if self.precision == "inherit" else "do not read much into them")
            )
        scalars = {
            (f"{split}/{key}" if len(found) > 1 else key): value
            for split, measurement in found.items()
            for key, value in measurement.scalars().items()
        }
        scalars["seconds"] = time.perf_counter() - started
        return Record(trainer.current_epoch, bridge.logged_step(trainer), scalars, found, losses)

    def _players_of(self, watchlist: Watchlist, forward: Forward, measurer: Measurer) -> dict[str, Watched]:
        """Players are drawn when a probe is first seen; only a layer's output has to be fitted again each time."""
        for split, probe in watchlist.watched.items():
            known = self._watched.get(split)
            if known is None or known.probe is not probe:
                self._watched[split] = self._prepare(split, probe, forward, measurer)
                if len(probe) < watchlist.num_samples:
                    self.tell(f"only {len(probe)} {split} samples to watch, num_samples={watchlist.num_samples}")
            elif self._cut is not None:
                known.refit(forward, measurer.device, self._cut, measurer.chunk_rows)
        return self._watched

    def _prepare(self, split: str, probe: ProbeSet, forward: Forward, measurer: Measurer) -> Watched:
        masker, wanted = copy.deepcopy(self.masker), self.settings
        assert masker is not None  # nothing is collected before the first batch was checked
        watched = Watched.prepare(
            probe, masker, wanted.num_players, forward, measurer.device, self._cut, measurer.chunk_rows
        )
        if watched.num_players < wanted.num_players:
            self.tell(f"num_players={wanted.num_players}, but the {split} samples have only {watched.num_players}")
        return watched

    def _probing(self, pl_module: Any) -> Any:
        return probing(pl_module, full_precision=self.precision == "32-true")

    def _forward(self, trainer: Any, pl_module: Any) -> Forward:
        if self.precision == "32-true":
            return float32_forward(pl_module, self.forward_fn)
        call, plugin = self.forward_fn or (lambda module, inputs: module(inputs)), trainer.precision_plugin

        def forward(inputs: Tensor) -> Any:
            with plugin.forward_context():
                return call(pl_module, plugin.convert_input(inputs))

        return forward
