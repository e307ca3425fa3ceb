"""What a first batch shows: whom to ask, what, and who plays; and the games that are drawn from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, Precision
from models import cnn, mlp
from torch import Tensor, nn
from torch.nn.functional import dropout

from lightning_interactions.errors import ArgumentError, BatchError, ModelCallError, ModelOutputError
from lightning_interactions.measure.games import Game, find_rules
from lightning_interactions.measure.samples import Pool, draw_players
from lightning_interactions.model import chunks
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


# -- the answers are those of the step -------------------------------------------------------------------------------


def seen_by(module: nn.Module, batch: Batch) -> Batch:
    """The batch with what the module answers in the step."""
    with torch.no_grad():
        return replace(batch, seen=module(batch.inputs))


def answers(model: Model, inputs: Tensor, chunk_size: int | None = None, carried: Any = ()) -> Tensor:
    with model.quiet():
        return model.logits(inputs, chunk_size, carried)


@pytest.mark.parametrize("seen", [False, True])
def test_a_model_that_answers_at_random_is_told_of(seen: bool) -> None:
    module = Fn(lambda x: dropout(mlp()(x), 0.5, training=True)).eval()
    batch = seen_by(module, columns()) if seen else columns()
    random = torch.get_rng_state()
    (note,) = find_rules(module, batch).notes
    assert "at random in evaluation mode" in note
    assert "dropout that is left on" in note
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_answers_as_in_the_step_has_no_notes(training: bool) -> None:
    module = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), mlp()).train(training)
    assert find_rules(module, seen_by(module.eval(), columns())).notes == ()


def test_a_model_that_mixes_the_samples_of_a_batch_is_told_of() -> None:
    module = Fn(lambda x: mlp()(x - x.mean(0)))
    rules = find_rules(module, seen_by(module, columns()))
    (note,) = rules.notes
    assert "the model answers otherwise than in the step" in note
    assert "batch statistics" in note
    assert find_rules(module, columns()).notes == (), "what it answered was not seen"


def test_foreign_hooks_that_do_not_help_stay_out() -> None:
    module = Fn(lambda x: mlp()(x - x.mean(0)))
    module.register_forward_hook(lambda *args: None)
    rules = find_rules(module, seen_by(module, columns()))
    assert not rules.model.hooks
    (note,) = rules.notes
    assert "answers otherwise than in the step" in note


class Collecting(nn.Module):
    """Collects the features of its network with a hook, and goes on with them."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = mlp(), nn.Linear(8, 3)
        self.features: list[Tensor] = []
        self.net[0].register_forward_hook(lambda module, args, output: self.features.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.features.clear()
        self.net(x)
        return self.head(self.features[-1])


def test_a_model_that_needs_its_own_hooks_gets_them() -> None:
    module, batch = Collecting(), columns()
    for given in (batch, seen_by(module, batch)):
        left = list(module.features)
        rules = find_rules(module, given)
        assert rules.model.hooks
        assert rules.notes == ()
        assert [id(x) for x in module.features] == [id(x) for x in left], "no trace is left"
        expected = module.head(module.net[0](batch.inputs)).double()
        module.features[:] = left
        torch.testing.assert_close(answers(rules.model, batch.inputs), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(answers(rules.model, batch.inputs[3:4]), expected[3:4], rtol=1e-5, atol=1e-6)


def test_hooks_that_change_the_answers_run_where_the_step_had_them() -> None:
    module = mlp()
    module[0].register_forward_hook(lambda module, args, output: 3 * output)
    rules = find_rules(module, seen_by(module, columns()))
    assert rules.model.hooks
    assert rules.notes == ()
    torch.testing.assert_close(answers(rules.model, columns().inputs), module(columns().inputs).double())
    assert not find_rules(module, columns()).model.hooks, "what it answered was not seen"


@pytest.mark.parametrize("seen", [False, True])
def test_foreign_hooks_do_not_run(seen: bool) -> None:
    module, heard = mlp(), list[int]()
    batch = seen_by(module, columns()) if seen else columns()
    module[0].register_forward_hook(lambda *args: heard.append(1))
    module.register_forward_pre_hook(lambda *args: heard.append(2))
    rules = find_rules(module, batch)
    assert not rules.model.hooks
    assert rules.notes == ()
    answers(rules.model, batch.inputs)
    assert heard == []
    module(batch.inputs)
    assert heard == [2, 1], "the hooks are still there"


class Bound(nn.Module):
    """Works with just so many rows: a buffer or a view of that size is in its way."""

    def __init__(self, rows: int = 16) -> None:
        super().__init__()
        self.net, self.rows = mlp(), rows

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        z = self.net(x) + torch.zeros(self.rows, 1)
        return z if weights is None else z * weights


def one_by_one(module: Bound, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([module.net(x[None]) for x in inputs]).double()


def test_a_model_of_one_batch_size_is_found_out() -> None:
    rules = find_rules(Bound(), columns(16))
    assert rules.model.rows == 16
    assert rules.model.precision is None
    assert rules.notes == ()
    assert find_rules(mlp(), columns(16)).model.rows is None, "others are asked with any number"


@pytest.mark.parametrize("size", [1, 2, 5, 16, 17, 37])
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 16, 20])
def test_answers_of_a_model_of_one_batch_size_are_those_of_every_sample(size: int, chunk_size: int | None) -> None:
    heard: list[int] = []

    class Watched(Bound):
        def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
            heard.append(len(x))
            return super().forward(x, weights)

    module, inputs = Watched(), torch.randn(size, 5)
    model = find_rules(module, columns(16)).model
    heard.clear()
    found = answers(model, inputs, chunk_size)
    assert set(heard) == {16}
    torch.testing.assert_close(found, one_by_one(module, inputs), rtol=1e-5, atol=1e-6)


def test_what_is_carried_along_is_filled_up_too() -> None:
    module, weights = Bound(), torch.randn(16, 1)
    batch = replace(columns(16), carried=(weights,), names=("weights",))
    rules = find_rules(module, batch, call=lambda module, inputs, *carried: module(inputs, *carried))
    assert rules.model.rows == 16
    for rows in (1, 5, 16):
        found = answers(rules.model, batch.inputs[:rows], None, (weights[:rows],))
        expected = one_by_one(module, batch.inputs[:rows]) * weights[:rows]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_model_of_a_batch_size_above_that_of_a_chunk_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As 64 images of 224 x 224 are: chunks of so large samples have 32 rows."""
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 5 * 32)
    module = Bound(64)
    rules = find_rules(module, columns(64))
    assert rules.model.rows == 64
    inputs = torch.randn(70, 5)
    torch.testing.assert_close(answers(rules.model, inputs), one_by_one(module, inputs), rtol=1e-5, atol=1e-6)


def test_a_model_that_fails_with_any_number_of_rows_is_told_of_by_its_first_failure() -> None:
    with pytest.raises(ModelCallError, match=r"float32 \(2, 5\).*must match the size"):
        find_rules(Bound(16), columns(6))


class HalfOnly(nn.Module):
    """Casts its inputs to the type of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.bfloat16())


@pytest.mark.parametrize("fallback", [HalfPrecision("bf16-true"), Precision()], ids=["bf16-true", "32-true"])
def test_a_model_in_half_precision_only_falls_back(fallback: Any) -> None:
    module, batch = HalfOnly(), columns()
    for given in (batch, seen_by(module, batch)):
        rules = find_rules(module, given, fallback=fallback)
        assert rules.model.precision is fallback
        assert rules.model.rows is None
        (note,) = rules.notes
        assert note.startswith("the model cannot be asked in float32, so it is in the Trainer's precision")
        assert "dtype" in note, "and why"
        with torch.no_grad():
            torch.testing.assert_close(answers(rules.model, batch.inputs), module(batch.inputs).double())
    with pytest.raises(ModelCallError, match="dtype"):
        find_rules(module, batch)


def test_a_model_that_can_be_asked_in_float32_is_not_in_another_precision() -> None:
    for module in (mlp(), mlp().bfloat16()):
        rules = find_rules(module, columns(), fallback=HalfPrecision("bf16-true"))
        assert rules.model.precision is None
        assert rules.notes == ()


def test_a_model_in_half_precision_of_one_batch_size_with_hooks_is_asked_as_it_wants() -> None:
    class All(Collecting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.bfloat16()) + torch.zeros(16, 1)

    module, batch, fallback = All().bfloat16(), columns(16), Precision()
    rules = find_rules(module, batch, fallback=fallback)
    assert (rules.model.precision, rules.model.rows, rules.model.hooks) == (fallback, 16, True)
    assert len(rules.notes) == 1
    with torch.no_grad():
        expected = module(batch.inputs).double()
    torch.testing.assert_close(answers(rules.model, batch.inputs[:3]), expected[:3])


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
