"""What the value function says of orders without a split, and readings of a split that small noise cannot dominate.

The Walsh-Hadamard coefficients ``v^(S)`` are those of ``v`` in an orthonormal basis: ``v(T) = sum_S v^(S) prod_{i in S}
x_i(T)``, with ``x_i`` = -1 where player ``i`` is present and +1 where it is absent (O'Donnell, Analysis of Boolean
Functions, section 1.2). A little noise stays a little energy there, whereas the Moebius transform amplifies the part of
degree ``k`` by about ``2**k``: on rough value functions nearly all of the strength is amplified noise.
:mod:`~lightning_interactions.functional.mask_pairs` estimates the same mean degree for any number of players.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, bad_argument
from lightning_interactions.functional.coalitions import num_players_of, sum_by_order
from lightning_interactions.functional.strength import mean_effect, order_distribution


def walsh_hadamard(values: Tensor) -> Tensor:
    """Transform a value function into its Walsh-Hadamard coefficients, all masks counting alike.

    ``v^(S) = 2**-n sum_T (-1)**|S & T| v(T)``. The sign is that of absence: a player who adds ``w`` to every coalition
    has ``v^({i}) = -w / 2``. ``v^(empty)`` is the mean of ``v``, and applying it twice gives ``2**-n v``.

    Args:
        values: ``(..., 2**n)`` of any real dtype, bit ``i`` of the last index is player ``i``. On a device without
            float64 (``mps``) the work is done, and the result returned, on the CPU.

    Returns:
        ``(..., 2**n)`` float64, in units of the score. Exactly zero at every coalition with a player who changes
        nothing; no coefficient of a sample is finite unless all its values are.

    Raises:
        ArgumentError: If the last dimension is not a power of two, or the values are complex.

    Example:
        >>> walsh_hadamard(torch.tensor([0.0, 1.0, 2.0, 7.0]))  # v(both) = 1 + 2 + a surplus of 4
        tensor([ 2.5000, -1.5000, -2.0000,  1.0000], dtype=torch.float64)
    """
    n = num_players_of(values)
    exact = real_float64(values)
    # Without the offset, which would swallow small coefficients in rounding where it is large.
    out = exact - exact[..., :1]
    for bit in range(n):
        absent, present = out.reshape(*values.shape[:-1], 2 ** (n - 1 - bit), 2, 2**bit).unbind(-2)
        out = torch.stack([absent + present, absent - present], -2)
    out = out.reshape(values.shape) / 2**n
    return torch.cat([out[..., :1] + exact[..., :1], out[..., 1:]], -1)


def degree_energy(values: Tensor) -> Tensor:
    """Energy of a value function by degree: ``sum_{|S|=k} v^(S)**2`` for ``k = 1 .. n``.

    Args:
        values: ``(..., 2**n)``.

    Returns:
        ``(..., n)`` float64, in units of the score squared, that sum to the variance of ``v`` over all coalitions
        (Parseval); all ``nan`` for a sample with a value that is not finite.

    Raises:
        ArgumentError: If the last dimension is not a power of two, or the values are complex.

    Example:
        >>> degree_energy(torch.tensor([0.0, 1.0, 2.0, 7.0]))  # the variance is 7.25
        tensor([6.2500, 1.0000], dtype=torch.float64)
    """
    energy = sum_by_order(walsh_hadamard(values).square())
    finite = values.isfinite().all(-1, keepdim=True).to(energy.device)
    return torch.where(finite, energy, torch.nan)


def mean_degree(energy: Tensor) -> Tensor:
    """Mean degree, weighted by energy: ``sum_k k E_k / sum_k E_k``, the total influence over the variance.

    Args:
        energy: ``(..., n)``, as :func:`degree_energy` returns it; average over samples first, then form the ratio.

    Returns:
        ``(...)``, between 1 (every player adds its own share) and ``n``; ``nan`` where ``v`` does not vary, or a value
        is not finite. White noise has ``n 2**(n-1) / (2**n - 1)``, about ``n / 2``.

    Raises:
        ArgumentError: If there is no dimension of degrees.

    Example:
        >>> mean_degree(torch.tensor([6.0, 2.0])).item()
        1.25
    """
    if energy.ndim < 1 or energy.shape[-1] < 1:
        shape = tuple(energy.shape)
        raise ArgumentError(f"Expected `energy` to have shape (..., n), as degree_energy returns it, but got {shape}.")
    degree = torch.arange(1, energy.shape[-1] + 1, device=energy.device)
    return (energy * degree).sum(-1) / energy.sum(-1)


def effect_order(strength: Tensor) -> Tensor:
    """Mean order of the effect: ``sum_k k 2**-k J(k) / sum_k 2**-k J(k)``, both signs together.

    An AND of order ``k`` acts in ``2**-k`` of all coalitions, and an OR is silent in as many: so much of an
    interaction's strength is seen in ``v``. The weight takes back the growth of noise with its order, by which the
    plain :func:`~lightning_interactions.functional.mean_order` stays high in deep networks.

    Args:
        strength: ``(..., 2, n)``; average over samples first, then form the ratio.

    Returns:
        ``(...)``, between 1 and ``n``; ``nan`` where there is no strength at all.

    Raises:
        ArgumentError: If the shape is not ``(..., 2, n)``.

    Example:
        >>> effect_order(torch.tensor([[3.0, 1.0], [0.0, 5.0]])).item()  # weights 3 / 2 and 6 / 4
        1.5
    """
    share = order_distribution(strength)
    order = torch.arange(1, share.shape[-1] + 1, dtype=share.dtype, device=share.device)
    seen = share * 2**-order
    return (order * seen).sum(-1) / seen.sum(-1)


def roughness(strength: Tensor, values: Tensor) -> Tensor:
    """How many times the effect of the whole input its interactions add up to: ``sum_k J(k) / |v(N) - v(empty)|``.

    Both are averaged over the samples before the ratio is formed. 1 means that all interactions act alike; the larger
    it is, the more of them is rough detail that cancels. It is meant for the strength of the exact split without a
    threshold: ``order_strength(*sparse_and_or(values)[:2], threshold=0.0)``.

    Args:
        strength: ``(..., 2, n)``, of every sample.
        values: ``(..., 2**n)``, the value function of the same samples.

    Returns:
        A scalar without unit. Samples with a value or a strength that is not finite are left out of both means;
        ``nan`` if none is left, or they have no effect.

    Raises:
        ArgumentError: If the shapes are not those of the same samples and players.

    Example:
        >>> strength = torch.tensor([[[4.0, 1.0], [0.0, 3.0]], [[1.0, 1.0], [0.0, 0.0]]])
        >>> roughness(strength, torch.tensor([[0.0, 4.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0]])).item()
        2.5
    """
    n = num_players_of(values)
    if strength.shape != (*values.shape[:-1], 2, n):
        raise ArgumentError(
            f"Expected `strength` and `values` to have shapes (..., 2, n) and (..., 2**n), of the same samples, "
            f"but got {tuple(strength.shape)} and {tuple(values.shape)}."
        )
    counted = strength.isfinite().all(-1).all(-1).to(values.device) & values.isfinite().all(-1)
    effect = mean_effect(values[counted])
    total = strength[counted.to(strength.device)].sum((-1, -2)).mean().to(effect.device)
    return torch.where(effect > 0, total / effect, torch.nan)


def real_float64(values: Tensor) -> Tensor:
    """Return ``values`` in float64, on the CPU if their device has none; complex ones are an `ArgumentError`."""
    if values.is_complex():
        raise bad_argument("values", "a real tensor", values.dtype)
    return (values.cpu() if values.device.type == "mps" else values).double()
