"""Histogram of interactions by order, on bins that are the same for every epoch, rank and network.

Interactions span decades, so the bins are logarithmic on both sides of zero; they are relative to the effect
``|v(N) - v(empty)|`` of the whole input, so that counts from different epochs and networks can be compared and summed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument, is_whole
from lightning_interactions.functional.coalitions import num_players_of_both, orders

MAX_BINS_PER_DECADE = 100


def symlog_edges(smallest: float = 1e-3, largest: float = 10.0, bins_per_decade: int = 5) -> Tensor:
    """Bin edges that are logarithmic on both sides of zero.

    From left to right: one bin for everything below ``-largest``, the negative bins, one centre bin
    ``[-smallest, smallest)``, the positive bins, and one bin for everything from ``largest`` on. All edges are finite
    so that they can be drawn: the two outermost bins are drawn one step wide, but count without limit.

    Args:
        smallest: Half the width of the centre bin, as a fraction of the scale; above 0.
        largest: Where the outermost bins begin, as a fraction of the scale; above ``smallest``. The decades between the
            two are divided as evenly as ``bins_per_decade`` allows.
        bins_per_decade: How fine the bins are, 1 to 100.

    Returns:
        Float64 tensor ``(bins + 1,)``, strictly increasing and symmetric: 43 bins by default.

    Raises:
        ArgumentError: If an argument is out of range.

    Example:
        >>> symlog_edges(smallest=0.1, largest=1.0, bins_per_decade=1)
        tensor([-10.0000,  -1.0000,  -0.1000,   0.1000,   1.0000,  10.0000],
               dtype=torch.float64)
    """
    if not 0 < smallest < float("inf"):
        raise bad_argument("smallest", "a number above 0", smallest)
    if not smallest < largest < float("inf"):
        raise bad_argument("largest", f"a number above `smallest` ({smallest!r})", largest)
    if not is_whole(bins_per_decade, 1) or bins_per_decade > MAX_BINS_PER_DECADE:
        raise bad_argument("bins_per_decade", f"an integer from 1 to {MAX_BINS_PER_DECADE}", bins_per_decade)
    decades = math.log10(largest / smallest)
    steps = max(1, round(decades * bins_per_decade))
    positive = [smallest * (largest / smallest) ** (i / steps) for i in range(steps + 2)]
    return torch.tensor([-edge for edge in reversed(positive)] + positive, dtype=torch.float64)


def interaction_histogram(and_: Tensor, or_: Tensor, scale: Tensor | float, edges: Tensor) -> Tensor:
    """Count interactions by order and size, AND and OR together.

    An interaction ``I(S)`` of order ``k = |S|`` is counted in row ``k - 1`` and in the bin ``j`` with
    ``edges[j] <= I(S) / scale < edges[j + 1]``; the first and the last bin catch whatever lies beyond. The empty
    coalition, interactions of exactly zero and those that are not finite are not counted.

    Args:
        and_: AND interactions ``(..., 2**n)``.
        or_: OR interactions ``(..., 2**n)``.
        scale: What the interactions are divided by, usually ``mean_x |v(N) - v(empty)|``: a number or a tensor that
            broadcasts against ``(..., 1)``. Where it is not positive and finite, nothing is counted.
        edges: Strictly increasing ``(bins + 1,)``, with at least two bins, as :func:`symlog_edges` makes them.

    Returns:
        Long tensor ``(..., n, bins)``.

    Raises:
        ArgumentError: If the shapes differ, the last dimension is not a power of two, or ``edges`` is not strictly
            increasing.

    Example:
        >>> and_, or_ = torch.tensor([9.0, 2.0, 0.1, -30.0]), torch.tensor([9.0, 0.0, 0.0, 1.0])
        >>> interaction_histogram(and_, or_, scale=2.0, edges=torch.tensor([-10.0, -0.5, 0.5, 10.0]))
        tensor([[0, 1, 1],
                [1, 0, 1]])
    """
    n = num_players_of_both(and_, or_)
    # Finite edges only: a nan would compare as neither below nor above, and every count would silently be wrong.
    if edges.ndim != 1 or edges.numel() < 3 or not torch.isfinite(edges).all() or not (edges.diff() > 0).all():
        raise bad_argument("edges", "a strictly increasing, finite tensor of shape (bins + 1,), bins >= 2", edges)
    bins = edges.numel() - 1
    unit = torch.as_tensor(scale, dtype=and_.dtype, device=and_.device)
    unit = unit.unsqueeze(-1) if unit.ndim else unit
    usable = torch.isfinite(unit) & (unit > 0)
    inner = edges.to(and_)[1:-1].contiguous()
    row = orders(n, and_.device) * bins
    counts = torch.zeros(*and_.shape[:-1], (n + 1) * bins, dtype=torch.long, device=and_.device)
    for interactions in (and_, or_):
        counted = torch.isfinite(interactions) & (interactions != 0) & usable
        relative = torch.where(counted, interactions / unit, torch.zeros_like(interactions))
        index = torch.bucketize(relative.detach().contiguous(), inner, right=True) + row
        counts.scatter_add_(-1, index, counted.long())
    return counts.view(*and_.shape[:-1], n + 1, bins)[..., 1:, :]
