"""How strongly a curve says that it has begun to rise, however often it is asked: an e-process.

An e-value is a bet against "nothing but noise" that is expected to gain nothing as long as that is true. If a bet goes
on from record to record, the chance that what it holds *ever* reaches ``1 / a`` is at most ``a`` (Ville's inequality),
for a run of any length. A threshold on a z score has no such bound: looked at often enough, noise reaches any.

There are many bets here, one for each place where the rise may have begun and each length of the level before it; they
share a stake of less than one. Each is the Bayes factor of a step up against none: with ``k`` records since, ``L``
before, and ``d`` the difference of their means, ``v = 1/k + 1/L`` and ``z = d / (noise sqrt v)``, under a half-normal
prior of the step with a width of ``sqrt P`` noises::

    e = 2 Phi(z sqrt r) sqrt(v / (v + P)) exp(r z^2 / 2),   r = P / (P + v)

It does not depend on the unknown level (both are means), so each bet is fair for independent normal noise of known
size. Their sum is not quite what the inequality is about, as bets on later places look back on other levels; by
simulation it stays far below the bound (0.1 % of runs of 300 records reach 20). Noise that is correlated from record
to record, or larger than estimated, makes it bolder: see ``noise.py`` in ``tests/benchmarks/onset``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

REACH = 32  # a rise begins at most so many records ago
LEVELS = 1, 2, 3, 5, 8, 12, 20, 32  # records that the level before may have lasted
MEMORY = REACH + max(LEVELS)
"""So many of the latest records are looked at."""

_PRIOR = 9.0  # square of the width of the prior: steps of up to a few noises
_LARGEST = 27.0  # of the logarithm: more would say nothing more


def rise_evidence(values: Sequence[float], noise: float, count: int) -> float:
    """Give the e-value of a rise somewhere in the latest records.

    Args:
        values: The latest records, oldest first; more than `MEMORY` of them are not looked at.
        noise: Standard deviation of one record, in the unit of the values.
        count: Records so far, those that are not among ``values`` too: early beginnings have the higher prior, and the
            priors of all that there may ever be sum to less than 1.

    Returns:
        From 0 to ``exp(27)``; 0 while there is nothing to compare or the noise is not known.

    Example:
        >>> flat = [0.1, -0.1, 0.0, 0.1, -0.1, 0.0]
        >>> rise_evidence(flat, 0.1, 6) < 1 < 20 < rise_evidence([*flat, 0.4, 0.5, 0.4], 0.1, 9)
        True
    """
    values = values[-MEMORY:]
    now = len(values) - 1  # index of the last record among them
    if now < 1 or not math.isfinite(noise):
        return 0.0
    start, level, since, before, share = _pairs(now)
    # Less the last value, so that a large level costs no digits.
    less = torch.tensor([value - values[-1] for value in values], dtype=torch.float64)
    sums = torch.cat([less.new_zeros(1), less.cumsum(0)])
    gain = (sums[-1] - sums[start + 1]) / since - (sums[start + 1] - sums[start + 1 - level]) / before
    z = gain / (max(noise, 1e-12) * share.sqrt())
    r = _PRIOR / (_PRIOR + share)
    log_e = (
        math.log(2) + torch.special.log_ndtr(z * r.sqrt()) + (share / (share + _PRIOR)).log() / 2 + r * z.square() / 2
    )
    place = start + (count - len(values) + 2)  # from 2 on
    # The sum of 1 / (m (log2 m + 1)^2) over m >= 2 is 0.39: with 1.2 all priors sum to less than a half, which leaves
    # room for a noise that was underestimated.
    log_prior = math.log(1.2 / len(LEVELS)) - place.log() - 2 * (place.log2() + 1).log()
    return math.exp(min(float((log_e + log_prior).logsumexp(0)), _LARGEST))


@cache
def _pairs(now: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All beginnings with all lengths of the level before, if there are ``now + 1`` records.

    The last record before the rise, the length of the level; both lengths as numbers, and the sum of their inverses.
    """
    starts = range(max(0, now - REACH), now)
    pairs = torch.tensor([(s, level) for s in starts for level in LEVELS if level <= s + 1])
    start, level = pairs.T
    since, before = (now - start).double(), level.double()
    return start, level, since, before, 1 / since + 1 / before
