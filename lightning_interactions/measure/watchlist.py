"""Which samples are watched in this run: collecting them from passing batches, freezing, restoring.

A split ("val", "train") can have two kinds of samples: a small class-balanced one for the interactions, and a larger
one, drawn evenly from all samples, for the loss. Both are filled from the same batches. A checkpoint holds their
content keys, by which they are found again as the data pass by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.measure.keys import content_keys, without_targets
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.samples import Outline, Pool, Samples, join
from lightning_interactions.model.batch import Batch, Padding

LOSS_SAMPLES = 512
KINDS = "watched", "losses"
"""Kinds of samples."""

STATE_LIMIT_BYTES = 64 * 2**20
"""Where inputs go into the checkpoint, they do up to this size; larger ones are collected again after a resume."""


class Recurrence:
    """Do the training samples come again in the next epoch? Those that are augmented anew each time do not.

    Only the first whole epoch after they were chosen is looked at, and of it only so much as is needed.
    """

    def __init__(self) -> None:
        self.batches = self._before = 0  # of this epoch so far; they are counted, so that most need not be read
        self.keys: Tensor | None = None  # of the chosen samples, until they have been looked for
        self._seen: Tensor | None = None

    def begin_epoch(self) -> None:
        """Begin to look if there is something to look for."""
        self._before, self.batches = max(self._before, self.batches), 0
        self.keys = None if self.keys is None else torch.unique(without_targets(self.keys))
        self._seen = None if self.keys is None else torch.zeros(len(self.keys), dtype=torch.bool)

    @property
    def looks(self) -> bool:
        """Whether batches of this epoch are of interest."""
        return self._seen is not None and not bool(self._seen.all())

    def offer(self, keys: Tensor) -> None:
        """Consider the keys of a batch."""
        if self._seen is not None and self.keys is not None:
            self._seen |= torch.isin(self.keys, without_targets(keys))

    def end_epoch(self, ranks: Ranks) -> tuple[int, int] | None:
        """Return how many of how many came again, if that is less than half; on all ranks or on none."""
        if self._seen is None:
            return None
        own = torch.cat([self._seen, torch.tensor([self.batches < self._before])])
        self.keys = self._seen = None
        everyone = ranks.gather(own[None].int()).cpu().any(0)
        seen, size, cut_short = int(everyone[:-1].sum()), len(everyone) - 1, bool(everyone[-1])
        return None if cut_short or 2 * seen >= size else (seen, size)


@dataclass(frozen=True)
class _Choice:
    """Which samples of which rank are chosen; every rank comes to the same."""

    keys: Tensor  # those of the chosen samples, rank by rank
    counts: Tensor  # how often each occurs, on all ranks together
    rows: list[Tensor]  # of each rank's own samples, those that are chosen
    like: Samples  # of no rows, in their final shape

    @classmethod
    def among(cls, pool: Pool, outlines: Sequence[Outline | None], padding: Padding | None, any_size: bool) -> _Choice:
        """Choose what one pool would have kept of all ranks' samples."""
        _check_alike(outlines, padding, any_size)
        known = [outline for outline in outlines if outline is not None]
        like = join([outline.like for outline in known], padding)
        if like.sizes is None and any(outline.like.sizes is not None for outline in known):
            like = replace(like, sizes=torch.zeros(0, like.inputs.ndim - 1, dtype=torch.int64))
        keys = torch.cat([outline.keys for outline in known])
        classes = [outline.classes for outline in known if outline.classes is not None]
        chosen = pool.choose(keys, torch.cat(classes) if classes else None, like.inputs).sort().values
        found, which = torch.unique(keys, return_inverse=True)
        counts = torch.zeros_like(found).index_add_(0, which, torch.cat([outline.counts for outline in known]))
        ends = list(accumulate(0 if outline is None else len(outline.keys) for outline in outlines))
        rows = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        return cls(keys[chosen], counts[which[chosen]], rows, like)

    def part_of(self, rank: int, pool: Samples | None, padding: Padding | None) -> Samples:
        """The chosen samples that this rank contributes."""
        return self.like if pool is None else join([pool, self.like], padding)[self.rows[rank]]

    def gather(self, ranks: Ranks, own: Samples) -> Samples:
        """Exchange the chosen samples; each is contributed once."""
        counts, order = [len(rows) for rows in self.rows], self.keys.argsort()
        inputs, targets, *carried = (
            ranks.gather_rows(part, counts)[order] for part in (own.inputs, own.targets, *own.carried)
        )
        sizes = None if own.sizes is None else ranks.gather_rows(own.sizes, counts)[order]
        return Samples(inputs, targets, self.keys[order], tuple(carried), self.counts[order], sizes)


def _check_alike(outlines: Sequence[Outline | None], padding: Padding | None, any_size: bool) -> None:
    """Compare what all ranks have; they all raise, or none does."""
    forms: dict[Any, str] = {}
    for rank, outline in enumerate(outlines):
        if outline is not None:
            like = outline.like
            shape: Any = like.inputs.shape[1:] if padding is None else like.inputs.shape[1:-1]
            shape = like.inputs.ndim if any_size else shape
            inputs, targets = (
                f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape[1:])}" for x in (like.inputs, like.targets)
            )
            others = tuple((tensor.shape[1:], tensor.dtype) for tensor in like.carried)
            form = shape, like.inputs.dtype, like.targets.shape[1:], like.targets.dtype, others
            forms.setdefault(form, f"inputs {inputs} with targets {targets} on rank {rank}")
    if len(forms) > 1:
        raise BatchError(
            f"Expected all ranks to have samples of one shape and type, but got {', '.join(forms.values())}. Give "
            "`input_fn=batch -> inputs` that pads or crops them."
        )


class Watchlist:
    """The samples of the splits that are ``watched`` for interactions, and of those whose ``losses`` are measured.

    With ``resample`` the watched ones are collected anew after each measurement; those for the loss stay. ``keep`` says
    what of the samples goes into a checkpoint: ``"keys"``, ``"inputs"`` (up to `STATE_LIMIT_BYTES`, else keys) or
    ``"nothing"``. The attributes ``watched`` and ``losses`` hold the frozen ones by split.
    """

    def __init__(
        self,
        watched: Sequence[str],
        losses: Sequence[str],
        *,
        num_samples: int,
        resample: bool = False,
        seed: int = 0,
        keep: str = "keys",
    ) -> None:
        self.watched: dict[str, Samples] = {}
        self.losses: dict[str, Samples] = {}
        self.num_samples = num_samples
        self.recurrence = Recurrence()
        self._keep, self._resample, self._seed = keep, resample, seed
        self._draws = 0
        # What is still being collected, by kind and split.
        self._pools = {("watched", split): self._new_pool() for split in watched}
        self._pools |= {("losses", split): self._new_loss_pool() for split in losses}

    def wants(self, split: str) -> bool:
        """Whether batches of a split are still of interest."""
        open_ = ("watched", split) in self._pools or ("losses", split) in self._pools
        return open_ or (split == "train" and self.recurrence.looks)

    def begin_pass(self, split: str) -> None:
        """Take note that the data of a split begin to pass once more."""
        for (_, name), pool in self._pools.items():
            if name == split:
                pool.begin_pass()

    def offer(
        self,
        split: str,
        batch: Batch,
        *,
        padding: Padding | None = None,
        any_size: bool = False,
        playable: Tensor | None = None,
        classes_of: Callable[[Tensor], Tensor | None] | None = None,
    ) -> None:
        """Consider the samples of one batch.

        Those that are ``playable``, boolean ``(B,)``, can be watched; the loss counts all. Samples of another shape
        than earlier ones are a `BatchError`, unless ``padding`` brings them to one length, or images of ``any_size``
        will do. ``classes_of``: see `Pool`.
        """
        if split == "train" and self.recurrence.looks:
            self.recurrence.offer(content_keys(batch.inputs, self._seed, padding, batch.carried).cpu())
        for kind, rows in (("losses", None), ("watched", playable)):
            pool = self._pools.get((kind, split))
            if pool is not None:
                pool.classes_of = classes_of or pool.classes_of
                some = batch if rows is None else batch.rows(rows.nonzero().flatten())
                pool.offer(some, padding, any_size=any_size)

    def freeze(
        self,
        ranks: Ranks | None = None,
        padding: Padding | None = None,
        *,
        any_size: bool = False,
        kinds: Sequence[str] = KINDS,
    ) -> str | None:
        """End the collection of every split that has seen samples on any rank; afterwards all ranks hold the same.

        Of the ``kinds`` of samples, ``"watched"`` and for the ``"losses"``, one may be left open for now.

        The ranks first tell each other the keys only. Each then chooses the same samples, and only those are exchanged.
        Returned is what is to be told: which samples that were watched before a resume did not pass by again. If the
        samples of the ranks differ in shape or type, or one rank failed, every rank raises and nothing is frozen.
        """
        ranks, pools = ranks or Ranks(), {place: pool for place, pool in self._pools.items() if place[0] in kinds}
        if not pools:
            return None
        outlines = ranks.gather_objects([pool.outline() for pool in pools.values()])
        choices = {
            place: _Choice.among(pool, seen, padding, any_size)
            for (place, pool), seen in zip(pools.items(), zip(*outlines, strict=True), strict=True)
            if any(outline is not None for outline in seen)
        }
        with ranks.together():
            parts = [choice.part_of(ranks.rank, pools[p].result(), padding) for p, choice in choices.items()]
        found = {p: choice.gather(ranks, part) for (p, choice), part in zip(choices.items(), parts, strict=True)}
        for (kind, split), samples in found.items():
            self._frozen[kind][split] = samples
            del self._pools[kind, split]
        again = [samples.keys for (kind, split), samples in found.items()
                 if split == "train" and kind not in self._passing]  # fmt: skip
        if again:
            self.recurrence.keys = torch.unique(torch.cat(again))
        keys = {p: (without_targets(pools[p].wanted), without_targets(samples.keys)) for p, samples in found.items()}
        return _missing(keys)

    def begin_anew(self, split: str, *, watched: bool) -> None:
        """Forget what was collected of a split; what is ``watched`` too, if it was chosen already."""
        if watched and self.watched.pop(split, None) is not None:
            self._pools["watched", split] = self._new_pool()
        fresh = {"watched": self._new_pool(), "losses": self._new_loss_pool()}
        for (kind, name), pool in self._pools.items():
            if name == split:
                fresh[kind].wanted = pool.wanted
                self._pools[kind, name] = fresh[kind]

    def renew(self) -> None:
        """With ``resample``, begin to collect other watched samples; else do nothing."""
        if self._resample:
            self._draws += 1
            for split in self.watched:
                self._pools.setdefault(("watched", split), self._new_pool())

    def state_dict(self) -> dict[str, Any]:
        """Return of the frozen samples what is to be kept, as builtin containers and tensors."""
        if self._keep == "nothing":
            return {"draws": self._draws}
        kept = [samples for some in self._frozen.values() for samples in some.values()]
        size = sum(x.numel() * x.element_size() for samples in kept for x in (samples.inputs, *samples.carried))
        with_inputs = self._keep == "inputs" and size <= STATE_LIMIT_BYTES
        # Keys by which samples are to be found again: of those still being looked for, and of the frozen ones.
        keys: dict[str, dict[str, Tensor]] = {"watched": {}, "losses": {}}
        for (kind, split), pool in self._pools.items():
            if len(pool.wanted):
                keys[kind][split] = pool.wanted
        for kind, some in self._frozen.items() if not with_inputs else ():
            if kind not in self._passing:
                keys[kind] |= {split: samples.keys for split, samples in some.items()}
        state: dict[str, Any] = {"draws": self._draws, "keys": keys}
        if with_inputs:
            state |= {
                kind: {s: dict(vars(samples)) for s, samples in some.items()} for kind, some in self._frozen.items()
            }
        elif self._keep == "inputs":
            state["dropped_bytes"] = size
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore samples, or the keys to find them by; ``False`` if they should be in it, but were too large."""
        self._draws = int(state.get("draws", 0))
        for kind, some in self._frozen.items():
            for split, tensors in state.get(kind, {}).items():
                some[split] = Samples(**tensors)
                self._pools.pop((kind, split), None)
        if self._resample:  # the draw that was under way begins again
            open_ = [split for kind, split in self._pools if kind == "watched"]
            self._pools |= {("watched", split): self._new_pool() for split in (*open_, *self.watched)}
        for (kind, split), pool in self._pools.items():
            if kind not in self._passing:
                pool.wanted = state.get("keys", {}).get(kind, {}).get(split, pool.wanted)
        return "dropped_bytes" not in state

    @property
    def _frozen(self) -> dict[str, dict[str, Samples]]:
        return {"watched": self.watched, "losses": self.losses}

    @property
    def _passing(self) -> tuple[str, ...]:
        """Kinds of samples that are drawn anew each time, so that none is looked for again."""
        return ("watched",) if self._resample else ()

    def _new_loss_pool(self) -> Pool:
        return Pool(LOSS_SAMPLES, seed=self._seed)

    def _new_pool(self) -> Pool:
        return Pool(self.num_samples, seed=self._seed + 1_000_003 * self._draws, balanced=True)


def _missing(wanted_and_found: Mapping[tuple[str, str], tuple[Tensor, Tensor]]) -> str | None:
    """Say how many samples that were watched before a resume are not watched any more."""
    kinds = {"watched": "watched {} samples", "losses": "{} samples for the loss"}
    counts = {place: (int((~torch.isin(w, found)).sum()), len(w)) for place, (w, found) in wanted_and_found.items()}
    texts = [f"{gone} of {all_} {kinds[name].format(split)}" for (name, split), (gone, all_) in counts.items() if gone]
    if not texts:
        return None
    watched = any(gone for (name, _), (gone, _) in counts.items() if name == "watched")
    return (
        f"after the resume {', '.join(texts)} did not pass by again before the first measurement (augmented or "
        "streamed data, or a stop in the middle of an epoch); others take their place, and "
        + ("comparisons with earlier epochs begin anew" if watched else "that loss is another one than before")
    )
