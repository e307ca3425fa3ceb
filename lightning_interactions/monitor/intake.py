"""What passes by goes in here: batches are read, wait for the model to be known, and are offered to the watchlist."""

from __future__ import annotations

from collections.abc import Callable

from lightning_interactions.errors import BatchError
from lightning_interactions.measure.games import Rules
from lightning_interactions.measure.watchlist import LOSS_SAMPLES, Watchlist
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.reader import Reader, Sighting
from lightning_interactions.model.tree import copied
from lightning_interactions.monitor.options import Options


class Intake:
    """Takes in sightings of batches, once the ``reader`` is known.

    Attributes:
        reader: How they are read; ``None`` until the first one was looked at.
        own: How many of the samples a rank sees in a pass are its own, by split; the rest repeat others.
        problems: What was wrong with the first batch that was left out, by split.
        left_out: How many samples were, by split.
        passed: How many samples came in the present pass, by split.
    """

    def __init__(self, watchlist: Watchlist, options: Options, tell: Callable[[str], object]) -> None:
        self._watchlist, self._options, self._tell = watchlist, options, tell
        self.own: dict[str, int] = {}
        self.forget()

    def forget(self) -> None:
        """Forget how sightings are read, and those that wait."""
        self.reader: Reader | None = None
        self.problems: dict[str, str] = {}
        self.left_out: dict[str, int] = {}
        self.passed: dict[str, int] = {}
        self._waiting: list[tuple[str, Sighting]] = []

    def sites(self, split: str) -> set[str] | None:
        """Names of the modules whose calls are of interest; ``None`` while that is not known."""
        return self.reader.sites_of(split) if self.reader is not None else None

    def wants(self, split: str, rules: Rules | None) -> bool:
        """Whether batches of a split are of interest."""
        if rules is None:
            return self._waits(split) < LOSS_SAMPLES
        self._watchlist.recurrence.batches += split == "train"
        return self._watchlist.wants(split)

    def begin_anew(self, split: str) -> None:
        """Forget what was wrong with the batches of a split, as they all come again."""
        for found in (self.problems, self.left_out, self.passed):
            found.pop(split, None)

    def begin_pass(self, split: str) -> None:
        """Take note that the data of a split begin to pass once more."""
        self.passed[split] = 0
        self._watchlist.begin_pass(split)

    def take(self, split: str, seen: Sighting, rules: Rules | None) -> None:
        """Consider the samples of a batch, or let it wait for the rules."""
        size, passed = len(seen), self.passed.get(split, 0)
        self.passed[split] = passed + size
        if passed + size > self.own.get(split, passed + size):
            seen.rows = max(self.own[split] - passed, 0)
        if rules is not None:
            self._offer(split, seen, rules)
        elif self._waits(split) < LOSS_SAMPLES:
            # A copy: the model may write into its inputs.
            self._waiting.append(
                (split, seen if seen.calls is not None else Sighting(copied(seen.batch), None, seen.rows))
            )

    def first_waiting(self, split: str) -> Sighting | None:
        """Return the first batch of a split that waits."""
        return next((seen for name, seen in self._waiting if name == split), None)

    def take_waiting(self, rules: Rules) -> None:
        """Consider those that wait."""
        waiting, self._waiting = self._waiting, []
        for split, seen in waiting:
            self._offer(split, seen, rules)

    def tell_of_left_out(self) -> None:
        """Say how many samples were left out, and why."""
        for split, problem in self.problems.items():
            if self.left_out[split]:
                everyone = max(self.passed.get(split, 0), self.left_out[split])
                self._tell(f"{self.left_out[split]} of {everyone} {split} samples are left out: {problem}")
                self.left_out[split] = 0

    def _waits(self, split: str) -> int:
        return sum(len(seen) for name, seen in self._waiting if name == split)

    def _offer(self, split: str, seen: Sighting, rules: Rules) -> None:
        if self.reader is not None and self.reader.skips(seen):
            self._watchlist.recurrence.batches -= split == "train"
            return
        try:
            batch = self._read(split, seen, rules)
            if batch.fields != rules.fields:
                raise BatchError(f"it has {batch.describe()}, the first batch had other inputs")
            self._watchlist.offer(
                split, batch,
                padding=rules.players.padding, any_size=rules.players.any_size and not self._options.layer,
                playable=rules.players.playable(batch.inputs) if self._options.layer is None else None,
                classes_of=rules.task.classes_of,
            )  # fmt: skip
        except Exception as error:  # it may come from the user's own input_fn or target_fn
            self._watchlist.recurrence.batches -= split == "train"  # it has not been looked at
            text = str(error) if isinstance(error, BatchError) else repr(error)
            self.problems.setdefault(split, text)
            size = len(seen) if seen.rows is None else seen.rows
            self.left_out[split] = self.left_out.get(split, 0) + size

    def _read(self, split: str, seen: Sighting, rules: Rules) -> Batch:
        assert self.reader is not None, "the rules are known, so is the reader"
        return rules.along(self.reader.read(split, seen))
