"""What the readings make of recorded values: strength by order of every watched sample at every moment, and keep it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from recordings import Arrays
from torch import Tensor

from lightning_interactions.functional import (
    BOUNDED_TOLERANCE,
    SPLIT_TOLERANCE,
    SparseAndOr,
    degree_energy,
    mean_effect,
    order_strength,
    sparse_and_or,
)
from lightning_interactions.functional.coalitions import orders


@dataclass(frozen=True)
class Bounded:
    """A split with a residual: both constants are fractions of the scale."""

    noise_bound: float
    salience: float
    scale: str = "std"  # or "difference"


SALIENCE, GROWING_SALIENCE = 0.03, 0.07
BOUNDED = {
    "bounded": Bounded(0.05, 0.07),
    "papers": Bounded(0.02, 0.03, "difference"),
    "tighter": Bounded(0.03, 0.05),
    "wider": Bounded(0.10, 0.10),
}


def strengths_of(run: Arrays, site: str, cache: Path) -> Arrays:
    """Strengths ``(M, B, 2, n)`` by reading, energies ``(M, B, n)``, effects ``(M, B)``; gaps and seconds ``(M,)``.

    What takes long is kept in the file `cache`, one array for each reading, its gap and its seconds.
    """
    values = torch.from_numpy(run[f"values/{site}"]).double()
    kept: Arrays = dict(np.load(cache)) if cache.exists() else {}
    jobs = {"exact": _exact} | {name: _bounded(settings) for name, settings in BOUNDED.items()}
    for name, job in jobs.items():
        if f"{name}/seconds" in kept:
            continue
        moments = [job(v) for v in values]
        kept |= {f"{name}/{key}": torch.stack([m[key] for m in moments]).numpy() for key in moments[0]}
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(cache, **kept)
    return kept | {"energy": degree_energy(values).numpy(), "effect": (values[..., -1] - values[..., 0]).abs().numpy()}


def _scale(values: Tensor, name: str = "std") -> Tensor:
    return values.std(-1, correction=0).mean() if name == "std" else mean_effect(values)


def _certified(started: float, split: SparseAndOr) -> dict[str, Tensor]:
    return {"gap": split.gap.max(), "seconds": torch.tensor(time.perf_counter() - started)}


def _exact(values: Tensor) -> dict[str, Tensor]:
    """One split, read in three ways: the papers' threshold, none, and one that grows with order as noise does."""
    started = time.perf_counter()
    split = sparse_and_or(values, tol=SPLIT_TOLERANCE)
    out = _certified(started, split)
    parts = split.and_, split.or_
    order = orders(10).clamp(min=1)
    growing = GROWING_SALIENCE * _scale(values) * 2 ** ((order - 1) / 2)
    return out | {
        "salient": order_strength(*parts, SALIENCE * _scale(values, "difference")),
        "all": order_strength(*parts, 0.0),
        "growing": order_strength(*(torch.where(x.abs() < growing, 0.0, x) for x in parts), 0.0),
    }


def _bounded(settings: Bounded) -> Callable[[Tensor], dict[str, Tensor]]:
    def job(values: Tensor) -> dict[str, Tensor]:
        scale = _scale(values, settings.scale)
        started = time.perf_counter()
        split = sparse_and_or(values, noise_bound=settings.noise_bound, scale=scale, tol=BOUNDED_TOLERANCE)
        strength = order_strength(split.and_, split.or_, settings.salience * scale)
        return _certified(started, split) | {"salient": strength}

    return job
