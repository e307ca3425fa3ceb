"""Similarity of two sets of interactions."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.coalitions import num_players_of, orders


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


def jaccard_by_order(first: Tensor, second: Tensor) -> Tensor:
    """Weighted Jaccard similarity of two sets of interactions, order by order: how well each order carries over.

    The papers compare the means over the training and over the test samples of one class, with the same players in all
    samples, and average over classes (arXiv 2405.10262).

    Args:
        first: ``(2, 2**n)``: AND and OR interactions, for example their mean over the samples of one class.
        second: ``(2, 2**n)``.

    Returns:
        ``(n,)``, see `weighted_jaccard`; ``nan`` for an order of which there is nothing.

    Raises:
        ArgumentError: If the shapes differ.

    Example:
        >>> first = torch.tensor([[0.0, 1.0, 1.0, -2.0], [0.0, 0.0, 0.0, 0.0]])
        >>> jaccard_by_order(first, torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
        tensor([0.5000, 0.0000])
    """
    if first.shape != second.shape or first.ndim != 2 or first.shape[0] != 2:
        raise ArgumentError(
            f"Expected `first` and `second` to have one shape (2, 2**n), but got {tuple(first.shape)} and "
            f"{tuple(second.shape)}."
        )
    n = num_players_of(first)
    order = orders(n, first.device)
    parts = ((first[:, order == k].flatten(), second[:, order == k].flatten()) for k in range(1, n + 1))
    return torch.stack([weighted_jaccard(a, b) for a, b in parts])
