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

from lightning_interactions.errors import BatchError
from lightning_interactions.measure.measurement import Measurement, Measurer, MeasureSettings, Watched, check_model
from lightning_interactions.measure.samples import ProbeSet, content_keys, draw_players
from lightning_interactions.measure.watchlist import Watchlist
from lightning_interactions.model.batch import Batch, Field, read_batch
from lightning_interactions.model.call import Call, find_call
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.quiet import Forward, float32_forward, in_format_of, probing
from lightning_interactions.model.score import ScoreFn
from lightning_interactions.model.task import Target, Task
from lightning_interactions.monitor import bridge
from lightning_interactions.players import Players, of_layer, suited_players, two_samples


@dataclass
class Record:
    """One measurement on its way to the history: it may wait for losses that the user's code has yet to log.

    Attributes:
        epoch: The Trainer's epoch.
        step: The step at which Lightning logs.
        scalars: What is logged, by key without prefix.
        found: Measurements by split.
        losses: Mean losses of the loss probes by split, nats per sample.
        probes: The samples measured, by split: which they are may change before the record is decided on.
    """

    epoch: int
    step: int
    scalars: dict[str, float]
    found: dict[str, Measurement]
    losses: dict[str, float]
    probes: dict[str, ProbeSet]

    @property
    def deciding(self) -> Measurement:
        """The measurement the detector looks at: that of the validation samples where there is one."""
        return self.found.get("val") or self.found["train"]

    @property
    def deciding_keys(self) -> Tensor:
        """Keys of the samples of that measurement."""
        return self.probes["val" if "val" in self.found else "train"].keys


@dataclass(frozen=True)
class Known:
    """What the first batch showed.

    Attributes:
        masker: The kind of players in use.
        task: What is asked of the model.
        call: How the model takes its inputs.
        fields: The names of the inputs, where they have some.
    """

    masker: Players
    task: Task
    call: Call
    fields: tuple[Field, ...]

    def describe(self) -> str:
        """Say in few words what every rank should have found."""
        return f"{type(self.masker).__name__} and {self.task.outputs} outputs for {self.task.kind}"


@dataclass
class Session:
    """What is needed to measure one run.

    Attributes:
        players: ``"auto"`` or a kind of players, as the user gave it.
        settings: What to compute.
        score: Name or callable.
        target: ``"label"``, ``"predicted"`` or an index.
        layer: Mask the output of this module instead of the input.
        precision: ``"32-true"`` or ``"inherit"``.
        input_fn: ``batch -> inputs``.
        forward_fn: ``(module, inputs) -> logits``.
        target_fn: ``batch -> targets``.
        seed: Seed of the players' draw.
        tell: Takes the text of a problem that was worked around.
        known: What the first batch showed; ``None`` until then.
    """

    players: Players | str
    settings: MeasureSettings
    score: str | ScoreFn
    target: Target
    layer: str | None
    precision: str
    input_fn: Callable[[Any], Any] | None
    forward_fn: Callable[[Any, Any], Any] | None
    target_fn: Callable[[Any], Tensor] | None
    seed: int
    tell: Callable[[str], object]
    known: Known | None = None
    _cut: LayerCut | None = None
    _chunks: ChunkSize | None = None
    _watched: dict[str, Watched] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as new: what was learned belongs to one run, and the cut would take the whole model along."""
        return self.__dict__ | {"known": None, "_cut": None, "_chunks": None, "_watched": {}}

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
            ArgumentError: If an option does not suit the model or the batch.
            ModelOutputError: If the model does not return logits, or cannot be cut at the layer.
        """
        found = read_batch(batch, self.input_fn, self.target_fn)
        masker = None
        if self._cut is None:
            masker = suited_players(self.players, found, pl_module, bridge.tokenizer_of(trainer, pl_module))
        few = masked = two_samples(found, masker)
        if masker is not None:  # before the model, which would say less clearly what is wrong with its inputs
            self._try_players(masker, masked)
        with self._probing(pl_module):
            call = find_call(pl_module, few, self.forward_fn, lambda call: self._forward(trainer, pl_module, call))
            forward = self._forward(trainer, pl_module, call)
            task = check_model(forward, few, found.targets, self.score, self.target)
            if self._cut is not None:
                self._cut.check(forward, few.inputs)
                masked = replace(few, inputs=self._cut.features(forward, few.inputs), fields=())
        if masker is None:
            with of_layer(self.layer, masked.inputs):
                masker = suited_players(self.players, masked, pl_module)
                self._try_players(masker, masked)
        self.known = Known(masker, task, call, found.fields)
        what = f"the output of layer {self.layer!r}" if self.layer else found.describe()
        shape = masked.inputs.shape[2:] if len(masked.fields) > 1 else masked.inputs.shape[1:]
        return (
            f"players are {masker.describe()} of {what} of shape (B, {', '.join(map(str, shape))}); "
            f"their game is the {task.describe()}"
        )

    def _try_players(self, masker: Players, few: Batch) -> None:
        masker.fit(few.inputs.cpu())
        draw_players(masker, few.inputs.cpu(), content_keys(few.inputs, self.seed).cpu(), self.settings.num_players)

    def offer(self, watchlist: Watchlist, split: str, batch: Any) -> None:
        """Consider the samples of a passing batch.

        Args:
            watchlist: Where they may go.
            split: ``"train"`` or ``"val"``.
            batch: The batch.
        """
        known = self.known
        watchlist.recurrence.batches += split == "train"
        if known is None or not watchlist.wants(split):
            return
        try:
            found = read_batch(batch, self.input_fn, self.target_fn)
            if found.fields != known.fields:
                raise BatchError(f"it has {found.describe()}, the first batch had other inputs")
            watchlist.offer(
                split, found.inputs, known.task.read(found.targets),
                padding=known.masker.padding,
                playable=known.masker.playable(found.inputs) if self._cut is None else None,
            )  # fmt: skip
        except Exception as error:  # it may come from the user's own input_fn or target_fn
            watchlist.recurrence.batches -= split == "train"  # it has not been looked at
            self.tell(f"a {split} batch is left out: {error if isinstance(error, BatchError) else repr(error)}")

    def measure(
        self, trainer: Any, pl_module: Any, watchlist: Watchlist, progress: Callable[[float], object] | None = None
    ) -> Record:
        """Measure all splits under the present weights.

        Args:
            trainer: The Trainer.
            pl_module: The LightningModule.
            watchlist: The samples; their collection ends here.
            progress: Takes the fraction that is done, now and then.

        Returns:
            The record, the same on every rank.

        Raises:
            BatchError: If no usable sample has been seen.
            MeasureError: On every rank, if one of them failed.
        """
        started = time.perf_counter()
        known = self._agree(trainer)
        ranks = bridge.ranks_of(trainer)
        missing = watchlist.freeze(ranks, known.masker.padding)
        if missing is not None:
            self.tell(missing)
        if not watchlist.watched:
            raise BatchError("no batch with usable samples has passed")
        self._chunks = self._chunks or ChunkSize.of(self.settings.chunk_size)
        settings = replace(self.settings, rounding=bridge.rounding(trainer, self.precision), chunk_size=self._chunks)
        arrange = partial(in_format_of, pl_module)
        measurer = Measurer(settings, known.task, ranks, pl_module.device, arrange)
        count = self._counter(trainer, watchlist, progress)
        found, losses = measurer.measure(
            lambda: self._probing(pl_module),
            lambda: count(self._forward(trainer, pl_module, known.call)),
            lambda forward: self._players_of(known.masker, watchlist, forward, measurer),
            watchlist.losses,
            self._cut,
        )
        probes = dict(watchlist.watched)
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
        return Record(trainer.current_epoch, bridge.logged_step(trainer), scalars, found, losses, probes)

    def end_epoch(self, trainer: Any, watchlist: Watchlist) -> None:
        """Tell, at the end of the first epoch after they were chosen, if the training samples are augmented.

        Args:
            trainer: The Trainer.
            watchlist: The samples.
        """
        again = watchlist.recurrence.end_epoch(bridge.ranks_of(trainer))
        if again is not None:
            loss = "train" in watchlist.losses
            self.tell(
                f"the training samples look different in every epoch (augmentation): {again[0]} of {again[1]} came "
                "again in the next one"
                + ("; the training loss is that of augmented copies, so judge the loss gap by its growth, not by its "
                   "sign" if loss else "")
            )  # fmt: skip

    def _agree(self, trainer: Any) -> Known:
        """Make sure that all ranks have seen the same kind of batches; each looked at the first of its own."""
        seen = bridge.gather_objects(trainer, self.known.describe() if self.known is not None else "nothing usable")
        if self.known is None or len(set(seen)) > 1:
            raise BatchError(f"the first batch showed {', '.join(f'{x} on rank {i}' for i, x in enumerate(seen))}")
        return self.known

    def _players_of(
        self, masker: Players, watchlist: Watchlist, forward: Forward, measurer: Measurer
    ) -> dict[str, Watched]:
        """Players are drawn when a probe is first seen; only a layer's output has to be fitted again each time."""
        for split, probe in watchlist.watched.items():
            known = self._watched.get(split)
            if known is None or known.probe is not probe:
                self._watched[split] = self._prepare(masker, split, probe, forward, measurer)
                if len(probe) < watchlist.num_samples:
                    self.tell(f"only {len(probe)} {split} samples to watch, num_samples={watchlist.num_samples}")
            elif self._cut is not None:
                known.refit(forward, measurer.device, self._cut, measurer.chunk_rows)
        return self._watched

    def _prepare(self, masker: Players, split: str, probe: ProbeSet, forward: Forward, measurer: Measurer) -> Watched:
        wanted = self.settings.num_players
        watched = Watched.prepare(
            probe, copy.deepcopy(masker), wanted, forward, measurer.device, self._cut, measurer.chunk_rows
        )
        fewer = watched.player_counts[watched.player_counts < wanted]
        if len(fewer) == len(probe) and len(set(fewer.tolist())) == 1:
            self.tell(f"num_players={wanted}, but the {split} samples have only {int(fewer[0])}")
        elif len(fewer):
            self.tell(
                f"{len(fewer)} of {len(probe)} {split} samples have fewer than {wanted} players (the fewest "
                f"{int(fewer.min())}); they add no strength to orders above their number of players"
            )
        return watched

    def _counter(
        self, trainer: Any, watchlist: Watchlist, progress: Callable[[float], object] | None
    ) -> Callable[[Forward], Forward]:
        """Return what counts the rows of all forward passes of a measurement, against those the masked inputs need."""
        if progress is None:
            return lambda forward: forward
        done, expected = 0, sum(map(len, watchlist.watched.values())) * 2**self.settings.num_players

        def count(forward: Forward) -> Forward:
            def counted(inputs: Tensor) -> Any:
                nonlocal done
                outputs = forward(inputs)
                done += len(inputs)
                progress(done * trainer.world_size / max(expected, 1))
                return outputs

            return counted

        return count

    def _probing(self, pl_module: Any) -> Any:
        return probing(pl_module, full_precision=self.precision == "32-true")

    def _forward(self, trainer: Any, pl_module: Any, call: Call) -> Forward:
        if self.precision == "32-true":
            return float32_forward(pl_module, call)
        plugin = trainer.precision_plugin

        def forward(inputs: Tensor) -> Any:
            with plugin.forward_context():
                return call(pl_module, plugin.convert_input(inputs))

        return forward
