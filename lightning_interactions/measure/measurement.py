"""One measurement: from the watched samples and the present weights to strengths, on however many ranks there are.

Each rank evaluates its share of the (sample, coalition) pairs, then splits its share of the samples into interactions;
their strengths go into the package's own torchmetrics, which sum them over the ranks. Every rank ends with the same
numbers. No Lightning here: the ranks are described by `Ranks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.functional import (
    degree_energy,
    effect_order,
    high_order_share,
    low_order_share,
    mean_degree,
    mean_effect,
    order_strength,
    roughness,
    salient_count,
    sparse_and_or,
    value_scale,
)
from lightning_interactions.functional.interval import mean_order_interval
from lightning_interactions.functional.strength import first_high_order
from lightning_interactions.measure.coalitions import EVERY, Coalitions, MaskPairs
from lightning_interactions.measure.games import Game
from lightning_interactions.measure.noise import Perturbed, noise_by_order
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.sampled import SampledMeasurement, read_pairs
from lightning_interactions.measure.samples import Samples
from lightning_interactions.measure.values import Masker, count_cells, evaluate_coalitions, outputs_of, table_of
from lightning_interactions.metrics.monitored import (
    Exchange,
    Metric,
    MetricCollection,
    interaction_metrics,
    loss_metric,
)
from lightning_interactions.model.chunks import ChunkSize, default_chunk_size
from lightning_interactions.model.model import Model
from lightning_interactions.model.quiet import Forward
from lightning_interactions.model.task import Task

NOISE_WORTH_MENTIONING = 0.01
"""Rounding noise below this share of all strength is not worth a warning."""

TAIL_TOLERANCE = 0.1
"""Gap of the exact split that `Measurement.tail` comes from: closer ones change what is read off it by 2 % at most."""

ROUGH = 15.0
"""Strength above so many times the effect of the whole input is mostly rough detail that cancels.

Smooth networks have 1 to 14, deep ones under the exact split 15 to 130, white noise over 1000.
"""

SMALLEST_SIZE = 1e-3
"""Where histograms begin if every interaction is salient, in units of the scale."""


@dataclass(frozen=True)
class Measurement:
    """What one measurement found about one split; the same on every rank.

    Rows of samples whose outputs were not finite are ``nan``.
    """

    strength: Tensor  # (B, 2, n)
    mean_strength: Tensor  # (2, n): averaged over the samples that count
    numbers: Mapping[str, float]  # what is logged of it, by key; nan where there is no strength at all
    histogram: Tensor  # long (n, bins): interactions by order and size
    edges: Tensor  # (bins + 1,): the bins' edges, in units of the scale
    energy: Tensor  # (B, n): energy of the values by degree, in units of the score squared
    tail: Tensor  # (B, 2, n): strength of the exact split without a threshold
    gap: Tensor  # (B,): certified relative gap of the split
    noise: Tensor  # (n,): what rounding noise could add to each order, in units of the score; nan for token ids
    target: Tensor  # (B,), see `Task.truth`
    prediction: Tensor  # (B,), see `Task.predict`
    followed: Tensor  # (B,), see `Task.followed`
    salient: Tensor  # float32 (B, 2, 2**n): the salient AND and OR interactions, 0 in the place of the others
    ends: Tensor  # (B, 2): the score of the empty and of the whole sample

    @property
    def skipped(self) -> int:
        """Samples left out because the model's outputs were not finite."""
        return int(self.gap.isnan().sum())

    @property
    def watched(self) -> int:
        """Samples asked, those left out too."""
        return len(self.gap)

    @property
    def is_blank(self) -> bool:
        """Whether masking changes the score of no sample."""
        return float(self.mean_strength.sum()) == 0 and self.skipped < self.watched

    @property
    def is_rough(self) -> bool:
        """Whether most of the strength is rough detail that cancels."""
        return float(self.mean_strength.sum()) > ROUGH * self.numbers["effect"] > 0

    @property
    def is_noisy(self) -> bool:
        """Whether the strength of the high orders could be rounding noise, and that noise is worth mentioning."""
        high, total = first_high_order(len(self.noise)), self.mean_strength.sum(0)  # no shares: all may be zero
        noise = float(self.noise[high:].sum())
        return noise > float(total[high:].sum()) and noise > NOISE_WORTH_MENTIONING * float(total.sum())


Found = Measurement | SampledMeasurement
"""What there may be of one split."""


def interactions_in(found: Mapping[str, Found]) -> dict[str, Measurement]:
    """Return the measurements that have interactions: all, or none where the mean degree is sampled."""
    return {split: own for split, own in found.items() if isinstance(own, Measurement)}


def part_of(split: str, splits: Collection[str]) -> str:
    """Return the part of a logged key that names a split: ``"val/"``; nothing where there is only one.

    Example:
        >>> part_of("val", ("val", "train")), part_of("val", ("val",))
        ('val/', '')
    """
    return f"{split}/" if len(splits) > 1 else ""


def measure(
    model: Model,
    games: Mapping[str, Game],
    loss_samples: Mapping[str, Samples],
    ranks: Ranks,
    *,
    tasks: Mapping[str, Task],
    reading: Reading,
    chunks: ChunkSize | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[dict[str, Measurement], dict[str, float], dict[str, Tensor]]:
    """Run all forward passes, split all values, sum up over the ranks.

    Every split has its own task, of one kind; one without has no loss. Losses are in nats per sample; ``progress``
    takes the number of rows of every forward pass.

    Returns:
        By split the measurement, the mean loss, and the loss of each sample ``(B,)`` in the order of the samples, see
        `losses_each`.
    """
    asker = _askers(model, tasks, ranks, chunks, progress)
    values, answers, losses = _ask(asker, games, loss_samples, ranks, model)
    with ranks.together(), model.quiet():
        perturbed = {s: asker[s].perturbed(game, values[s]) for s, game in games.items()}
    with ranks.together():
        metrics = {s: _add_up(v, answers[s], ranks, reading) for s, v in values.items()}
    found = {
        s: _read(metrics[s], game, values[s], reading, asker[s].noise(game, values[s], perturbed[s]))
        for s, game in games.items()
    }
    return found, *_sum_losses(losses, ranks)


def measure_sampled(
    model: Model,
    games: Mapping[str, Game],
    loss_samples: Mapping[str, Samples],
    ranks: Ranks,
    *,
    tasks: Mapping[str, Task],
    pairs: int,
    chunks: ChunkSize | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[dict[str, SampledMeasurement], dict[str, float], dict[str, Tensor]]:
    """Do what `measure` does from ``pairs`` random mask pairs of each sample, see `MaskPairs`: without a split."""
    asker = _askers(model, tasks, ranks, chunks, progress, pairs)
    values, _, losses = _ask(asker, games, loss_samples, ranks, model)
    found = {s: read_pairs(values[s].cpu(), game.player_counts) for s, game in games.items()}
    return found, *_sum_losses(losses, ranks)


_Losses = dict[str, tuple[Metric, Tensor]]


def _askers(
    model: Model,
    tasks: Mapping[str, Task],
    ranks: Ranks,
    chunks: ChunkSize | None,
    progress: Callable[[int], object] | None,
    pairs: int | None = None,
) -> dict[str, _Asker]:
    """Prepare the questions about every split."""

    def counted(inputs: Tensor, *carried: Tensor) -> Any:
        outputs = model(inputs, *carried)
        if progress is not None:
            progress(len(inputs))
        return outputs

    chunks = chunks or ChunkSize(lockstep=ranks.lockstep)
    return {split: _Asker(counted, model, task, ranks, chunks, pairs) for split, task in tasks.items()}


def _ask(
    asker: Mapping[str, _Asker],
    games: Mapping[str, Game],
    loss_samples: Mapping[str, Samples],
    ranks: Ranks,
    model: Model,
) -> tuple[dict[str, Tensor], dict[str, Tensor], _Losses]:
    """Ask for this rank's share, and put that of all together: by split scores ``(B, C)``, answers, own losses."""
    with ranks.together(), model.quiet():
        own = {s: asker[s].values(game, torch.arange(len(game.samples))) for s, game in games.items()}
        losses = {s: asker[s].losses(samples) for s, samples in loss_samples.items() if s in asker}
    values = {s: asker[s].table(game, own[s][0]) for s, game in games.items()}
    return values, {s: answers for s, (_, answers) in own.items()}, losses


def _sum_losses(losses: _Losses, ranks: Ranks) -> tuple[dict[str, float], dict[str, Tensor]]:
    means = {s: float(mean.compute()) for s, (mean, _) in losses.items()}
    return means, {s: losses_each(torch.cat(ranks.exchange(rows))) for s, (_, rows) in losses.items()}


def losses_each(rows: Tensor) -> Tensor:
    """Turn losses and counts ``(B, 2)`` into what each sample ``(B,)`` contributes to the mean: its loss, as a rule.

    A sample that occurs more often than others is moved away from the mean by so much, so that the plain mean of all is
    that of the data, and its standard error too.

    Example:
        >>> losses_each(torch.tensor([[1.0, 1.0], [4.0, 2.0], [torch.nan, 1.0]]))
        tensor([1.6667, 4.3333,    nan])
    """
    loss, count = rows.T
    known = loss.isfinite()
    mean = (loss * count)[known].sum() / count[known].sum()
    each: Tensor = mean + count / count[known].mean() * (loss - mean)
    return each


@dataclass(frozen=True)
class _Asker:
    """This rank's forward passes; everything here runs inside `Model.quiet`, and nothing is exchanged but noise."""

    forward: Forward
    model: Model
    task: Task
    ranks: Ranks
    chunks: ChunkSize
    pairs: int | None = None  # of random masks; `None`: all coalitions

    def coalitions(self, samples: Samples) -> Coalitions:
        """Return what is asked of them."""
        return EVERY if self.pairs is None else MaskPairs(samples.keys, self.pairs)

    def values(self, game: Game, rows: Tensor, masker: Masker | None = None) -> tuple[Tensor, Tensor]:
        """Scores of this rank's share of some samples' pairs with coalitions, flat; answers ``(B, 3)`` for them all."""
        samples, task, labels = game.samples, self.task, game.labels[rows]
        some, targets = samples[rows], task.read(samples.targets[rows])
        logits = outputs_of(self.model, some, self.chunks.rows or None)
        inputs, *carried = self.model.place(some.inputs, *some.carried)
        picked = task.pick(targets, logits, samples.keys[rows])
        answers = torch.stack(
            [task.truth(targets, picked).to(logits), task.predict(logits, picked), task.followed(picked).to(logits)], 1
        )
        coalitions = self.coalitions(some)
        cells = self.ranks.cells(count_cells(labels, coalitions))
        if not cells:
            return logits.new_zeros(0), answers
        values = evaluate_coalitions(
            self.forward, inputs, labels.to(inputs.device), picked,
            masker=masker or game.players, num_players=game.num_players, score=task.follow,
            chunk_size=self.chunks if masker is None else self.chunks.rows or None, cut=self.model.cut, cells=cells,
            carried=carried, sizes=some.sizes, coalitions=coalitions,
        )  # fmt: skip
        return values, answers

    def losses(self, samples: Samples) -> tuple[Metric, Tensor]:
        """Mean loss of this rank's share of the samples, and the loss and count of each in it, on the CPU."""
        mean, own = loss_metric(self.model.device, _exchange(self.ranks)), samples[self.ranks.share(len(samples))]
        table = torch.full((len(own), 2), torch.nan, dtype=torch.float64)
        for rows, part, outputs in self.all_outputs(own):
            loss = self.task.loss(outputs, self.task.read(part.targets))
            loss = torch.where(loss.isfinite(), loss, torch.nan)  # one infinite one would hide the others
            counts = self.task.weights(part.targets).to(loss)
            counts = counts if part.counts is None else counts * part.counts.to(loss)
            mean.update(loss, counts)
            table[rows] = torch.stack([loss, counts], 1).to(table)
        return mean, table

    def all_outputs(self, samples: Samples) -> Iterator[tuple[Tensor, Samples, Tensor]]:
        """Rows and outputs of samples as they are, in parts of one shape; one chunk at a time is on the device."""
        size = self.chunks.rows or default_chunk_size(samples.inputs)
        for rows, alike in samples.of_one_shape() if len(samples) else ():
            for start in range(0, len(alike), size):
                part = alike[start : start + size]
                yield rows[start : start + size], part, outputs_of(self.model, part, size)

    def perturbed(self, game: Game, values: Tensor) -> tuple[Tensor, Tensor] | None:
        """Index ``(1,)`` of the first sample that counts, and its scores rounded otherwise; or ``None``."""
        finite = values.isfinite().all(1)
        token_ids = not game.samples.inputs.is_floating_point() and self.model.cut is None
        if token_ids or not bool(finite.any()):
            return None
        first = finite.int().argmax(0, keepdim=True).cpu()
        return first, self.values(game, first, Perturbed(game.players, self.model.rounding))[0]

    def noise(self, game: Game, values: Tensor, perturbed: tuple[Tensor, Tensor] | None) -> Tensor:
        """Rounding noise of that sample ``(n,)``, or ``nan``."""
        if perturbed is None:
            return values.new_full((game.num_players,), torch.nan)
        first, cells = perturbed
        return noise_by_order(values[first], self.table(game, cells, first))[0]

    def table(self, game: Game, own: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Scores ``(B, C)`` of all ranks, of which this one has found its ``own``."""
        some, flat = game.samples[rows], torch.cat(self.ranks.exchange(own))
        return table_of(flat, game.labels[rows], game.num_players, some.sizes, self.coalitions(some))


def _add_up(values: Tensor, answers: Tensor, ranks: Ranks, reading: Reading) -> MetricCollection:
    """Split this rank's share of the values and give the interactions to the metrics, not yet summed over the ranks."""
    share = ranks.share(len(values))
    own, scale = values[share], value_scale(values, reading.scale)  # of all samples: the same on every rank
    split = reading.split(own, scale)
    exact = sparse_and_or(own, tol=TAIL_TOLERANCE) if reading.noise_bound else split
    values, scale = values.to(split.gap), scale.to(split.gap)
    n, smallest = values.shape[1].bit_length() - 1, max(reading.salience, SMALLEST_SIZE)
    metrics = interaction_metrics(n, smallest, _exchange(ranks)).to(values.device)
    threshold = reading.salience * scale
    table = [
        order_strength(split.and_, split.or_, threshold).flatten(1),
        order_strength(exact.and_, exact.or_, 0.0).flatten(1),
        degree_energy(own).to(values),
        salient_count(split.and_, split.or_, threshold).unsqueeze(1),
        split.gap.unsqueeze(1),
        answers[share],
        own[:, [0, -1]],
    ]
    rows = torch.cat([part.to(values) for part in table], 1)
    metrics.update(
        and_=split.and_, or_=split.or_, threshold=threshold, scale=scale,
        rows=torch.where(split.gap.isfinite().unsqueeze(1), rows, torch.nan),
    )  # fmt: skip
    return metrics


def _read(metrics: MetricCollection, game: Game, values: Tensor, reading: Reading, noise: Tensor) -> Measurement:
    """Sum the metrics over the ranks and bring everything to the CPU."""
    edges = getattr(metrics["histogram"], "edges").cpu()  # noqa: B009  # a module's attributes have no type
    found = metrics.compute()
    mean, rows, noise, histogram = found["strength"].cpu(), found["rows"].cpu(), noise.cpu(), found["histogram"].cpu()
    n = mean.shape[-1]
    both, tail, energy, rest, ends = rows.split([2 * n, 2 * n, n, 5, 2], 1)
    count, gap, target, prediction, followed = rest.T
    strength, tail = both.reshape(-1, *mean.shape), tail.reshape(-1, *mean.shape)
    lower, upper = mean_order_interval(strength)
    numbers = {
        "mean_order": found["mean_order"],
        "mean_order_lower": lower,
        "mean_order_upper": upper,
        "mean_degree": mean_degree(energy.nanmean(0)),
        "effect_order": effect_order(tail.nanmean(0)),
        "low_order_share": low_order_share(mean),
        "high_order_share": high_order_share(mean),
        "cancellation": found["cancellation"],
        "roughness": roughness(tail, values),
        "salient_count": count.nanmean(),
        "scale": value_scale(values, reading.scale),
        "effect": mean_effect(values),
        "solver_gap": gap[gap.isfinite()].max() if bool(gap.isfinite().any()) else torch.nan,
        "skipped_samples": gap.isnan().sum(),
        "mean_players": game.player_counts.double().mean(),
    }
    for order, (positive, negative, floor) in enumerate(zip(*mean, noise, strict=True), start=1):
        numbers |= {f"strength/order_{order:02d}_pos": positive, f"strength/order_{order:02d}_neg": negative}
        if bool(floor.isfinite()):
            numbers[f"noise_floor/order_{order:02d}"] = floor
    plain = dict(zip(numbers, map(float, numbers.values()), strict=True))
    return Measurement(
        strength, mean, plain, histogram, edges, energy, tail, gap, noise, target, prediction, followed,
        salient=found["salient"].cpu(), ends=ends,
    )  # fmt: skip


def _exchange(ranks: Ranks) -> Exchange | None:
    return ranks.exchange if ranks.world_size > 1 else None
