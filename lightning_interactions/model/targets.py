"""Reading targets: what kind they are, and the one form each kind is brought into."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.model.score import check_targets

Kind = Literal["classes", "binary", "labels", "positions", "regression", "reconstruction"]

MISSING = -100
"""A whole number that stands for a missing target: what torch's losses ignore."""

ENOUGH = 16
"""Outputs that are all from 0 to 1 are taken for probabilities if there are so many of them."""

FEW_VALUES = 4
"""Targets between 0 and 1 with more different values are numbers to predict, with fewer they are smoothed labels."""


def known_rows(targets: Tensor) -> Tensor:
    """Tell the samples whose targets are not all missing, boolean ``(B,)``."""
    known: Tensor = targets.isfinite() if targets.is_floating_point() else targets != MISSING
    return known.flatten(1).any(1) if known.ndim > 1 else known


def are_numbers(targets: Any, outputs: int) -> bool:
    """Whether the targets are no classes: fractions, or whole floats other than 0, 1 (and -1); see `are_soft` first."""
    if not isinstance(targets, Tensor) or not targets.is_floating_point():
        return False
    flat = known_values(targets)
    if outputs > 1 and targets[:1].numel() == 1:
        return bool((flat != flat.round()).any())  # else floats that are class indices
    if outputs > 1 and (targets.shape[1:] != (outputs,) or are_labels(targets, outputs)):
        return False
    return not bool(((flat == 0) | (flat.abs() == 1)).all())


def are_soft(targets: Any, outputs: int) -> bool:
    """Whether targets are probabilities: rows that sum to one, or smoothed zeros and ones of a single output."""
    if not isinstance(targets, Tensor) or not targets.is_floating_point():
        return False
    known = known_values(targets)
    if not len(known) or bool((known < 0).any()) or bool((known > 1).any()) or zeros_and_ones(known):
        return False
    if outputs == 1:
        return targets.numel() == len(targets) and len(torch.unique(known)) <= FEW_VALUES
    return targets.shape[1:] == (outputs,) and bool(((targets.sum(1) - 1).abs() < 1e-3).all())


def are_labels(targets: Any, outputs: int) -> bool:
    """Whether the targets are rows of 0 and 1, some perhaps missing or smoothed, in which not exactly one applies."""
    if not isinstance(targets, Tensor) or outputs == 1 or targets.shape[1:] != (outputs,):
        return False
    known = known_values(targets)
    plain = zeros_and_ones(known)
    between = targets.is_floating_point() and bool(((known >= 0) & (known <= 1)).all())
    smoothed = between and len(torch.unique(known)) <= FEW_VALUES
    return (plain or smoothed) and not bool(((targets.sum(1) - 1).abs() < 1e-3).all())


def are_probabilities(outputs: Tensor, kind: Kind) -> bool:
    """Whether a model ends in a softmax, or (which takes many samples to tell) in a sigmoid."""
    if not outputs.numel() or bool((outputs < 0).any()) or bool((outputs > 1).any()):
        return False
    if kind == "classes":
        return bool(((outputs.sum(1) - 1).abs() < 1e-3).all())
    return outputs.numel() >= ENOUGH


def known_values(targets: Tensor) -> Tensor:
    """Return the targets that are not missing, flat."""
    flat = targets.flatten()
    return flat[flat.isfinite()] if flat.is_floating_point() else flat[flat != MISSING]


def zeros_and_ones(targets: Tensor) -> bool:
    """Whether targets are nothing but 0 and 1."""
    return bool(((targets == 0) | (targets == 1)).all())


def read_labels(targets: Any, outputs: int, soft: bool) -> Tensor:
    """Read multi-label targets, floating ``(B, C)``: 0 or 1, between them if ``soft``, ``nan`` where one is missing."""
    if not isinstance(targets, Tensor) or targets.ndim != 2 or targets.shape[1] != outputs:
        got = f"shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise BatchError(f"Expected multi-label targets of shape (B, {outputs}), as in the first batch, but got {got}.")
    known = known_values(targets)
    if not (zeros_and_ones(known) or (soft and bool(((known >= 0) & (known <= 1)).all()))):
        raise BatchError(
            "Expected multi-label targets to be 0 or 1, but got other values. "
            "Give `target_fn=batch -> targets` of 0 and 1, for example by rounding."
        )
    own = targets if targets.is_floating_point() else torch.where(targets == MISSING, torch.nan, targets.float())
    return own if own.dtype in (torch.float32, torch.float64) else own.float()


def check_counts(targets: Any) -> Tensor:
    """Return numbers of labels, long ``(B,)``: what is left of the labels of positions, which go along."""
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise BatchError("Expected labels of every position, as in the first batch. Give `target_fn=batch -> labels`.")
    return targets


def read_soft(targets: Any, outputs: int) -> Tensor:
    """Read probabilities ``(B,)`` of a single output, or ``(B, C)``; class indices among them become rows."""
    if isinstance(targets, Tensor) and targets.is_floating_point():
        flat = targets.flatten() if targets.numel() == len(targets) else targets
        if (outputs == 1) == (flat.ndim == 1) and flat.shape[1:] in ((), (outputs,)):
            return flat
    hard = check_targets(targets, outputs)
    return hard.float() if outputs == 1 else F.one_hot(hard, outputs).float()


def read_one_hot(targets: Tensor) -> Tensor:
    """Read one-hot rows as class indices, long ``(B,)``."""
    if not zeros_and_ones(targets) or not bool((targets.sum(1) == 1).all()):
        raise BatchError(
            f"Expected one class per sample, but got targets of shape {tuple(targets.shape)} that are not one-hot. "
            "Give `target_fn=batch -> class indices`, for example by argmax(-1)."
        )
    return targets.long().argmax(1)


def read_numbers(targets: Any, outputs: int) -> Tensor:
    """Read numbers to predict, floating ``(B,)`` or ``(B, outputs)``."""
    if not isinstance(targets, Tensor):
        raise BatchError(
            f"Expected targets to be a tensor of numbers, but got {type(targets).__name__}. "
            "Give `target_fn=batch -> targets`."
        )
    squeezed = targets.squeeze(1) if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if squeezed.ndim != 1 and squeezed.shape[1:] != (outputs,):
        raise BatchError(
            f"Expected targets of shape (B,) or (B, {outputs}), one number for each output of the model, but got shape "
            f"{tuple(targets.shape)}. Give `target_fn=batch -> targets`."
        )
    return squeezed if squeezed.is_floating_point() else squeezed.float()


def read_whole(targets: Any, outputs: int) -> Tensor:
    """Read samples to reconstruct, floating ``(B, numbers)``."""
    if not isinstance(targets, Tensor) or targets[:1].numel() not in (0, outputs):
        got = f"shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise BatchError(f"Expected targets of {outputs} numbers each, as the model returns, but got {got}.")
    return targets.flatten(1).float()
