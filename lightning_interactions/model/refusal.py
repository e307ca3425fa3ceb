"""Kinds of training the monitor cannot measure, and one sentence each why not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lightning_interactions.model.batch import target_leaf
from lightning_interactions.model.reader import Sighting
from lightning_interactions.model.tree import leaves, tensors

_GRAPHS = ("torch_geometric", "dgl", "jraph")


def why_not(seen: Sighting, optimizers: int = 1) -> str | None:
    """Say why what was seen has no game: a sentence without a full stop; ``None`` if nothing is known against it.

    ``optimizers`` is their number: adversaries have one each.
    """
    if any(type(leaf).__module__.partition(".")[0] in _GRAPHS or hasattr(leaf, "edge_index") for leaf in _parts(seen)):
        return "graphs have no players that could be masked: nodes and edges are not kept apart by sample"
    names = {path[-1] for path, _ in leaves(seen.batch) if path}
    if "boxes" in names:
        return "object detection has no single score for a sample that interactions could explain"
    outputs = [x for call in seen.calls or () if not (call.judge or call.inside) for x in tensors(call.output).values()]
    if _is_dense(outputs):
        return (
            "the model returns scores for every position (segmentation, translation), and a game needs one for a sample"
        )
    if optimizers > 1 and (not _has_labels(seen) or seen.calls == []):
        return (
            "several optimizers and no targets: adversarial networks have no score of a target that could be explained"
        )
    if not _has_labels(seen):
        return "the batches have no targets (self-supervised learning), so there is no score of a target to explain"
    return None


def _parts(seen: Sighting) -> Iterator[Any]:
    yield seen.batch
    yield from (leaf for _, leaf in leaves(seen.batch))


def _is_dense(outputs: list[Tensor]) -> bool:
    floating = [x for x in outputs if x.is_floating_point() and x.ndim]
    return bool(floating) and all(x.ndim > 2 and x.shape[2:].numel() > 1 for x in floating)


def _has_labels(seen: Sighting) -> bool:
    """Whether a tensor looks like targets: one number for a sample, or a row of whole numbers."""
    found = tensors(seen.batch).values()
    judged = any(call.judge for call in seen.calls or ())
    single = any(x.ndim == 1 or (x.ndim == 2 and x.shape[1] == 1) for x in found)
    whole = any(x.ndim == 2 and not x.is_floating_point() for x in found)
    return judged or single or whole or target_leaf(seen.batch) is not None
