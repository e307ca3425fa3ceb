"""`TwoPhaseMonitor`: the Lightning callback. Hooks only; what happens in them is in `session` and `loop`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_interactions.model.score import ScoreFn
from lightning_interactions.model.task import Target
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.options import Options
from lightning_interactions.monitor.results import Results
from lightning_interactions.monitor.rhythm import is_due
from lightning_interactions.monitor.session import Session
from lightning_interactions.monitor.trainer import averaging_before, callback_base, is_fitting
from lightning_interactions.phases import PhaseDetector
from lightning_interactions.players import Players
from lightning_interactions.report.alerts import OnEvent

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    Base = Callback
else:
    Base = callback_base()


class TwoPhaseMonitor(Base, Results):
    """Watches which interactions a network learns, and flags the epoch at which over-fitted features begin.

    At every record a few fixed validation samples are masked in all ``2**n`` ways; the network's scores on them are
    split into AND and OR interactions between the input variables (with a certificate), and their strength is summed by
    order. Training first removes medium and high orders (phase 1), then learns ever higher ones (phase 2), and the gap
    between training and validation loss begins to widen (arXiv 2405.10262, 2407.19198). The monitor tells when.

    The monitor sees how the user's own steps call the model, after every transform, and asks it in the same way.
    Training with it is bit-identical to training without it, and a fault inside it never stops a run. What only data
    can show, and nobody asked for, switches it off with one sentence. The options are attributes too.

    Args:
        players: ``"auto"`` or an instance of `Players`. Decided from the first batch and printed: floating-point
            ``(B, C, H, W)`` or ``(B, H, W, C)`` is cut into patches, ``(B, F)`` and mappings of columns into columns,
            ``(B, N, 3)`` or ``(B, 3, N)`` into clusters of points unless it may be a series, ``(B, T, F)``,
            ``(B, C, T)`` and ``(B, L, D)`` into windows where the model's layers tell which dimension is time; integer
            ``(B, L)`` are tokens.
        num_samples: Watched samples per split. Cost is proportional to it.
        num_players: Players per sample, 2 to 512. Up to 16 all masks are asked, and the cost doubles with each; more
            (or ``num_pairs``) are *sampled*: no interactions, but the mean degree of the scores with its standard
            error, watched in the place of the mean order, at a cost that does not depend on their number.
        num_pairs: Random mask pairs of every sample where the mean degree is sampled, 16 or more; ``None``: 96 with
            more than 16 players. Given with fewer it has them sampled too. A pair is a mask, and the same with one
            player flipped; each sample has its own ones, the same at every record. Not with ``scale``,
            ``noise_bound``, ``salience``, ``tolerance``, ``reference`` or ``extras``, which are about interactions.
        watch: ``"val"``, ``"train"`` or ``"both"``. With ``"both"`` validation samples decide. Where no validation runs
            the training samples are watched, and that is told.
        resample: Draw new samples for each measurement instead of comparing the same ones.
        layer: Mask the output of this module (as in ``model.named_modules()``) instead of the input.
        score: ``"log_odds"``, ``"logit"``, ``"probability"``, ``"output"`` (the raw output of a regression; chosen
            where a single output meets targets that are no classes) or ``(logits (B, C), targets (B,)) -> (B,)``.
        target: Whose score: that of the sample's ``"label"`` (multi-label: of one that applies, drawn once), of the
            ``"predicted"`` class (which may change between epochs), or of one class, label or output by its index.
        scale: What the next two are fractions of: ``"std"``, the mean over the watched samples of the standard
            deviation of a sample's scores over all coalitions, or the papers' ``"difference"``, the mean of
            ``|v(N) - v(empty)|``.
        noise_bound: Leave up to this fraction of the scale unexplained at every coalition. Without it, with 0, the
            rough last percent of a deep network's scores becomes nearly all of the strength. The papers' reading is
            ``scale="difference", noise_bound=0.02, salience=0.03``.
        salience: Interactions below this fraction of the scale do not count.
        tolerance: Largest certified gap of the split: by default 0.02, and 0.005 for one without residual.
        per_octave: Records while the epochs double. The first is made before training, where the samples of the sanity
            check cover the classes (with ``watch="val"``), else at the first validation; records inside of epochs need
            no validation.
        max_per_epoch: At most so many records in an epoch, which is how it begins. Once records are more than an epoch
            apart they are made at validations, or at the end of an epoch without one.
        every_n_epochs: Instead of both, measure at validations at least this many epochs apart.
        start_epoch: Nothing is measured, and nobody decides, before this epoch: at its first validation, not earlier.
        max_overhead: Once it has taken a minute, keep all time the monitor takes (looking at batches, measuring,
            logging, drawing, alerts) below this share of the training time; ``None`` for no limit. Where it would take
            more, records are thinned out evenly on a logarithmic axis, and that is told. None is skipped once training
            is twice as long as it was at the last record: a run of ``T`` epochs has at least ``1 + log2(T)`` records.
            Only these may exceed the share.
        detector: A `PhaseDetector` with another ``false_alarm_rate``.
        monitor: Key of a logged validation loss, instead of the loss on up to 512 fixed validation samples. By default
            the two are compared at every record; where no usual form of the loss is near a logged one, that one is
            judged, with the training loss logged under its name, and it is told.
        loss_fn: ``(outputs, targets) -> losses (B,)``, instead of cross-entropy or squared error: the user's own loss
            of every sample. Outputs are float64 ``(B, C)``; targets class indices ``(B,)`` or as for ``target_fn``.
        on_event: ``"warn"``, a callable ``(PhaseEvent) -> None``, an `Alert`, a list of them, or ``None``. Told are
            boundary and overfitting, what is retracted, and faults; not a boundary that is only suspected.
        stop_on: Stop training at the ``"boundary"`` or at ``"overfitting"``, once that has stood for five more records
            and the Trainer's ``min_epochs`` and ``min_steps`` are reached; ``None`` never stops it. What is retracted
            before stops nothing. A stopped run that is resumed goes on.
        chunk_size: Largest number of masked inputs in one forward pass.
        sharded: Models that are split over ranks are asked by all in step under ``ModelParallelStrategy``, and not at
            all under ``FSDPStrategy`` and ``DeepSpeedStrategy``, which are untested: ``"lockstep"`` tries it, ``"off"``
            asks none of these.
        precision: ``"32-true"`` computes masked forwards in full float32 whatever the Trainer's precision, because
            rounding noise looks like high orders; ``"inherit"`` uses the Trainer's.
        input: Name or position of the tensor that is masked, among those with a row for each sample that the model is
            called with; the others go along unmasked. By default one with a usual name (``input_ids``,
            ``pixel_values``, ``x``, ...), else an image before a sequence before columns before ids.
        head: Name or position of the output that is followed, where the model returns several with targets of their
            own: those a loss was given with it, those of its name, or, where it is in a tuple, those at its place.
        input_fn: ``batch -> inputs``, to read the batch instead of watching the step: a tensor ``(B, *shape)``, or a
            mapping with ``input_ids`` and tensors of the same shape that go with them.
        forward_fn: ``(module, inputs) -> logits``, instead of the call the step makes. Inputs are then read from the
            batch, a mapping if it had several token tensors.
        target_fn: ``batch -> targets``: class indices ``(B,)``, one-hot rows or probabilities ``(B, C)``, rows of 0 and
            1 (multi-label), numbers (regression), or labels of every position, ``(B, H, W)`` or ``(B, L)``; ``nan``, or
            -100 among whole numbers, are missing. By default what a loss or metric module was given, what has a usual
            name (``labels``, ``target``, ``y``, ...), or a tensor of the batch that the model was not given.
        log_key_prefix: Start of the logged keys that are read first; that of all others is made of it:
            ``interactions_detail/``, or of ``mon_`` ``mon_detail_``.
        one_group: Log all scalars under ``log_key_prefix``, as version 0.1 did, instead of the less read ones under
            ``..._detail/``.
        log_figures: Draw figures for loggers that can show them.
        show_samples: Show watched samples as they are, in figures, in the report and in the ``interactions.json`` it is
            made of. ``False``, for private data, never stores nor draws any input: players have names or numbers then.
        extras: Quantities of the theory to log too: ``"spindle_share"``, ``"persistence"``, and with a ``reference``
            ``"cutoff_order"``.
        reference: A trained model to compare with, of another architecture if you like, or the path of a checkpoint of
            this one (it is unpickled: use only those you trust). Logged is the share of the strength that it has too,
            of the same interactions with the same sign. It is copied, and asked once for the same masked inputs. Not
            with ``layer``.
        seed: Seed of the choice of samples and players; independent of the global one.
        on_error: ``"warn"``: a fault in the monitor, or data it cannot read, is told once and training goes on;
            ``"raise"``: for debugging.
        verbose: Print what was chosen and what it costs, events in one short sentence (unless ``on_event`` warns of
            them), and a table at the end; show long measurements in Lightning's progress bar.

    Attributes:
        history: `History` of all records; ``history.to_dict()`` gives plain lists, ``history.samples`` the watched
            samples, those with the most cancelling high-order strength first (empty with ``resample=True``). Its
            ``epoch`` is 3 at the end of epoch 3, 2.25 when a quarter of it was trained, -1 before training; see below
            where there are no epochs.
        events: All `PhaseEvent` so far, also those of which nobody is alerted (``event.is_alert``).
        boundary_epoch: Epoch in whose course the phase boundary lies (where there are no epochs, the step), or
            ``None``.

    Raises:
        ArgumentError: If an argument is wrong: from the constructor or ``on_fit_start``; in the sanity check, or else
            after the first training step, if it does not suit model or data.
        BatchError: There too, if data do not suit what was chosen: ``players``, ``layer``, ``score``, ``target``,
            ``input``, ``loss_fn`` or one of the functions that read a batch. With ``on_error="raise"`` always.
        ModelOutputError: Likewise, if the model does not return logits.
        ModelCallError: Likewise, if the model fails when it is called.
        StateError: If a checkpoint was written by a monitor with other settings.

    Note:
        Logged keys. With the prefix ``interactions/``: ``mean_order``, ``low_order_share`` (orders 1 to 3),
        ``high_order_share`` (orders from n/2), ``cancellation`` (all averaged over the watched samples),
        ``train_loss``, ``val_loss``, ``loss_gap`` (where a logged validation loss is judged instead, ``val_loss`` is
        that one, ``train_loss`` that of its name, or ``nan``), ``phase`` (1 or 2), ``boundary_epoch`` (-1 while there
        is none), ``overfitting_risk`` (0 to 1: chance to be overfit at the end of the training, or after twice the
        epochs where ``max_epochs`` and ``max_steps`` leave that open), ``val_loss_before_alarm`` (``val_loss``; ``nan``
        from an overfitting event on, until it is retracted).

        With ``interactions_detail/`` (unless ``one_group=True``): ``mean_order_lower``, ``mean_order_upper`` (95 %
        confidence interval over the watched samples), ``mean_degree`` (of the scores, without a split),
        ``effect_order`` and ``roughness`` (of the exact split), ``scale`` and ``effect`` (in units of the score),
        ``salient_count``, ``strength/order_01_pos`` ... ``strength/order_10_neg`` (averaged over the samples too),
        ``suspected`` (1 while phase 2 may have begun, but is not confirmed, else 0), ``boundary_evidence`` (how
        strongly the curves say that they rise: decimal logarithm of an e-value, which noise brings to 2 in less than
        one run of a hundred; a boundary needs 1.3; -6 stands for all that is below), ``solver_gap`` (largest certified
        relative gap), ``noise_floor/order_01`` ... (what rounding noise could add to an order's strength),
        ``onset/turned`` (share of the watched samples whose own mean order has turned and risen), ``onset/q10``,
        ``onset/q50``, ``onset/q90`` (epoch by which a tenth, half, nine tenths of them had; -1 while fewer have),
        ``change/preserved_share``, ``change/emerged_share``, ``change/removed_share`` (share of the strength),
        ``..._order`` (mean order) and ``..._ratio`` (``|sum I| / sum |I|``: how much does not cancel), each with
        ``_lower`` and ``_upper`` (95 % interval): preserved are the interactions that were salient with the same sign
        at every record since the first one, emerged all others that are salient now, removed those that were at first
        and are not now (with their values of then), ``reference/shared_share``, with its bounds (share of the strength
        in interactions that the network given as ``reference=`` has too, with the same sign), with ``extras`` also
        ``theory/spindle_share`` (of the strength that is like the profile at the first record, see `split_profile`),
        ``theory/persistence`` with its bounds (share of the strength at the record before that is salient still),
        ``theory/cutoff_order`` and ``theory/cutoff_distance`` (``t*`` of the noisy-regression law from the reference's
        interactions, and how far its profile is off, see `fit_noise`), ``skipped_samples``,
        ``mean_players`` (texts may have fewer than ``num_players``), ``seconds`` (all the monitor took since the record
        before: measuring, logging, drawing). No onsets and changes with ``resample=True``.

        Where the mean degree is sampled there are, of what is measured in the scores, ``mean_degree`` (with
        ``interactions/`` then), ``mean_degree_error`` (standard error), ``mean_degree_lower`` and ``mean_degree_upper``
        (95 % interval, as if samples and masks were drawn anew), ``total_variance`` (of a sample's scores over all
        masks, in units of the score squared), ``effect``, ``skipped_samples`` and ``mean_players``; no histograms, no
        samples. A text with fewer players counts by its own number.

        With ``watch="both"`` keys of the interactions, onsets and changes have a part ``train/`` or ``val/``. Loggers
        that can take them also get histograms (``order_distribution``; ``histogram/order_01``, ... in the second
        group), figures (``run``, ``strength_by_order``, ``samples``, the three with the most cancelling high-order
        strength; at records 1, 2, 4, 8, ..., at events and at the end) and the events with their evidence (``events``),
        all at the step of the scalars; TensorBoard the three charts of *Custom Scalars* too, with ``boundary_line``.
        Those that keep files get ``interactions.json``, which `write_report` reads. Keys of the history have no prefix
        and no group.

        Records inside of epochs are logged at the step of their batch, without losses that are judged at validations
        only, or not known before the first one. Users who log a ``step`` of their own have no place for them on that
        axis: they are then kept out of the loggers. Models that validate with averaged weights, or fail inside of an
        epoch, are measured at validations only, and so are new samples each time (``resample=True``). After a resume
        records inside of epochs go on from the next validation.

        Where there are no epochs, steps are counted: on a stream that cannot say how long it is (unless it is validated
        at the ends of several epochs only), and where ``max_steps`` ends the training within its first epoch. What
        lies between two validations then stands for an epoch in the rhythm, and ``log_every_n_steps`` where no
        validation comes. ``history.unit`` and ``event.unit`` are ``"step"``: ``epoch`` of records and events,
        ``boundary_epoch``, ``onset/q50``, and ``every_n_epochs`` and ``start_epoch`` are numbers of steps, and all
        sentences and figures speak of these.

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
        num_pairs: int | None = None,
        watch: Literal["val", "train", "both"] = "val",
        resample: bool = False,
        keep_samples: Literal["keys", "inputs", "nothing"] = "keys",
        layer: str | None = None,
        score: Literal["log_odds", "logit", "probability", "output"] | ScoreFn = "log_odds",
        target: Target = "label",
        scale: Literal["std", "difference"] = "std",
        noise_bound: float = 0.05,
        salience: float = 0.07,
        tolerance: float | None = None,
        per_octave: int = 16,
        max_per_epoch: int = 4,
        every_n_epochs: int | None = None,
        start_epoch: int = 0,
        max_overhead: float | None = 0.25,
        detector: PhaseDetector | None = None,
        monitor: str | None = None,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        on_event: OnEvent | Sequence[OnEvent] | None = "warn",
        stop_on: Literal["boundary", "overfitting"] | None = None,
        chunk_size: int | None = None,
        sharded: Literal["auto", "lockstep", "off"] = "auto",
        precision: Literal["32-true", "inherit"] = "32-true",
        input: str | int | None = None,  # what users would call it
        head: str | int | None = None,
        input_fn: Callable[[Any], Any] | None = None,
        forward_fn: Callable[[Any, Any], Any] | None = None,
        target_fn: Callable[[Any], Tensor] | None = None,
        log_key_prefix: str = "interactions/",
        one_group: bool = False,
        log_figures: bool = True,
        show_samples: bool = True,
        extras: Sequence[str] = (),
        reference: Any = None,  # not `nn.Module | ...`: the command line would look for all there are
        seed: int = 0,
        on_error: Literal["warn", "raise"] = "warn",
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.options = Options(
            players=players, num_samples=num_samples, num_players=num_players, num_pairs=num_pairs, watch=watch,
            resample=resample, keep_samples=keep_samples, layer=layer, score=score, target=target,
            scale=scale, noise_bound=noise_bound, salience=salience, tolerance=tolerance,
            per_octave=per_octave, max_per_epoch=max_per_epoch, every_n_epochs=every_n_epochs,
            start_epoch=start_epoch, max_overhead=max_overhead, detector=detector, monitor=monitor, loss_fn=loss_fn,
            on_event=on_event, stop_on=stop_on, chunk_size=chunk_size, sharded=sharded, precision=precision,
            input=input, head=head, input_fn=input_fn, forward_fn=forward_fn, target_fn=target_fn,
            log_key_prefix=log_key_prefix,
            one_group=one_group, log_figures=log_figures, show_samples=show_samples, reference=reference,
            extras=extras, seed=seed, on_error=on_error, verbose=verbose,
        )  # fmt: skip
        self._loop = InteractionMonitor(self.options)
        self.run = self._loop.run
        self._session: Session | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session behind: it belongs to one fit, and would take Trainer and model along."""
        return self.__dict__ | {"_session": None}

    def _home(self) -> InteractionMonitor:
        return self._loop

    # -- policy, for subclasses --------------------------------------------------------------------------------------

    def should_probe(self, epoch: float, step: int) -> bool:
        """Whether to measure here; override for another rhythm. Asked on every rank, rank 0 decides.

        Asked at validations with ``every_n_epochs``, else at most ``max_per_epoch`` times an epoch: ``epoch`` is 3 at
        the end of epoch 3, 2.25 when a quarter of it was trained, -1 before the first; ``step`` counts batches. Where
        there are no epochs, steps are counted instead. Never asked before ``start_epoch``.
        """
        options = self.options
        return is_due(
            epoch, step, self.history.last, per_octave=options.per_octave, every_n_epochs=options.every_n_epochs
        )

    # -- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be known before training."""
        if stage != "fit":
            return
        self._session = Session(trainer, pl_module, self._loop, self.should_probe)
        averaging = averaging_before(trainer, self) if self._session.active else None
        if averaging is not None:
            self._session.faults.tell(
                f"listed after {averaging}, it measures the live weights while validation uses the averaged ones; list "
                f"TwoPhaseMonitor before {averaging} to measure those"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layer: all modules exist by now."""
        if self._session is not None:
            self._session.prepare()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; begin anew if this run does not continue the recorded one; measure before training."""
        if self._session is not None:
            self._session.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take note that the training samples pass by once more; write what was measured after the last epoch."""
        if self._session is not None:
            self._session.write()
            self._session.begin_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """See what the step does with the batch."""
        if self._session is not None:
            self._session.begin_step("train", batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Consider the batch's samples; measure inside of the epoch."""
        if self._session is not None:
            self._session.end_step("train")
            self._session.end_batch()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether this validation will be measured."""
        if self._session is not None:
            self._session.gate()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """See what the step does with the batch; that of the sanity check before anything was trained."""
        if self._session is not None and dataloader_idx == 0:
            self._session.begin_step("val", batch)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Consider the batch's samples."""
        if self._session is not None and dataloader_idx == 0:
            self._session.end_step("val")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure; decide and log, unless the validation loss has to be waited for."""
        if self._session is not None:
            self._session.measure()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide now if the validation loss had to be waited for; write histograms, figures and texts."""
        if self._session is not None:
            self._session.settle(late=True)
            self._session.write(placed=not trainer.sanity_checking)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for augmentation; measure here where no validation has run."""
        if self._session is not None:
            self._session.end_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the run once more, and sum it up."""
        if self._session is not None:
            self._session.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Forget what was under way; keep what was measured."""
        if self._session is not None:
            self._session.interrupt()
        self._session = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let Trainer and model go."""
        if stage == "fit":
            self._session = None

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Identity of this monitor in a checkpoint."""
        return self._generate_state_key(watch=self.options.watch, log_key_prefix=self.options.log_key_prefix)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, in builtin containers and tensors."""
        return self._loop.state_dict() if self._session is None else self._session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint left off; with settings that cannot be compared that is a `StateError`."""
        self._loop.load_state_dict(state_dict)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the record of the run when weights are loaded to be evaluated, as by ``trainer.test(ckpt_path="best")``.

        Lightning would replace it by the one of that checkpoint, which ends earlier.
        """
        if not is_fitting(trainer) and len(self.history):
            checkpoint["callbacks"].pop(self.state_key, None)
