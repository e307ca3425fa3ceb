"""What training keeps, adds and takes away of the salient interactions.

With ``W_t`` the salient interactions of a sample at record ``t`` (kind, players and sign) and ``W_0`` those at the
first one: *preserved* are ``P_t = P_(t-1) & W_t`` with ``P_0 = W_0``, *emerged* ``W_t - P_t``, *removed* ``W_0 - W_t``
(arXiv 2605.17967, which defines them for language models). One that vanishes and comes back has emerged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.coalitions import num_players_of, orders
from lightning_interactions.functional.interval import ratio_interval


class Estimate(NamedTuple):
    """A number read off a few samples, with its 95 % confidence interval, as if they were drawn anew."""

    value: float
    lower: float
    upper: float

    def named(self, name: str) -> dict[str, float]:
        """Return the number under its name, and the ends of the interval under names made of it.

        Example:
            >>> Estimate(0.5, 0.25, 0.75).named("share")
            {'share': 0.5, 'share_lower': 0.25, 'share_upper': 0.75}
        """
        return {name: self.value, f"{name}_lower": self.lower, f"{name}_upper": self.upper}


def known_samples(*salient: Tensor) -> Tensor:
    """Tell ``(B,)`` which samples are finite in all of the tensors ``(B, 2, 2**n)``: the others do not count."""
    return torch.stack([one.isfinite().flatten(1).all(1) for one in salient]).all(0)


def still_preserved(preserved: Tensor, first: Tensor, now: Tensor) -> Tensor:
    """Return which of the preserved interactions ``(..., 2, 2**n)`` are salient now, with the sign they had at first.

    Example:
        >>> first = torch.tensor([1.0, 2.0, -1.0])
        >>> still_preserved(first != 0, first, torch.tensor([0.5, -2.0, 0.0]))
        tensor([ True, False, False])
    """
    return preserved & (first * now > 0)


def interaction_changes(first: Tensor, preserved: Tensor, now: Tensor) -> dict[str, Estimate]:
    """Compare the salient interactions of some samples with those they had at first.

    Args:
        first: ``(B, 2, 2**n)``, see `salient_interactions`; samples that are not finite do not count.
        preserved: Boolean ``(B, 2, 2**n)``: ``P_t``.
        now: ``(B, 2, 2**n)``, likewise.

    Returns:
        For each of ``preserved``, ``emerged`` and ``removed``: ``..._share`` of the strength (of that at first for what
        was removed, else of that now), ``..._order``, the strength-weighted mean order, and ``..._ratio``, how much of
        the strength does not cancel, ``sum_x |sum_S I_x(S)| / sum_x sum_S |I_x(S)|``. What was removed has the values
        it had at first. Each is a ratio of sums over the samples; ``nan`` where there is nothing of that kind.

    Raises:
        ArgumentError: If the shapes differ.

    Example:
        >>> first = torch.tensor([[[0.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> now = torch.tensor([[[0.0, 3.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> found = interaction_changes(first, still_preserved(first != 0, first, now), now)
        >>> {name: round(estimate.value, 3) for name, estimate in found.items() if name.endswith("share")}
        {'preserved_share': 0.75, 'emerged_share': 0.25, 'removed_share': 0.333}
    """
    if not first.shape == preserved.shape == now.shape or first.ndim != 3 or first.shape[1] != 2:
        raise ArgumentError(
            "Expected `first`, `preserved` and `now` to have one shape (B, 2, 2**n), but got "
            f"{tuple(first.shape)}, {tuple(preserved.shape)} and {tuple(now.shape)}."
        )
    known = known_samples(first, now)
    first, preserved, now = first[known], preserved[known], now[known]
    stays = first * now > 0
    parts = {
        "preserved": (torch.where(preserved, now, 0.0), now),
        "emerged": (torch.where(preserved, 0.0, now), now),
        "removed": (torch.where(stays, 0.0, first), first),
    }
    found: dict[str, Estimate] = {}
    for name, (part, whole) in parts.items():
        for key, estimate in _describe(part, whole).items():
            found[f"{name}_{key}"] = estimate
    return found


def generalizable_share(now: Tensor, other: Tensor) -> Estimate:
    """Share of the strength of interactions that are salient in another network too, with the same sign.

    Args:
        now: ``(B, 2, 2**n)``, see `salient_interactions`; samples that are not finite do not count.
        other: Those of the other network, for the same samples and players.

    Returns:
        The share with its confidence interval.

    Example:
        >>> now = torch.tensor([[[0.0, 3.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> generalizable_share(now, now.clamp(min=0)).value
        0.75
    """
    num_players_of(now)
    known = known_samples(now, other)
    strength = now[known].double().abs()
    shared = strength * (now[known] * other[known] > 0)
    return _estimate(shared.sum((1, 2)), strength.sum((1, 2)), 0.0, 1.0)


def persistence(before: Tensor, now: Tensor) -> Estimate:
    """Share of the strength of interactions that are salient at the next record too, with the same sign.

    Args:
        before: ``(B, 2, 2**n)``, see `salient_interactions`; samples that are not finite do not count.
        now: Those at the next record.

    Returns:
        The share with its confidence interval.

    Example:
        >>> before = torch.tensor([[[0.0, 3.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> persistence(before, -before).value, persistence(before, before).value
        (0.0, 1.0)
    """
    return generalizable_share(before, now)


def overlap(first: Tensor, second: Tensor) -> Estimate:
    """Share of all salient interactions of two networks that both have, with the same sign: a Jaccard index of sets.

    Args:
        first: ``(B, 2, 2**n)`` of one network, see `salient_interactions`; samples that are not finite do not count.
        second: Those of the other, for the same samples and players.

    Returns:
        The number of shared ones over the number of all, summed over the samples, with its confidence interval.

    Example:
        >>> first = torch.tensor([[[0.0, 3.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> overlap(first, torch.tensor([[[0.0, 1.0, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])).value
        0.25
    """
    known = known_samples(first, second)
    a, b = first[known], second[known]
    shared = (a * b > 0).sum((1, 2)).double()
    return _estimate(shared, (a != 0).sum((1, 2)) + (b != 0).sum((1, 2)) - shared, 0.0, 1.0)


def _describe(part: Tensor, whole: Tensor) -> dict[str, Estimate]:
    """Share, mean order and ratio that does not cancel, of a part ``(B, 2, 2**n)`` of some interactions."""
    part, n = part.double(), num_players_of(part)
    strength = part.abs().sum(1)
    own = strength.sum(1)
    return {
        "share": _estimate(own, whole.double().abs().sum((1, 2)), 0.0, 1.0),
        "order": _estimate(strength @ orders(n, part.device).double(), own, 1.0, float(n)),
        "ratio": _estimate(part.sum((1, 2)).abs(), own, 0.0, 1.0),
    }


def _estimate(numerator: Tensor, denominator: Tensor, least: float, most: float) -> Estimate:
    """A ratio of sums over the samples, whose interval leaves out what cannot be."""
    value, lower, upper = ratio_interval(numerator, denominator)
    return Estimate(value, max(lower, least), min(upper, most))
