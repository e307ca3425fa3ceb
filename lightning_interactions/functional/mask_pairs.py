"""The mean degree of any number of players, from random masks and the same masks with one player flipped.

With ``T`` a uniformly random mask, ``i`` a uniformly random player and ``T + i`` the mask with that player flipped, the
total influence ``sum_S |S| v^(S)**2`` is ``n E[(v(T) - v(T + i))**2] / 4``, and over ``Var_T v`` it is the mean degree
of :mod:`~lightning_interactions.functional.spectrum` (O'Donnell, Analysis of Boolean Functions, section 2.3).

Of a pair ``v(T), v(T + i)`` let ``m`` be the mean and ``d`` half the difference. Both masks of a pair are uniform, so

- ``n mean(d**2)`` is an unbiased estimate of the influence;
- ``E v**2 = E[m**2 + d**2]``, and ``(E v)**2 = E m E m'`` for two different, hence independent, pairs. With all such
  products ``mean(m**2) - mean(m m')`` is the sample variance of ``m``, so ``mean(d**2) + sum (m - mean(m))**2 /
  (pairs - 1)`` is an unbiased estimate of the variance that uses both values of every pair.

Their ratio is only consistent; what it is off by on average, in the order of 1 / pairs, is estimated and subtracted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument, is_whole
from lightning_interactions.functional.coalitions import MIN_PLAYERS
from lightning_interactions.functional.interval import t_quantile
from lightning_interactions.functional.spectrum import real_float64

MAX_SAMPLED_PLAYERS = 512
MIN_PAIRS = 16

# Rounding leaves about 1e-16 of a variance that is zero without one of the pairs.
_NOTHING = 1e-12


class SampledDegree(NamedTuple):
    """An estimated mean degree.

    Attributes:
        mean_degree: ``(...)``, without bias to the first order; by chance it may lie a little below 1 or above ``n``.
        standard_error: ``(...)``, of the mean degree.
        total_variance: ``(...)``, ``Var_T v`` in units of the score squared, unbiased.
        freedom: ``(...)``, the degrees of freedom of the standard error: one less than what the pairs (or samples) are
            worth that carry the influence and the variance, ``1 / sum of squared shares``; at least 1.
    """

    mean_degree: Tensor
    standard_error: Tensor
    total_variance: Tensor
    freedom: Tensor

    def interval(self) -> tuple[Tensor, Tensor]:
        """Give the ends of a 95 % confidence interval, with Student's quantile of the degrees of freedom.

        Example:
            >>> estimate = SampledDegree(*torch.tensor([[1.5], [0.1], [2.0], [1000.0]]))
            >>> [round(end.item(), 2) for end in estimate.interval()]
            [1.3, 1.7]
        """
        quantiles = [math.nan if math.isnan(x) else t_quantile(x) for x in self.freedom.flatten().tolist()]
        half = self.standard_error * self.standard_error.new_tensor(quantiles).view(self.freedom.shape)
        return self.mean_degree - half, self.mean_degree + half


def check_sampled_players(num_players: object) -> int:
    """Return ``num_players`` if it is an integer from 2 to 512; anything else is an `ArgumentError`."""
    if not is_whole(num_players, MIN_PLAYERS) or num_players > MAX_SAMPLED_PLAYERS:
        raise bad_argument("num_players", f"an integer from {MIN_PLAYERS} to {MAX_SAMPLED_PLAYERS}", num_players)
    return num_players


def check_pairs(name: str, pairs: object) -> int:
    """Return the number of pairs if it is an integer from 16 on; anything else is an `ArgumentError`."""
    if not is_whole(pairs, MIN_PAIRS):
        raise bad_argument(name, f"an integer not below {MIN_PAIRS}", pairs)
    return pairs


def random_mask_pairs(num_players: int, pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw uniformly random masks, and the same masks with one uniformly random player flipped.

    Draw anew for every sample: with the same masks for all of them their errors would not average out, and
    :func:`pooled_mean_degree` would promise too much.

    Args:
        num_players: ``n``, 2 to 512.
        pairs: How many, 16 or more.
        generator: The only source of randomness; the masks are made on its device.

    Returns:
        Two boolean tensors ``(pairs, n)``, ``True`` where a player is present, that differ in one entry of every row.

    Raises:
        ArgumentError: If an argument is out of range.

    Example:
        >>> masks, flipped = random_mask_pairs(200, pairs=16, generator=torch.Generator().manual_seed(0))
        >>> masks.shape, (masks != flipped).sum(-1).unique().tolist()
        (torch.Size([16, 200]), [1])
    """
    check_sampled_players(num_players)
    check_pairs("pairs", pairs)
    device = generator.device
    masks = torch.randint(2, (pairs, num_players), generator=generator, device=device).bool()
    player = torch.randint(num_players, (pairs, 1), generator=generator, device=device)
    return masks, masks ^ (torch.arange(num_players, device=device) == player)


def influence_and_variance(values: Tensor, num_players: int | Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the total influence ``sum_S |S| v^(S)**2`` and the variance ``Var_T v``, each without bias.

    The ratio of their means over many samples estimates the mean degree of all, however few pairs each sample has.

    Args:
        values: ``(..., pairs, 2)``, ``v`` at the masks and flipped masks of :func:`random_mask_pairs`.
        num_players: ``n``, 2 to 512; or long ``(...)``, that of each sample.

    Returns:
        Two float64 tensors ``(...)``, not negative, in units of the score squared; ``nan`` for a sample with a value
        that is not finite.

    Raises:
        ArgumentError: If an argument is out of range, or there are fewer than 16 pairs.

    Example:
        >>> one, other = influence_and_variance(torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 8), num_players=3)
        >>> one.item(), other.item()  # every flip of a player changes v by 1, and v is 0 or 1
        (0.75, 0.25)
    """
    flip, spread, players = _squares(values, num_players)
    inner = flip.mean(-1)
    return players * inner, inner + spread.sum(-1) / (spread.shape[-1] - 1)


def sampled_mean_degree(values: Tensor, num_players: int | Tensor) -> SampledDegree:
    """Estimate the mean degree of every sample from its values at random mask pairs.

    ``n E[(v(T) - v(T+i))**2] / (4 Var_T v)``, with the bias and the standard error that leaving out each pair shows
    (the jackknife). In simulations with additive, smooth, rough and sparse functions of 10 to 200 players the 95 %
    interval covers the truth in 93 to 97 % of the cases with 96 pairs, and the bias is below a twentieth of the
    standard error. With 16 or 32 pairs that holds (90 to 99 %) unless few masks or players make nearly all the
    difference, such as one AND of four players, or 12 players of 200: then most draws do not see what matters, and it
    covers in 70 to 90 %.

    Args:
        values: ``(..., pairs, 2)``, ``v`` at the masks and flipped masks of :func:`random_mask_pairs`.
        num_players: ``n``, 2 to 512; or long ``(...)``, that of each sample.

    Returns:
        Float64 tensors ``(...)``. Nothing but the variance is known, and the rest is ``nan``, where the values do not
        vary, would not without one of the pairs, or no flip changes them; all is ``nan`` for a sample with a value
        that is not finite.

    Raises:
        ArgumentError: If an argument is out of range, or there are fewer than 16 pairs.

    Example:
        >>> masks, flipped = random_mask_pairs(40, pairs=96, generator=torch.Generator().manual_seed(0))
        >>> values = torch.stack([masks.sum(-1), flipped.sum(-1)], -1)  # every player adds 1: degree 1, variance 10
        >>> estimate = sampled_mean_degree(values, num_players=40)
        >>> abs(estimate.mean_degree.item() - 1) < 0.3, abs(estimate.total_variance.item() - 10) < 3
        (True, True)
    """
    flip, spread, players = _squares(values, num_players)
    count, players = flip.shape[-1], players.unsqueeze(-1)
    inner, between = flip.sum(-1, keepdim=True), spread.sum(-1, keepdim=True)
    variance = inner / count + between / (count - 1)
    # Without pair p the mean of m moves too: its sum of squares shrinks by (m_p - mean)**2 * count / (count - 1).
    inner_without = (inner - flip) / (count - 1)
    variance_without = inner_without + (between - spread * count / (count - 1)) / (count - 2)
    known = (inner > 0) & (variance_without > _NOTHING * variance).all(-1, keepdim=True)
    without = players * inner_without / variance_without
    middle = without.mean(-1, keepdim=True)
    degree = players * inner / variance - (count - 1) * middle
    error = ((without - middle).square().sum(-1, keepdim=True) * (count - 1) / count).sqrt()
    freedom = torch.minimum(_worth(flip), _worth(flip + spread)).unsqueeze(-1) - 1
    found = (torch.where(known, x, torch.nan).squeeze(-1) for x in (degree, error, freedom.clamp(min=1)))
    degree, error, freedom = found
    return SampledDegree(degree, error, variance.squeeze(-1), freedom)


def pooled_mean_degree(values: Tensor, num_players: int | Tensor) -> SampledDegree:
    """Estimate the mean degree of several samples together: influence and variance averaged first, then the ratio.

    The standard error is that of drawing samples and masks anew (delta method; the bias of the ratio is subtracted to
    the second order), so the masks must have been drawn for every sample on its own. Where one sample alone varies,
    the estimate is that of :func:`sampled_mean_degree`. In simulations the 95 % interval covers the truth in 92 to 97 %
    of the cases, with samples whose scores differ by a factor of e as with equal ones; in about 85 % with two samples
    that unlike, and 80 to 90 % where the degree rises with the score; on networks in 91 to 94 %. Where all samples are
    at hand, leaving out each of them (the jackknife) covers a little more often: the monitor does so.

    Args:
        values: ``(..., pairs, 2)``, every leading dimension one of samples.
        num_players: ``n``, 2 to 512; or long ``(...)``, that of each sample.

    Returns:
        Float64 scalars. Samples with a value that is not finite are left out; constant ones count only in the mean
        variance. ``nan`` where no sample is left.

    Raises:
        ArgumentError: If an argument is out of range, or there are fewer than 16 pairs.

    Example:
        >>> steep, flat = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 8), torch.zeros(16, 2)
        >>> estimate = pooled_mean_degree(torch.stack([3 * steep, steep, flat]), num_players=3)
        >>> estimate.mean_degree.item(), estimate.total_variance.item()  # variances 2.25, 0.25 and 0
        (3.0, 0.8333333333333334)
    """
    return DegreeSums.of(values, num_players).estimate()


class DegreeSums(NamedTuple):
    """What :func:`pooled_mean_degree` needs to know of its samples: sums that batches and ranks can add up."""

    totals: Tensor  # (2,): influence, variance
    moments: Tensor  # (3,): influence**2, influence * variance, variance**2
    alone: Tensor  # (3,): mean degree, standard error, freedom of each sample; read only if one sample varies
    counts: Tensor  # (2,) long: samples, and those that vary

    @classmethod
    def of(cls, values: Tensor, num_players: int | Tensor) -> DegreeSums:
        """Add up samples ``(..., pairs, 2)``; those with a value that is not finite are left out."""
        influence, variance = (x.flatten() for x in influence_and_variance(values, num_players))
        degree, error, _, freedom = sampled_mean_degree(values, num_players)
        single = torch.stack([x.flatten() for x in (degree, error, freedom)])
        finite, varies = variance.isfinite(), variance.isfinite() & (variance > 0)
        top, bottom = influence[varies], variance[varies]
        return cls(
            torch.stack([top.sum(), bottom.sum()]),
            torch.stack([top @ top, top @ bottom, bottom @ bottom]),
            single[:, varies].sum(-1),
            torch.stack([finite.sum(), varies.sum()]),
        )

    def estimate(self) -> SampledDegree:
        """Form the ratio of the averages, and its standard error."""
        (top, bottom), (top2, product, bottom2) = self.totals, self.moments
        samples, varying = self.counts
        ratio, worth = top / bottom, bottom.square() / bottom2
        # The samples' shares of the error, top - ratio * bottom, add up to zero: their products need no centring.
        bias = varying / (varying - 1) * (ratio * bottom2 - product) / bottom.square()
        # Strong samples pull the ratio to themselves and hide their error: it is that of as many as they are worth.
        square = (top2 - 2 * ratio * product + ratio.square() * bottom2).clamp(min=0) / bottom.square()
        error = (worth / (worth - 1) * square).sqrt()
        found = torch.where(varying > 1, torch.stack([ratio - bias, error, (worth - 1).clamp(min=1)]), self.alone)
        degree, error, freedom = torch.where(varying > 0, found, torch.nan)
        return SampledDegree(degree, error, bottom / samples, freedom)


def _worth(parts: Tensor) -> Tensor:
    """How many equal parts ``(..., parts)`` are worth: ``1 / sum of squared shares``."""
    return parts.sum(-1).square() / parts.square().sum(-1)


def _squares(values: Tensor, num_players: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squares ``(..., pairs)`` of half the difference within each pair, and of how far its mean is from all pairs'.

    The third is the number of players, a scalar or ``(...)``.
    """
    if values.ndim < 2 or values.shape[-1] != 2 or values.shape[-2] < MIN_PAIRS:
        expected = f"a tensor of shape (..., pairs, 2) with at least {MIN_PAIRS} pairs"
        raise bad_argument("values", expected, tuple(values.shape))
    if not isinstance(num_players, Tensor):
        num_players = torch.tensor(check_sampled_players(num_players))
    elif num_players.shape != values.shape[:-2] or not _are_players(num_players):
        expected = f"integers from {MIN_PLAYERS} to {MAX_SAMPLED_PLAYERS} of shape {tuple(values.shape[:-2])}"
        raise bad_argument("num_players", expected, num_players)
    exact = real_float64(values)
    exact = exact - exact[..., :1, :1]  # so that rounding cannot make a constant vary
    exact = torch.where(exact.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), exact, torch.nan)
    middle, half = exact.mean(-1), (exact[..., 0] - exact[..., 1]) / 2
    return half.square(), (middle - middle.mean(-1, keepdim=True)).square(), num_players.to(exact)


def _are_players(counts: Tensor) -> bool:
    whole = not counts.is_floating_point() and not counts.is_complex() and counts.dtype != torch.bool
    return whole and bool(((counts >= MIN_PLAYERS) & (counts <= MAX_SAMPLED_PLAYERS)).all())
