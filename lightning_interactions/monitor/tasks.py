"""What is asked of the model in every split, and whether the loss is the user's: decided on data, for a whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lightning_interactions.measure.games import Rules
from lightning_interactions.measure.judge import compare_losses, settle_tasks
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.watchlist import Watchlist
from lightning_interactions.model.task import Task
from lightning_interactions.monitor.options import Options
from lightning_interactions.monitor.run import Run


class Tasks:
    """The tasks of a run.

    Attributes:
        by_split: The task of every split whose samples can be asked; empty until they were chosen.
        without_losses: Whether it was decided before the samples for the losses were chosen.
    """

    def __init__(self, options: Options, run: Run, tell: Callable[[str], object]) -> None:
        self.by_split: dict[str, Task] = {}
        self.without_losses = False
        self._compared = False  # in this fit: a resumed run has to find the form of its loss again
        self._options, self._run, self._tell = options, run, tell

    def settle(self, rules: Rules, watchlist: Watchlist, ranks: Ranks, *, missing: str | None) -> None:
        """Decide what is asked, on all the samples that were chosen; every rank comes to the same.

        ``missing`` says why there are no training samples, where there should be some.
        """
        options, self.without_losses = self._options, not watchlist.losses
        with ranks.together():
            self.by_split, problem, notes = settle_tasks(
                rules.model, watchlist.watched, watchlist.losses,
                score=options.score, target=options.target, loss_fn=options.loss_fn, chunk_size=options.chunk_size,
            )  # fmt: skip
        for note in notes:
            self._tell(note)
        if problem is None and missing is not None and "train" in options.loss_splits and "train" not in self.by_split:
            problem = "the train loss is missing" + (f": {missing}" if missing else "")
        if problem is not None and "val" in self.by_split:
            self._run.alone = True
            self._tell(f"{problem.rstrip('.')}; so there is no loss gap, and the validation loss is judged alone")

    def compare(self, rules: Rules, watchlist: Watchlist, logged: Mapping[str, float], ranks: Ranks) -> None:
        """Compare the validation loss with what was logged in the same validation, likeliest first; on all ranks alike.

        If one is near, ours is of that form from now on; else the first of them decides. Losses may agree at first and
        part later, as where an untrained model has the same loss in every form: so this is done at every record.
        """
        samples, run, task = watchlist.losses.get("val"), self._run, self.by_split.get("val")
        if samples is None or task is None or run.judge is not None:
            return
        verdict = compare_losses(
            rules.model, task, samples, logged, ranks, self._options.chunk_size, keep=self._compared
        )
        if verdict is None:
            return
        again, self._compared, run.judged = self._compared, True, True
        if verdict.near and verdict.task == task:
            return
        if again:
            run.forget_losses()
        if not verdict.near:
            run.judge, run.alone = verdict.key, True
            self._tell(verdict.text)
            return
        form = verdict.task
        self.by_split = {
            split: replace(form, soft=own.soft if own.kind == form.kind else form.soft)
            for split, own in self.by_split.items()
        }
