"""Kinds of training the monitor cannot measure, and one sentence each why not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lightning_interactions.model.batch import target_leaf
from lightning_interactions.model.reader import Sighting
from lightning_interactions.model.tree import leaves, same, tensors

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
    if optimizers > 1 and (not _has_labels(seen) or seen.calls == [] or _are_critics(outputs)):
        return "several optimizers and no targets that fit: adversarial networks have no score of a target to explain"
    if not _has_labels(seen):
        return "the batches have no targets (self-supervised learning), so there is no score of a target to explain"
    return None


def _parts(seen: Sighting) -> Iterator[Any]:
    yield seen.batch
    yield from (leaf for _, leaf in leaves(seen.batch))


def _is_dense(outputs: list[Tensor]) -> bool:
    floating = [x for x in outputs if x.is_floating_point() and x.ndim]
    return bool(floating) and all(x.ndim > 2 and x.shape[2:].numel() > 1 for x in floating)


def _are_critics(outputs: list[Tensor]) -> bool:
    """Whether one network says of samples whether they are genuine: a number each, whatever their labels are."""
    return any(x.is_floating_point() and x.ndim and x.shape[1:].numel() == 1 for x in outputs)


def _has_labels(seen: Sighting) -> bool:
    """Whether a tensor looks like targets: one number for a sample, a row of whole ones, or one no module was given."""
    found = [x for x in tensors(seen.batch).values() if x.ndim in (1, 2)]
    calls = seen.calls or ()
    given = [x for call in calls for x in call.given.values()]
    unread = any(not any(same(x, other) for other in given) for x in found) if given else False
    single = any(x.ndim == 1 or x.shape[1] == 1 or not x.is_floating_point() for x in found)
    opaque = not tensors(seen.batch)  # an object whose parts are not known
    judged = any(call.judge for call in calls)
    return opaque or judged or single or unread or target_leaf(seen.batch) is not None
