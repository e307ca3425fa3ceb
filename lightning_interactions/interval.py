"""How sure the mean order is, given that it was measured on a few samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_interactions._evidence import weighted_mean

_Z = 1.959964  # the normal quantile of 97.5 %


def mean_order_interval(strength: Tensor) -> tuple[float, float]:
    """Give a 95 % confidence interval of the mean order, as if the samples were drawn anew.

    From the standard error of the samples' contributions (delta method), with Student's quantile. It knows nothing of
    the choice of players, nor of the fact that the same samples are watched in every epoch: two epochs whose intervals
    overlap can still differ significantly, which `PhaseDetector` tests in pairs.

    Args:
        strength: ``(samples, 2, n)``; samples with a value that is not finite are left out.

    Returns:
        Lower and upper end, within 1 to n; ``nan`` with fewer than two usable samples.

    Example:
        >>> lower, upper = mean_order_interval(torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]).repeat(4, 1, 1))
        >>> round(lower, 6), round(upper, 6)  # four equal samples leave no doubt
        (1.25, 1.25)
    """
    _, contributions = weighted_mean(strength, torch.arange(1.0, strength.shape[-1] + 1))
    used = contributions[contributions.isfinite()]
    if len(used) < 2:
        return math.nan, math.nan
    middle, half = float(used.mean()), t_quantile(len(used) - 1) * float(used.std()) / math.sqrt(len(used))
    return max(middle - half, 1.0), min(middle + half, float(strength.shape[-1]))


def t_quantile(freedom: int) -> float:
    """Give the 97.5 % quantile of Student's t, by Cornish and Fisher's expansion: within 1 % from 3 degrees on.

    Args:
        freedom: Degrees of freedom, at least 1.
    """
    z, v = _Z, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
