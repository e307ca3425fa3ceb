"""The metrics against their functional twins, against loops in numpy, over batches and over two processes."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import Metric, MetricCollection

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.histogram import interaction_histogram, symlog_edges
from lightning_interactions.functional.similarity import weighted_jaccard
from lightning_interactions.functional.spectrum import degree_energy, effect_order, mean_degree
from lightning_interactions.functional.strength import cancellation, mean_order, order_strength
from lightning_interactions.metrics import (
    Cancellation,
    DegreeEnergy,
    EffectOrder,
    InteractionHistogram,
    InteractionJaccard,
    MeanDegree,
    MeanOrder,
    OrderStrength,
)
from lightning_interactions.metrics.base import accumulation_dtype

N, SAMPLES = 4, 12
THRESHOLD, SCALE = 0.4, 1.7


def interactions(seed: int, samples: int = SAMPLES, n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, samples, 2**n, generator=generator, dtype=torch.float64)
    return tuple(both * torch.rand(2, samples, 2**n, generator=generator, dtype=torch.float64) ** 4)  # many small ones


def order_of(coalition: int) -> int:
    return bin(coalition).count("1")


# -- the oracles: one interaction at a time, nothing shared with the package ------------------------------------------


def oracle_strength(and_, or_, threshold):
    out = np.zeros((2, N))
    for sample in range(len(and_)):
        for coalition in range(1, 2**N):
            for value in (and_[sample][coalition], or_[sample][coalition]):
                if abs(value) >= threshold:
                    out[0 if value > 0 else 1, order_of(coalition) - 1] += abs(value)
    return out / len(and_)


def oracle_mean_order(strength):
    total = strength.mean(0).sum(0)
    return sum((k + 1) * total[k] for k in range(N)) / total.sum()


def oracle_cancellation(strength):
    positive, negative = strength.mean(0).sum(1)
    return 1 - abs(positive - negative) / (positive + negative)


def oracle_energy(values):
    out = np.zeros(N)
    for row in values:
        for s in range(1, 2**N):
            out[order_of(s) - 1] += (sum((-1) ** order_of(s & t) * row[t] for t in range(2**N)) / 2**N) ** 2
    return out / len(values)


def oracle_mean_degree(energy):
    total = energy.mean(0)
    return sum((k + 1) * total[k] for k in range(N)) / total.sum()


def oracle_effect_order(strength):
    total = strength.mean(0).sum(0)
    return sum((k + 1) * total[k] / 2**k for k in range(N)) / sum(total[k] / 2**k for k in range(N))


def oracle_jaccard(first_and, first_or, second_and, second_or):
    out = []
    for k in range(1, N + 1):
        low = high = 0.0
        for first, second in ((first_and, second_and), (first_or, second_or)):
            for coalition in range(2**N):
                if order_of(coalition) == k:
                    a, b = first[:, coalition].mean(), second[:, coalition].mean()
                    for sign in (1, -1):
                        low += min(max(sign * a, 0), max(sign * b, 0))
                        high += max(max(sign * a, 0), max(sign * b, 0))
        out.append(low / high)
    return np.array(out)


def oracle_histogram(and_, or_, scale, edges):
    out = np.zeros((N, len(edges) - 1), dtype=int)
    for sample in range(len(and_)):
        for coalition in range(1, 2**N):
            for value in (and_[sample][coalition], or_[sample][coalition]):
                if value == 0 or not np.isfinite(value):
                    continue
                inside = [j for j in range(len(edges) - 1) if edges[j] <= value / scale < edges[j + 1]]
                column = inside[0] if inside else 0 if value < 0 else len(edges) - 2
                out[order_of(coalition) - 1, column] += 1
    return out


@dataclass
class Case:
    """A metric, its input (one tensor per argument, samples first), and what both references say of it."""

    make: Callable[[], Metric]
    inputs: Callable[[], tuple[Any, ...]]
    functional: Callable[..., torch.Tensor]
    oracle: Callable[..., Any]


def _strength_input():
    return (order_strength(*interactions(1), THRESHOLD),)


def _energy_input():
    return (degree_energy(interactions(10)[0]),)


def _jaccard_functional(*inputs):
    first, second = (torch.stack(inputs[i : i + 2]).mean(1) for i in (0, 2))
    order = torch.tensor([order_of(s) for s in range(2**N)])
    return torch.stack(
        [weighted_jaccard(first[:, order == k].ravel(), second[:, order == k].ravel()) for k in (1, 2, 3, 4)]
    )


CASES = {
    "OrderStrength": Case(
        lambda: OrderStrength(N),
        lambda: (*interactions(0), THRESHOLD),
        lambda *x: order_strength(*x).mean(0),
        oracle_strength,
    ),
    "MeanOrder": Case(lambda: MeanOrder(N), _strength_input, lambda x: mean_order(x.mean(0)), oracle_mean_order),
    "Cancellation": Case(
        lambda: Cancellation(N), _strength_input, lambda x: cancellation(x.mean(0)), oracle_cancellation
    ),
    "EffectOrder": Case(
        lambda: EffectOrder(N), _strength_input, lambda x: effect_order(x.mean(0)), oracle_effect_order
    ),
    "DegreeEnergy": Case(
        lambda: DegreeEnergy(N), lambda: (interactions(10)[0],), lambda x: degree_energy(x).mean(0), oracle_energy
    ),
    "MeanDegree": Case(lambda: MeanDegree(N), _energy_input, lambda x: mean_degree(x.mean(0)), oracle_mean_degree),
    "InteractionJaccard": Case(
        lambda: InteractionJaccard(N),
        lambda: (*interactions(2), *(x + 0.2 * y for x, y in zip(interactions(2), interactions(3), strict=True))),
        _jaccard_functional,
        oracle_jaccard,
    ),
    "InteractionHistogram": Case(
        lambda: InteractionHistogram(N),
        lambda: (*(30 ** (x * 2) * x for x in interactions(4)), SCALE),
        lambda *x: interaction_histogram(*x, symlog_edges()).sum(0),
        lambda *x: oracle_histogram(*x, symlog_edges().tolist()),
    ),
}
every_metric = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def rows(inputs: tuple[Any, ...], at: Any) -> tuple[Any, ...]:
    return tuple(x[at] if isinstance(x, torch.Tensor) else x for x in inputs)


def spoil(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Append a copy of sample 0 with a nan and one with an infinity to every tensor."""
    out = []
    for x in inputs:
        if isinstance(x, torch.Tensor):
            bad = x[:2].clone()
            bad.view(2, -1)[0, 3], bad.view(2, -1)[1, 2] = float("nan"), float("inf")
            x = torch.cat([bad[:1], x, bad[1:]])
        out.append(x)
    return tuple(out)


# -- values -----------------------------------------------------------------------------------------------------------


@every_metric
def test_class_functional_and_loop_agree(case):
    metric, inputs = case.make(), case.inputs()
    metric.update(*inputs)
    value = metric.compute()
    torch.testing.assert_close(value, case.functional(*inputs), rtol=1e-12, atol=0)
    arrays = tuple(x.numpy() if isinstance(x, torch.Tensor) else x for x in inputs)
    np.testing.assert_allclose(value.numpy(), case.oracle(*arrays), rtol=1e-10)
    assert np.ptp(value.numpy()) > 0 or value.ndim == 0  # a constant would agree with anything


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, SAMPLES), max_size=4))
@pytest.mark.parametrize("name", CASES)
def test_the_split_into_batches_does_not_matter(name, cuts):
    case = CASES[name]
    metric, whole, inputs = case.make(), case.make(), case.inputs()
    borders = [0, *sorted(cuts), SAMPLES]  # batches without a sample included
    for start, end in itertools.pairwise(borders):
        metric.update(*rows(inputs, slice(start, end)))
    whole.update(*inputs)
    torch.testing.assert_close(metric.compute(), whole.compute(), rtol=1e-12, atol=0)


@every_metric
def test_forward_returns_the_batch_value_and_accumulates(case):
    metric, inputs = case.make(), case.inputs()
    first = metric(*rows(inputs, slice(0, 5)))
    metric(*rows(inputs, slice(5, None)))
    torch.testing.assert_close(first, case.functional(*rows(inputs, slice(0, 5))))
    torch.testing.assert_close(metric.compute(), case.functional(*inputs))


@pytest.mark.parametrize("name", [name for name in CASES if name != "InteractionHistogram"])
def test_samples_that_are_not_finite_are_left_out_and_not_counted(name):
    case = CASES[name]
    metric, clean = case.make(), case.make()
    metric.update(*spoil(case.inputs()))
    clean.update(*case.inputs())
    torch.testing.assert_close(metric.compute(), clean.compute(), rtol=1e-12, atol=0)


def test_histogram_leaves_out_single_interactions_that_are_not_finite():
    and_, or_ = interactions(5, samples=1)
    metric, clean = InteractionHistogram(N), InteractionHistogram(N)
    bad, zeroed = and_.clone(), and_.clone()
    bad[0, 3], bad[0, 5], zeroed[0, 3], zeroed[0, 5] = float("nan"), -float("inf"), 0, 0
    metric.update(bad, or_, SCALE)
    clean.update(zeroed, or_, SCALE)
    assert torch.equal(metric.compute(), clean.compute())
    assert metric.compute().sum() == 2 * (2**N - 1) - 2


def test_order_strength_leaves_out_samples_without_a_threshold():
    and_, or_ = interactions(6)
    threshold = torch.full((SAMPLES,), THRESHOLD, dtype=torch.float64)
    threshold[[0, 7]] = float("nan")
    metric = OrderStrength(N)
    metric.update(and_, or_, threshold)
    kept = [i for i in range(SAMPLES) if i not in (0, 7)]
    torch.testing.assert_close(metric.compute(), order_strength(and_[kept], or_[kept], THRESHOLD).mean(0))
    metric.update(and_, or_, float("nan"))
    assert metric.count == len(kept)


def test_thresholds_per_sample():
    and_, or_ = interactions(6, samples=2)  # two: as many as there are kinds, so a wrong broadcast would go unnoticed
    metric = OrderStrength(N)
    metric.update(and_, or_, torch.tensor([0.1, 0.9]))
    one = [order_strength(and_[i], or_[i], (0.1, 0.9)[i]) for i in (0, 1)]
    torch.testing.assert_close(metric.compute(), (one[0] + one[1]) / 2)


def test_average_comes_before_shares():
    strength = torch.zeros(2, 2, N)
    strength[0, 0, 0], strength[1, 0, 3] = 9.0, 1.0
    metric = MeanOrder(N)
    metric.update(strength)
    assert metric.compute().item() == pytest.approx(0.9 * 1 + 0.1 * 4)  # not (1 + 4) / 2


def test_jaccard_sides_may_have_different_numbers_of_samples():
    first, second = interactions(7, samples=5), interactions(8, samples=2)
    metric = InteractionJaccard(N)
    metric.update(*first, *(x[:0] for x in second))
    metric.update(*(x[:0] for x in first), *second)
    expected = oracle_jaccard(*(x.numpy() for x in (*first, *second)))
    np.testing.assert_allclose(metric.compute().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_histogram_counts_nothing_without_a_usable_scale(scale):
    metric = InteractionHistogram(N)
    metric.update(*interactions(9), scale)
    assert metric.compute().sum() == 0
    per_sample = torch.full((SAMPLES,), SCALE, dtype=torch.float64)
    per_sample[3] = scale
    metric.update(*interactions(9), per_sample)
    assert metric.compute().sum() == (SAMPLES - 1) * 2 * (2**N - 1)


def test_outermost_bins_catch_what_lies_beyond():
    and_ = torch.zeros(1, 4)
    and_[0, 1], and_[0, 2], and_[0, 3] = 1e9, -1e9, 10.0
    counts = interaction_histogram(and_, torch.zeros(1, 4), 1.0, symlog_edges())[0]
    assert counts[0, [0, -1]].tolist() == [1, 1]
    assert counts[1, -1] == 1
    assert counts.sum() == 3


def test_symlog_edges_are_symmetric_and_logarithmic():
    edges = symlog_edges()
    assert edges.shape == (44,)
    assert torch.equal(edges, -edges.flip(0))
    assert edges[22].item() == 1e-3
    assert edges[-2].item() == pytest.approx(10.0)
    torch.testing.assert_close(edges[23:] / edges[22:-1], torch.full((21,), 10**0.2, dtype=torch.float64))


@every_metric
def test_an_empty_metric_says_nan_or_nothing(case):
    metric, inputs = case.make(), case.inputs()
    metric.update(*rows(inputs, slice(0, 0)))
    value = metric.compute()
    assert (value == 0).all() if value.dtype == torch.long else value.isnan().all()


# -- life of a metric -------------------------------------------------------------------------------------------------


@every_metric
@pytest.mark.parametrize("duplicate", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, lambda m: m.clone()])
def test_copies_continue_on_their_own(case, duplicate):
    metric, inputs = case.make(), case.inputs()
    metric.update(*rows(inputs, slice(0, 5)))
    before = metric.compute().clone()
    twin = duplicate(metric)
    twin.update(*rows(inputs, slice(5, None)))
    torch.testing.assert_close(twin.compute(), case.functional(*inputs))
    assert torch.equal(metric.compute(), before)


@every_metric
def test_reset_forgets(case):
    metric, inputs = case.make(), case.inputs()
    metric.update(*rows(inputs, slice(0, 5)))
    metric.compute()
    metric.reset()
    metric.update(*rows(inputs, slice(5, None)))
    torch.testing.assert_close(metric.compute(), case.functional(*rows(inputs, slice(5, None))))


@every_metric
def test_states_have_a_fixed_size_and_sum_over_ranks(case):
    metric = case.make()
    shapes = {name: getattr(metric, name).shape for name in metric._defaults}
    metric.update(*case.inputs())
    assert {name: getattr(metric, name).shape for name in metric._defaults} == shapes
    assert all(getattr(metric, name).dtype in (torch.float64, torch.long) for name in metric._defaults)
    assert metric.full_state_update is False
    assert metric.is_differentiable is False


@every_metric
def test_float32_and_bfloat16_input_is_summed_in_float64(case):
    for dtype, rtol in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        metric = case.make()
        inputs = tuple(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in case.inputs())
        metric.update(*inputs)
        if metric.compute().dtype != torch.long:
            assert metric.compute().dtype == torch.float64
            torch.testing.assert_close(metric.compute(), case.functional(*case.inputs()), rtol=rtol, atol=0.05)


@every_metric
def test_a_module_cast_to_bfloat16_does_not_take_the_sums_along(case):
    metric, inputs = case.make(), case.inputs()
    module = torch.nn.Module()
    module.metric = metric
    for cast in (lambda: module.to(torch.bfloat16), module.half, lambda: module.to("cpu", torch.float16)):
        cast()
    metric.update(*inputs)
    torch.testing.assert_close(metric.compute(), case.functional(*inputs), rtol=1e-12, atol=0)


@every_metric
def test_moving_to_a_device_without_float64_narrows_the_sums_first(case, monkeypatch):
    # No such device is at hand: the meta device plays one, and refuses what an Apple GPU refuses.
    monkeypatch.setattr(
        "lightning_interactions.metrics.base.accumulation_dtype",
        lambda device: torch.float32 if device.type == "meta" else accumulation_dtype(device),
    )
    metric = case.make()
    metric.update(*case.inputs())
    metric.to("meta")
    floats = [x for name in metric._defaults if (x := getattr(metric, name)).is_floating_point()]
    assert all(x.dtype == torch.float32 and x.device.type == "meta" for x in [*floats, *metric.buffers()])


@every_metric
def test_states_made_under_inference_mode_can_be_updated_afterwards(case):
    metric, inputs = case.make(), case.inputs()
    with torch.inference_mode():
        metric.reset()
        metric.update(*rows(inputs, slice(0, 5)))
    metric.update(*rows(inputs, slice(5, None)))
    torch.testing.assert_close(metric.compute(), case.functional(*inputs))


@every_metric
def test_values_do_not_hold_on_to_the_graph(case):
    metric = case.make()
    metric.update(*(x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in case.inputs()))
    assert not metric.compute().requires_grad


def test_mean_order_and_cancellation_share_an_update_in_a_collection():
    collection = MetricCollection([MeanOrder(N), Cancellation(N)])
    (strength,) = _strength_input()
    collection.update(strength[:5])
    collection.update(strength[5:])
    values = collection.compute()
    assert len(collection.compute_groups) == 1
    torch.testing.assert_close(values["MeanOrder"], mean_order(strength.mean(0)))
    torch.testing.assert_close(values["Cancellation"], cancellation(strength.mean(0)))


# -- two processes ----------------------------------------------------------------------------------------------------


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    part = slice(0, 4) if rank == 0 else slice(4, None)  # unequal, so a mean of means would show
    values = {}
    for name, case in CASES.items():
        metric = case.make()
        metric.update(*rows(case.inputs(), part))
        values[name] = metric.compute()
        metric.update(*rows(case.inputs(), slice(0, 0)))  # unsynced again: a second compute must not add ranks twice
        values[f"{name} again"] = metric.compute()
    torch.save(values, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.thorough
def test_two_processes_give_the_numbers_of_one(tmp_path):
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        values = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, case in CASES.items():
            one = case.make()
            one.update(*case.inputs())
            torch.testing.assert_close(values[name], one.compute(), rtol=1e-12, atol=0)
            torch.testing.assert_close(values[f"{name} again"], one.compute(), rtol=1e-12, atol=0)


# -- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@every_metric
def test_plot_returns_a_labelled_figure(case, tmp_path):
    from matplotlib.figure import Figure

    metric = case.make()
    metric.update(*case.inputs())
    for val in (None, metric.compute()):
        figure, axes = metric.plot(val)
        figure.savefig(tmp_path / "metric.png")
        assert (tmp_path / "metric.png").stat().st_size > 5000
        assert axes.get_title()
        assert axes.get_ylabel()
        assert axes in figure.axes
    own = Figure().add_subplot()
    figure, axes = metric.plot(ax=own)
    assert axes is own
    assert figure is own.figure


def test_order_strength_plot_has_positive_up_and_negative_down():
    metric = OrderStrength(2)
    _, axes = metric.plot(torch.tensor([[3.0, 1.0], [2.0, 0.5]]))
    assert [bar.get_height() for bar in axes.patches] == [3.0, 1.0, -2.0, -0.5]
    assert axes.get_xlabel() == "order (number of players)"


def test_scalar_metrics_plot_a_series():
    metric = MeanOrder(N)
    _, axes = metric.plot([metric(x) for x in _strength_input()[0].split(3)])
    assert len(axes.lines[0].get_xdata()) == 4


def test_an_empty_histogram_can_be_drawn(tmp_path):
    metric = InteractionHistogram(N)
    metric.update(*(x[:0] for x in interactions(0)), SCALE)
    metric.plot()[0].savefig(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_plotting_leaves_pyplot_alone():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    metric = InteractionHistogram(N)
    metric.update(*interactions(0), SCALE)
    metric.plot()
    MeanOrder(N).plot(torch.tensor(2.0))
    assert plt.get_fignums() == before


# -- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [OrderStrength, MeanOrder, Cancellation, InteractionJaccard, InteractionHistogram], ids=lambda c: c.__name__
)
@pytest.mark.parametrize("num_players", [1, 17, 2.0, True, None])
def test_wrong_numbers_of_players_are_refused(make, num_players):
    with pytest.raises(ArgumentError, match="num_players"):
        make(num_players)


def test_unknown_keywords_reach_torchmetrics():
    with pytest.raises(ValueError, match="sync_everything"):
        MeanOrder(N, sync_everything=True)
    assert MeanOrder(N, dist_sync_on_step=True).dist_sync_on_step


@pytest.mark.parametrize(
    ("metric", "inputs", "message"),
    [
        (OrderStrength(N), (torch.zeros(3, 8), torch.zeros(3, 8), 0.1), "16.*of 4 players.*3, 8"),
        (OrderStrength(N), (torch.zeros(3, 16), torch.zeros(2, 16), 0.1), "`and_` and `or_`"),
        (InteractionHistogram(N), (torch.zeros(3, 8), torch.zeros(3, 8), 0.1), "16"),
        (OrderStrength(N), (torch.zeros(3, 16), torch.zeros(3, 16), torch.zeros(2)), "`threshold`.*one per sample"),
        (MeanOrder(N), (torch.zeros(3, 2, 5),), r"\(\.\.\., 2, 4\).*3, 2, 5"),
        (Cancellation(N), (torch.zeros(4),), "`strength`"),
        (InteractionJaccard(N), (*torch.zeros(3, 3, 16), torch.zeros(3, 8)), "`second_and` and `second_or`"),
    ],
)
def test_wrong_shapes_are_named(metric, inputs, message):
    with pytest.raises(ArgumentError, match=message):
        metric.update(*inputs)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"smallest": 0.0}, "smallest"),
        ({"smallest": float("nan")}, "smallest"),
        ({"largest": 1e-3}, "largest"),
        ({"largest": float("inf")}, "largest"),
        ({"bins_per_decade": 0}, "bins_per_decade"),
        ({"bins_per_decade": 2.5}, "bins_per_decade"),
        ({"bins_per_decade": 101}, "bins_per_decade"),
    ],
)
def test_wrong_edges_are_refused(arguments, name):
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        symlog_edges(**arguments)
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        InteractionHistogram(N, **arguments)


@pytest.mark.parametrize("edges", [[0.0, 1.0], [0.0, 1.0, 1.0], [0.0, float("nan"), 1.0], [[0.0, 1.0, 2.0]]])
def test_histogram_refuses_edges_that_do_not_increase(edges):
    with pytest.raises(ArgumentError, match="`edges`"):
        interaction_histogram(torch.zeros(4), torch.zeros(4), 1.0, torch.tensor(edges))
