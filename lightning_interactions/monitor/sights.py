"""What the user's steps do with their batches: seen, looked at the first time, and taken in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_interactions.errors import ArgumentError, BatchError, EmptyBatchError, InteractionsError
from lightning_interactions.model.keep import Kept
from lightning_interactions.model.lockstep import GaveUpError
from lightning_interactions.model.reader import Sight, Sighting
from lightning_interactions.model.refusal import why_never, why_not
from lightning_interactions.monitor.faults import Faults
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.terminal import say
from lightning_interactions.monitor.trainer import columns_of, loaders_of, own_rows, tokenizer_of


def look_once(loop: InteractionMonitor, trainer: Any, module: Any, batch: Any) -> None:
    """Let the loop object look at its first batch, with what the Trainer knows, and say what was chosen."""
    if loop.rules is not None:
        return
    own = trainer.precision_plugin
    precision, fallback = (own, None) if loop.options.precision == "inherit" else (None, own)
    tokenizer = tokenizer_of(trainer, module)
    chosen = loop.look(module, batch, tokenizer=tokenizer, precision=precision, fallback=fallback)
    if loop.rules is not None and loop.options.layer is None:
        for names in columns_of(trainer, module):
            loop.rules.players.call_columns(names)
    if loop.options.verbose:
        say(trainer, f"TwoPhaseMonitor: {chosen}.")


class Sights:
    """Sees the steps of one fit; what only data can show and nobody asked for switches the monitor off.

    Attributes:
        strict: Whether mistakes in what the user chose are errors.
    """

    def __init__(self, trainer: Any, module: Any, loop: InteractionMonitor, faults: Faults) -> None:
        self.trainer, self.module, self.loop, self.faults = trainer, module, loop, faults
        self.strict = True
        self._sight: Sight | None = None
        self._tried = False  # whether the user's choices were tried out on a training batch

    def begin_pass(self, split: str) -> None:
        """Take note that the data of a split begin to pass once more; what repeats others is known by now."""
        ranks = self.loop.ranks
        for name, loader in loaders_of(self.trainer).items():
            own = own_rows(loader, ranks.rank, ranks.world_size)
            if own is not None:
                self.loop.intake.own[name] = own
        self.loop.start = None
        self.loop.intake.begin_pass(split)

    def open(self, split: str, batch: Any) -> None:
        """See what the step that comes does with a batch."""
        self.close()
        if split == "val" and self.loop.start is None:
            self.loop.start = Kept(self.module)
        sight = self.loop.sight(split, self.module)
        self._sight = sight.open(batch) if sight is not None else None

    def close(self) -> Sighting | None:
        """Look no longer."""
        sight, self._sight = self._sight, None
        return None if sight is None else sight.close()

    def look(self, split: str, seen: Sighting | None, *, last: bool = False) -> None:
        """Look at what was seen first: mistakes in what the user chose are errors while they cost nobody a run.

        A batch that was skipped, or has no targets, says nothing: unless it is the ``last``, others are waited for. A
        model that is split over ranks is looked at once all of them have seen something.
        """
        if self.loop.rules is not None:
            return
        options = self.loop.options
        if split != options.splits[0]:
            if self.strict and options.explicit and not self._tried and self._all_have(seen) and seen is not None:
                self._try_out(seen)
            return
        told = seen is not None and (seen.calls is None or bool(seen.calls) or options.explicit or last)
        if not self._all_have(told) or seen is None:
            return
        try:
            never = None if options.explicit else why_never(seen)
            if never is not None:
                raise BatchError(never)
            look_once(self.loop, self.trainer, self.module, seen)
        except Exception as error:
            # Of what another rank has met this one knows only that: all come to the same.
            if self._all_have(isinstance(error, (EmptyBatchError, GaveUpError))) and not last:
                return
            blamed = [*options.chosen, *(["reference"] if options.reference is not None else [])]
            early = self.strict and self.trainer.global_step == 0 and self._is_about(error, blamed)
            if options.on_error == "raise" or early:
                raise
            ours = isinstance(error, InteractionsError)
            reason = why_not(seen, len(self.trainer.optimizers)) if ours else None
            self.faults.switch_off(reason or (str(error) if ours else repr(error)))

    def _all_have(self, seen: object) -> bool:
        return self.loop.ranks.all(bool(seen))

    def look_at_last(self) -> None:
        """Look at a batch that waits, if none of those that passed has said anything."""
        if self.loop.rules is None:
            split = self.loop.options.splits[0]
            self.look(split, self.loop.intake.first_waiting(split), last=True)

    def _is_about(self, error: Exception, chosen: Sequence[str]) -> bool:
        """Whether an error is about something the user chose."""
        if isinstance(error, ArgumentError):
            return bool(chosen)
        named = [f"`{name}" for name in chosen]
        if "players" in chosen:
            named.append(type(self.loop.options.players).__name__)
        return isinstance(error, InteractionsError) and any(name in str(error) for name in named)

    def _try_out(self, seen: Sighting) -> None:
        """Try the user's own choices on the first training step, where no sanity check has shown a validation batch.

        Only what is wrong with these is an error; training batches may differ from those of validation.
        """
        self._tried = True
        try:
            self.loop.look(self.module, seen, tokenizer=tokenizer_of(self.trainer, self.module), trial=True)
        except InteractionsError as error:
            if self._is_about(error, [name for name in self.loop.options.chosen if not name.endswith("_fn")]):
                raise
        except Exception:  # said when a validation batch has been seen
            return
        finally:
            self.loop.begin_fit()
