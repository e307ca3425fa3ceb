"""Sequences of measurements in which nothing rises but by noise: what the detector must stay quiet on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_interactions.phases import PhaseDetector

COMMON = 0.006
"""Noise that tilts all samples' strength alike, per order. With it a mean order wobbles about as much more than its
samples say as in the recorded runs (1.1 times in the median, 2 times in the worst tenth)."""


def noise_only(
    seed: int, records: int, *, samples: int = 32, players: int = 10, common: float = COMMON, fall: float = 0.0
) -> Iterator[Tensor]:
    """Strengths ``(samples, 2, players)`` around fixed ones: each entry has noise of its own, and all share some.

    With ``fall`` the mean order first falls, e-fold in four records, and then stays.
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(samples, 2, players, generator=generator).exp()
    profile = own * (torch.rand(1, 2, players, generator=generator) + 0.1)
    orders = torch.arange(players) - (players - 1) / 2
    for record in range(records):
        tilt = (common * torch.randn(1, generator=generator) + fall * math.exp(-record / 4)) * orders
        yield profile * (0.3 * torch.randn(samples, 2, players, generator=generator) + tilt).exp()


def false_boundaries(sequences: int = 100) -> dict[str, dict[str, float]]:
    """Share of sequences in which a boundary is told, at the default false alarm rate."""
    kinds = {
        f"{name}, {records} records": {"records": records, **settings}
        for records in (40, 100)
        for name, settings in {
            "noise of every sample": {"common": 0.0},
            "and common noise as in recorded runs": {},
            "and three times that": {"common": 3 * COMMON},
            "a fall, then as recorded": {"fall": 0.4},
        }.items()
    }
    found = {}
    for name, settings in kinds.items():
        told = 0
        for seed in range(sequences):
            detector = PhaseDetector()
            told += any(detector.update(e, s, None, None) for e, s in enumerate(noise_only(seed, **settings)))
        found[name] = {"boundary": told / sequences}
    return found
