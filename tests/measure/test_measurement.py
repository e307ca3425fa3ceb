"""One measurement, on one rank or several: the same numbers."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Recorder, mlp
from torch import Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.errors import BatchError, ModelOutputError
from lightning_interactions.functional import interaction_histogram, mean_order
from lightning_interactions.measure import measurement as measure_module
from lightning_interactions.measure.measurement import Measurement, Measurer, MeasureSettings, Watched, check_model
from lightning_interactions.measure.ranks import CELLS, MeasureError, Ranks
from lightning_interactions.measure.samples import ProbeCollector, ProbeSet
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.quiet import Forward, float32_forward, probing
from lightning_interactions.model.score import log_odds
from lightning_interactions.model.task import Task
from lightning_interactions.monitor import budget as budget_module
from lightning_interactions.monitor.budget import Budget
from lightning_interactions.players import Players, TabularFeatures

N = 4
CPU = torch.device("cpu")
SETTINGS = MeasureSettings(num_players=N, salience=0.03, noise_bound=0.0, chunk_size=None)
TASK = Task("classes", 3)


@dataclass
class Exchange:
    """Gathers over threads, one for each rank: every rank waits for the others, as processes do."""

    world_size: int
    parts: dict[int, Any] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.world_size)

    def ranks(self, rank: int) -> Ranks:
        def swap(item: Any) -> list[Any]:
            self.calls.append(rank)
            self.parts[rank] = item
            self.barrier.wait(timeout=60)
            everyone = [self.parts[i] for i in range(self.world_size)]
            self.barrier.wait(timeout=60)
            return everyone

        def gather_objects(item: Any) -> list[Any]:
            return [pickle.loads(sent) for sent in swap(pickle.dumps(item))]

        return Ranks(rank, self.world_size, lambda local: torch.cat(swap(local.cpu())), gather_objects)


def on_ranks(world_size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    exchange, results = Exchange(world_size), [None] * world_size

    def run(rank: int) -> None:
        try:
            results[rank] = work(exchange.ranks(rank))
        except Exception as error:  # handed to the test
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def probe(size: int, features: int = 6, seed: int = 0) -> ProbeSet:
    generator = torch.Generator().manual_seed(seed)
    collector = ProbeCollector(size)
    collector.offer(torch.randn(size, features, generator=generator), torch.randint(3, (size,), generator=generator))
    found = collector.result()
    assert found is not None
    return found


def measure(
    ranks: Ranks | None = None,
    *,
    model: nn.Module | None = None,
    size: int = 5,
    settings: MeasureSettings = SETTINGS,
    task: Task = TASK,
    players: Players | None = None,
    make_forward: Callable[[], Forward] | None = None,
    features: int = 6,
) -> tuple[dict[str, Measurement], dict[str, float]]:
    network = model or mlp(features=features)
    watched = probe(size, features)
    measurer = Measurer(settings, task, ranks or Ranks(), CPU)

    def players_of(forward: Forward) -> dict[str, Watched]:
        masker = players or TabularFeatures("zero")
        return {"val": Watched.prepare(watched, masker, settings.num_players, forward, CPU, None)}

    @contextmanager
    def context() -> Iterator[None]:
        with torch.no_grad():  # the real context changes the process, which threads share
            yield

    return measurer.measure(
        context,
        make_forward or (lambda: float32_forward(network)),
        players_of,
        {"val": watched, "train": probe(7, features, seed=1)},
    )


def same(first: Measurement, second: Measurement) -> None:
    for name in ("strength", "salient_count", "gap", "histogram", "target", "prediction", "followed"):
        torch.testing.assert_close(
            getattr(first, name), getattr(second, name), rtol=1e-9, atol=1e-9, equal_nan=True, msg=name
        )
    assert first.scale == pytest.approx(second.scale, rel=1e-12, nan_ok=True)


# -- the numbers -----------------------------------------------------------------------------------------------------


def test_a_measurement_is_what_compute_interactions_says() -> None:
    model, watched = mlp(features=6), probe(5)
    found, losses = measure(model=model)
    result = compute_interactions(model, watched.inputs, watched.targets, TabularFeatures("zero"), num_players=N)
    strength = result.strength(0.03)
    torch.testing.assert_close(found["val"].strength, strength, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found["val"].gap, result.gap, rtol=1e-4, atol=1e-6)
    scale = float((result.values[:, -1] - result.values[:, 0]).abs().mean())
    assert found["val"].scale == pytest.approx(scale)
    limit = 0.03 * scale
    count = [
        sum(abs(float(x)) >= limit and float(x) != 0 for part in (result.and_[i], result.or_[i]) for x in part[1:])
        for i in range(5)
    ]
    assert found["val"].salient_count.tolist() == count
    histogram = interaction_histogram(result.and_, result.or_, scale, found["val"].edges.double()).sum(0)
    assert torch.equal(found["val"].histogram, histogram.double())
    with torch.no_grad():
        expected = F.cross_entropy(model(watched.inputs).double(), watched.targets)
    assert losses["val"] == pytest.approx(float(expected), rel=1e-6)
    assert set(losses) == {"val", "train"}


def test_a_measurement_knows_what_the_model_and_the_data_say() -> None:
    model, watched = mlp(features=6), probe(5)
    found = measure(model=model)[0]["val"]
    with torch.no_grad():
        answers = model(watched.inputs).argmax(1)
    assert found.prediction.tolist() == answers.tolist()
    assert found.target.tolist() == found.followed.tolist() == watched.targets.tolist()
    assert found.prediction.tolist() != found.target.tolist(), "they can be told apart"


@pytest.mark.parametrize("salience", [0.0, 0.03, 0.5])
def test_the_histogram_begins_at_the_threshold(salience: float) -> None:
    settings = MeasureSettings(N, salience, 0.0, None)
    edges = Measurer(settings, TASK, Ranks(), CPU).edges
    assert torch.equal(edges, -edges.flip(0))
    assert float(edges[edges > 0].min()) == pytest.approx(max(salience, 1e-3))
    found = measure(settings=settings)[0]["val"]
    assert torch.equal(found.edges, edges)
    assert found.histogram.shape == (N, len(edges) - 1)
    if salience:  # the bins outside of the centre are what is salient
        outside = found.histogram.sum() - found.histogram[:, len(edges) // 2 - 1].sum()
        assert float(outside) == float(found.salient_count.sum())


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_chunks_do_not_matter_and_are_kept(chunk_size: int) -> None:
    recorder = Recorder(mlp(features=6))
    settings = MeasureSettings(N, 0.03, 0.0, chunk_size)
    found, losses = measure(model=recorder, settings=settings)
    expected, expected_losses = measure()
    torch.testing.assert_close(found["val"].strength, expected["val"].strength, rtol=1e-3, atol=1e-5)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    assert max(recorder.rows) <= max(chunk_size, 2)


def test_scalars_are_the_logged_keys() -> None:
    measurement = measure()[0]["val"]
    scalars = measurement.scalars()
    names = {"mean_order", "low_order_share", "high_order_share", "cancellation", "salient_count", "solver_gap",
             "skipped_samples", "mean_players", "mean_order_lower", "mean_order_upper"}  # fmt: skip
    orders = {f"strength/order_{k:02d}_{sign}" for k in range(1, N + 1) for sign in ("pos", "neg")}
    noise = {f"noise_floor/order_{k:02d}" for k in range(1, N + 1)}
    assert set(scalars) == names | orders | noise
    assert all(type(value) is float and math.isfinite(value) for value in scalars.values())
    mean = measurement.strength.mean(0)
    for k in range(1, N + 1):
        assert scalars[f"strength/order_{k:02d}_pos"] == pytest.approx(float(mean[0, k - 1]))
        assert scalars[f"strength/order_{k:02d}_neg"] == pytest.approx(float(mean[1, k - 1]))
    # averaged over samples first, then read off
    assert scalars["mean_order"] == pytest.approx(float(mean_order(mean)))
    assert scalars["solver_gap"] == pytest.approx(float(measurement.gap.max()))
    assert scalars["salient_count"] == pytest.approx(float(measurement.salient_count.mean()))
    assert scalars["skipped_samples"] == 0


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
            watched = ProbeSet(watched.inputs, watched.targets.clamp(max=1), watched.keys)
        prepared = Watched(watched, TabularFeatures("zero"), torch.arange(6).clamp(max=3).expand(6, 6), N)
        with torch.no_grad():
            return Measurer(SETTINGS, TASK, ranks, CPU).measure(
                contextmanager(lambda: iter([None])), lambda: model, lambda forward: {"val": prepared}, {"val": watched}
            )

    expected, expected_losses = binary(plain, Ranks())
    for found, losses in on_ranks(world_size, lambda ranks: binary(Squeezing(), ranks)):
        torch.testing.assert_close(found["val"].strength, expected["val"].strength, rtol=1e-3, atol=1e-5)
        assert losses == pytest.approx(expected_losses, rel=1e-6)


# -- ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("size", [2, 5, 6])
def test_ranks_have_the_numbers_of_one(world_size: int, size: int) -> None:
    model = mlp(features=6).double()  # single precision rounds differently for other numbers of rows
    expected, expected_losses = measure(size=size, model=model)
    for found, losses in on_ranks(world_size, lambda ranks: measure(ranks, size=size, model=model)):
        same(found["val"], expected["val"])
        assert losses == pytest.approx(expected_losses, rel=1e-9)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_the_pairs_evenly(world_size: int) -> None:
    """Two samples, fewer than there are ranks: a rank's share is part of a sample, within one unit of the others'."""
    settings = replace(SETTINGS, num_players=7)

    def rows(ranks: Ranks) -> int:
        masked: list[int] = []

        class Counted(TabularFeatures):
            def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
                masked.append(len(samples) * len(coalitions))
                return super().mask_batch(samples, players, coalitions)

        found, _ = measure(ranks, size=2, model=mlp(features=7), settings=settings, players=Counted("zero"), features=7)
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
        world_size, lambda ranks: ranks.join(torch.tensor(ranks.cells(total), dtype=torch.float64), total)
    )
    for whole in joined:
        assert torch.equal(whole, torch.arange(total, dtype=torch.float64))


def test_a_failure_on_one_rank_stops_all_of_them() -> None:
    def work(ranks: Ranks) -> Any:
        broken = Recorder(mlp(features=6), 0, ValueError("broken here"))
        return measure(ranks, model=broken if ranks.rank == 1 else None)

    healthy, broken = on_ranks(2, work)
    assert isinstance(healthy, MeasureError)
    assert str(healthy) == "on rank 1: ValueError: broken here"
    assert isinstance(broken, MeasureError)
    assert str(broken) == "ValueError: broken here"
    assert isinstance(broken.__cause__, ValueError)


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
    monkeypatch.setattr(measure_module, "GATHER_BYTES", limit)
    for shape in ((2, 5), (), (0,)):
        whole = (torch.randn(sum(counts), *shape) * 50).to(dtype)
        parts = whole.split(counts)
        for found in on_ranks(3, lambda ranks, parts=parts: ranks.gather_rows(parts[ranks.rank], counts)):
            assert found.dtype == dtype
            assert torch.equal(found, whole)


def test_one_rank_agrees_with_itself() -> None:
    assert Ranks().agree(None) is None
    assert Ranks().agree("mine") == "mine"
    assert Ranks().share(3).tolist() == [0, 1, 2]
    assert torch.equal(Ranks().collect(torch.arange(5), 3), torch.arange(3))


@pytest.mark.parametrize("where", ["model", "forward", "players", "score"])
def test_every_failure_becomes_a_measure_error(where: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("gone")

    broken: dict[str, Any] = {
        "model": {"model": Recorder(mlp(features=6), 0, KeyError("gone"))},
        "forward": {"make_forward": fail},
        "players": {"players": type("Broken", (TabularFeatures,), {"mask_batch": fail})("zero")},
        "score": {"task": Task("classes", 3, fail)},
    }[where]
    with pytest.raises(MeasureError, match="KeyError: 'gone'"):
        measure(**broken)


def test_an_interruption_is_not_caught() -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(model=Recorder(mlp(features=6), 0, KeyboardInterrupt()))


# -- outputs that are not finite -------------------------------------------------------------------------------------


class Poisoned(nn.Module):
    """Returns nan for some samples of the probe, whenever nothing of them is masked."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.inner, self.rows = mlp(features=6), probe(5).inputs[rows]

    def forward(self, x: Tensor) -> Tensor:
        hit = (x.unsqueeze(1) == self.rows).all(-1).any(1, keepdim=True)
        return torch.where(hit, torch.nan, self.inner(x))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("rows", [[1], [0, 4]], ids=str)
def test_samples_that_are_not_finite_are_skipped_and_counted(rows: list[int], world_size: int) -> None:
    watched = probe(5)
    kept = [i for i in range(5) if i not in rows]
    good = compute_interactions(
        mlp(features=6), watched.inputs[kept], watched.targets[kept], TabularFeatures("zero"), num_players=N
    )
    for found, losses in on_ranks(world_size, lambda ranks: measure(ranks, model=Poisoned(rows))):
        measurement = found["val"]
        assert measurement.skipped == len(rows)
        assert measurement.scalars()["skipped_samples"] == len(rows)
        assert measurement.strength[rows].isnan().all()
        assert measurement.salient_count[rows].isnan().all()
        assert measurement.scale == pytest.approx(float((good.values[:, -1] - good.values[:, 0]).abs().mean()))
        torch.testing.assert_close(measurement.strength[kept], good.strength(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(measurement.mean_strength, good.strength().mean(0), rtol=1e-5, atol=1e-7)
        assert all(math.isfinite(value) for value in measurement.scalars().values())
        assert math.isfinite(losses["val"])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_sample_of_infinite_loss_is_left_out_of_the_mean(world_size: int) -> None:
    row = int(probe(5).targets.nonzero()[0])

    class Sure(Poisoned):
        """Sure beyond measure of class 0, of a sample of another class."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(super().forward(x).isnan(), torch.tensor([torch.inf, 0.0, 0.0]), self.inner(x))

    _, without = measure(model=Poisoned([row]))
    for _, losses in on_ranks(world_size, lambda ranks: measure(ranks, model=Sure([row]))):
        assert losses["val"] == pytest.approx(without["val"], rel=1e-6)


@pytest.mark.parametrize("world_size", [1, 2])
def test_if_no_sample_is_finite_the_numbers_say_so(world_size: int) -> None:
    for found, losses in on_ranks(world_size, lambda ranks: measure(ranks, model=Poisoned([0, 1, 2, 3, 4]))):
        scalars = found["val"].scalars()
        assert scalars["skipped_samples"] == 5
        assert math.isnan(scalars["mean_order"])
        assert math.isnan(scalars["solver_gap"])
        assert math.isnan(losses["val"])
        assert math.isfinite(losses["train"])
        assert not found["val"].histogram.any()


# -- players on an inner layer ---------------------------------------------------------------------------------------


def test_a_mean_baseline_follows_the_layer() -> None:
    model, watched = mlp(features=6), probe(5)
    cut = LayerCut(model, "1")
    with probing(model):
        prepared = Watched.prepare(watched, TabularFeatures("mean"), N, model, CPU, cut)
        labels = prepared.labels.clone()
        with torch.no_grad():
            model[0].weight.mul_(-2)
        prepared.refit(model, CPU, cut)
        now = model[:2](watched.inputs)
    absent = prepared.masker.mask(now[0], torch.zeros(8).long(), torch.tensor([[False]]))
    torch.testing.assert_close(absent[0], now.mean(0))
    assert torch.equal(prepared.labels, labels)  # the players stay, whatever the weights become


def test_measuring_a_layer_equals_compute_interactions() -> None:
    model, watched = mlp(features=6), probe(5)
    cut = LayerCut(model, "1")
    prepared: dict[str, Watched] = {}

    def players_of(forward: Forward) -> dict[str, Watched]:
        prepared["val"] = Watched.prepare(watched, TabularFeatures("mean"), N, forward, CPU, cut)
        return prepared

    measurer = Measurer(SETTINGS, TASK, Ranks(), CPU)
    found, losses = measurer.measure(lambda: probing(model), lambda: float32_forward(model), players_of, {}, cut)
    result = compute_interactions(
        model, watched.inputs, watched.targets, TabularFeatures("mean"), num_players=N, layer="1"
    )
    torch.testing.assert_close(found["val"].strength, result.strength(), rtol=1e-5, atol=1e-7)
    assert losses == {}


# -- the trial before training ---------------------------------------------------------------------------------------


def test_a_good_model_passes_the_trial() -> None:
    for classes, targets, kind in [(3, torch.tensor([0, 2]), "classes"), (1, torch.tensor([[0.0], [1.0]]), "binary")]:
        assert check_model(mlp(classes=classes), Batch(torch.randn(2, 5), targets), targets).kind == kind


@pytest.mark.parametrize(
    ("forward", "targets", "score", "error"),
    [
        (lambda x: x.sum(), torch.tensor([0, 1]), log_odds, ModelOutputError),
        (lambda x: x[:1], torch.tensor([0, 1]), log_odds, ModelOutputError),
        (lambda x: x, torch.tensor([0, 5]), log_odds, BatchError),
        (lambda x: x, torch.tensor([0, 1]), lambda z, y: z, ModelOutputError),
    ],
    ids=["loss", "rows", "targets", "score"],
)
def test_the_trial_finds_what_is_wrong(forward: Any, targets: Tensor, score: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_model(forward, Batch(torch.randn(2, 5), targets), targets, score)


# -- the budget ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(budget_module.time, "perf_counter", lambda: now[0])
    return now


def test_without_a_limit_every_measurement_is_allowed(clock: list[float]) -> None:
    budget = Budget()
    for _ in range(3):
        budget.spend(50.0)
        assert budget.allows()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_measuring_keeps_its_share_of_the_training_time(clock: list[float], share: float) -> None:
    budget, measured, trained = Budget(share), 0, 0.0
    for _ in range(200):  # epochs of one second, measurements of two
        clock[0] += 1.0
        trained += 1.0
        if budget.allows():
            clock[0] += 2.0
            budget.spend(2.0)
            measured += 1
            assert measured == 1 or budget.measuring <= share * budget.training
        assert budget.training == pytest.approx(trained)
    assert measured == budget.count
    assert measured == pytest.approx(share * 200 / 2, abs=1)


def test_the_budget_begins_with_the_training(clock: list[float]) -> None:
    budget = Budget(0.1)
    budget.spend(10.0)
    assert not budget.allows()
    clock[0] += 1000.0
    budget.restart()
    assert (budget.measuring, budget.count, budget.training) == (0.0, 0, 0.0)
    assert budget.allows()
