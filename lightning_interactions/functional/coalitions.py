"""The bit convention of the package: bit ``i`` of a coalition's index says whether player ``i`` is present.

A function on the coalitions of ``n`` players is a tensor whose last dimension has ``2**n`` entries. Entry 0 is the
empty coalition, entry ``2**n - 1`` the grand coalition, and the complement of entry ``s`` is entry ``2**n - 1 - s``.
The tables are made once for each ``n`` and device.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, bad_argument

MIN_PLAYERS = 2
MAX_PLAYERS = 16


def check_num_players(num_players: object, name: str = "num_players") -> int:
    """Return ``num_players`` if it is an integer from 2 to 16.

    Args:
        num_players: The number to check.
        name: How to call it in the error.

    Raises:
        ArgumentError: If it is anything else.

    Example:
        >>> check_num_players(10)
        10
    """
    if (
        isinstance(num_players, bool)
        or not isinstance(num_players, int)
        or not MIN_PLAYERS <= num_players <= MAX_PLAYERS
    ):
        raise bad_argument(
            name,
            f"an integer from {MIN_PLAYERS} to {MAX_PLAYERS}",
            num_players,
            "The cost doubles with every player: 2**n masked inputs per sample. The papers use 10.",
        )
    return num_players


def num_players_of(values: Tensor) -> int:
    """Return ``n`` of a tensor whose last dimension runs over the ``2**n`` coalitions.

    Args:
        values: Tensor of shape ``(..., 2**n)``.

    Raises:
        ArgumentError: If the last dimension is not a power of two (or there is none).

    Example:
        >>> num_players_of(torch.zeros(5, 1024))
        10
    """
    size = values.shape[-1] if values.ndim else 0
    n = size.bit_length() - 1
    if size < 2 or size != 1 << n:
        raise ArgumentError(
            f"Expected a tensor of shape (..., 2**n), one entry per coalition, but got shape {tuple(values.shape)}."
        )
    return n


def orders(num_players: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the order (number of players present) of every coalition.

    Args:
        num_players: ``n``.
        device: Where the table should live.

    Returns:
        Long tensor of shape ``(2**n,)``. It is cached: do not write to it.

    Example:
        >>> orders(3)
        tensor([0, 1, 1, 2, 1, 2, 2, 3])
    """
    return _orders(num_players, torch.device(device))


def coalition_masks(num_players: int, device: torch.device | str = "cpu") -> Tensor:
    """Return which players every coalition contains.

    Args:
        num_players: ``n``.
        device: Where the table should live.

    Returns:
        Boolean tensor of shape ``(2**n, n)``. It is cached: do not write to it.

    Example:
        >>> coalition_masks(2).int().tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    return _masks(num_players, torch.device(device))


@lru_cache(maxsize=64)
def _masks(n: int, device: torch.device) -> Tensor:
    # A table made under inference mode could not be used by autograd later, and the cache outlives the context.
    with torch.inference_mode(False):
        index = torch.arange(2**n, device=device)
        return (index.unsqueeze(-1) >> torch.arange(n, device=device)).bitwise_and(1).bool()


@lru_cache(maxsize=64)
def _orders(n: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _masks(n, device).sum(-1)
