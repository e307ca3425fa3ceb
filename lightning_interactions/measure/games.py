"""The games that are played: watched samples, each with its own players, and what the first batch showed of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.measure.samples import Samples, content_keys, draw_players
from lightning_interactions.measure.values import score_rows
from lightning_interactions.model.batch import Batch, Field
from lightning_interactions.model.model import Model, find_model
from lightning_interactions.model.score import ScoreFn
from lightning_interactions.model.task import Target, Task, find_task
from lightning_interactions.players import Players, of_layer, player_counts, suited_players, two_samples


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
        masked = samples.inputs
        if model.cut is not None:
            masked = model.features(model.place(samples.inputs), chunk_size).cpu()
        players.fit(masked)
        labels, size = draw_players(players, masked, samples.keys, num_players)
        return cls(samples, players, labels, size)

    def refit(self, model: Model, chunk_size: int | None = None) -> None:
        """Fit the players on a layer's present output: a mean baseline moves with the weights."""
        if model.cut is not None:
            self.players.fit(model.features(model.place(self.samples.inputs), chunk_size).cpu())

    @property
    def player_counts(self) -> Tensor:
        """Long ``(B,)``: how many players each sample has; where it has fewer than ``n``, the others do nothing."""
        return player_counts(self.labels)


@dataclass(frozen=True)
class Rules:
    """What a batch showed: whom to ask, what, and who plays."""

    model: Model
    task: Task
    players: Players  # the kind in use, not fitted
    fields: tuple[Field, ...]  # the names of the inputs, where they have some
    masked: str  # in words: what is masked, and its shape

    def describe(self) -> str:
        """Say what was chosen, in one sentence without a full stop."""
        return f"players are {self.players.describe()} of {self.masked}; their game is the {self.task.describe()}"

    @property
    def kind(self) -> str:
        """Say in few words what every rank should have found."""
        return f"{type(self.players).__name__} and {self.task.outputs} outputs for {self.task.kind}"


def find_rules(
    module: nn.Module,
    batch: Batch,
    *,
    players: Players | str = "auto",
    num_players: int = 10,
    layer: str | None = None,
    score: str | ScoreFn = "log_odds",
    target: Target = "label",
    forward_fn: Callable[[Any, Any], Any] | None = None,
    tokenizer: Any = None,
    precision: Any = None,
    seed: int = 0,
) -> Rules:
    """Try everything that depends on data on two samples of a batch, while an error still costs nobody a run."""
    chosen = suited_players(players, batch, module, tokenizer) if layer is None else None
    few = masked = two_samples(batch, chosen)
    if chosen is not None:  # before the model, which would say less clearly what is wrong with its inputs
        _try_players(chosen, few.inputs, num_players, seed)
    model = find_model(module, few, forward_fn=forward_fn, precision=precision, layer=layer)
    with model.quiet():
        logits = model.logits(few.inputs)
        masked = replace(few, inputs=model.features(few.inputs), fields=few.fields if layer is None else ())
    task = find_task(logits, batch.targets, score, target)
    picked = task.pick(task.read(few.targets), logits, torch.arange(len(logits)))
    score_rows(logits, picked, 1, task.follow)
    if chosen is None:
        with of_layer(layer, masked.inputs):
            chosen = suited_players(players, masked, module)
            _try_players(chosen, masked.inputs, num_players, seed)
    what = f"the output of layer {layer!r}" if layer else batch.describe()
    shape = masked.inputs.shape[2:] if len(masked.fields) > 1 else masked.inputs.shape[1:]
    return Rules(model, task, chosen, batch.fields, f"{what} of shape (B, {', '.join(map(str, shape))})")


def _try_players(players: Players, inputs: Tensor, num_players: int, seed: int) -> None:
    """Fit and draw on a copy of the players: those of the run learn from all its samples."""
    trial = copy.deepcopy(players)
    trial.fit(inputs.cpu())
    draw_players(trial, inputs.cpu(), content_keys(inputs, seed).cpu(), num_players)
