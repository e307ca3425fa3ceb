"""AND and OR interactions of given value functions, and the sum that gives the values back (universal matching).

An AND interaction ``I_and(S)`` is the effect that appears only when all players of ``S`` are present; an OR
interaction ``I_or(S)`` the one that appears as soon as any of them is (arXiv 2407.19198, equations 2 and 4).
"""

from __future__ import annotations

from torch import Tensor

from lightning_interactions.functional.moebius import inverse_moebius_transform, moebius_transform


def and_interactions(values: Tensor) -> Tensor:
    """AND interactions ``I_and(S) = sum_{T subset of S} (-1)^(|S|-|T|) u(T)`` with ``u = values - values(empty)``.

    Args:
        values: ``(..., 2**n)``, the value function at every coalition.

    Returns:
        ``(..., 2**n)``; the entry of the empty coalition is zero.

    Raises:
        ArgumentError: If the last dimension is not a power of two.

    Example:
        >>> import torch
        >>> and_interactions(torch.tensor([5.0, 5.0, 5.0, 8.0]))  # 3 points only if both are present
        tensor([0., 0., 0., 3.])
    """
    return moebius_transform(values - values[..., :1])


def or_interactions(values: Tensor) -> Tensor:
    """OR interactions ``I_or(S) = -sum_{T subset of S} (-1)^(|S|-|T|) u(N without T)``, ``u = values - values(empty)``.

    The complement of an index is its reversal, so this is minus the Moebius transform of the reversed tensor.

    Args:
        values: ``(..., 2**n)``, the value function at every coalition.

    Returns:
        ``(..., 2**n)``; the entry of the empty coalition is zero.

    Raises:
        ArgumentError: If the last dimension is not a power of two.

    Example:
        >>> import torch
        >>> or_interactions(torch.tensor([5.0, 8.0, 8.0, 8.0]))  # 3 points as soon as either is present
        tensor([0., 0., 0., 3.])
    """
    interactions = moebius_transform((values[..., :1] - values).flip(-1))
    interactions[..., 0] = 0
    return interactions


def fold_first_order(and_: Tensor, or_: Tensor) -> tuple[Tensor, Tensor]:
    """Move every one-player OR interaction into the AND interaction of the same player.

    Both are the same function of the mask, so the split between them is arbitrary; folding removes the choice.

    Args:
        and_: AND interactions ``(..., 2**n)``.
        or_: OR interactions ``(..., 2**n)``.

    Returns:
        New ``(and_, or_)`` with the same reconstruction and no one-player OR.

    Example:
        >>> import torch
        >>> fold_first_order(torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0, 4.0]))
        (tensor([0., 3., 0., 0.]), tensor([0., 0., 0., 4.]))
    """
    and_, or_ = and_.clone(), or_.clone()
    single = [2**i for i in range((and_.shape[-1]).bit_length() - 1)]
    and_[..., single] += or_[..., single]
    or_[..., single] = 0
    return and_, or_


def reconstruct_values(and_: Tensor, or_: Tensor, empty_value: Tensor | float = 0.0) -> Tensor:
    """Sum interactions back into the value of every coalition: universal matching.

    ``v(T) = v(empty) + sum_{0 < S subset of T} I_and(S) + sum_{S meets T} I_or(S)`` (arXiv 2407.19198, equation 4).

    Args:
        and_: AND interactions ``(..., 2**n)``; the entry of the empty coalition is ignored.
        or_: OR interactions ``(..., 2**n)``; the entry of the empty coalition is ignored.
        empty_value: ``v(empty)``: a number, or a tensor that broadcasts against ``(..., 1)``.

    Returns:
        ``(..., 2**n)``: the value function.

    Raises:
        ArgumentError: If the last dimension is not a power of two.

    Example:
        >>> import torch
        >>> reconstruct_values(torch.tensor([0.0, 1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 0.0, 4.0]), 10.0)
        tensor([10., 15., 14., 17.])
    """
    and_, or_ = and_.clone(), or_.clone()
    and_[..., 0] = 0
    or_[..., 0] = 0
    missed = inverse_moebius_transform(or_).flip(-1)  # OR effects whose players are all absent from T
    return empty_value + inverse_moebius_transform(and_) + or_.sum(-1, keepdim=True) - missed
