"""Masked forward passes: the coalitions of every sample, in chunks of bounded memory.

The (sample, coalition) pairs stream through the model in rectangular blocks: masks are made in one go on the device,
and never more than `chunk_size` masked inputs exist at once. Their memory is left to the allocator, which gives the
same block back each time: writing into a buffer of our own gained 0 to 3 % where it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_interactions.errors import ModelOutputError
from lightning_interactions.measure.coalitions import EVERY, Coalitions
from lightning_interactions.measure.samples import Samples, crop
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.model import Model, layer_features
from lightning_interactions.model.quiet import Forward, memory_format_of
from lightning_interactions.model.score import ScoreFn, read_logits
from lightning_interactions.players.base import player_counts


def outputs_of(model: Model, samples: Samples, chunk_size: int | None = None) -> Tensor:
    """Outputs ``(B, C)`` for samples as they are, in their order; inside `Model.quiet`."""
    parts = samples.of_one_shape()
    found = []
    for _, some in parts:
        inputs, *carried = model.place(some.inputs, *some.carried)
        found.append(model.logits(inputs, chunk_size, carried))
    return torch.cat(found)[torch.cat([rows for rows, _ in parts]).argsort()]


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
    cells: range | None = None,
    carried: Sequence[Tensor] = (),
    sizes: Tensor | None = None,
    coalitions: Coalitions = EVERY,
) -> Tensor:
    """Value function ``(B, 2**n)`` of every sample at every coalition: float64, or float32 on devices without float64.

    Other ``coalitions`` than all of them give ``(B, C)``.

    Run it inside `quiet`, with samples and targets on the model's device. A `ChunkSize` that is kept starts the next
    time where it ended. The tensors ``carried`` along, ``(B, ...)`` each, are given to every coalition of their sample
    unmasked: ``forward(inputs, *carried)``. Samples of different ``sizes`` ``(B, dimensions)`` are padded, and
    evaluated as they were. ``cells`` evaluates only these of the `count_cells` pairs of sample and coalition (at least
    one), numbered sample by sample, those with the most players first; the result is then flat, see `table_of`.
    """
    chunks = chunk_size if isinstance(chunk_size, ChunkSize) else ChunkSize(chunk_size)
    wanted = range(count_cells(players, coalitions)) if cells is None else cells
    parts, passed = [], 0
    for rows, count, shape in _games(players, sizes):
        width = coalitions.width(count)
        own = range(max(wanted.start - passed, 0), min(wanted.stop - passed, len(rows) * width))
        passed += len(rows) * width
        if own:
            touched = rows[own.start // width : (own.stop - 1) // width + 1]
            same = slice(None) if len(touched) == len(samples) else touched
            own_samples, own_players = samples[same], players[same]
            if shape is not None:
                own_samples, own_players = crop(own_samples, shape), crop(own_players, shape)
            values = _fill(
                forward, own_samples, own_players, targets[same], own.start % width, len(own),
                masker=masker, coalitions=coalitions.masks(touched.cpu(), count, samples.device), score=score,
                chunks=chunks, cut=cut, carried=[tensor[same] for tensor in carried],
            )  # fmt: skip
            parts.append(values)
    flat = torch.cat(parts)
    return table_of(flat, players, num_players, sizes, coalitions) if cells is None else flat


def count_cells(players: Tensor, coalitions: Coalitions = EVERY) -> int:
    """Number of pairs of sample and coalition: a sample with fewer players has fewer coalitions that differ."""
    return sum(map(coalitions.width, player_counts(players).tolist()))


def table_of(
    flat: Tensor, players: Tensor, num_players: int, sizes: Tensor | None = None, coalitions: Coalitions = EVERY
) -> Tensor:
    """Put the values of all cells in their places ``(B, C)``.

    Of all coalitions there are ``2**n``; the players a sample lacks make no difference.

    Example:
        >>> table_of(torch.arange(6.0), torch.tensor([[0, 0], [0, 1]]), 2)
        tensor([[4., 5., 4., 5.],
                [0., 1., 2., 3.]])
    """
    games = _games(players, sizes)
    parts = torch.split(flat, [len(rows) * coalitions.width(count) for rows, count, _ in games])
    whole = coalitions.width(num_players)
    wide = [
        part.view(len(rows), -1).repeat(1, whole // coalitions.width(count))
        for part, (rows, count, _) in zip(parts, games, strict=True)
    ]
    if len(games) == 1:
        return wide[0]
    return torch.cat(wide)[torch.cat([rows for rows, _, _ in games]).argsort()]


def _games(players: Tensor, sizes: Tensor | None = None) -> list[tuple[Tensor, int, list[int] | None]]:
    """Samples of one number of players and one shape, the most players first: the sizes then divide each other."""
    counts = player_counts(players)
    found: list[tuple[Tensor, int, list[int] | None]] = []
    for m in sorted(set(counts.tolist()), reverse=True):
        alike = counts == m
        if sizes is None:
            found.append((alike.nonzero().flatten(), m, None))
            continue
        shapes: Tensor = torch.unique(sizes[alike.to(sizes.device)], dim=0)
        for shape in shapes:
            same = (sizes == shape).all(1).to(alike.device)
            found.append(((alike & same).nonzero().flatten(), m, shape.tolist()))
    return found


def _fill(
    forward: Forward,
    samples: Tensor,
    players: Tensor,
    targets: Tensor,
    start: int,
    size: int,
    *,
    masker: Masker,
    coalitions: Tensor,
    score: ScoreFn,
    chunks: ChunkSize,
    cut: LayerCut | None,
    carried: Sequence[Tensor],
) -> Tensor:
    """Fill ``size`` cells of the table of samples by coalitions from a cell of the first row on, block by block."""
    masked = samples if cut is None else layer_features(forward, samples, cut, chunks.rows or None, carried)
    chunks.suit(masked)
    layout = memory_format_of(masked)
    values, width = samples.new_empty(0), coalitions.shape[-2]

    def step(position: int, at_most: int) -> int:
        nonlocal values
        some, which = _block(start + position, start + size, at_most, width)
        inputs = _masked(masker, masked[some], players[some], coalitions[..., which, :], some)
        inputs = inputs.contiguous(memory_format=layout)
        along = [tensor[some] for tensor in carried]
        if cut is not None:
            output = cut.resume(forward, samples[some], inputs, along)
        else:
            output = forward(inputs, *(tensor.repeat_interleave(which.stop - which.start, 0) for tensor in along))
        scores = score_rows(output, targets[some], which.stop - which.start, score)
        if not values.numel():
            values = scores.new_empty(len(samples), width)
        values[some, which] = scores
        return scores.numel()

    chunks.run(size, step, samples.device)
    return values.flatten()[start : start + size]


def _masked(masker: Masker, samples: Tensor, players: Tensor, coalitions: Tensor, rows: slice) -> Tensor:
    """Mask samples by coalitions that they share, or each by its own: by those of its row."""
    if coalitions.ndim == 2:
        return masker.mask_batch(samples, players, coalitions)
    each = zip(torch.split(samples, 1), torch.split(players, 1), coalitions[rows], strict=True)
    masked = [masker.mask_batch(*own) for own in each]
    return masked[0] if len(masked) == 1 else torch.cat(masked)  # not a copy of what may be large


def score_rows(output: Any, targets: Tensor, repeats: int, score: ScoreFn) -> Tensor:
    """Score the rows of one forward pass, ``repeats`` for each target, as ``(S, repeats)``."""
    logits = read_logits(output)
    expected = len(targets) * repeats
    if len(logits) != expected:
        raise ModelOutputError(
            f"Expected one row of logits per input ({expected}), but the model returned {len(logits)}."
        )
    values = score(logits, targets.repeat_interleave(repeats, 0))
    if values.shape != (expected,):
        raise ModelOutputError(
            f"Expected `score` to return shape (B,) = ({expected},), but it returned {tuple(values.shape)}."
        )
    return values.to(logits.dtype).view(len(targets), repeats)


def _block(position: int, stop: int, at_most: int, coalitions: int) -> tuple[slice, slice]:
    """Rectangle of the samples-by-coalitions table that begins at a cell, ends before `stop`, and has few enough cells.

    Whole rows of the table where they fit, in blocks of equal height; else a part of one row, a power of two wide.
    """
    sample, first = divmod(position, coalitions)
    room = min(at_most, stop - position)
    if first or room < coalitions:
        width = 1 << (min(room, coalitions - first).bit_length() - 1)
        return slice(sample, sample + 1), slice(first, first + width)
    rows = (stop - position) // coalitions
    blocks = -(-rows // (at_most // coalitions))
    return slice(sample, sample - (-rows // blocks)), slice(0, coalitions)
