"""What players are called and how a sample looks, for every kind, and for what fits none."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from lightning_interactions.errors import ArgumentError
from lightning_interactions.measure.fingerprint import fingerprint
from lightning_interactions.players import (
    ATTACHED,
    FeatureMask,
    ImageContent,
    ImagePatches,
    Picture,
    Players,
    PointClusters,
    PointsContent,
    RowsContent,
    TabularFeatures,
    Tokens,
    WordsContent,
    names_of,
    picture_of,
    with_background,
)


class Halves(Players):
    """What a user might write: two methods, no more."""

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        return (torch.arange(sample.shape[-1]) >= sample.shape[-1] // 2).long()

    def mask(self, sample: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        return torch.where(with_background(coalitions)[:, players], sample, 0.0)


def draw(players: Players, sample: Tensor, n: int = 4) -> Tensor:
    return players.draw(sample, n, Generator().manual_seed(0))


def shown(players: Players, sample: Tensor, labels: Tensor) -> Picture:
    """The picture, which must not come from the fallback, changes nothing and can be kept."""
    before = [sample.clone(), labels.clone(), repr(players), fingerprint(players)]
    picture = players.picture(sample, labels)
    assert torch.equal(sample.nan_to_num(), before[0].nan_to_num())
    assert torch.equal(labels, before[1])
    assert [repr(players), fingerprint(players)] == before[2:]
    assert picture.note == picture_of(players, sample, labels).note
    assert "Error" not in picture.note
    read = Picture.from_dict(json.loads(json.dumps(picture.to_dict())))
    assert read.names == list(picture.names)
    return picture


def image(picture: Picture) -> ImageContent:
    assert isinstance(picture.content, ImageContent), picture.note
    return picture.content


def words(picture: Picture) -> list[tuple[str, int]]:
    assert isinstance(picture.content, WordsContent), picture.note
    return [(text.replace(ATTACHED, "+"), player) for text, player in picture.content.parts]


def rows(picture: Picture) -> list[tuple[str, str, int]]:
    assert isinstance(picture.content, RowsContent), picture.note
    return list(picture.content.rows)


def cloud(picture: Picture) -> PointsContent:
    assert isinstance(picture.content, PointsContent), picture.note
    return picture.content


def not_shown(picture: Picture, says: str) -> None:
    assert picture.content is None
    assert says in picture.note
    assert "\n" not in picture.note


# -- custom kinds ----------------------------------------------------------------------------------------------------


def test_a_kind_of_two_methods_has_names_and_a_list() -> None:
    labels = draw(Halves(), torch.ones(6))
    assert shown(Halves(), torch.ones(6), labels) == Picture(["player 0", "player 1"])
    Halves().call_columns(["a", "b"])


class Raising(Halves):
    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        sample.zero_()
        players.zero_()
        raise KeyError("what\na pity")


class Wrong(Halves):
    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def names(self, players: Tensor) -> list[str]:
        return ["left", "right"]

    def picture(self, sample: Tensor, players: Tensor) -> Any:
        return self.returned


def test_a_picture_that_raises_is_a_note_and_changes_nothing() -> None:
    sample, labels = torch.ones(4), torch.tensor([0, 0, 1, 1])
    picture = picture_of(Raising(), sample, labels)
    assert picture.names == ["player 0", "player 1"]
    not_shown(picture, "Raising.picture: KeyError: 'what")
    assert sample.sum() == 4
    assert labels.sum() == 2


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "expected a Picture, but it returned NoneType"),
        (Picture(["one"]), "expected 2 names, but got ['one']"),
        (Picture([1, 2]), "expected 2 names, but got [1, 2]"),  # type: ignore[list-item]
        (Picture(None), "TypeError"),  # type: ignore[arg-type]
        (Picture(["a", "b"], "a text"), "can be drawn, but got str"),  # type: ignore[arg-type]
    ],
)
def test_a_picture_that_is_none_is_a_note(returned: Any, says: str) -> None:
    picture = picture_of(Wrong(returned), torch.ones(4), torch.tensor([0, 0, 1, 1]))
    assert picture.names == ["left", "right"]
    not_shown(picture, says)


def test_a_picture_of_ones_own_is_taken() -> None:
    own = Picture(["l", "r"], WordsContent([("l", 0), ("r", 1)]))
    assert picture_of(Wrong(own), torch.ones(4), torch.tensor([0, 0, 1, 1])) == own


@pytest.mark.parametrize("names", [["a"], None, [1, 2], 7])
def test_names_that_are_none_are_numbers(names: Any) -> None:
    class Misnamed(Halves):
        def names(self, players: Tensor) -> Any:
            return names

    assert names_of(Misnamed(), torch.tensor([0, 1])) == ["player 0", "player 1"]


# -- images ----------------------------------------------------------------------------------------------------------


def test_patches_are_called_by_their_place_in_the_whole_grid() -> None:
    patches = ImagePatches(grid=(4, 6), margin=1)
    labels = draw(patches, torch.zeros(3, 9, 13), 20)
    assert patches.names(labels) == [f"patch {row},{column}" for row in (2, 3) for column in (2, 3, 4, 5)]
    last = draw(patches, torch.zeros(9, 13, 3), 20)
    assert last.shape == (9, 13, 1)
    assert patches.names(last) == patches.names(labels)


def test_each_name_is_that_of_the_patch_which_was_drawn() -> None:
    patches = ImagePatches()
    labels = draw(patches, torch.zeros(3, 30, 47), 10)
    for player, name in enumerate(patches.names(labels)):
        row, column = map(int, name.removeprefix("patch ").split(","))
        y, x = (labels == player).nonzero().double().mean(0).tolist()
        assert (int(y / 30 * 8) + 1, int(x / 47 * 8) + 1) == (row, column)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([[0, 0, 1, 1]] * 4),  # two patches each
        torch.tensor([[0, -1, 1, 1], [0, -1, 1, 1], [-1] * 4, [-1] * 4]),  # half of one
        torch.tensor([[0, 1, -1], [-1, -1, -1], [-1, -1, -1]])[:1],  # smaller than the grid
        torch.tensor([0, 1]),
        torch.tensor([[[0, 1]] * 2] * 2),
    ],
)
def test_players_that_are_no_patches_have_numbers(labels: Tensor) -> None:
    assert ImagePatches(grid=2).names(labels) == ["player 0", "player 1"]


COLOUR = torch.tensor([[[0, 255], [10, 7]], [[1, 2], [3, 4]], [[0, 128], [64, 255]]], dtype=torch.uint8)
PATCHES = torch.tensor([[0, 1], [2, -1]])


@pytest.mark.parametrize("scale", ["bytes", "unit", "whole", "int"])
@pytest.mark.parametrize("last", [False, True])
def test_pixels_come_back_to_the_last_bit(scale: str, last: bool) -> None:
    sample = {"bytes": COLOUR, "unit": COLOUR / 255, "whole": COLOUR.float(), "int": COLOUR.long()}[scale]
    sample = sample.movedim(0, -1) if last else sample
    labels = PATCHES.unsqueeze(-1) if last else PATCHES
    content = image(shown(ImagePatches(grid=2, margin=0), sample, labels))
    assert np.array_equal(content.pixels, COLOUR.movedim(0, -1).numpy())
    assert np.array_equal(content.players, PATCHES.numpy())


def test_what_was_normalised_is_seen_from_the_lowest_to_the_highest_of_all_samples() -> None:
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.1, 0.3]).view(3, 1, 1)
    raw = torch.rand(5, 3, 8, 8)
    raw[0, :, 0, 0], raw[0, :, 0, 1] = 0, 1
    patches = ImagePatches(grid=4, margin=0)
    patches.fit((raw - mean) / deviation)
    seen = image(shown(patches, ((raw - mean) / deviation)[3], draw(patches, raw[3])))
    assert np.abs(seen.pixels - 255 * raw[3].movedim(0, -1).numpy()).max() <= 0.51


def test_a_dark_sample_stays_dark_beside_others() -> None:
    patches = ImagePatches(grid=2, margin=0)
    patches.fit(torch.tensor([0.5, 200.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2))
    assert image(shown(patches, torch.full((1, 2, 2), 0.5), PATCHES)).pixels.max() == 0  # 0.5 of 255
    alone = ImagePatches(grid=2, margin=0)
    assert image(shown(alone, torch.full((1, 2, 2), 0.5), PATCHES)).pixels.min() == 128


def test_ranges_of_another_tensor_are_not_used() -> None:
    patches = ImagePatches(grid=2, margin=0)
    patches.fit(torch.randn(4, 1, 2, 2))  # a layer's map
    sample = torch.tensor([[0.0, 1, 0, 1]] * 4)
    content = image(shown(patches, sample, PATCHES))
    assert np.array_equal(content.pixels[..., 0], 255 * sample.numpy())
    assert np.array_equal(content.players, PATCHES.repeat_interleave(2, 0).repeat_interleave(2, 1).numpy())
    patches.fit(torch.randn(4, 3, 4, 4))
    assert np.array_equal(image(shown(patches, sample, torch.zeros(4, 4).long())).pixels[..., 0], 255 * sample.numpy())


def test_what_is_no_number_is_gray_and_spoils_nothing() -> None:
    sample = torch.tensor([[[0.0, torch.nan], [torch.inf, 1.0]]])
    patches = ImagePatches(grid=2, margin=0)
    for _ in range(2):
        assert image(shown(patches, sample, PATCHES)).pixels[..., 0].tolist() == [[0, 128], [128, 255]]
        patches.fit(torch.stack([sample, torch.full_like(sample, torch.nan)]))
    assert (image(shown(patches, torch.full((3, 2, 2), torch.nan), PATCHES)).pixels == 128).all()
    assert (image(shown(patches, torch.full((2, 2), -3.0), PATCHES)).pixels == 128).all()  # nothing to tell apart


def test_what_is_transparent_is_white() -> None:
    sample = torch.zeros(4, 2, 2)
    sample[3] = torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    assert image(shown(ImagePatches(), sample, PATCHES)).pixels[..., 0].tolist() == [[255, 0], [128, 0]]


def test_a_large_image_is_made_small_and_keeps_every_player() -> None:
    sample = torch.zeros(3, 300, 600, dtype=torch.uint8)
    sample[0, :, 1::2] = 254  # finer than a pixel of the picture
    labels = torch.full((300, 600), -1)
    labels[:, :300], labels[7, 400], labels[100, 599], labels[7, 401] = 0, 1, 2, 3
    content = image(shown(ImagePatches(), sample, labels))
    assert content.pixels.shape == (64, 128, 3)
    assert content.players.shape == (64, 128)
    assert np.abs(content.pixels[2:-2, 2:-2, 0].astype(int) - 127).max() <= 12  # an average, not one or the other
    assert set(np.unique(content.players)) == {-1, 0, 1, 2}  # 3 would have the only pixel of 1
    assert [tuple(place) for place in np.argwhere(content.players == 1)] == [(1, 85)]  # 7 and 400, at 128 of 600
    assert (content.players == 0).sum() == 64 * 64
    long = image(shown(ImagePatches(), torch.rand(1, 2, 2000), torch.arange(2000).view(1, -1) // 1000))
    assert long.pixels.shape == (1, 128, 3)


def test_players_of_a_map_are_stretched_over_the_image() -> None:
    labels = torch.tensor([[0, 1, -1]])
    assert image(shown(ImagePatches(), torch.rand(5, 6), labels)).players.tolist() == [[0, 0, 1, 1, -1, -1]] * 5
    nearest = image(shown(ImagePatches(), torch.rand(2, 5), torch.tensor([[0, 1, 2]])))
    assert nearest.players.tolist() == [[0, 0, 1, 2, 2]] * 2  # as seen from the middle of a pixel


@pytest.mark.parametrize(
    "sample",
    [
        torch.rand(5, 8, 8),
        torch.rand(2, 3, 8, 8),
        torch.rand(7),
        torch.rand(1, 8, 8).to(torch.cfloat),
        torch.rand(3, 0, 0),
    ],
    ids=["5 channels", "volume", "vector", "complex", "empty"],
)
def test_what_is_no_image_is_a_note(sample: Tensor) -> None:
    picture = shown(ImagePatches(grid=2, margin=0), sample, torch.tensor([[0, 0], [1, -1]]).repeat(4, 4))
    not_shown(picture, f"{tuple(sample.shape)}")
    assert len(picture.names) == 2
    not_shown(shown(ImagePatches(), torch.rand(3, 8, 8), torch.tensor([0, 1])), "players (2,)")


# -- regions drawn by the user ---------------------------------------------------------------------------------------


def test_regions_are_called_by_the_ids_of_the_mask() -> None:
    regions = FeatureMask([[3, 3], [-1, 8]])
    assert regions.names(draw(regions, torch.ones(2, 2))) == ["region 3", "region 8"]
    assert regions.names(torch.tensor([0, 1])) == ["player 0", "player 1"]


@pytest.mark.parametrize("mask", [[[3, 8]], [[3], [8]], [[3, 3], [-1, 8]], [[[3, -1], [8, 8]]]])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_regions_of_an_image(mask: Any, channels: int | None) -> None:
    regions = FeatureMask(mask)
    shape = (2, 2) if channels is None else (channels, 2, 2)
    if channels is None and regions.mask_ids.ndim == 3:
        return
    sample = torch.rand(shape)
    labels = draw(regions, sample)
    content = image(shown(regions, sample, labels))
    assert np.array_equal(content.players, labels.broadcast_to(1, 2, 2)[0].numpy())


def test_regions_learn_the_colours_too() -> None:
    regions, samples = FeatureMask([[0, 1]]), torch.tensor([-1.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    regions.fit(samples)
    assert (image(shown(regions, samples[2], torch.tensor([[0, 1]]))).pixels == 128).all()
    assert (image(shown(regions, samples[1], torch.tensor([[0, 1]]))).pixels == 255).all()


def test_regions_of_columns_are_rows() -> None:
    regions, sample = FeatureMask([4, 4, 4, 4, 2, -1]), torch.tensor([1.0, 0.25, -1.5, 9, 39, 7])
    picture = shown(regions, sample, draw(regions, sample))
    assert rows(picture) == [("region 2", "39", 0), ("region 4", "1, 0.25, -1.5, ...", 1), ("column 5", "7", -1)]


@pytest.mark.parametrize(
    ("mask", "sample", "says"),
    [
        ([[[0]], [[1]], [[1]]], torch.rand(3, 2, 2), "from channel to channel"),
        ([0, 1], torch.rand(2, 5, 2, 2), "(2, 5, 2, 2)"),
        ([0, 1], torch.rand(3), "do not fit a sample of shape (3,)"),
        ([[0, 1]], torch.rand(2), "do not fit"),
        ([0, 1], torch.rand(5, 2, 2), "from channel to channel|(5, 2, 2)"),
    ],
)
def test_regions_that_cannot_be_seen_are_a_note(mask: Any, sample: Tensor, says: str) -> None:
    regions = FeatureMask(mask)
    picture = shown(regions, sample, regions.draw(regions.mask_ids, 2, Generator()))
    assert picture.names == ["region 0", "region 1"]
    assert any(word in picture.note for word in says.split("|"))
    assert picture.content is None


# -- texts -----------------------------------------------------------------------------------------------------------


class Vocabulary:
    """A tokenizer that only knows its tokens, and offers them in one of the three ways."""

    def __init__(self, tokens: Sequence[str], way: str = "convert_ids_to_tokens", **ids: int) -> None:
        self.tokens, self.way = tokens, way
        vars(self).update(ids)

    def __getattr__(self, name: str) -> Any:
        ways: dict[str, Any] = {
            "convert_ids_to_tokens": lambda ids: [self.tokens[i] for i in ids],
            "id_to_token": lambda index: self.tokens[index] if index < len(self.tokens) else None,
            "decode": lambda ids: "".join(self.tokens[i] for i in ids),
        }
        if name == vars(self).get("way"):
            return ways[name]
        raise AttributeError(name)


def suited(tokenizer: Any, fields: Sequence[str] = (), **options: Any) -> Tokens:
    tokens = Tokens(**options)
    tokens.suit(nn.Linear(1, 1), fields, tokenizer)
    return tokens


BERT = ["[PAD]", "[CLS]", "[SEP]", "play", "##ing", "is", "##", ".", "antidisestablishmentarianism"]
BPE = ["<s>", "Hello", "Ġworld", "!", "Ġ", "Ċ", "Ã©", "##a", "Ġlo", "ve"]
PIECES = ["<s>", "▁Hello", "▁world", "!", "▁", "ing"]


@pytest.mark.parametrize("way", ["convert_ids_to_tokens", "id_to_token", "decode"])
def test_pieces_of_words_are_joined(way: str) -> None:
    tokens = suited(Vocabulary(BERT, way, pad_token_id=0), special_token_ids=(1, 2))
    sample = torch.tensor([1, 3, 4, 5, 6, 7, 2, 0, 0])
    labels = torch.tensor([-1, 0, 1, -1, 2, -1, -1, -1, -1])
    picture = shown(tokens, sample, labels)
    assert words(picture) == [
        ("[CLS]", -1), ("play", 0), ("+ing", 1), ("is", -1), ("##", 2), (".", -1), ("[SEP]", -1),
    ]  # fmt: skip
    assert picture.names == ["play", "ing", "##"]
    assert tokens.names(labels) == ["token 2", "token 3", "token 5"]


@pytest.mark.parametrize(
    ("vocabulary", "ids", "expected"),
    [
        (BPE, [0, 1, 2, 3, 5, 7, 6, 4, 8, 9], "<s> Hello world +! +↵ +##a +é ␣ lo +ve"),
        (BPE, [1, 3], "Hello +!"),  # the text itself has no marker, the vocabulary has
        (PIECES, [0, 1, 5, 2, 3, 4], "<s> Hello +ing world +! ␣"),
        ([" the", "cat", "<s>"], [1, 0, 1], "cat the +cat"),
        (["a", "b", " "], [0, 2, 1], "a ␣ b"),
    ],
    ids=["bytes", "no marker", "pieces", "decoded", "letters"],
)
def test_spaces_are_where_the_tokenizer_says(vocabulary: list[str], ids: list[int], expected: str) -> None:
    way = "decode" if " the" in vocabulary else "convert_ids_to_tokens"
    special = (vocabulary.index("<s>"),) if "<s>" in vocabulary else ()
    tokens = suited(Vocabulary(vocabulary, way), special_token_ids=special)
    picture = shown(tokens, torch.tensor(ids), torch.arange(len(ids)))
    assert " ".join(text for text, _ in words(picture)) == expected
    assert all(ATTACHED not in name for name in picture.names)


@pytest.mark.parametrize("tokenizer", [None, SimpleNamespace(pad_token_id=0), Vocabulary([]), Vocabulary([], "decode")])
def test_without_texts_the_ids_are_shown(tokenizer: Any) -> None:
    picture = shown(suited(tokenizer), torch.tensor([5, 70]), torch.tensor([-1, 0]))
    assert words(picture) == [("5", -1), ("70", 0)]
    assert picture.names == ["70"]


def test_packed_samples_show_their_ids_without_padding() -> None:
    tokens = suited(Vocabulary(BERT), ["input_ids", "attention_mask", "token_type_ids"])
    sample = torch.tensor([[0, 3, 4, 5], [0, 1, 1, 1], [0, 0, 0, 1]])  # padded on the left, by the mask
    labels = draw(tokens, sample, 3)
    picture = shown(tokens, sample, labels)
    assert words(picture) == [("play", 0), ("+ing", 1), ("is", 2)]
    assert tokens.names(labels) == ["token 2", "token 3", "token 4"]


def test_copies_share_the_tokenizer_and_pickles_leave_it_out() -> None:
    class Large(Vocabulary):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

        def __reduce__(self) -> Any:
            raise AssertionError("pickled")

    tokens = suited(Large(BERT), mask_token_id=1)
    sample, labels = torch.tensor([3, 4]), torch.tensor([0, 1])
    shown(tokens, sample, labels)
    copied, pickled = copy.deepcopy(tokens), pickle.loads(pickle.dumps(tokens))
    assert words(shown(copied, sample, labels)) == [("play", 0), ("+ing", 1)]
    assert words(shown(pickled, sample, labels)) == [("3", 0), ("4", 1)]
    assert repr(copied) == repr(Tokens(mask_token_id=1))
    assert fingerprint(tokens) == fingerprint(pickled) == fingerprint(Tokens(mask_token_id=1))


def test_a_long_text_is_cut_but_keeps_its_players() -> None:
    sample, labels = torch.arange(1000), torch.full((1000,), -1)
    labels[4] = 0
    parts = words(shown(Tokens(), sample, labels))
    assert parts == [(str(i), 0 if i == 4 else -1) for i in range(200)] + [("...", -1)]
    labels[700] = 1
    parts = words(shown(Tokens(), sample, labels))
    assert sum(text != "..." for text, _ in parts) == 200
    at = parts.index(("700", 1))
    assert [text for text, _ in parts[at - 4 : at + 5]] == [
        "...",
        "697",
        "698",
        "699",
        "700",
        "701",
        "702",
        "703",
        "...",
    ]
    assert parts[at + 5 :] == []


def test_names_of_long_words_are_short() -> None:
    picture = shown(suited(Vocabulary(BERT)), torch.tensor([8, 3]), torch.tensor([0, 1]))
    assert picture.names == ["antidisesta...ntarianism", "play"]
    assert words(picture)[0] == ("antidisestablishmentarianism", 0)


@pytest.mark.parametrize(
    "sample", [torch.ones(2), torch.arange(3), torch.ones(3, 2), torch.zeros(1, 2, 2).long()], ids=str
)
def test_what_is_no_text_is_a_note(sample: Tensor) -> None:
    labels = torch.tensor([0, 1]) if sample.ndim < 3 else torch.tensor([[[0, 1], [-1, -1]]])
    picture = shown(Tokens(), sample, labels)
    not_shown(picture, f"{tuple(sample.shape)}")
    assert picture.names == ["token 1", "token 2"]


# -- tables ----------------------------------------------------------------------------------------------------------


ROW = torch.tensor([39.0, 0.42, -1.3, 0.0])


def test_columns_have_names_where_they_are_known() -> None:
    labels = torch.tensor([1, -1, 0, -1])
    columns = TabularFeatures()
    assert columns.names(labels) == ["column 2", "column 0"]
    columns.call_columns(["a", "b", "c"])
    assert columns.names(labels) == ["column 2", "column 0"]  # of another table
    columns.call_columns(["a", "b", "c", "d"])
    assert columns.names(labels) == ["c", "a"]
    own = TabularFeatures(names=("age", "size", "score", "x"))
    own.call_columns(["a", "b", "c", "d"])
    assert own.names(labels) == ["score", "age"]
    picture = shown(own, ROW, labels)
    assert picture.names == ["score = -1.3", "age = 39"]
    assert rows(picture) == [("score", "-1.3", 0), ("age", "39", 1), ("size", "0.42", -1), ("x", "0", -1)]


def test_groups_have_their_own_names() -> None:
    sample = torch.arange(9.0)
    groups = TabularFeatures(groups={"home": [2, 1], "rest": [4, 5, 6, 7, 8]})
    labels = draw(groups, sample, 9)
    assert groups.names(labels) == ["column 0", "home", "column 3", "rest"]
    assert shown(groups, sample, labels).names == ["column 0 = 0", "home", "column 3 = 3", "rest"]
    unnamed = TabularFeatures(groups=[[2, 1], [4, 5, 6, 7, 8]])
    assert unnamed.names(labels) == ["column 0", "columns 1, 2", "column 3", "columns 4, 5, 6 and 2 more"]


def test_a_wide_table_shows_its_players_and_counts_the_rest() -> None:
    labels = torch.full((40,), -1)
    labels[[30, 35]] = torch.tensor([1, 0])
    found = rows(shown(TabularFeatures(), torch.arange(40), labels))
    assert found[:3] == [("column 35", "35", 0), ("column 30", "30", 1), ("column 0", "0", -1)]
    assert len(found) == 13
    assert found[-1] == ("and 28 more", "", -1)
    all_play = rows(shown(TabularFeatures(), torch.arange(20), torch.arange(20)))
    assert [player for *_, player in all_play] == list(range(20))


def test_names_of_columns_are_checked() -> None:
    for wrong in ("abc", ["a", "a"], ["a", 1], 3):
        with pytest.raises(ArgumentError, match="argument `names` to be different strings"):
            TabularFeatures(names=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="each of the 4 columns, but got 3 names"):
        TabularFeatures(names=["a", "b", "c"]).fit(torch.rand(5, 4))
    TabularFeatures(names=["a", "b", "c"]).fit(torch.rand(5, 3))


def test_names_of_columns_are_no_setting() -> None:
    plain, named = TabularFeatures(), TabularFeatures(names=["a", "b"])
    assert repr(plain) == repr(named) == "TabularFeatures(baseline='mean', groups=None)"
    assert fingerprint(plain) == fingerprint(named)


def test_other_samples_than_rows_are_a_note() -> None:
    for sample in (torch.rand(2, 2), torch.rand(5)):
        picture = shown(TabularFeatures(), sample, torch.tensor([0, 1, -1, -1]))
        not_shown(picture, f"{tuple(sample.shape)}")
        assert picture.names == ["column 0", "column 1"]


# -- clouds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_cloud_is_seen_from_one_side(channels_first: bool) -> None:
    # the middle, then one step to the right, up, to the front
    sample = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    labels = torch.tensor([[0], [-1], [1], [2], [0]])
    sample, labels = (sample.T, labels.T) if channels_first else (sample, labels)
    picture = shown(PointClusters(), sample, labels)
    assert picture.names == PointClusters().names(labels) == ["cluster 0", "cluster 1", "cluster 2"]
    content = cloud(picture)
    assert content.players.tolist() == [0, -1, 1, 2, 0]
    middle, right, up, front = content.places[:4]
    assert right[0] > front[0] > middle[0] == pytest.approx(up[0])
    assert up[1] > right[1] > middle[1] > front[1]  # what is near lies lower, as seen from above
    assert front[2] > up[2] > middle[2] > right[2]
    assert [content.places[:, 2].min(), content.places[:, 2].max()] == pytest.approx([0, 1])


def test_a_cloud_keeps_its_proportions_and_is_centred() -> None:
    points = 7 + 1e4 * torch.randn(500, 3, generator=Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 1.0])
    places = cloud(shown(PointClusters(), points, torch.zeros(500, 1).long())).places
    low, high = places.min(0), places.max(0)
    assert low + high == pytest.approx([1, 1, 1])
    assert (low[1], high[1]) == pytest.approx((0, 1))
    angle = torch.tensor(torch.pi / 6)
    right = (points[:, 0] * angle.cos() + points[:, 2] * angle.sin()).double().numpy()
    assert np.corrcoef(right, places[:, 0])[0, 1] == pytest.approx(1)
    assert 0.1 < np.ptp(places[:, 0]) < 0.4  # five times as high as wide


def test_many_points_are_thinned_and_every_player_stays() -> None:
    labels = torch.full((5000, 1), -1)
    labels[:4000], labels[4001] = 0, 1
    content = cloud(shown(PointClusters(), torch.rand(5000, 3), labels))
    assert 800 < len(content.places) <= 1024
    assert (content.players == 1).sum() == 1
    assert len(cloud(shown(PointClusters(), torch.rand(1024, 3), labels[:1024])).places) == 1024


def test_points_without_a_place_are_left_out() -> None:
    points = torch.tensor([[0.0, 0, 0], [torch.nan, 0, 0], [1, 1, 1], [1, 0, 0]])
    labels = torch.tensor([[0], [0], [1], [-1]])
    assert cloud(shown(PointClusters(), points, labels)).players.tolist() == [0, 1, -1]
    not_shown(shown(PointClusters(), torch.full((4, 3), torch.nan), labels), "finite")
    assert (cloud(shown(PointClusters(), torch.ones(4, 3), labels)).places == 0.5).all()


@pytest.mark.parametrize("shape", [(3, 3), (4, 4), (3,), (5, 3), (2, 4, 3)], ids=str)
def test_what_is_no_cloud_is_a_note(shape: tuple[int, ...]) -> None:
    picture = shown(PointClusters(), torch.rand(shape), torch.tensor([[0], [1], [-1], [-1]]))
    not_shown(picture, f"{shape}")
    assert picture.names == ["cluster 0", "cluster 1"]


def test_an_axis_of_the_users_own_is_used() -> None:
    content = cloud(shown(PointClusters(axis=1), torch.rand(3, 6), torch.tensor([[0], [1], [-1]])))
    assert content.places.shape == (3, 3)
