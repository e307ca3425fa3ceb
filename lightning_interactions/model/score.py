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
import torch.nn.functional as F
from torch import Tensor

from lightning_interactions.errors import BatchError, ModelOutputError, bad_argument

ScoreFn = Callable[[Tensor, Tensor], Tensor]
"""``(logits (B, C) or (B, 1), targets (B,)) -> (B,)``."""


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-odds of the target class, ``z_y - logsumexp(z_others)``; ``+-z`` for a single logit.

    Args:
        logits: ``(B, C)``, or ``(B, 1)`` for a binary model.
        targets: Long ``(B,)``.

    Returns:
        ``(B,)`` in nats, dtype of ``logits``.

    Example:
        >>> round(log_odds(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 3)
        2.0
    """
    if logits.shape[-1] == 1:
        return _signed_logit(logits, targets)
    column = targets.unsqueeze(-1)
    if logits.shape[-1] == 2:  # the same numbers for a third of the time, which a small network notices
        return (logits.gather(-1, column) - logits.gather(-1, 1 - column)).squeeze(-1)
    others = logits.scatter(-1, column, -torch.inf)
    return logits.gather(-1, column).squeeze(-1) - others.logsumexp(-1)


def logit(logits: Tensor, targets: Tensor) -> Tensor:
    """Logit of the target class; ``+-z`` for a single logit.

    Args:
        logits: ``(B, C)``, or ``(B, 1)`` for a binary model.
        targets: Long ``(B,)``.

    Returns:
        ``(B,)``, dtype of ``logits``.

    Example:
        >>> logit(torch.tensor([[2.0, 0.5]]), torch.tensor([1]))
        tensor([0.5000])
    """
    if logits.shape[-1] == 1:
        return _signed_logit(logits, targets)
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax probability of the target class; sigmoid for a single logit.

    Args:
        logits: ``(B, C)``, or ``(B, 1)`` for a binary model.
        targets: Long ``(B,)``.

    Returns:
        ``(B,)``, between 0 and 1, dtype of ``logits``.

    Example:
        >>> probability(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.5000])
    """
    return torch.sigmoid(log_odds(logits, targets))


def output(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the model's output itself, whatever the target: the score of a regression.

    Args:
        logits: ``(B, 1)``.
        targets: Not used.

    Returns:
        ``(B,)``, in units of the output, dtype of ``logits``.

    Example:
        >>> output(torch.tensor([[2.0], [0.5]]), torch.tensor([1.0, 1.0]))
        tensor([2.0000, 0.5000])
    """
    return logits[..., 0]


SCORES: dict[str, ScoreFn] = {"log_odds": log_odds, "logit": logit, "probability": probability, "output": output}


def resolve_score(score: str | ScoreFn) -> ScoreFn:
    """Return the score function a name stands for, or the callable itself.

    Args:
        score: ``"log_odds"``, ``"logit"``, ``"probability"``, ``"output"``, or
            ``(logits (B, C), targets (B,)) -> (B,)``.

    Raises:
        ArgumentError: If the name is unknown or ``score`` is neither a name nor callable.

    Example:
        >>> resolve_score("log_odds") is log_odds
        True
    """
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]
    if callable(score):
        return score
    raise bad_argument(
        "score", f"one of {', '.join(map(repr, SCORES))} or a callable (logits, targets) -> scores", score
    )


def read_logits(output: Any) -> Tensor:
    """Find the logits in what a model returned.

    Args:
        output: A tensor ``(B, C)`` or ``(B,)``, or an object or mapping that holds one as ``logits``.

    Returns:
        ``(B, C)``; ``(B, 1)`` for a single logit. Float64 where the device has it, else float32.

    Raises:
        ModelOutputError: If there is no such tensor.

    Example:
        >>> read_logits(torch.zeros(4)).shape
        torch.Size([4, 1])
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise ModelOutputError(
            f"Expected the model to return a tensor of logits, or an object with `.logits`, but got "
            f"{type(output).__name__}. Give `forward_fn=(module, inputs) -> logits`."
        )
    if output.ndim not in (1, 2) or not output.is_floating_point():
        raise ModelOutputError(
            f"Expected the model to return floating-point logits of shape (B, C) or (B,), but got "
            f"{output.dtype} of shape {tuple(output.shape)}. Give `forward_fn=(module, inputs) -> logits`."
        )
    logits: Tensor = output.unsqueeze(-1) if output.ndim == 1 else output
    return logits.float() if logits.device.type == "mps" else logits.double()


def check_targets(targets: Any, num_classes: int) -> Tensor:
    """Return targets as class indices, or say why they are none.

    Args:
        targets: Integer ``(B,)``, or whole-number floats (as binary losses take) of shape ``(B,)`` or ``(B, 1)``.
        num_classes: Columns of the logits; 1 means a single logit with targets 0 and 1.

    Returns:
        Long ``(B,)``.

    Raises:
        BatchError: If they are missing, of another shape, soft, or out of range.

    Example:
        >>> check_targets(torch.tensor([[0.0], [1.0]]), num_classes=1)
        tensor([0, 1])
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
            "One-hot or soft targets: give `target_fn=batch -> class indices` (for example by argmax(-1))."
        )
    as_long: Tensor = targets.long()
    if targets.is_floating_point() and not torch.equal(as_long.to(targets.dtype), targets):
        raise BatchError(
            "Expected targets to be class indices, but got fractional values. Soft labels: give `target_fn=batch -> "
            'class indices`. Numbers to predict: use `score="output"`.'
        )
    top = max(num_classes, 2) - 1
    if as_long.numel() and (int(as_long.min()) < 0 or int(as_long.max()) > top):
        raise BatchError(
            f"Expected targets from 0 to {top} because the model returns {num_classes} logit(s), but got values from "
            f"{int(as_long.min())} to {int(as_long.max())}. Give `target_fn=batch -> class indices`, `forward_fn` if "
            'the wrong output was read, or `score="output"` if the model predicts numbers.'
        )
    return as_long


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every sample, in nats: ``log(1 + exp(-log_odds))``.

    Args:
        logits: ``(B, C)``, or ``(B, 1)`` for a binary model.
        targets: Long ``(B,)``.

    Returns:
        ``(B,)``, not reduced.

    Example:
        >>> classification_loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor([0.6931])
    """
    return F.softplus(-log_odds(logits, targets))


def _signed_logit(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.where(targets == 1, logits[..., 0], -logits[..., 0])
