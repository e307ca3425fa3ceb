"""What a first batch shows: whom to ask, what, and who plays; and the games that are drawn from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import cnn, mlp
from torch import Tensor, nn

from lightning_interactions.errors import ArgumentError, BatchError, ModelOutputError
from lightning_interactions.measure.games import Game, find_rules
from lightning_interactions.measure.samples import Pool, draw_players
from lightning_interactions.model.batch import Batch, read_batch
from lightning_interactions.model.model import Model
from lightning_interactions.players import FeatureMask, ImagePatches, TabularFeatures, Tokens


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def columns(size: int = 6, features: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(size, features, generator=generator), torch.arange(size) % 3)


class Text(nn.Module):
    """Two logits of some token ids that go with an attention mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.embed(input_ids) * attention_mask.unsqueeze(-1)).sum(1)


# -- what is chosen --------------------------------------------------------------------------------------------------


def test_columns_are_found() -> None:
    net = mlp()
    rules = find_rules(net, columns())
    assert rules.model.module is net
    assert rules.model.cut is None
    assert isinstance(rules.players, TabularFeatures)
    assert (rules.task.kind, rules.task.outputs) == ("classes", 3)
    assert rules.fields == ()
    assert rules.masked == "inputs of shape (B, 5)"
    assert rules.kind == "TabularFeatures and 3 outputs"
    assert rules.describe().startswith(f"players are {rules.players.describe()} of inputs of shape (B, 5); ")
    assert rules.describe().endswith("their game is the log_odds of the label, of 3 classes")


def test_images_are_found() -> None:
    rules = find_rules(cnn(), Batch(torch.randn(4, 1, 8, 8), torch.arange(4) % 3), num_players=4)
    assert isinstance(rules.players, ImagePatches)
    assert rules.masked == "inputs of shape (B, 1, 8, 8)"


def test_texts_are_found_by_name() -> None:
    ids = torch.randint(5, 20, (4, 6))
    batch = read_batch({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(4) % 2})
    rules = find_rules(Text(), batch, players=Tokens(4, (0,)), num_players=4)
    assert [field.name for field in rules.fields] == ["input_ids", "attention_mask"]
    assert rules.masked == "input_ids with attention_mask of shape (B, 6)", "not (B, 2, 6), as it is packed"
    with rules.model.quiet():
        expected = Text.forward(rules.model.module, ids, torch.ones_like(ids))
        assert torch.equal(rules.model.logits(batch.inputs), expected.double())


@pytest.mark.parametrize(
    ("classes", "targets", "kind"),
    [(3, torch.tensor([0, 2]), "classes"), (1, torch.tensor([[0.0], [1.0]]), "binary"),
     (3, torch.tensor([[1, 1, 0], [0, 0, 0]]), "labels"), (1, torch.tensor([0.3, -2.5]), "regression")],
)  # fmt: skip
def test_the_task_is_found(classes: int, targets: Tensor, kind: str) -> None:
    rules = find_rules(mlp(classes=classes), Batch(torch.randn(2, 5), targets))
    assert rules.task.kind == kind
    assert rules.task.outputs == classes


def test_targets_of_the_whole_batch_decide() -> None:
    """Two samples of class 0 and 1 could be anything; the third is a number."""
    rules = find_rules(mlp(classes=1), Batch(torch.randn(3, 5), torch.tensor([0.0, 1.0, 2.5])))
    assert rules.task.kind == "regression"


def test_a_layer_is_masked_instead() -> None:
    rules = find_rules(cnn(), Batch(torch.randn(4, 1, 8, 8), torch.arange(4) % 3), layer="2", num_players=4)
    assert rules.model.cut is not None
    assert isinstance(rules.players, ImagePatches)
    assert rules.masked == "the output of layer '2' of shape (B, 3, 4, 4)"


def test_options_are_passed_on() -> None:
    score = lambda logits, targets: logits[:, 0]  # noqa: E731
    rules = find_rules(mlp(), columns(), score=score, target=1, forward_fn=lambda module, x: module(x) + 1)
    assert rules.task.score is score
    assert rules.task.target == 1
    batch = columns()
    with rules.model.quiet(), torch.no_grad():
        torch.testing.assert_close(rules.model(batch.inputs), (mlp()(batch.inputs) + 1).double())


def test_the_players_of_the_run_stay_unfitted_and_the_users_untouched() -> None:
    own = TabularFeatures("mean")
    rules = find_rules(mlp(), columns(), players=own)
    assert rules.players is not own
    for players in (own, rules.players):
        with pytest.raises(ArgumentError, match="has no mean yet"):
            players.mask(torch.zeros(5), torch.arange(5), torch.zeros(1, 5).bool())


def test_looking_leaves_no_trace() -> None:
    net = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), mlp()).train()
    before, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    batch = columns()
    kept = batch.inputs.clone()
    find_rules(net, batch)
    assert net[0].training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(batch.inputs, kept)


def test_one_sample_is_enough() -> None:
    assert find_rules(mlp(), columns(1)).task.kind == "classes"


# -- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "options", "error", "text"),
    [
        (Fn(lambda x: x.sum()), {}, ModelOutputError, r"got torch.float32 of shape \(\)"),
        (Fn(lambda x: x[:1]), {}, ModelOutputError, "one row of logits per input"),
        (Fn(lambda x: x[:, :2]), {}, BatchError, "targets from 0 to 1"),
        (mlp(), {"score": lambda z, y: z}, ModelOutputError, "`score` to return shape"),
        (mlp(), {"target": 7}, ArgumentError, "`target`"),
        (mlp(), {"layer": "nowhere"}, ArgumentError, "nowhere"),
        (mlp(), {"players": FeatureMask(torch.arange(4))}, BatchError, "does not broadcast to a sample"),
        (mlp(), {"players": TabularFeatures(torch.zeros(4))}, ArgumentError, "`baseline` to broadcast"),
        (mlp(), {"players": ImagePatches()}, BatchError, "needs images of shape"),
        (mlp(), {"layer": "1", "players": ImagePatches()}, BatchError, r"The output of layer '1', of shape \(2, 8\)"),
    ],
    ids=["loss", "rows", "targets", "score", "target", "layer", "mask", "baseline", "players", "players of a layer"],
)
def test_the_trial_finds_what_is_wrong(module: nn.Module, options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        find_rules(module, columns(), **options)


def test_players_that_do_not_suit_are_told_of_before_the_model_is_asked() -> None:
    asked: list[Tensor] = []
    net = Fn(lambda x: asked.append(x))
    with pytest.raises(BatchError, match='players="auto" recognises'):
        find_rules(net, Batch(torch.randn(4, 3, 3, 3, 3), torch.zeros(4)))
    with pytest.raises(BatchError, match="has 2 players"):
        find_rules(net, Batch(torch.zeros(3, 4).long(), torch.zeros(3)), players=Tokens(4, (0,)))
    assert asked == []


# -- games -----------------------------------------------------------------------------------------------------------


def test_a_game_has_the_players_of_its_samples() -> None:
    batch, pool = columns(), Pool(4)
    pool.offer(batch)
    samples = pool.result()
    assert samples is not None
    model, players = Model(mlp()), TabularFeatures("mean")
    with model.quiet():
        game = Game.draw(model, samples, players, 3)
    assert (game.samples, game.players, game.num_players) == (samples, players, 3)
    assert torch.equal(game.labels, draw_players(players, samples, 3)[0])
    assert game.player_counts.tolist() == [3] * 4
    absent = game.players.mask(samples.inputs[0], game.labels[0], torch.zeros(1, 3).bool())
    playing = game.labels[0] >= 0
    assert playing.sum() >= 3
    mean = samples.inputs.mean(0)
    torch.testing.assert_close(absent[0][playing], mean[playing])
