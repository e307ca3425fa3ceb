"""Texts, point clouds and grouped columns: masks value by value, and the axioms of the games played on them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Recorder
from oracles import members
from torch import Generator, Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.errors import ArgumentError, BatchError, InteractionsWarning
from lightning_interactions.functional.coalitions import coalition_masks, orders
from lightning_interactions.players import PointClusters, TabularFeatures, Tokens, player_counts
from lightning_interactions.players.points import kmeans

MASK, PAD, CLS, SEP = 4, 0, 1, 2
TOKENIZER = SimpleNamespace(mask_token_id=MASK, pad_token_id=PAD, all_special_ids=[PAD, CLS, SEP, 3, MASK])


def tokens(*fields: str, tokenizer: Any = TOKENIZER, model: nn.Module | None = None, **options: Any) -> Tokens:
    players = Tokens(**options)
    players.suit(model or nn.Identity(), fields, tokenizer)
    return players


def draw(players: Any, sample: Tensor, n: int = 4, seed: int = 0) -> Tensor:
    return players.draw(sample, n, Generator().manual_seed(seed))


# -- tokens ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 5))
@settings(max_examples=20)
def test_texts_are_masked_as_a_plain_loop_does(seed: int, n: int) -> None:
    generator = Generator().manual_seed(seed)
    samples = torch.randint(0, 30, (3, 12), generator=generator)
    samples[:, :3] = torch.tensor([CLS, 20, 21])  # at least two that play
    players = tokens()
    labels = torch.stack([draw(players, row, n, seed) for row in samples])
    found = players.mask_batch(samples, labels, coalition_masks(n)).view(3, 2**n, 12)
    for i, text in enumerate(samples.tolist()):
        for coalition in range(2**n):
            absent = {p for p in range(n) if p not in members(coalition)}
            expected = [MASK if int(labels[i, j]) in absent else token for j, token in enumerate(text)]
            assert found[i, coalition].tolist() == expected
    assert found.dtype == samples.dtype
    special = torch.isin(samples, torch.tensor(TOKENIZER.all_special_ids))
    assert (labels[special] == -1).all()


def test_an_absent_token_does_not_matter_a_present_one_does() -> None:
    text, players = torch.tensor([CLS, 10, 11, 12, SEP]), tokens()
    labels = draw(players, text, 3)
    other = torch.tensor([CLS, 10, 17, 12, SEP])
    without, with_it = coalition_masks(3)[0b101].unsqueeze(0), coalition_masks(3)[0b111].unsqueeze(0)
    assert torch.equal(players.mask(text, labels, without), players.mask(other, labels, without))
    assert not torch.equal(players.mask(text, labels, with_it), players.mask(other, labels, with_it))


def test_companions_are_never_touched() -> None:
    ids = torch.tensor([[CLS, 10, 11, 12, SEP, 17, 17], [CLS, 10, 11, SEP, 17, 17, 17]])  # 17 under the padding
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0]])
    packed = torch.stack([ids, mask, torch.ones_like(ids)], 1)
    players = tokens("input_ids", "attention_mask", "token_type_ids")
    players.fit(packed)
    labels = torch.stack([draw(players, row) for row in packed])
    assert player_counts(labels).tolist() == [3, 2]
    assert (labels[:, 0] >= 0).tolist() == [[False, True, True, True, False, False, False],
                                            [False, True, True, False, False, False, False]]  # fmt: skip
    assert (labels[:, 1:] == -1).all()
    found = players.mask_batch(packed, labels, coalition_masks(2)).view(2, 4, 3, 7)
    assert torch.equal(found[:, :, 1:], packed[:, None, 1:].expand(-1, 4, -1, -1))
    assert found[1, 0, 0].tolist() == [CLS, MASK, MASK, SEP, 17, 17, 17]


def test_a_batch_may_say_itself_what_is_special() -> None:
    ids = torch.tensor([[9, 10, 11, 12]])
    players = tokens("input_ids", "special_tokens_mask")
    labels = draw(players, torch.stack([ids[0], torch.tensor([1, 0, 0, 1])]))
    assert labels[0].tolist() == [-1, 0, 1, -1]


def test_where_the_ids_come_from() -> None:
    class Model(nn.Module):
        def __init__(self, config: Any = None, padding_idx: int | None = None) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 2, padding_idx=padding_idx)
            if config is not None:
                self.config = config

    text = torch.tensor([[7, 8, 9, 5]])
    given = tokens(mask_token_id=8, special_token_ids=(9,), tokenizer=None)
    given.fit(text)
    assert draw(given, text[0]).tolist() == [0, -1, -1, 1]
    config = SimpleNamespace(mask_token_id=9, pad_token_id=5, eos_token_id=[7], bos_token_id=None)
    assert draw(tokens(tokenizer=None, model=Model(config)), text[0], 2).tolist() == [0, 1, -1, -1]
    padded = tokens(mask_token_id=8, tokenizer=None, model=Model(padding_idx=5))
    assert padded.padding is not None
    assert padded.padding.token == 5
    assert tokens(mask_token_id=8, tokenizer=None).padding is None


def test_without_a_mask_token_the_error_asks_for_it_by_name() -> None:
    with pytest.raises(BatchError, match=r"mask token.*`players=Tokens\(mask_token_id=\.\.\.\)`"):
        tokens(tokenizer=None).fit(torch.ones(2, 5).long())
    with pytest.raises(BatchError, match=r"Tokens\(mask_token_id=\.\.\.\)"):
        compute_interactions(nn.EmbeddingBag(9, 2), torch.ones(2, 5).long(), torch.zeros(2).long())


def test_a_mask_token_outside_the_vocabulary() -> None:
    players = tokens(mask_token_id=103, tokenizer=None, model=nn.Embedding(100, 2))
    with pytest.raises(ArgumentError, match=r"`mask_token_id` to be below 100.*got 103"):
        players.fit(torch.ones(2, 5).long())


@pytest.mark.parametrize("samples", [torch.ones(2, 5), torch.ones(2, 3, 5).long()], ids=["floats", "3-D"])
def test_tokens_need_ids(samples: Tensor) -> None:
    with pytest.raises(BatchError, match=r"Tokens needs integer ids of shape \(B, L\)"):
        tokens().fit(samples)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"mask_token_id": -1}, "mask_token_id"),
        ({"mask_token_id": "[MASK]"}, "mask_token_id"),
        ({"special_token_ids": "[CLS]"}, "special_token_ids"),
        ({"special_token_ids": [0.5]}, "special_token_ids"),
    ],
)
def test_bad_ids(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}`"):
        Tokens(**options)


class TextGame(nn.Module):
    """A binary model whose logit is a function of which of the tokens 10, 11, 12, ... a text shows."""

    def __init__(self, game: Callable[[Tensor], Tensor], size: int) -> None:
        super().__init__()
        self.game = game
        self.size = size
        self.tokenizer = TOKENIZER

    def forward(self, ids: Tensor) -> Tensor:
        shown = (ids.unsqueeze(-1) == torch.arange(10, 10 + self.size)).any(1)
        return self.game(shown.double())


def play(game: Callable[[Tensor], Tensor], texts: list[list[int]], n: int) -> tuple[Tensor, Tensor, Any]:
    """AND and OR interactions of some texts, as functions of which tokens are in the coalition."""
    length = max(map(len, texts))
    ids = torch.tensor([text + [PAD] * (length - len(text)) for text in texts])
    result = compute_interactions(TextGame(game, n), ids, torch.ones(len(ids)).long(), num_players=n)
    return result.and_, result.or_, result


# -- axioms, on texts ------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**16 - 1), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_a_token_the_model_does_not_look_at_is_in_no_interaction(table: int, dummy: int) -> None:
    values = torch.tensor([float(table >> i & 7) for i in range(16)], dtype=torch.float64)

    def game(shown: Tensor) -> Tensor:
        seen = shown.clone()
        seen[:, dummy] = 0
        return values[(seen @ torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)).long()]

    and_, or_, _ = play(game, [[CLS, 10, 11, 12, 13, SEP]], 4)
    contains = coalition_masks(4)[:, dummy]
    assert and_[:, contains].abs().max() < 1e-9
    assert or_[:, contains].abs().max() < 1e-9


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_bag_of_words_has_order_one_only(weights: list[float]) -> None:
    w = torch.tensor(weights, dtype=torch.float64)
    and_, or_, _ = play(lambda shown: shown @ w, [[10, 11, 12, 13]], 4)
    torch.testing.assert_close(and_[0, [1, 2, 4, 8]], w, rtol=1e-6, atol=1e-6)
    assert and_[:, orders(4) > 1].abs().max() < 1e-6
    assert or_.abs().max() < 1e-6


def test_tokens_that_mean_the_same_have_the_same_interactions() -> None:
    and_, or_, _ = play(lambda s: 2 * s[:, 0] * s[:, 2] + 2 * s[:, 1] * s[:, 2] + s[:, 0] * s[:, 1], [[10, 11, 12]], 3)
    for found in (and_, or_):
        swapped = found[:, [0, 2, 1, 3, 4, 6, 5, 7]]
        torch.testing.assert_close(found, swapped, rtol=1e-6, atol=1e-6)


def test_short_texts_play_with_the_tokens_they_have() -> None:
    def game(shown: Tensor) -> Tensor:
        return shown[:, 0] * shown[:, 1] + 3 * shown[:, 2] * shown[:, 3] * shown[:, 4]

    together = play(game, [[10, 11], [10, 11, 12, 13, 14]], 5)[2]
    assert together.player_counts.tolist() == [2, 5]
    strength = together.strength(salience=0.0)
    assert strength.shape == (2, 2, 5)
    torch.testing.assert_close(strength[0].sum(0), torch.tensor([0.0, 1, 0, 0, 0]).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(strength[1].sum(0), torch.tensor([0.0, 1, 3, 0, 0]).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together.reconstruct(), together.values)
    # each at its own absolute order: the mean over samples is a mean of strengths, whatever the number of players
    torch.testing.assert_close(
        strength.mean(0).sum(0)[:3], torch.tensor([0.0, 1.0, 1.5]).double(), rtol=1e-6, atol=1e-6
    )


def test_missing_players_cost_no_forward_passes() -> None:
    texts = torch.tensor([[10, 11, 0, 0, 0, 0], [10, 11, 12, 13, 14, 15], [12, 10, 11, 0, 0, 0]])
    model = Recorder(TextGame(lambda shown: shown.sum(1) ** 2, 6))
    found = compute_interactions(model, texts, torch.ones(3).long(), Tokens(MASK, (PAD,)), num_players=6)
    # Two samples are tried three times (can it be called, does it answer, does it answer the same again), then all.
    plain = 2 + 2 + 2 + 3
    assert sum(model.rows) - plain == 4 + 64 + 8
    with pytest.warns(InteractionsWarning, match="only 3 regions"):
        alone = compute_interactions(model, texts[2:], torch.ones(1).long(), Tokens(MASK, (PAD,)), num_players=6)
    assert torch.equal(found.values[2], alone.values[0])


def test_a_text_without_two_tokens_is_not_playable() -> None:
    ids = torch.tensor([[CLS, 10, SEP, PAD], [CLS, 10, 11, SEP], [CLS, SEP, PAD, PAD]])
    assert tokens().playable(ids).tolist() == [False, True, False]
    with pytest.raises(BatchError, match="None of the 1 samples of the first batch has 2 players"):
        compute_interactions(TextGame(lambda s: s.sum(1), 3), ids[:1], torch.ones(1).long())


# -- point clouds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["(N, 3)", "(3, N)"])
def test_clouds_are_masked_as_a_plain_loop_does(layout: str) -> None:
    clouds = torch.randn(2, 40, 3)
    samples = clouds if layout == "(N, 3)" else clouds.transpose(1, 2).contiguous()
    players = PointClusters(8)
    players.fit(samples)
    labels = torch.stack([draw(players, x, 3, seed=i) for i, x in enumerate(samples)])
    found = players.mask_batch(samples, labels, coalition_masks(3)).view(2, 8, *samples.shape[1:])
    points = found if layout == "(N, 3)" else found.transpose(2, 3)
    for i in range(2):
        own = labels[i].flatten()
        assert set(own.tolist()) == {-1, 0, 1, 2}
        for coalition in range(8):
            for j in range(40):
                player = int(own[j])
                gone = player >= 0 and player not in members(coalition)
                expected = clouds[i][own == player].mean(0) if gone else clouds[i, j]
                torch.testing.assert_close(points[i, coalition, j], expected)


def test_both_layouts_of_a_cloud_have_the_same_clusters() -> None:
    cloud = torch.randn(50, 3)
    assert torch.equal(draw(PointClusters(6), cloud).flatten(), draw(PointClusters(6), cloud.T.contiguous()).flatten())


def test_absent_points_do_not_matter_present_ones_do() -> None:
    cloud, players = torch.randn(60, 3), PointClusters(5)
    labels = draw(players, cloud, 5)
    without = coalition_masks(5)[~1 & 31].unsqueeze(0)  # all but player 0
    inside = labels.flatten() == 0
    moved = cloud.clone()
    moved[inside] = cloud[inside].flip(0) * 1.0  # the same points in other places: the mean stays
    torch.testing.assert_close(players.mask(moved, labels, without), players.mask(cloud, labels, without))
    assert not torch.equal(players.mask(moved, labels, coalition_masks(5)[-1:])[0], cloud)
    spread = cloud.clone()
    spread[inside] = cloud[inside].mean(0) + 7 * (cloud[inside] - cloud[inside].mean(0))
    torch.testing.assert_close(players.mask(spread, labels, without), players.mask(cloud, labels, without))
    outside = cloud.clone()
    outside[labels.flatten() == 3] += 1
    assert not torch.equal(players.mask(outside, labels, without), players.mask(cloud, labels, without))


@given(st.integers(0, 10**6), st.integers(2, 12))
@settings(max_examples=20)
def test_clusters_are_those_of_lloyd(seed: int, k: int) -> None:
    points = torch.randn(50, 3, generator=Generator().manual_seed(seed)).double()
    labels = kmeans(points, k, Generator().manual_seed(seed))
    used = labels.unique()
    centres = torch.stack([points[labels == c].mean(0) for c in used])
    assert torch.equal(used[torch.cdist(points, centres).argmin(1)], labels)  # every point is at its nearest mean
    assert torch.equal(labels, kmeans(points, k, Generator().manual_seed(seed)))


def test_far_groups_are_found() -> None:
    groups = torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    points = (groups.repeat_interleave(10, 0) + 0.1 * torch.randn(40, 3)).double()
    labels = kmeans(points, 4, Generator().manual_seed(1)).view(4, 10)
    assert (labels == labels[:, :1]).all()
    assert len(labels[:, 0].unique()) == 4


def test_a_cloud_of_few_points_has_few_players() -> None:
    cloud = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9], [9, 8, 9], [8, 9, 9]]).repeat(10, 1)
    assert player_counts(draw(PointClusters(30), cloud, 10).unsqueeze(0)).tolist() == [3]
    with pytest.raises(BatchError, match=r"found 1 region\(s\)"):
        draw(PointClusters(30), torch.ones(20, 3))


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (torch.randn(2, 4, 5), "PointClusters\\(axis=1\\)"),
        (torch.randn(2, 3, 3), "PointClusters\\(axis=1\\)"),
        (torch.randn(2, 3), "clouds of shape"),
        (torch.ones(2, 9, 3).long(), "clouds of shape.*int64"),
    ],
)
def test_what_is_no_cloud(samples: Tensor, says: str) -> None:
    with pytest.raises(BatchError, match=says):
        PointClusters().fit(samples)


def test_normals_go_with_their_points() -> None:
    cloud = torch.cat([torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 9, 9], [9, 9, 8]]), torch.randn(4, 3)], 1)
    players = PointClusters(2, axis=1)
    players.fit(cloud.unsqueeze(0))
    labels = draw(players, cloud, 2)
    masked = players.mask(cloud, labels, torch.tensor([[False, False]]))[0]
    torch.testing.assert_close(masked[:2], cloud[:2].mean(0).expand(2, -1))


def test_bad_clusters() -> None:
    for options in ({"num_clusters": 1}, {"num_clusters": 2.5}, {"axis": 2}, {"axis": True}):
        with pytest.raises(ArgumentError, match=f"`{next(iter(options))}`"):
            PointClusters(**options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="`axis`"):
        PointClusters(axis=1).fit(torch.randn(1, 9, 2))
    with pytest.raises(BatchError, match="not finite"):
        draw(PointClusters(), torch.full((9, 3), torch.nan))


def test_clouds_have_the_axioms_too() -> None:
    class Heights(nn.Module):
        """Sum over points of a bounded function of z alone: every point counts for itself."""

        def forward(self, points: Tensor) -> Tensor:
            return torch.tanh(points[..., 2].double()).sum(1)

    cloud = torch.randn(2, 60, 3)
    result = compute_interactions(Heights(), cloud, torch.ones(2).long(), PointClusters(6), num_players=5)
    assert result.and_[:, orders(5) > 1].abs().max() < 1e-5
    assert result.or_.abs().max() < 1e-5
    assert result.and_[:, orders(5) == 1].abs().min() > 1e-4


# -- grouped columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [[[1, 2, 5], [3, 4]], {"colour": [1, 2, 5], "size": (3, 4)}], ids=["lists", "names"])
def test_a_group_comes_and_goes_as_one(groups: Any) -> None:
    players = TabularFeatures("zero", groups=groups)
    labels = draw(players, torch.ones(7), 4)
    assert labels.tolist() == [0, 1, 1, 2, 2, 1, 3]


@pytest.mark.parametrize(
    "groups", ["12", 5, [[]], [[0.5]], [[-1, 2]], [[True, 2]], [[1, 2], [2, 3]], [[1, 1]], [3, 4], {"a": 1}]
)
def test_bad_groups(groups: Any) -> None:
    with pytest.raises(ArgumentError, match="`groups`"):
        TabularFeatures(groups=groups)


def test_groups_are_described_briefly() -> None:
    players = TabularFeatures(groups=[list(range(k, k + 10)) for k in range(0, 80, 10)])
    assert players.describe() == "TabularFeatures(baseline='mean', 8 groups of 80 columns)"
    assert TabularFeatures().describe() == repr(TabularFeatures())


def test_groups_beyond_the_columns() -> None:
    with pytest.raises(BatchError, match=r"column 9.*only 4 columns"):
        draw(TabularFeatures(groups=[[0, 9]]), torch.ones(4))


def test_a_model_of_a_group_has_no_other_interactions() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, 0] * x[:, 1] * x[:, 2]).double() + x[:, 3]

    x = torch.rand(3, 5) + 0.5
    result = compute_interactions(
        Net(), x, torch.ones(3).long(), TabularFeatures("zero", groups=[[0, 1, 2]]), num_players=3
    )
    assert result.num_players == 3
    assert result.and_[:, orders(3) > 1].abs().max() < 1e-6
    torch.testing.assert_close(result.and_[:, 1], x[:, :3].prod(1).double(), rtol=1e-5, atol=1e-5)
