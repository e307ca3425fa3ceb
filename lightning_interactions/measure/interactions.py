"""Interactions of some inputs under some model, without Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_interactions.errors import BatchError, bad_argument, is_whole, sentence, warn
from lightning_interactions.functional import (
    order_strength,
    reconstruct_values,
    salience_threshold,
    salient_interactions,
    value_scale,
)
from lightning_interactions.functional.coalitions import check_num_players, coalition_masks
from lightning_interactions.functional.sparsify import check_noise_bound
from lightning_interactions.functional.strength import check_scale
from lightning_interactions.measure.games import Game, find_rules
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.samples import Samples
from lightning_interactions.measure.values import evaluate_coalitions
from lightning_interactions.metrics.drawing import showing_itself
from lightning_interactions.model.batch import Batch, read_batch
from lightning_interactions.model.function import as_module
from lightning_interactions.model.lockstep import Lockstep
from lightning_interactions.model.quiet import device_of
from lightning_interactions.model.score import ScoreFn, resolve_score
from lightning_interactions.model.task import Target, check_target_option
from lightning_interactions.pictures.card import STYLE, card, new_anchor
from lightning_interactions.pictures.exhibit import Exhibit, choose
from lightning_interactions.pictures.figure import samples_figure
from lightning_interactions.players import Players, check_players, picture_of, player_counts
from lightning_interactions.players.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTEBOOK_SAMPLES = 4


class Interaction(NamedTuple):
    """One interaction: ``"and"`` or ``"or"``, the players it is between (ascending), its effect on the score."""

    kind: str
    players: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class Interactions:
    """AND-OR interactions of a batch of inputs.

    Attributes:
        values: Float64 ``(B, 2**n)``: the score of every sample at every coalition.
        and_: Float64 ``(B, 2**n)``: AND interactions.
        or_: Float64 ``(B, 2**n)``: OR interactions; those of one player are folded into ``and_``.
        gap: Float64 ``(B,)``: certified relative distance of the split from the sparsest one.
        players: Long ``(B, ...)``: who the players are; -1 is background.
        game: The inputs and the kind of players, to be drawn; ``None``, or of other samples, where they are not known.
    """

    values: Tensor
    and_: Tensor
    or_: Tensor
    gap: Tensor
    players: Tensor
    game: Game | None = field(default=None, repr=False, compare=False)

    @property
    def num_players(self) -> int:
        """Number of players ``n`` of the game."""
        return self.values.shape[-1].bit_length() - 1

    @property
    def player_counts(self) -> Tensor:
        """Long ``(B,)``: players of each sample. Where they are fewer than ``n``, interactions of the others are 0."""
        return player_counts(self.players)

    def strength(self, salience: float = 0.07, scale: str = "std") -> Tensor:
        """Strength ``(B, 2, n)`` by sign (positive, negative) and order, in units of the score.

        Counted are interactions above ``salience`` times the scale of the batch (see
        :func:`~lightning_interactions.functional.value_scale`). A sample with a value that is not finite has ``nan``
        and leaves the others as they are without it.
        """
        return order_strength(self.and_, self.or_, salience_threshold(self.values, salience, scale))

    def top_k(self, k: int) -> list[list[Interaction]]:
        """Return the ``k`` strongest interactions of every sample, strongest first; fewer if the others are zero."""
        if not is_whole(k, 1):
            raise bad_argument("k", "a positive integer", k)
        both = torch.cat([self.and_, self.or_], -1)
        members = coalition_masks(self.num_players)
        size = self.and_.shape[-1]
        top = both.abs().topk(min(k, both.shape[-1]), -1).indices
        return [
            [
                Interaction(
                    "and" if i < size else "or", tuple(members[i % size].nonzero().flatten().tolist()), float(row[i])
                )
                for i in index.tolist()
                if row[i] != 0
            ]
            for row, index in zip(both.cpu(), top.cpu(), strict=True)
        ]

    def reconstruct(self) -> Tensor:
        """Sum the interactions back into the scores ``(B, 2**n)``: equal to `values`, up to `noise_bound`."""
        return reconstruct_values(self.and_, self.or_, self.values[..., :1])

    def __repr__(self) -> str:
        """Summarise in one line."""
        batch, known = len(self.values), self.gap[self.gap.isfinite()]
        gap = float(known.max()) if len(known) else float("nan")
        return f"Interactions(samples={batch}, num_players={self.num_players}, largest certified gap={gap:.2%})"

    def plot(self, index: int = 0, salience: float = 0.07, scale: str = "std") -> Figure:
        """Draw one sample: its strongest interactions, and where in it they are.

        Args:
            index: Which sample.
            salience: As for `strength`: weaker interactions do not count.
            scale: Likewise.

        Raises:
            ArgumentError: If there is no such sample.

        Example:
            >>> from lightning_interactions.players import TabularFeatures
            >>> names = TabularFeatures("zero", names=["age", "hours"])
            >>> found = compute_interactions(lambda x: x[:, 0] * x[:, 1], torch.ones(1, 2), torch.ones(1), names)
            >>> found.plot().savefig("sample.png")  # doctest: +SKIP
        """
        if not is_whole(index) or not -len(self.values) <= index < len(self.values):
            raise bad_argument("index", f"that of one of the {len(self.values)} samples", index)
        return showing_itself(samples_figure([self._exhibit(index % len(self.values), salience, scale)]))

    def _exhibit(self, index: int, salience: float = 0.07, scale: str = "std") -> Exhibit:
        threshold = salience_threshold(self.values, salience, scale)
        found = salient_interactions(self.and_[index], self.or_[index], threshold).cpu()
        shown, _ = choose(found)
        names = [f"player {i}" for i in range(self.num_players)]
        game = self.game if self.game is not None and torch.equal(self.game.labels, self.players.cpu()) else None
        return Exhibit(
            f"sample {index}",
            picture_of(game.players, *game.sample(index)) if game is not None else Picture(names),
            shown,
            count=int((found != 0).sum()) if bool(found.isfinite().all()) else None,
            strength=float(found.abs().sum()),
            ends=(float(self.values[index, 0]), float(self.values[index, -1])),
        )

    def _repr_html_(self) -> str:
        """Show the strongest interactions of the first samples in a notebook."""
        few = range(min(len(self.values), NOTEBOOK_SAMPLES))
        cards = "".join(card(self._exhibit(i), anchor=new_anchor()) for i in few)
        return f"<style>{STYLE}</style><p>{escape(repr(self))}</p>{cards}"


def compute_interactions(
    model: nn.Module | Callable[..., Any],
    inputs: Tensor,
    targets: Tensor,
    players: Players | str = "auto",
    *,
    num_players: int = 10,
    layer: str | None = None,
    score: str | ScoreFn = "log_odds",
    noise_bound: float = 0.0,
    scale: str = "std",
    chunk_size: int | None = None,
    seed: int = 0,
    target: Target = "label",
) -> Interactions:
    """Compute the AND-OR interactions between the input variables of some samples.

    The model is called in evaluation mode on all ``2**n`` masked versions of every sample and left as it was.

    Args:
        model: A classifier that returns logits ``(B, C)`` or ``(B,)``; or a function of the inputs that does. Modules
            that the function names are called in evaluation mode too.
        inputs: ``(B, *shape)``, or a mapping with ``input_ids`` and tensors of the same shape that go with them, or of
            columns ``(B,)`` and ``(B, K)``.
        targets: Class indices ``(B,)``, one-hot rows or probabilities ``(B, C)``, rows of 0 and 1 (multi-label), or
            numbers (regression); labels ``(B, H, W)`` or ``(B, L)`` where the model returns scores of every position.
        players: ``"auto"`` (images ``(B, C, H, W)`` or ``(B, H, W, C)``: patches; integer ``(B, L)``: tokens;
            ``(B, F)``: columns; ``(B, N, 3)`` or ``(B, 3, N)``: clusters of points, where the model does not look at
            their order; ``(B, T, F)``, ``(B, C, T)``: windows, where its layers say which dimension is time) or an
            instance of `Players`.
        num_players: Players per sample, 2 to 16; the cost doubles with each.
        layer: Mask the output of this module instead of the input; the model must be a module.
        score: ``"log_odds"``, ``"logit"``, ``"probability"``, ``"output"`` or ``(logits, targets) -> scores``.
        noise_bound: Leave up to this fraction of the ``scale`` unexplained at every coalition. The monitor's 0.05 is
            what shows the orders of deep networks; with 0 the interactions explain everything, to rounding.
        scale: ``"std"``: the mean over the samples of the standard deviation of their scores over all coalitions;
            ``"difference"``: the mean of ``|v(N) - v(empty)|`` (the papers, with ``noise_bound=0.02``).
        chunk_size: Largest number of masked inputs in one forward.
        seed: Seed of the players' draw.
        target: Whose score: ``"label"``, ``"predicted"``, or the index of a class, label or output.

    Raises:
        ArgumentError: If an argument is wrong.
        BatchError: If the inputs or targets cannot be used.
        ModelOutputError: If the model does not return logits.
        ModelCallError: If the model fails.

    Example:
        >>> from lightning_interactions.players import TabularFeatures
        >>> class Net(nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x[:, 0] * x[:, 1] + x[:, 2]
        >>> x, y = torch.ones(1, 3), torch.tensor([1])
        >>> result = compute_interactions(Net(), x, y, TabularFeatures("zero"), num_players=3)
        >>> [(found.kind, found.players, round(found.value, 6)) for found in result.top_k(2)[0]]
        [('and', (0, 1), 2.0), ('and', (2,), 1.0)]
    """
    check_num_players(num_players)
    check_scale(scale)
    check_noise_bound(noise_bound)
    check_players(players)
    check_chunk_size(chunk_size)
    if not is_whole(seed):
        raise bad_argument("seed", "an integer", seed)
    resolve_score(score)
    check_target_option(target)
    module = as_module(model, _device_of(inputs))
    batch = _batch_of(inputs, targets, device_of(module))
    rules = find_rules(
        module, batch,
        players=players, num_players=num_players, layer=layer, score=score, target=target, seed=seed,
        tokenizer=getattr(model, "tokenizer", None), lockstep=Lockstep.of(module),
    )  # fmt: skip
    asked, task, batch = rules.model, rules.task, rules.along(batch)
    keys = content_keys(batch.inputs, seed, rules.players.padding if layer is None else None).cpu()
    carried = tuple(tensor.cpu() for tensor in batch.carried)
    samples = Samples(batch.inputs.cpu(), task.read(batch.targets).cpu(), keys, carried)
    with asked.quiet():
        game = Game.draw(asked, samples, rules.players, num_players, chunk_size)
        _tell_of(game, num_players)
        placed, *along = asked.place(batch.inputs, *batch.carried)
        values = evaluate_coalitions(
            asked, placed, game.labels.to(placed.device),
            task.pick(samples.targets, asked.logits(placed, chunk_size, along), keys),
            masker=game.players, num_players=game.num_players, score=task.follow,
            chunk_size=chunk_size, cut=asked.cut, carried=along,
        )  # fmt: skip
    split = Reading(noise_bound).split(values, value_scale(values, scale))
    return Interactions(values, split.and_, split.or_, split.gap, game.labels, game)


def _tell_of(game: Game, num_players: int) -> None:
    """Warn of players that are missing, and of what they could not learn."""
    found = int(game.player_counts.max())
    if found < num_players:
        warn(f"num_players={num_players}, but the samples have only {found} regions to play with; using {found}.")
    if game.players.note is not None:
        warn(sentence(game.players.note))


def _device_of(inputs: Any) -> torch.device:
    """Where the inputs are, for a function says nothing of a device."""
    tensors = [inputs] if not isinstance(inputs, Mapping) else inputs.values()
    return next((tensor.device for tensor in tensors if isinstance(tensor, Tensor)), torch.device("cpu"))


def _batch_of(inputs: Any, targets: Any, device: torch.device) -> Batch:
    """Read inputs and targets as from a loader, on the model's device."""
    if not isinstance(inputs, (Tensor, Mapping)) or (
        isinstance(inputs, Tensor) and (inputs.ndim < 2 or not len(inputs))
    ):
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise BatchError(f"Expected `inputs` to be a tensor (B, ...) with at least one sample, but got {shape}.")
    batch = read_batch((inputs, targets))
    return replace(batch, inputs=batch.inputs.detach().to(device), targets=batch.targets.to(device))


def check_chunk_size(chunk_size: Any) -> None:
    """Raise an `ArgumentError` unless ``chunk_size`` is ``None`` or a positive integer."""
    if chunk_size is not None and not is_whole(chunk_size, 1):
        raise bad_argument("chunk_size", "a positive integer, or None to choose it from the input's size", chunk_size)
