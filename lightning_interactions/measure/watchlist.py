"""Which samples are watched in this run: collecting them from passing batches, freezing, restoring.

A split ("val", "train") can have two kinds of probes: a small class-balanced one for the interactions, and a larger
one, drawn evenly from all samples, for the loss. Both are filled from the same batches. A checkpoint holds their
content keys, by which they are found again as the data pass by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.samples import Outline, ProbeCollector, ProbeSet, content_keys
from lightning_interactions.model.batch import Padding

LOSS_PROBE_SIZE = 512
STATE_LIMIT_BYTES = 64 * 2**20
"""Where inputs go into the checkpoint, they do up to this size; larger ones are collected again after a resume."""


class Recurrence:
    """Do the training samples come again in the next epoch? Those that are augmented anew each time do not.

    Only the first whole epoch after they were chosen is looked at, and of it only so much as is needed.

    Attributes:
        batches: Training batches of this epoch so far; they are counted, so that most need not be read.
        keys: The chosen samples, until they have been looked for.
    """

    def __init__(self) -> None:
        self.batches = self._before = 0
        self.keys: Tensor | None = None
        self._seen: Tensor | None = None

    def begin_epoch(self) -> None:
        """Begin to look if there is something to look for."""
        self._before, self.batches = max(self._before, self.batches), 0
        self._seen = None if self.keys is None else torch.zeros(len(self.keys), dtype=torch.bool)

    @property
    def looks(self) -> bool:
        """Whether batches of this epoch are of interest."""
        return self._seen is not None and not bool(self._seen.all())

    def offer(self, keys: Tensor) -> None:
        """Consider the keys of a batch."""
        if self._seen is not None and self.keys is not None:
            self._seen |= torch.isin(self.keys, keys)

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
    """Which samples of which rank are chosen; every rank comes to the same.

    Attributes:
        keys: Those of the chosen samples, rank by rank.
        rows: Of each rank's own samples, those that are chosen.
        like: Inputs of the final length and targets, of no rows.
    """

    keys: Tensor
    rows: list[Tensor]
    like: Outline

    @classmethod
    def among(cls, collector: ProbeCollector, outlines: Sequence[Outline | None], padding: Padding | None) -> _Choice:
        """Choose what one collector would have kept of all ranks' samples."""
        _check_alike(outlines, padding)
        known = [outline for outline in outlines if outline is not None]
        like = max(known, key=lambda outline: outline.inputs.shape[-1])
        keys = torch.cat([outline.keys for outline in known])
        classes = [outline.classes for outline in known if outline.classes is not None]
        chosen = collector.choose(keys, torch.cat(classes) if classes else None, like.sample_bytes).sort().values
        ends = list(accumulate(0 if outline is None else len(outline.keys) for outline in outlines))
        rows = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        return cls(keys[chosen], rows, like)

    def part_of(self, rank: int, pool: ProbeSet | None, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the chosen samples that this rank contributes."""
        if pool is None:
            return self.like.inputs, self.like.targets
        inputs, length = pool.inputs, self.like.inputs.shape[-1]
        if padding is not None and inputs.shape[-1] != length:
            inputs = padding.extend(inputs, length)
        return inputs[self.rows[rank]], pool.targets[self.rows[rank]]

    def gather(self, ranks: Ranks, inputs: Tensor, targets: Tensor) -> ProbeSet:
        """Exchange the chosen samples; each is contributed once."""
        counts, order = [len(rows) for rows in self.rows], self.keys.argsort()
        inputs, targets = (ranks.gather_rows(part, counts)[order] for part in (inputs, targets))
        return ProbeSet(inputs, targets, self.keys[order])


def _check_alike(outlines: Sequence[Outline | None], padding: Padding | None) -> None:
    """Compare what all ranks have; they all raise, or none does."""
    forms: dict[Any, str] = {}
    for rank, outline in enumerate(outlines):
        if outline is not None:
            inputs, targets = outline.inputs, outline.targets
            shape = inputs.shape[1:] if padding is None else inputs.shape[1:-1]
            text = f"inputs {_form(inputs)} with targets {_form(targets)} on rank {rank}"
            forms.setdefault((shape, inputs.dtype, targets.shape[1:], targets.dtype), text)
    if len(forms) > 1:
        raise BatchError(
            f"Expected all ranks to have samples of one shape and type, but got {', '.join(forms.values())}. Give "
            "`input_fn=batch -> inputs` that pads or crops them."
        )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape[1:])}"


class Watchlist:
    """The probes of all splits.

    Args:
        watched: Splits whose interactions are measured.
        losses: Splits whose loss is measured.
        num_samples: Watched samples per split.
        resample: Collect the watched samples anew after each measurement; the loss probes stay.
        seed: Seed of the choice.
        keep: What of the samples goes into a checkpoint: ``"keys"``, ``"inputs"`` (up to `STATE_LIMIT_BYTES`, else
            keys) or ``"nothing"``.

    Attributes:
        num_samples: As given.
        recurrence: Whether the training samples come again.
        watched: Frozen probes for the interactions, by split.
        losses: Frozen probes for the loss, by split.

    Example:
        >>> import torch
        >>> watchlist = Watchlist(["val"], ["val"], num_samples=2)
        >>> watchlist.offer("val", torch.rand(8, 3), torch.zeros(8))
        >>> watchlist.freeze()
        >>> len(watchlist.watched["val"]), len(watchlist.losses["val"])
        (2, 8)
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
        self.watched: dict[str, ProbeSet] = {}
        self.losses: dict[str, ProbeSet] = {}
        self.num_samples = num_samples
        self.recurrence = Recurrence()
        self._keep = keep
        self._resample = resample
        self._seed = seed
        self._draws = 0
        self._watching = {split: self._watch_collector() for split in watched}
        self._losing = {split: ProbeCollector(LOSS_PROBE_SIZE, seed=seed) for split in losses}

    def wants(self, split: str) -> bool:
        """Whether batches of a split are still of interest.

        Args:
            split: ``"train"`` or ``"val"``.
        """
        return split in self._watching or split in self._losing or (split == "train" and self.recurrence.looks)

    def offer(
        self,
        split: str,
        inputs: Tensor,
        targets: Tensor,
        *,
        padding: Padding | None = None,
        playable: Tensor | None = None,
    ) -> None:
        """Consider the samples of one batch.

        Args:
            split: ``"train"`` or ``"val"``.
            inputs: ``(B, *shape)``.
            targets: ``(B, ...)``.
            padding: How to bring sequences of different length to one.
            playable: Boolean ``(B,)``: samples that can be watched; the loss counts all. ``None`` means all.

        Raises:
            BatchError: If the samples have another shape than earlier ones.
        """
        if split == "train" and self.recurrence.looks:
            self.recurrence.offer(content_keys(inputs, self._seed, padding).cpu())
        losing, watching = self._losing.get(split), self._watching.get(split)
        if losing is not None:
            losing.offer(inputs, targets, padding)
        if watching is not None:
            some = slice(None) if playable is None else playable
            watching.offer(inputs[some], targets[some], padding)

    def freeze(self, ranks: Ranks | None = None, padding: Padding | None = None) -> str | None:
        """End the collection of every split that has seen samples on any rank; afterwards all ranks hold the same.

        The ranks first tell each other the keys only. Each then chooses the same samples, and only those are exchanged.

        Args:
            ranks: Who takes part.
            padding: As for `offer`.

        Returns:
            What is to be told: which samples that were watched before a resume did not pass by again.

        Raises:
            BatchError: On every rank, if their samples differ in shape or type; nothing is frozen then.
            MeasureError: On every rank, if one of them failed; likewise.
        """
        ranks = ranks or Ranks()
        collectors = self._collectors()
        if not collectors:
            return None
        outlines = ranks.gather_objects([collector.outline() for collector in collectors.values()])
        choices = {
            place: _Choice.among(collector, seen, padding)
            for (place, collector), seen in zip(collectors.items(), zip(*outlines, strict=True), strict=True)
            if any(outline is not None for outline in seen)
        }
        parts = ranks.together(
            lambda: [choice.part_of(ranks.rank, collectors[p].result(), padding) for p, choice in choices.items()]
        )
        found = {p: choice.gather(ranks, *part) for (p, choice), part in zip(choices.items(), parts, strict=True)}
        for (name, split), probe in found.items():
            (self.watched if name == "watched" else self.losses)[split] = probe
            del (self._watching if name == "watched" else self._losing)[split]
        self._expect_again([probe for (name, split), probe in found.items() if split == "train"
                            and not (name == "watched" and self._resample)])  # fmt: skip
        return _missing({p: (collectors[p].wanted, probe.keys) for p, probe in found.items()})

    def _collectors(self) -> dict[tuple[str, str], ProbeCollector]:
        both = {"watched": self._watching, "losses": self._losing}
        return {(name, split): collector for name, some in both.items() for split, collector in some.items()}

    def _expect_again(self, probes: Sequence[ProbeSet]) -> None:
        if probes:
            self.recurrence.keys = torch.tensor(sorted({key for probe in probes for key in probe.keys.tolist()}))

    def renew(self) -> None:
        """With ``resample``, begin to collect other watched samples; else do nothing."""
        if self._resample:
            self._draws += 1
            for split in self.watched:
                self._watching.setdefault(split, self._watch_collector())

    def state_dict(self) -> dict[str, Any]:
        """Return of the frozen probes what is to be kept, as builtin containers and tensors."""
        if self._keep == "nothing":
            return {"draws": self._draws}
        frozen = {"watched": self.watched, "losses": self.losses}
        size = sum(probe.nbytes for probes in frozen.values() for probe in probes.values())
        state: dict[str, Any] = {"draws": self._draws, "keys": self._keys(with_frozen=True)}
        if self._keep != "inputs":
            return state
        if size > STATE_LIMIT_BYTES:
            return state | {"dropped_bytes": size}
        kept = {name: {split: probe.state_dict() for split, probe in probes.items()} for name, probes in frozen.items()}
        return state | {"keys": self._keys(with_frozen=False)} | kept

    def _keys(self, *, with_frozen: bool) -> dict[str, dict[str, Tensor]]:
        """Keys by which samples are to be found again: of the frozen ones, and of those still being looked for."""
        keys: dict[str, dict[str, Tensor]] = {"watched": {}, "losses": {}}
        for (name, split), collector in self._collectors().items():
            if len(collector.wanted):
                keys[name][split] = collector.wanted
        if with_frozen:
            keys["losses"] |= {split: probe.keys for split, probe in self.losses.items()}
            if not self._resample:  # others are drawn anyway
                keys["watched"] |= {split: probe.keys for split, probe in self.watched.items()}
        return keys

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore probes, or the keys by which they are found again.

        Args:
            state: What `state_dict` returned.

        Returns:
            ``False`` if they should have been in it, but were too large.
        """
        self._draws = int(state.get("draws", 0))
        for name, frozen, collectors in (
            ("watched", self.watched, self._watching),
            ("losses", self.losses, self._losing),
        ):
            for split, tensors in state.get(name, {}).items():
                frozen[split] = ProbeSet.from_state(tensors)
                collectors.pop(split, None)
        if self._resample:  # the draw that was under way begins again
            self._watching = {split: self._watch_collector() for split in (*self._watching, *self.watched)}
        for (name, split), collector in self._collectors().items():
            if not (name == "watched" and self._resample):
                collector.wanted = state.get("keys", {}).get(name, {}).get(split, collector.wanted)
        return "dropped_bytes" not in state

    def _watch_collector(self) -> ProbeCollector:
        return ProbeCollector(self.num_samples, seed=self._seed + 1_000_003 * self._draws, balanced=True)


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
