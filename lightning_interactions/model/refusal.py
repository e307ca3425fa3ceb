"""Kinds of training the monitor cannot measure, and one sentence each why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_interactions.model.batch import target_leaf
from lightning_interactions.model.positions import is_dense
from lightning_interactions.model.reader import Sighting
from lightning_interactions.model.tree import leaves, same, tensors

_GRAPHS = ("torch_geometric", "dgl", "jraph")


def why_never(seen: Sighting) -> str | None:
    """Say why a batch can be of no game, whatever the model makes of it, as `why_not` does."""
    for part in _parts(seen):
        packages = [cls.__module__.partition(".")[0] for cls in type(part).__mro__]  # batches are of classes made anew
        known = next((package for package in packages if package in _GRAPHS), None)
        if known or hasattr(part, "edge_index"):
            return (
                f"the batch holds {known or packages[0]}'s {type(part).__name__}, and graphs are not supported: nodes "
                "and edges are not kept apart by sample, so they have no players that could be masked"
            )
    if _boxes(seen) and not isinstance(seen.batch, Mapping):
        return _detection(seen)
    return None


def why_not(seen: Sighting, optimizers: int = 1) -> str | None:
    """Say why what was seen has no game: a sentence without a full stop; ``None`` if nothing is known against it.

    ``optimizers`` is their number: adversaries have one each.
    """
    never = why_never(seen)
    if never is not None:
        return never
    if _boxes(seen):
        return _detection(seen)
    outputs = [x for call in seen.calls or () if not (call.judge or call.inside) for x in tensors(call.output).values()]
    labelled = _has_labels(seen)
    if optimizers > 1 and (not labelled or seen.calls == [] or _are_critics(outputs)):
        return "several optimizers and no targets that fit: adversarial networks have no score of a target to explain"
    dense = [x for x in outputs if is_dense(x)]
    if dense:
        labelled = _judged(seen) or _unread(seen, list(tensors(seen.batch).values()))
        return None if labelled else _unlabelled(dense[0])
    if not labelled:
        return "the batches have no targets (self-supervised learning), so there is no score of a target to explain"
    return None


def _unlabelled(numbers: Tensor) -> str:
    shape = tuple(numbers.shape)
    wanted = shape[:2] if len(shape) == 3 else (shape[0], *shape[2:])
    return (
        f"the model returns numbers for every position {shape}, and the batches have no labels of these: give "
        f"`target_fn=batch -> labels` {wanted}, with -100 where there is none"
    )


def _detection(seen: Sighting) -> str:
    boxes = _boxes(seen)[0]
    shape = f" {tuple(boxes.shape)}" if isinstance(boxes, Tensor) else ""
    return (
        f"the batch holds boxes{shape}, and object detection is not supported: it has no single score for a sample "
        "that interactions could explain"
    )


def _boxes(seen: Sighting) -> list[Any]:
    return [leaf for path, leaf in leaves(seen.batch) if path and path[-1] == "boxes"]


def _parts(seen: Sighting) -> Iterator[Any]:
    yield seen.batch
    yield from (leaf for _, leaf in leaves(seen.batch))


def _are_critics(outputs: list[Tensor]) -> bool:
    """Whether one network says of samples whether they are genuine: a number each, whatever their labels are."""
    return any(x.is_floating_point() and x.ndim and x.shape[1:].numel() == 1 for x in outputs)


def _has_labels(seen: Sighting) -> bool:
    """Whether a tensor looks like targets: one number for a sample, a row of whole ones, or one no module was given."""
    every = tensors(seen.batch)
    found = [x for x in every.values() if x.ndim in (1, 2)]
    single = any(x.ndim == 1 or x.shape[1] == 1 or not x.is_floating_point() for x in found)
    opaque = not every  # an object whose parts are not known
    return opaque or _judged(seen) or single or _unread(seen, found)


def _judged(seen: Sighting) -> bool:
    """Whether a loss was called, or something has the name of targets."""
    return any(call.judge for call in seen.calls or ()) or target_leaf(seen.batch) is not None


def _unread(seen: Sighting, found: Sequence[Tensor]) -> bool:
    """Whether some of these no module was given, of those that were seen to be given anything."""
    given = [x for call in seen.calls or () for x in call.given.values()]
    return bool(given) and any(not any(same(x, other) for other in given) for x in found)
