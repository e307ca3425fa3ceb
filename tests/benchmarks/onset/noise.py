"""Sequences of measurements in which nothing changes but the noise: what the detector must stay quiet on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_interactions.phases import PhaseDetector

COMMON = 0.006
"""Noise that tilts all samples' strength alike, per order. With it a mean order wobbles about as much more than its
samples say as in the recorded runs (1.1 times in the median, 2 times in the worst tenth)."""


def noise_only(
    seed: int, records: int, *, samples: int = 32, players: int = 10, common: float = COMMON
) -> Iterator[Tensor]:
    """Strengths ``(samples, 2, players)`` around fixed ones: each entry has noise of its own, and all share some."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(samples, 2, players, generator=generator).exp()
    profile = own * (torch.rand(1, 2, players, generator=generator) + 0.1)
    orders = torch.arange(players) - (players - 1) / 2
    for _ in range(records):
        tilt = common * torch.randn(1, generator=generator) * orders
        yield profile * (0.3 * torch.randn(samples, 2, players, generator=generator) + tilt).exp()


def false_boundaries(sequences: int = 100) -> dict[str, dict[str, float]]:
    """Share of noise-only sequences in which a boundary is told, at the default false alarm rate."""
    found = {}
    for records in (30, 100):
        for common in (0.0, COMMON, 3 * COMMON):
            told = 0
            for seed in range(sequences):
                detector = PhaseDetector()
                told += any(
                    detector.update(e, s, None, None) for e, s in enumerate(noise_only(seed, records, common=common))
                )
            found[f"{records} records, common noise {common:g}"] = {"boundary": told / sequences}
    return found
