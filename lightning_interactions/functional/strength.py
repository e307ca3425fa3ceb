"""Strength of the salient interactions by order, and the numbers read off it.

A strength tensor has shape ``(..., 2, n)``: ``[..., 0, k-1]`` is the sum of the salient positive and ``[..., 1, k-1]``
the sum of the salient absolute negative interactions of order ``k``, AND and OR together (arXiv 2405.10262, section 3;
arXiv 2407.19198, section 4). Its unit is the unit of the score (log-odds by default).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, bad_argument
from lightning_interactions.functional.coalitions import num_players_of_both, sum_by_order

LOW_ORDER = 3
"""Orders up to this one count as low."""


SCALES = "std", "difference"
"""What residual and salience are fractions of, see `value_scale`."""


def value_scale(values: Tensor, scale: str = "std") -> Tensor:
    """Measure how much the values of all samples vary: what a residual or a threshold is a fraction of.

    Args:
        values: ``(B, 2**n)``, the value function of every sample.
        scale: ``"std"``: ``s = mean_x std_S v_x(S)``, over all coalitions. ``"difference"``: the mean over the samples
            of ``|v(N) - v(empty)|`` as in arXiv 2407.19198, which falls and rises by itself while players begin to push
            in one direction or in both.

    Returns:
        A scalar tensor in units of the score: the mean is over the samples whose values are all finite, so that a bad
        one does not decide about the others; ``nan`` if there is none.

    Raises:
        ArgumentError: If ``scale`` is something else.

    Example:
        >>> values = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.0, 3.0, -3.0, 0.0]])
        >>> value_scale(values), value_scale(values, "difference")
        (tensor(1.4142), tensor(1.))
    """
    check_scale(scale)
    if scale == "difference":
        return mean_effect(values)
    apart = values - values[..., :1]  # without the offset, for precision
    spread = (apart - apart.mean(-1, keepdim=True)).square().mean(-1).sqrt()
    return torch.where(values.isfinite().all(-1), spread, torch.nan).nanmean()


def check_scale(scale: object) -> None:
    """Raise an `ArgumentError` unless it is one of `SCALES`."""
    if scale not in SCALES:
        expected = " or ".join(f'"{name}"' for name in SCALES)
        raise bad_argument("scale", expected, scale)


def salience_threshold(values: Tensor, salience: float = 0.07, scale: str = "std") -> Tensor:
    """Threshold from which an interaction counts: ``salience`` times the `value_scale`.

    Args:
        values: ``(B, 2**n)``, the value function of every sample.
        salience: The fraction, not negative.
        scale: As for `value_scale`. The threshold of arXiv 2407.19198 has ``salience=0.03, scale="difference"``.

    Returns:
        A scalar tensor in units of the score; ``nan`` if no sample has only finite values.

    Raises:
        ArgumentError: If ``salience`` is negative or not finite, or ``scale`` unknown.

    Example:
        >>> values = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 1.0, -4.0]])
        >>> salience_threshold(values, salience=0.5, scale="difference")
        tensor(1.5000)
    """
    if not 0 <= salience < float("inf"):
        raise bad_argument("salience", "a number not below 0", salience, "The papers use 0.03 of their scale.")
    return salience * value_scale(values, scale)


def mean_effect(values: Tensor) -> Tensor:
    """Average ``|v(N) - v(empty)|`` over the samples whose values are all finite.

    Args:
        values: ``(B, 2**n)``, the value function of every sample.

    Returns:
        A scalar tensor in units of the score; ``nan`` if no sample counts.

    Example:
        >>> mean_effect(torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.0, torch.nan, 1.0, 9.0], [0.0, 1.0, 1.0, -4.0]]))
        tensor(3.)
    """
    effect = (values[..., -1] - values[..., 0]).abs()
    return torch.where(values.isfinite().all(-1), effect, torch.nan).nanmean()


def salient_interactions(and_: Tensor, or_: Tensor, threshold: Tensor | float) -> Tensor:
    """Put the salient interactions of both kinds into one tensor, with 0 in the place of the others.

    Args:
        and_: AND interactions ``(..., 2**n)``.
        or_: OR interactions ``(..., 2**n)``.
        threshold: Smallest absolute value that counts: a number, or a tensor ``(...)`` with one for each sample.

    Returns:
        ``(..., 2, 2**n)``: AND, then OR. The empty coalition is none. ``nan`` stays where it is, and is all there is
        where the threshold is.

    Raises:
        ArgumentError: If the shapes differ or the last dimension is not a power of two.

    Example:
        >>> and_, or_ = torch.tensor([9.0, 2.0, 0.1, -3.0]), torch.tensor([9.0, 0.0, 0.0, 1.0])
        >>> salient_interactions(and_, or_, 0.5).tolist()
        [[0.0, 2.0, 0.0, -3.0], [0.0, 0.0, 0.0, 1.0]]
    """
    num_players_of_both(and_, or_)
    both = torch.stack([and_, or_], -2)
    limit = torch.as_tensor(threshold, dtype=both.dtype, device=both.device)[..., None, None]
    salient = torch.where(both.abs() < limit, 0.0, both)  # nan is not below anything, so it stays visible
    salient = torch.where(limit.isnan(), limit, salient)
    salient[..., 0] = 0.0
    return salient


def order_strength(and_: Tensor, or_: Tensor, threshold: Tensor | float) -> Tensor:
    """Sum salient interactions by sign and order.

    ``J+(k) = sum_{|S|=k, |I(S)| >= threshold} max(I(S), 0)`` and ``J-(k)`` likewise of ``max(-I(S), 0)``, over AND and
    OR interactions together.

    Args:
        and_: AND interactions ``(..., 2**n)``.
        or_: OR interactions ``(..., 2**n)``.
        threshold: Smallest absolute value that counts: a number, or a tensor ``(...)`` with one for each sample.

    Returns:
        ``(..., 2, n)``, not negative, in units of the score; ``nan`` where an interaction is, and all ``nan`` where the
        threshold is: without one nothing can be said.

    Raises:
        ArgumentError: If the shapes differ or the last dimension is not a power of two.

    Example:
        >>> and_, or_ = torch.tensor([0.0, 2.0, 0.1, -3.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])
        >>> order_strength(and_, or_, threshold=0.5).tolist()
        [[2.0, 1.0], [0.0, 3.0]]
    """
    salient = salient_interactions(and_, or_, threshold)
    return sum_by_order(torch.stack([salient.clamp(min=0).sum(-2), (-salient).clamp(min=0).sum(-2)], -2))


def salient_count(and_: Tensor, or_: Tensor, threshold: Tensor | float) -> Tensor:
    """Count the salient interactions of every sample, AND and OR together, the empty coalition left out.

    Args:
        and_: AND interactions ``(..., 2**n)``.
        or_: OR interactions ``(..., 2**n)``.
        threshold: Smallest absolute value that counts: a number, or a tensor ``(...)`` with one for each sample. An
            interaction of exactly zero never counts, and nothing does where the threshold is ``nan``.

    Returns:
        Long tensor ``(...)``.

    Example:
        >>> salient_count(torch.tensor([9.0, 2.0, 0.1, -3.0]), torch.tensor([9.0, 0.0, 0.0, 1.0]), 0.5)
        tensor(3)
    """
    limit = torch.as_tensor(threshold, dtype=and_.dtype, device=and_.device)[..., None]
    salient_and, salient_or = ((x.abs() >= limit) & (x != 0) for x in (and_[..., 1:], or_[..., 1:]))
    return salient_and.sum(-1) + salient_or.sum(-1)


def order_distribution(strength: Tensor) -> Tensor:
    """Share of every order in the strength, both signs together: what the papers draw as the spindle.

    Args:
        strength: ``(..., 2, n)``; average over samples first, then form shares.

    Returns:
        ``(..., n)``, summing to one; ``nan`` where there is no strength at all.

    Raises:
        ArgumentError: If the shape is not ``(..., 2, n)``.

    Example:
        >>> order_distribution(torch.tensor([[3.0, 1.0], [3.0, 1.0]])).tolist()
        [0.75, 0.25]
    """
    total = _both_signs(strength)
    return total / total.sum(-1, keepdim=True)


def mean_order(strength: Tensor) -> Tensor:
    """Strength-weighted mean order ``sum_k k * share(k)``.

    Args:
        strength: ``(..., 2, n)``.

    Returns:
        ``(...)``, between 1 and ``n``; ``nan`` where there is no strength at all.

    Raises:
        ArgumentError: If the shape is not ``(..., 2, n)``.

    Example:
        >>> mean_order(torch.tensor([[3.0, 1.0], [3.0, 1.0]])).item()
        1.25
    """
    share = order_distribution(strength)
    return (share * torch.arange(1, share.shape[-1] + 1, dtype=share.dtype, device=share.device)).sum(-1)


def low_order_share(strength: Tensor) -> Tensor:
    """Share of the orders 1 to 3.

    Args:
        strength: ``(..., 2, n)``.

    Returns:
        ``(...)``, between 0 and 1; ``nan`` where there is no strength at all.

    Example:
        >>> low_order_share(torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])).item()
        0.75
    """
    return order_distribution(strength)[..., :LOW_ORDER].sum(-1)


def high_order_share(strength: Tensor) -> Tensor:
    """Share of the orders from ``n / 2`` on.

    Args:
        strength: ``(..., 2, n)``.

    Returns:
        ``(...)``, between 0 and 1; ``nan`` where there is no strength at all.

    Example:
        >>> high_order_share(torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])).item()
        0.25
    """
    return order_distribution(strength)[..., first_high_order(strength.shape[-1]) :].sum(-1)


def first_high_order(n: int) -> int:
    """Index of the first high order, ``n / 2`` rounded up, in a vector of the orders 1 to n."""
    return (n + 1) // 2 - 1


def cancellation(strength: Tensor) -> Tensor:
    """How much positive and negative interactions cancel: ``1 - |P - M| / (P + M)``.

    ``P`` and ``M`` are the total positive and negative strength: 0 means one sign only, 1 that they cancel exactly.

    Args:
        strength: ``(..., 2, n)``.

    Returns:
        ``(...)``, between 0 and 1; ``nan`` where there is no strength at all.

    Raises:
        ArgumentError: If the shape is not ``(..., 2, n)``.

    Example:
        >>> cancellation(torch.tensor([[3.0, 0.0], [0.0, 1.0]])).item()
        0.5
    """
    _both_signs(strength)
    positive, negative = strength.sum(-1).unbind(-1)
    return 1 - (positive - negative).abs() / (positive + negative)


def _both_signs(strength: Tensor) -> Tensor:
    if strength.ndim < 2 or strength.shape[-2] != 2:
        raise ArgumentError(
            f"Expected `strength` to have shape (..., 2, n), as order_strength returns it, "
            f"but got {tuple(strength.shape)}."
        )
    return strength.sum(-2)
