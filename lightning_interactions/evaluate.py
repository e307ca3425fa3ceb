"""Masked forward passes: every coalition of every sample, in chunks of bounded memory.

The (sample, coalition) pairs stream through the model in rectangular blocks: masks are made in one go on the device,
and never more than `chunk_size` masked inputs exist at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_interactions.coalitions import coalition_masks
from lightning_interactions.errors import ModelOutputError
from lightning_interactions.layers import LayerCut
from lightning_interactions.probing import Forward
from lightning_interactions.scores import ScoreFn, read_logits

MAX_CHUNK = 4096
CHUNK_ELEMENTS = 2**22
"""Without a `chunk_size`, a chunk holds about this many input numbers (16 MiB in float32), at most `MAX_CHUNK` rows."""


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
    chunk_size: int | None = None,
    cut: LayerCut | None = None,
) -> Tensor:
    """Value function of every sample at every coalition.

    Args:
        forward: The model call; run it inside `probing`.
        samples: ``(B, *shape)`` on the model's device.
        players: ``(B, ...)`` player ids, as `Players.draw` returns them, stacked.
        targets: Long ``(B,)`` on the model's device.
        masker: The players.
        num_players: ``n``.
        score: ``(logits, targets) -> scores``.
        chunk_size: Largest number of masked inputs in one forward; chosen from the input's size by default. It is
            halved for as long as memory does not suffice.
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
    coalitions = coalition_masks(num_players, samples.device)

    masked = samples if cut is None else layer_features(forward, samples, cut, chunk_size)

    def rows(first: int, last: int, start: int, stop: int) -> Tensor:
        inputs = masker.mask_batch(masked[first:last], players[first:last], coalitions[start:stop])
        output = forward(inputs) if cut is None else cut.resume(forward, samples[first:last], inputs)
        return score_rows(output, targets[first:last], stop - start, score)

    return _back_off(
        lambda chunk: _in_blocks(rows, len(samples), len(coalitions), chunk),
        chunk_size or default_chunk_size(masked),
        samples.device,
    )


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
    return _back_off(
        lambda chunk: torch.cat([cut.features(forward, part) for part in torch.split(samples, chunk)]),
        chunk_size or default_chunk_size(samples),
        samples.device,
    )


def default_chunk_size(samples: Tensor) -> int:
    """Masked inputs per forward when the user did not say.

    Args:
        samples: ``(B, *shape)``.

    Example:
        >>> default_chunk_size(torch.zeros(1, 3, 32, 32))
        1365
    """
    return max(32, min(MAX_CHUNK, CHUNK_ELEMENTS // max(samples[:1].numel(), 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, on whatever device, did not suffice.

    Args:
        error: The exception.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA out of memory."))
        True
    """
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "out of memory" in text or "can't allocate memory" in text
    )


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
    values = score(logits, targets.repeat_interleave(repeats))
    if values.shape != (expected,):
        raise ModelOutputError(
            f"Expected `score` to return shape (B,) = ({expected},), but it returned {tuple(values.shape)}."
        )
    return values.to(logits.dtype).view(len(targets), repeats)


def _back_off(run: Callable[[int], Tensor], chunk: int, device: torch.device) -> Tensor:
    """Run with ever smaller chunks until memory suffices."""
    while True:
        try:
            return run(chunk)
        except (RuntimeError, MemoryError) as error:
            if chunk == 1 or not is_out_of_memory(error):
                raise
        chunk //= 2
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _in_blocks(
    rows: Callable[[int, int, int, int], Tensor], num_samples: int, num_coalitions: int, chunk: int
) -> Tensor:
    """Cover the samples-by-coalitions rectangle with blocks of at most `chunk` cells, of equal shape where possible."""
    width = min(num_coalitions, 1 << (chunk.bit_length() - 1))
    blocks = -(-num_samples // max(1, chunk // width))
    height = -(-num_samples // blocks)
    out = [
        torch.cat([rows(i, min(i + height, num_samples), j, j + width) for j in range(0, num_coalitions, width)], 1)
        for i in range(0, num_samples, height)
    ]
    return torch.cat(out)
