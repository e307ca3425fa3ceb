"""Shapes that can be more than one thing: what the model's layers and the numbers themselves say of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import masked_by_loops
from torch import Generator, Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.errors import ArgumentError, BatchError
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.model.batch import Batch
from lightning_interactions.players import (
    ImagePatches,
    Players,
    PointClusters,
    TabularFeatures,
    TimeWindows,
    choose_players,
    player_counts,
    suited_players,
)
from lightning_interactions.players.evidence import lies_at_random


class Shared(nn.Module):
    """A point network: the same layers on every point, then the largest of each feature."""

    def __init__(self, last: bool = True, each: nn.Module | None = None) -> None:
        super().__init__()
        self.last = last
        self.each = each or nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.each(x if self.last else x.transpose(1, 2)).amax(1))


class Positions(Shared):
    """The same with a table of positions, learned or not."""

    def __init__(self, length: int, *, learned: bool) -> None:
        super().__init__()
        table = torch.randn(1, length, 3)
        if learned:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table[:, : x.shape[1]])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.rnn = kind(3, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Wordless(nn.Module):
    """A model without layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


def pointnet(last: bool) -> nn.Module:
    each = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
    return nn.Sequential(Transpose(), each, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 3)) if last else (
        nn.Sequential(each, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 3))
    )  # fmt: skip


class Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class ChannelsLast(nn.Module):
    """Takes (B, H, W, C), or (B, H, W), and convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        images = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
        return self.head(torch.tanh(self.conv(images)).mean((2, 3)))


def of_model(model: nn.Module, inputs: Tensor, players: Players | str = "auto") -> Players:
    return suited_players(players, Batch(inputs, torch.zeros(len(inputs)).long()), model)


def smooth(*shape: int, along: int = 1) -> Tensor:
    """Random walks: each step is near the last."""
    return torch.randn(shape).cumsum(along)


# -- clouds and series -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [True, False], ids=["(B, N, 3)", "(B, 3, N)"])
@pytest.mark.parametrize("make", [Shared, pointnet], ids=["linear", "convolutions over single points"])
def test_a_point_network_plays_on_clouds_however_they_lie(make: Any, last: bool) -> None:
    for clouds in (torch.randn(4, 50, 3), smooth(4, 500, 3)):
        inputs = clouds if last else clouds.transpose(1, 2)
        assert type(of_model(make(last), inputs)) is PointClusters
    result = compute_interactions(make(last), inputs, torch.tensor([0, 1, 2, 0]), num_players=4)
    assert result.player_counts.tolist() == [4] * 4


OF_TIME: dict[str, Any] = {
    "LSTM": lambda n: Recurrent(),
    "GRU": lambda n: Recurrent(nn.GRU),
    "LSTM cell": lambda n: nn.LSTMCell(3, 8),
    "convolution over time": lambda n: nn.Sequential(Transpose(), nn.Conv1d(3, 4, 5), nn.AdaptiveMaxPool1d(1)),
}


@pytest.mark.parametrize("length", [40, 400])
@pytest.mark.parametrize("make", OF_TIME.values(), ids=OF_TIME.keys())
def test_where_layers_are_made_for_time_it_is_a_series(make: Any, length: int) -> None:
    """However the numbers lie: noise is a series too. How to say that it is a cloud is told."""
    for inputs in (torch.randn(4, length, 3), smooth(4, length, 3)):
        players = of_model(make(length), inputs)
        assert type(players) is TimeWindows
        assert players.partition(inputs[0], Generator()).shape == (length, 1)
        assert "players=PointClusters()" in players.describe()
        assert type(of_model(make(length), inputs, PointClusters())) is PointClusters


READERS: dict[str, Any] = {
    "convolution over an image of it": lambda n: nn.Sequential(nn.Conv2d(1, 4, (3, 1))),
    "flattened": lambda n: nn.Sequential(nn.Flatten(), nn.Linear(3 * n, 3)),
}


@pytest.mark.parametrize("length", [40, 400])
@pytest.mark.parametrize("make", READERS.values(), ids=READERS.keys())
def test_where_the_order_matters_it_is_asked_for(make: Any, length: int) -> None:
    """Landmarks are flattened too."""
    for inputs in (torch.randn(4, length, 3), smooth(4, length, 3)):
        with pytest.raises(BatchError, match=f"clouds of {length} points or series of {length} steps.*order.*matters"):
            of_model(make(length), inputs)


UNCLEAR: dict[str, Any] = {
    "learned positions": lambda n: Positions(n, learned=True),
    "fixed positions": lambda n: Positions(5 * n, learned=False),
    "embedding": lambda n: nn.Sequential(nn.Linear(3, 8), nn.Embedding(n, 8)),
    "encoder": lambda n: nn.TransformerEncoderLayer(3, 1),
    "no layers": lambda n: Wordless(),
}


@pytest.mark.parametrize("make", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_where_the_layers_do_not_tell_the_numbers_may(make: Any) -> None:
    many = torch.randn(4, 400, 3)
    assert type(of_model(make(400), many)) is PointClusters
    assert type(of_model(make(400), many.transpose(1, 2))) is PointClusters
    same, bad = torch.ones(4, 400, 3), many.clone()
    bad[2, 5, 0] = torch.nan
    for unsure in (torch.randn(4, 40, 3), smooth(4, 400, 3), smooth(4, 3, 400, along=2), same, bad):
        with pytest.raises(BatchError, match="the model's layers do not tell"):
            of_model(make(max(unsure.shape[1:])), unsure)


def test_noise_of_any_seed_is_a_cloud_and_a_noisy_series_none() -> None:
    for seed in range(50):
        assert lies_at_random(torch.randn(1, 256, 1, generator=Generator().manual_seed(seed)), 1)
        noise = torch.randn(1, 257, 3, generator=Generator().manual_seed(seed))
        assert type(of_model(Wordless(), noise[:, 1:])) is PointClusters
        with pytest.raises(BatchError):
            of_model(Wordless(), noise[:, 1:] + noise[:, :-1])


@pytest.mark.parametrize("last", [True, False], ids=["(B, T, 3)", "(B, 3, T)"])
@pytest.mark.parametrize("length", [7, 53])
def test_what_is_proposed_works_as_it_stands(length: int, last: bool) -> None:
    inputs = smooth(4, length, 3)
    inputs = inputs if last else inputs.transpose(1, 2).contiguous()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * length, 3))
    with pytest.raises(BatchError) as caught:
        compute_interactions(model, inputs, torch.tensor([0, 1, 2, 0]), num_players=4)
    proposed = re.findall(r"`players=(.+?)`[,.]", str(caught.value))
    kinds = [eval(code, {"TimeWindows": TimeWindows, "PointClusters": PointClusters}) for code in proposed]
    assert [type(kind) for kind in kinds] == [PointClusters, TimeWindows]
    windows = kinds[1].partition(inputs[0], Generator()).flatten()
    assert len(windows) == length
    assert windows.unique().tolist() == list(range(min(10, length)))
    assert bool((windows.diff() >= 0).all())
    for players in kinds if length > 7 else kinds[1:]:
        result = compute_interactions(model, inputs, torch.tensor([0, 1, 2, 0]), players, num_players=4)
        assert result.num_players == 4


def test_without_a_model_a_shape_is_taken_for_what_it_was() -> None:
    assert type(choose_players(torch.zeros(2, 9, 3))) is PointClusters


# -- small clouds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 4, 9, 30, 31, 59])
def test_a_small_cloud_has_clusters_that_change_when_masked(size: int) -> None:
    clouds = torch.randn(20, size, 3)
    players = PointClusters(30, axis=1)
    players.fit(clouds)
    shown = []
    for i, cloud in enumerate(clouds):
        labels = players.draw(cloud, 30, Generator().manual_seed(i))
        count = int(player_counts(labels.unsqueeze(0)))
        assert 2 <= count <= max(size // 2, 2)
        alone = torch.ones(count, count, dtype=torch.bool).fill_diagonal_(False)
        shown += [bool((masked != cloud).any()) for masked in players.mask(cloud, labels, alone)]
    assert sum(shown) >= len(shown) / 2


def test_a_large_cloud_has_as_many_clusters_as_asked_for() -> None:
    assert int(PointClusters(30).partition(torch.randn(200, 3), Generator().manual_seed(0)).max()) == 29
    # of which 10 differ
    labels = PointClusters(30).partition(torch.randn(10, 3).repeat(20, 1), Generator().manual_seed(0))
    assert len(labels.unique()) <= 5


# -- images with their channels last ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("baseline", ["zero", "mean", 0.25, "tensor"])
def test_images_with_channels_last_are_masked_value_by_value(channels: int, baseline: Any) -> None:
    samples = torch.randn(5, 9, 8, channels)
    tensor = torch.randn(9, 8, channels)
    players = ImagePatches(grid=3, margin=0, baseline=tensor if baseline == "tensor" else baseline, channels_last=True)
    players.fit(samples)
    absent = {
        "zero": torch.zeros(9, 8, channels),
        "mean": torch.stack([samples[..., c].mean() for c in range(channels)]).expand(9, 8, -1),
        0.25: torch.full((9, 8, channels), 0.25),
        "tensor": tensor,
    }[baseline]
    labels = torch.stack([players.draw(x, 4, Generator().manual_seed(i)) for i, x in enumerate(samples)])
    assert labels.shape == (5, 9, 8, 1)
    assert player_counts(labels).tolist() == [4] * 5
    found = players.mask_batch(samples, labels, coalition_masks(4)).view(5, 16, 9, 8, channels)
    for i in range(5):
        for index in range(16):
            expected = masked_by_loops(samples[i], labels[i].expand(9, 8, channels), index, absent)
            torch.testing.assert_close(found[i, index], expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_both_layouts_have_the_same_patches_and_interactions(channels: int) -> None:
    images, targets = torch.randn(3, channels, 9, 8), torch.tensor([0, 2, 1])
    last = images.permute(0, 2, 3, 1).contiguous()
    model = ChannelsLast(channels)
    expected = compute_interactions(
        lambda x: model(x.permute(0, 2, 3, 1)), images, targets, ImagePatches(3, 0, "mean", False), num_players=9
    )
    found = compute_interactions(model, last, targets, ImagePatches(3, 0, "mean"), num_players=9)
    # The keys of the samples, by which players are numbered, are those of their bytes; here all patches play.
    assert found.players.shape == (3, 9, 8, 1)
    torch.testing.assert_close(found.values[:, [0, -1]], expected.values[:, [0, -1]])
    assert torch.equal(found.players.squeeze(-1), expected.players)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-5)


def test_gray_images_without_channel_have_patches_too() -> None:
    images = torch.randn(4, 6, 6)
    players = ImagePatches(3, 0, baseline="mean")
    players.fit(images)
    labels = players.draw(images[0], 9, Generator())
    assert labels.shape == (6, 6)
    empty = players.mask(images[0], labels, torch.zeros(1, 9, dtype=torch.bool))
    torch.testing.assert_close(empty, images.mean().expand(1, 6, 6))


CONV = nn.Sequential(nn.Conv2d(10, 12, 3), nn.Conv2d(12, 64, 3))
RGB = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3))
MLP = nn.Sequential(nn.Flatten(), nn.Linear(99, 3))


@pytest.mark.parametrize(
    ("model", "shape", "last"),
    [
        (MLP, (28, 28, 1), True),
        (MLP, (28, 20, 3), True),
        (MLP, (28, 28, 4), True),
        (MLP, (3, 28, 28), False),
        (MLP, (1, 28, 28), False),
        (MLP, (3, 28, 3), False),
        (MLP, (28, 28, 2), False),
        (MLP, (512, 4, 4), False),  # the output of a deep layer
        (MLP, (512, 1, 1), False),
        (MLP, (4, 4, 4), False),
        (RGB, (32, 32, 3), True),  # though there is a layer with 32 channels
        (RGB, (3, 32, 32), False),
        (RGB, (3, 32, 3), False),
        (RGB, (64, 8, 4), False),  # the output of a layer
        (RGB, (50, 50, 4), True),
        (CONV, (16, 16, 10), True),  # by the first convolution alone
        (CONV, (10, 16, 16), False),
        (CONV, (10, 30, 4), False),
        (CONV, (64, 30, 4), False),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else None,
)
def test_where_the_channels_are(model: nn.Module, shape: tuple[int, ...], last: bool) -> None:
    inputs = torch.randn(2, *shape)
    players = of_model(model, inputs)
    assert type(players) is ImagePatches
    players.fit(inputs)
    pixels = (*shape[:2], 1) if last else shape[1:]
    assert players.partition(inputs[0], Generator()).shape == pixels
    assert ("channels last" in players.describe()) == last
    for given in (True, False):
        told = of_model(model, inputs, ImagePatches(grid=1, channels_last=given))
        pixels = (*shape[:2], 1) if given else shape[1:]
        assert told.partition(inputs[0], Generator()).shape == pixels
        assert f"channels_last={given}" in told.describe()


def test_a_setting_left_out_is_not_shown() -> None:
    assert repr(ImagePatches()) == "ImagePatches(baseline='zero', grid=None, margin=None)"
    assert repr(ImagePatches(channels_last=False)).endswith("channels_last=False)")


# -- (B, H, W) -------------------------------------------------------------------------------------------------------


def test_gray_images_are_recognised_where_the_convolutions_take_one_channel() -> None:
    x = torch.randn(3, 12, 12)
    assert type(of_model(ChannelsLast(1), x)) is ImagePatches
    result = compute_interactions(ChannelsLast(1), x, torch.tensor([0, 1, 2]), num_players=4)
    assert result.players.shape == (3, 12, 12)


@pytest.mark.parametrize(
    "model",
    [
        MLP,
        ChannelsLast(3),
        nn.Sequential(ChannelsLast(1), nn.LSTM(5, 4)),
        nn.Sequential(nn.Conv2d(1, 8, 4, 4), nn.MultiheadAttention(8, 2)),
        nn.Sequential(ChannelsLast(1), Positions(12, learned=True)),
    ],
    ids=["flattened", "three channels", "recurrent", "attention", "positions"],
)
def test_else_it_is_asked_what_they_are(model: nn.Module) -> None:
    with pytest.raises(BatchError) as caught:
        of_model(model, torch.randn(3, 12, 14))
    text = str(caught.value)
    assert "gray images of 12 x 14 pixels: `ImagePatches()`" in text
    for words, shape in (("12 steps with 14", (12, 1)), ("14 steps with 12", (14,))):
        code = re.search(rf"series of {words} numbers each: `(.+?)`", text)
        assert code is not None
        windows = eval(code[1], {"TimeWindows": TimeWindows}).partition(torch.zeros(12, 14), Generator())
        assert windows.shape == shape
        assert windows.unique().tolist() == list(range(10))


@pytest.mark.parametrize("shape", [(1, 50), (50, 1)])
def test_a_dimension_of_one_is_no_time(shape: tuple[int, int]) -> None:
    players = choose_players(torch.randn(3, *shape))
    assert type(players) is TimeWindows
    assert players.partition(torch.randn(shape), Generator()).unique().tolist() == list(range(10))


class Spectrogram(nn.Module):
    """Makes images of sounds (B, T) or (B, 1, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(64)
        return self.net(torch.stft(x.flatten(1), 64, window=window, return_complex=True).abs().unsqueeze(1))


WAVES = torch.sin(torch.arange(400) * torch.tensor([[0.1], [0.2], [0.3]])) + 0.1 * torch.randn(3, 400)
COLUMNS = torch.randn(3, 400)
ONE_BY_ONE = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 4, 5), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                           nn.Linear(4, 3))  # fmt: skip


def test_a_sound_of_which_the_model_makes_an_image_is_a_series() -> None:
    assert type(of_model(Spectrogram(), WAVES.unsqueeze(1))) is TimeWindows


@pytest.mark.parametrize(
    ("model", "rows", "kind"),
    [
        (Spectrogram(), WAVES, TimeWindows),
        (Spectrogram(), COLUMNS, TabularFeatures),
        (Spectrogram(), torch.ones(3, 400), TabularFeatures),
        (Spectrogram(), WAVES[:, :200], TabularFeatures),
        (ONE_BY_ONE, COLUMNS, TimeWindows),
        (ONE_BY_ONE, COLUMNS[:, :12], TimeWindows),
        (nn.LSTM(1, 4), COLUMNS[:, :12], TimeWindows),
        (nn.Sequential(nn.Linear(400, 4), nn.ReLU(), nn.Linear(4, 3)), WAVES, TabularFeatures),
        (nn.Sequential(nn.Linear(400, 8), nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 3)), WAVES, TabularFeatures),
        (nn.Sequential(nn.BatchNorm1d(400), ONE_BY_ONE), COLUMNS, TabularFeatures),
        (nn.Identity(), COLUMNS[:, :12], TabularFeatures),
    ],
    ids=["spectrogram", "of no order", "constant", "too short to tell", "one by one", "few", "recurrent", "flat",
         "flat at first", "norm of columns", "no layers"],
)  # fmt: skip
def test_rows_of_numbers_are_series_or_columns(model: nn.Module, rows: Tensor, kind: type[Players]) -> None:
    assert type(of_model(model, rows)) is kind


def test_a_series_of_single_numbers_is_masked_in_windows() -> None:
    result = compute_interactions(ONE_BY_ONE, WAVES, torch.tensor([0, 1, 2]), num_players=10)
    assert torch.equal(result.players, (torch.arange(400) // 40).expand(3, -1))


def test_other_shapes_are_not_asked_about() -> None:
    with pytest.raises(BatchError) as caught:
        choose_players(torch.zeros(2, 3, 4, 5, 6))
    assert "gray" not in str(caught.value)


def test_a_baseline_of_another_shape_is_refused_here_too() -> None:
    with pytest.raises(ArgumentError, match="`baseline`"):
        ImagePatches(baseline=torch.zeros(3, 1, 1), channels_last=True).fit(torch.randn(2, 8, 8, 3))


def test_a_model_of_such_images_gets_them_as_they_are() -> None:
    x, y = torch.randn(2, 8, 8, 3), torch.tensor([0, 1])
    model = ChannelsLast(3)
    result = compute_interactions(model, x, y, num_players=4)
    with torch.no_grad():
        log_p = F.log_softmax(model(x).double(), -1)[[0, 1], y]
    expected = log_p - torch.log1p(-log_p.exp())
    torch.testing.assert_close(result.values[:, -1], expected, rtol=1e-5, atol=1e-5)
