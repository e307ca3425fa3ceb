"""Which samples are watched in this run: collecting them from passing batches, freezing, restoring.

A split ("val", "train") can have two kinds of probes: a small class-balanced one for the interactions, and a larger
one, drawn evenly from all samples, for the loss. Both are filled from the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_interactions.batches import Padding
from lightning_interactions.probes import ProbeCollector, ProbeSet

LOSS_PROBE_SIZE = 512
STATE_LIMIT_BYTES = 64 * 2**20
"""Probes go into the checkpoint up to this size; larger ones are collected again after a resume."""


class Watchlist:
    """The probes of all splits.

    Args:
        watched: Splits whose interactions are measured.
        losses: Splits whose loss is measured.
        num_samples: Watched samples per split.
        resample: Collect the watched samples anew after each measurement; the loss probes stay.
        seed: Seed of the choice.

    Attributes:
        num_samples: As given.
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
    ) -> None:
        self.watched: dict[str, ProbeSet] = {}
        self.losses: dict[str, ProbeSet] = {}
        self.num_samples = num_samples
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
        return split in self._watching or split in self._losing

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
        losing, watching = self._losing.get(split), self._watching.get(split)
        if losing is not None:
            losing.offer(inputs, targets, padding)
        if watching is not None:
            some = slice(None) if playable is None else playable
            watching.offer(inputs[some], targets[some], padding)

    def freeze(
        self, exchange: Callable[[Any], list[Any]] = lambda item: [item], padding: Padding | None = None
    ) -> None:
        """End the collection of every split that has seen samples on any rank; afterwards all ranks hold the same.

        Args:
            exchange: Gives every rank the objects of all ranks.
            padding: As for `offer`.
        """
        for collectors, frozen in ((self._watching, self.watched), (self._losing, self.losses)):
            for split, collector in list(collectors.items()):
                collector.merge(exchange(collector.result()), padding)
                probe = collector.result()
                if probe is not None:
                    frozen[split] = probe
                    del collectors[split]

    def renew(self) -> None:
        """With ``resample``, begin to collect other watched samples; else do nothing."""
        if self._resample:
            self._draws += 1
            for split in self.watched:
                self._watching.setdefault(split, self._watch_collector())

    def state_dict(self) -> dict[str, Any]:
        """Return the frozen probes as tensors, or only the fact that they were too large to keep."""
        size = sum(probe.nbytes for probe in (*self.watched.values(), *self.losses.values()))
        if size > STATE_LIMIT_BYTES:
            return {"draws": self._draws, "dropped_bytes": size}
        return {
            "draws": self._draws,
            "watched": {split: probe.state_dict() for split, probe in self.watched.items()},
            "losses": {split: probe.state_dict() for split, probe in self.losses.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Restore probes.

        Args:
            state: What `state_dict` returned.

        Returns:
            Whether they were in it; ``False`` if they have to be collected again.
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
        return "dropped_bytes" not in state

    def _watch_collector(self) -> ProbeCollector:
        return ProbeCollector(self.num_samples, seed=self._seed + 1_000_003 * self._draws, balanced=True)
