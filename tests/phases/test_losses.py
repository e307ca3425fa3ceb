"""What the losses say: the lowest so far, growths above it, how long they lasted, and how sure they are."""

from __future__ import annotations

import io
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interactions.errors import ArgumentError
from lightning_interactions.phases import PhaseDetector, losses_show_overfitting
from lightning_interactions.phases.losses import LossTrack, check_losses
from lightning_interactions.phases.messages import tell_rise

LOSS = st.integers(-256, 256).map(lambda part: part / 64)  # sums and differences of these are exact
STRENGTH = torch.rand(6, 2, 4, generator=torch.Generator().manual_seed(0))


def track_of(val: list[float], train: list[float] | None = None, first: float = 0.0) -> LossTrack:
    track = LossTrack()
    for epoch, pair in enumerate(zip(train or [0.0] * len(val), val, strict=True)):
        track.add(first + epoch, *pair)
    return track


@given(st.lists(st.tuples(LOSS, LOSS), min_size=1, max_size=20), st.integers(-1, 50))
def test_growths_count_from_the_lowest_so_far_to_the_lower_of_the_last_two(
    losses: list[tuple[float, float]], first: int
) -> None:
    train, val = map(list, zip(*losses, strict=True))
    gaps = [v - t for t, v in losses]
    lowest = min(range(len(val)), key=lambda i: (val[i], i))
    unit = max(abs(val[lowest]), abs(val[0]) / 100) or 1.0
    assert track_of(val, train, first).evidence() == {
        "gap": gaps[-1],
        "gap_low": min(gaps),
        "gap_growth": (min(gaps[-2:]) - min(gaps)) / unit,
        "val_loss": val[-1],
        "best_val_loss": val[lowest],
        "best_val_epoch": first + lowest,
        "val_growth": (min(val[-2:]) - val[lowest]) / unit,
        "growth_unit": unit,
        "val_growth_lasted": (len(val) - 1 - lowest) / (first + lowest + 1 or 1),
    }


@pytest.mark.parametrize(
    ("val", "unit"),
    [
        ([2.0, 1.0, 1.5], 1.0),
        ([2.0, 1e-9, 0.5], 0.02),
        ([2.0, 0.0, 0.5], 0.02),
        ([0.0, 0.0, 0.5], 1.0),
        ([-1.0, -4.0, -3.0], 4.0),
        ([3.0, 3.0, 3.0], 3.0),
    ],
    ids=["falling", "vanishing", "zero", "always zero", "negative", "constant"],
)
def test_growths_are_relative_to_the_lowest_loss_or_a_hundredth_of_the_first(val: list[float], unit: float) -> None:
    track = track_of([*val, val[-1]])
    assert track.unit == unit
    assert track.evidence()["val_growth"] == pytest.approx((val[-1] - min(val)) / unit)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["train", "val"])
def test_a_record_with_a_loss_that_is_none_changes_nothing(missing: float | None, which: str) -> None:
    assert LossTrack().evidence() == {}
    track = track_of([2.0, 1.0, 1.2], [1.0, 0.5, 0.4])
    before = asdict(track)
    track.add(7, *((missing, 0.1) if which == "train" else (0.1, missing)), torch.ones(3))
    assert asdict(track) == before


def test_how_long_a_rise_lasted_is_in_lengths_of_the_training_until_the_lowest_loss() -> None:
    track = LossTrack()
    for epoch, val in ((1.5, 2.0), (9, 1.0), (10, 1.1), (10.5, 1.1)):
        track.add(epoch, 0.0, val)
    assert track.evidence()["val_growth_lasted"] == pytest.approx(1.5 / 10)
    never_better = track_of([1.0, 2.0, 3.0], first=-1)
    assert never_better.evidence()["val_growth_lasted"] == 2, "nothing was trained until then: it counts as one epoch"


# ---------------------------------------------------------------------------------------------------- standard error


def with_samples(*each: torch.Tensor | None) -> dict[str, float]:
    """Evidence after these losses of single samples, whose means rise from 1 by 0.1."""
    track = LossTrack()
    for epoch, losses in enumerate(each):
        track.add(epoch, 0.0, 1.0 + epoch / 10, losses)
    return track.evidence()


@pytest.mark.parametrize("samples", [2, 10, 200])
def test_the_standard_error_is_that_of_paired_differences(samples: int) -> None:
    """Samples that differ much, but change alike, make no rise unsure."""
    generator = torch.Generator().manual_seed(samples)
    before = 50 * torch.rand(samples, generator=generator, dtype=torch.float64)
    after = before + 0.1 + 0.3 * torch.randn(samples, generator=generator, dtype=torch.float64)
    error = with_samples(before, torch.zeros(samples), after)["val_growth_error"]
    changes = (after - before).tolist()
    mean = sum(changes) / samples
    variance = sum((change - mean) ** 2 for change in changes) / (samples - 1)
    assert error == pytest.approx(math.sqrt(variance / samples))
    assert with_samples(before, before + 0.1)["val_growth_error"] == pytest.approx(0, abs=1e-12)


def test_it_is_relative_like_the_growth() -> None:
    track = LossTrack()
    for epoch, loss in enumerate((4.0, 8.0)):
        track.add(epoch, 0.0, loss, loss + torch.tensor([0.0, 1.0, 2.0]) * epoch)
    assert track.evidence()["val_growth_error"] == pytest.approx(1 / math.sqrt(3) / 4)


def test_without_the_same_samples_there_is_none() -> None:
    some = torch.rand(5)
    assert "val_growth_error" not in with_samples(None, None)
    assert "val_growth_error" not in with_samples(None, some)
    assert "val_growth_error" not in with_samples(some, None)
    assert "val_growth_error" not in with_samples(some, some[:4])
    assert "val_growth_error" not in with_samples(some[:1], some[:1])
    assert "val_growth_error" not in with_samples(some, some * math.nan)
    assert "val_growth_error" in with_samples(some, None, some), "one record without them is no obstacle"


def test_samples_that_are_not_finite_are_left_out() -> None:
    before, after = torch.tensor([1.0, math.inf, 2.0, 3.0]), torch.tensor([1.5, 1.0, math.nan, 4.5])
    expected = with_samples(before[[0, 3]], after[[0, 3]])["val_growth_error"]
    assert with_samples(before, after)["val_growth_error"] == expected > 0


def test_it_is_told_in_percent_of_the_lowest_loss() -> None:
    assert tell_rise({"val_loss": 1.062, "best_val_loss": 1.0}) == "+6.2 %"
    negative = {"val_loss": -3.0, "best_val_loss": -4.0, "val_growth_error": 0.125, "growth_unit": 4.0}
    assert tell_rise(negative) == "+25.0 % +- 12.5 %"
    track = LossTrack()  # of a loss that vanished, growths are relative to more than the lowest
    for loss, by in ((1.0, 0.0), (0.001, 0.0), (0.002, 0.0003)):
        track.add(0, 0.0, loss, loss + by * torch.tensor([-1.0, 0.0, 1.0]))
    error = 100 * 0.0003 / math.sqrt(3) / 0.001
    assert tell_rise(track.evidence()) == f"+100.0 % +- {error:.1f} %"
    zero = track_of([1.0, 0.0, 0.001]).evidence()
    assert tell_rise(zero) == "+10.0 %"


@pytest.mark.parametrize("losses", [None, [1, 2], np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), ()])
def test_array_likes_are_taken(losses: object) -> None:
    found = check_losses(losses)
    if losses is None:
        assert found is None
    else:
        assert found is not None
        assert (found.dtype, found.tolist()) == (torch.float64, [float(x) for x in losses])  # type: ignore[attr-defined]


@pytest.mark.parametrize("losses", ["low", 1.0, [[1.0, 2.0]], torch.zeros(2, 2), {"a": 1}, [1.0, None], object()])
def test_what_are_no_losses_of_samples_is_refused(losses: object) -> None:
    detector = PhaseDetector()
    detector.update(5, STRENGTH, 1.0, 1.0, val_losses=[1.0, 1.0])
    before = repr(detector.state_dict())
    with pytest.raises(ArgumentError, match="`val_losses`"):
        detector.update(6, STRENGTH, 1.0, 1.0, val_losses=losses)
    assert repr(detector.state_dict()) == before


def test_the_caller_may_use_the_tensor_again() -> None:
    buffer = torch.ones(3, dtype=torch.float64, requires_grad=True)
    detector = PhaseDetector()
    for epoch in range(3):
        with torch.no_grad():
            buffer.copy_(torch.tensor([1.0, 2.0, 3.0]) * (epoch + 1))
        detector.update(epoch, STRENGTH, 0.0, 1.0 + epoch, val_losses=buffer)
    assert detector.evidence["val_growth_error"] == pytest.approx(2 / math.sqrt(3))


# ------------------------------------------------------------------------------------------------------------- state


@given(st.lists(st.tuples(LOSS, LOSS), min_size=1, max_size=8), st.integers(0, 7))
def test_the_state_of_a_detector_keeps_all_of_it(losses: list[tuple[float, float]], split: int) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = [torch.rand(4, generator=generator) for _ in losses]
    whole = halves = PhaseDetector()
    for epoch, ((train, val), each) in enumerate(zip(losses, samples, strict=True)):
        if epoch == split:
            buffer = io.BytesIO()
            torch.save(whole.state_dict(), buffer)
            buffer.seek(0)
            halves = PhaseDetector()
            halves.load_state_dict(torch.load(buffer, weights_only=True))
        for detector in {whole, halves}:
            detector.update(epoch, STRENGTH, train, val, val_losses=each)
    assert halves.evidence == whole.evidence
    assert "val_growth_error" in whole.evidence


def test_older_states_lack_what_came_later() -> None:
    """Those of version 1 know nothing of single samples, nor of when the last losses were."""
    old = asdict(track_of([2.0, 1.0, 1.5]))
    for name in ("last_epoch", "best_each", "last_each"):
        del old[name]
    track = LossTrack.from_state({**old, "of a later version": 1})
    assert not losses_show_overfitting({**track.evidence(), "val_growth": 9.0, "gap_growth": 9.0}), "until the next one"
    track.add(3, 0.0, 1.6, torch.ones(3))
    assert track.evidence() == track_of([2.0, 1.0, 1.5, 1.6]).evidence()
