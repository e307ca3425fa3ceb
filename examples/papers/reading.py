"""From recorded scores to interactions, in several readings, and what the scripts draw and print alike."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from recording import Options, Recording
from torch import Tensor

from lightning_interactions.functional import (
    BOUNDED_TOLERANCE,
    SPLIT_TOLERANCE,
    moebius_transform,
    order_strength,
    salience_threshold,
    salient_interactions,
    sparse_and_or,
    value_scale,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SPLITS = Path(tempfile.gettempdir()) / "lightning_interactions_papers"
"""Splits are kept: several scripts read the same scores."""


class Reading(NamedTuple):
    """How interactions are read off scores: residual and threshold, as fractions of the scale."""

    noise_bound: float
    salience: float
    scale: str


READINGS = {
    "bounded": Reading(0.05, 0.07, "std"),  # the package's default
    "papers": Reading(0.02, 0.03, "difference"),
    "exact": Reading(0.0, 0.03, "difference"),
    "and": Reading(0.0, 0.03, "difference"),  # no OR interactions: the Harsanyi dividends of the scores
}


def interactions(values: Tensor, reading: str = "bounded") -> tuple[Tensor, Tensor]:
    """AND and OR interactions ``(B, 2**n)`` of scores ``(B, 2**n)``, without a threshold."""
    bound, _, scale = READINGS[reading]
    if reading == "and":
        dividends = moebius_transform(values - values[:, :1])
        return dividends, torch.zeros_like(dividends)
    content = f"{bound} {scale}".encode() + values.numpy().tobytes()
    file = SPLITS / f"{hashlib.blake2b(content, digest_size=12).hexdigest()}.npz"
    if file.exists():
        with np.load(file) as z:
            return torch.from_numpy(z["and_"]).double(), torch.from_numpy(z["or_"]).double()
    tolerance = BOUNDED_TOLERANCE if bound else SPLIT_TOLERANCE
    split = sparse_and_or(values, noise_bound=bound, scale=value_scale(values, scale), tol=tolerance)
    SPLITS.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.stem}.{os.getpid()}.npz")  # two scripts may come to the same
    np.savez(partial, and_=split.and_.float().numpy(), or_=split.or_.float().numpy())
    partial.replace(file)
    return split.and_, split.or_


def threshold(values: Tensor, reading: str = "bounded") -> Tensor:
    """From which value on an interaction counts."""
    return salience_threshold(values, READINGS[reading].salience, READINGS[reading].scale)


def strength(values: Tensor, reading: str = "bounded") -> Tensor:
    """Strength ``(B, 2, n)`` of scores ``(B, 2**n)``."""
    return order_strength(*interactions(values, reading), threshold(values, reading))


def salient(values: Tensor, reading: str = "bounded") -> Tensor:
    """Salient interactions ``(B, 2, 2**n)`` of scores ``(B, 2**n)``, 0 elsewhere."""
    return salient_interactions(*interactions(values, reading), threshold(values, reading))


def curve(rec: Recording, group: str = "test", reading: str = "bounded") -> Tensor:
    """Strength ``(M, B, 2, n)`` at every record."""
    return torch.stack([strength(values, reading) for values in rec.values[group]])


# -- telling ----------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean over the seeds, and from where to where they go."""
    known = [value for value in values if value == value]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    return f"{mean:.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def leave(options: Options, name: str, figure: Figure, numbers: Any) -> None:
    """Write the figure and the numbers of a script."""
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(options.output) / f"{name}.png", dpi=80)
    text = json.dumps(numbers, indent=1).replace("NaN", "null")
    (Path(options.output) / f"{name}.json").write_text(f"{text}\n")
    print(f"\nwrote {options.output / name}.png and .json")
