"""How often noise alone makes a boundary: at most in the share of runs that was asked for, however long they are.

`tests/benchmarks/onset/noise.py` measures the same on many more, also where noise lasts for several records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lightning_interactions.phases import PhaseDetector

pytestmark = pytest.mark.thorough
SAMPLES, PLAYERS = 16, 6
NEVER = 10**6


def noise_of_strength(seed: int, records: int, fall: float) -> Iterator[Tensor]:
    """Strengths around fixed ones: each number has noise of its own, and an order some that all samples share.

    With ``fall`` the mean order first falls, e-fold in four records, and then stays.
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(SAMPLES, 2, PLAYERS, generator=generator).exp()
    profile = own * (torch.rand(2, PLAYERS, generator=generator) + 0.1)
    orders = torch.arange(PLAYERS) - (PLAYERS - 1) / 2
    for record in range(records):
        tilt = (0.006 * torch.randn(1, generator=generator) + fall * math.exp(-record / 4)) * orders
        yield profile * (0.3 * torch.randn(SAMPLES, 2, PLAYERS, generator=generator) + tilt).exp()


def first_told(fall: float, seeds: int, records: int, rate: float = 0.05) -> list[int]:
    """The record at which each sequence has its first boundary, or `NEVER`."""
    first = []
    for seed in range(seeds):
        detector = PhaseDetector(false_alarm_rate=rate)
        told = (
            any(event.kind == "boundary" for event in detector.update(record, strength, None, None))
            for record, strength in enumerate(noise_of_strength(seed, records, fall))
        )
        first.append(next((record for record, found in enumerate(told) if found), NEVER))
    return first


def most(rate: float, sequences: int) -> float:
    """The rate, and what so few sequences may add to it by chance."""
    return rate + 2 * math.sqrt(rate * (1 - rate) / sequences)


@pytest.mark.parametrize("fall", [0.0, 0.4], ids=["flat", "after a deep fall"])
def test_a_boundary_in_noise_is_as_rare_as_was_asked_for(fall: float) -> None:
    """Of long sequences there is not a larger share than of short ones by much: it is one bet over the whole run."""
    first = first_told(fall, 30, 300)
    for records in (40, 300):
        assert sum(record < records for record in first) / len(first) <= most(0.05, len(first))


def test_the_rate_that_was_asked_for_counts() -> None:
    sequences = 60
    shares = [sum(record < 40 for record in first_told(0.0, sequences, 40, rate)) / sequences for rate in (0.05, 0.4)]
    assert shares[0] <= most(0.05, sequences)
    assert shares[0] <= shares[1] <= most(0.4, sequences)


def test_a_turn_in_the_same_noise_is_found() -> None:
    """Else silence would be nothing to be proud of."""
    found = 0
    for seed in range(10):
        detector = PhaseDetector()
        orders = torch.arange(PLAYERS) - (PLAYERS - 1) / 2
        for record, strength in enumerate(noise_of_strength(seed, 40, 0.4)):
            rise = 0.02 * max(record - 20, 0)
            detector.update(record, strength * (rise * orders).exp(), None, None)
        found += detector.phase == 2
    assert found >= 9
