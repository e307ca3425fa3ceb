"""The games that are played: watched samples, each with its own players, and what the first batch showed of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import BatchError, ModelCallError, ModelOutputError
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.samples import Samples, crop, draw_players, grow
from lightning_interactions.measure.values import score_rows
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.call import Call
from lightning_interactions.model.hooks import has_foreign_hooks
from lightning_interactions.model.keep import Kept
from lightning_interactions.model.lockstep import Lockstep
from lightning_interactions.model.model import Model, find_model
from lightning_interactions.model.packing import Field
from lightning_interactions.model.positions import Look, Positions, find_positions, loss_of, may_be_labels
from lightning_interactions.model.quiet import same_random_numbers
from lightning_interactions.model.score import ScoreFn, logits_leaf, output, read_logits, read_whole, resolve_score
from lightning_interactions.model.shards import dtype_inside
from lightning_interactions.model.task import Target, Task, find_task
from lightning_interactions.model.tree import Path
from lightning_interactions.model.whole import whole_answer, with_whole_targets
from lightning_interactions.players import (
    Players,
    names_of,
    of_layer,
    picture_of,
    player_counts,
    suited_players,
    two_rows,
)
from lightning_interactions.players.picture import Picture

SAME = 0.03
"""Two answers are the same if they differ by less than this fraction of the largest: half precision has two digits."""

ANSWERS = "the model answers"
"""So begins what is told of a model whose answers are not to be relied on."""


@dataclass
class Game:
    """The watched samples of one split, with their fitted players."""

    samples: Samples
    players: Players
    labels: Tensor  # long (B, ...): the players of every sample
    num_players: int  # of the richest sample: the size of all tables

    @classmethod
    def draw(
        cls, model: Model, samples: Samples, players: Players, num_players: int, chunk_size: int | None = None
    ) -> Game:
        """Fit players on the samples, or on the inner layer's output for them, and draw them; inside `Model.quiet`."""
        masked = _masked(model, samples, chunk_size)
        players.fit(_spread(masked))
        labels, size = draw_players(players, masked, num_players)
        return cls(samples, players, labels, size)

    def refit(self, model: Model, chunk_size: int | None = None) -> None:
        """Fit the players on a layer's present output: a mean baseline moves with the weights."""
        if model.cut is not None:
            self.players.fit(_spread(_masked(model, self.samples, chunk_size)))

    @property
    def player_counts(self) -> Tensor:
        """Long ``(B,)``: how many players each sample has; where it has fewer than ``n``, the others do nothing."""
        return player_counts(self.labels)

    def sample(self, index: int) -> tuple[Tensor, Tensor]:
        """One sample and its players, without what was padded."""
        inputs, labels, sizes = self.samples.inputs[[index]], self.labels[[index]], self.samples.sizes
        if sizes is not None:
            shape = sizes[index].tolist()
            inputs, labels = crop(inputs, shape), crop(labels, shape)
        return inputs[0], labels[0]


class Games(dict[str, Game]):
    """The games of all splits, and how their samples look."""

    def __init__(self) -> None:
        super().__init__()
        self._pictures: dict[tuple[str, bool], list[Picture]] = {}
        self._device = torch.device("cpu")

    def deal(
        self, rules: Rules, watched: Mapping[str, Samples], num_players: int, chunk_size: int | None = None
    ) -> list[str]:
        """Draw players for samples that are seen for the first time; return the splits that have new games.

        Only what is learned from a layer's output has to be learned again each time.
        """
        fresh, self._device = [], rules.model.device
        with rules.model.quiet():
            for split, samples in watched.items():
                game = self.get(split)
                if game is None or game.samples is not samples:
                    self[split] = Game.draw(rules.model, samples, copy.deepcopy(rules.players), num_players, chunk_size)
                    for shown in (True, False):
                        self._pictures.pop((split, shown), None)
                    fresh.append(split)
                else:
                    game.refit(rules.model, chunk_size)
        return fresh

    def picture(self, split: str, index: int, *, shown: bool) -> Picture | None:
        """How a watched sample looks; what it contains only if that may be ``shown``. ``None`` without its game."""
        game = self.get(split)
        if game is None:
            return None
        key = split, shown
        if key not in self._pictures:
            with same_random_numbers(self._device):  # a user's own kind, or tokenizer, may draw some
                self._pictures[key] = [_look(game, i, shown=shown) for i in range(len(game.samples))]
        return self._pictures[key][index]


def _look(game: Game, index: int, *, shown: bool) -> Picture:
    sample, labels = game.sample(index)
    return picture_of(game.players, sample, labels) if shown else Picture(names_of(game.players, labels))


def _masked(model: Model, samples: Samples, chunk_size: int | None) -> Samples:
    """The samples with that in the place of their inputs which is masked."""
    if model.cut is None:
        return samples
    inputs, *carried = model.place(samples.inputs, *samples.carried)
    return replace(samples, inputs=model.features(inputs, chunk_size, carried).cpu())


def _spread(samples: Samples) -> Tensor:
    """Inputs to learn from; of smaller ones what is padding is not a number, which a mean leaves out."""
    if samples.sizes is None or not samples.inputs.is_floating_point():
        return samples.inputs
    spread = samples.inputs.clone()
    for rows, some in samples.of_one_shape():
        spread[rows] = grow(some.inputs, samples.inputs.shape[1:], float("nan"))
    return spread


@dataclass(frozen=True)
class Rules:
    """What a batch showed: whom to ask, what, and who plays."""

    model: Model
    task: Task
    players: Players  # the kind in use, not fitted
    fields: tuple[Field, ...]  # the names of the inputs, where they have some
    masked: str  # in words: what is masked, and its shape
    notes: tuple[str, ...] = ()  # what is to be told: sentences without a full stop

    def describe(self) -> str:
        """Say what was chosen, in one sentence without a full stop."""
        return f"players are {self.players.describe()} of {self.masked}; their game is the {self.task.describe()}"

    def along(self, batch: Batch) -> Batch:
        """Prepare a batch that was read like the first one: what are no targets of one number each goes along."""
        if self.model.positions is not None:
            return self.model.positions.along(batch)
        return batch if self.model.whole is None else with_whole_targets(batch, self.model.whole)

    @property
    def doubtful(self) -> bool:
        """Whether it was told that the model answers at random, or otherwise than in the step."""
        return any(note.startswith(ANSWERS) for note in self.notes)

    @property
    def kind(self) -> str:
        """Say in few words what every rank should have found."""
        return f"{type(self.players).__name__} and {self.task.outputs} outputs"


def covers(samples: Samples | None, task: Task, wanted: int) -> bool:
    """Whether samples will do: as many as are wanted, and of all classes, or of as many as there can be among them."""
    if samples is None or len(samples) < wanted:
        return False
    classes = task.classes_of(samples.targets)
    return classes is None or len(set(classes.tolist())) >= min(max(task.outputs, 2), wanted)


def find_rules(
    module: nn.Module,
    batch: Batch,
    *,
    call: Call | None = None,
    players: Players | str = "auto",
    num_players: int = 10,
    layer: str | None = None,
    score: str | ScoreFn = "log_odds",
    target: Target = "label",
    forward_fn: Callable[[Any, Any], Any] | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    tokenizer: Any = None,
    precision: Any = None,
    fallback: Any = None,
    seed: int = 0,
    start: Kept | None = None,
    lockstep: Lockstep | None = None,
) -> Rules:
    """Try everything that depends on data on two samples of a batch, while an error still costs nobody a run.

    Args:
        module: The model.
        batch: A batch on its device, with the outputs the model was seen to give for it, if it was seen.
        call: How the model was seen to be called.
        players: Who plays, and the other options of `TwoPhaseMonitor` of these names.
        num_players: How many.
        layer: Where the model is masked.
        score: What is followed.
        target: Whose score.
        forward_fn: How the model is called.
        loss_fn: The loss.
        tokenizer: The tokenizer of a text model.
        precision: As for `Model`.
        fallback: A precision to fall back to where the model cannot compute in full float32.
        seed: Seed of the players' draw.
        start: The state of the model from which it is asked, that before the user's step.
        lockstep: How it is asked where it is split over ranks.
    """
    with _naming_others(batch):
        chosen = suited_players(players, batch, module, tokenizer) if layer is None else None
        rows = two_rows(batch, chosen)
        few = batch.rows(rows)
        if chosen is not None:  # before the model, which would say less clearly what is wrong with its inputs
            _try_players(chosen, few, num_players, seed)
    whole = whole_answer(batch)
    asked = {"call": call, "forward_fn": forward_fn, "start": start, "lockstep": lockstep}
    dense = None
    if whole is None and resolve_score(score) is not output and may_be_labels(batch.targets):
        dense = _find_positions(module, batch, few, precision, fallback, **asked)
    if dense is not None:
        dense = replace(dense, score=resolve_score(score), loss_fn=loss_fn)
        batch = dense.along(batch)
        few = batch.rows(rows)
    leaf = batch.leaf if dense is None and whole is None else None
    if leaf is None and batch.seen is not None and whole is None:
        leaf = logits_leaf(batch.seen, batch.targets, batch.judged)
    how = {**asked, "layer": layer, "leaf": leaf, "whole": whole, "dense": dense}
    model, notes = _ask_somehow(module, few, batch, precision, fallback, **how)
    seen = _seen_outputs(batch, whole, leaf)
    model, outputs, doubts = _as_the_step(model, few, None if seen is None else seen[rows])
    notes += doubts
    with model.quiet():
        masked = replace(few, inputs=model.features(few.inputs, None, few.carried))
    if layer is not None:
        masked = replace(masked, fields=())
    if whole is not None:
        batch, few = with_whole_targets(batch, whole), with_whole_targets(few, whole)
    known = outputs if seen is None or whole is not None else seen
    task = find_task(known, batch.targets, score, target, whole=whole is not None, loss_fn=loss_fn, positions=dense)
    picked = task.pick(task.read(few.targets), outputs, torch.arange(len(outputs)))
    score_rows(outputs, picked, 1, task.follow)
    if chosen is None:
        with of_layer(layer, masked.inputs):
            chosen = suited_players(players, masked, module)
            _try_players(chosen, masked, num_players, seed)
    return Rules(model, task, chosen, batch.fields, _in_words(masked, batch, layer), tuple(notes))


def _in_words(masked: Batch, batch: Batch, layer: str | None) -> str:
    """Say what is masked, and its shape."""
    shape = masked.inputs.shape[1 + (len(masked.fields) > 1 and masked.table is None) :]
    what, others = (f"the output of layer {layer!r}", "") if layer else (batch.describe(), _others(batch))
    return f"{what} of shape (B, {', '.join(map(str, shape))}){others}"


def _find_positions(
    module: nn.Module, batch: Batch, few: Batch, precision: Any, fallback: Any, **how: Any
) -> Positions | None:
    """Find scores of every position in what the model was seen to return, or returns for a few samples."""
    seen, told = batch.seen, loss_of(batch.seen)
    if seen is None:
        look, nothing = Look(), (torch.zeros(len(x.inputs), device=x.inputs.device) for x in (few, batch))
        some, every = (replace(x, carried=(*x.carried, y)) for x, y in zip((few, batch), nothing, strict=True))
        _ask_somehow(module, some, every, precision, fallback, **how, dense=look)
        seen = look.output
    ids = batch.inputs[:, 0] if len(batch.fields) > 1 and batch.inputs.ndim == 3 else batch.inputs
    return find_positions(seen, batch.targets, None if ids.is_floating_point() else ids, told, batch.leaf)


@contextmanager
def _naming_others(batch: Batch) -> Iterator[None]:
    """Say in an error about what is masked what else could be."""
    try:
        yield
    except BatchError as error:
        others = " or ".join(f"`input={name!r}`" for name in _alike_in_form(batch) if "mask" not in name)
        if not others:
            raise
        raise BatchError(f"{error} To mask another tensor that the model is given: {others}.") from error


def _others(batch: Batch) -> str:
    """Name the tensors that could have been masked as well."""
    names = _alike_in_form(batch)
    return f" (not {', '.join(names)}: see `input=`)" if names else ""


def _alike_in_form(batch: Batch) -> list[str]:
    named = zip(batch.names, batch.carried, strict=False)
    return [name for name, x in named if name and x.ndim >= 2 and x.shape[1:].numel() > 1]


def _seen_outputs(batch: Batch, whole: torch.Size | None, leaf: Path | None) -> Tensor | None:
    """What the model was seen to answer for the whole batch, as `Model` gives it; ``None`` if that cannot be told."""
    if batch.seen is None:
        return None
    if whole is not None:
        return read_whole(batch.seen, whole)
    try:
        return read_logits(batch.seen, len(batch.inputs), leaf)
    except ModelOutputError:
        return None


def _ask_somehow(
    module: nn.Module, few: Batch, batch: Batch, precision: Any, fallback: Any, **how: Any
) -> tuple[Model, list[str]]:
    """Ask in full float32 or else in the Trainer's precision, a few samples or else as many as the user's own step.

    The user's forward hooks are left out, unless it does not work without them.
    """
    first: Exception | None = None
    hooks = (False, True) if has_foreign_hooks(module) else (False,)
    precisions = (precision,) if fallback is None else (precision, fallback)
    sizes = (few, batch) if len(batch.inputs) > 2 else (few,)
    for own, some, hooked in itertools.product(precisions, sizes, hooks):
        try:
            rows = len(batch.inputs) if some is batch else None
            model = find_model(module, some, precision=own, hooks=hooked, rows=rows, **how)
        except (ModelCallError, BatchError, ModelOutputError) as error:
            first = first or error
            continue
        if model.builds_hooks:  # in its first pass: those that are there later are its own, and it needs them
            model = replace(model, hooks=True)
        notes = []
        inside = dtype_inside(module)
        if own is not precision:
            notes.append(
                "the model cannot be asked in float32, so it is in the Trainer's precision, whose rounding looks like "
                f"high orders ({_short(first)})"
            )
        elif inside is not None and inside.itemsize < 4:
            notes.append(
                f"the model computes in {str(inside).removeprefix('torch.')} by its MixedPrecisionPolicy, whose "
                "rounding looks like high orders"
            )
        return model, notes
    assert first is not None
    raise first


def _as_the_step(model: Model, few: Batch, seen: Tensor | None) -> tuple[Model, Tensor, list[str]]:
    """Ask a few samples; make sure that the answers are those of the step, with the user's forward hooks if need be."""
    with model.quiet():
        outputs = model.logits(few.inputs, None, few.carried)
        again = model.logits(few.inputs, None, few.carried)
    if not _alike(outputs, again):
        differ = float((outputs - again).abs().max())
        return model, outputs, [
            f"{ANSWERS} at random in evaluation mode (dropout that is left on, sampling, noise): two calls with "
            f"the same inputs differ by up to {differ:.2g}, which looks like interactions of high order"
        ]  # fmt: skip
    if seen is None or seen.shape != outputs.shape or _alike(outputs, seen):
        return model, outputs, []
    if not model.hooks and has_foreign_hooks(model.module):
        hooked = replace(model, hooks=True)
        with hooked.quiet():
            others = hooked.logits(few.inputs, None, few.carried)
        if _alike(others, seen):
            return hooked, others, []
    differ = float((outputs - seen).abs().max())
    return model, outputs, [
        f"{ANSWERS} otherwise than in the step, by up to {differ:.2g}: its outputs for a sample may depend on "
        "the other samples of the batch (batch statistics), or on what it was called with before"
    ]  # fmt: skip


def _alike(outputs: Tensor, others: Tensor) -> bool:
    """Whether answers are the same, but for rounding in whatever precision."""
    size = float(others.abs().max())
    return bool(((outputs - others).abs() <= SAME * max(size, 1e-6)).all()) or not bool(others.isfinite().all())


def _short(error: Exception | None) -> str:
    return str(getattr(error, "__cause__", None) or error).strip().splitlines()[0][:160]


def _try_players(players: Players, few: Batch, num_players: int, seed: int) -> None:
    """Fit and draw on a copy of the players: those of the run learn from all its samples."""
    trial, inputs = copy.deepcopy(players), few.inputs.cpu()
    trial.fit(inputs)
    draw_players(trial, Samples(inputs, few.targets.cpu(), content_keys(inputs, seed)), num_players)
