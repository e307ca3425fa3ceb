"""One measurement, on one rank or several: the same numbers."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import Asked, Exchange, Recorder, mlp, on_ranks
from torch import Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.errors import MeasureError, ModelCallError
from lightning_interactions.functional import (
    degree_energy,
    effect_order,
    interaction_histogram,
    mean_degree,
    mean_order,
    order_strength,
    roughness,
    salient_count,
    sparse_and_or,
)
from lightning_interactions.measure import ranks as ranks_module
from lightning_interactions.measure.games import Game
from lightning_interactions.measure.measurement import Measurement, measure
from lightning_interactions.measure.ranks import CELLS, Ranks
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.samples import Pool, Samples
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.model import Model
from lightning_interactions.model.task import Task
from lightning_interactions.players import Players, TabularFeatures

N = 4
TASK = Task("classes", 3)
NETWORK = mlp(features=6)


def probe(size: int, features: int = 6, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(size, features, generator=generator), torch.randint(3, (size,), generator=generator)
    collector = Pool(size, balanced=True)  # keys are those of `compute_interactions`
    collector.offer(Batch(x, y))
    found = collector.result()
    assert found is not None
    return found


PAPERS = Reading(0.0, 0.03, "difference")
"""The exact split, and the papers' threshold."""


def measured(
    ranks: Ranks | None = None,
    *,
    model: nn.Module = NETWORK,
    size: int = 5,
    num_players: int = N,
    reading: Reading = PAPERS,
    chunk_size: int | None = None,
    task: Task = TASK,
    players: Players | None = None,
    precision: Any = None,
    features: int = 6,
) -> tuple[dict[str, Measurement], dict[str, float]]:
    asked, watched = Asked(model, precision=precision), probe(size, features)
    game = Game.draw(asked, watched, players or TabularFeatures("zero"), num_players)
    found, losses, _ = measure(
        asked, {"val": game}, {"val": watched, "train": probe(7, features, seed=1)}, ranks or Ranks(),
        tasks={"val": task, "train": task}, reading=reading, chunks=ChunkSize(chunk_size),
    )  # fmt: skip
    return found, losses


def same(first: Measurement, second: Measurement) -> None:
    for name in (
        "strength",
        "mean_strength",
        "energy",
        "tail",
        "gap",
        "histogram",
        "edges",
        "target",
        "prediction",
        "followed",
    ):
        torch.testing.assert_close(
            getattr(first, name), getattr(second, name), rtol=1e-9, atol=1e-9, equal_nan=True, msg=name
        )
    assert set(first.numbers) == set(second.numbers)
    for key, value in first.numbers.items():  # another number of rows in a forward is another rounding
        if not key.startswith("noise"):
            assert value == pytest.approx(second.numbers[key], rel=1e-9, abs=1e-9, nan_ok=True), key


def same_to_the_bit(first: Measurement, second: Measurement) -> None:
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, Tensor):
            assert torch.equal(value.nan_to_num(-1e9), other.nan_to_num(-1e9)), name
        else:
            assert {k: repr(v) for k, v in value.items()} == {k: repr(v) for k, v in other.items()}


# -- the numbers -----------------------------------------------------------------------------------------------------


def test_a_measurement_is_what_compute_interactions_says() -> None:
    model, watched = NETWORK, probe(5)
    found, losses = measured(model=model)
    result = compute_interactions(model, watched.inputs, watched.targets, TabularFeatures("zero"), num_players=N)
    strength = result.strength(0.03, "difference")
    torch.testing.assert_close(found["val"].strength, strength, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found["val"].gap, result.gap, rtol=1e-4, atol=1e-6)
    scale = float((result.values[:, -1] - result.values[:, 0]).abs().mean())
    limit = 0.03 * scale
    count = [
        sum(abs(float(x)) >= limit and float(x) != 0 for part in (result.and_[i], result.or_[i]) for x in part[1:])
        for i in range(5)
    ]
    assert found["val"].numbers["salient_count"] == pytest.approx(sum(count) / 5)
    histogram = interaction_histogram(result.and_, result.or_, scale, found["val"].edges.double()).sum(0)
    assert torch.equal(found["val"].histogram, histogram.long())
    with torch.no_grad():
        expected = F.cross_entropy(model(watched.inputs).double(), watched.targets)
    assert losses["val"] == pytest.approx(float(expected), rel=1e-6)
    assert set(losses) == {"val", "train"}


@pytest.mark.parametrize("reading", [Reading(), Reading(0.02, 0.03, "difference"), Reading(0.1, 0.0, tolerance=1e-3)])
def test_a_reading_with_a_residual_is_what_compute_interactions_says(reading: Reading) -> None:
    found = measured(reading=reading)[0]["val"]
    watched, bound = probe(5), reading.noise_bound
    result = compute_interactions(
        NETWORK, watched.inputs, watched.targets, TabularFeatures("zero"),
        num_players=N, noise_bound=bound, scale=reading.scale,
    )  # fmt: skip
    values = result.values
    unit = {"std": values.std(1, correction=0), "difference": (values[:, -1] - values[:, 0]).abs()}[reading.scale]
    assert found.numbers["scale"] == pytest.approx(float(unit.mean()))
    closer = sparse_and_or(values, noise_bound=bound, scale=unit.mean(), tol=reading.gap)
    strength = order_strength(closer.and_, closer.or_, reading.salience * unit.mean())
    torch.testing.assert_close(found.strength, strength, rtol=1e-5, atol=1e-7)
    assert float(found.gap.max()) <= reading.gap
    assert (result.reconstruct() - values).abs().max() <= bound * unit.mean() * (1 + 1e-9)
    assert (result.reconstruct() - values).abs().max() > 0.5 * bound * unit.mean(), "the freedom is used"


@pytest.mark.parametrize("reading", [Reading(), PAPERS])
def test_what_needs_no_split_with_a_residual_is_that_of_the_values(reading: Reading) -> None:
    found, watched = measured(reading=reading)[0]["val"], probe(5)
    values = compute_interactions(
        NETWORK, watched.inputs, watched.targets, TabularFeatures("zero"), num_players=N
    ).values
    energy = degree_energy(values)
    torch.testing.assert_close(found.energy, energy, rtol=1e-5, atol=1e-9)
    assert found.numbers["mean_degree"] == pytest.approx(float(mean_degree(energy.mean(0))), rel=1e-5)
    split = sparse_and_or(values, tol=1e-3)
    tail = order_strength(split.and_, split.or_, 0.0)
    assert found.numbers["effect_order"] == pytest.approx(float(effect_order(tail.mean(0))), rel=0.05)
    assert found.numbers["roughness"] == pytest.approx(float(roughness(tail, values)), rel=0.11)


def test_samples_on_which_nothing_depends_have_no_strength_and_divide_nothing_by_zero() -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight.zero_()
    for reading in (Reading(), PAPERS):
        found = measured(model=model, reading=reading)[0]["val"]
        assert not found.strength.any()
        assert found.numbers["scale"] == found.numbers["effect"] == found.numbers["salient_count"] == 0
        assert found.numbers["solver_gap"] == 0
        assert not found.is_rough
        assert math.isnan(found.numbers["mean_order"])


def test_a_measurement_knows_what_the_model_and_the_data_say() -> None:
    model, watched = NETWORK, probe(5)
    found = measured(model=model)[0]["val"]
    with torch.no_grad():
        answers = model(watched.inputs).argmax(1)
    assert found.prediction.tolist() == answers.tolist()
    assert found.target.tolist() == found.followed.tolist() == watched.targets.tolist()
    assert found.prediction.tolist() != found.target.tolist(), "they can be told apart"


@pytest.mark.parametrize("salience", [0.0, 0.03, 0.5])
def test_the_histogram_begins_at_the_threshold(salience: float) -> None:
    found = measured(reading=Reading(0.0, salience, "difference"))[0]["val"]
    edges = found.edges
    assert torch.equal(edges, -edges.flip(0))
    smallest = max(salience, 1e-3)
    assert float(edges[edges > 0].min()) == pytest.approx(smallest)
    outermost = edges[edges > 0].topk(2).values[1]
    assert float(outermost) == pytest.approx(100 * smallest)
    assert found.histogram.shape == (N, len(edges) - 1)
    if salience:  # the bins outside of the centre are what is salient
        outside = found.histogram.sum() - found.histogram[:, len(edges) // 2 - 1].sum()
        assert float(outside) == pytest.approx(5 * found.numbers["salient_count"])


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_chunks_do_not_matter_and_are_kept(chunk_size: int) -> None:
    recorder = Recorder(NETWORK)
    found, losses = measured(model=recorder, chunk_size=chunk_size)
    expected, expected_losses = measured()
    torch.testing.assert_close(found["val"].strength, expected["val"].strength, rtol=1e-3, atol=1e-5)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    assert max(recorder.rows) <= max(chunk_size, 2)


def test_scalars_are_the_logged_keys() -> None:
    measurement = measured()[0]["val"]
    scalars = measurement.numbers
    names = {"mean_order", "low_order_share", "high_order_share", "cancellation", "salient_count", "solver_gap",
             "skipped_samples", "mean_players", "mean_order_lower", "mean_order_upper", "mean_degree", "effect_order",
             "roughness", "scale", "effect"}  # fmt: skip
    orders = {f"strength/order_{k:02d}_{sign}" for k in range(1, N + 1) for sign in ("pos", "neg")}
    noise = {f"noise_floor/order_{k:02d}" for k in range(1, N + 1)}
    assert set(scalars) == names | orders | noise
    assert all(type(value) is float and math.isfinite(value) for value in scalars.values())
    mean = measurement.strength.mean(0)
    torch.testing.assert_close(measurement.mean_strength, mean)
    for k in range(1, N + 1):
        assert scalars[f"strength/order_{k:02d}_pos"] == pytest.approx(float(mean[0, k - 1]))
        assert scalars[f"strength/order_{k:02d}_neg"] == pytest.approx(float(mean[1, k - 1]))
    # averaged over samples first, then read off
    assert scalars["mean_order"] == pytest.approx(float(mean_order(mean)))
    assert scalars["solver_gap"] == pytest.approx(float(measurement.gap.max()))
    result = compute_interactions(NETWORK, probe(5).inputs, probe(5).targets, TabularFeatures("zero"), num_players=N)
    limit = 0.03 * (result.values[:, -1] - result.values[:, 0]).abs().mean()
    counts = salient_count(result.and_, result.or_, limit).double()
    assert scalars["salient_count"] == pytest.approx(float(counts.mean()))
    assert scalars["skipped_samples"] == 0
    assert scalars["mean_players"] == N


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2])
def test_models_that_squeeze_their_output(classes: int, world_size: int) -> None:
    plain = mlp(features=6, classes=classes)

    class Squeezing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return plain(x).squeeze()

    def binary(model: nn.Module, ranks: Ranks) -> Any:
        watched = probe(6)
        if classes == 1:
            watched = Samples(watched.inputs, watched.targets.clamp(max=1), watched.keys)
        game = Game(watched, TabularFeatures("zero"), torch.arange(6).clamp(max=3).expand(6, 6), N)
        task = Task("binary", 1) if classes == 1 else TASK
        return measure(Asked(model), {"val": game}, {"val": watched}, ranks, tasks={"val": task}, reading=PAPERS)[:2]

    expected, expected_losses = binary(plain, Ranks())
    squeezing = Squeezing()
    for found, losses in on_ranks(world_size, lambda ranks: binary(squeezing, ranks)):
        torch.testing.assert_close(found["val"].strength, expected["val"].strength, rtol=1e-3, atol=1e-5)
        assert losses == pytest.approx(expected_losses, rel=1e-6)


# -- ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("size", [2, 5, 6])
def test_ranks_have_the_numbers_of_one(world_size: int, size: int) -> None:
    model = mlp(features=6).double()  # single precision rounds differently for other numbers of rows
    expected, expected_losses = measured(size=size, model=model)
    everyone = on_ranks(world_size, lambda ranks: measured(ranks, size=size, model=model))
    for found, losses in everyone:
        same(found["val"], expected["val"])
        same_to_the_bit(found["val"], everyone[0][0]["val"])
        assert losses == pytest.approx(expected_losses, rel=1e-9)
        assert losses == everyone[0][1]


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_the_pairs_evenly(world_size: int) -> None:
    """Two samples, fewer than there are ranks: a rank's share is part of a sample, within one unit of the others'."""
    model = mlp(features=7)

    def rows(ranks: Ranks) -> int:
        masked: list[int] = []

        class Counted(TabularFeatures):
            def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
                masked.append(len(samples) * len(coalitions))
                return super().mask_batch(samples, players, coalitions)

        found, _ = measured(ranks, size=2, model=model, num_players=7, players=Counted("zero"), features=7)
        assert found["val"].strength.shape == (2, 2, 7)
        return sum(masked)

    pairs = 2 * 2**7 + 2**7  # the rounding noise is measured on one more sample
    shares = on_ranks(world_size, rows)
    assert sum(shares) == pairs
    assert all(abs(share - pairs / world_size) <= 2 * CELLS for share in shares), "a unit for each of the two tables"


@pytest.mark.parametrize("total", [4, 32, 100, 160, 1024])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_shares_of_cells_join_to_the_whole(world_size: int, total: int) -> None:
    shares = [Ranks(rank, world_size).cells(total) for rank in range(world_size)]
    assert [cell for share in shares for cell in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= CELLS
    joined = on_ranks(
        world_size, lambda ranks: torch.cat(ranks.exchange(torch.tensor(ranks.cells(total), dtype=torch.float64)))
    )
    for whole in joined:
        assert torch.equal(whole, torch.arange(total, dtype=torch.float64))


def test_a_failure_on_one_rank_stops_all_of_them() -> None:
    models = [NETWORK, Recorder(NETWORK, 0, ValueError("broken here"))]
    healthy, broken = on_ranks(2, lambda ranks: measured(ranks, model=models[ranks.rank]))
    assert isinstance(healthy, MeasureError)
    reason = (
        "ModelCallError: TwoPhaseMonitor called Recorder with float32 (5, 6), and it raised ValueError: broken here."
    )
    assert str(healthy).startswith(f"on rank 1: {reason}")
    assert isinstance(broken, MeasureError)
    assert str(broken).startswith(reason)
    assert isinstance(broken.__cause__, ModelCallError)
    assert isinstance(broken.__cause__.__cause__, ValueError)


@pytest.mark.parametrize(
    ("problems", "expected"),
    [((None, None), (None, None)), (("mine", None), ("mine", "on rank 0: mine")),
     ((None, "é" * 300), ("on rank 1: " + "é" * 200, "é" * 300)),
     (("mine", "yours"), ("mine", "yours"))],
    ids=["well", "one", "long-text", "both"],
)  # fmt: skip
def test_ranks_agree(problems: tuple[str | None, ...], expected: tuple[str | None, ...]) -> None:
    assert tuple(on_ranks(2, lambda ranks: ranks.agree(problems[ranks.rank]))) == expected


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool, torch.int16, torch.long, torch.uint8], ids=str
)
@pytest.mark.parametrize("counts", [(3, 0, 2), (0, 0, 4), (0, 0, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("limit", [2**26, 40], ids=["at-once", "in-pieces"])
def test_rows_of_unequal_numbers_are_gathered(
    dtype: torch.dtype, counts: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks_module, "GATHER_BYTES", limit)
    for shape in ((2, 5), (), (0,)):
        whole = (torch.randn(sum(counts), *shape) * 50).to(dtype)
        parts = whole.split(counts)
        for found in on_ranks(3, lambda ranks, parts=parts: ranks.gather_rows(parts[ranks.rank], counts)):
            assert found.dtype == dtype
            assert torch.equal(found, whole)


def test_one_rank_agrees_with_itself() -> None:
    assert Ranks().agree(None) is None
    assert Ranks().agree("mine") == "mine"
    assert Ranks().share(3) == slice(0, 3)
    (own,) = Ranks().exchange(torch.arange(5))
    assert torch.equal(own, torch.arange(5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.long], ids=str)
@pytest.mark.parametrize("counts", [(3, 0, 2), (0, 0, 4), (0, 0, 0), (1, 1, 1), (2,)], ids=str)
@pytest.mark.parametrize("shape", [(), (2, 5), (0,)], ids=str)
def test_parts_of_unequal_length_are_exchanged(
    dtype: torch.dtype, counts: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    parts = [(torch.randn(count, *shape) * 50).to(dtype) for count in counts]
    before = [part.clone() for part in parts]
    for everyone in on_ranks(len(counts), lambda ranks: ranks.exchange(parts[ranks.rank])):
        assert len(everyone) == len(counts)
        for found, part in zip(everyone, before, strict=True):
            assert found.dtype == dtype
            assert torch.equal(found, part)


def test_single_numbers_are_exchanged_as_such() -> None:
    numbers = [torch.tensor(2.5, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)]
    for everyone in on_ranks(2, lambda ranks: ranks.exchange(numbers[ranks.rank])):
        assert [found.shape for found in everyone] == [()] * 2
        assert torch.stack(everyone).tolist() == [2.5, -1.0]
        assert everyone[0].dtype == torch.float64


def test_one_rank_exchanges_nothing_and_many_all_the_same_number_of_times() -> None:
    def agreeing_only(local: Tensor) -> Tensor:
        assert local.dtype == torch.uint8, "nobody is there to hear of numbers"
        return local

    found, losses = measured(Ranks(gather=agreeing_only))
    assert math.isfinite(losses["val"])
    assert found["val"].skipped == 0
    exchange = Exchange(3)
    on_ranks(3, lambda ranks: measured(ranks, size=2), exchange)
    assert len({exchange.calls.count(rank) for rank in range(3)}) == 1


@pytest.mark.parametrize("where", ["model", "forward", "players", "score"])
def test_every_failure_becomes_a_measure_error(where: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("gone")

    broken: dict[str, Any] = {
        "model": {"model": Recorder(NETWORK, 0, KeyError("gone"))},
        "forward": {"precision": SimpleNamespace(forward_context=nullcontext, convert_input=fail)},
        "players": {"players": type("Broken", (TabularFeatures,), {"mask_batch": fail})("zero")},
        "score": {"task": Task("classes", 3, fail)},
    }[where]
    with pytest.raises(MeasureError, match="KeyError: 'gone'"):
        measured(**broken)


def test_an_interruption_is_not_caught() -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(model=Recorder(NETWORK, 0, KeyboardInterrupt()))


# -- outputs that are not finite -------------------------------------------------------------------------------------


class Poisoned(nn.Module):
    """Returns nan for some samples of the probe, whenever nothing of them is masked."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.inner, self.rows = NETWORK, probe(5).inputs[rows]

    def forward(self, x: Tensor) -> Tensor:
        hit = (x.unsqueeze(1) == self.rows).all(-1).any(1, keepdim=True)
        return torch.where(hit, torch.nan, self.inner(x))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("rows", [[1], [0, 4]], ids=str)
def test_samples_that_are_not_finite_are_skipped_and_counted(rows: list[int], world_size: int) -> None:
    watched = probe(5)
    kept = [i for i in range(5) if i not in rows]
    good = compute_interactions(
        NETWORK, watched.inputs[kept], watched.targets[kept], TabularFeatures("zero"), num_players=N
    )
    scale = (good.values[:, -1] - good.values[:, 0]).abs().mean()
    poisoned = Poisoned(rows)
    for found, losses in on_ranks(world_size, lambda ranks: measured(ranks, model=poisoned)):
        measurement = found["val"]
        assert measurement.skipped == len(rows)
        assert measurement.numbers["skipped_samples"] == len(rows)
        assert measurement.strength[rows].isnan().all()
        for answer in (measurement.gap, measurement.target, measurement.prediction, measurement.followed):
            assert answer.isnan().nonzero().flatten().tolist() == rows
        count = salient_count(good.and_, good.or_, 0.03 * scale).double()
        assert measurement.numbers["salient_count"] == pytest.approx(float(count.mean()))
        histogram = interaction_histogram(good.and_, good.or_, float(scale), measurement.edges).sum(0)
        assert torch.equal(measurement.histogram, histogram.long()), "the scale is that of the samples that count"
        torch.testing.assert_close(measurement.strength[kept], good.strength(0.03, "difference"), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            measurement.mean_strength, good.strength(0.03, "difference").mean(0), rtol=1e-5, atol=1e-7
        )
        assert all(math.isfinite(value) for value in measurement.numbers.values())
        assert math.isfinite(losses["val"])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_sample_of_infinite_loss_is_left_out_of_the_mean(world_size: int) -> None:
    row = int(probe(5).targets.nonzero()[0])

    class Sure(Poisoned):
        """Sure beyond measure of class 0, of a sample of another class."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(super().forward(x).isnan(), torch.tensor([torch.inf, 0.0, 0.0]), self.inner(x))

    _, without = measured(model=Poisoned([row]))
    sure = Sure([row])
    for _, losses in on_ranks(world_size, lambda ranks: measured(ranks, model=sure)):
        assert losses["val"] == pytest.approx(without["val"], rel=1e-6)


@pytest.mark.parametrize("world_size", [1, 2])
def test_if_no_sample_is_finite_the_numbers_say_so(world_size: int) -> None:
    poisoned = Poisoned([0, 1, 2, 3, 4])
    for found, losses in on_ranks(world_size, lambda ranks: measured(ranks, model=poisoned)):
        scalars = found["val"].numbers
        assert scalars["skipped_samples"] == 5
        assert math.isnan(scalars["mean_order"])
        assert math.isnan(scalars["solver_gap"])
        assert math.isnan(losses["val"])
        assert math.isfinite(losses["train"])
        assert not found["val"].histogram.any()
        assert found["val"].mean_strength.isnan().all()
        assert not found["val"].is_noisy


# -- the losses of single samples --------------------------------------------------------------------------------------


def losses_of(samples: Samples, world_size: int = 1, model: nn.Module = NETWORK, **options: Any) -> Any:
    """The mean loss and that of each sample, as every rank has them."""
    game = Game.draw(Asked(model), probe(2), TabularFeatures("zero"), N)
    everyone = on_ranks(
        world_size,
        lambda ranks: measure(
            Asked(model), {"val": game}, {"val": samples}, ranks, tasks={"val": TASK}, reading=PAPERS, **options
        )[1:],
    )
    return [(mean["val"], each["val"]) for mean, each in everyone]


def plain_losses(samples: Samples) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(NETWORK(samples.inputs).double(), samples.targets, reduction="none")


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_the_losses_of_single_samples_are_in_their_order_on_every_rank(world_size: int) -> None:
    samples = probe(7)
    for mean, each in losses_of(samples, world_size, chunks=ChunkSize(2)):
        torch.testing.assert_close(each, plain_losses(samples), rtol=1e-5, atol=1e-7)
        assert mean == pytest.approx(float(each.mean()), rel=1e-12)


def test_a_sample_that_occurs_often_counts_often_among_the_losses() -> None:
    """The mean of all is that of the data; its standard error is what drawing other samples with their counts gives."""
    counts = torch.tensor([1, 1, 5, 1, 2, 1, 1])
    samples = replace(probe(7), counts=counts)
    loss = plain_losses(samples)
    ((mean, each),) = losses_of(samples)
    expected = float((loss * counts).sum() / counts.sum())
    assert mean == pytest.approx(expected, rel=1e-6)
    assert float(each.mean()) == pytest.approx(expected, rel=1e-6)
    drawn = torch.randint(7, (20_000, 7))
    again = (loss * counts)[drawn].sum(1) / counts[drawn].sum(1)
    assert float(each.std(correction=0)) / 7**0.5 == pytest.approx(float(again.std()), rel=0.2)
    twice = losses_of(replace(samples, counts=torch.full((7,), 2)))[0][1]
    torch.testing.assert_close(twice, loss, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("world_size", [1, 2])
def test_samples_without_a_finite_loss_are_gaps_among_the_losses(world_size: int) -> None:
    for mean, each in losses_of(probe(5), world_size, Poisoned([1])):
        assert each.isnan().tolist() == [False, True, False, False, False]
        assert mean == pytest.approx(float(each.nanmean()), rel=1e-12)


@pytest.mark.parametrize("world_size", [1, 2])
def test_losses_of_images_of_several_sizes_are_in_the_order_of_the_samples(world_size: int) -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.stack([flat.mean(1), flat.sum(1), flat[:, 0]], 1)

    net = Brightness()
    inputs, sizes = torch.zeros(4, 1, 4, 4), torch.tensor([[1, 2, 2], [1, 4, 4], [1, 2, 2], [1, 4, 4]])
    for row, size in enumerate(sizes.tolist()):
        inputs[row, :, : size[1], : size[2]] = torch.randn(size)
    samples = Samples(inputs, torch.tensor([0, 1, 2, 0]), torch.arange(4), (), torch.ones(4).long(), sizes)
    own = [inputs[row : row + 1, :, : size[1], : size[2]] for row, size in enumerate(sizes.tolist())]
    outputs = torch.cat([net(x) for x in own])
    expected = F.cross_entropy(outputs.double(), samples.targets, reduction="none")
    for _, each in losses_of(samples, world_size, net):
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-6)


# -- players on an inner layer ---------------------------------------------------------------------------------------


def test_a_mean_baseline_follows_the_layer() -> None:
    network, watched = mlp(features=6), probe(5)
    model = Model(network, cut=LayerCut(network, "1"))
    with model.quiet():
        game = Game.draw(model, watched, TabularFeatures("mean"), N)
        labels = game.labels.clone()
        with torch.no_grad():
            network[0].weight.mul_(-2)
        game.refit(model)
        now = network[:2](watched.inputs)
    absent = game.players.mask(now[0], torch.zeros(8).long(), torch.tensor([[False]]))
    torch.testing.assert_close(absent[0], now.mean(0))
    assert torch.equal(game.labels, labels)  # the players stay, whatever the weights become


def test_a_baseline_of_the_inputs_does_not_move() -> None:
    watched, players = probe(5), TabularFeatures("mean")
    model = Model(NETWORK)
    with model.quiet():
        game = Game.draw(model, watched, players, N)
        game.players.fit(watched.inputs + 1)  # would be seen if it were fitted again
        game.refit(model)
    absent = game.players.mask(watched.inputs[0], torch.zeros(6).long(), torch.tensor([[False]]))
    torch.testing.assert_close(absent[0], watched.inputs.mean(0) + 1)


@pytest.mark.parametrize("world_size", [1, 2])
def test_measuring_a_layer_equals_compute_interactions(world_size: int) -> None:
    network, watched = mlp(features=6), probe(5)
    model = Asked(network, cut=LayerCut(network, "1"))
    with model.quiet():
        game = Game.draw(model, watched, TabularFeatures("mean"), N)
    result = compute_interactions(
        network, watched.inputs, watched.targets, TabularFeatures("mean"), num_players=N, layer="1"
    )
    for found, losses, each in on_ranks(
        world_size, lambda ranks: measure(model, {"val": game}, {}, ranks, tasks={"val": TASK}, reading=PAPERS)
    ):
        torch.testing.assert_close(found["val"].strength, result.strength(0.03, "difference"), rtol=1e-5, atol=1e-7)
        assert losses == each == {}


# -- what is told on the way -----------------------------------------------------------------------------------------


def test_progress_counts_the_masked_rows() -> None:
    model, rows, watched = Asked(NETWORK), list[int](), probe(5)
    game = Game.draw(model, watched, TabularFeatures("zero"), N)
    measure(model, {"val": game}, {}, Ranks(), tasks={"val": TASK}, reading=PAPERS, progress=rows.append)
    assert sum(rows) == 5 * 2**N + 2**N, "the rounding noise is measured on one more sample"


def test_the_chunk_size_that_was_found_is_kept() -> None:
    recorder, chunks = Recorder(NETWORK, limit=6), ChunkSize()
    model, watched = Asked(recorder), probe(2)
    game = Game.draw(model, watched, TabularFeatures("zero"), N)
    for _ in range(2):
        recorder.rows.clear()
        measure(model, {"val": game}, {"val": watched}, Ranks(), tasks={"val": TASK}, reading=PAPERS, chunks=chunks)
    assert max(recorder.rows) <= 6, "no second try at what needs too much memory"


NOISE = torch.tensor([0.0, 0.1, 0.1, 0.3], dtype=torch.float64)


@pytest.mark.parametrize(
    ("noise", "strength", "expected"),
    [
        (NOISE, [5.0, 0.2, 0.0, 0.0], True),
        (NOISE, [5.0, 0.2, 0.4, 0.0], False),
        (NOISE, [99.0, 0.0, 0.0, 0.0], False),
        (NOISE * torch.nan, [5.0, 0.0, 0.0, 0.0], False),
        (NOISE * 0, [5.0, 0.0, 0.0, 0.0], False),
        (NOISE, [0.0, 0.0, 0.0, 0.0], True),
    ],
    ids=["noisy", "strong", "not worth mentioning", "no rounding", "no noise", "nothing but noise"],
)
def test_noise_is_mentioned_where_it_could_be_the_high_orders(
    noise: Tensor, strength: list[float], expected: bool
) -> None:
    mean = torch.tensor([strength, [0.0] * N], dtype=torch.float64)
    measurement = replace(measured()[0]["val"], mean_strength=mean, noise=noise)
    assert measurement.is_noisy is expected
