"""From a model's output to one score per input: reading logits, checking targets, scores and losses.

The score of an input is the value function ``v`` of the game played on it. The default is the log-odds of the target
class, ``log(p / (1 - p)) = z_y - logsumexp(z_others)`` (arXiv 2407.19198, table 1), computed in float64 from the logits
so that it never saturates. A model with a single logit ``z`` is a binary classifier: its log-odds are ``z`` for
target 1 and ``-z`` for target 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import BatchError, ModelOutputError, bad_argument
from lightning_interactions.model.tree import Path, same, tensors

ScoreFn = Callable[[Tensor, Tensor], Tensor]  # (logits (B, C) or (B, 1), targets (B,)) -> (B,)


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-odds ``(B,)`` of the target class in nats, ``z_y - logsumexp(z_others)``; ``+-z`` for a single logit."""
    if logits.shape[-1] == 1:
        return _signed_logit(logits, targets)
    column = targets.unsqueeze(-1)
    if logits.shape[-1] == 2:  # the same numbers for a third of the time, which a small network notices
        return (logits.gather(-1, column) - logits.gather(-1, 1 - column)).squeeze(-1)
    others = logits.scatter(-1, column, -torch.inf)
    return logits.gather(-1, column).squeeze(-1) - others.logsumexp(-1)


def logit(logits: Tensor, targets: Tensor) -> Tensor:
    """Logit ``(B,)`` of the target class; ``+-z`` for a single logit."""
    if logits.shape[-1] == 1:
        return _signed_logit(logits, targets)
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax probability ``(B,)`` of the target class; sigmoid for a single logit."""
    return torch.sigmoid(log_odds(logits, targets))


def output(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the model's output ``(B,)`` itself, whatever the target: the score of a regression."""
    return logits[..., 0]


SCORES: dict[str, ScoreFn] = {"log_odds": log_odds, "logit": logit, "probability": probability, "output": output}


def resolve_score(score: str | ScoreFn) -> ScoreFn:
    """Return the score function a name stands for, or the callable itself; anything else is an `ArgumentError`."""
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]
    if callable(score):
        return score
    expected = f"one of {', '.join(map(repr, SCORES))} or a callable (logits, targets) -> scores"
    raise bad_argument("score", expected, score)


def read_logits(output: Any, rows: int | None = None, leaf: Path | None = None) -> Tensor:
    """Find the logits ``(B, C)`` in what a model returned.

    That is a tensor, or something that holds one as ``logits``, or a structure: of a loss, features and logits, say,
    the first floating-point tensor ``(B, C)`` or ``(B,)`` counts. A single logit makes ``(B, 1)``. They are float64
    where the device has it, else float32. ``rows`` is ``B`` where it is known, ``leaf`` the place of the logits in a
    structure (see `logits_leaf`).
    """
    found = tensors(output).get(leaf) if leaf else _find_logits(output, rows)
    if found is None:
        shown = f"{output.dtype} of shape {tuple(output.shape)}" if isinstance(output, Tensor) else _kind(output)
        raise ModelOutputError(
            f"Expected the model to return floating-point logits of shape (B, C) or (B,), or an object with `.logits`, "
            f"but got {shown}. {_advice(output)}"
        )
    logits = found.unsqueeze(-1) if found.ndim == 1 else found.flatten(1)
    return logits.float() if logits.device.type == "mps" else logits.double()


def _advice(output: Any) -> str:
    """Say what to do where there are no logits."""
    found = [x for x in tensors(output).values() if x.is_floating_point() and x.ndim > 2 and x.shape[2:].numel() > 1]
    if not found:
        return "Give `forward_fn=(module, inputs) -> logits`."
    shape = tuple(found[0].shape)
    labels = f"({shape[0]}, {shape[1]})" if len(shape) == 3 else f"({', '.join(map(str, (shape[0], *shape[2:])))})"
    return (
        f"If these are scores of every position, no labels {labels} of these were found: give `target_fn=batch -> "
        "labels`, with -100 where there is none; else `forward_fn=(module, inputs) -> logits`."
    )


def read_whole(output: Any, shape: torch.Size) -> Tensor | None:
    """Find the first floating-point tensor ``(B, *shape)`` in what a model returned, as ``(B, numbers)``."""
    for leaf in tensors(output).values():
        if leaf.is_floating_point() and leaf.ndim and leaf.shape[1:] == shape:
            return leaf.flatten(1).float() if leaf.device.type == "mps" else leaf.flatten(1).double()
    return None


def logits_leaf(output: Any, targets: Tensor, judged: Tensor | None = None) -> Path | None:
    """Say which of several tensors in what a model returned are its logits; ``None`` where there is no choice.

    It is the one that was ``judged`` by a loss, else the narrowest that has a column for every class: features are
    wider.
    """
    if isinstance(output, Tensor) or isinstance(getattr(output, "logits", None), Tensor):
        return None
    fitting = {path: x for path, x in tensors(output).items() if _are_logits(x, len(targets))}
    if len(fitting) < 2 or any(path[-1] == "logits" for path in fitting):
        return None
    own = next((path for path, x in fitting.items() if judged is not None and same(x, judged)), None)
    if own is not None or targets.ndim > 1 or targets.is_floating_point():
        return own
    top = int(targets.max()) + 1
    wide = {path: x.shape[1:].numel() for path, x in fitting.items() if x.shape[1:].numel() >= top}
    return min(wide, key=lambda path: wide[path], default=None)


def _find_logits(output: Any, rows: int | None) -> Tensor | None:
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    whole = output if isinstance(output, Tensor) else named
    if isinstance(whole, Tensor):
        return whole if _are_logits(whole, None) else None
    return next((leaf for leaf in tensors(output).values() if _are_logits(leaf, rows)), None)


def _are_logits(tensor: Tensor, rows: int | None) -> bool:
    """Whether a tensor is ``(B, C)`` or ``(B,)``, further dimensions of size 1 aside."""
    shaped = tensor.ndim > 0 and all(size == 1 for size in tensor.shape[2:])
    return shaped and tensor.is_floating_point() and (rows is None or len(tensor) == rows)


def _kind(output: Any) -> str:
    shapes = ", ".join(f"{tuple(leaf.shape)}" for leaf in tensors(output).values())
    return f"{type(output).__name__}{f' of tensors {shapes}' if shapes else ''}"


def check_targets(targets: Any, num_classes: int) -> Tensor:
    """Return targets as class indices, long ``(B,)``, or say in a `BatchError` why they are none.

    Whole-number floats of shape ``(B,)`` or ``(B, 1)``, as binary losses take them, will do. ``num_classes`` is the
    number of columns of the logits; 1 means a single logit with targets 0 and 1.
    """
    if not isinstance(targets, Tensor):
        raise BatchError(
            f"Expected targets to be a tensor of class indices, but got {type(targets).__name__}. "
            "Give `target_fn=batch -> targets`."
        )
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if targets.ndim != 1:
        raise BatchError(
            f"Expected targets of shape (B,), one class index per sample, but got shape {tuple(targets.shape)}. "
            "Give `target_fn=batch -> class indices`."
        )
    as_long: Tensor = targets.long()
    if targets.is_floating_point() and not torch.equal(as_long.to(targets.dtype), targets):
        raise BatchError(
            "Expected targets to be class indices, but got fractional values. Give `target_fn=batch -> class indices`; "
            'for numbers to predict use `score="output"`.'
        )
    top = max(num_classes, 2) - 1
    if as_long.numel() and (int(as_long.min()) < 0 or int(as_long.max()) > top):
        raise BatchError(
            f"Expected targets from 0 to {top} because the model returns {num_classes} logit(s), but got values from "
            f"{int(as_long.min())} to {int(as_long.max())}. Give `target_fn=batch -> class indices`, `forward_fn` if "
            'the wrong output was read, or `score="output"` if the model predicts numbers.'
        )
    return as_long


def _signed_logit(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.where(targets == 1, logits[..., 0], -logits[..., 0])
