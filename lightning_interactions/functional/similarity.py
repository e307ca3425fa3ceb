"""Similarity of two sets of interactions."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError


def weighted_jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Weighted Jaccard similarity of two signed interaction vectors.

    Each vector is split into its positive and its negative part, both not negative; the similarity is
    ``sum(min) / sum(max)`` over all of them (arXiv 2405.10262, generalisation power; arXiv 2302.13091).

    Args:
        first: ``(..., m)``, for example the mean over samples of all interactions of one order.
        second: ``(..., m)``.

    Returns:
        ``(...)``, between 0 (nothing shared) and 1 (equal); ``nan`` where both are zero.

    Raises:
        ArgumentError: If the shapes differ.

    Example:
        >>> weighted_jaccard(torch.tensor([1.0, -2.0]), torch.tensor([1.0, 2.0]))
        tensor(0.2000)
    """
    if first.shape != second.shape:
        raise ArgumentError(
            f"Expected `first` and `second` to have the same shape, "
            f"but got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    a = torch.cat([first.clamp(min=0), (-first).clamp(min=0)], -1)
    b = torch.cat([second.clamp(min=0), (-second).clamp(min=0)], -1)
    return torch.minimum(a, b).sum(-1) / torch.maximum(a, b).sum(-1)
