"""Who the players are, and what their absence looks like, element by element."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import masked_by_loops
from torch import Generator, Tensor

from lightning_interactions.errors import ArgumentError, BatchError
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.players import (
    FeatureMask,
    ImagePatches,
    Players,
    PointClusters,
    TabularFeatures,
    Tokens,
    check_players,
    choose_players,
    with_background,
)
from lightning_interactions.players.base import RegionPlayers

N = 4


class Stripes(Players):
    """What a user might write: every third column together; an absent stripe is replaced by its own mean."""

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        return torch.arange(len(sample)) % 3

    def mask(self, sample: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        present = with_background(coalitions)[:, players]
        return torch.where(present, sample, sample.mean())


def draw(players: Players, sample: Tensor, n: int = N, seed: int = 0) -> Tensor:
    return players.draw(sample, n, Generator().manual_seed(seed))


BOX = torch.tensor([[3, 3, -1, 8], [-1, 5, 5, 8], [11, 11, -1, -1]])
KINDS = {
    "image": (ImagePatches(grid=3, margin=0), (2, 7, 8)),
    "image, default grid": (ImagePatches(), (3, 9, 9)),
    "table": (TabularFeatures("zero"), (6,)),
    "table, grouped": (TabularFeatures("zero", groups=[[0, 4], [2, 3]]), (9,)),
    "feature mask": (FeatureMask(BOX), (3, 4)),
    "feature mask on channels": (FeatureMask(BOX), (2, 3, 4)),
    "feature mask, broadcast": (FeatureMask(torch.tensor([[0], [4], [2], [-1], [9]])), (2, 5, 4)),
}
every_kind = pytest.mark.parametrize(("players", "shape"), KINDS.values(), ids=KINDS.keys())


# -- masking ---------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("baseline", ["zero", "mean", -1.5, "tensor"])
def test_masked_values_one_by_one(players: Players, shape: tuple[int, ...], baseline: Any) -> None:
    samples = torch.randn(5, *shape)
    tensor = torch.randn(shape)
    settings = {name: value for name, value in vars(players).items() if name in ("grid", "margin", "groups")}
    if isinstance(players, FeatureMask):
        settings = {"mask": players.mask_ids}
    fitted = type(players)(**settings, baseline=tensor if baseline == "tensor" else baseline)
    fitted.fit(samples)
    absent = {
        "zero": torch.zeros(shape),
        "mean": torch.stack([samples[:, c].mean() for c in range(shape[0])]).view(-1, 1, 1).expand(shape)
        if isinstance(players, ImagePatches)
        else torch.stack(list(samples)).sum(0) / 5,
        -1.5: torch.full(shape, -1.5),
        "tensor": tensor,
    }[baseline]
    labels = draw(fitted, samples[0])
    masked = fitted.mask(samples[0], labels, coalition_masks(int(labels.max()) + 1))
    for index, row in enumerate(masked):
        torch.testing.assert_close(row, masked_by_loops(samples[0], labels, index, absent))


def test_masked_values_of_a_kind_written_by_a_user() -> None:
    sample = torch.arange(7.0)
    labels = draw(Stripes(), sample)
    masked = Stripes().mask_batch(torch.stack([sample, -sample]), torch.stack([labels, labels]), coalition_masks(3))
    assert masked.shape == (16, 7)
    for index in range(8):
        assert torch.equal(masked[index], masked_by_loops(sample, labels, index, 3.0))
        assert torch.equal(masked[8 + index], masked_by_loops(-sample, labels, index, -3.0))


@every_kind
def test_a_batch_is_its_samples_one_after_the_other(players: Players, shape: tuple[int, ...]) -> None:
    samples = torch.randn(3, *shape)
    labels = torch.stack([draw(players, x, seed=i) for i, x in enumerate(samples)])
    coalitions = coalition_masks(N)[torch.tensor([0, 5, 11])]
    found = players.mask_batch(samples, labels, coalitions)
    assert found.shape == (9, *shape)
    assert torch.equal(found, torch.cat([players.mask(x, p, coalitions) for x, p in zip(samples, labels, strict=True)]))
    assert torch.equal(found, Players.mask_batch(players, samples, labels, coalitions))


@every_kind
def test_background_always_stays_and_the_full_coalition_is_the_sample(players: Players, shape: tuple[int, ...]) -> None:
    sample = torch.randn(shape)
    labels = draw(players, sample, n=2)
    masked = players.mask(sample, labels, coalition_masks(2))
    background = (labels == -1).expand(shape)
    assert background.any()
    assert torch.equal(masked[:, background], sample[background].expand(4, -1))
    assert torch.equal(masked[-1], sample)
    assert masked.dtype == sample.dtype


@every_kind
def test_only_present_players_matter(players: Players, shape: tuple[int, ...]) -> None:
    sample = torch.randn(shape)
    labels = draw(players, sample)
    coalitions = coalition_masks(N)
    before = players.mask(sample, labels, coalitions)
    for player in range(N):
        other = torch.where(labels == player, torch.full(shape, 99.0), sample)
        moved = (players.mask(other, labels, coalitions) != before).flatten(1).any(1)
        assert torch.equal(moved, coalitions[:, player])


@every_kind
def test_masking_leaves_the_sample_alone(players: Players, shape: tuple[int, ...]) -> None:
    sample = torch.randn(shape)
    before = sample.clone()
    masked = players.mask(sample, draw(players, sample), coalition_masks(N))
    masked.zero_()
    assert torch.equal(sample, before)


@given(st.integers(1, 3), st.integers(2, 12), st.integers(2, 12), st.data())
def test_image_patches_of_any_size(channels: int, height: int, width: int, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    margin = data.draw(st.integers(0, 2))
    if max(rows - 2 * margin, 0) * max(columns - 2 * margin, 0) < 2:
        return
    patches = ImagePatches(grid=(rows, columns), margin=margin)
    labels = patches.partition(torch.zeros(channels, height, width), Generator())
    expected = torch.empty(height, width, dtype=torch.long)
    for i in range(height):
        for j in range(width):
            r, c = i * rows // height - margin, j * columns // width - margin
            inside = 0 <= r < rows - 2 * margin and 0 <= c < columns - 2 * margin
            expected[i, j] = r * (columns - 2 * margin) + c if inside else -1
    assert torch.equal(labels, expected)
    # every patch has a pixel, and patches of one side differ by one pixel at most
    assert set(labels.flatten().tolist()) - {-1} == set(range((rows - 2 * margin) * (columns - 2 * margin)))


def test_default_grid_is_that_of_the_papers() -> None:
    labels = ImagePatches().partition(torch.zeros(3, 32, 32), Generator())
    assert int(labels.max()) + 1 == 36  # 6 x 6 inside 8 x 8
    assert (labels[:4] == -1).all()
    assert (labels[4:28, 4:28] >= 0).all()
    assert (labels[28:] == -1).all()
    small = ImagePatches().partition(torch.zeros(1, 5, 5), Generator())
    assert torch.equal(small, torch.arange(25).view(5, 5))  # no room for a margin


# -- drawing ---------------------------------------------------------------------------------------------------------


@every_kind
def test_drawn_players_are_whole_regions_numbered_from_zero(players: Players, shape: tuple[int, ...]) -> None:
    sample = torch.randn(shape)
    regions = players.partition(sample, Generator())
    for seed in range(5):
        labels = draw(players, sample, seed=seed)
        assert labels.shape == regions.shape
        assert labels.dtype == torch.long
        assert set(labels.flatten().tolist()) - {-1} == set(range(N))
        for player in range(N):
            inside = regions[labels == player].unique()
            assert len(inside) == 1
            assert torch.equal(labels == player, regions == inside)
        assert (labels[regions == -1] == -1).all()


@pytest.mark.parametrize(("wanted", "side"), [(17, 5), (64, 8), (65, 9), (196, 14), (512, 23)])
@pytest.mark.parametrize("pixels", [32, 224])
def test_images_have_patches_for_many_players(wanted: int, side: int, pixels: int) -> None:
    """Also where the patches are not equal: 14 x 14 of 32 pixels are 2 or 3 pixels wide."""
    assert ImagePatches().finer(wanted) == f"ImagePatches(grid={side}, margin=0)"
    labels = draw(ImagePatches(grid=side, margin=0), torch.zeros(3, pixels, pixels), wanted)
    sizes = labels[labels >= 0].bincount(minlength=wanted)
    assert len(sizes) == wanted
    assert int(sizes.max()) <= math.ceil(pixels / side) ** 2
    assert int(sizes.min()) >= (pixels // side) ** 2 > 0


def test_more_patches_than_pixels_are_refused() -> None:
    with pytest.raises(BatchError, match="A grid of 14 x 14 patches does not fit an image of 8 x 8 pixels"):
        draw(ImagePatches(grid=14, margin=0), torch.zeros(1, 8, 8), 196)


def test_other_kinds_have_many_players_too() -> None:
    assert PointClusters().finer(64) == "PointClusters(num_clusters=64)"
    assert PointClusters(num_clusters=64).finer(64) == "", "the points are too few"
    assert TabularFeatures().finer(64) == ""
    cloud = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    assert int(draw(PointClusters(num_clusters=64), cloud, 64).max()) == 63
    text = torch.arange(4, 520)
    assert int(draw(Tokens(mask_token_id=3), text, 512).max()) == 511
    assert int(draw(TabularFeatures("zero"), torch.zeros(600), 512).max()) == 511


def test_the_draw_depends_on_the_seed_alone() -> None:
    table, sample = TabularFeatures("zero"), torch.randn(30)
    torch.manual_seed(5)
    first = draw(table, sample, 10, seed=1)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    assert torch.equal(draw(table, sample, 10, seed=1), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(draw(table, sample, 10, seed=s).tolist()) for s in range(20)}) == 20


def test_every_region_has_the_same_chance() -> None:
    table, sample = TabularFeatures("zero"), torch.zeros(8)
    chosen = sum((draw(table, sample, 2, seed=s) >= 0).long() for s in range(2000))
    assert int(chosen.sum()) == 4000
    assert float((chosen - 500).abs().max()) < 4 * math.sqrt(2000 * 0.25 * 0.75)


def test_a_sample_with_fewer_regions_keeps_them_all() -> None:
    assert draw(TabularFeatures("zero"), torch.zeros(3), 10).tolist() == [0, 1, 2]


def test_ids_may_have_any_size_and_gaps() -> None:
    mask = torch.tensor([2**40, 7, -5, 7, 2**62])
    assert draw(FeatureMask(mask), torch.zeros(5), 10).tolist() == [1, 0, -1, 0, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_regions_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    class Small(TabularFeatures):
        def partition(self, sample: Tensor, generator: Generator) -> Tensor:
            return super().partition(sample, generator).to(dtype)

    labels = draw(Small("zero"), torch.zeros(3), 10)
    assert labels.tolist() == [0, 1, 2]
    assert labels.dtype == torch.long


def test_one_region_is_not_enough() -> None:
    with pytest.raises(BatchError, match=r"TabularFeatures found 1 region\(s\).*\(1,\).*finer"):
        draw(TabularFeatures("zero"), torch.zeros(1))


# -- baselines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("players", [ImagePatches(baseline="mean"), TabularFeatures()], ids=repr)
def test_a_mean_needs_a_fit(players: Players) -> None:
    sample = torch.randn(6) if isinstance(players, TabularFeatures) else torch.randn(1, 8, 8)
    with pytest.raises(ArgumentError, match=r"call fit\(samples\) first"):
        players.mask(sample, draw(players, sample), coalition_masks(N))


MEANS = {
    "table": (TabularFeatures(), (6,), lambda x: x.nanmean(0)),
    "image": (ImagePatches(baseline="mean"), (2, 8, 8), lambda x: x.nanmean((0, 2, 3)).view(-1, 1, 1)),
    "feature mask": (FeatureMask(BOX, baseline="mean"), (3, 4), lambda x: x.nanmean(0)),
}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize(("players", "shape", "expected"), MEANS.values(), ids=MEANS.keys())
def test_a_mean_is_that_of_the_numbers_that_are_finite(
    players: RegionPlayers, shape: tuple[int, ...], expected: Any, bad: float
) -> None:
    samples = torch.randn(5, *shape)
    samples[1].view(-1)[3] = torch.nan
    wanted = expected(samples)
    samples[1].view(-1)[3] = bad
    players.fit(samples)
    torch.testing.assert_close(players.absent(samples, torch.zeros(5)), wanted)


@pytest.mark.parametrize(("players", "shape", "expected"), MEANS.values(), ids=MEANS.keys())
def test_a_mean_of_finite_numbers_is_the_plain_mean_to_the_bit(
    players: RegionPlayers, shape: tuple[int, ...], expected: Any
) -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        samples = (1000 * torch.rand(300, *shape)).to(dtype)  # whose sum is too large for float16
        players.fit(samples)
        dims = (0, 2, 3) if len(shape) == 3 else (0,)
        assert torch.equal(players.absent(samples, torch.zeros(300)).flatten(), samples.mean(dims).flatten())


def test_a_second_fit_replaces_the_first() -> None:
    table = TabularFeatures()
    for level in (1.0, 5.0):
        table.fit(torch.tensor([[level, level - 1], [level, level + 1]]))
        masked = table.mask(torch.zeros(2), torch.tensor([0, 1]), coalition_masks(2)[:1])
        assert masked.tolist() == [[level, level]]


def test_a_tensor_baseline_is_not_written_to() -> None:
    baseline = torch.tensor([1.0, 2.0], dtype=torch.float64)
    table = TabularFeatures(baseline)
    table.fit(torch.zeros(2, 2))
    masked = table.mask(torch.zeros(2), torch.tensor([0, 1]), coalition_masks(2)[:1])
    masked.zero_()
    assert table.mask(torch.zeros(2), torch.tensor([0, 1]), coalition_masks(2)[:1]).tolist() == [[1.0, 2.0]]
    assert baseline.tolist() == [1.0, 2.0]


def test_a_baseline_that_does_not_broadcast_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"`baseline`.*\(4,\).*got shape \(3,\)"):
        TabularFeatures(torch.zeros(3)).fit(torch.zeros(2, 4))


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.complex64])
def test_inputs_that_are_not_floating_point_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(BatchError, match=re.escape(str(dtype))):
        ImagePatches().fit(torch.zeros(2, 1, 4, 4, dtype=dtype))


def test_images_of_bytes_are_masked_as_they_are() -> None:
    images = torch.randint(1, 256, (2, 1, 4, 4), dtype=torch.uint8)
    players = choose_players(images)
    players.fit(images)
    labels = players.draw(images[0], 4, torch.Generator())
    masked = players.mask(images[0], labels, torch.tensor([[True] * 4, [False] * 4]))
    assert masked.dtype == torch.uint8
    assert torch.equal(masked[0], images[0])
    assert torch.equal(masked[1] == 0, (labels >= 0).expand(1, 4, 4))


def test_columns_of_complex_numbers_are_refused() -> None:
    with pytest.raises(BatchError, match="complex64"):
        TabularFeatures().fit(torch.zeros(2, 4, dtype=torch.complex64))


# -- errors ----------------------------------------------------------------------------------------------------------

BAD = {
    "grid 0": (lambda: ImagePatches(grid=0), "grid", "0"),
    "grid pair": (lambda: ImagePatches(grid=(4, 0)), "grid", "(4, 0)"),
    "grid triple": (lambda: ImagePatches(grid=(4, 4, 4)), "grid", "(4, 4, 4)"),
    "grid float": (lambda: ImagePatches(grid=2.5), "grid", "2.5"),
    "grid floats": (lambda: ImagePatches(grid=(2.5, 4)), "grid", "(2.5, 4)"),
    "grid text": (lambda: ImagePatches(grid="88"), "grid", "'88'"),
    "grid bool": (lambda: ImagePatches(grid=True), "grid", "True"),
    "margin -1": (lambda: ImagePatches(margin=-1), "margin", "-1"),
    "margin float": (lambda: ImagePatches(margin=0.5), "margin", "0.5"),
    "margin text": (lambda: ImagePatches(margin="1"), "margin", "'1'"),
    "margin too wide": (lambda: ImagePatches(grid=4, margin=2), "margin", "2"),
    "baseline name": (lambda: ImagePatches(baseline="blur"), "baseline", "'blur'"),
    "baseline none": (lambda: TabularFeatures(None), "baseline", "None"),
    "baseline bool": (lambda: TabularFeatures(True), "baseline", "True"),
    "baseline list": (lambda: TabularFeatures([0.0, 1.0]), "baseline", "[0.0, 1.0]"),
    "baseline array": (lambda: TabularFeatures(np.zeros(2)), "baseline", "array([0., 0.])"),
    "baseline nan": (lambda: TabularFeatures(math.nan), "baseline", "nan"),
    "mask text": (lambda: FeatureMask("01"), "mask", "'01'"),
    "mask set": (lambda: FeatureMask({0, 1}), "mask", "{0, 1}"),
    "mask of uneven rows": (lambda: FeatureMask([[0, 1], [2]]), "mask", "[[0, 1], [2]]"),
    "channels last": (lambda: ImagePatches(channels_last="yes"), "channels_last", "'yes'"),
    "channels last 1": (lambda: ImagePatches(channels_last=1), "channels_last", "1"),
    "mask list of floats": (lambda: FeatureMask([0.0, 1.0]), "mask", "tensor([0., 1.])"),
    "mask floats": (lambda: FeatureMask(torch.tensor([0.0, 1.0])), "mask", "tensor([0., 1.])"),
    "mask bools": (lambda: FeatureMask(torch.tensor([True, False])), "mask", "tensor([ True, False])"),
    "mask of one region": (lambda: FeatureMask(torch.tensor([-1, 3, 3])), "mask", "tensor([-1,  3,  3])"),
}


@pytest.mark.parametrize(("make", "name", "got"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(make: Any, name: str, got: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()
    assert f"`{name}`" in str(caught.value)
    assert f"but got {got}" in str(caught.value)


@pytest.mark.parametrize(
    ("players", "sample", "says"),
    [
        (ImagePatches(), torch.zeros(8), r"\(B, C, H, W\).*\(8,\).*input_fn"),
        (ImagePatches(grid=9), torch.zeros(1, 8, 12), r"9 x 9 .* 8 x 12 .*smaller `grid`"),
        (TabularFeatures(), torch.zeros(2, 3), r"\(B, F\).*\(2, 3\).*input_fn"),
        (FeatureMask(BOX), torch.zeros(4, 4), r"\(3, 4\).*\(4, 4\)"),
        (FeatureMask(BOX), torch.zeros(4), r"\(3, 4\).*\(4,\)"),
    ],
    ids=["no image", "grid too fine", "no row", "mask of another size", "mask of more dimensions"],
)
def test_samples_that_do_not_suit_are_refused(players: Players, sample: Tensor, says: str) -> None:
    with pytest.raises(BatchError, match=says):
        players.partition(sample, Generator())


@pytest.mark.parametrize(
    ("players", "text"),
    [
        (ImagePatches(grid=(2, 3), baseline=0.5), "ImagePatches(baseline=0.5, grid=(2, 3), margin=None)"),
        (TabularFeatures(torch.zeros(4)), "TabularFeatures(baseline=tensor(4,), groups=None)"),
        (Stripes(), "Stripes()"),
    ],
    ids=["image", "table", "user"],
)
def test_repr_shows_the_settings(players: Players, text: str) -> None:
    assert repr(players) == text


def test_repr_stays_the_same_after_a_fit() -> None:
    table = TabularFeatures()
    table.fit(torch.zeros(2, 3))
    assert repr(table) == "TabularFeatures(baseline='mean', groups=None)"


# -- "auto" ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        (torch.zeros(2, 1, 4, 4), ImagePatches),
        (torch.zeros(2, 4).double(), TabularFeatures),
        (torch.zeros(2, 4).int(), Tokens),
        (torch.zeros(2, 9, 3), PointClusters),
        (torch.zeros(2, 3, 9), PointClusters),
    ],
)
def test_auto_recognises_every_modality(inputs: Tensor, kind: type) -> None:
    assert type(choose_players(inputs)) is kind


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(2, 5, 4),
        torch.zeros(2, 3, 3),
        torch.zeros(2, 4).bool(),
        torch.zeros(2, 3, 4).long(),
        torch.zeros(2, 1, 4, 4, dtype=torch.int16),
        torch.zeros(2),
        torch.zeros(2, 4, dtype=torch.complex64),
    ],
    ids=lambda x: f"{x.dtype} {tuple(x.shape)}",
)
def test_auto_lists_the_options_for_anything_else(inputs: Tensor) -> None:
    with pytest.raises(BatchError) as caught:
        choose_players(inputs)
    for part in (str(inputs.dtype), str(tuple(inputs.shape)), "ImagePatches", "TabularFeatures", "FeatureMask",
                 "Tokens", "PointClusters"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize("players", ["auto", ImagePatches(), Stripes()], ids=repr)
def test_good_players(players: Any) -> None:
    check_players(players)


@pytest.mark.parametrize("players", ["image", None, 10, [ImagePatches()], torch.zeros(3)], ids=repr)
def test_bad_players(players: Any) -> None:
    with pytest.raises(ArgumentError, match=r'`players` to be "auto" or an instance of Players'):
        check_players(players)


def test_a_class_is_not_an_instance() -> None:
    with pytest.raises(ArgumentError, match=r"Call it: `players=ImagePatches\(\.\.\.\)`"):
        check_players(ImagePatches)
