"""Mask pairs in place of all coalitions: which masks, their values, and what is read off them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import Asked, Recorder, cnn, mlp, on_ranks
from scipy.stats import t
from torch import Tensor, nn

from lightning_interactions.errors import MeasureError
from lightning_interactions.functional import degree_energy, influence_and_variance, mean_degree, pooled_mean_degree
from lightning_interactions.functional.mask_pairs import MIN_PAIRS
from lightning_interactions.measure.coalitions import ENDS, EVERY, MaskPairs
from lightning_interactions.measure.games import Game
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.measurement import measure, measure_sampled
from lightning_interactions.measure.ranks import CELLS, Ranks
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.sampled import SampledMeasurement, read_pairs
from lightning_interactions.measure.samples import Pool, Samples, draw_players, join
from lightning_interactions.measure.values import count_cells, evaluate_coalitions, table_of
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.score import log_odds
from lightning_interactions.model.task import Task
from lightning_interactions.players import ImagePatches, Players, TabularFeatures

TASK = Task("classes", 3)
CPU = torch.device("cpu")


def columns(size: int, features: int, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(size, features, generator=generator), torch.randint(3, (size,), generator=generator)
    collector = Pool(size, balanced=True)
    collector.offer(Batch(x, y))
    found = collector.result()
    assert found is not None
    return found


def sampled(
    ranks: Ranks | None = None,
    *,
    model: nn.Module,
    samples: Samples,
    num_players: int,
    pairs: int = MIN_PAIRS,
    players: Players | None = None,
    chunk_size: int | None = None,
    task: Task = TASK,
) -> tuple[SampledMeasurement, dict[str, float]]:
    asked = Asked(model)
    game = Game.draw(asked, samples, players or TabularFeatures("zero"), num_players)
    found, losses, _ = measure_sampled(
        asked, {"val": game}, {"val": samples}, ranks or Ranks(),
        tasks={"val": task}, pairs=pairs, chunks=ChunkSize(chunk_size),
    )  # fmt: skip
    return found["val"], losses


# -- which masks ------------------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(16, 20), st.integers(-(2**63), 2**63 - 1))
def test_a_sample_has_its_own_masks_the_same_every_time(n: int, pairs: int, key: int) -> None:
    own = MaskPairs(torch.tensor([key, key ^ 1]), pairs)
    masks = own.masks(torch.arange(2), n, CPU)
    assert masks.shape == (2, own.width(n), n)
    assert torch.equal(MaskPairs(own.keys.flip(0), pairs).masks(torch.arange(2), n, CPU).flip(0), masks), "by its key"
    assert torch.equal(own.masks(torch.tensor([1]), n, CPU)[0], masks[1])
    assert not masks[:, 0].any()
    assert masks[:, 1].all()
    one, other = masks[:, ENDS:].unflatten(1, (pairs, 2)).unbind(2)
    assert (one != other).sum(-1).eq(1).all()
    if n > 8:
        assert not torch.equal(masks[0], masks[1])


def test_masks_do_not_follow_from_the_draw_of_the_players() -> None:
    """A generator with the sample's key as seed has drawn the players; the masks are of another one."""
    keys = torch.arange(200) * 7919
    masks = MaskPairs(keys, 16).masks(torch.arange(200), 30, CPU)[:, ENDS].double()
    seeded = [torch.Generator().manual_seed(key) for key in keys.tolist()]
    same = torch.stack([torch.randint(2, (16, 30), generator=generator)[0] for generator in seeded])
    agree = (masks == same).double().mean()
    assert abs(float(agree) - 0.5) < 5 * 0.5 / math.sqrt(200 * 30)


# -- their values -----------------------------------------------------------------------------------------------------


def by_loops(model: nn.Module, samples: Tensor, players: Tensor, targets: Tensor, masks: list[Tensor]) -> Tensor:
    """Log-odds with absent players at zero, one call for each sample and mask."""
    rows = []
    for sample, labels, target, own in zip(samples, players, targets.tolist(), masks, strict=True):
        row = []
        for mask in own.tolist():
            absent = [i for i, present in enumerate(mask) if not present]
            with torch.no_grad():
                z = model(sample.masked_fill(torch.isin(labels, torch.tensor(absent)), 0.0)[None])[0].double()
            row.append(float(z[target] - torch.cat([z[:target], z[target + 1 :]]).logsumexp(0)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("chunk_size", [1, 7, 34, 50, 1000, None])
@pytest.mark.parametrize("counts", [(20, 20, 20, 20), (20, 3, 7, 20)], ids=["even", "uneven"])
def test_values_equal_a_plain_double_loop(chunk_size: int | None, counts: tuple[int, ...]) -> None:
    model, samples, targets = mlp(features=20), torch.randn(4, 20), torch.tensor([0, 1, 2, 1])
    players = torch.stack([torch.arange(20).where(torch.arange(20) < count, -1) for count in counts])
    asked = MaskPairs(content_keys(samples), 16)
    masks = [asked.masks(torch.tensor([i]), count, CPU)[0] for i, count in enumerate(counts)]
    recorder = Recorder(model)
    with torch.no_grad():
        found = evaluate_coalitions(
            recorder, samples, players, targets,
            masker=TabularFeatures("zero"), num_players=20, score=log_odds, chunk_size=chunk_size, coalitions=asked,
        )  # fmt: skip
    expected = by_loops(model, samples, players, targets, masks)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert sum(recorder.rows) == 4 * 34 == count_cells(players, asked)
    assert max(recorder.rows) <= (chunk_size or 1000)


@pytest.mark.parametrize("layer", [None, "1"])
def test_values_of_images_and_of_layers(layer: str | None) -> None:
    model, targets = cnn(), torch.tensor([2, 0, 1])
    images = torch.randn(3, 1, 8, 8)
    asked, masker = MaskPairs(content_keys(images), 16), ImagePatches(grid=6, margin=0)
    cut = LayerCut(model, layer) if layer else None
    with torch.no_grad():
        masked = images if cut is None else cut.features(model, images).clone()
        players, n = draw_players(masker, Samples(masked, targets, content_keys(images)), 30)
        found = evaluate_coalitions(
            model, images, players, targets,
            masker=masker, num_players=n, score=log_odds, chunk_size=9, coalitions=asked, cut=cut,
        )  # fmt: skip
    head = model if layer is None else model[2:]
    masks = list(asked.masks(torch.arange(3), 30, CPU))
    torch.testing.assert_close(found, by_loops(head, masked, players, targets, masks), rtol=1e-5, atol=1e-5)


def test_a_smaller_image_beside_larger_ones_has_its_own_masks() -> None:
    images, targets, masker = torch.randn(3, 1, 8, 8), torch.tensor([2, 0, 1]), ImagePatches(grid=6, margin=0)
    keys = content_keys(images)
    parts = [Samples(images[[i], :, :size, :size], targets[[i]], keys[[i]]) for i, size in enumerate((8, 6, 8))]
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def values(samples: Samples) -> Tensor:
        labels, n = draw_players(masker, samples, 30)
        with torch.no_grad():
            return evaluate_coalitions(
                model, samples.inputs, labels, samples.targets,
                masker=masker, num_players=n, score=log_odds, sizes=samples.sizes,
                coalitions=MaskPairs(samples.keys, 16),
            )  # fmt: skip

    torch.testing.assert_close(values(join(parts)), torch.cat([values(part) for part in parts]), rtol=1e-5, atol=1e-6)


@given(st.data(), st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(1, 60))
def test_shares_put_together_are_the_whole_table(data: st.DataObject, counts: list[int], chunk_size: int) -> None:
    n, size = max(counts), len(counts)
    x = torch.arange(1.0, size + 1).unsqueeze(1) * 2 ** torch.arange(float(n))
    players = torch.stack([torch.arange(n).where(torch.arange(n) < count, -1) for count in counts])
    asked, rows = MaskPairs(torch.arange(size), 16), 0

    def model(inputs: Tensor) -> Tensor:
        nonlocal rows
        rows += len(inputs)
        return inputs

    options: dict[str, Any] = {
        "masker": TabularFeatures("zero"), "num_players": n, "score": lambda z, y: z.sum(1), "chunk_size": chunk_size,
        "coalitions": asked,
    }  # fmt: skip
    targets = torch.zeros(size, dtype=torch.long)
    whole = evaluate_coalitions(model, x, players, targets, **options)
    total = size * asked.width(n)
    cuts = sorted({0, total, *data.draw(st.lists(st.integers(0, total), max_size=3))})
    pieces = itertools.pairwise(cuts)
    shares = [evaluate_coalitions(model, x, players, targets, cells=range(*ends), **options) for ends in pieces]
    assert rows == 2 * total, "nothing runs twice"
    assert torch.equal(table_of(torch.cat(shares), players, n, None, asked), whole)


# -- what is read off them --------------------------------------------------------------------------------------------


def test_a_measurement_is_the_estimate_of_its_pairs() -> None:
    model, samples = mlp(features=40), columns(6, 40)
    found, losses = sampled(model=model, samples=samples, num_players=30)
    players = draw_players(TabularFeatures("zero"), samples, 30)[0]
    masks = list(MaskPairs(samples.keys, 16).masks(torch.arange(6), 30, CPU))
    values = by_loops(model, samples.inputs, players, samples.targets, masks)
    pairs = values[:, ENDS:].unflatten(1, (16, 2))
    top, bottom = influence_and_variance(pairs, 30)
    degree = top.sum() / bottom.sum()
    without = [(top.sum() - a) / (bottom.sum() - b) for a, b in zip(top, bottom, strict=True)]
    error = math.sqrt(5 / 6 * sum(float(x - degree) ** 2 for x in without))
    half = t.ppf(0.975, float(bottom.sum() ** 2 / bottom.square().sum()) - 1) * error
    numbers = {
        "mean_degree": degree, "mean_degree_error": error, "mean_degree_lower": degree - half,
        "mean_degree_upper": degree + half, "total_variance": bottom.mean(),
        "effect": (values[:, 1] - values[:, 0]).abs().mean(), "skipped_samples": 0, "mean_players": 30,
    }  # fmt: skip
    assert found.numbers == pytest.approx({key: float(x) for key, x in numbers.items()}, rel=1e-4)
    assert all(type(value) is float for value in found.numbers.values())
    assert float(found.influence.sum() / found.variance.sum()) == found.numbers["mean_degree"], "what is followed"
    delta = pooled_mean_degree(pairs, 30)
    assert found.numbers["mean_degree"] == pytest.approx(float(delta.mean_degree), abs=float(delta.standard_error))
    assert (found.watched, found.skipped, found.is_blank) == (6, 0, False)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(samples.inputs).double(), samples.targets)
    assert losses["val"] == pytest.approx(float(loss), rel=1e-6)


def test_exact_agrees_with_sampled_within_its_error() -> None:
    """The same samples and players once with all masks, once with pairs: the error of the pairs alone lies between."""
    model, samples = mlp(features=10), columns(8, 10)
    asked = Asked(model)
    game = Game.draw(asked, samples, TabularFeatures("zero"), 10)
    what: Any = (asked, {"val": game}, {"val": samples}, Ranks())
    exact = measure(*what, tasks={"val": TASK}, reading=Reading())[0]["val"].numbers
    few, many = (measure_sampled(*what, tasks={"val": TASK}, pairs=k)[0]["val"].numbers for k in (96, 8000))
    assert few["mean_degree_lower"] < exact["mean_degree"] < few["mean_degree_upper"]
    assert few["mean_degree"] != pytest.approx(exact["mean_degree"], rel=1e-3), "else the interval says nothing"
    assert many["mean_degree"] == pytest.approx(exact["mean_degree"], rel=0.02)
    assert many["effect"] == pytest.approx(exact["effect"], rel=1e-5)
    values = evaluate_coalitions(
        model, samples.inputs, game.labels, samples.targets,
        masker=game.players, num_players=10, score=log_odds, coalitions=EVERY,
    ).detach()  # fmt: skip
    assert many["total_variance"] == pytest.approx(float(values.var(1, correction=0).mean()), rel=0.05)
    assert exact["mean_degree"] == pytest.approx(float(mean_degree(degree_energy(values).mean(0))), rel=1e-4)


def test_a_sample_with_fewer_players_has_its_own_game() -> None:
    """Additive scores of n_i players have degree 1 whatever n_i is; with the largest n it would be above."""
    counts = torch.tensor([40, 5, 17])
    asked = MaskPairs(torch.arange(3), 4000)
    rows = [asked.masks(torch.tensor([i]), n, CPU)[0].double().sum(1) for i, n in enumerate(counts.tolist())]
    found = read_pairs(torch.stack(rows), counts)
    assert found.numbers["mean_degree"] == pytest.approx(1, abs=0.05)
    assert (found.influence / found.variance).tolist() == pytest.approx([1, 1, 1], abs=0.1)
    assert found.numbers["total_variance"] == pytest.approx((40 + 5 + 17) / 4 / 3, rel=0.05)
    assert found.numbers["effect"] == pytest.approx((40 + 5 + 17) / 3)
    assert found.numbers["mean_players"] == pytest.approx(62 / 3)


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_score_leaves_its_sample_out(at: int, bad: float) -> None:
    values = torch.randn(4, ENDS + 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = read_pairs(values[1:], torch.full((3,), 9)).numbers
    values[0, at] = bad
    found = read_pairs(values, torch.full((4,), 9))
    assert found.numbers == pytest.approx({**expected, "skipped_samples": 1.0})
    assert (found.skipped, found.watched) == (1, 4)
    assert found.influence.isnan().tolist() == [True, False, False, False]


def test_scores_that_do_not_vary_have_no_degree() -> None:
    found = read_pairs(torch.full((4, ENDS + 32), 0.1, dtype=torch.float64), torch.full((4,), 9))
    assert found.is_blank
    assert math.isnan(found.numbers["mean_degree"])
    assert found.numbers["total_variance"] == found.numbers["effect"] == 0
    assert not read_pairs(torch.full((4, ENDS + 32), math.nan), torch.full((4,), 9)).is_blank, "nothing is known"


# -- ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("size", [2, 5])
def test_ranks_have_the_numbers_of_one(world_size: int, size: int) -> None:
    what: dict[str, Any] = {"model": mlp(features=30).double(), "samples": columns(size, 30), "num_players": 25}
    expected, losses = sampled(**what)
    everyone = on_ranks(world_size, lambda ranks: sampled(ranks, **what))
    for found, own in everyone:
        assert found.numbers == pytest.approx(expected.numbers, rel=1e-9)
        torch.testing.assert_close(found.variance, expected.variance, rtol=1e-9, atol=0)
        assert found.numbers == everyone[0][0].numbers, "to the bit"
        assert own == pytest.approx(losses, rel=1e-9)


def test_ranks_share_the_pairs_evenly() -> None:
    masked: dict[int, int] = {0: 0, 1: 0}

    def rows(ranks: Ranks) -> None:
        class Counted(TabularFeatures):
            def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
                masked[ranks.rank] += len(samples) * len(coalitions)
                return super().mask_batch(samples, players, coalitions)

        sampled(ranks, model=model, samples=watched, num_players=25, pairs=96, players=Counted("zero"))

    model, watched = mlp(features=30), columns(3, 30)
    assert on_ranks(2, rows) == [None, None]
    assert sum(masked.values()) == 3 * (ENDS + 192)
    assert abs(masked[0] - masked[1]) <= CELLS


def test_a_failure_on_one_rank_stops_all_of_them() -> None:
    models = [mlp(features=30), Recorder(mlp(features=30), 0, ValueError("broken here"))]
    watched = columns(3, 30)
    both = on_ranks(2, lambda ranks: sampled(ranks, model=models[ranks.rank], samples=watched, num_players=25))
    assert all(isinstance(found, MeasureError) and "broken here" in str(found) for found in both)
