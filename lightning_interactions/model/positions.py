"""Scores of every position, of pixels or tokens, brought to one score of a sample.

A segmentation network returns ``(B, C, H, W)`` for labels ``(B, H, W)``, a language model ``(B, L, V)`` for labels
``(B, L)``. The game of a sample is about all its labels together: the *mean* over its pixels, and the *sum* over its
tokens, of the log-odds of the label (the sum is the log-probability of a text, but for its normalisation). The labels
go along with the inputs, and only three numbers of each sample are kept, however many the model returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_interactions.errors import BatchError
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.score import ScoreFn, log_odds
from lightning_interactions.model.targets import MISSING, zeros_and_ones
from lightning_interactions.model.tree import Path, tensors

VOID = 255
"""A label that stands for a missing one in segmentation, where there are not so many classes."""

OUTPUT_NUMBERS = 2**25
"""The model is asked for so many numbers at a time, 128 MiB in float32: a large vocabulary has many for each text."""

NEAR = 1e-3
"""Losses that differ by less than this fraction are the same."""

LossFn = Callable[[Tensor, Tensor], Tensor]


class Reads(Protocol):
    """What reads the outputs of a model with the labels that go along."""

    @property
    def rows_at_once(self) -> int | None:
        """Rows to ask the model for at a time, where that is limited."""

    def read(self, output: Any, labels: Tensor) -> Tensor:
        """Return a row of numbers for every row of the output."""


class Look:
    """Reads nothing, but keeps what the model returned in ``output``; its answers are zeros."""

    rows_at_once = None

    def __init__(self) -> None:
        self.output: Any = None

    def read(self, output: Any, labels: Tensor) -> Tensor:
        """Keep it; of any form."""
        self.output = output
        return labels.new_zeros((len(labels), 1), dtype=torch.float32)


@dataclass(frozen=True)
class Positions:
    """Where the scores and the labels are, and how they become one score.

    Attributes:
        classes: Scores of a position; 1 where they are single logits.
        last: Whether the classes are the last dimension, not the one after the samples.
        numbers: Of the output for one sample.
        leaf: Where the scores are in what the model returns; ``None`` if that is a tensor.
        ahead: The scores of a position are about the label so many positions later: 1 where a language model gets the
            tokens themselves as labels.
        coarse: Whether scores of fewer pixels are interpolated to those of the labels, as Segformer's and BEiT's own
            losses do.
        total: Whether the score is a sum, not a mean.
        score: Of one position, see `model.score`.
        loss_fn: ``(scores, labels) -> (B,)``, instead of the mean cross-entropy.
    """

    classes: int
    last: bool
    numbers: int
    leaf: Path | None = None
    ahead: int = 0
    coarse: bool = False
    total: bool = False
    score: ScoreFn = log_odds
    loss_fn: LossFn | None = None

    @property
    def rows_at_once(self) -> int:
        """Rows to ask the model for at a time: at least two, as batches of one are mistaken by models that squeeze."""
        return max(OUTPUT_NUMBERS // max(self.numbers, 1), 2)

    def along(self, batch: Batch) -> Batch:
        """Let the labels go along with the inputs; the target of a sample is then how many it has.

        Raises:
            BatchError: If these are no such labels.
        """
        labels = self._checked(batch.targets)
        return replace(
            batch, targets=self._split(None, labels)[1].sum(1), carried=(*batch.carried, labels),
            names=(*batch.names, ""), seen=None if batch.seen is None else self.read(batch.seen, labels),
        )  # fmt: skip

    def read(self, output: Any, labels: Tensor) -> Tensor:
        """Return score, loss (mean cross-entropy) and the share of positions that are right, ``(B, 3)``.

        ``labels`` may have a row for several rows of the output, those of the first sample first.
        """
        found = scores_in(output).get(self.leaf or ())
        if found is None or found.ndim < 3:
            raise BatchError("Expected the model to return scores for every position, as in the first batch.")
        labels = labels.to(found.device).repeat_interleave(len(found) // max(len(labels), 1), 0)
        scores, known, wanted = self._split(found, labels)
        odds = log_odds(scores, wanted)
        each = odds if self.score is log_odds else self.score(scores, wanted)
        right = (scores[:, 0] > 0).long() == wanted if self.classes == 1 else scores.argmax(-1) == wanted
        count = known.sum(1)
        score, loss, share = (_summed(x, known) for x in (each, F.softplus(-odds), right.to(odds)))
        if self.loss_fn is not None:
            loss = self.loss_fn(found, labels).to(loss) * count
        weight = torch.where(count > 0, 1.0, torch.nan) if self.total else 1 / count
        return torch.stack([score * weight.to(score), loss / count, share / count], 1)

    def gives(self, loss: float, output: Any, labels: Tensor) -> bool:
        """Whether the mean loss over all positions of an output is this one."""
        each = self.read(output, labels)[:, 1]
        count = self._split(None, labels)[1].sum(1).to(each)
        mean = float((each * count).nansum() / count.sum())
        return abs(mean - loss) <= NEAR * max(abs(loss), NEAR)

    def _split(self, found: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the positions that count ``(N, C)``, which these are ``(B, P)``, and their labels ``(N,)``."""
        length = labels[:1].numel() - self.ahead
        own = labels.flatten(1)[:, self.ahead :]
        if found is not None:
            table = self._table(found, labels.shape)
            length = min(length, table.shape[1])
            table = table[:, :length]
        own = own[:, :length]
        known = own.isfinite() if own.is_floating_point() else self._known(own)
        scores = own.new_empty((0, 1)) if found is None else _exact(table[known])
        return scores, known, own[known].long()

    def _table(self, found: Tensor, places: torch.Size) -> Tensor:
        """Scores ``(B, P, C)``."""
        if self.coarse:
            found = F.interpolate(found, size=places[-2:], mode="bilinear", align_corners=False)
        if self.classes == 1:
            return found.flatten(1).unsqueeze(-1)
        return (found if self.last else found.movedim(1, -1)).flatten(1, -2)

    def _known(self, labels: Tensor) -> Tensor:
        return (labels >= 0) & (labels < max(self.classes, 2))

    def _checked(self, labels: Tensor) -> Tensor:
        """Check that whole numbers are classes, or stand for missing labels."""
        if labels.is_floating_point():
            return labels
        odd = labels[~self._known(labels) & (labels != MISSING) & (labels != VOID)]
        if not len(odd):
            return labels
        raise BatchError(
            f"Expected labels of every position from 0 to {max(self.classes, 2) - 1}, for the model returns "
            f"{self.classes} score(s) for each, or {MISSING} or {VOID} where one is missing, but got values from "
            f"{int(odd.min())} to {int(odd.max())}. Give `target_fn=batch -> labels`."
        )

    def describe(self, name: str) -> str:
        """Say in a few words what is followed; ``name`` is that of the score."""
        what = "sum" if self.total else "mean"
        ahead = ", each of the next position" if self.ahead else ""
        return f"{what} of {name} over the labels of all positions{ahead}, of {max(self.classes, 2)} classes"


def loss_of(output: Any) -> float | None:
    """Return the single number among what a model returned: its loss; ``None`` if there is none, or more."""
    single = [x for x in tensors(output).values() if x.is_floating_point() and x.numel() == 1 and not x.ndim]
    return float(single[0]) if len(single) == 1 else None


def may_be_labels(targets: Any) -> bool:
    """Whether targets can be labels of several positions: whole numbers, or nothing but 0 and 1."""
    if not isinstance(targets, Tensor) or targets.ndim < 2 or targets.shape[1:].numel() < 2 or targets.is_complex():
        return False
    return not targets.is_floating_point() or zeros_and_ones(targets[targets.isfinite()])


def find_positions(
    output: Any, targets: Any, ids: Tensor | None = None, told: float | None = None, leaf: Path | None = None
) -> Positions | None:
    """Find scores of every position in what a model returned, to which the targets fit; ``None`` if there are none.

    Args:
        output: What the model returned for some samples.
        targets: Of many samples: whole numbers, or 0 and 1 where there is a single score for each position.
        ids: The tokens ``(B, L)`` the model was given, if these are tokens. Where the labels are these tokens, the
            scores of a position are about the next one; where they are the tokens moved by one, or others, they are
            about the label at the same place.
        told: The loss the model itself returned for ``output``, where that is of the same samples as the targets:
            whichever of the two gives this loss is right.
        leaf: Where the scores are, where that is known.

    Example:
        >>> find_positions(torch.zeros(2, 5, 8, 8), torch.zeros(2, 8, 8).long()).classes
        5
        >>> ids = torch.tensor([[3, 1, 4, 1]])
        >>> [find_positions(torch.zeros(1, 4, 9), labels, ids).ahead for labels in (ids, torch.tensor([[1, 4, 1, 5]]))]
        [1, 0]
    """
    if not may_be_labels(targets):
        return None
    fitting = [
        (replace(found, leaf=path or None), scores)
        for path, scores in _candidates(output)
        if (leaf is None or path == leaf) and (found := _fitting(scores, targets)) is not None
    ]
    if not fitting:
        return None
    found, scores = min(fitting, key=lambda pair: pair[0].coarse)  # coarse ones may be beside those that are meant
    pixels = targets[:1].numel() * found.classes if found.coarse else scores[:1].numel()
    found = replace(found, numbers=pixels)
    return _placed(found, output, targets, ids, told) if found.last else found


def is_dense(scores: Tensor) -> bool:
    """Whether a tensor has scores of several positions of each sample."""
    return scores.is_floating_point() and scores.ndim > 2 and scores.shape[2:].numel() > 1


def scores_in(output: Any) -> dict[Path, Tensor]:
    """The tensors in what a model returned, also where it is an object that only has ``logits``."""
    named = getattr(output, "logits", None)
    found = tensors(output)
    return found if not isinstance(named, Tensor) or ("logits",) in found else {("logits",): named, **found}


def _candidates(output: Any) -> list[tuple[Path, Tensor]]:
    """Tensors that can be scores of positions; what is called logits first."""
    found = [(path, x) for path, x in scores_in(output).items() if is_dense(x)]
    return sorted(found, key=lambda pair: pair[0][-1:] != ("logits",))


def _fitting(scores: Tensor, targets: Tensor) -> Positions | None:
    """How scores fit the targets, by their shapes."""
    own, places = scores.shape[1:], targets.shape[1:]
    known = targets[targets.isfinite()] if targets.is_floating_point() else targets[targets != MISSING]
    single = own == places or (own[0] == 1 and own[1:] == places) or (own[-1] == 1 and own[:-1] == places)
    if single and zeros_and_ones(known[known != VOID]):
        return Positions(1, last=False, numbers=0)
    if targets.is_floating_point() or own == places:
        return None
    places = places[1:] if places[0] == 1 and len(places) == len(own) else places
    if len(own) == 2 and (own[0] == places[0] or (own[0] + 1 == places[0] != own[1])):
        return Positions(own[1], last=True, numbers=0, total=True)
    if own[1:] == places:
        return Positions(own[0], last=False, numbers=0)
    if own[:-1] == places:
        return Positions(own[-1], last=True, numbers=0)
    return Positions(own[0], last=False, numbers=0, coarse=True) if _are_coarse(own[1:], places) else None


def _are_coarse(pixels: torch.Size, places: torch.Size) -> bool:
    """Whether an image has fewer pixels than another, by one whole number along both sides."""
    if len(pixels) != 2 or len(places) != 2:
        return False
    (height, rest), (width, other) = (divmod(b, a) for a, b in zip(pixels, places, strict=True))
    return height == width > 1 and not (rest or other)


def _placed(found: Positions, output: Any, targets: Tensor, ids: Tensor | None, told: float | None) -> Positions | None:
    """Find out whether the scores of a position are about its own label, or about the next one."""
    scores = scores_in(output)[found.leaf or ()]
    extra = targets.shape[1:].numel() - scores.shape[1:-1].numel()
    own = targets.flatten(1).to(ids.device) if ids is not None else targets
    same = ids is not None and ids.ndim == 2 and 0 <= own.shape[1] - ids.shape[1] <= 1 and _are(own, ids)
    if extra:
        return replace(found, ahead=1) if same else None
    options = [replace(found, ahead=int(same)), replace(found, ahead=int(not same))]
    if told is None or ids is None or len(scores) != len(targets):
        return options[0]
    return next((one for one in options if one.gives(told, output, targets)), options[0])


def _are(labels: Tensor, ids: Tensor) -> bool:
    """Whether labels, where they are known, are the ids at the same places."""
    labels = labels[:, : ids.shape[1]]
    return bool(((labels == ids) | (labels == MISSING)).all()) and bool((labels != MISSING).any())


def _exact(scores: Tensor) -> Tensor:
    return scores.float() if scores.device.type == "mps" else scores.double()


def _summed(each: Tensor, known: Tensor) -> Tensor:
    """Add up ``(N,)`` by sample, without sums by index, which vary on a GPU."""
    table = each.new_zeros(known.shape)
    table[known] = each
    return table.sum(1)
