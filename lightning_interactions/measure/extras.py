"""Quantities of the theory that are logged when asked for, see :mod:`~lightning_interactions.functional.theory`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import bad_argument
from lightning_interactions.functional.changes import known_samples, persistence
from lightning_interactions.functional.theory import fit_noise, interaction_profile, split_profile

EXTRAS = ("spindle_share", "persistence", "cutoff_order")
"""What there is: the share of the strength that is like the run's first profile; that of the last record's interactions
which are salient still; the soft cut-off order of the noisy-regression law, with the reference as the trained network.
"""


def check_extras(extras: Any, reference: Any) -> None:
    """Raise an `ArgumentError` unless these are names of `EXTRAS`; one of them needs a reference."""
    several = isinstance(extras, Collection) and not isinstance(extras, (str, bytes))
    if not several or not all(isinstance(name, str) and name in EXTRAS for name in extras):
        raise bad_argument("extras", f"names out of {', '.join(EXTRAS)}", extras)
    if "cutoff_order" in extras and reference is None:
        hint = "Its law starts from a trained network: give `reference=`."
        raise bad_argument("extras", "without cutoff_order where there is no reference", extras, hint)


def profile_of(salient: Tensor) -> Tensor:
    """Mean strength by order ``(n,)`` of salient interactions ``(B, 2, 2**n)``, over the samples that are finite."""
    return interaction_profile(salient[known_samples(salient)].double())


def spindle_share(first: Tensor, now: Tensor) -> dict[str, float]:
    """How much of the strength now ``(B, 2, 2**n)`` is like that at the first record."""
    return {"theory/spindle_share": split_profile(profile_of(now), profile_of(first)).share}


def persisting(before: Tensor | None, now: Tensor) -> dict[str, float]:
    """How much of the strength of the last record's interactions is salient still; ``nan`` at the first one."""
    share = persistence(torch.full_like(now, torch.nan) if before is None else before, now)
    return share.named("theory/persistence")


def cutoff_order(now: Tensor, trained: Tensor) -> dict[str, float]:
    """Up to which order the law lets interactions of the ``trained`` network be learned, and how far it is off."""
    (fit,) = fit_noise(profile_of(now), trained[known_samples(trained)])
    return {"theory/cutoff_order": fit.cutoff, "theory/cutoff_distance": fit.distance}
