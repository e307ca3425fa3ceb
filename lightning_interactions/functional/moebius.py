"""The Moebius transform over the lattice of coalitions, and its inverse.

``I(S) = sum_{T subset of S} (-1)^(|S|-|T|) u(T)`` turns the worth of every coalition into Harsanyi dividends; the
inverse (zeta) transform sums the dividends back up. Both are ``n`` passes of a butterfly over the bits of the index,
``n * 2**(n-1)`` additions, never a ``2**n x 2**n`` matrix (Yates' algorithm; arXiv 2407.19198, equation 2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_interactions.functional.coalitions import num_players_of


def moebius_transform(values: Tensor) -> Tensor:
    """Transform worths of coalitions into Harsanyi dividends (AND interactions).

    Args:
        values: ``(..., 2**n)``, bit ``i`` of the last index is player ``i``.

    Returns:
        ``(..., 2**n)``: ``sum_{T subset of S} (-1)^(|S|-|T|) values(T)`` at every ``S``; same dtype and device.

    Raises:
        ArgumentError: If the last dimension is not a power of two.

    Example:
        >>> import torch
        >>> moebius_transform(torch.tensor([0.0, 1.0, 2.0, 7.0]))  # v(both) = 1 + 2 + a surplus of 4
        tensor([0., 1., 2., 4.])
    """
    return _butterfly(values, Tensor.sub_)


def inverse_moebius_transform(dividends: Tensor) -> Tensor:
    """Sum Harsanyi dividends back into the worths of coalitions (the zeta transform).

    Args:
        dividends: ``(..., 2**n)``.

    Returns:
        ``(..., 2**n)``: ``sum_{S subset of T} dividends(S)`` at every ``T``; same dtype and device.

    Raises:
        ArgumentError: If the last dimension is not a power of two.

    Example:
        >>> import torch
        >>> inverse_moebius_transform(torch.tensor([0.0, 1.0, 2.0, 4.0]))
        tensor([0., 1., 2., 7.])
    """
    return _butterfly(dividends, Tensor.add_)


def _butterfly(x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """For every player in turn, combine the entries where it is present with those where it is absent."""
    out = x.clone(memory_format=torch.contiguous_format)
    n = num_players_of(out)
    for bit in range(n):
        pairs = out.view(*out.shape[:-1], 2 ** (n - 1 - bit), 2, 2**bit)
        combine(pairs[..., 1, :], pairs[..., 0, :])
    return out
