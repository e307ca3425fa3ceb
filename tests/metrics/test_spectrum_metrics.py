"""The metric whose result has several parts; its simpler sisters pass through ``test_metrics.py`` with all others."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import on_ranks
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional import (
    SampledDegree,
    effect_order,
    mean_order,
    pooled_mean_degree,
    sampled_mean_degree,
)
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.metrics import DegreeEnergy, EffectOrder, MeanDegree, MeanOrder, SampledMeanDegree

N, SAMPLES, PAIRS = 30, 7, 20


def pairs(seed: int = 0) -> Tensor:
    """Samples of unlike size, one of them constant."""
    values = torch.randn(SAMPLES, PAIRS, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values *= torch.arange(1, SAMPLES + 1)[:, None, None]
    values[3] = 2.0
    return values


def over(ranks: Ranks) -> dict[str, Any]:
    """What makes a metric sum over ranks in threads."""
    return {
        "dist_sync_fn": lambda tensor, group=None: ranks.exchange(tensor),
        "distributed_available_fn": lambda: True,
    }


def assert_equal(found: SampledDegree, expected: SampledDegree) -> None:
    assert isinstance(found, SampledDegree)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=0, equal_nan=True)


@given(st.lists(st.integers(0, SAMPLES), max_size=4))
def test_it_is_the_function_of_all_batches(cuts: list[int]) -> None:
    metric, values = SampledMeanDegree(N), pairs()
    for start, end in itertools.pairwise([0, *sorted(cuts), SAMPLES]):
        metric.update(values[start:end])
    assert_equal(metric.compute(), pooled_mean_degree(values, N))


def test_forward_returns_the_estimate_of_the_batch() -> None:
    metric, values = SampledMeanDegree(N), pairs()
    assert_equal(metric(values[0]), sampled_mean_degree(values[0], N))
    assert_equal(metric(values[1:]), pooled_mean_degree(values[1:], N))
    assert_equal(metric.compute(), pooled_mean_degree(values, N))
    metric.reset()
    assert_equal(metric(values[2:]), pooled_mean_degree(values[2:], N))


@pytest.mark.parametrize("counts", [(4, 3), (1, 6), (0, 7), (7, 0), (2, 0, 5)], ids=str)
def test_ranks_have_the_numbers_of_one(counts: tuple[int, ...]) -> None:
    shares = pairs().split(counts)

    def work(ranks: Ranks) -> list[SampledDegree]:
        metric, found = SampledMeanDegree(N, **over(ranks)), []
        for _ in range(2):
            for part in shares[ranks.rank].tensor_split(2):
                metric.update(part)
            found.append(metric.compute())
        return found

    whole = pairs()
    for once, twice in on_ranks(len(counts), work):
        assert_equal(once, pooled_mean_degree(whole, N))
        assert_equal(twice, pooled_mean_degree(torch.cat([whole, whole]), N))


def test_one_varying_sample_on_one_of_the_ranks_is_judged_by_its_pairs() -> None:
    shares = pairs()[2:4].split(1)

    def work(ranks: Ranks) -> SampledDegree:
        metric = SampledMeanDegree(N, **over(ranks))
        metric.update(shares[ranks.rank])
        return metric.compute()

    alone = sampled_mean_degree(pairs()[2], N)
    for found in on_ranks(2, work):
        assert_equal(found, alone._replace(total_variance=alone.total_variance / 2))


def test_samples_that_are_not_finite_are_left_out() -> None:
    metric, values = SampledMeanDegree(N), pairs()
    values[0, 5, 1], values[6, 0, 0] = torch.nan, torch.inf
    metric.update(values)
    assert_equal(metric.compute(), pooled_mean_degree(values[1:6], N))
    metric = SampledMeanDegree(N)
    metric.update(values[:1])
    metric.update(values[:0])
    assert all(x.isnan() for x in metric.compute())


@pytest.mark.parametrize("duplicate", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, lambda m: m.clone()])
def test_copies_continue_on_their_own(duplicate: Callable[[SampledMeanDegree], SampledMeanDegree]) -> None:
    metric, values = SampledMeanDegree(N), pairs()
    metric.update(values[:4])
    twin = duplicate(metric)
    twin.update(values[4:])
    assert_equal(twin.compute(), pooled_mean_degree(values, N))
    assert_equal(metric.compute(), pooled_mean_degree(values[:4], N))


def test_states_are_sums_that_keep_their_precision() -> None:
    module = torch.nn.Module()
    module.metric = metric = SampledMeanDegree(N)
    module.to(torch.bfloat16)
    with torch.inference_mode():
        metric.reset()
        metric.update(pairs()[:2])
    metric.update(pairs()[2:].requires_grad_())
    found = metric.compute()
    assert not any(x.requires_grad for x in found)
    assert_equal(found, pooled_mean_degree(pairs(), N))
    assert {getattr(metric, name).dtype for name in metric._defaults} == {torch.float64, torch.long}


def test_orders_and_effect_orders_share_an_update_in_a_collection() -> None:
    strength = torch.rand(6, 2, 4, dtype=torch.float64)
    collection = MetricCollection([MeanOrder(4), EffectOrder(4)])
    for part in strength.split(3):
        collection.update(part)
    assert len(collection.compute_groups) == 1
    found = collection.compute()
    torch.testing.assert_close(found["EffectOrder"], effect_order(strength.mean(0)))
    torch.testing.assert_close(found["MeanOrder"], mean_order(strength.mean(0)))


# -- drawing ----------------------------------------------------------------------------------------------------------


def test_the_plot_shows_every_result_with_its_interval() -> None:
    metric = SampledMeanDegree(N)
    results = [metric(part) for part in pairs().split(2)]
    _, axes = metric.plot(results)
    (bars,) = axes.containers
    assert bars.lines[0].get_ydata().tolist() == pytest.approx([float(x.mean_degree) for x in results], nan_ok=True)
    lower, upper = results[0].interval()
    (segments,) = bars.lines[2]
    assert segments.get_segments()[0][:, 1].tolist() == pytest.approx([float(lower), float(upper)])
    assert axes.get_ylabel() == "mean degree (number of players)"
    assert axes.get_title()


@pytest.mark.thorough
def test_one_result_and_none_can_be_drawn(tmp_path) -> None:
    from matplotlib.figure import Figure

    for rows in (pairs(), pairs()[3:4]):
        metric = SampledMeanDegree(N)
        metric.update(rows)
        own = Figure().add_subplot()
        figure, axes = metric.plot(ax=own)
        assert axes is own
        figure.savefig(tmp_path / "degree.png")
        assert (tmp_path / "degree.png").stat().st_size > 1000


def test_energies_are_drawn_by_degree() -> None:
    _, axes = DegreeEnergy(3).plot(torch.tensor([3.0, 200.0, 0.5]))
    assert [bar.get_height() for bar in axes.patches] == [3.0, 200.0, 0.5]
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] >= 200
    assert axes.get_xlabel() == "degree (number of players)"


# -- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_players", [1, 17, 2.0, True, None])
@pytest.mark.parametrize("make", [DegreeEnergy, MeanDegree, EffectOrder], ids=lambda c: c.__name__)
def test_wrong_numbers_of_players_are_refused(make: type[MeanDegree], num_players: int) -> None:
    with pytest.raises(ArgumentError, match="`num_players` to be an integer from 2 to 16"):
        make(num_players)


@pytest.mark.parametrize("num_players", [1, 513, 2.0, True, None])
def test_of_sampled_masks_more_players_are_taken(num_players: int) -> None:
    with pytest.raises(ArgumentError, match="`num_players` to be an integer from 2 to 512"):
        SampledMeanDegree(num_players)
    assert SampledMeanDegree(512).num_players == 512


@pytest.mark.parametrize(
    ("metric", "shape", "message"),
    [
        (DegreeEnergy(4), (3, 8), r"`values`.*\(\.\.\., 16\).*4 players.*\(3, 8\)"),
        (DegreeEnergy(4), (), "`values`"),
        (MeanDegree(4), (3, 16), r"`energy`.*\(\.\.\., 4\).*\(3, 16\)"),
        (MeanDegree(4), (), "`energy`"),
        (EffectOrder(4), (3, 4), "`strength`"),
        (SampledMeanDegree(4), (3, 15, 2), "`values`.*at least 16 pairs"),
        (SampledMeanDegree(4), (16,), "`values`"),
    ],
)
def test_wrong_shapes_are_named(metric: MeanDegree, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        metric.update(torch.zeros(shape))
