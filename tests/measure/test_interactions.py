"""`compute_interactions`: axioms, planted interactions, and independence of everything that should not matter."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Recorder, cnn, mlp
from oracles import members, values_by_loops
from torch import Tensor, nn

from lightning_interactions import Interactions, compute_interactions
from lightning_interactions.errors import ArgumentError, BatchError, InteractionsWarning, ModelOutputError
from lightning_interactions.functional import and_interactions, or_interactions, order_strength
from lightning_interactions.model.score import logit
from lightning_interactions.players import FeatureMask, ImagePatches, TabularFeatures

ZERO = TabularFeatures("zero")


class Game(nn.Module):
    """A binary model whose logit is a function of the columns."""

    def __init__(self, game: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.game = game

    def forward(self, x: Tensor) -> Tensor:
        return self.game(x.double())


def interactions(model: nn.Module, x: Tensor, n: int = 4, **kwargs: Any) -> Interactions:
    targets = kwargs.pop("targets", torch.ones(len(x), dtype=torch.long))
    return compute_interactions(model, x, targets, kwargs.pop("players", ZERO), num_players=n, **kwargs)


def column_of(result: Interactions, sample: int) -> dict[int, int]:
    """Which player every column is."""
    return {column: player for column, player in enumerate(result.players[sample].tolist()) if player >= 0}


# -- values and splits -----------------------------------------------------------------------------------------------


@given(st.integers(0, 100))
@settings(max_examples=10)
def test_values_are_those_of_a_plain_loop(seed: int) -> None:
    model, x, y = mlp(seed=seed), torch.randn(2, 5), torch.tensor([0, 2])
    result = interactions(model, x, targets=y)
    assert result.values.dtype == result.and_.dtype == result.or_.dtype == result.gap.dtype == torch.float64
    expected = values_by_loops(model, x, result.players, y, 4)
    torch.testing.assert_close(result.values, expected, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 100), st.integers(2, 5))
@settings(max_examples=10)
def test_interactions_explain_the_values_exactly(seed: int, n: int) -> None:
    result = interactions(mlp(seed=seed), torch.randn(3, 5), n, targets=torch.tensor([0, 1, 2]))
    error = (result.reconstruct() - result.values).abs().max() / result.values.abs().max()
    assert float(error) < 1e-9
    assert result.num_players == n
    assert (result.gap >= 0).all()
    assert (result.gap <= 0.05).all()
    for part in (result.and_, result.or_):
        assert not part[:, 0].any()
    assert not result.or_[:, [2**i for i in range(n)]].any()


def test_a_noise_bound_leaves_no_more_unexplained_than_allowed() -> None:
    x = torch.randn(3, 5)
    exact = interactions(mlp(), x, 5)
    loose = interactions(mlp(), x, 5, noise_bound=0.05)
    papers = interactions(mlp(), x, 5, noise_bound=0.05, scale="difference")
    scale = exact.values.std(1, correction=0).mean()
    effect = (exact.values[:, -1] - exact.values[:, 0]).abs().mean()
    for result, unit in ((loose, scale), (papers, effect)):
        missing = (result.reconstruct() - result.values).abs()
        assert (missing <= 0.05 * unit * (1 + 1e-6) + 1e-12).all()
        total = [part.and_.abs().sum(1) + part.or_.abs().sum(1) for part in (exact, result)]
        assert (total[1] <= total[0] * (1 + 1e-6)).all()


def test_strength_is_that_of_the_salient_interactions() -> None:
    result = interactions(mlp(), torch.randn(3, 5))
    limit = 0.1 * float((result.values[:, -1] - result.values[:, 0]).abs().mean())
    spread = 0.1 * float(result.values.std(1, correction=0).mean())
    expected = torch.zeros(3, 2, 4, dtype=torch.float64)
    for part in (result.and_, result.or_):
        for i in range(3):
            for index in range(1, 16):
                value = float(part[i, index])
                if abs(value) >= limit:
                    expected[i, int(value < 0), len(members(index)) - 1] += abs(value)
    torch.testing.assert_close(result.strength(0.1, "difference"), expected)
    torch.testing.assert_close(result.strength(0.1), order_strength(result.and_, result.or_, spread))


# -- axioms ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_a_player_without_influence_is_in_no_interaction(seed: int) -> None:
    model = mlp(seed=seed)
    with torch.no_grad():
        model[0].weight[:, 2] = 0
    result = interactions(model, torch.randn(2, 5), 5)
    for i in range(2):
        dummy = column_of(result, i)[2]
        inside = [index for index in range(32) if dummy in members(index)]
        for part in (and_interactions(result.values), or_interactions(result.values), result.and_, result.or_):
            assert float(part[i, inside].abs().max()) < 1e-4 * float(result.values[i].abs().max())


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
@settings(max_examples=10)
def test_an_additive_model_has_interactions_of_order_one_only(weights: list[float]) -> None:
    weight = torch.tensor(weights, dtype=torch.float64)
    result = interactions(Game(lambda x: x @ weight), torch.ones(1, 4))
    expected = torch.zeros(16, dtype=torch.float64)
    expected[[1, 2, 4, 8]] = weight[result.players[0].argsort()]
    torch.testing.assert_close(result.and_[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.or_[0], torch.zeros_like(expected), rtol=0, atol=1e-6)


def test_players_that_are_alike_have_the_same_interactions() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[:, 3] = model[0].weight[:, 1]
    x = torch.randn(2, 5)
    x[:, 3] = x[:, 1]
    result = interactions(model, x, 5)
    for i in range(2):
        players = column_of(result, i)
        swap = {players[1]: players[3], players[3]: players[1]}
        for part in (and_interactions(result.values)[i], or_interactions(result.values)[i]):
            for index in range(32):
                other = sum(1 << swap.get(player, player) for player in members(index))
                assert float(part[index]) == pytest.approx(float(part[other]), abs=1e-5)


# -- planted interactions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 6])
def test_planted_ands_and_ors_are_found(n: int) -> None:
    def game(x: Tensor) -> Tensor:
        either = (x[:, 1:3] != 0).any(1)
        return 1.0 + 5.0 * x[:, 0] * x[:, 1] * x[:, 2] - 3.0 * either + 2.0 * x[:, 3]

    x = torch.ones(1, n)
    result = interactions(Game(game), x, n)
    place = column_of(result, 0)
    found = {(i.kind, i.players): i.value for i in result.top_k(3)[0]}
    expected = {
        ("and", tuple(sorted(place[c] for c in (0, 1, 2)))): 5.0,
        ("or", tuple(sorted(place[c] for c in (1, 2)))): -3.0,
        ("and", (place[3],)): 2.0,
    }
    assert found == pytest.approx(expected, abs=0.05)  # the split is certified to 1 % of the sum
    assert [i.value for i in result.top_k(3)[0]] == sorted(found.values(), key=abs, reverse=True)


def test_top_k_equals_sorting_everything() -> None:
    result = interactions(mlp(), torch.randn(2, 5))
    for i, top in enumerate(result.top_k(7)):
        everything = sorted(
            (("and", tuple(members(s)), float(result.and_[i, s])) for s in range(16)), key=lambda x: -abs(x[2])
        )
        everything += [("or", tuple(members(s)), float(result.or_[i, s])) for s in range(16)]
        everything.sort(key=lambda x: -abs(x[2]))
        assert [abs(found.value) for found in top] == [abs(x[2]) for x in everything[:7]]
        assert all(tuple(found) in everything for found in top)
    assert len(result.top_k(10**6)[0]) <= 32


# -- what should not matter ------------------------------------------------------------------------------------------


def test_samples_do_not_influence_each_other() -> None:
    model, x, y = mlp(7), torch.randn(5, 7), torch.tensor([0, 1, 2, 0, 1])
    whole = interactions(model, x, targets=y)
    for rows in ([3], [4, 0], [2, 1, 0, 4, 3]):
        part = interactions(model, x[rows], targets=y[rows])
        assert torch.equal(part.players, whole.players[rows])
        torch.testing.assert_close(part.values, whole.values[rows], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            and_interactions(part.values), and_interactions(whole.values[rows]), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("layer", [None, "1"])
def test_chunks_do_not_matter(layer: str | None, chunk_size: int) -> None:
    recorder = Recorder(mlp())
    x = torch.randn(9, 5)
    whole = interactions(mlp(), x, layer=layer)
    part = interactions(recorder, x, layer=f"model.{layer}" if layer else None, chunk_size=chunk_size)
    torch.testing.assert_close(part.values, whole.values, rtol=1e-6, atol=1e-6)
    assert max(recorder.rows) <= max(chunk_size, 2)  # two rows are always tried


def test_the_seed_chooses_the_players() -> None:
    x = torch.randn(3, 9)
    first, again, other = (interactions(mlp(9), x, seed=seed) for seed in (0, 0, 2**70))
    assert torch.equal(first.players, again.players)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.players, other.players)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_weights_of_any_precision(dtype: torch.dtype) -> None:
    model, x = mlp().to(dtype), torch.randn(2, 5)
    expected = interactions(copy.deepcopy(model).float(), x)
    torch.testing.assert_close(interactions(model, x).values, expected.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [None, "1"])
def test_the_model_is_left_as_it_was(layer: str | None) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    model[2].eval()
    model(torch.randn(4, 5)).sum().backward()

    def state() -> list[Any]:
        tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
        return [
            [t.tolist() for t in tensors], [p.requires_grad for p in model.parameters()],
            [m.training for m in model.modules()], [len(m._forward_hooks) for m in model.modules()],
            random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            torch.is_grad_enabled(), sorted(vars(model)),
        ]  # fmt: skip

    x = torch.randn(3, 5, requires_grad=True)
    players = TabularFeatures("mean")
    before = state()
    interactions(model, x, layer=layer, players=players)
    assert state() == before
    assert x.grad is None
    assert players._values is None  # the user's object was not fitted
    with pytest.raises(ZeroDivisionError):
        interactions(model, x, layer=layer, score=lambda logits, targets: 1 / 0)
    assert state() == before


def test_results_can_be_used_outside_of_inference_mode() -> None:
    x = torch.randn(2, 5)
    expected = interactions(mlp(), x)
    with torch.inference_mode():
        found = interactions(mlp(), x)
    assert torch.equal(found.values, expected.values)


# -- inner layers, images, other outputs -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["0", "1"])
def test_players_on_an_inner_layer(layer: str) -> None:
    model, x, y = cnn(), torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    result = compute_interactions(model, x, y, ImagePatches(grid=2, margin=0), num_players=4, layer=layer)
    before, after = model[: int(layer) + 1], model[int(layer) + 1 :]
    with torch.no_grad():
        features = before(x).clone()
    expected = values_by_loops(lambda z: after(z.clone()), features, result.players.unsqueeze(1), y, 4)
    torch.testing.assert_close(result.values, expected, rtol=1e-5, atol=1e-5)
    assert result.players.shape == (2, 8, 8)


def test_auto_players_look_at_what_is_masked() -> None:
    images = compute_interactions(cnn(), torch.randn(1, 1, 8, 8), torch.tensor([0]), num_players=3)
    assert images.players.shape == (1, 8, 8)
    columns = compute_interactions(cnn(), torch.randn(2, 1, 8, 8), torch.tensor([0, 1]), num_players=3, layer="5")
    assert columns.players.shape == (2, 64)


def test_mean_baselines_are_the_mean_of_the_inputs() -> None:
    x = torch.randn(4, 3)
    result = interactions(Game(lambda x: x.sum(1)), x, 3, players="auto")
    torch.testing.assert_close(result.values[:, 0], x.double().mean(0).sum().expand(4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("classes", [1, 3])
def test_models_that_squeeze_their_output(rows: int, classes: int) -> None:
    plain = mlp(classes=classes)

    class Squeezing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return plain(x).squeeze()

    x, y = torch.randn(rows, 5), torch.ones(rows, dtype=torch.long)
    torch.testing.assert_close(interactions(Squeezing(), x, targets=y).values, interactions(plain, x, targets=y).values)


@pytest.mark.parametrize("score", ["logit", logit], ids=["name", "callable"])
def test_scores_by_name_and_by_function(score: Any) -> None:
    x = torch.randn(2, 5)
    result = interactions(mlp(), x, 5, score=score)
    with torch.no_grad():
        torch.testing.assert_close(result.values[:, -1], mlp()(x)[:, 1].double(), rtol=1e-5, atol=1e-6)


def test_outputs_that_are_not_finite_are_marked_in_their_sample_alone() -> None:
    model = Game(lambda x: torch.where((x == 7).any(1), torch.nan, x.sum(1)))
    result = interactions(model, torch.tensor([[1.0, 2.0, 3.0], [7.0, 2.0, 3.0]]), 3)
    assert result.gap.isfinite().tolist() == [True, False]
    assert result.and_[0].isfinite().all()
    assert result.reconstruct()[0].tolist() == pytest.approx(result.values[0].tolist())


def test_a_sample_that_is_not_finite_changes_no_strength_of_the_others() -> None:
    model = Game(lambda x: torch.where((x == 7).any(1), torch.nan, x[:, 0] * x[:, 1] + 0.01 * x[:, 2]))
    good, bad = torch.tensor([[1.0, 2.0, 3.0], [2.0, -1.0, 1.0]]), torch.tensor([[7.0, 2.0, 3.0]])
    alone, together = interactions(model, good, 3), interactions(model, torch.cat([bad, good]), 3)
    assert torch.equal(together.strength()[1:], alone.strength())
    assert bool((alone.strength()[:, :, 0] == 0).all()), "the small effect is below the threshold"
    assert bool(together.strength()[0].isnan().all())
    assert f"{float(alone.gap.max()):.2%}" in repr(together)
    assert "nan" in repr(interactions(model, bad, 3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
def test_an_input_that_is_not_finite_changes_no_value_of_the_others(bad: float) -> None:
    """Through the mean baseline it would."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x[0, 1] = bad
    result = interactions(Game(lambda x: x.square().sum(1)), x, 3, players="auto")
    assert result.values.isfinite().all(1).tolist() == [False, True, True, True, True]
    known = torch.stack([x[:, 0].mean(), x[1:, 1].mean(), x[:, 2].mean()]).square().sum()
    assert float(result.values[1, 0]) == pytest.approx(float(known), rel=1e-5)


def test_repr_is_one_line() -> None:
    text = repr(interactions(mlp(), torch.randn(2, 5)))
    assert text.startswith("Interactions(samples=2, num_players=4, ")
    assert "\n" not in text


# -- warnings and errors ---------------------------------------------------------------------------------------------


def test_too_few_features_are_told_once() -> None:
    with pytest.warns(InteractionsWarning, match="num_players=10, but the samples have only 5") as caught:
        result = interactions(mlp(), torch.randn(3, 5), 10)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert result.num_players == 5


def test_enough_features_are_nothing_to_talk_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = interactions(mlp(), torch.randn(3, 5), 5)
    assert result.num_players == 5


GOOD: dict[str, Any] = {"model": mlp(), "inputs": torch.randn(2, 5), "targets": torch.tensor([0, 1]), "num_players": 4}


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"num_players": 1}, ArgumentError, "`num_players`.*got 1"),
        ({"num_players": 17}, ArgumentError, "`num_players`.*got 17"),
        ({"num_players": 4.0}, ArgumentError, r"`num_players`.*got 4\.0"),
        ({"num_players": True}, ArgumentError, "`num_players`.*got True"),
        ({"players": "images"}, ArgumentError, "`players`.*got 'images'"),
        ({"players": ImagePatches}, ArgumentError, "`players`.*Call it"),
        ({"score": "accuracy"}, ArgumentError, "`score`.*got 'accuracy'"),
        ({"chunk_size": 0}, ArgumentError, "`chunk_size`.*got 0"),
        ({"chunk_size": 1.5}, ArgumentError, r"`chunk_size`.*got 1\.5"),
        ({"layer": "10"}, ArgumentError, "`layer`.*got '10'"),
        ({"seed": 1.5}, ArgumentError, r"`seed`.*got 1\.5"),
        ({"layer": 1}, ArgumentError, "`layer`.*got 1"),
        ({"noise_bound": -0.1}, ArgumentError, r"`noise_bound`.*got -0\.1"),
        ({"scale": "mean"}, ArgumentError, r"`scale`.*\"std\" or \"difference\".*got 'mean'"),
        ({"inputs": [[0.0, 1.0]]}, BatchError, "`inputs`.*list"),
        ({"inputs": torch.randn(5)}, BatchError, r"`inputs`.*\(5,\)"),
        ({"inputs": torch.randn(0, 5)}, BatchError, r"`inputs`.*\(0, 5\)"),
        ({"players": ImagePatches()}, BatchError, r"ImagePatches.*\(5,\)"),
        ({"players": FeatureMask(torch.tensor([0, 1, 2]))}, BatchError, r"\(3,\).*\(5,\)"),
        ({"targets": torch.tensor([0, 3])}, BatchError, "from 0 to 2"),
        ({"targets": torch.tensor([0])}, BatchError, r"each of 2 inputs.*int64 tensor \(1,\)"),
        ({"targets": torch.rand(2, 3)}, BatchError, "returns 3 numbers"),
        ({"targets": torch.eye(4)[:2]}, BatchError, r"\(2, 4\)"),
        ({"target": "class"}, ArgumentError, r"`target`.*got 'class'"),
        ({"target": 3}, ArgumentError, "`target`.*from 0 to 2"),
        ({"targets": [0, 1]}, BatchError, "list"),
        ({"targets": None}, BatchError, "NoneType"),
        ({"model": Game(lambda x: x.sum())}, ModelOutputError, r"shape \(\)"),
        ({"model": Game(lambda x: (x.sum(), x.long()))}, ModelOutputError, "tuple"),
        ({"score": lambda z, y: z}, ModelOutputError, "`score`"),
    ],
)
def test_bad_input_is_explained(changed: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        compute_interactions(**{**GOOD, **changed})


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, "3"], ids=repr)
def test_k_must_be_a_positive_integer(k: Any) -> None:
    result = interactions(mlp(), torch.randn(1, 5), 2)
    with pytest.raises(ArgumentError, match="`k`"):
        result.top_k(k)


@pytest.mark.thorough
def test_fourteen_players_are_exact_and_certified() -> None:
    result = compute_interactions(mlp(features=14), torch.randn(2, 14), torch.tensor([0, 1]), num_players=14)
    assert result.values.shape == (2, 2**14)
    assert float(result.gap.max()) <= 0.005
    assert float((result.reconstruct() - result.values).abs().max()) <= 1e-12 * float(result.values.abs().max())
