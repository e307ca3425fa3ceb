"""Quantities of the theory, logged when asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions import Options, TwoPhaseMonitor
from lightning_interactions.functional import jaccard_by_order, law_profiles, overlap, persistence, weighted_jaccard
from lightning_interactions.measure.extras import cutoff_order, persisting, profile_of, spindle_share
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.players import TabularFeatures

N = 4


def salient(seed: int, samples: int = 5) -> Tensor:
    values = torch.randn(samples, 2, 2**N, generator=torch.Generator().manual_seed(seed))
    values[..., 0] = 0
    return torch.where(values.abs() > 0.5, values, 0.0)


def test_the_profile_is_the_mean_strength_by_order() -> None:
    values = salient(0)
    values[2] = math.nan
    known = values[[0, 1, 3, 4]].double()
    expected = [
        float(sum(known[..., s].abs().sum() for s in range(2**N) if bin(s).count("1") == k)) / 4
        for k in range(1, N + 1)
    ]
    assert profile_of(values).tolist() == pytest.approx(expected)


def test_at_the_first_record_all_is_spindle_and_nothing_has_persisted() -> None:
    first = salient(0)
    assert spindle_share(first, first)["theory/spindle_share"] == pytest.approx(1, abs=0.2)
    assert math.isnan(persisting(None, first)["theory/persistence"])
    only_low = torch.zeros_like(first)
    only_low[:, 0, 1] = 1.0
    assert spindle_share(first, only_low)["theory/spindle_share"] == pytest.approx(0, abs=1e-9)


def test_persistence_is_of_the_record_before() -> None:
    before, now = salient(1), salient(2)
    shared = before[(before * now > 0)].abs().sum() / before.abs().sum()
    assert persisting(before, now)["theory/persistence"] == pytest.approx(float(shared), rel=1e-5)
    assert persistence(before, before).value == 1


def test_the_overlap_is_a_jaccard_index_of_sets() -> None:
    first, second = salient(3), salient(4)
    as_sets = [{(x, k, s, float(v[x, k, s].sign())) for x, k, s in v.nonzero().tolist()} for v in (first, second)]
    expected = len(as_sets[0] & as_sets[1]) / (len({i[:3] for i in as_sets[0] | as_sets[1]}) + sum(
        (x, k, s, -sign) in as_sets[1] for x, k, s, sign in as_sets[0]
    ))  # fmt: skip
    assert overlap(first, second).value == pytest.approx(expected)
    assert overlap(first, first).value == 1


def test_jaccard_by_order_is_that_of_each_order() -> None:
    first, second = salient(5)[0], salient(6)[0]
    found = jaccard_by_order(first, second)
    for k in range(1, N + 1):
        chosen = [s for s in range(2**N) if bin(s).count("1") == k]
        expected = weighted_jaccard(first[:, chosen].flatten(), second[:, chosen].flatten())
        torch.testing.assert_close(found[k - 1], expected, equal_nan=True)


def test_the_cutoff_is_that_of_the_law() -> None:
    trained = torch.randn(3, 2, 2**6, generator=torch.Generator().manual_seed(0))
    trained[..., 0] = 0
    profile = law_profiles(trained, torch.tensor([4.0**-2]).double())[0]
    now = torch.zeros(1, 2, 2**6)
    for k in range(1, 7):
        now[0, 0, 2**k - 1] = profile[k - 1]
    found = cutoff_order(now, trained)
    assert found["theory/cutoff_order"] == pytest.approx(2, abs=0.05)
    assert found["theory/cutoff_distance"] < 2e-3


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        score = x[:, 0] * x[:, 1] + x[:, 2]
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize("watch", ["val", "both"])
def test_the_monitor_logs_what_is_asked_for(watch: str) -> None:
    extras: Any = ["spindle_share", "persistence", "cutoff_order"]
    options = Options(
        TabularFeatures("zero"), num_samples=4, num_players=4, watch=watch, reference=Product(), extras=extras
    )
    monitor = InteractionMonitor(options, tell=lambda text: None)
    batch = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) + 0.5, torch.arange(12) % 2
    for epoch in range(3):
        for split in ("train", "val"):
            monitor.observe(split, batch)
        monitor.measure(Product(), epoch)
    history = monitor.history.to_dict()
    part = "val/" if watch == "both" else ""
    assert history[f"{part}theory/persistence"][1:] == [1, 1]
    assert history[f"{part}theory/cutoff_order"] == [math.inf] * 3
    assert history[f"{part}theory/cutoff_distance"] == pytest.approx([0] * 3, abs=1e-6)
    assert 0 <= history[f"{part}theory/spindle_share"][-1] <= 1
    if watch == "both":
        assert "train/theory/persistence" in history


def test_nothing_is_logged_unasked() -> None:
    assert TwoPhaseMonitor().options.extras == ()
    assert TwoPhaseMonitor(extras=["persistence"]).options.extras == ("persistence",)
