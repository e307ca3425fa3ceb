"""Models that return another sample, not scores: autoencoders, denoisers, networks from images to images, forecasts."""

from __future__ import annotations

from dataclasses import replace

import torch

from lightning_interactions.model.batch import Batch
from lightning_interactions.model.positions import may_be_labels
from lightning_interactions.model.score import read_whole
from lightning_interactions.model.tree import same, tensors


def whole_answer(batch: Batch) -> torch.Size | None:
    """Shape of what a model is meant to return of a sample, where that is no scores; else ``None``.

    It was seen to return something of the form of its targets, or of its input where these could be no classes of it.
    """
    seen = batch.seen if batch.leaf is None else tensors(batch.seen).get(batch.leaf)
    shape, targets = batch.inputs.shape[1:], batch.targets
    if seen is None or batch.table is not None:
        return None
    numbers = targets.ndim > 2 and targets.is_floating_point() and not may_be_labels(targets)
    if numbers and read_whole(seen, targets.shape[1:]) is not None:
        return targets.shape[1:]
    if read_whole(seen, shape) is None:
        return None
    if targets.shape == batch.inputs.shape and same(targets.to(batch.inputs), batch.inputs):
        return shape
    return None if _are_classes(batch) else shape


def with_whole_targets(batch: Batch, whole: torch.Size) -> Batch:
    """Make samples the targets of their reconstruction, unless there are others of the form of the answer."""
    if batch.targets[:1].numel() == whole.numel():
        return batch
    return replace(batch, targets=batch.inputs.flatten(1))


def _are_classes(batch: Batch) -> bool:
    """Whether the targets can be classes of an answer that has the form of the input, or of its positions."""
    shape, targets = batch.inputs.shape[1:], batch.targets
    if len(shape) > 1:
        of_positions = targets[:1].numel() == shape.numel() and may_be_labels(targets)
        return targets.ndim > 1 and (of_positions or not targets.is_floating_point())
    top = int(targets.max()) + 1 if targets.ndim == 1 and not targets.is_floating_point() else None
    return targets.shape[1:] == shape or top == shape[0]
