"""The monitor of a plain PyTorch loop: show it the batches, let it measure; no Lightning needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from lightning_interactions.errors import ArgumentError, BatchError, InteractionsError, sentence, warn
from lightning_interactions.measure.games import Games, Rules, covers, find_rules
from lightning_interactions.measure.measurement import interactions_in, measure, measure_sampled
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.reference import Reference
from lightning_interactions.measure.watchlist import KINDS, Watchlist
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.keep import Kept
from lightning_interactions.model.quiet import device_of
from lightning_interactions.model.reader import Sight, Sighting, defines_forward, learn, seeing
from lightning_interactions.monitor.intake import Intake
from lightning_interactions.monitor.notes import doubts, shortages
from lightning_interactions.monitor.options import Options
from lightning_interactions.monitor.results import Results
from lightning_interactions.monitor.run import Record, Run
from lightning_interactions.monitor.state import STATE_VERSION, check_state
from lightning_interactions.monitor.tasks import Tasks
from lightning_interactions.phases import PhaseEvent
from lightning_interactions.players.picture import Picture

HANDFUL = 8  # a loss on fewer samples decides on nothing


class InteractionMonitor(Results):
    """Watches which interactions a network learns, in a training loop of one's own.

    Let it see the steps as they pass (`step`, or `observe` for the batches alone), and measure when an epoch is over:
    it keeps a few samples of each split, masks them in all ``2**n`` ways, and decides on the strength of their
    interactions by order as `TwoPhaseMonitor` does. The model is called in evaluation mode and left as it was.

    Args:
        options: What to measure, attributes of the monitor too; those that concern a Trainer (rhythm, alerts, stopping)
            are ignored.
        ranks: The processes that share the work.
        tell: Takes the text of a problem that was worked around; warns by default.

    Attributes:
        run: History, events and detector.
        watchlist: The watched samples.
        rules: What the first batch showed: the way the model is called, the players. ``None`` until then.

    Example:
        >>> import torch
        >>> net = nn.Linear(4, 2)
        >>> monitor = InteractionMonitor(Options(num_samples=2, num_players=4))
        >>> for epoch in range(2):
        ...     monitor.observe("val", (torch.eye(4), torch.tensor([0, 1, 0, 1])))
        ...     events = monitor.measure(net, epoch)
        >>> monitor.history
        History(2 epochs, 0 to 1: mean_order, ...)
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        ranks: Ranks | None = None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.options = options if options is not None else Options()
        self.ranks = ranks if ranks is not None else Ranks()
        self.tell = tell if tell is not None else _warn
        self.run = Run(self.options.detector, follow=self.options.follows, extras=self.options.extras)
        self._new_watchlist()
        self.begin_fit()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin to take in samples anew."""
        self.__dict__.update(state)
        self._new_intake()
        self._new_tasks()
        self._new_reference()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as new: what was learned belongs to one run, and the rules would take the whole model along."""
        new: dict[str, Any] = {
            "rules": None,
            "_reference": None,
            "live": None,
            "ranks": Ranks(),
            "_chunks": None,
            "games": Games(),
            "tasks": None,
            "intake": None,
            "start": None,
        }
        return self.__dict__ | new

    def begin_fit(self) -> None:
        """Forget how the model is called and who plays; the record and the watched samples stay."""
        self.rules: Rules | None = None
        self._new_reference()
        self._new_tasks()
        self.start: Kept | None = None  # the state of the model before the step that was seen first in this pass
        self.intake.forget()
        self._chunks: ChunkSize | None = None
        self.games = Games()

    def watch(self, split: str) -> None:
        """Watch another split than was asked for."""
        self.options = replace(self.options, watch=split)
        self._new_watchlist()

    def reset(self) -> None:
        """Begin a new run: forget the record and the watched samples."""
        self.run.reset()
        self._new_tasks()
        reader = self.intake.reader
        self._new_watchlist()
        self.intake.reader = reader

    def _new_watchlist(self) -> None:
        options = self.options
        self.watchlist = Watchlist(
            options.splits, options.loss_splits,
            num_samples=options.num_samples, resample=options.resample, seed=options.seed, keep=options.keep_samples,
        )  # fmt: skip
        self._new_intake()

    def _new_intake(self) -> None:
        self.intake = Intake(self.watchlist, self.options, lambda text: self.tell(text))

    def _new_tasks(self) -> None:
        self.tasks = Tasks(self.options, self.run, lambda text: self.tell(text))

    def _new_reference(self) -> None:
        options = self.options
        self._reference = Reference(options.reference, lambda text: self.tell(text), options.chunk_size, options.extras)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def look(
        self, model: nn.Module, batch: Any, *, tokenizer: Any = None, precision: Any = None, fallback: Any = None,
        trial: bool = False,
    ) -> str:  # fmt: skip
        """Try everything that depends on the data on a first batch, so that a mistake shows before training.

        Args:
            model: The model, complete.
            batch: A batch on its device; or, better, a `Sighting` of what the user's own step did with it.
            tokenizer: The tokenizer of a text model; by default the model's attribute of that name.
            precision: As for `Model`.
            fallback: As for `find_rules`.
            trial: The batch is one for training, whose call may differ: the reference is not tried on it.

        Returns:
            What was chosen, in one sentence without a full stop.

        Raises:
            BatchError: If the batch cannot be read or does not suit the players.
            ArgumentError: If an option does not suit the model or the batch.
            ModelOutputError: If the model does not return logits, or cannot be cut at the layer.
            ModelCallError: If the model fails.
        """
        self.ranks = self.ranks.asking(model)
        options, seen = self.options, batch if isinstance(batch, Sighting) else Sighting(batch)
        with self.ranks.section():  # all ranks have rules after it, or none
            reader, note = learn(
                seen, wanted=options.input, input_fn=options.input_fn, target_fn=options.target_fn,
                forward_fn=options.forward_fn, has_forward=defines_forward(model), head=options.head,
            )  # fmt: skip
            first = reader.first(options.splits[0], seen)
            rules = find_rules(
                model, first, call=reader.plan,
                players=options.players, num_players=options.num_players, layer=options.layer, score=options.score,
                target=options.target, forward_fn=options.forward_fn, loss_fn=options.loss_fn, seed=options.seed,
                precision=precision, fallback=fallback, start=self.start, lockstep=self.ranks.lockstep,
                tokenizer=tokenizer if tokenizer is not None else getattr(model, "tokenizer", None),
            )  # fmt: skip
            if not trial:
                self._reference.prepare(rules, first)
            if reader.plan is not None:
                reader.plan.slim()
        self.rules, self.intake.reader = rules, reader
        self._tell([note, *rules.notes] if note else rules.notes)
        return rules.describe()

    def sight(self, split: str, model: nn.Module) -> Sight | None:
        """Prepare to see the next step of a split; ``None`` where its samples are of no interest."""
        return Sight(model, self.intake.sites(split)) if self.intake.wants(split, self.rules) else None

    def step(self, split: str, model: nn.Module, batch: Any) -> AbstractContextManager[None]:
        """See how the model is called in a step on a batch, and consider its samples; instead of `observe`.

        Example:
            >>> import torch
            >>> net, monitor = nn.Linear(4, 2), InteractionMonitor(Options(num_samples=2, num_players=4))
            >>> batch = 255 * torch.eye(4), torch.tensor([0, 1, 0, 1])
            >>> with monitor.step("val", net, batch):
            ...     loss = nn.functional.cross_entropy(net(batch[0] / 255), batch[1])  # the model gets what it got here
            >>> len(monitor.measure(net, epoch=0))
            0
        """
        sight = self.sight(split, model)
        if sight is None:
            return nullcontext()
        return seeing(sight, batch, lambda seen: self.observe(split, seen))

    def observe(self, split: str, batch: Any) -> None:
        """Consider the samples of a batch ``(inputs, targets)`` as it is; one that cannot be read is left out and told.

        The split is ``"train"`` or ``"val"``; the batch, on any device, is not changed, and no random number is drawn.
        Where the step changes it before the model gets it, use `step`. Until the first measurement batches wait.
        """
        self.intake.take(split, batch if isinstance(batch, Sighting) else Sighting(batch), self.rules)

    def measure(
        self,
        model: nn.Module,
        epoch: float,
        *,
        step: int | None = None,
        train_loss: float | None = None,
        val_loss: float | None = None,
        last_epoch: float | None = None,
    ) -> list[PhaseEvent]:
        """Measure under the present weights, and decide.

        What cannot work is an error at the first measurement. A fault in a later one is an event (``probe_failed``) and
        a warning, unless ``Options(on_error="raise")``.

        Args:
            model: The model.
            epoch: Not before the last one; 3 at the end of epoch 3, 2.25 when a quarter of it was trained, -1 before
                the first. A loop without epochs sets ``monitor.history.unit = "step"`` once and counts its steps here.
            step: The optimizer step; by default the number of the record.
            train_loss: A training loss of one's own, instead of that on the fixed training samples.
            val_loss: The same for validation.
            last_epoch: That at whose end the training will be over, if it is known: see `PhaseDetector.update`.

        Returns:
            The new events, mostly none. Of those that are no alert (`PhaseEvent.is_alert`) nobody need be told.

        Raises:
            BatchError: If no usable sample has been seen, or the first batch cannot be read.
            ArgumentError: If an option does not suit the model, or the epoch goes back.
            ModelOutputError: If the model does not return logits.
            ModelCallError: If the model fails.
            MeasureError: On every rank, if one of them failed.
        """
        step, first = len(self.history) if step is None else step, not len(self.history)
        try:
            record = self.take(model, epoch, step)
            events = self.run.decide(
                record,
                record.losses.get("train") if train_loss is None else train_loss,
                record.losses.get("val") if val_loss is None else val_loss,
                last_epoch,
            )
            self.run.keep(record)
            self.refresh()
            self.end_epoch()
            self.watchlist.recurrence.begin_epoch()
        except ArgumentError:  # the epoch goes back, for example: the caller's own mistake
            raise
        except Exception as error:
            if first or self.options.on_error == "raise":
                raise
            problem = f"measuring failed: {error if isinstance(error, InteractionsError) else repr(error)}"
            self.tell(problem)
            events = [self.run.failed(epoch, step, problem)]
        return events

    def take(
        self,
        module: nn.Module,
        epoch: float,
        step: int,
        progress: Callable[[int], object] | None = None,
        logged: Mapping[str, float] | None = None,
        *,
        inside: bool = False,
    ) -> Record:
        """Measure all splits, without deciding; raises as `measure` does. The record is the same on every rank.

        ``progress`` takes the number of rows of every forward pass; the validation loss is first compared with what was
        ``logged``, see `Tasks.compare`. ``inside``: not at a validation; samples for the losses are not chosen then.
        """
        started = time.perf_counter()
        rules = self.prepare(module, kinds=("watched",) if inside else KINDS)
        if logged:
            self.tasks.compare(rules, self.watchlist, logged, self.ranks)
        self._chunks = self._chunks or ChunkSize(self.options.chunk_size, lockstep=self.ranks.lockstep)
        with self.ranks.together():
            self._deal(rules)
        pairs, reading, tasks = self.options.pairs, self.options.reading, self.tasks.by_split
        ask = partial(measure, reading=reading) if pairs is None else partial(measure_sampled, pairs=pairs)
        what = rules.model, self.games, self.watchlist.losses, self.ranks
        found, losses, each = ask(*what, tasks=tasks, chunks=self._chunks, progress=progress)
        shared = self._reference.compare(interactions_in(found), self.games, self.ranks, tasks, reading)
        samples = dict(self.watchlist.watched)
        self.watchlist.renew()
        self._tell(doubts(found, rules, reading, trained=epoch >= 0))
        few = self.run.judge is None and 0 < len(self.watchlist.losses.get("val", ())) < HANDFUL
        if few:
            self.tell(f"only {len(self.watchlist.losses['val'])} val samples are in the loss, too few for an alarm")
        val_losses = (self.watchlist.losses["val"].keys, each["val"]) if "val" in each else None
        record = Record(epoch, step, found, samples, losses, time.perf_counter() - started, few, inside, val_losses)
        record.scalars |= shared
        return record

    def prepare(self, module: nn.Module, kinds: Sequence[str] = KINDS) -> Rules:
        """Choose the samples of these kinds, if that is to be done, and decide what is asked of the model."""
        rules, had = self._agree(module), set(self.watchlist.losses)
        self.intake.tell_of_left_out()
        missing = self._freeze(rules, kinds)
        if missing is not None:
            self.tell(missing)
        if not self.watchlist.watched:
            raise BatchError("no batch with usable samples has passed")
        late = self.tasks.without_losses and set(self.watchlist.losses) != had
        if not self.tasks.by_split or late:
            why = self.intake.problems.get("train", "") if self.intake.passed.get("train") else None
            self.tasks.settle(rules, self.watchlist, self.ranks, missing=why if set(kinds) == set(KINDS) else None)
        return rules

    def _freeze(self, rules: Rules, kinds: Sequence[str]) -> str | None:
        players = rules.players
        return self.watchlist.freeze(self.ranks, players.padding, any_size=players.any_size, kinds=kinds)

    def choose_at_start(self) -> bool:
        """Watch the validation samples that have passed before training, if they will do; on all ranks alike.

        There must be as many as are wanted, and they must cover the classes, or as many of them as there are samples.
        Else, and for the losses in any case, the choice is left to the first whole pass.
        """
        seen = self.ranks.gather_objects(self.rules.kind if self.rules is not None else None)
        taken = False
        if self.rules is not None and len(set(seen)) == 1:
            self._freeze(self.rules, ("watched",))
            taken = covers(self.watchlist.watched.get("val"), self.rules.task, self.options.num_samples)
        self.watchlist.begin_anew("val", watched=not taken)
        self.intake.begin_anew("val")
        return taken

    def _tell(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.tell(text)

    def masked_rows(self) -> int:
        """Rows of masked inputs this rank will ask the model for in one measurement, at most."""
        samples = len(self.options.splits) * self.options.num_samples
        return samples * self.options.rows // self.ranks.world_size

    def end_epoch(self) -> None:
        """Tell, at the end of the first epoch after they were chosen, if the training samples are augmented."""
        again = self.watchlist.recurrence.end_epoch(self.ranks)
        if again is not None:
            self.tell(
                f"the training samples look different in every epoch (augmentation): {again[0]} of {again[1]} came "
                "again in the next one; the training loss is that of augmented copies and may stay above the "
                "validation loss: of the loss gap only the growth counts"
            )

    def compare(self, module: nn.Module, logged: Mapping[str, float]) -> None:
        """Compare the validation loss with what was logged in the same validation; see `Tasks.compare`."""
        self.tasks.compare(self.prepare(module), self.watchlist, logged, self.ranks)

    def _agree(self, module: nn.Module) -> Rules:
        """Make sure that all ranks have seen the same kind of batches; each looked at the first of its own."""
        self.ranks = self.ranks.asking(module)
        first = self.intake.first_waiting(self.options.splits[0])
        if self.rules is None and self.ranks.all(first is not None) and first is not None:
            self.look(module, first.to(device_of(module)))
        if self.rules is not None and self.rules.model.module is not module:
            self.rules = replace(self.rules, model=self.rules.model.of(module))
        if self.rules is not None:
            self.rules.model.start = self.start
        seen = self.ranks.gather_objects(self.rules.kind if self.rules is not None else "nothing usable")
        if self.rules is None or len(set(seen)) > 1:
            raise BatchError(f"the first batch showed {', '.join(f'{x} on rank {i}' for i, x in enumerate(seen))}")
        self.intake.take_waiting(self.rules)
        return self.rules

    def _deal(self, rules: Rules) -> None:
        rows = self._chunks.rows or None if self._chunks is not None else None
        for split in self.games.deal(rules, self.watchlist.watched, self.options.num_players, rows):
            self._tell(shortages(split, self.games[split], self.options))

    def _home(self) -> InteractionMonitor:
        return self

    def picture(self, split: str, index: int) -> Picture | None:
        """See `Games.picture`; its contents only where the options allow to show them."""
        return self.games.picture(split, index, shown=self.options.show_samples)

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs, in builtin containers and tensors."""
        return {
            "version": STATE_VERSION,
            "settings": self.options.identity,
            **self.run.state_dict(with_samples=self.options.keep_samples != "nothing"),
            "watchlist": self.watchlist.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` left off; a `StateError` says which settings differ, or that it is too new."""
        check_state(state, self.options)
        self.run.load_state_dict(state, self.options.splits[0])
        if not self.watchlist.load_state_dict(state.get("watchlist", {})):
            self.tell("the watched samples were too large for the checkpoint and are collected again")


def _warn(text: str) -> None:
    warn(sentence(f"InteractionMonitor: {text}"))
