"""The metrics of a measurement, summed over ranks that only the monitor knows of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from models import on_ranks
from torch import Tensor

from lightning_interactions.functional import (
    cancellation,
    interaction_histogram,
    mean_order,
    order_strength,
    salient_interactions,
)
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.metrics.monitored import Exchange, SampleRows, interaction_metrics, loss_metric

N = 3
SMALLEST, THRESHOLD, SCALE = 0.03, 0.4, 2.0
CPU = torch.device("cpu")

shares = pytest.mark.parametrize("counts", [(4, 3), (1, 6), (0, 7), (7, 0), (2, 0, 5)], ids=str)


def interactions() -> tuple[Tensor, Tensor, Tensor]:
    """AND and OR interactions of seven samples, one of them not finite, and two numbers for each."""
    generator = torch.Generator().manual_seed(0)
    and_, or_ = (torch.randn(7, 2**N, generator=generator, dtype=torch.float64) for _ in range(2))
    and_[3] = torch.nan
    return and_, or_, torch.arange(14.0).view(7, 2)


def found_of(rows: slice, exchange: Exchange | None = None, batches: int = 1) -> dict[str, Tensor]:
    metrics = interaction_metrics(N, SMALLEST, exchange)
    for parts in zip(*(part[rows].tensor_split(batches) for part in interactions()), strict=True):
        and_, or_, table = parts
        metrics.update(and_=and_, or_=or_, threshold=THRESHOLD, scale=SCALE, rows=table)
    return metrics.compute()


def slices(counts: tuple[int, ...]) -> list[slice]:
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def test_the_numbers_are_those_of_the_functions() -> None:
    and_, or_, table = interactions()
    found = found_of(slice(0, 7))
    finite = and_.isfinite().all(1)
    mean = order_strength(and_[finite], or_[finite], THRESHOLD).mean(0)
    torch.testing.assert_close(found["strength"], mean)
    torch.testing.assert_close(found["mean_order"], mean_order(mean))
    torch.testing.assert_close(found["cancellation"], cancellation(mean))
    edges = interaction_metrics(N, SMALLEST)["histogram"].edges
    assert float(edges[edges > 0].min()) == pytest.approx(SMALLEST)
    assert float(edges[edges > 0].topk(2).values[1]) == pytest.approx(100 * SMALLEST), "two decades"
    assert torch.equal(found["histogram"], interaction_histogram(and_, or_, SCALE, edges).sum(0).long())
    assert torch.equal(found["rows"], table.double())
    salient = salient_interactions(and_, or_, THRESHOLD).float()
    torch.testing.assert_close(found["salient"], salient, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("batches", [1, 3])
@shares
def test_ranks_have_the_numbers_of_one(counts: tuple[int, ...], batches: int) -> None:
    whole, parts = found_of(slice(0, 7)), slices(counts)
    for found in on_ranks(len(counts), lambda ranks: found_of(parts[ranks.rank], ranks.exchange, batches)):
        assert set(found) == set(whole) == {"strength", "mean_order", "cancellation", "histogram", "rows", "salient"}
        for name, value in found.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-12, atol=1e-12, equal_nan=True, msg=name)
        assert torch.equal(found["rows"], whole["rows"]), "in the order of the ranks"
        assert torch.equal(found["histogram"], whole["histogram"])


def test_the_own_numbers_are_there_again_after_the_exchange() -> None:
    parts = slices((4, 3))

    def work(ranks: Ranks) -> tuple[Any, Any]:
        metrics = interaction_metrics(N, SMALLEST, ranks.exchange)
        and_, or_, table = (part[parts[ranks.rank]] for part in interactions())
        for _ in range(2):
            metrics.update(and_=and_, or_=or_, threshold=THRESHOLD, scale=SCALE, rows=table)
            found = metrics.compute()
        return found["histogram"], found["strength"]

    whole = found_of(slice(0, 7))
    for histogram, strength in on_ranks(2, work):
        assert torch.equal(histogram, 2 * whole["histogram"]), "not counted once more with those of the others"
        torch.testing.assert_close(strength, whole["strength"])


def test_rows_keep_their_order_over_batches() -> None:
    metric = SampleRows()
    for part in torch.arange(10.0).view(5, 2).split([2, 0, 3]):
        metric.update(part)
    assert torch.equal(metric.compute(), torch.arange(10.0, dtype=torch.float64).view(5, 2))


# -- the loss --------------------------------------------------------------------------------------------------------

LOSSES = torch.tensor([0.5, 2.0, torch.nan, 1e9, 0.25, 1e-9, 3.0], dtype=torch.float64)


def loss_of(rows: slice, exchange: Exchange | None = None) -> float:
    metric = loss_metric(CPU, exchange)
    for part in LOSSES[rows].split(2) if len(LOSSES[rows]) else ():
        metric.update(part)
    return float(metric.compute())


@shares
def test_the_mean_loss_of_ranks_is_that_of_all_samples(counts: tuple[int, ...]) -> None:
    expected, parts = float(LOSSES.nanmean()), slices(counts)
    assert loss_of(slice(0, 7)) == pytest.approx(expected, rel=1e-15)
    for found in on_ranks(len(counts), lambda ranks: loss_of(parts[ranks.rank], ranks.exchange)):
        assert found == pytest.approx(expected, rel=1e-15)


def test_losses_are_added_in_float64() -> None:
    metric = loss_metric(CPU)
    metric.update(torch.tensor([2.0**30, 1.0], dtype=torch.float64))
    assert metric.compute().dtype == torch.float64
    assert float(metric.compute()) == (2.0**30 + 1) / 2


def test_without_a_single_loss_there_is_no_mean() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.tensor(loss_of(slice(0, 0))).isnan()
        assert torch.tensor(loss_of(slice(2, 3))).isnan()


# -- no ranks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


COLLECTIVES = ("all_gather", "all_gather_object", "all_gather_into_tensor", "all_reduce", "barrier", "broadcast")


@pytest.mark.parametrize("exchanged", [False, True], ids=["one rank", "ranks of the monitor"])
def test_nothing_goes_through_a_process_group(
    process_group: None, exchanged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group may be another program's, or a part of the ranks: nobody answers there."""
    expected = found_of(slice(0, 7)), loss_of(slice(0, 7))

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("nobody answers")

    for name in COLLECTIVES:
        monkeypatch.setattr(dist, name, never)
    asked: list[Tensor] = []

    def exchange(tensor: Tensor) -> list[Tensor]:
        asked.append(tensor)
        return [tensor]

    own = exchange if exchanged else None
    found = found_of(slice(0, 7), own), loss_of(slice(0, 7), own)
    assert found[1] == expected[1]
    for name, value in found[0].items():
        torch.testing.assert_close(value, expected[0][name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert bool(asked) is exchanged


def test_with_one_rank_no_state_is_even_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(SampleRows, "_sync_dist", lambda metric, *args, **kwargs: synced.append("rows"))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert torch.equal(found_of(slice(0, 7))["rows"], interactions()[2].double())
    assert synced == []
