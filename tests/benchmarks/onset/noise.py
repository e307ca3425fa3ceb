"""Sequences of measurements in which nothing rises but by noise: what the detector must stay quiet on.

python tests/benchmarks/onset/noise.py      # ten minutes on two cores; writes noise.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lightning_interactions.phases import PhaseDetector

STORED = Path(__file__).parent / "noise.json"
LENGTHS = 40, 100, 300, 1000
COMMON = 0.006
"""Noise that tilts all samples' strength alike, per order. With it a mean order wobbles about as much more than its
samples say as in the recorded runs (1.1 times in the median, 2 times in the worst tenth)."""

KINDS: dict[str, dict[str, float]] = {
    "white: noise of every sample": {"common": 0.0},
    "common: and noise that all samples share, as in recorded runs": {"common": COMMON},
    "three times the common noise": {"common": 3 * COMMON},
    "AR(.6): common noise that lasts": {"common": COMMON, "lasting": 0.6},
    "AR(.6), three times the common noise": {"common": 3 * COMMON, "lasting": 0.6},
    "a deep fall, then flat with white noise": {"common": 0.0, "fall": 0.4},
    "a deep fall, then flat with common noise": {"common": COMMON, "fall": 0.4},
}


def noise_only(
    seed: int, records: int, *, samples: int = 32, players: int = 10, common: float = COMMON, fall: float = 0.0,
    lasting: float = 0.0,
) -> Iterator[Tensor]:  # fmt: skip
    """Strengths ``(samples, 2, players)`` around fixed ones: each entry has noise of its own, and all share some.

    With ``fall`` the mean order first falls, e-fold in four records, and then stays. ``lasting`` is the correlation of
    the shared noise from record to record.
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(samples, 2, players, generator=generator).exp()
    profile = own * (torch.rand(1, 2, players, generator=generator) + 0.1)
    orders = torch.arange(players) - (players - 1) / 2
    shared = torch.randn(1, generator=generator)
    for record in range(records):
        shared = lasting * shared + math.sqrt(1 - lasting**2) * torch.randn(1, generator=generator)
        tilt = (common * shared + fall * math.exp(-record / 4)) * orders
        yield profile * (0.3 * torch.randn(samples, 2, players, generator=generator) + tilt).exp()


def first_boundary(seed: int, settings: dict[str, float], records: int = max(LENGTHS)) -> int:
    """Record at which a boundary is told; ``records`` if none is."""
    torch.set_num_threads(1)
    detector = PhaseDetector()
    for record, strength in enumerate(noise_only(seed, records, **settings)):
        if any(event.kind == "boundary" for event in detector.update(record, strength, None, None)):
            return record
    return records


def main(sequences: int = 200) -> None:
    """Share of sequences of each length in which a boundary is told, at the default false alarm rate."""
    found = {}
    with ProcessPoolExecutor(2) as pool:
        for name, settings in KINDS.items():
            told = list(pool.map(partial(first_boundary, settings=settings), range(sequences), chunksize=10))
            found[name] = {str(length): sum(record < length for record in told) / sequences for length in LENGTHS}
            print(name, found[name], flush=True)
    STORED.write_text(json.dumps({"sequences": sequences, "boundary": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
