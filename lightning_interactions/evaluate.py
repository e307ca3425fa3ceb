"""Masked forward passes: every coalition of every sample, in chunks of bounded memory.

The (sample, coalition) pairs stream through the model in rectangular blocks: masks are made in one go on the device,
and never more than `chunk_size` masked inputs exist at once. Their memory is left to the allocator, which gives the
same block back each time: writing into a buffer of our own gained 0 to 3 % where it was measured.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_interactions.chunks import ChunkSize, default_chunk_size
from lightning_interactions.coalitions import coalition_masks
from lightning_interactions.errors import ModelOutputError
from lightning_interactions.layers import LayerCut
from lightning_interactions.players.base import player_counts
from lightning_interactions.probing import Forward, memory_format_of
from lightning_interactions.scores import ScoreFn, read_logits


class Masker(Protocol):
    """What the evaluation needs of the players."""

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        """Return ``(S * C, *shape)``: every sample under every coalition."""


def evaluate_coalitions(
    forward: Forward,
    samples: Tensor,
    players: Tensor,
    targets: Tensor,
    *,
    masker: Masker,
    num_players: int,
    score: ScoreFn,
    chunk_size: int | ChunkSize | None = None,
    cut: LayerCut | None = None,
) -> Tensor:
    """Value function of every sample at every coalition.

    Args:
        forward: The model call; run it inside `probing`.
        samples: ``(B, *shape)`` on the model's device.
        players: ``(B, ...)`` player ids, as `Players.draw` returns them, stacked. A sample with ``m < n`` players is
            evaluated on its own ``2**m`` coalitions: the missing players make no difference.
        targets: ``(B,)`` on the model's device, for the score.
        masker: The players.
        num_players: ``n``.
        score: ``(logits, targets) -> scores``.
        chunk_size: Largest number of masked inputs in one forward; by default the fastest is found on the way, and a
            `ChunkSize` that is kept starts there the next time. It is halved when memory does not suffice.
        cut: Mask the output of this inner layer instead of the input; ``players`` then refer to that output.

    Returns:
        Float64 ``(B, 2**n)`` (float32 on devices without float64); ``nan`` or ``inf`` where the model returned such.

    Raises:
        ModelOutputError: If the outputs are not one row of logits per masked input.

    Example:
        >>> from lightning_interactions.players import TabularFeatures
        >>> from lightning_interactions.scores import logit
        >>> players, x = TabularFeatures("zero"), torch.tensor([[1.0, 2.0]])
        >>> evaluate_coalitions(lambda x: x.sum(-1), x, torch.tensor([[0, 1]]), torch.tensor([1]),
        ...                     masker=players, num_players=2, score=logit)
        tensor([[0., 1., 2., 3.]], dtype=torch.float64)
    """
    chunks = ChunkSize.of(chunk_size)
    masked = samples if cut is None else layer_features(forward, samples, cut, chunks.rows or None)
    chunks.suit(masked)
    counts, order, parts = player_counts(players), [], []
    for count in sorted(set(counts.tolist())):  # a sample with fewer players has fewer coalitions that differ
        rows = (counts == count).nonzero().flatten()
        same = slice(None) if len(rows) == len(samples) else rows
        values = _fill(
            forward, samples[same], masked[same], players[same], targets[same],
            masker=masker, coalitions=coalition_masks(count, samples.device), score=score, chunks=chunks, cut=cut,
        )  # fmt: skip
        order.append(rows)
        parts.append(values.repeat(1, 2 ** (num_players - count)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(order).argsort()]


def _fill(
    forward: Forward,
    samples: Tensor,
    masked: Tensor,
    players: Tensor,
    targets: Tensor,
    *,
    masker: Masker,
    coalitions: Tensor,
    score: ScoreFn,
    chunks: ChunkSize,
    cut: LayerCut | None,
) -> Tensor:
    """Fill the table of samples by coalitions, block by block; ``masked`` is what the coalitions apply to."""
    layout = memory_format_of(masked)
    values = samples.new_empty(0)

    def step(position: int, at_most: int) -> int:
        nonlocal values
        some, which = _block(position, at_most, len(samples), len(coalitions))
        inputs = masker.mask_batch(masked[some], players[some], coalitions[which]).contiguous(memory_format=layout)
        output = forward(inputs) if cut is None else cut.resume(forward, samples[some], inputs)
        scores = score_rows(output, targets[some], which.stop - which.start, score)
        if not values.numel():
            values = scores.new_empty(len(samples), len(coalitions))
        values[some, which] = scores
        return scores.numel()

    chunks.run(len(samples) * len(coalitions), step, samples.device)
    return values


def layer_features(forward: Forward, samples: Tensor, cut: LayerCut, chunk_size: int | None = None) -> Tensor:
    """Output of an inner layer on unmasked samples, with the memory of one chunk.

    Args:
        forward: The model call.
        samples: ``(B, *shape)`` on the model's device.
        cut: The layer.
        chunk_size: As for `evaluate_coalitions`.

    Returns:
        ``(B, *feature_shape)``.

    Raises:
        ModelOutputError: If the layer does not run exactly once, or its output is not one row per sample.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
        >>> layer_features(net, torch.ones(5, 2), LayerCut(net, "0"), chunk_size=2).shape
        torch.Size([5, 3])
    """
    parts: list[Tensor] = []

    def step(position: int, at_most: int) -> int:
        parts.append(cut.features(forward, samples[position : position + at_most]))
        return len(parts[-1])

    ChunkSize(chunk_size or default_chunk_size(samples)).run(len(samples), step, samples.device)
    return torch.cat(parts)


def plain_logits(forward: Forward, samples: Tensor, chunk_size: int | None = None) -> Tensor:
    """Logits of the samples as they are.

    Args:
        forward: The model call.
        samples: ``(B, *shape)`` on the model's device.
        chunk_size: Most rows in one forward.

    Returns:
        ``(B, C)``, as `scores.read_logits` gives them.

    Raises:
        ModelOutputError: If the model does not return one row of logits for each sample.

    Example:
        >>> plain_logits(lambda x: x.sum(-1).squeeze(), torch.ones(1, 3))
        tensor([[3.]], dtype=torch.float64)
    """
    if len(samples) == 1:  # models that squeeze their output mistake a single row
        return plain_logits(forward, samples.expand(2, *samples.shape[1:]))[:1]
    size = max(chunk_size or default_chunk_size(samples), 2)
    logits = [read_logits(forward(part)) for part in samples.tensor_split(-(-len(samples) // size))]
    rows = sum(map(len, logits))
    if rows != len(samples):
        raise ModelOutputError(f"Expected one row of logits per input ({len(samples)}), but the model returned {rows}.")
    return torch.cat(logits)


def score_rows(output: Any, targets: Tensor, repeats: int, score: ScoreFn) -> Tensor:
    """Score the rows of one forward pass and check that there are as many as there should be.

    Args:
        output: What the model returned for ``S * repeats`` inputs.
        targets: Long ``(S,)``.
        repeats: Rows per sample.
        score: ``(logits, targets) -> scores``.

    Returns:
        ``(S, repeats)``.

    Raises:
        ModelOutputError: If the model or the score returned something else than one row, or number, per input.
    """
    logits = read_logits(output)
    expected = len(targets) * repeats
    if len(logits) != expected:
        raise ModelOutputError(
            f"Expected one row of logits per input ({expected}), but the model returned {len(logits)}."
        )
    values = score(logits, targets.unsqueeze(1).expand(-1, repeats).flatten())
    if values.shape != (expected,):
        raise ModelOutputError(
            f"Expected `score` to return shape (B,) = ({expected},), but it returned {tuple(values.shape)}."
        )
    return values.to(logits.dtype).view(len(targets), repeats)


def _block(position: int, at_most: int, samples: int, coalitions: int) -> tuple[slice, slice]:
    """Rectangle of the samples-by-coalitions table that begins at a cell, of at most so many cells.

    Whole rows of the table where they fit, in blocks of equal height; else a part of one row, a power of two wide.

    Example:
        >>> _block(0, 10, samples=3, coalitions=4)
        (slice(0, 2, None), slice(0, 4, None))
        >>> _block(6, 3, samples=3, coalitions=4)
        (slice(1, 2, None), slice(2, 4, None))
    """
    sample, first = divmod(position, coalitions)
    if first or at_most < coalitions:
        width = 1 << (min(at_most, coalitions - first).bit_length() - 1)
        return slice(sample, sample + 1), slice(first, first + width)
    left = samples - sample
    blocks = -(-left // (at_most // coalitions))
    return slice(sample, sample - (-left // blocks)), slice(0, coalitions)
