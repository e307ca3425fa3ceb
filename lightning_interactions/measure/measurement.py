"""One measurement: from the watched samples and the present weights to strengths, on however many ranks there are.

Each rank evaluates its share of the (sample, coalition) pairs, then splits its share of the samples into interactions;
a few small tensors are exchanged; every rank ends with the same numbers.
No Lightning here: the ranks are described by `Ranks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.functional import (
    SPLIT_TOLERANCE,
    SparseAndOr,
    cancellation,
    high_order_share,
    interaction_histogram,
    low_order_share,
    mean_order,
    order_strength,
    salient_count,
    sparse_and_or,
    symlog_edges,
)
from lightning_interactions.functional.interval import mean_order_interval
from lightning_interactions.functional.strength import mean_effect
from lightning_interactions.measure.noise import ROUNDING, Perturbed, noise_by_order
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.samples import ProbeSet, draw_players
from lightning_interactions.measure.values import (
    Masker,
    count_cells,
    evaluate_coalitions,
    layer_features,
    plain_logits,
    score_rows,
    table_of,
)
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.chunks import ChunkSize, default_chunk_size
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.quiet import Forward
from lightning_interactions.model.score import ScoreFn
from lightning_interactions.model.task import Target, Task, find_task
from lightning_interactions.players import Players, player_counts

NOISE_WORTH_MENTIONING = 0.01
"""Rounding noise below this share of all strength is not worth a warning."""

SMALLEST_SIZE = 1e-3
"""Where histograms begin if every interaction is salient, in units of the scale."""


@dataclass(frozen=True)
class MeasureSettings:
    """What the user chose about measuring, see `TwoPhaseMonitor`; and the relative rounding of the forward passes."""

    num_players: int
    salience: float
    noise_bound: float
    chunk_size: int | ChunkSize | None
    rounding: float = ROUNDING["32"]


@dataclass
class Watched:
    """The watched samples of one split, with their players.

    Attributes:
        probe: The samples.
        masker: The kind of players, fitted.
        labels: Long ``(B, ...)``: the players of every sample.
        num_players: ``n`` of the richest sample: the size of all tables.
    """

    probe: ProbeSet
    masker: Players
    labels: Tensor
    num_players: int

    @property
    def player_counts(self) -> Tensor:
        """Long ``(B,)``: how many players each sample has; where it has fewer than ``n``, the others do nothing."""
        return player_counts(self.labels)

    @classmethod
    def prepare(
        cls, probe: ProbeSet, masker: Players, num_players: int, forward: Forward, device: torch.device,
        cut: LayerCut | None, chunk_size: int | None = None,
    ) -> Watched:  # fmt: skip
        """Fit the players on the samples (or on the inner layer's output for them) and draw them.

        Args:
            probe: The samples.
            masker: The kind of players.
            num_players: How many each sample should have.
            forward: The model call.
            device: Where the model is.
            cut: Where the masking takes place, ``None`` for the input.
            chunk_size: Most samples in one forward.

        Raises:
            BatchError: If the samples do not suit the players.
        """
        masked = probe.inputs
        if cut is not None:
            masked = layer_features(forward, probe.inputs.to(device), cut, chunk_size).cpu()
        masker.fit(masked)
        labels, found = draw_players(masker, masked, probe.keys, num_players)
        return cls(probe, masker, labels, found)

    def refit(self, forward: Forward, device: torch.device, cut: LayerCut, chunk_size: int | None = None) -> None:
        """Fit the players on the layer's present output: a mean baseline moves with the weights.

        Args:
            forward: The model call.
            device: Where the model is.
            cut: Where the masking takes place.
            chunk_size: Most samples in one forward.
        """
        self.masker.fit(layer_features(forward, self.probe.inputs.to(device), cut, chunk_size).cpu())


@dataclass(frozen=True)
class Measurement:
    """What one measurement found about one split; the same on every rank.

    Attributes:
        strength: Float64 ``(B, 2, n)``, rows of ``nan`` for samples whose outputs were not finite.
        salient_count: Float64 ``(B,)``, likewise.
        gap: Float64 ``(B,)``: certified relative gap of the split, likewise.
        histogram: Float64 ``(n, bins)``: interactions by order and size.
        edges: Float64 ``(bins + 1,)``: the bins' edges, in units of ``scale``.
        scale: Mean of ``|v(N) - v(empty)|`` over the samples, in units of the score.
        noise: Float64 ``(n,)``: what rounding noise could add to the strength of each order, in units of the score;
            ``nan`` for token ids, which cannot be off by a rounding.
        player_counts: Long ``(B,)``: players of each sample.
        target: Float64 ``(B,)``: what the data say, see `Task.truth`; ``nan`` where outputs were not finite.
        prediction: Float64 ``(B,)``: what the model says of the whole sample, see `Task.predict`; likewise.
        followed: Float64 ``(B,)``: whose score is split, see `Task.followed`; likewise.
    """

    strength: Tensor
    salient_count: Tensor
    gap: Tensor
    histogram: Tensor
    edges: Tensor
    scale: float
    noise: Tensor
    player_counts: Tensor
    target: Tensor
    prediction: Tensor
    followed: Tensor

    @property
    def skipped(self) -> int:
        """Samples left out because the model's outputs were not finite."""
        return int(self.gap.isnan().sum())

    @property
    def mean_strength(self) -> Tensor:
        """Strength ``(2, n)`` averaged over the samples that count."""
        return self.strength.nanmean(0)

    @property
    def is_noisy(self) -> bool:
        """Whether the strength of the high orders could be rounding noise, and that noise is worth mentioning."""
        high = (len(self.noise) + 1) // 2 - 1
        strength, noise = self.mean_strength.sum(0), float(self.noise[high:].sum())
        return noise > float(strength[high:].sum()) and noise > NOISE_WORTH_MENTIONING * float(strength.sum())

    def scalars(self) -> dict[str, float]:
        """The numbers logged of it, by key; ``nan`` where there is no strength at all."""
        mean = self.mean_strength
        lower, upper = mean_order_interval(self.strength)
        numbers = {
            "mean_order": mean_order(mean),
            "mean_order_lower": torch.tensor(lower),
            "mean_order_upper": torch.tensor(upper),
            "low_order_share": low_order_share(mean),
            "high_order_share": high_order_share(mean),
            "cancellation": cancellation(mean),
            "salient_count": self.salient_count.nanmean(),
            "solver_gap": _nanmax(self.gap),
            "skipped_samples": torch.tensor(self.skipped),
            "mean_players": self.player_counts.double().mean(),
        }
        for sign, row in zip(("pos", "neg"), mean, strict=True):
            numbers |= {f"strength/order_{k:02d}_{sign}": value for k, value in enumerate(row, start=1)}
        if bool(self.noise.isfinite().all()):
            numbers |= {f"noise_floor/order_{k:02d}": value for k, value in enumerate(self.noise, start=1)}
        return {key: float(value) for key, value in numbers.items()}


@dataclass
class Measurer:
    """Measures splits of watched samples and loss probes under the present weights.

    Attributes:
        settings: What to compute.
        task: What is asked of the model.
        ranks: Who takes part.
        device: Where the model is.
        arrange: Brings inputs into the memory format that suits the model.
    """

    settings: MeasureSettings
    task: Task
    ranks: Ranks
    device: torch.device
    arrange: Callable[[Tensor], Tensor] = lambda inputs: inputs

    @property
    def chunk_rows(self) -> int | None:
        """Most rows in one forward, ``None`` while that is still to be found out."""
        return ChunkSize.of(self.settings.chunk_size).rows or None

    @property
    def edges(self) -> Tensor:
        """Edges of the histogram bins: two decades from the threshold of salience on, both signs."""
        smallest = max(self.settings.salience, SMALLEST_SIZE)
        return symlog_edges(smallest, 100 * smallest)

    def measure(
        self,
        context: Callable[[], Any],
        make_forward: Callable[[], Forward],
        players_of: Callable[[Forward], Mapping[str, Watched]],
        loss_probes: Mapping[str, ProbeSet],
        cut: LayerCut | None = None,
    ) -> tuple[dict[str, Measurement], dict[str, float]]:
        """Run all forwards, split all values, and exchange the results.

        Args:
            context: Makes the context in which the model may be called.
            make_forward: Makes the model call; run inside the context.
            players_of: Gives the watched samples by split; it may call the model.
            loss_probes: Samples by split for the loss, all of them used.
            cut: Where the masking takes place, ``None`` for the input.

        Returns:
            Measurements and mean losses (nats per sample), by split.

        Raises:
            MeasureError: On every rank, if one of them failed.
        """

        def first_forwards() -> tuple[Mapping[str, Watched], dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
            with context():
                forward = make_forward()
                watched = players_of(forward)
                found = {name: self._values(forward, item, cut) for name, item in watched.items()}
                losses = {name: self._losses(forward, probe) for name, probe in loss_probes.items()}
            return watched, found, losses

        def second_forwards() -> tuple[dict[str, Tensor | None], dict[str, SparseAndOr]]:
            with context():
                forward = make_forward()
                cells = {name: self._perturbed(forward, watched[name], v, cut) for name, v in values.items()}
            return cells, {name: self._split(v[self.ranks.share(len(v))]) for name, v in values.items()}

        watched, own, losses = self.ranks.together(first_forwards)
        values = {name: self._join(own[name][0], item, slice(None)) for name, item in watched.items()}
        perturbed, splits = self.ranks.together(second_forwards)
        found = {
            name: self._summarise(
                values[name],
                split,
                self._noise(watched[name], values[name], perturbed[name]),
                own[name][1],
                watched[name].player_counts,
            )
            for name, split in splits.items()
        }
        means = {
            name: _mean_of_finite(self.ranks.collect(loss, len(loss_probes[name]))) for name, loss in losses.items()
        }
        return found, means

    def _values(self, forward: Forward, watched: Watched, cut: LayerCut | None) -> tuple[Tensor, Tensor]:
        """Scores of this rank's share of the pairs, flat; target, prediction and what is followed ``(B, 3)``."""
        return self._evaluate(forward, watched, torch.arange(len(watched.probe)), watched.masker, cut)

    def _perturbed(self, forward: Forward, watched: Watched, values: Tensor, cut: LayerCut | None) -> Tensor | None:
        """Scores of the first sample that counts, with other rounding; ``None`` if there is none, or no rounding."""
        first = _first_finite(values)
        token_ids = not watched.probe.inputs.is_floating_point() and cut is None
        if token_ids or not bool(values[first].isfinite().all()):
            return None
        return self._evaluate(forward, watched, first, Perturbed(watched.masker, self.settings.rounding), cut)[0]

    def _noise(self, watched: Watched, values: Tensor, cells: Tensor | None) -> Tensor:
        """Rounding noise of that sample ``(n,)``, or ``nan``."""
        if cells is None:
            return values.new_full((watched.num_players,), torch.nan)
        first = _first_finite(values)
        return noise_by_order(values[first], self._join(cells, watched, first))[0]

    def _join(self, cells: Tensor, watched: Watched, rows: Tensor | slice) -> Tensor:
        """Values ``(B, 2**n)`` of some samples, from the shares of all ranks."""
        players = watched.labels[rows]
        return table_of(self.ranks.join(cells, count_cells(players)), players, watched.num_players)

    def _evaluate(
        self, forward: Forward, watched: Watched, rows: Tensor, masker: Masker, cut: LayerCut | None
    ) -> tuple[Tensor, Tensor]:
        """Scores of this rank's share of some samples' pairs with coalitions, flat; answers for all these samples."""
        probe, task, labels = watched.probe, self.task, watched.labels[rows]
        inputs, targets = self.arrange(probe.inputs[rows].to(self.device)), task.read(probe.targets[rows])
        logits = plain_logits(forward, inputs, self.chunk_rows)
        picked = task.pick(targets, logits, probe.keys[rows])
        found = task.truth(targets, picked), task.predict(logits, picked), task.followed(picked)
        answers = torch.stack([answer.to(logits) for answer in found], 1)
        cells = self.ranks.cells(count_cells(labels))
        if not cells:
            return logits.new_zeros(0), answers
        values = evaluate_coalitions(
            forward, inputs, labels.to(self.device), picked,
            masker=masker, num_players=watched.num_players, score=task.follow,
            chunk_size=self.settings.chunk_size if masker is watched.masker else self.chunk_rows, cut=cut, cells=cells,
        )  # fmt: skip
        return values, answers

    def _split(self, values: Tensor) -> SparseAndOr:
        return sparse_and_or(values, noise_bound=self.settings.noise_bound, tol=SPLIT_TOLERANCE)

    def _losses(self, forward: Forward, probe: ProbeSet) -> Tensor:
        share, task = self.ranks.share(len(probe)), self.task
        size = self.chunk_rows or default_chunk_size(probe.inputs)
        parts = share.tensor_split(-(-len(share) // size))  # of like size; only one at a time is on the device
        moved = (self.arrange(probe.inputs[rows].to(self.device)) for rows in parts)
        logits = torch.cat([plain_logits(forward, inputs, size) for inputs in moved])
        return task.loss(logits, task.read(probe.targets[share]))

    def _summarise(
        self, values: Tensor, split: SparseAndOr, noise: Tensor, answers: Tensor, player_counts: Tensor
    ) -> Measurement:
        """Sum up on the device; everything then leaves it in one tensor."""
        and_, or_, gap, edges = split.and_, split.or_, split.gap, self.edges
        values = values.to(gap)
        scale = mean_effect(values)
        threshold = self.settings.salience * scale
        columns = [
            order_strength(and_, or_, threshold).flatten(1),
            salient_count(and_, or_, threshold).unsqueeze(1),
            gap.unsqueeze(1),
            interaction_histogram(and_, or_, scale, edges.to(gap)).flatten(1),
            answers[self.ranks.share(len(values))],
        ]
        own = torch.where(gap.isfinite().unsqueeze(1), torch.cat([c.to(gap) for c in columns], 1), torch.nan)
        everyone = self.ranks.collect(own, len(values)).to(gap)
        numbers = torch.cat([everyone.flatten(), noise.to(gap), scale.view(1)]).cpu()
        table = numbers[: everyone.numel()].view(everyone.shape)
        strength, count, gap, histogram, answers = torch.split(table, [c.shape[1] for c in columns], 1)
        return Measurement(
            strength=strength.view(len(strength), 2, -1),
            salient_count=count.squeeze(1),
            gap=gap.squeeze(1),
            histogram=histogram.nansum(0).view(-1, len(edges) - 1),
            edges=edges,
            scale=float(numbers[-1]),
            noise=numbers[everyone.numel() : -1],
            player_counts=player_counts,
            target=answers[:, 0],
            prediction=answers[:, 1],
            followed=answers[:, 2],
        )


def check_model(
    forward: Forward, few: Batch, targets: Tensor, score: str | ScoreFn = "log_odds", target: Target = "label"
) -> Task:
    """Try the model on a few samples, before training begins.

    Args:
        forward: The model call.
        few: A few samples on the model's device.
        targets: Those of the whole batch the samples are from.
        score: Name or callable.
        target: Whose score.

    Returns:
        What is asked of the model.

    Raises:
        ModelOutputError: If the output is not one row of logits per sample, or ``score`` not one number per row.
        BatchError: If the targets do not fit the logits.
        ArgumentError: If ``target`` or ``score`` does not.
    """
    logits = plain_logits(forward, few.inputs)
    task = find_task(logits, targets, score, target)
    picked = task.pick(task.read(few.targets), logits, torch.arange(len(logits)))
    score_rows(logits, picked, 1, task.follow)
    return task


def _mean_of_finite(values: Tensor) -> float:
    return float(values[values.isfinite()].mean())


def _nanmax(values: Tensor) -> Tensor:
    finite = values[values.isfinite()]
    return finite.max() if len(finite) else values.new_tensor(torch.nan)


def _first_finite(values: Tensor) -> Tensor:
    """Index ``(1,)`` of the first row without ``nan`` or infinity: the first sample that counts; 0 if none does."""
    return values.isfinite().all(1).int().argmax(0, keepdim=True).cpu()
