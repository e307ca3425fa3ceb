"""Several heads: which of a model's outputs is followed, and which targets are its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_interactions.errors import BatchError, bad_argument
from lightning_interactions.model.batch import TARGET_KEYS
from lightning_interactions.model.positions import find_positions, is_dense
from lightning_interactions.model.seen import SeenCall
from lightning_interactions.model.tree import Path, same, tensors

Wanted = str | int | None
"""The option ``head``: name or position of an output."""


@dataclass(frozen=True)
class Head:
    """One of several outputs.

    Attributes:
        name: As it is called by ``head=``.
        leaf: Where it is in what the model returns.
        shape: Its shape.
        target: Where its targets are in the batch; ``None`` where that is not known.
    """

    name: str | int
    leaf: Path
    shape: tuple[int, ...]
    target: Path | None


def find_heads(calls: Sequence[SeenCall], batch: object, rows: int) -> list[Head]:
    """Find the outputs of the last call of the model, and the targets of each.

    They belong together where a loss was given both, where they have one name, or, of outputs in a tuple, where as many
    tensors of the batch were not given to the model: these have the same order.

    Args:
        calls: Those of a step.
        batch: That of the step.
        rows: Number of samples.
    """
    models = [call for call in calls if not call.judge and not call.inside]
    outputs = {
        path: x for path, x in tensors(models[-1].output if models else None).items()
        if path and x.is_floating_point() and x.ndim and len(x) == rows
    }  # fmt: skip
    given = [x for call in models for x in call.given.values()]
    unread = {
        path: x for path, x in tensors(batch).items()
        if x.ndim and len(x) == rows and not any(same(x, other) for other in given)
    }  # fmt: skip
    targets = {**_of_one_place(outputs, unread), **_of_one_name(outputs, unread), **_judged(calls, outputs, unread)}
    names = [path[-1] for path in outputs]
    return [
        Head(path[-1] if names.count(path[-1]) == 1 else ".".join(map(str, path)), path, tuple(x.shape),
             targets.get(path))
        for path, x in outputs.items()
    ]  # fmt: skip


def choose_head(heads: Sequence[Head], wanted: Wanted, *, ask: bool = True) -> Head | None:
    """Return the head that is wanted; ``None`` where none is, and there is no choice to make.

    Args:
        heads: From `find_heads`.
        wanted: Name or position.
        ask: Whether to ask for one where several have targets of their own.

    Raises:
        ArgumentError: If there is no such head.
        BatchError: If several have targets of their own, and none was named.
    """
    if wanted is not None:
        found = [head for head in heads if head.name == wanted]
        if not found and isinstance(wanted, int) and 0 <= wanted < len(heads):
            found = [heads[wanted]]
        if not found:
            known = ", ".join(map(_shown, heads)) or "it returns a single tensor, so leave this out"
            raise bad_argument("head", f"the name or position of an output of the model: {known}", wanted)
        return found[0]
    own = [head for head in heads if head.target is not None]
    if ask and len({head.target for head in own}) > 1:
        options = " or ".join(f"`head={head.name!r}`" for head in own)
        raise BatchError(
            f"The model has several heads with targets of their own, {', '.join(map(_shown, own))}, and a game is "
            f"about one of them. Give {options}."
        )
    return None


def check_head_option(wanted: object) -> None:
    """Raise an `ArgumentError` unless ``wanted`` is a name, a position or ``None``."""
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, (str, int))):
        raise bad_argument("head", "the name or position of an output of the model, or None", wanted)


def _shown(head: Head) -> str:
    return f"{head.name} {head.shape}"


def _judged(calls: Sequence[SeenCall], outputs: dict[Path, Tensor], unread: dict[Path, Tensor]) -> dict[Path, Path]:
    """Outputs and targets that a loss was given together."""
    found = {}
    for call in calls:
        given = list(call.given.values())
        if call.judge != "loss" or len(given) < 2:
            continue
        output = next((path for path, x in outputs.items() if same(x, given[0])), None)
        target = next((path for path, x in unread.items() if same(x, given[1])), None)
        if output is not None and target is not None:
            found[output] = target
    return found


def _of_one_name(outputs: dict[Path, Tensor], unread: dict[Path, Tensor]) -> dict[Path, Path]:
    """Outputs and targets of the same name, which is none that any target may have."""
    return {
        path: target
        for path in outputs if isinstance(path[-1], str) and path[-1] not in TARGET_KEYS
        for target in unread if target and target[-1] == path[-1]
    }  # fmt: skip


def _of_one_place(outputs: dict[Path, Tensor], unread: dict[Path, Tensor]) -> dict[Path, Path]:
    """Outputs in a tuple, and as many tensors that the model was not given: in the same order."""
    if len(outputs) != len(unread) or len(outputs) < 2 or not all(isinstance(path[-1], int) for path in outputs):
        return {}
    pairs = dict(zip(outputs, unread, strict=True))
    return pairs if all(_fits(outputs[path], unread[target]) for path, target in pairs.items()) else {}


def _fits(output: Tensor, targets: Tensor) -> bool:
    """Whether these can be targets of an output: numbers of its shape, or classes it has columns for."""
    if targets.is_floating_point() or targets.shape == output.shape:
        return targets.numel() == output.numel()
    if is_dense(output):
        return find_positions(output, targets) is not None
    return targets.numel() == len(targets) and int(targets.max()) < max(output[:1].numel(), 2)
