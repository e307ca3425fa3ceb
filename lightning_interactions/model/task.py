"""What the model is asked: which of its outputs is followed, how its score is read, and what its loss is.

Four kinds of tasks are told apart by the model's outputs and the targets of the first batch:

- ``classes``: ``(B, C)`` logits, one class index (or one-hot row) per sample;
- ``binary``: one logit per sample, targets 0 and 1;
- ``labels`` (multi-label): ``(B, C)`` logits, a row of 0 and 1 per sample. The game is played on one label of each
  sample, which is a binary task of its own;
- ``regression``: one output per sample and targets that are no classes, or ``score="output"``. The score is the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.model.score import (
    ScoreFn,
    check_targets,
    classification_loss,
    log_odds,
    logit,
    output,
    probability,
    resolve_score,
)

Target = Literal["label", "predicted"] | int
"""Whose score is followed: that of the sample's label, of the model's present prediction, or of one fixed output."""


@dataclass(frozen=True)
class Task:
    """How targets are read, and logits turned into scores and losses.

    ``score`` gets ``(B, 1)`` logits and targets 0 or 1 where the kind is ``labels``, and the numbers to predict as
    targets where it is ``regression``.
    """

    kind: Literal["classes", "binary", "labels", "regression"]
    outputs: int  # columns of the logits
    score: ScoreFn = log_odds
    target: Target = "label"

    def read(self, targets: Any) -> Tensor:
        """Check targets and bring them into the one form used from here on.

        They become long ``(B,)`` for ``classes`` and ``binary``, long ``(B, C)`` of 0 and 1 for ``labels``, floating
        ``(B,)`` or ``(B, C)`` for ``regression``. What was read once may be read again.
        """
        if self.kind == "regression":
            return _read_numbers(targets, self.outputs)
        if self.kind == "labels":
            return _read_labels(targets, self.outputs)
        if isinstance(targets, Tensor) and targets.ndim == 2 and targets.shape[1] == self.outputs > 1:
            return _read_one_hot(targets)
        return check_targets(targets, self.outputs)

    def pick(self, targets: Tensor, logits: Tensor, keys: Tensor) -> Tensor:
        """Choose what is followed of each sample, ``(B,)``; the logits count only for ``target="predicted"``.

        Of several labels that apply, the one is drawn by the sample's key (see `content_keys`); where none applies, any
        of them.
        """
        device = logits.device
        targets, keys = targets.to(device), keys.to(device)
        if self.kind == "regression":
            return targets if targets.ndim == 1 else targets[:, self._column]
        if self.kind == "labels":
            return self._pick_label(targets, logits, keys)
        if self.target == "predicted":
            return logits.argmax(-1) if self.kind == "classes" else (logits[:, 0] > 0).long()
        return targets if self.target == "label" else torch.full_like(targets, int(self.target))

    def follow(self, logits: Tensor, picked: Tensor) -> Tensor:
        """Score ``(B,)`` what was picked."""
        if self.kind == "labels":  # two numbers in one: the label, and whether it applies
            return self.score(logits.gather(1, (picked // 2).unsqueeze(1)), picked % 2)
        if self.kind == "regression":
            return self.score(logits[:, self._column : self._column + 1], picked)
        return self.score(logits, picked)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss ``(B,)`` of every sample: cross-entropy in nats (mean over labels), or squared error of a regression."""
        targets = targets.to(logits.device)
        if self.kind == "labels":
            return F.softplus(logits * (1 - 2 * targets)).mean(1)
        if self.kind == "regression":
            wanted = targets.unsqueeze(1) if targets.ndim == 1 else targets
            own = logits[:, self._column : self._column + 1] if wanted.shape[1] == 1 else logits
            return (own - wanted).square().mean(1)
        return classification_loss(logits, targets)

    def predict(self, logits: Tensor, picked: Tensor) -> Tensor:
        """Say what the model itself answers where `pick` chose, floating ``(B,)``: a class, 0 or 1, or a number."""
        if self.kind == "classes":
            return logits.argmax(-1).to(logits.dtype)
        if self.kind == "labels":
            return (logits.gather(1, (picked // 2).unsqueeze(1))[:, 0] > 0).to(logits.dtype)
        return logits[:, self._column] if self.kind == "regression" else (logits[:, 0] > 0).to(logits.dtype)

    def truth(self, targets: Tensor, picked: Tensor) -> Tensor:
        """Say what the data answer there, ``(B,)``: what `predict` should have said."""
        targets = targets.to(picked.device)
        if self.kind == "labels":
            return targets.gather(1, (picked // 2).unsqueeze(1))[:, 0]
        return targets[:, self._column] if targets.ndim > 1 else targets

    def followed(self, picked: Tensor) -> Tensor:
        """Say whose score is followed, ``(B,)``: the index of a class, a label, or an output of a regression."""
        if self.kind == "regression":
            return torch.full_like(picked, self._column)
        return picked // 2 if self.kind == "labels" else picked

    def describe(self) -> str:
        """Say in a few words what is followed."""
        score = getattr(self.score, "__name__", "score")
        whose = {"label": "the label", "predicted": "the predicted class"}.get(str(self.target), f"{self.target}")
        if self.kind == "regression":
            return f"{score} of a regression" if self.outputs == 1 else f"{score} {self._column} of {self.outputs}"
        if self.kind == "labels":
            whose = "one label that applies" if self.target == "label" else whose
            return f"{score} of {whose}, of {self.outputs} labels (multi-label)"
        return f"{score} of {whose}, of {max(self.outputs, 2)} classes"

    @property
    def _column(self) -> int:
        return self.target if isinstance(self.target, int) else 0

    def _pick_label(self, targets: Tensor, logits: Tensor, keys: Tensor) -> Tensor:
        if self.target == "predicted":
            label = logits.argmax(-1)
            return 2 * label + (logits.gather(1, label.unsqueeze(1))[:, 0] > 0)
        if self.target == "label":
            candidates = torch.where(targets.any(1, keepdim=True), targets, 1)
            rank = keys.remainder(candidates.sum(1))
            label = (candidates.cumsum(1) <= rank.unsqueeze(1)).sum(1)
        else:
            label = torch.full_like(keys, int(self.target))
        return 2 * label + targets.gather(1, label.unsqueeze(1))[:, 0]


def find_task(logits: Tensor, targets: Any, score: str | ScoreFn = "log_odds", target: Target = "label") -> Task:
    """Find out what kind of task a model has, from some of its logits and the targets of a whole batch.

    A `BatchError` says that the targets fit no kind of task, an `ArgumentError` that ``target`` does not fit it.
    """
    outputs, function = logits.shape[1], resolve_score(score)
    kind: Literal["classes", "binary", "labels", "regression"]
    if function is output or _are_numbers(targets, outputs):
        kind, function = "regression", _score_of_numbers(function)
    elif _are_labels(targets, outputs):
        kind = "labels"
    else:
        kind = "binary" if outputs == 1 else "classes"
    task = Task(kind, outputs, function, target)
    _check_target(task)
    task.read(targets)
    return task


def check_target_option(target: object) -> None:
    """Raise an `ArgumentError` unless ``target`` is one of the words or an index."""
    if not is_whole(target, 0) and not (isinstance(target, str) and target in ("label", "predicted")):
        raise bad_argument("target", '"label", "predicted" or the index of a class', target)


def _check_target(task: Task) -> None:
    regression, index = task.kind == "regression", isinstance(task.target, int)
    if regression and task.target == "predicted":
        raise bad_argument("target", '"label" where the task is a regression', "predicted")
    top = max(task.outputs, 1 if regression else 2) - 1
    if (isinstance(task.target, int) and task.target > top) or (regression and task.outputs > 1 and not index):
        raise bad_argument("target", f"an index from 0 to {top}: the model has {task.outputs} output(s)", task.target)


def _are_numbers(targets: Any, outputs: int) -> bool:
    """Whether the targets of a single output are no classes: fractions, or whole floats other than 0, 1 (and -1)."""
    if not isinstance(targets, Tensor) or not targets.is_floating_point() or outputs != 1:
        return False
    flat = targets.flatten()
    return not bool(((flat == 0) | (flat.abs() == 1)).all())


def _are_labels(targets: Any, outputs: int) -> bool:
    """Whether the targets are rows of 0 and 1 in which not exactly one applies."""
    if not isinstance(targets, Tensor) or outputs == 1 or targets.shape[1:] != (outputs,):
        return False
    return _zeros_and_ones(targets) and not bool((targets.sum(1) == 1).all())


def _score_of_numbers(function: ScoreFn) -> ScoreFn:
    if function is probability:
        raise bad_argument("score", '"output" or a callable, for the targets are numbers to predict', "probability")
    return output if function in (log_odds, logit) else function


def _zeros_and_ones(targets: Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


def _read_labels(targets: Any, outputs: int) -> Tensor:
    if not isinstance(targets, Tensor) or targets.ndim != 2 or targets.shape[1] != outputs:
        got = f"shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise BatchError(f"Expected multi-label targets of shape (B, {outputs}), as in the first batch, but got {got}.")
    if not _zeros_and_ones(targets):
        raise BatchError(
            "Expected multi-label targets to be 0 or 1, but got other values (soft labels). "
            "Give `target_fn=batch -> targets` of 0 and 1, for example by rounding."
        )
    return targets.long()


def _read_one_hot(targets: Tensor) -> Tensor:
    if not _zeros_and_ones(targets) or not bool((targets.sum(1) == 1).all()):
        raise BatchError(
            f"Expected one class per sample, but got targets of shape {tuple(targets.shape)} that are not one-hot. "
            "Soft labels (mixup, distillation): give `target_fn=batch -> class indices`, for example by argmax(-1). "
            'Several numbers to predict: use `score="output"` and `target=` the index of one.'
        )
    return targets.long().argmax(1)


def _read_numbers(targets: Any, outputs: int) -> Tensor:
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
