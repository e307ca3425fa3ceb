"""The bit convention of the package: bit ``i`` of a coalition's index says whether player ``i`` is present.

A function on the coalitions of ``n`` players is a tensor whose last dimension has ``2**n`` entries. Entry 0 is the
empty coalition, entry ``2**n - 1`` the grand coalition, and the complement of entry ``s`` is entry ``2**n - 1 - s``.
The tables are made once for each ``n`` and device.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, bad_argument, is_whole

MIN_PLAYERS = 2
MAX_PLAYERS = 16


def check_num_players(num_players: object) -> int:
    """Return ``num_players`` if it is an integer from 2 to 16; anything else is an `ArgumentError`."""
    if not is_whole(num_players, MIN_PLAYERS) or num_players > MAX_PLAYERS:
        hint = (
            "The cost doubles with every player: 2**n masked inputs per sample. The papers use 10. Up to 512 have a "
            "mean degree, sampled by `TwoPhaseMonitor` and `functional.sampled_mean_degree`."
        )
        raise bad_argument("num_players", f"an integer from {MIN_PLAYERS} to {MAX_PLAYERS}", num_players, hint)
    return num_players


def num_players_of(values: Tensor) -> int:
    """Return ``n`` of a tensor ``(..., 2**n)``; an `ArgumentError` says that the last dimension is no power of two."""
    size = values.shape[-1] if values.ndim else 0
    n = size.bit_length() - 1
    if size < 2 or size != 1 << n:
        raise ArgumentError(
            f"Expected a tensor of shape (..., 2**n), one entry per coalition, but got shape {tuple(values.shape)}."
        )
    return n


def num_players_of_both(and_: Tensor, or_: Tensor) -> int:
    """Return ``n`` of AND and OR interactions ``(..., 2**n)``; an `ArgumentError` says that their shapes differ."""
    if and_.shape != or_.shape:
        raise ArgumentError(
            f"Expected `and_` and `or_` to have the same shape, but got {tuple(and_.shape)} and {tuple(or_.shape)}."
        )
    return num_players_of(and_)


# A table made under inference mode could not be used by autograd later, and the cache outlives the context.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def orders(num_players: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the order (number of players) of every coalition: long ``(2**n,)``, cached, so do not write to it."""
    return coalition_masks(num_players, device).sum(-1)


def sum_by_order(x: Tensor) -> Tensor:
    """Sum what every coalition has, ``(..., 2**n)``, over those of each order: ``(..., n)``, without the empty one.

    Example:
        >>> sum_by_order(torch.tensor([9.0, 1.0, 2.0, 4.0]))
        tensor([3., 4.])
    """
    n = num_players_of(x)
    return x.new_zeros(*x.shape[:-1], n + 1).index_add(-1, orders(n, x.device), x)[..., 1:]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def coalition_masks(num_players: int, device: torch.device | str = "cpu") -> Tensor:
    """Return which players every coalition contains: boolean ``(2**n, n)``, cached, so do not write to it.

    Example:
        >>> coalition_masks(2).int().tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    index = torch.arange(2**num_players, device=device)
    return (index.unsqueeze(-1) >> torch.arange(num_players, device=device)).bitwise_and(1).bool()
