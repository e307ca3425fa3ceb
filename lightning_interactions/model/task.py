"""What the model is asked: which of its outputs is followed, how its score is read, and what its loss is.

Six kinds of tasks are told apart by the model's outputs and the targets of the first samples:

- ``classes``: ``(B, C)`` logits, one class index, one-hot row or row of probabilities (soft labels) per sample;
- ``binary``: one logit per sample, targets 0 and 1, or between them;
- ``labels`` (multi-label): ``(B, C)`` logits, a row of 0 and 1 per sample. The game is played on one label of each
  sample, which is a binary task of its own;
- ``positions``: scores of every pixel or token, and a label for each. Outputs are what `Positions.read` makes of them,
  ``(B, 3)``, and the target of a sample is the number of its labels;
- ``regression``: one output per sample and targets that are no classes, or ``score="output"``. The score is the output;
- ``reconstruction``: an output of the shape of the input. The score is minus the mean squared error.

A target that is missing is ``nan``, or -100 as in torch's losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_interactions.errors import ArgumentError, BatchError, bad_argument, is_whole
from lightning_interactions.model.positions import Positions
from lightning_interactions.model.score import (
    ScoreFn,
    check_targets,
    log_odds,
    logit,
    output,
    probability,
    resolve_score,
)
from lightning_interactions.model.targets import (
    Kind,
    are_labels,
    are_numbers,
    are_probabilities,
    are_soft,
    check_counts,
    known_values,
    read_labels,
    read_numbers,
    read_one_hot,
    read_soft,
    read_whole,
    zeros_and_ones,
)

Target = Literal["label", "predicted"] | int
"""Whose score is followed: that of the sample's label, of the model's present prediction, or of one fixed output."""


@dataclass(frozen=True)
class Task:
    """How targets are read, and outputs turned into scores and losses.

    ``score`` gets ``(B, 1)`` logits and targets 0 or 1 where the kind is ``labels``, and the numbers to predict as
    targets where it is ``regression``.
    """

    kind: Kind
    outputs: int  # columns of the model's outputs
    score: ScoreFn = log_odds
    target: Target = "label"
    soft: bool = False  # whether targets are probabilities of classes or labels
    probabilities: bool = False  # whether the outputs are
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None  # (outputs, targets) -> (B,), instead of the usual one
    named: str = field(default="", compare=False)  # what that is, in words
    scale: float = 1.0  # of the usual loss: half of squared errors, or a sum over outputs
    positions: Positions | None = None  # where scores of every position are read

    def read(self, targets: Any) -> Tensor:
        """Check targets and bring them into the one form used from here on.

        They become long ``(B,)`` for ``classes`` and ``binary`` (floating ``(B, C)`` and ``(B,)`` if they are soft),
        floating ``(B, C)`` from 0 to 1 for ``labels``, with ``nan`` where one is missing, floating ``(B,)`` or
        ``(B, C)`` for ``regression`` and ``reconstruction``, long ``(B,)`` for ``positions``. What was read once may be
        read again.
        """
        if self.kind == "reconstruction":
            return read_whole(targets, self.outputs)
        if self.kind == "regression":
            return read_numbers(targets, self.outputs)
        if self.kind == "positions":
            return check_counts(targets)
        if self.kind == "labels":
            return read_labels(targets, self.outputs, self.soft)
        if self.soft:
            return read_soft(targets, self.outputs)
        if isinstance(targets, Tensor) and targets.ndim == 2 and targets.shape[1] == self.outputs > 1:
            return read_one_hot(targets)
        return check_targets(targets, self.outputs)

    def classes_of(self, targets: Tensor) -> Tensor | None:
        """Return what samples are balanced by, long ``(B,)``; ``None`` where there are no classes."""
        if self.kind not in ("classes", "binary"):
            return None
        try:
            return self._hard(self.read(targets))
        except BatchError:  # said where the targets are used
            return None

    def pick(self, targets: Tensor, outputs: Tensor, keys: Tensor) -> Tensor:
        """Choose what is followed of each sample, ``(B,)``; the outputs count only for ``target="predicted"``.

        Of several labels that apply, the one is drawn by the sample's key (see `content_keys`); where none applies, any
        of them. Of a reconstruction it is the whole sample, ``(B, numbers)``.
        """
        device = outputs.device
        targets, keys = targets.to(device), keys.to(device)
        if self.kind == "reconstruction":
            return targets.to(outputs)
        if self.kind == "positions":
            return torch.zeros_like(targets)
        if self.kind == "regression":
            return targets if targets.ndim == 1 else targets[:, self._column]
        logits = self._logits(outputs)
        if self.kind == "labels":
            return self._pick_label(targets, logits, keys)
        if self.target == "predicted":
            return logits.argmax(-1) if self.kind == "classes" else (logits[:, 0] > 0).long()
        hard = self._hard(targets)
        return hard if self.target == "label" else torch.full_like(hard, int(self.target))

    def follow(self, outputs: Tensor, picked: Tensor) -> Tensor:
        """Score ``(B,)`` what was picked."""
        if self.kind == "reconstruction":
            return -(outputs - picked).square().mean(1)
        if self.kind == "positions":
            return outputs[:, 0]
        logits = self._logits(outputs)
        if self.kind == "labels":  # two numbers in one: the label, and whether it applies
            return self.score(logits.gather(1, (picked // 2).unsqueeze(1)), picked % 2)
        if self.kind == "regression":
            return self.score(logits[:, self._column : self._column + 1], picked)
        return self.score(logits, picked)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss ``(B,)`` of every sample: cross-entropy in nats (mean over labels), or squared error of numbers."""
        targets = targets.to(outputs.device)
        if self.kind == "positions":
            return outputs[:, 1]
        if self.loss_fn is not None:
            return _checked(self.loss_fn(outputs, targets), outputs)
        return self.scale * usual_loss(self, self._logits(outputs), targets)

    def weights(self, targets: Tensor) -> Tensor:
        """How much each loss ``(B,)`` counts in the mean: as much as it has labels, where it is one of positions."""
        return targets if self.kind == "positions" else torch.ones(len(targets), device=targets.device)

    def predict(self, outputs: Tensor, picked: Tensor) -> Tensor:
        """Say what the model itself answers where `pick` chose, floating ``(B,)``: a class, 0 or 1, or a number.

        Of positions it is the share of them where its answer is right.
        """
        if self.kind == "positions":
            return outputs[:, 2]
        if self.kind == "reconstruction":
            return outputs.new_zeros(len(outputs))
        if self.kind == "regression":
            return outputs[:, self._column]
        logits = self._logits(outputs)
        if self.kind == "classes":
            return logits.argmax(-1).to(logits.dtype)
        own = logits.gather(1, (picked // 2).unsqueeze(1)) if self.kind == "labels" else logits
        return (own[:, 0] > 0).to(logits.dtype)

    def truth(self, targets: Tensor, picked: Tensor) -> Tensor:
        """Say what the data answer there, ``(B,)``: what `predict` should have said."""
        targets = targets.to(picked.device)
        if self.kind == "reconstruction":
            return targets.new_zeros(len(targets))
        if self.kind == "positions":
            return torch.ones_like(targets)
        if self.kind == "labels":
            return targets.gather(1, (picked // 2).unsqueeze(1))[:, 0].round()
        if self.kind == "regression":
            return targets[:, self._column] if targets.ndim > 1 else targets
        return self._hard(targets)

    def followed(self, picked: Tensor) -> Tensor:
        """Say whose score is followed, ``(B,)``: the index of a class, a label, or an output of a regression."""
        if self.kind == "reconstruction":
            return picked.new_zeros(len(picked))
        if self.kind == "regression":
            return torch.full_like(picked, self._column)
        return picked // 2 if self.kind == "labels" else picked

    def describe(self) -> str:
        """Say in a few words what is followed."""
        score = getattr(self.score, "__name__", "score")
        whose = {"label": "the label", "predicted": "the predicted class"}.get(str(self.target), f"{self.target}")
        form = " (outputs are probabilities)" if self.probabilities else ""
        if self.positions is not None:
            return self.positions.describe(score)
        if self.kind == "reconstruction":
            return "negative squared error of what the model returns"
        if self.kind == "regression":
            return f"{score} of a regression" if self.outputs == 1 else f"{score} {self._column} of {self.outputs}"
        if self.kind == "labels":
            whose = "one label that applies" if self.target == "label" else whose
            return f"{score} of {whose}, of {self.outputs} labels (multi-label){form}"
        return f"{score} of {whose}, of {max(self.outputs, 2)} classes{form}"

    def numbers(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and what they should be, ``(B, N)`` each; of one target the output that is followed."""
        wanted = targets.unsqueeze(1) if targets.ndim == 1 else targets
        return outputs[:, self._column : self._column + 1] if wanted.shape[1] == 1 else outputs, wanted

    @property
    def _column(self) -> int:
        return self.target if isinstance(self.target, int) else 0

    def _logits(self, outputs: Tensor) -> Tensor:
        if not self.probabilities:
            return outputs
        tiny = torch.finfo(outputs.dtype).tiny
        logs = outputs.clamp(min=tiny).log()
        return logs if self.kind == "classes" else logs - (1 - outputs).clamp(min=tiny).log()

    def _hard(self, targets: Tensor) -> Tensor:
        """Classes ``(B,)``, of soft targets the likeliest."""
        if not targets.is_floating_point():
            return targets
        return targets.argmax(1) if targets.ndim == 2 else (targets > 0.5).long()

    def _pick_label(self, targets: Tensor, logits: Tensor, keys: Tensor) -> Tensor:
        if self.target == "predicted":
            label = logits.argmax(-1)
            return 2 * label + (logits.gather(1, label.unsqueeze(1))[:, 0] > 0)
        applies = (targets > 0.5).long()  # a label that is missing does not
        if self.target == "label":
            known = targets.isfinite().long()
            candidates = torch.where(applies.any(1, keepdim=True), applies, known)
            rank = keys.remainder(candidates.sum(1))
            label = (candidates.cumsum(1) <= rank.unsqueeze(1)).sum(1)
        else:
            label = torch.full_like(keys, int(self.target))
        return 2 * label + applies.gather(1, label.unsqueeze(1))[:, 0]


def usual_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Loss ``(B,)`` of every sample as it is usual for a kind of task; targets are soft or not."""
    if task.kind == "labels":
        known = targets.isfinite()
        each = F.softplus(logits) - torch.where(known, targets, 0) * logits
        return torch.where(known, each, 0).sum(1) / known.sum(1)
    if task.kind in ("regression", "reconstruction"):
        own, wanted = task.numbers(logits, targets)
        return (own - wanted).square().mean(1)
    if not targets.is_floating_point():
        return F.softplus(-log_odds(logits, targets))
    if task.kind == "binary":
        return F.softplus(logits[:, 0]) - targets.to(logits) * logits[:, 0]
    return -(targets.to(logits) * logits.log_softmax(1)).sum(1)


def find_task(
    outputs: Tensor,
    targets: Any,
    score: str | ScoreFn = "log_odds",
    target: Target = "label",
    *,
    whole: bool = False,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    positions: Positions | None = None,
) -> Task:
    """Find out what kind of task a model has, from some of its outputs and the targets of many samples.

    ``whole`` says that the outputs are samples, as of an autoencoder, ``positions`` what they are made of. A
    `BatchError` says that the targets fit no kind of task, an `ArgumentError` that ``target`` does not fit it.
    """
    columns, function = outputs.shape[1], resolve_score(score)
    if whole:
        return Task("reconstruction", columns, output, "label", loss_fn=loss_fn)
    if positions is not None:
        if target != "label":
            raise bad_argument("target", '"label" where the model returns scores of every position', target)
        return Task("positions", columns, function, positions=positions)
    kind: Kind
    soft = are_soft(targets, columns)
    numbers = are_numbers(targets, columns) and not soft
    if numbers and columns > 1 and target == "label" and function is not output:
        raise BatchError(
            f"The model returns {columns} numbers for each sample, and the targets are numbers to predict. Say which "
            f"is followed: `target=0` to `target={columns - 1}`."
        )
    if function is output or numbers:
        kind, function, soft = "regression", _score_of_numbers(function), False
    elif are_labels(targets, columns):
        kind = "labels"
        soft = not zeros_and_ones(known_values(targets))
    else:
        kind = "binary" if columns == 1 else "classes"
    certain = kind != "regression" and are_probabilities(outputs, kind)
    task = Task(kind, columns, function, target, soft, certain, loss_fn)
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


def _score_of_numbers(function: ScoreFn) -> ScoreFn:
    if function is probability:
        raise bad_argument("score", '"output" or a callable, for the targets are numbers to predict', "probability")
    return output if function in (log_odds, logit) else function


def _checked(loss: Any, outputs: Tensor) -> Tensor:
    """Check what a user's ``loss_fn`` returned."""
    if not isinstance(loss, Tensor) or loss.shape != (len(outputs),):
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ArgumentError(
            f"Expected `loss_fn` to return one loss per sample, shape ({len(outputs)},), but got {got}."
        )
    return loss.to(outputs.dtype)
