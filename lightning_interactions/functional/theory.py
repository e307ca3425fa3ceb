"""What theory says of interactions during training: the spindle of noise, the law of noisy regression, and their fits.

A profile is the strength by order ``(..., n)``, both signs and both kinds together, in units of the score. Fits compare
shares: how far one profile is from another is their total variation, half the sum of the absolute differences of their
shares, from 0 (alike) to 1 (nothing in common).

The law of arXiv 2407.19198 (Theorem 3): the interactions ``w*`` of the trained network are learned through triggers
that are noisy, the more so the higher their order; under noise ``s^2`` the best weights are

    ``w(s^2) = (J'J + 2^n diag(c))^-1 J'J w*``,  ``c_T = 2^|T| s^2``,  ``J_{S,T} = 1`` where ``T`` is a subset of ``S``.

``J'J`` is the n-th Kronecker power of ``[[2, 1], [1, 1]]`` and ``2^n diag(c)`` is ``s^2`` times that of ``diag(2, 4)``.
One basis of two vectors makes both diagonal, so the law is a small matrix for every player, a factor for every
coalition, and the matrix back: ``O(n 2^n)``, where the papers invert a matrix of ``4^n`` entries for each ``s^2``.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, bad_argument
from lightning_interactions.functional._kronecker import Matrix2, kronecker_diagonal, kronecker_power
from lightning_interactions.functional.coalitions import check_num_players, num_players_of, sum_by_order

NOISE_LEVELS = tuple(10 ** (x / 8) for x in range(-56, 17))
"""From 1e-7, where ten players keep all their orders, to 100, where little but the first is left; 8 to a decade."""

BETWEEN = 17
"""Levels that are tried between the neighbours of the best: steps of a sixty-fourth of a decade."""

DECAYS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625)
"""Ratios from one order to the next of the decaying parts that `split_profile` puts together."""


def random_strength(num_players: int, scale: float = 1.0) -> Tensor:
    """Strength to expect of interactions that are noise: ``C(n, k) s sqrt(2 / pi)`` of either sign.

    All AND and all OR interactions of an order, ``2 C(n, k)`` of them, are independent and normal with standard
    deviation ``s`` (arXiv 2405.10262, Theorem 3): the spindle, widest at half the players. The white noise of *scores*
    is another spindle, with its maximum at higher orders.

    Args:
        num_players: ``n``.
        scale: ``s``, in units of the score.

    Returns:
        ``(2, n)``, positive and negative.

    Example:
        >>> (random_strength(4)[0] / random_strength(4)[0].sum()).tolist()
        [0.2666..., 0.4, 0.2666..., 0.0666...]
    """
    n = check_num_players(num_players)
    counts = torch.tensor([math.comb(n, k) for k in range(1, n + 1)], dtype=torch.float64)
    return (scale * math.sqrt(2 / math.pi) * counts).expand(2, -1).clone()


class SpindleFit(NamedTuple):
    """How much a profile looks like the spindle of random interactions."""

    scale: float  # the standard deviation of one interaction that fits best, in units of the score
    distance: float  # total variation of the shares, 0 to 1


def fit_spindle(profile: Tensor) -> SpindleFit:
    """Fit the spindle of `random_strength` to a profile ``(n,)``, by least squares.

    Example:
        >>> fit = fit_spindle(random_strength(6, scale=0.5).sum(0))
        >>> round(fit.scale, 6), round(fit.distance, 6)
        (0.5, 0.0)
    """
    profile = _profile(profile)
    spindle = random_strength(profile.shape[-1]).sum(0)
    scale = profile @ spindle / spindle.square().sum()
    return SpindleFit(float(scale), float(profile_distance(profile, spindle)))


def interaction_profile(interactions: Tensor) -> Tensor:
    """Profile ``(n,)`` of interactions ``(B, 2**n)`` or ``(B, 2, 2**n)``: mean over the samples."""
    return sum_by_order(interactions.abs().flatten(0, -2).sum(0)) / len(interactions)


def profile_distance(first: Tensor, second: Tensor) -> Tensor:
    """Total variation ``(...)`` of the shares of two profiles ``(..., n)``; ``nan`` where there is no strength."""
    shares = [profile / profile.sum(-1, keepdim=True) for profile in (first, second)]
    return (shares[0] - shares[1]).abs().sum(-1) / 2


# -- the law of noisy regression --------------------------------------------------------------------------------------


def noisy_regression(final: Tensor, noise: Tensor | float) -> Tensor:
    """Weights that are best under noisy triggers, where those without noise are ``final``.

    Args:
        final: ``(..., 2**n)``: the interactions of the trained network (``w*``).
        noise: ``s^2``, not negative: a number, or a tensor ``(L,)`` of several.

    Returns:
        Float64 ``(..., 2**n)``, or ``(L, ..., 2**n)``.

    Raises:
        ArgumentError: If the last dimension is not a power of two, or the noise negative.

    Example:
        >>> final = torch.tensor([0.0, 1.0, 0.0, 1.0])
        >>> noisy_regression(final, 1.0).round(decimals=3)
        tensor([0.2800, 0.2240, 0.1130, 0.0810], dtype=torch.float64)
        >>> torch.allclose(noisy_regression(final, 0.0).float(), final, atol=1e-6)
        True
    """
    n, levels = num_players_of(final), torch.as_tensor(noise, dtype=torch.float64, device=final.device)
    if not bool((levels >= 0).all()):
        raise bad_argument("noise", "not negative", noise)
    forth, back, gains = _basis()
    entries = kronecker_power(forth, n, final.device)(final.double())
    strong = kronecker_diagonal(gains, n, final.device)
    levels = levels.view(*levels.shape, *[1] * final.ndim)
    return kronecker_power(back, n, final.device)(entries * (strong / (strong + levels)))


@lru_cache(maxsize=1)
def _basis() -> tuple[Matrix2, Matrix2, tuple[float, float]]:
    """Into the basis in which both matrices are diagonal, out of it, and what is on the first diagonal.

    With ``B = [[2, 1], [1, 1]]``, ``C = diag(2, 4)`` and ``C^-1/2 B C^-1/2 = Q L Q'``, the columns of ``W = C^-1/2 Q``
    give ``W' C W = 1`` and ``W' B W = L``.
    """
    b, root = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double(), torch.tensor([2.0, 4.0]).double().sqrt()
    gains, q = torch.linalg.eigh(b / root / root[:, None])
    first, second = gains.tolist()
    return _pairs(q.T * root), _pairs(q / root[:, None]), (first, second)


def _pairs(matrix: Tensor) -> Matrix2:
    (a, b), (c, d) = matrix.tolist()
    return (a, b), (c, d)


def soft_cutoff(noise: float) -> float:
    """Order up to which noise ``s^2`` lets interactions be learned, softly: ``-log4 s^2``.

    By the diagonal of the law an interaction of order ``t`` is learned to ``1 / (1 + 4^t s^2)``.

    Example:
        >>> soft_cutoff(4.0**-3)
        3.0
    """
    return -math.log(noise, 4) if noise > 0 else math.inf


def law_profiles(final: Tensor, noise: Tensor | None = None) -> Tensor:
    """Profiles that the law gives at several levels of noise.

    Args:
        final: ``(B, 2**n)`` or ``(B, 2, 2**n)``: interactions of the trained network, both kinds each by the law.
        noise: ``(L,)``; by default `NOISE_LEVELS`.

    Returns:
        ``(L, n)``: mean over the samples of the strength by order.
    """
    levels = torch.tensor(NOISE_LEVELS, dtype=torch.float64) if noise is None else noise
    return torch.stack([interaction_profile(noisy_regression(final, level)) for level in levels])


class NoiseFit(NamedTuple):
    """The level of noise at which the law comes nearest to a profile."""

    noise: float  # s^2; 0 where the trained network itself is nearest
    cutoff: float  # see `soft_cutoff`
    distance: float  # total variation of the shares
    trivial: float  # that of the trained network's own profile: the fit without any noise


def fit_noise(profile: Tensor, final: Tensor) -> list[NoiseFit]:
    """Find the noise under which the law gives the profile of each record.

    Args:
        profile: ``(records, n)``, or ``(n,)`` of one.
        final: As for `law_profiles`: the interactions at the last record, or of another trained network.

    Returns:
        A fit for each record.

    Raises:
        ArgumentError: If the numbers of players differ.

    Example:
        >>> final = torch.randn(3, 2**6, generator=torch.Generator().manual_seed(0))
        >>> (fit,) = fit_noise(law_profiles(final, torch.tensor([1e-2]).double())[0], final)
        >>> round(fit.noise, 4), round(fit.cutoff, 2), fit.distance < 1e-3 < fit.trivial
        (0.01, 3.32, True)
    """
    rows = _profile(profile).reshape(-1, profile.shape[-1])
    if rows.shape[-1] != num_players_of(final):
        raise ArgumentError(
            f"Expected `profile` to have {num_players_of(final)} orders, as `final` has, but got {rows.shape[-1]}."
        )
    plain = interaction_profile(final.double())
    levels = torch.tensor(NOISE_LEVELS, dtype=torch.float64)
    known = law_profiles(final, levels)
    return [_fit_noise(row, final, levels, known, float(profile_distance(row, plain))) for row in rows]


def _fit_noise(row: Tensor, final: Tensor, levels: Tensor, known: Tensor, trivial: float) -> NoiseFit:
    """The best of all levels, and then of some between its neighbours."""
    if math.isnan(trivial):
        return NoiseFit(math.nan, math.nan, math.nan, math.nan)
    at = int(profile_distance(row, known).argmin())
    ends = levels[max(at - 1, 0)].log10().item(), levels[min(at + 1, len(levels) - 1)].log10().item()
    finer = torch.logspace(*ends, BETWEEN, dtype=torch.float64)
    apart = profile_distance(row, law_profiles(final, finer))
    best, noise = float(apart.min()), float(finer[apart.argmin()])
    if trivial <= best:
        return NoiseFit(0.0, math.inf, trivial, trivial)
    return NoiseFit(noise, soft_cutoff(noise), best, trivial)


# -- decay and spindle ------------------------------------------------------------------------------------------------


class ProfileSplit(NamedTuple):
    """A profile as the sum of a part that decays with the order, and one like the run's first profile."""

    decay: Tensor  # (n,)
    spindle: Tensor  # (n,)
    share: float  # of the strength that is in the spindle
    distance: float  # total variation between the profile and the sum of both


def split_profile(profile: Tensor, spindle: Tensor) -> ProfileSplit:
    """Split a profile into a decaying part and a spindle, by non-negative least squares.

    The spindle is ``b`` times the run's own profile at initialisation, so that it has no shape to be chosen; the decay
    a sum of geometric series ``a_r r^(k-1)`` with ratios `DECAYS`; all factors are at least 0. There are so few that
    every choice of those that are not 0 is tried: the optimum is exact. (arXiv 2502.10162 splits into such parts; its
    equations were not at hand, and this is ours.)

    Args:
        profile: ``(n,)``.
        spindle: ``(n,)``: at initialisation, or `random_strength`.

    Returns:
        The parts; ``nan`` where the profile has no strength.

    Example:
        >>> spindle = random_strength(8).sum(0)
        >>> split = split_profile(3 * 0.25 ** torch.arange(8.0) + 0.01 * spindle, spindle)
        >>> round(split.share, 3), round(float(split.decay.sum()), 3), split.distance < 1e-9
        (0.504, 4.0, True)
    """
    wanted, shape = _profile(profile), _profile(spindle)
    n = wanted.shape[-1]
    if shape.shape != wanted.shape or wanted.ndim != 1:
        raise ArgumentError(
            f"Expected `profile` and `spindle` to have one shape (n,), but got {tuple(wanted.shape)} and "
            f"{tuple(shape.shape)}."
        )
    total = float(wanted.sum())
    if not math.isfinite(total) or total <= 0:
        nothing = torch.full_like(wanted, math.nan)
        return ProfileSplit(nothing, nothing, math.nan, math.nan)
    steps = torch.arange(n, dtype=torch.float64)
    parts = torch.stack([torch.pow(torch.tensor(ratio).double(), steps) for ratio in DECAYS] + [shape / shape.sum()], 1)
    factors = _non_negative(parts, wanted / total)
    decay, wide = total * parts[:, :-1] @ factors[:-1], total * parts[:, -1] * factors[-1]
    found = decay + wide
    return ProfileSplit(decay, wide, float(wide.sum() / found.sum()), float(profile_distance(wanted, found)))


def _non_negative(parts: Tensor, wanted: Tensor) -> Tensor:
    """Factors ``(m,)``, none negative, with which parts ``(n, m)`` come nearest to what is wanted ``(n,)``."""
    best, found = float(wanted.square().sum()), parts.new_zeros(parts.shape[1])
    for count in range(1, min(parts.shape) + 1):
        for chosen in itertools.combinations(range(parts.shape[1]), count):
            some = parts[:, list(chosen)]
            factors = torch.linalg.lstsq(some, wanted.unsqueeze(1)).solution.squeeze(1)
            error = float((some @ factors - wanted).square().sum())
            if bool((factors >= 0).all()) and error < best - 1e-18:
                best, found = error, torch.zeros_like(found)
                found[list(chosen)] = factors
    return found


def _profile(profile: Tensor) -> Tensor:
    if profile.ndim < 1 or profile.shape[-1] < 2 or not bool((profile.nan_to_num(0.0) >= 0).all()):
        raise bad_argument("profile", "strengths by order (..., n), none of them negative", profile)
    return profile.detach().cpu().double()
