"""Windows of time: where they are cut, which dimension is time, and what an absent one shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import masked_by_loops
from torch import Generator, Tensor, nn

from lightning_interactions import ArgumentError, BatchError, compute_interactions
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.players import TimeWindows, picture_of

ENCODER = nn.TransformerEncoderLayer(16, 2, 8, batch_first=True)


class Swap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def suited(model: nn.Module, **options: Any) -> TimeWindows:
    windows = TimeWindows(**options)
    windows.suit(model)
    return windows


@given(st.integers(2, 40), st.integers(2, 12))
def test_windows_are_contiguous_and_of_equal_length(steps: int, num_windows: int) -> None:
    windows = TimeWindows(num_windows, axis=0).partition(torch.zeros(steps, 3), Generator())
    assert windows.shape == (steps, 1)
    ids = windows.flatten()
    assert ids.unique().tolist() == list(range(min(steps, num_windows)))
    assert bool((ids.diff() >= 0).all())
    sizes = ids.bincount()
    assert int(sizes.max() - sizes.min()) <= 1


TIME: dict[str, tuple[nn.Module, tuple[int, int], int]] = {
    "LSTM": (nn.Sequential(nn.LSTM(16, 8)), (40, 16), 0),
    "recurrent cell": (nn.GRUCell(16, 8), (40, 16), 0),
    "convolution": (nn.Sequential(nn.Conv1d(16, 8, 3), nn.Flatten(), nn.Linear(8 * 38, 2)), (16, 40), 1),
    "convolution after a swap": (nn.Sequential(Swap(), nn.Conv1d(16, 8, 3)), (40, 16), 0),
    "norm first": (nn.Sequential(nn.BatchNorm1d(16), nn.Conv1d(16, 8, 3)), (16, 40), 1),
    "encoder": (ENCODER, (40, 16), 0),
    "linear": (nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 40), nn.Linear(40, 3)), (40, 16), 0),
    "sound": (nn.Sequential(nn.Conv1d(1, 8, 3)), (1, 40), 1),
    "one feature": (nn.Identity(), (40, 1), 0),
    "as long as wide, convolution": (nn.Conv1d(16, 8, 3), (16, 16), 1),
    "as long as wide, recurrent": (nn.RNN(16, 8), (16, 16), 0),
}


@pytest.mark.parametrize(("model", "shape", "axis"), TIME.values(), ids=TIME.keys())
def test_the_first_layer_that_fits_tells_which_dimension_is_time(
    model: nn.Module, shape: tuple[int, int], axis: int
) -> None:
    windows = suited(model)
    found = windows.partition(torch.zeros(shape), Generator())
    assert found.shape == ((shape[1],) if axis else (shape[0], 1))
    windows.see(torch.zeros(2, *shape))
    assert f"along dimension {axis + 1}" in windows.describe()
    assert suited(model, axis=axis).partition(torch.zeros(shape), Generator()).equal(found)


@pytest.mark.parametrize("model", [nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(640, 2))])
def test_where_no_layer_tells_it_is_asked_for(model: nn.Module) -> None:
    with pytest.raises(
        BatchError, match=r"which dimension.*\(40, 16\).*TimeWindows\(axis=0\)` for 40 steps, or axis=1"
    ):
        suited(model).partition(torch.zeros(40, 16), Generator())


@pytest.mark.parametrize("shape", [(1, 1), (1,)])
def test_a_single_step_has_no_windows(shape: tuple[int, ...]) -> None:
    with pytest.raises(BatchError, match=r"at least 2 steps.*\(1" if len(shape) == 1 else "which dimension"):
        TimeWindows().partition(torch.zeros(shape), Generator())
    with pytest.raises(BatchError, match=r"\(1, 9\) has 1 along its dimension 0.*TimeWindows\(axis=1\)"):
        TimeWindows(axis=0).partition(torch.zeros(1, 9), Generator())


@pytest.mark.parametrize(
    ("options", "named"),
    [({"num_windows": 1}, "num_windows"), ({"num_windows": 2.5}, "num_windows"), ({"axis": 2}, "axis"),
     ({"axis": True}, "axis"), ({"baseline": "mode"}, "baseline")],
)  # fmt: skip
def test_wrong_arguments(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{named}`"):
        TimeWindows(**options)


def test_images_are_no_series() -> None:
    with pytest.raises(BatchError, match=r"\(3, 8, 8\)"):
        TimeWindows().partition(torch.zeros(3, 8, 8), Generator())


@pytest.mark.parametrize("shape", [(20, 3), (3, 20), (20,)], ids=["(T, F)", "(C, T)", "(T,)"])
def test_an_absent_window_shows_the_means_of_its_channels(shape: tuple[int, ...]) -> None:
    axis = 1 if shape == (3, 20) else 0
    windows = TimeWindows(num_windows=5, axis=axis)
    samples = torch.randn(6, *shape)
    windows.fit(samples)
    means = samples.mean((0, 1 + axis), keepdim=True)[0].expand(shape)
    players = windows.draw(samples[0], 4, Generator().manual_seed(0))
    coalitions = coalition_masks(4)
    expected = torch.stack([masked_by_loops(samples[0], players, index, means) for index in range(16)])
    torch.testing.assert_close(windows.mask(samples[0], players, coalitions), expected)


def test_series_of_different_length_are_cut_each_by_its_own() -> None:
    windows = TimeWindows(num_windows=4, axis=0)
    for steps in (8, 20):
        assert windows.partition(torch.zeros(steps, 2), Generator()).flatten().bincount().tolist() == [steps // 4] * 4


def test_a_planted_pair_of_windows_is_found() -> None:
    """Two windows that only count together are one AND interaction of order 2."""

    def model(x: Tensor) -> Tensor:
        return 5 * x[:, 0, 0:5].mean(1) * x[:, 0, 15:20].mean(1)

    found = compute_interactions(
        model, torch.ones(1, 1, 20), torch.ones(1), TimeWindows(4, baseline="zero"), num_players=4
    )
    assert [(one.kind, one.players, round(one.value, 5)) for one in found.top_k(3)[0]] == [("and", (0, 3), 5.0)]


@pytest.mark.parametrize(
    ("sample", "axis", "row"),
    [
        (torch.tensor([[1.0, 2, 3, 4]]), 1, ("steps 2-3", "3.5 (3 to 4)", 1)),
        (torch.arange(16.0).view(4, 4), 0, ("steps 2-3", "10, 11, 12, ...", 1)),
    ],
    ids=["sound", "series"],
)
def test_a_picture_has_a_row_for_every_window(sample: Tensor, axis: int, row: tuple[str, str, int]) -> None:
    windows = TimeWindows(num_windows=2, axis=axis)
    picture = picture_of(windows, sample, windows.draw(sample, 2, Generator()))
    assert picture.names == ["steps 0-1", "steps 2-3"]
    assert picture.content is not None
    assert picture.content.to_dict()["rows"][1] == list(row)
    assert picture_of(windows, torch.zeros(3, 9, 9), windows.draw(sample, 2, Generator())).note
