"""`TwoPhaseMonitor`: the Lightning callback. Hooks only: gate, measure, record, decide, act."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_interactions.errors import StateError
from lightning_interactions.measure.fingerprint import fingerprint
from lightning_interactions.measure.measurement import MeasureSettings
from lightning_interactions.measure.onsets import SampleTracks
from lightning_interactions.measure.watchlist import Watchlist
from lightning_interactions.model.score import ScoreFn
from lightning_interactions.model.task import Target
from lightning_interactions.monitor import bridge
from lightning_interactions.monitor.budget import Budget
from lightning_interactions.monitor.faults import Faults
from lightning_interactions.monitor.options import check_options, check_trainer, describe_options
from lightning_interactions.monitor.publish import Publisher
from lightning_interactions.monitor.session import Record, Session
from lightning_interactions.monitor.stopping import StopRequest
from lightning_interactions.monitor.terminal import measuring, say, short_sentence, table
from lightning_interactions.phases.detector import PhaseDetector
from lightning_interactions.phases.event import PhaseEvent
from lightning_interactions.players import Players
from lightning_interactions.report.alerts import OnEvent, WarnAlert, resolve_alerts
from lightning_interactions.report.history import History
from lightning_interactions.report.html import figure_of, write_report
from lightning_interactions.report.record import RunRecord
from lightning_interactions.report.words import summary

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from matplotlib.figure import Figure

    Base = Callback
else:
    Base = bridge.callback_base()

STATE_VERSION = 2
"""Version 1 told players and scores apart by their ``repr``."""

DECISION_KEYS = ("phase", "boundary_epoch", "overfitting_risk", "val_loss_before_alarm")
"""Logged keys that other callbacks act on."""


class TwoPhaseMonitor(Base):
    """Watches which interactions a network learns, and flags the epoch at which over-fitted features begin.

    Each measured epoch a few fixed validation samples are masked in all ``2**n`` ways; the network's scores on them are
    split into AND and OR interactions between the input variables (certified, exact), and their strength is summed by
    order. Training first removes medium and high orders (phase 1), then learns ever higher ones (phase 2), and the gap
    between training and validation loss begins to widen (arXiv 2405.10262, 2407.19198). The monitor tells when.

    Training with the monitor is bit-identical to training without it, and a fault inside it never stops a run.

    Args:
        players: ``"auto"`` or an instance of `Players`. Decided from the first batch and printed: floating-point
            ``(B, C, H, W)`` is cut into patches, ``(B, F)`` into columns, ``(B, N, 3)`` or ``(B, 3, N)`` into clusters
            of points; integer ``(B, L)`` are tokens.
        num_samples: Watched samples per split. Cost is proportional to it.
        num_players: Players per sample, 2 to 16. Cost doubles with each.
        watch: ``"val"``, ``"train"`` or ``"both"``. With ``"both"`` validation samples decide.
        resample: Draw new samples for each measurement instead of comparing the same ones.
        keep_samples: What of the watched samples goes into a checkpoint. ``"keys"``: hashes of their content, by which
            a resumed run finds them again as the data pass by; where some do not (augmented or streamed data), that is
            told, and comparisons begin anew. ``"inputs"``: the samples themselves, up to 64 MiB, training samples too.
            ``"nothing"``: nothing about single samples, in ``interactions.json`` neither; a resumed run draws anew.
        layer: Mask the output of this module (as in ``model.named_modules()``) instead of the input.
        score: ``"log_odds"``, ``"logit"``, ``"probability"``, ``"output"`` (the raw output of a regression; chosen
            where a single output meets targets that are no classes) or ``(logits (B, C), targets (B,)) -> (B,)``.
        target: Whose score: that of the sample's ``"label"`` (multi-label: of one that applies, drawn once), of the
            ``"predicted"`` class (which may change between epochs), or of one class, label or output by its index.
        noise_bound: Leave up to this fraction of ``|v(N) - v(empty)|`` unexplained (the papers: 0.02).
        salience: Interactions below this fraction of ``mean |v(N) - v(empty)|`` do not count.
        every_n_epochs: Measure at validations at least this many epochs apart.
        max_overhead: Skip measurements to keep their time below this share of the training time.
        detector: A `PhaseDetector` with another ``false_alarm_rate``.
        monitor: Key of a logged validation loss, instead of the loss on up to 512 fixed validation samples.
        train_monitor: Key of a training loss logged in ``training_step``, instead of the loss on up to 512 fixed
            training samples in eval mode. The decision then waits for the end of the training epoch; a checkpoint
            written before that (``save_on_train_epoch_end=False``) lacks the record that waits.
        on_event: ``"warn"``, a callable ``(PhaseEvent) -> None``, an `Alert`, a list of them, or ``None``.
        stop_on: Stop training at the ``"boundary"`` or at ``"overfitting"``, once the Trainer's ``min_epochs`` and
            ``min_steps`` are reached and unless it is retracted before that; ``None`` never stops it. A stopped run
            that is resumed goes on.
        chunk_size: Largest number of masked inputs in one forward pass.
        precision: ``"32-true"`` computes masked forwards in full float32 whatever the Trainer's precision, because
            rounding noise looks like high orders; ``"inherit"`` uses the Trainer's.
        input_fn: ``batch -> inputs``: a tensor ``(B, *shape)``, or a mapping with ``input_ids`` and tensors of the
            same shape that go with them.
        forward_fn: ``(module, inputs) -> logits``, where inputs are a mapping if the batch had several; the module's
            ``forward`` by default, by keyword, by position or with the mapping, whichever works.
        target_fn: ``batch -> targets``: class indices ``(B,)``, rows ``(B, C)`` of 0 and 1 (multi-label), or numbers
            (regression).
        log_key_prefix: Start of all logged keys.
        log_figures: Draw figures for loggers that can show them.
        seed: Seed of the choice of samples and players; independent of the global one.
        on_error: ``"warn"``: a fault in the monitor is told once and training goes on; ``"raise"``: for debugging.
        verbose: Print what was chosen and what it costs, events in one short sentence (unless ``on_event`` warns of
            them), and a table at the end; show long measurements in Lightning's progress bar.

    Attributes:
        history: `History` of all measured epochs; ``history.to_dict()`` gives plain lists, ``history.samples`` the
            watched samples, those with the most cancelling high-order strength first (empty with ``resample=True``).
        events: All `PhaseEvent` so far.
        boundary_epoch: Epoch of the phase boundary, or ``None``.

    Raises:
        ArgumentError: From the constructor or ``setup``, if an argument is wrong.
        BatchError: At the first batch, if it cannot be read.
        ModelOutputError: At the first batch, if the model does not return logits.
        StateError: If a checkpoint was written by a monitor with other settings.

    Note:
        Logged keys, with the prefix: ``mean_order``, ``mean_order_lower``, ``mean_order_upper`` (95 % confidence
        interval over the watched samples), ``low_order_share`` (orders 1 to 3), ``high_order_share`` (orders
        from n/2), ``cancellation``, ``salient_count``, ``strength/order_01_pos`` ... ``strength/order_10_neg`` (all
        averaged over the watched samples), ``train_loss``, ``val_loss``, ``loss_gap``, ``phase`` (1 or 2),
        ``boundary_epoch`` (-1 while there is none), ``overfitting_risk`` (0 to 1), ``val_loss_before_alarm``
        (``val_loss``; ``nan`` from an overfitting event on, unless it is retracted), ``solver_gap`` (largest certified
        relative gap), ``noise_floor/order_01`` ... (what rounding noise could add to an order's strength),
        ``onset/turned`` (share of the watched samples whose own mean order has turned and risen), ``onset/q10``,
        ``onset/q50``, ``onset/q90`` (epoch by which a tenth, half, nine tenths of them had; -1 while fewer have; none
        of the four with ``resample=True``), ``skipped_samples``, ``mean_players`` (texts may have fewer than
        ``num_players``), ``seconds``. With ``watch="both"`` those of the interactions and onsets have a part
        ``train/`` or ``val/``. Loggers that can take them also get histograms (``histogram/order_01``, ...,
        ``order_distribution``), figures (``run``, ``strength_by_order``; at records 1, 2, 4, 8, ..., at events and at
        the end) and the events with their evidence (``events``); TensorBoard the three charts of *Custom Scalars* too,
        with ``boundary_line``. Those that keep files get ``interactions.json``, which `write_report` reads.

        The state key is made of ``watch`` and ``log_key_prefix``; give two monitors different prefixes.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> monitor = TwoPhaseMonitor(num_samples=8)
        >>> trainer = Trainer(max_epochs=60, callbacks=[monitor], logger=False, enable_checkpointing=False)
        >>> monitor.boundary_epoch is None  # nothing trained yet
        True
    """

    def __init__(
        self,
        players: Players | str = "auto",
        *,
        num_samples: int = 32,
        num_players: int = 10,
        watch: Literal["val", "train", "both"] = "val",
        resample: bool = False,
        keep_samples: Literal["keys", "inputs", "nothing"] = "keys",
        layer: str | None = None,
        score: Literal["log_odds", "logit", "probability", "output"] | ScoreFn = "log_odds",
        target: Target = "label",
        noise_bound: float = 0.0,
        salience: float = 0.03,
        every_n_epochs: int = 1,
        max_overhead: float | None = None,
        detector: PhaseDetector | None = None,
        monitor: str | None = None,
        train_monitor: str | None = None,
        on_event: OnEvent | Sequence[OnEvent] | None = "warn",
        stop_on: Literal["boundary", "overfitting"] | None = None,
        chunk_size: int | None = None,
        precision: Literal["32-true", "inherit"] = "32-true",
        input_fn: Callable[[Any], Any] | None = None,
        forward_fn: Callable[[Any, Any], Any] | None = None,
        target_fn: Callable[[Any], Tensor] | None = None,
        log_key_prefix: str = "interactions/",
        log_figures: bool = True,
        seed: int = 0,
        on_error: Literal["warn", "raise"] = "warn",
        verbose: bool = True,
    ) -> None:
        super().__init__()
        check_options(locals())
        self.players = players
        self.num_samples = num_samples
        self.num_players = num_players
        self.watch = watch
        self.resample = resample
        self.keep_samples = keep_samples
        self.layer = layer
        self.score = score
        self.target = target
        self.noise_bound = noise_bound
        self.salience = salience
        self.every_n_epochs = every_n_epochs
        self.max_overhead = max_overhead
        self.monitor = monitor
        self.train_monitor = train_monitor
        self.on_event = on_event
        self.stop_on = stop_on
        self.chunk_size = chunk_size
        self.precision = precision
        self.input_fn = input_fn
        self.forward_fn = forward_fn
        self.target_fn = target_fn
        self.log_key_prefix = log_key_prefix
        self.log_figures = log_figures
        self.seed = seed
        self.on_error = on_error
        self.verbose = verbose
        self.detector = detector if detector is not None else PhaseDetector()
        self._pristine_detector = copy.deepcopy(self.detector)
        # Of what was given, not of what became of it: a function may count its calls.
        self._given = {"players": _told_apart(players), "score": _told_apart(score)}
        self._budget = Budget(max_overhead)
        self._faults = Faults(on_error)
        self._publisher = Publisher(log_key_prefix, log_figures, resolve_alerts(on_event), self._faults.tell)
        self.history = History()
        self.events: list[PhaseEvent] = []
        self._tracks = SampleTracks()
        self._decided_on: Tensor | None = None  # keys of the samples of the last decision
        self._watchlist = self._new_watchlist()
        self._session = self._new_session()
        self._pending: list[Record] = []
        self._usable = False
        self._due = False
        self._stale: object = None
        self._late = False
        self._stop = StopRequest()

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def boundary_epoch(self) -> int | None:
        """Epoch of the phase boundary, or ``None`` if there is none so far."""
        return self.detector.boundary_epoch

    def plot(self) -> Figure:
        """Draw the run: strength by order at start, boundary and now, order shares over epochs, and the losses."""
        return figure_of(self._run())

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write all that is known of the run as one HTML file that needs no network, see `write_report`.

        Args:
            path: Where to.

        Raises:
            ArgumentError: If nothing has been measured.
        """
        write_report(self._run(), path)

    def _run(self) -> RunRecord:
        return RunRecord(
            self.history.to_dict(),
            self.events,
            self.boundary_epoch,
            self.detector.overfitting_epoch,
            describe_options(self),
            [] if self.keep_samples == "nothing" else self.history.samples,
        )

    # -- policy, for subclasses --------------------------------------------------------------------------------------

    def should_probe(self, epoch: int, step: int) -> bool:
        """Whether to measure at this validation; override for another rhythm. Asked on every rank, rank 0 decides.

        Args:
            epoch: The Trainer's current epoch.
            step: Its global step.
        """
        last = self.history.last
        return last is None or self.every_n_epochs == 1 or epoch - int(last["epoch"]) >= self.every_n_epochs

    # -- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be known before training."""
        if stage != "fit":
            return
        self._faults.reset()
        self._forget()
        self._session = self._new_session()
        self._usable = check_trainer(trainer, pl_module, self.watch, self.forward_fn)
        averaging = bridge.averaging_before(trainer, self) if self._usable else None
        if averaging is not None:
            self._faults.tell(
                f"listed after {averaging}, it measures the live weights while validation uses the averaged ones; list "
                f"TwoPhaseMonitor before {averaging} to measure those"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layer: all modules exist by now."""
        if self._active:
            self._session.cut_model(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and begin anew if this run does not continue the recorded one (known only by now)."""
        self._budget.restart()
        last = self.history.last
        if last is not None and (trainer.global_step == 0 or trainer.current_epoch < last["epoch"]):
            self.history, self.events, self._tracks, self._decided_on = History(), [], SampleTracks(), None
            self.detector = copy.deepcopy(self._pristine_detector)
            self._watchlist = self._new_watchlist()
        # A stop that still waits for the Trainer's minimum is not in the checkpoint, and its event does not come again.
        self._stop = StopRequest()
        self._ask_to_stop(trainer, bridge.is_below_minimum(trainer))
        if self._writes(trainer):
            with self._contained(trainer, "preparing the loggers"):
                self._publisher.open(trainer.loggers, ["val", "train"] if self.watch == "both" else [self.watch])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide if the last epoch's training loss came late; note the value that will be stale at this epoch's end."""
        self._settle_late(trainer)
        self._watchlist.recurrence.begin_epoch()
        self._stale = trainer.callback_metrics.get(self.train_monitor) if self.train_monitor else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the first batch, if the sanity check did not show one."""
        if self._active and self._session.known is None:
            self._check_batch(trainer, pl_module, batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Consider the batch's samples for the training probes."""
        if self._active:
            self._session.offer(self._watchlist, "train", batch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether this validation will be measured."""
        self._gate(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first batch of the sanity check, before anything was trained."""
        fresh = self._active and self._session.known is None and dataloader_idx == 0
        if fresh and trainer.sanity_checking:
            self._check_batch(trainer, pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Consider the batch's samples for the validation probes."""
        if self._due and dataloader_idx == 0:
            self._session.offer(self._watchlist, "val", batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure; decide and log, unless a loss has to be waited for."""
        if self._due:
            self._step(trainer, pl_module, decide=self.monitor is None and self.train_monitor is None)
        self._stand_in(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide now if only the validation loss had to be waited for."""
        if self._pending and self.train_monitor is None:
            self._settle(trainer, self._publisher.scalars_late(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure here where no validation runs; decide if the training loss had to be waited for."""
        with self._contained(trainer, "looking for augmentation"):
            self._session.end_epoch(trainer, self._watchlist)
        if not trainer.enable_validation:
            self._gate(trainer)
            if self._due:
                self._step(trainer, pl_module, decide=self.monitor is None and self.train_monitor is None)
            self._stand_in(trainer, pl_module)
        if self._pending:
            # A module's own on_train_epoch_end comes after that of callbacks: what it logs is there at the next hook.
            key = self.train_monitor
            late = key is not None and not bridge.is_fresh(trainer, key, self._stale)
            self._late = bridge.same_on_all_ranks(trainer, late)
            if not self._late:
                self._settle(trainer, self._publisher.scalars_with(trainer, pl_module))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Decide before a checkpoint at the end of an epoch, which would lack the record otherwise."""
        if self._late:
            self._settle_late(trainer)
            if self.state_key in checkpoint.get("callbacks", {}):
                checkpoint["callbacks"][self.state_key] = self.state_dict()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the run once more, and sum it up."""
        self._settle_late(trainer)
        if self._writes(trainer) and len(self.history):
            with self._contained(trainer, "drawing the run"):
                self._draw(trainer, bridge.logged_step(trainer))
            if self.verbose:
                with self._contained(trainer, "summing up the run"):
                    say(trainer, "\n" + table("TwoPhaseMonitor", summary(self._run())))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Forget what was under way; keep what was measured."""
        self._forget()
        if self._writes(trainer) and len(self.history):
            with self._contained(trainer, "keeping the history"):
                self._publisher.keep(trainer.loggers, self._run())

    @property
    def _active(self) -> bool:
        return self._usable and not self._faults.switched_off

    def _writes(self, trainer: Trainer) -> bool:
        """Whether this process writes files and speaks."""
        return self._active and trainer.is_global_zero and not bridge.is_fast_dev_run(trainer)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def _gate(self, trainer: Trainer) -> None:
        """Decide, together with the other ranks, whether this validation is measured."""
        if not self._usable or not bridge.is_fitting(trainer):
            return
        due = False
        with self._contained(trainer, "should_probe"):
            due = self._active and self._is_due(trainer)
        self._due = bridge.same_on_all_ranks(trainer, due)

    def _is_due(self, trainer: Trainer) -> bool:
        epoch, last = trainer.current_epoch, self.history.last
        if last is not None and (last["epoch"], last["step"]) == (epoch, bridge.logged_step(trainer)):
            return False  # this validation was measured before the checkpoint this run resumed from
        return self.should_probe(epoch, trainer.global_step) and self._budget.allows()

    def _check_batch(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        chosen = self._session.check_batch(trainer, pl_module, batch)
        if self.verbose:
            say(trainer, f"TwoPhaseMonitor: {chosen}.")

    def _step(self, trainer: Trainer, pl_module: LightningModule, *, decide: bool) -> None:
        """Measure; decide, or log what needs no waiting."""
        self._due = False
        with self._contained(trainer, "measuring", counts=True):
            with measuring(trainer, self.verbose) as progress:
                record = self._session.measure(trainer, pl_module, self._watchlist, progress)
            self._account(trainer, record)
            self._pending.append(record)
            if not decide:
                self._publisher.scalars_with(trainer, pl_module)(record.scalars)
        if decide:
            self._settle(trainer, self._publisher.scalars_with(trainer, pl_module))

    def _stand_in(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """While nothing could be measured, log ``nan`` for the keys a `ModelCheckpoint` would stop the run without."""
        if bridge.is_fitting(trainer) and not self._pending and not len(self.history):
            parts = ("val/", "train/") if self.watch == "both" else ("",)
            keys = [*DECISION_KEYS, *(f"{part}mean_order" for part in parts)]
            self._publisher.scalars_with(trainer, pl_module)(dict.fromkeys(keys, math.nan))

    def _account(self, trainer: Trainer, record: Record) -> None:
        seconds, measurement = record.scalars["seconds"], record.deciding
        if self.verbose and self._budget.count == 0:
            samples, n = sum(len(m.gap) for m in record.found.values()), measurement.strength.shape[-1]
            share = seconds / max(self._budget.training - seconds, 1e-9)
            say(
                trainer,
                f"TwoPhaseMonitor: the first measurement ({samples} samples x 2**{n} coalitions) took {seconds:.2f} s, "
                f"{share:.0%} of the training time so far. max_overhead, every_n_epochs or num_samples make it less.",
            )
        self._budget.spend(seconds)
        self._faults.recovered()

    def _contained(self, trainer: Trainer, what: str, *, counts: bool = False) -> AbstractContextManager[None]:
        """Keep a fault of ours away from the training run; it becomes an event."""

        def happened(problem: str) -> None:
            epoch, step = trainer.current_epoch, bridge.logged_step(trainer)
            message = f"Epoch {epoch}: {problem}. Training is not affected."
            event = PhaseEvent("probe_failed", epoch, epoch, step, message=message)
            self.events.append(event)
            if trainer.is_global_zero and not bridge.is_fast_dev_run(trainer):
                self._publisher.tell_fault(trainer.loggers, event, self._run)

        return self._faults.contain(what, happened, counts=counts)

    # -- deciding and acting -----------------------------------------------------------------------------------------

    def _settle(self, trainer: Trainer, log: Callable[[Mapping[str, float]], None]) -> None:
        """Decide on every waiting record, keep it, log it and act on it."""
        pending, self._pending = self._pending, []
        for record in pending:
            events: list[PhaseEvent] = []
            with self._contained(trainer, "deciding"):
                events = self._decide(trainer, record)
                self._keep(record)
            # Act first: a logger that fails must not swallow an alarm, or on rank 0 keep the other ranks waiting. Nor
            # may a record that cannot be kept: the detector does not say it again.
            if not bridge.is_fast_dev_run(trainer):
                with self._contained(trainer, "acting on events"):
                    self._act(trainer, events)
            with self._contained(trainer, "logging"):
                log(record.scalars)
            if trainer.is_global_zero and not bridge.is_fast_dev_run(trainer):
                self._show(trainer, record, events)

    def _settle_late(self, trainer: Trainer) -> None:
        if self._late:
            self._late = False
            self._settle(trainer, self._publisher.scalars_late(trainer))

    def _forget(self) -> None:
        self._pending.clear()
        self._due = self._late = False
        self._stale = None

    def _decide(self, trainer: Trainer, record: Record) -> list[PhaseEvent]:
        """Ask the detector; its events are kept at once, and what it thinks goes into the record."""
        main = record.deciding
        train_loss = self._loss(trainer, self.train_monitor, record.losses.get("train"))
        val_loss = self._loss(trainer, self.monitor, record.losses.get("val"))
        events = self._skipped_event(record)
        keys, before = record.deciding_keys, self._decided_on
        paired, self._decided_on = before is not None and torch.equal(keys, before), keys
        events += self.detector.update(
            record.epoch, main.strength, train_loss, val_loss, step=record.step, paired=paired
        )
        self.events += events
        alarmed = self.detector.overfitting_epoch is not None
        record.scalars |= {
            "train_loss": math.nan if train_loss is None else train_loss,
            "val_loss": math.nan if val_loss is None else val_loss,
            "val_loss_before_alarm": math.nan if val_loss is None or alarmed else val_loss,
            "loss_gap": math.nan if train_loss is None or val_loss is None else val_loss - train_loss,
            "phase": float(self.detector.phase),
            "boundary_epoch": float(-1 if self.boundary_epoch is None else self.boundary_epoch),
            "overfitting_risk": self.detector.overfitting_risk,
        }
        return events

    def _keep(self, record: Record) -> None:
        samples = self._follow_samples(record)
        extra = {f"{split}/strength": m.mean_strength for split, m in record.found.items() if len(record.found) > 1}
        self.history.append(record.epoch, record.step, record.scalars, record.deciding.mean_strength, extra)
        self.history.samples = samples

    def _follow_samples(self, record: Record) -> list[dict[str, Any]]:
        """Follow every sample on its own, unless there are others each time; log their onsets."""
        if self.resample:
            return []
        scalars, table = self._tracks.update(record.epoch, record.found, record.probes)
        record.scalars |= scalars
        return table

    def _skipped_event(self, record: Record) -> list[PhaseEvent]:
        """Tell of samples without finite scores, when that begins."""
        skipped, watched = record.deciding.skipped, len(record.deciding.gap)
        last = self.history.last or {}
        if not skipped or last.get("skipped_samples", last.get("val/skipped_samples", 0)) > 0:
            return []
        message = (
            f"Epoch {record.epoch}: the scores of {skipped} of {watched} watched samples are not finite; these samples "
            "are left out. Look for NaN or infinity in the model's outputs."
        )
        evidence = {"skipped_samples": float(skipped)}
        return [PhaseEvent("probe_failed", record.epoch, record.epoch, record.step, evidence, message)]

    def _loss(self, trainer: Trainer, key: str | None, own: float | None) -> float | None:
        if key is None:
            return own
        value = bridge.logged_value(trainer, key, stale=self._stale if key == self.train_monitor else None)
        if value is None:
            known = ", ".join(sorted(map(str, trainer.callback_metrics))) or "none"
            self._faults.tell(f"no metric {key!r} was logged, so that loss is missing; logged are: {known}")
        return value

    def _act(self, trainer: Trainer, events: Sequence[PhaseEvent]) -> None:
        """Stop if that was asked for, or no longer; tell people."""
        self._ask_to_stop(trainer, any(event.kind == self.stop_on for event in events))
        if trainer.is_global_zero:
            self._publisher.send(events)
            if self.verbose and not any(isinstance(alert, WarnAlert) for alert in self._publisher.alerts):
                for event in events:
                    say(trainer, f"TwoPhaseMonitor: {short_sentence(event)}")

    def _ask_to_stop(self, trainer: Trainer, asked: bool) -> None:
        """Ask, together with the other ranks, for a stop; only as long as what it was asked for still holds."""
        if self.stop_on is None:
            return
        found = self.boundary_epoch if self.stop_on == "boundary" else self.detector.overfitting_epoch
        wanted = found is not None and (asked or self._stop.asking)
        self._stop.update(trainer, trainer.strategy.reduce_boolean_decision(wanted, all=False))

    def _show(self, trainer: Trainer, record: Record, events: Sequence[PhaseEvent]) -> None:
        """Write and draw. On rank 0 only."""
        with self._contained(trainer, "writing histograms and texts"):
            self._publisher.write(trainer.loggers, record, events)
            if any(event.kind in ("boundary", "retracted") for event in events):
                self._publisher.mark_boundary(trainer.loggers, self._run())
        count = len(self.history)
        if events or count & (count - 1) == 0:  # drawn at records 1, 2, 4, 8, ... and whenever something happened
            with self._contained(trainer, "drawing the run"):
                self._draw(trainer, record.step)

    def _draw(self, trainer: Trainer, step: int) -> None:
        self._publisher.keep(trainer.loggers, self._run())
        self._publisher.draw(trainer.loggers, self.history.last, self.plot, step)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Identity of this monitor in a checkpoint."""
        return self._generate_state_key(watch=self.watch, log_key_prefix=self.log_key_prefix)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, in builtin containers and tensors."""
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "settings": self._identity(),
            "history": self.history.state_dict(),
            "events": [event.to_dict() for event in self.events],
            "detector": self.detector.state_dict(),
            "samples": self._tracks.state_dict(),
            "decided_on": self._decided_on,
            "watchlist": self._watchlist.state_dict(),
        }
        if self.keep_samples == "nothing":
            state |= {"samples": {}, "decided_on": None}
            state["history"]["samples"] = []
        return state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the record of the run when weights are loaded to be evaluated, as by ``trainer.test(ckpt_path="best")``.

        Lightning would replace it by the one of that checkpoint, which ends earlier.
        """
        if not bridge.is_fitting(trainer) and len(self.history):
            checkpoint["callbacks"].pop(self.state_key, None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint left off.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            StateError: If it was written with settings under which the epochs could not be compared, or by a newer
                version.
        """
        if state_dict.get("version", 0) > STATE_VERSION:
            raise StateError(
                f"The checkpoint was written by a newer version of lightning_interactions (state version "
                f"{state_dict['version']}, this one reads up to {STATE_VERSION}). Update the package."
            )
        saved, own = state_dict.get("settings", {}), self._identity()
        if state_dict.get("version", 0) < 2:  # what these say of players and functions cannot be compared
            own = {k: v for k, v in own.items() if k != "players" and (k != "score" or isinstance(self.score, str))}
        different = [f"{k}={saved[k]} (now {own[k]})" for k in own if k in saved and saved[k] != own[k]]
        if different:
            raise StateError(
                f"The checkpoint was written by a TwoPhaseMonitor with {', '.join(different)}; its epochs could not be "
                "compared with new ones. Use the same settings, or another log_key_prefix to begin anew."
            )
        self.history.load_state_dict(state_dict.get("history", {"records": []}))
        self.events = [PhaseEvent.from_dict(event) for event in state_dict.get("events", [])]
        if "detector" in state_dict:
            self.detector.load_state_dict(state_dict["detector"])
        self._tracks.load_state_dict(state_dict.get("samples", {}))
        self._decided_on = state_dict.get(
            "decided_on", self._tracks.keys_of("train" if self.watch == "train" else "val")
        )
        if not self._watchlist.load_state_dict(state_dict.get("watchlist", {})):
            self._faults.tell("the watched samples were too large for the checkpoint and are collected again")

    # -- small parts -------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        names = "target", "num_samples", "num_players", "resample", "layer", "noise_bound", "salience", "precision"
        return {**self._given, "seed": self.seed} | {name: getattr(self, name) for name in names}

    def _new_session(self) -> Session:
        settings = MeasureSettings(self.num_players, self.salience, self.noise_bound, self.chunk_size)
        return Session(
            self.players, settings, self.score, self.target, self.layer, self.precision, self.input_fn,
            self.forward_fn, self.target_fn, self.seed, self._faults.tell,
        )  # fmt: skip

    def _new_watchlist(self) -> Watchlist:
        watched = ["train", "val"] if self.watch == "both" else [self.watch]
        losses = [s for s, key in (("train", self.train_monitor), ("val", self.monitor)) if key is None]
        return Watchlist(
            watched, losses, num_samples=self.num_samples, resample=self.resample, seed=self.seed,
            keep=self.keep_samples,
        )  # fmt: skip


def _told_apart(value: object) -> str:
    return value if isinstance(value, str) else fingerprint(value)
