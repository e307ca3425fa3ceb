"""Is the game the user's? What kind of task it is, decided on many samples, and whether the loss is the logged one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_interactions.errors import BatchError
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.samples import Samples
from lightning_interactions.measure.values import outputs_of
from lightning_interactions.measure.watchlist import LOSS_SAMPLES
from lightning_interactions.model.model import Model
from lightning_interactions.model.score import ScoreFn, log_odds, output
from lightning_interactions.model.targets import are_soft
from lightning_interactions.model.task import Target, Task, find_task

MANY = 32
"""Of so many samples some should be of the upper half of all classes."""

MANY_OUTPUTS = 16
"""Fewer outputs are no embeddings."""

ERRORS = 4.0
"""A loss on some of the samples is the logged one, on all of them, if it is within so many standard errors of it."""

SLACK = 0.01
"""Or within this fraction: averages over uneven batches are not quite those over samples."""

ROUNDING = 1e-4
"""Losses that differ by less than this fraction are the same."""

_OF_INDICES = nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss
"""Losses whose targets may be class indices; those of all others are numbers."""

LossFn = Callable[[Tensor, Tensor], Tensor]


def settle_tasks(
    model: Model,
    watched: Mapping[str, Samples],
    losses: Mapping[str, Samples],
    *,
    score: str | ScoreFn,
    target: Target,
    loss_fn: LossFn | None = None,
    chunk_size: int | None = None,
) -> tuple[dict[str, Task], str | None, list[str]]:
    """Decide, on all samples that were chosen, what is asked of the model; the first batch may mislead.

    The first of the ``watched`` splits decides on the kind. Returned is the task of every split, and why the training
    loss cannot be had if its targets are of another kind, and what is to be told: sentences without a full stop.
    """
    first = next(iter(watched))
    with model.quiet():
        outputs = outputs_of(model, watched[first], chunk_size)
    every = [some[first].targets for some in (watched, losses) if first in some]
    task = find_task(
        outputs, torch.cat(every), score, target,
        whole=model.whole is not None, loss_fn=loss_fn, positions=model.positions,
    )  # fmt: skip
    tasks, problem = {first: task}, None
    notes = _doubts(task, torch.cat(every))
    for split in [split for split in {**watched, **losses} if split != first]:
        targets = [some[split].targets for some in (watched, losses) if split in some]
        own = replace(task, soft=are_soft(targets[-1], task.outputs)) if task.kind in ("classes", "binary") else task
        try:
            for some in targets:
                own.read(some)
        except BatchError as error:
            problem = f"the {split} loss is missing: {error}"
        else:
            tasks[split] = own
    return tasks, problem, notes


def _doubts(task: Task, targets: Tensor) -> list[str]:
    """Say that outputs do not look like scores of classes."""
    if task.kind != "classes" or task.soft or task.outputs < MANY_OUTPUTS or len(targets) < MANY:
        return []
    top = int(task.read(targets).max()) + 1
    if 2 * top > task.outputs:
        return []
    return [
        f"the model returns {task.outputs} numbers, but the targets of {len(targets)} samples name only {top} of them: "
        "if these are embeddings, the game is not what it seems; give `forward_fn=(module, inputs) -> logits`"
    ]


@dataclass(frozen=True)
class Verdict:
    """Whether the loss is the user's."""

    key: str | None  # the logged loss it was compared with
    near: bool
    task: Task  # with the form of the loss that is near
    ours: float
    logged: float

    @property
    def distance(self) -> float:
        """How far they are from each other, but for rounding."""
        size = max(abs(self.ours), abs(self.logged))
        return max(abs(self.ours - self.logged), ROUNDING * size)

    @property
    def text(self) -> str:
        """Say it in one sentence without a full stop."""
        return (
            f"its validation loss ({self.ours:.4g}) is not the logged {self.key!r} ({self.logged:.4g}), which is "
            "judged instead; usual reasons: outputs that are probabilities or embeddings, other heads, label "
            "smoothing, class weights, a normalisation in the step, other samples. `loss_fn=(output, target) -> (B,)` "
            "makes it yours"
        )


def compare_losses(
    model: Model,
    task: Task,
    samples: Samples,
    logged: Mapping[str, float],
    ranks: Ranks,
    chunk_size: int | None = None,
    *,
    keep: bool = False,
) -> Verdict | None:
    """Compare the loss on samples with what was logged in the same validation; ``None`` if nothing was.

    Tried are the usual loss of the task, those of other readings of its outputs and targets, and the losses the model
    has as modules; as means, and as sums over outputs. Where all samples are in the loss, the nearest of them is taken:
    on a few that scatter, several are near enough. With ``keep`` the present form stays for as long as it is near.
    """
    if not logged or not len(samples):
        return None
    with ranks.together(), model.quiet():
        outputs = outputs_of(model, samples, chunk_size)
    # Where all samples are in the loss, only the averages over batches may differ.
    errors = ERRORS if len(samples) >= LOSS_SAMPLES else 1.0
    targets = samples.targets.to(outputs.device)
    counts = task.weights(samples.targets) * (1 if samples.counts is None else samples.counts)
    usual: Verdict | None = None
    near: list[Verdict] = []
    for form in _forms(task, outputs, targets, model.module):
        try:
            each = form.loss(outputs, form.read(targets))
        except Exception:  # a form that does not fit may fail in any manner
            continue
        mean, error = _mean(each, counts.to(each))
        for key, value in logged.items():
            verdict = Verdict(key, _near(mean, error, value, errors), form, mean, value)
            usual = usual or verdict
            near += [verdict] if verdict.near else []
        if keep and near:
            return near[0]
    exact = len(samples) < LOSS_SAMPLES
    return min(near, key=lambda found: found.distance if exact else 0.0, default=usual)


def _near(mean: float, error: float, logged: float, errors: float) -> bool:
    """Whether two means may be of one loss; few samples that scatter widely prove nothing if they differ by half."""
    if not (math.isfinite(mean) and math.isfinite(logged)):
        return False
    differ, size = abs(mean - logged), max(abs(mean), abs(logged))
    return differ <= errors * error + SLACK * size and differ <= size / 2


def _mean(each: Tensor, counts: Tensor) -> tuple[float, float]:
    """Weighted mean, and its standard error."""
    known = each.isfinite()
    each, counts = each[known].double(), counts[known].double()
    if not len(each):
        return math.nan, math.nan
    mean = (each * counts).sum() / counts.sum()
    spread = ((each - mean).square() * counts).sum() / counts.sum()
    return float(mean), float((spread / len(each)).sqrt())


def _forms(task: Task, outputs: Tensor, targets: Tensor, module: nn.Module) -> list[Task]:
    """Forms of the loss, the likeliest first."""
    forms = [task]
    if task.loss_fn is not None or task.kind == "positions":
        return forms
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    if task.kind in ("classes", "binary", "labels") and inside:
        forms.append(replace(task, probabilities=not task.probabilities))
    if task.kind == "labels":
        forms.append(replace(task, scale=float(task.outputs)))
    if task.kind in ("binary", "regression") and task.outputs == 1 and targets.is_floating_point():
        forms += _between(task, targets, inside)
    forms += [replace(task, loss_fn=_as_loss(own, targets), named=type(own).__name__) for own in _criteria(module)]
    if task.kind in ("regression", "reconstruction"):
        forms.append(replace(task, loss_fn=partial(_error, task, F.l1_loss), named="absolute error"))
        forms.append(replace(task, loss_fn=partial(_error, task, F.huber_loss), named="Huber loss"))
        forms += [replace(task, scale=scale) for scale in (0.5, float(task.outputs))]
    return forms


def _between(task: Task, targets: Tensor, inside: bool) -> list[Task]:
    """Other readings of the targets of a single output: as probabilities, as numbers."""
    known = targets[targets.isfinite()]
    if not bool(((known >= 0) & (known <= 1)).all()):
        return []
    soft = replace(task, kind="binary", soft=True, score=log_odds if task.score is output else task.score)
    numbers = replace(task, kind="regression", soft=False, score=output, probabilities=False)
    certain = [replace(soft, probabilities=True)] if inside else []
    return [soft, *certain, numbers]


def _criteria(module: nn.Module) -> list[nn.Module]:
    """The losses a model has as modules, which know of class weights and smoothing."""
    return [m for m in module.modules() if isinstance(m, nn.modules.loss._Loss)]


def _as_loss(criterion: nn.Module, like: Tensor) -> LossFn:
    """Make a loss per sample of a module."""
    own: Any = copy.deepcopy(criterion)
    weight = getattr(own, "weight", None)
    own.reduction = "none"

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = targets if isinstance(own, _OF_INDICES) and not targets.is_floating_point() else targets.to(outputs)
        own_outputs = outputs.squeeze(1) if outputs.shape[1] == 1 and wanted.ndim == 1 else outputs
        each: Tensor = own.to(outputs)(own_outputs, wanted)
        if isinstance(weight, Tensor) and wanted.ndim == 1 and not wanted.is_floating_point():
            # Such a mean is one of weights, too.
            each = each / weight.to(each)[wanted].mean()
        return each.flatten(1).mean(1) if each.ndim > 1 else each

    return loss


def _error(task: Task, form: Callable[..., Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    own, wanted = task.numbers(outputs, targets)
    return form(own, wanted.to(own), reduction="none").mean(1)
