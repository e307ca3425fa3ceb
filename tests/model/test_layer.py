"""Cutting a model at an inner layer: equal to splitting it by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import cnn, mlp
from torch import Tensor, nn

from lightning_interactions.errors import ArgumentError, ModelOutputError
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.samples import Samples, draw_players
from lightning_interactions.measure.values import evaluate_coalitions, layer_features
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.score import log_odds, read_logits
from lightning_interactions.players import ImagePatches, RegionPlayers, TabularFeatures

N = 4


class Skip(nn.Module):
    """The part after the layer reads the input, too."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.head = nn.Linear(10 if join == "concatenate" else 5, 3)
        self.join = join

    def after(self, x: Tensor, features: Tensor) -> Tensor:
        joined = torch.cat([x, features], 1) if self.join == "concatenate" else x + features
        return self.head(joined.tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, self.layer(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head, self.unused = nn.Linear(5, 5), nn.Linear(5, 3), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x)))


class Odd(nn.Module):
    """Its layer returns whatever it is told to."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.layer.forward = make  # type: ignore[method-assign]
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return self.head(x)


def prepared(model: nn.Module, layer: str, samples: Tensor, masker: RegionPlayers) -> tuple[LayerCut, Tensor]:
    cut = LayerCut(model, layer)
    with torch.no_grad():
        cut.check(model, samples[:2])
        features = cut.features(model, samples)
    masker.fit(features)
    return cut, draw_players(masker, Samples(features, torch.zeros(len(features)), content_keys(samples)), N)[0]


def by_hand(
    before: Callable[[Tensor], Tensor],
    after: Callable[[Tensor, Tensor], Tensor],
    samples: Tensor,
    labels: Tensor,
    targets: Tensor,
    masker: RegionPlayers,
) -> Tensor:
    rows = []
    for x, players, target in zip(samples, labels, targets, strict=True):
        with torch.no_grad():
            features = before(x.unsqueeze(0)).clone()[0]
            masked = masker.mask(features, players, coalition_masks(N))
            logits = read_logits(after(x.expand(2**N, *x.shape), masked))
        rows.append(log_odds(logits, target.expand(2**N)))
    return torch.stack(rows)


def evaluate(model: nn.Module, samples: Tensor, labels: Tensor, targets: Tensor, masker, cut, chunk=None) -> Tensor:
    with torch.no_grad():
        return evaluate_coalitions(
            model, samples, labels, targets, masker=masker, num_players=N, score=log_odds, chunk_size=chunk, cut=cut
        )


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("chunk", [3, 64, None])
def test_cut_equals_the_two_halves_of_the_network(layer: int, baseline: str, chunk: int | None) -> None:
    # layer 0 is followed by an activation that writes in place
    model, samples, targets = cnn(), torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    masker = ImagePatches(grid=4, margin=0, baseline=baseline)
    cut, labels = prepared(model, str(layer), samples, masker)
    expected = by_hand(model[: layer + 1], lambda _, z: model[layer + 1 :](z), samples, labels, targets, masker)
    found = evaluate(model, samples, labels, targets, masker, cut, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_features_are_what_the_layer_returned_not_what_became_of_it() -> None:
    model, samples = cnn(), torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(LayerCut(model, "0").features(model, samples), model[0](samples))


@pytest.mark.parametrize("join", ["add", "concatenate"])
@pytest.mark.parametrize("chunk", [1, 5, 16, 40, None])
def test_a_later_part_may_read_the_input_too(join: str, chunk: int | None) -> None:
    model, samples, targets = Skip(join), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    masker = TabularFeatures("zero")
    cut, labels = prepared(model, "layer", samples, masker)
    expected = by_hand(model.layer, model.after, samples, labels, targets, masker)
    found = evaluate(model, samples, labels, targets, masker, cut, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_earlier_layers_run_once_for_a_sample() -> None:
    model, samples = cnn(), torch.randn(4, 1, 8, 8)
    masker = ImagePatches(grid=4, margin=0)
    cut, labels = prepared(model, "1", samples, masker)
    rows = {"0": 0, "3": 0}
    for name in rows:

        def count(module: nn.Module, args: tuple[Tensor], output: Tensor, name: str = name) -> None:
            rows[name] += len(output)

        model.get_submodule(name).register_forward_hook(count)
    evaluate(model, samples, labels, torch.zeros(4).long(), masker, cut)
    assert rows["3"] == 4 + 4 * 2**N  # the plain samples, then every masked one
    assert rows["0"] == 4 + 4  # not one more for all the coalitions


def test_hooks_of_the_user_see_the_masked_rows() -> None:
    model, samples = mlp(), torch.randn(3, 5)
    seen: list[int] = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    cut = LayerCut(model, "1")
    cut.resume(model, samples, torch.zeros(12, 8))
    assert seen == [12]


def test_features_in_chunks() -> None:
    model, samples = mlp(), torch.randn(7, 5)
    cut, rows = LayerCut(model, "1"), []
    model[0].register_forward_hook(lambda module, args, output: rows.append(len(output)))
    with torch.no_grad():
        expected = cut.features(model, samples)
        torch.testing.assert_close(layer_features(model, samples, cut, 3), expected)
    assert rows == [7, 3, 3, 2], "a model that squeezes would mistake a single row"


class Squeezing(nn.Module):
    """Returns (B,), but () for a single row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).tanh()).squeeze()


@pytest.mark.parametrize("samples", [1, 3])
def test_a_model_that_squeezes_is_never_asked_for_a_single_row(samples: int) -> None:
    model, x = Squeezing(), torch.randn(3, 5)
    masker = TabularFeatures("zero")
    cut, labels = prepared(model, "layer", x, masker)
    x, labels, targets = x[:samples], labels[:samples], torch.tensor([0, 1, 1])[:samples]
    expected = by_hand(model.layer, lambda _, z: model.head(z.tanh()), x, labels, targets, masker)

    def ask(inputs: Tensor) -> Tensor:
        return read_logits(model(inputs))  # fails for ()

    for chunk in (1, 3, 64):
        found = evaluate(ask, x, labels, targets, masker, cut, chunk)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# -- what cannot be cut ----------------------------------------------------------------------------------------------


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "layer", "says"),
    [
        (Twice(), "layer", "`layer` ran 2 times"),
        (Twice(), "unused", "`unused` ran 0 times"),
        (Odd(lambda x: (x, x)), "layer", "returned tuple"),
        (Odd(lambda x: None), "layer", "returned NoneType"),
        (Odd(lambda x: x.mean(0, keepdim=True)), "layer", r"returned shape \(1, 5\)"),
        (Odd(lambda x: x.sum(1)), "layer", r"returned shape \(2,\)"),
    ],
    ids=["twice", "never", "tuple", "none", "one row", "one number"],
)
def test_layers_that_cannot_be_cut_are_refused(model: nn.Module, layer: str, says: str) -> None:
    with pytest.raises(ModelOutputError, match=says):
        LayerCut(model, layer).check(model, torch.randn(2, 5))
    assert hooks(model) == 0


def test_a_cut_that_changes_the_logits_is_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x).cumsum(0))  # rows depend on the rows before them

    model = Mixing()
    with pytest.raises(ModelOutputError, match=r"cannot be cut at layer `layer`.*layer=None"):
        LayerCut(model, "layer").check(model, torch.randn(2, 5))


@pytest.mark.parametrize(
    ("layer", "near"), [("haed", "head"), ("layers", "layer"), ("", "layer"), (0, "layer"), ("head.weight", "head")]
)
def test_unknown_layers_come_with_near_matches(layer: str, near: str) -> None:
    with pytest.raises(ArgumentError, match="`layer`") as caught:
        LayerCut(Twice(), layer)
    assert f"but got {layer!r}" in str(caught.value)
    assert near in str(caught.value).split("Did you mean")[1]


def test_hooks_are_gone_after_an_error() -> None:
    model, cut = mlp(), LayerCut(mlp(), "1")
    cut = LayerCut(model, "1")
    with pytest.raises(RuntimeError):
        cut.features(model, torch.randn(2, 4))
    with pytest.raises(RuntimeError):
        cut.resume(model, torch.randn(2, 5), torch.randn(4, 9))
    assert hooks(model) == 0


def test_the_model_is_as_it_was_after_a_cut() -> None:
    model, samples = mlp(), torch.randn(2, 5)
    expected = model(samples)
    prepared(model, "1", samples, TabularFeatures())
    assert hooks(model) == 0
    assert torch.equal(model(samples), expected)
