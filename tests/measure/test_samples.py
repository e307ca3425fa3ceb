"""The choice of watched samples: random, yet the same for every order of the data, and without a trace."""

from __future__ import annotations

import io
import math
import pickle
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import on_ranks
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lightning_interactions.errors import BatchError, MeasureError
from lightning_interactions.measure import keys as hashing
from lightning_interactions.measure.keys import HASHED_AT_ONCE, content_keys, with_targets, without_targets
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.samples import (
    Pool,
    Samples,
    draw_players,
    join,
    smallest_keys,
)
from lightning_interactions.measure.watchlist import LOSS_SAMPLES, STATE_LIMIT_BYTES, Recurrence, Watchlist
from lightning_interactions.model.batch import Batch, Padding
from lightning_interactions.model.tree import tensors
from lightning_interactions.players import ImagePatches, TabularFeatures

# -- keys ------------------------------------------------------------------------------------------------------------

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int32, torch.long, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keys_do_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    x = (torch.arange(60).view(12, 5) * 37 % 251).to(dtype)
    if dtype == torch.bool:
        x = torch.arange(12).unsqueeze(1) >> torch.arange(5) & 1 == 1
    keys = content_keys(x, 3)
    assert keys.dtype == torch.long
    assert len(set(keys.tolist())) == 12
    for size in (1, 5):
        assert torch.equal(torch.cat([content_keys(part, 3) for part in x.split(size)]), keys)
    order = torch.randperm(12)
    assert torch.equal(content_keys(x[order], 3), keys[order])
    assert torch.equal(content_keys(x.T.contiguous().T, 3), keys)


def numbers(rows: int, size: int, dtype: torch.dtype) -> Tensor:
    """Nothing random, so that keys can be written down: to the bit alike on every machine."""
    x = ((torch.arange(rows * size) * 37 % 1001).double() / 8 - 60).view(rows, size)
    return (x if dtype.is_floating_point or dtype.is_complex else x.long()).to(dtype)


KNOWN = {
    torch.float64: [5443071251663716322, 5428479241064511248],
    torch.float32: [6692593000079151550, 4262326929486703970],
    torch.float16: [5222342476622885426, 5408367736264584496],
    torch.bfloat16: [6829466763027462795, 5410012769190291679],
    torch.uint8: [1629659024943053346, 4087254915967879747],
    torch.bool: [1208109857298206723, 6823558236090594541],
    torch.long: [2560631375716760958, 671039128353551109],
}


@pytest.mark.parametrize(("dtype", "expected"), KNOWN.items(), ids=str)
def test_keys_of_small_inputs_stay_what_they_always_were(dtype: torch.dtype, expected: list[int]) -> None:
    """Recorded when at most 4096 numbers went into a key: the players of a sample are drawn with it."""
    assert content_keys(numbers(2, 4096, dtype), 5).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_change_of_content_changes_the_key(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([*DTYPES, torch.complex64]))
    # images of more numbers than one block holds, on purpose of no round size
    shape = data.draw(st.sampled_from([(3,), (2, 9, 9), (4097,), (3, 64, 67), (3, 211, 223)]))
    x = numbers(3, math.prod(shape), dtype).view(3, *shape)
    position = data.draw(st.integers(0, x.numel() - 1))
    other = x.clone()
    flat = other.view(-1)
    flat[position] = ~flat[position] if dtype == torch.bool else flat[position] + (1j if dtype.is_complex else 1)
    changed = (content_keys(other, 1) != content_keys(x, 1)).tolist()
    assert changed == [row == position // (x.numel() // 3) for row in range(3)]
    size = data.draw(st.integers(1, 3))
    assert torch.equal(torch.cat([content_keys(part, 1) for part in x.split(size)]), content_keys(x, 1))


@pytest.mark.parametrize("shape", [(3, 3), (70, 4, 9, 9), (2, 3, 211, 223), (5, 0), (0, 3), (4,)], ids=str)
def test_memory_format_and_blocks_do_not_matter(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(shape)
    keys = content_keys(x)
    assert keys.shape == shape[:1]
    if x.ndim == 4:
        assert torch.equal(content_keys(x.to(memory_format=torch.channels_last)), keys)
    for block in (1, 7, 1000) if x.numel() < 1000 else (1000,):
        monkeypatch.setattr(hashing, "HASHED_AT_ONCE", {"cpu": block})
        assert torch.equal(content_keys(x), keys)


def test_order_matters_and_lazy_views_do_not() -> None:
    x = torch.randn(2, 3, 64, 64)
    assert not (content_keys(x.flip(-1)) == content_keys(x)).any()
    z = torch.randn(2, 9, dtype=torch.complex64)
    assert torch.equal(content_keys(z.conj()), content_keys(z.conj().resolve_conj()))
    assert torch.equal(content_keys(z.conj().imag), content_keys(-z.imag))
    assert not (content_keys(z.conj()) == content_keys(z)).any()
    small = torch.tensor([[1.0, 2.0], [1.0, 3.0]]).to(torch.float8_e4m3fn)
    assert content_keys(small).unique().numel() == 2


def test_little_memory_is_needed_for_large_images() -> None:
    x = torch.zeros(64, 3, 128, 128)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        content_keys(x)
    largest = max(event.cpu_memory_usage for event in record.events())
    assert largest <= 2 * 8 * HASHED_AT_ONCE["cpu"] < x.nbytes


@pytest.mark.parametrize("seeds", [(0, 1), (0, 2**40), (2**62, 2**63), (1, 2**100)], ids=str)
def test_seeds_of_any_size_give_other_keys(seeds: tuple[int, int]) -> None:
    x = torch.randn(4, 3)
    first, second = (content_keys(x, seed) for seed in seeds)
    assert not (first == second).any()


def test_the_order_of_keys_is_random_for_every_seed() -> None:
    x = torch.arange(200.0).unsqueeze(1)
    ranks = torch.stack([content_keys(x, seed).argsort().argsort() for seed in range(200)]).double()
    assert float((ranks.mean(0) - 99.5).abs().max()) < 25  # a sixth standard error
    correlation = torch.corrcoef(ranks[:20])
    assert float((correlation - torch.eye(20)).abs().max()) < 0.4
    assert abs(float(torch.corrcoef(torch.stack([torch.arange(200).double(), ranks[0]]))[0, 1])) < 0.3


# -- choosing --------------------------------------------------------------------------------------------------------

pools = st.lists(st.integers(-50, 50), min_size=1, max_size=40)


def class_of(key: int, classes: int) -> int:
    return (key * key + key // 3) % classes


@given(pools, st.integers(1, 12), st.integers(1, 4), st.booleans(), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_order_or_batches(
    keys: list[int], size: int, classes: int, balanced: bool, shuffler: random.Random
) -> None:
    def choose(pool: list[int]) -> list[int]:
        labels = torch.tensor([class_of(key, classes) for key in pool]) if balanced else None
        return [pool[i] for i in smallest_keys(torch.tensor(pool), size, labels).tolist()]

    expected = choose(keys)
    assert expected == sorted(set(expected))
    assert len(expected) == min(size, len(set(keys)))
    if not balanced:
        assert expected == sorted(set(keys))[:size]
    other = list(keys)
    shuffler.shuffle(other)
    assert choose(other) == expected
    kept: list[int] = []
    while other:
        batch = [other.pop() for _ in range(min(len(other), shuffler.randint(1, 9)))]
        kept = choose(kept + choose(batch))
    assert kept == expected


@given(pools, st.integers(1, 12), st.integers(1, 4))
def test_classes_are_taken_in_turns(keys: list[int], size: int, classes: int) -> None:
    labels = torch.tensor([class_of(key, classes) for key in keys])
    there = Counter(class_of(key, classes) for key in set(keys))
    chosen = Counter(labels[smallest_keys(torch.tensor(keys), size, labels)].tolist())
    most = max(chosen.values())
    for label, count in there.items():
        assert chosen[label] >= min(count, most - 1)
        of_class = sorted(key for key in set(keys) if class_of(key, classes) == label)[: chosen[label]]
        taken = [keys[i] for i in smallest_keys(torch.tensor(keys), size, labels).tolist()]
        assert sorted(key for key in taken if class_of(key, classes) == label) == of_class


# -- collecting ------------------------------------------------------------------------------------------------------


def data(size: int = 60, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 4, generator=generator), torch.randint(classes, (size,), generator=generator)


def collected(collector: Pool, x: Tensor, y: Tensor, batch: int) -> Samples:
    for inputs, targets in zip(x.split(batch), y.split(batch), strict=True):
        collector.offer(Batch(inputs, targets))
    found = collector.result()
    assert found is not None
    return found


def plain(x: Tensor, keys: Tensor) -> Samples:
    return Samples(x, torch.zeros(len(x)), keys)


def same(first: Samples, second: Samples) -> bool:
    own, other = tensors(vars(first)), tensors(vars(second))
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "evenly"])
def test_a_collector_keeps_the_same_samples_for_every_order_and_batch_size(balanced: bool) -> None:
    x, y = data()
    expected = collected(Pool(10, balanced=balanced), x, y, 60)
    keys = content_keys(x) if balanced else with_targets(content_keys(x), y)
    assert torch.equal(expected.keys, keys.sort().values[:10]) or balanced
    for batch in (1, 7, 10):
        order = torch.randperm(60)
        assert same(collected(Pool(10, balanced=balanced), x[order], y[order], batch), expected)
    again = collected(Pool(10, balanced=balanced), torch.cat([x, x]), torch.cat([y, y]), 7)
    assert same(again, replace(expected, counts=torch.full((10,), 2)))  # one that comes twice is one that counts twice
    for i, key in enumerate(expected.keys.tolist()):
        row = keys.tolist().index(key)
        assert torch.equal(expected.inputs[i], x[row])
        assert expected.targets[i] == y[row]
    if balanced:
        assert max(expected.targets.bincount()) - min(expected.targets.bincount()) <= 1
    assert not same(collected(Pool(10, balanced=balanced, seed=1), x, y, 60), expected)


def test_nothing_collected_is_none() -> None:
    collector = Pool(4)
    assert collector.result() is None
    assert collector.outline() is None


@pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "evenly"])
@pytest.mark.parametrize("batch", [1, 7, 60])
def test_wanted_samples_come_before_all_others(balanced: bool, batch: int) -> None:
    x, y = data()
    keys = content_keys(x) if balanced else with_targets(content_keys(x), y)
    wanted = keys.sort().values[-8::2]  # without being wanted, none of them would be taken
    collector = Pool(10, balanced=balanced)
    collector.wanted = torch.cat([wanted, torch.tensor([12345])])  # one is nowhere
    order = torch.randperm(60)
    found = collected(collector, x[order], y[order], batch)
    assert len(found) == 10
    assert torch.isin(wanted, found.keys).all()
    assert torch.equal(found.keys, found.keys.sort().values)
    others = ~torch.isin(keys, wanted)
    rest = collected(Pool(6, balanced=balanced), x[others], y[others], 7)
    assert torch.equal(found.keys[~torch.isin(found.keys, wanted)], rest.keys), "the rest is chosen as ever"


def test_as_many_are_wanted_as_there_is_room_for() -> None:
    x, y = data()
    collector = Pool(10, max_bytes=3 * 16)
    collector.wanted = with_targets(content_keys(x), y).sort().values[20:30]
    assert torch.equal(collected(collector, x, y, 7).keys, collector.wanted[:3])


@pytest.mark.parametrize(("limit", "expected"), [(5 * 16, 5), (5 * 16 + 15, 5), (1, 2), (10**6, 10)])
def test_memory_is_limited_but_two_samples_stay(limit: int, expected: int) -> None:
    x, y = data()
    found = collected(Pool(10, max_bytes=limit), x, y, 8)
    assert len(found) == expected
    assert found.inputs.nbytes == expected * 16
    assert torch.equal(found.keys, with_targets(content_keys(x), y).sort().values[:expected])


def test_samples_of_another_shape_are_refused() -> None:
    collector = Pool(4)
    collector.offer(Batch(torch.zeros(2, 3), torch.zeros(2)))
    with pytest.raises(BatchError, match=r"got \(4,\) after \(3,\).*input_fn"):
        collector.offer(Batch(torch.zeros(2, 4), torch.zeros(2)))


@pytest.mark.parametrize("size", [2, 100])
def test_batches_may_be_overwritten_later(size: int) -> None:
    x, y = data()
    batch, labels = x.clone(), y.clone()
    collector = Pool(size, balanced=True)
    collector.offer(Batch(batch, labels))
    batch.zero_()
    labels.zero_()
    found = collector.result()
    assert found is not None
    assert torch.equal(content_keys(found.inputs), found.keys)
    assert found.targets.any()


def test_no_random_numbers_are_drawn() -> None:
    x, y = data()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    found = collected(Pool(10, balanced=True), x, y, 8)
    draw_players(TabularFeatures("zero"), found, 3)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_batches_with_gradients_and_of_inference_mode_are_taken() -> None:
    x, y = data()
    collector = Pool(10)
    collector.offer(Batch(x[:30].requires_grad_(), y[:30]))
    with torch.inference_mode():
        collector.offer(Batch(x[30:] * 1, y[30:]))
    found = collector.result()
    assert found is not None
    assert not found.inputs.requires_grad
    buffer = io.BytesIO()
    torch.save(dict(vars(found)), buffer)
    assert same(Samples(**torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)), found)


@pytest.mark.parametrize("targets", [torch.arange(6.0).view(6, 1), torch.rand(6), torch.eye(6)], ids=["(B, 1)", "soft",
                                     "one-hot"])  # fmt: skip
def test_targets_keep_their_form(targets: Tensor) -> None:
    x = torch.randn(6, 2)
    found = collected(Pool(4, balanced=True), x, targets, 2)
    rows = [content_keys(x).tolist().index(key) for key in found.keys.tolist()]
    assert torch.equal(found.targets, targets[rows])


# -- players and shares ----------------------------------------------------------------------------------------------


def test_players_belong_to_the_sample_not_to_its_place() -> None:
    x = torch.randn(6, 20)
    keys = content_keys(x)
    labels, n = draw_players(TabularFeatures("zero"), plain(x, keys), 5)
    assert n == 5
    order = torch.tensor([3, 1, 5])
    assert torch.equal(draw_players(TabularFeatures("zero"), plain(x[order], keys[order]), 5)[0], labels[order])
    assert len({tuple(row) for row in labels.tolist()}) == 6
    other = draw_players(TabularFeatures("zero"), plain(x, content_keys(x, seed=1)), 5)[0]
    assert not torch.equal(other, labels)


def test_the_richest_sample_gives_the_number_of_players() -> None:
    class Ragged(TabularFeatures):
        def partition(self, sample: Tensor, generator: torch.Generator) -> Tensor:
            return torch.arange(4).clamp(max=int(sample[0]))

    x = torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0]])
    labels, n = draw_players(Ragged("zero"), plain(x, content_keys(x)), 10)
    assert n == 3
    assert labels.tolist() == [[0, 1, 1, 1], [0, 1, 2, 2]]


def test_partitions_of_other_shapes_are_refused() -> None:
    class Ragged(TabularFeatures):
        def partition(self, sample: Tensor, generator: torch.Generator) -> Tensor:
            return torch.arange(2 + int(sample[0]))

    x = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    with pytest.raises(BatchError, match=r"Ragged\.partition must return the same shape"):
        draw_players(Ragged("zero"), plain(x, content_keys(x)), 3)


@given(st.integers(1, 50), st.integers(1, 9))
def test_shares_are_as_equal_as_can_be_and_cover_all_rows_once(size: int, ranks: int) -> None:
    rows = torch.arange(size)
    shares = [rows[Ranks(rank, ranks).share(size)] for rank in range(ranks)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert torch.equal(torch.cat(shares), rows)


# -- the watchlist ---------------------------------------------------------------------------------------------------


def fill(watchlist: Watchlist, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(40, 4, generator=generator), torch.randint(2, (40,), generator=generator)
    for split in ("val", "train"):
        if watchlist.wants(split):
            for inputs, targets in zip(x.split(9), y.split(9), strict=True):
                watchlist.offer(split, Batch(inputs, targets))


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def test_a_frozen_watchlist_wants_no_more() -> None:
    watchlist = Watchlist(["val"], ["val", "train"], num_samples=6)
    assert watchlist.wants("val")
    assert watchlist.wants("train")
    watchlist.freeze()
    assert watchlist.watched == {}  # nothing seen, so the collection goes on
    fill(watchlist)
    watchlist.freeze()
    assert {split: len(probe) for split, probe in watchlist.watched.items()} == {"val": 6}
    assert {split: len(probe) for split, probe in watchlist.losses.items()} == {"val": 40, "train": 40}
    assert not watchlist.wants("val")
    assert not watchlist.wants("train")
    kept = watchlist.watched["val"]
    fill(watchlist, seed=2)
    watchlist.renew()
    watchlist.freeze()
    assert watchlist.watched["val"] is kept


def test_a_split_without_samples_stays_open() -> None:
    watchlist = Watchlist(["val", "train"], [], num_samples=6)
    watchlist.offer("val", Batch(torch.randn(8, 4), torch.zeros(8)))
    watchlist.freeze()
    assert list(watchlist.watched) == ["val"]
    assert watchlist.wants("train")


def test_loss_probes_are_limited() -> None:
    watchlist = Watchlist([], ["val"], num_samples=2)
    watchlist.offer("val", Batch(torch.randn(LOSS_SAMPLES + 5, 4), torch.zeros(LOSS_SAMPLES + 5)))
    watchlist.freeze()
    assert len(watchlist.losses["val"]) == LOSS_SAMPLES


def test_resampling_draws_others_each_time_and_keeps_the_loss_probes() -> None:
    watchlist = Watchlist(["val"], ["val"], num_samples=6, resample=True)
    drawn = []
    for _ in range(4):
        assert watchlist.wants("val")
        fill(watchlist)
        watchlist.freeze()
        drawn.append(tuple(watchlist.watched["val"].inputs.flatten().tolist()))
        losses = watchlist.losses["val"]
        watchlist.renew()
        assert watchlist.losses["val"] is losses
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("resample", [False, True], ids=["fixed", "resample"])
@pytest.mark.parametrize("measured", [0, 1, 3])
@pytest.mark.parametrize("keep", ["keys", "inputs"])
def test_a_restored_watchlist_goes_on_as_if_never_interrupted(resample: bool, measured: int, keep: str) -> None:
    def new() -> Watchlist:
        return Watchlist(["val"], ["val", "train"], num_samples=6, resample=resample, seed=4, keep=keep)

    def measure(watchlist: Watchlist) -> list[Tensor]:
        fill(watchlist)
        watchlist.freeze()
        found = [watchlist.watched["val"].inputs, watchlist.losses["train"].inputs]
        watchlist.renew()
        return found

    whole = new()
    for _ in range(measured):
        measure(whole)
    resumed = new()
    assert resumed.load_state_dict(through_a_file(whole.state_dict()))
    for _ in range(3):
        for a, b in zip(measure(whole), measure(resumed), strict=True):
            assert torch.equal(a, b)


def test_probes_too_large_for_a_checkpoint_are_collected_again() -> None:
    watchlist = Watchlist(["val"], [], num_samples=2, keep="inputs")
    big = torch.zeros(1).expand(2, STATE_LIMIT_BYTES // 8 + 1)
    watchlist.watched["val"] = Samples(big, torch.zeros(2), torch.tensor([1, 2]))
    state = through_a_file(watchlist.state_dict())
    assert set(state) == {"draws", "keys", "dropped_bytes"}
    assert state["dropped_bytes"] > STATE_LIMIT_BYTES
    resumed = Watchlist(["val"], [], num_samples=2)
    assert not resumed.load_state_dict(state)
    assert resumed.wants("val")


def test_a_state_without_inputs_or_keys_begins_anew() -> None:
    watchlist = Watchlist(["val"], ["val"], num_samples=6, keep="nothing")
    fill(watchlist)
    watchlist.freeze()
    assert watchlist.state_dict() == {"draws": 0}
    resumed = Watchlist(["val"], ["val"], num_samples=6)
    assert resumed.load_state_dict({"draws": 0})
    fill(resumed, seed=2)
    assert resumed.freeze() is None, "nothing is known to be missing"


@pytest.mark.parametrize("keep", ["keys", "inputs"])
def test_wanted_keys_are_not_forgotten_before_they_are_found(keep: str) -> None:
    whole = Watchlist(["val"], ["train"], num_samples=6)
    fill(whole)
    whole.freeze()
    state = through_a_file(whole.state_dict())
    resumed = Watchlist(["val"], ["train"], num_samples=6, keep=keep)
    resumed.load_state_dict(state)
    assert str(resumed.state_dict()["keys"]) == str(state["keys"])


# -- several ranks -----------------------------------------------------------------------------------------------------


def frozen_on(world_size: int, fill_rank: Any, padding: Padding | None = None, **options: Any) -> list[Any]:
    """The watchlists of all ranks after they chose together, or the error each of them got."""

    def work(ranks: Ranks) -> Watchlist:
        watchlist = Watchlist(["val"], ["val"], **({"num_samples": 10} | options))
        fill_rank(ranks.rank, watchlist)
        watchlist.freeze(ranks, padding)
        return watchlist

    return on_ranks(world_size, work)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("empty", [0, 1], ids=["all-see-some", "one-sees-nothing"])
def test_ranks_together_choose_what_one_would(world_size: int, empty: int) -> None:
    x, y = data()
    single = Watchlist(["val"], ["val"], num_samples=10)
    single.offer("val", Batch(x, y))
    single.freeze()

    def fill_rank(rank: int, watchlist: Watchlist) -> None:
        if rank < world_size:
            for inputs, targets in zip(x[rank::world_size].split(4), y[rank::world_size].split(4), strict=True):
                watchlist.offer("val", Batch(inputs, targets))
            watchlist.offer("val", Batch(x[:2], y[:2]))  # each of them has two more

    often = torch.ones(60, dtype=torch.long)
    often[:2] += world_size
    for found in frozen_on(world_size + empty, fill_rank):
        for kind in ("watched", "losses"):
            own, alone = getattr(found, kind)["val"], getattr(single, kind)["val"]
            rows = [x.tolist().index(row) for row in alone.inputs.tolist()]
            assert same(own, replace(alone, counts=often[rows]))


def test_wanted_samples_are_found_on_whichever_rank_they_are() -> None:
    x, y = data()
    wanted = content_keys(x).sort().values[-4:]

    def fill_rank(rank: int, watchlist: Watchlist) -> None:
        watchlist.load_state_dict({"keys": {"watched": {"val": wanted}}})
        watchlist.offer("val", Batch(x[rank::2], y[rank::2]))

    for found in frozen_on(2, fill_rank):
        assert torch.isin(wanted, found.watched["val"].keys).all()


def test_only_what_is_chosen_is_exchanged_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(40, 3000), torch.arange(40) % 2
    sent: list[tuple[str, int]] = []

    def work(ranks: Ranks) -> None:
        def gather(local: Tensor) -> Tensor:
            sent.append(("tensor", local.numel() * local.element_size()))
            return ranks.gather(local)

        def gather_objects(item: Any) -> list[Any]:
            sent.append(("object", len(pickle.dumps(item))))
            return ranks.gather_objects(item)

        watchlist = Watchlist(["val"], [], num_samples=4)
        watchlist.offer("val", Batch(x[ranks.rank :: 2], y[ranks.rank :: 2]))
        watchlist.freeze(Ranks(ranks.rank, 2, gather, gather_objects))

    assert on_ranks(2, work) == [None, None]
    assert max(size for kind, size in sent if kind == "object") < 5000
    assert sum(size for kind, size in sent if kind == "tensor") < 2 * (4 * 12_000 + 1000)


def test_texts_of_different_length_are_brought_to_the_longest() -> None:
    padding = Padding(token=0)
    ids = torch.randint(1, 50, (24, 6))
    single = Watchlist(["val"], ["val"], num_samples=10)
    long = torch.cat([ids, torch.zeros(24, 3, dtype=torch.long)], 1)
    single.offer("val", Batch(long, torch.zeros(24)), padding=padding)
    single.freeze()

    def fill_rank(rank: int, watchlist: Watchlist) -> None:
        inputs = (ids, long)[rank][rank::2]
        watchlist.offer("val", Batch(inputs, torch.zeros(12)), padding=padding)

    for found in frozen_on(3, lambda rank, watchlist: fill_rank(rank, watchlist) if rank < 2 else None, padding):
        assert same(found.watched["val"], single.watched["val"])


def test_ranks_with_other_shapes_all_give_up_and_keep_what_they_have() -> None:
    lists: dict[int, Watchlist] = {}

    def fill_rank(rank: int, watchlist: Watchlist) -> None:
        lists[rank] = watchlist
        watchlist.offer("val", Batch(torch.randn(8, 4 + rank // 2), torch.zeros(8)))

    errors = frozen_on(3, fill_rank)
    assert all(isinstance(error, BatchError) for error in errors)
    assert len({str(error) for error in errors}) == 1
    assert "float32 (4,) with targets float32 () on rank 0, inputs float32 (5,)" in str(errors[0])
    assert all(watchlist.wants("val") for watchlist in lists.values())


def test_a_failure_on_one_rank_ends_the_choice_on_all() -> None:
    class Broken(Padding):
        def extend(self, inputs: Tensor, length: int) -> Tensor:
            if not len(inputs):  # forms, which every rank has
                return super().extend(inputs, length)
            raise KeyError("no padding here")

    def fill_rank(rank: int, watchlist: Watchlist) -> None:
        watchlist.offer("val", Batch(torch.randint(1, 9, (4, 5 + rank)), torch.zeros(4)), padding=Padding(0))

    healthy, broken = reversed(frozen_on(2, fill_rank, Broken(0)))  # the rank of the longer texts need not pad
    assert isinstance(healthy, MeasureError)
    assert isinstance(broken, MeasureError)
    assert "on rank 0: KeyError: 'no padding here'" in str(healthy)


# -- how often samples occur -------------------------------------------------------------------------------------------

rows_of_data = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40)


def in_batches(pool: Pool, x: Tensor, y: Tensor, sizes: list[int], carried: tuple[Tensor, ...] = ()) -> None:
    start = 0
    while start < len(x):
        size = sizes[start % len(sizes)]
        some = slice(start, start + size)
        pool.offer(Batch(x[some], y[some], carried=tuple(tensor[some] for tensor in carried)))
        start += size


@given(
    rows_of_data, st.integers(1, 12), st.integers(1, 4), st.booleans(),
    st.lists(st.integers(1, 7), min_size=1, max_size=4), st.randoms(use_true_random=False), st.integers(0, 40),
)  # fmt: skip
def test_equal_samples_are_one_that_counts_as_often_as_it_occurs_in_a_pass(
    rows: list[tuple[int, int]], size: int, passes: int, balanced: bool, sizes: list[int],
    shuffler: random.Random, before: int,
) -> None:  # fmt: skip
    pool = Pool(size, balanced=balanced)

    def go_through(part: list[tuple[int, int]]) -> None:
        if part:
            x, y = torch.tensor(part).unbind(1)
            in_batches(pool, x.float().unsqueeze(1), y, sizes)
        pool.begin_pass()

    go_through(rows[:before])  # a first pass that was cut short, as a sanity check is
    for _ in range(passes):
        shuffler.shuffle(rows)
        go_through(rows)
    go_through(rows[before:])  # and a last one
    found = pool.result()
    assert found is not None
    assert found.counts is not None
    if balanced:  # it looks at the inputs only
        often: Any = Counter(x for x, _ in rows)
        own = [int(x) for x in found.inputs[:, 0]]
    else:
        often = Counter(rows)
        own = [(int(x), int(y)) for x, y in zip(found.inputs[:, 0], found.targets, strict=True)]
    assert len(set(own)) == len(own) == min(size, len(often))
    assert found.counts.tolist() == [often[row] for row in own]


@given(rows_of_data, st.integers(1, 4))
def test_ranks_add_up_how_often_samples_occur(rows: list[tuple[int, int]], world_size: int) -> None:
    x, y = torch.tensor(rows).unbind(1)

    def fill_rank(rank: int, watchlist: Watchlist) -> None:
        if len(x[rank::world_size]):
            watchlist.offer("val", Batch(x[rank::world_size].float().unsqueeze(1), y[rank::world_size]))

    often = Counter(rows)
    for found in frozen_on(world_size, fill_rank):
        losses = found.losses["val"]
        own = [(int(x), int(y)) for x, y in zip(losses.inputs[:, 0], losses.targets, strict=True)]
        assert sorted(own) == sorted(often)
        assert losses.counts.tolist() == [often[row] for row in own]


def test_samples_that_differ_in_their_targets_only_both_count_in_the_loss() -> None:
    x, y = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1, 0])
    watchlist = Watchlist(["val"], ["val"], num_samples=3)
    watchlist.offer("val", Batch(x, y))
    watchlist.freeze()
    losses, watched = watchlist.losses["val"], watchlist.watched["val"]
    assert sorted(zip(losses.inputs[:, 0].tolist(), losses.targets.tolist(), strict=True)) == [(1, 0), (1, 1), (3, 0)]
    assert len(losses.keys.unique()) == 3
    assert sorted(watched.inputs[:, 0].tolist()) == [1, 3], "the game is played on the inputs"
    assert dict(zip(watched.inputs[:, 0].tolist(), watched.counts.tolist(), strict=True)) == {1: 2, 3: 1}


@given(st.integers(0, 10**6))
def test_targets_change_the_lowest_bits_of_a_key_only(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(20, 3)
    keys = content_keys(x)
    for targets in (torch.arange(20), torch.randn(20), torch.randn(20, 4), torch.tensor([True, False] * 10)):
        own = with_targets(keys, targets)
        assert torch.equal(without_targets(own), without_targets(keys))
        assert torch.equal(own.argsort(), keys.argsort()), "so the choice stays"
        assert not torch.equal(own, with_targets(keys, targets.flip(0)))
        assert torch.equal(with_targets(own, targets), own)


# -- what is carried along ---------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.booleans(), st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_what_is_carried_along_stays_with_its_sample(size: int, balanced: bool, sizes: list[int]) -> None:
    x = torch.arange(20.0).unsqueeze(1).repeat(1, 2)
    carried = (torch.arange(20) * 7, torch.arange(60.0).view(20, 3) + 100)
    pool = Pool(size, balanced=balanced)
    in_batches(pool, x, torch.arange(20) % 3, sizes, carried)
    found = pool.result()
    assert found is not None
    own = found.inputs[:, 0].long()
    assert len(own) == size
    assert torch.equal(found.targets, own % 3)
    assert torch.equal(found.carried[0], carried[0][own])
    assert torch.equal(found.carried[1], carried[1][own])
    some = found[torch.tensor([size - 1, 0])]
    assert torch.equal(some.carried[1], carried[1][some.inputs[:, 0].long()])


def test_what_is_carried_along_is_part_of_the_key() -> None:
    x, along = torch.ones(4, 2), (torch.tensor([0, 0, 1, 1]), torch.tensor([0.5, 0.5, 0.5, 0.7]))
    assert len(content_keys(x, carried=along).unique()) == 3
    assert len(content_keys(x, carried=along[:1]).unique()) == 2
    assert not torch.equal(content_keys(x, carried=along), content_keys(x, carried=along[::-1]))
    pool = Pool(9, balanced=True)
    pool.offer(Batch(x, torch.zeros(4).long(), carried=along))
    found = pool.result()
    assert found is not None
    assert found.counts is not None
    rows = zip(found.carried[0].tolist(), found.carried[1].tolist(), found.counts.tolist(), strict=True)
    assert sorted((a, round(b, 1), c) for a, b, c in rows) == [(0, 0.5, 2), (1, 0.5, 1), (1, 0.7, 1)]


def test_carried_tensors_may_be_overwritten_later_and_must_keep_their_shape() -> None:
    along = torch.arange(3)
    pool = Pool(9)
    pool.offer(Batch(torch.ones(3, 2), torch.zeros(3), carried=(along,)))
    along.zero_()
    found = pool.result()
    assert found is not None
    assert sorted(found.carried[0].tolist()) == [0, 1, 2]
    with pytest.raises(BatchError, match="what goes with the inputs"):
        pool.offer(Batch(torch.ones(3, 2), torch.zeros(3), carried=(along.view(3, 1),)))
    with pytest.raises(BatchError, match="what goes with the inputs"):
        pool.offer(Batch(torch.ones(3, 2), torch.zeros(3)))


def test_ranks_exchange_what_is_carried_along() -> None:
    x, y = data()
    along = (torch.arange(60), torch.randn(60, 2))

    def some(rows: slice) -> Batch:
        return Batch(x[rows], y[rows], carried=tuple(tensor[rows] for tensor in along))

    single = Watchlist(["val"], ["val"], num_samples=10)
    single.offer("val", some(slice(None)))
    single.freeze()
    for found in frozen_on(3, lambda rank, watchlist: watchlist.offer("val", some(slice(rank, None, 3)))):
        assert same(found.watched["val"], single.watched["val"])
        assert same(found.losses["val"], single.losses["val"])
    restored = Watchlist(["val"], ["val"], num_samples=10, keep="inputs")
    single._keep = "inputs"
    assert restored.load_state_dict(through_a_file(single.state_dict()))
    assert same(restored.watched["val"], single.watched["val"])


# -- images of different sizes -----------------------------------------------------------------------------------------

shapes = st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3)), min_size=1, max_size=6)


def pictures(sizes: list[tuple[int, int, int]]) -> list[Tensor]:
    """Batches of equal images each, no two images alike."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 2, height, width, generator=generator) for height, width, count in sizes]


def originals(found: Samples) -> list[Tensor]:
    """The samples one by one as `of_one_shape` gives them back, in their order."""
    images: dict[int, Tensor] = {}
    for rows, some in found.of_one_shape():
        assert some.sizes is None
        assert torch.equal(found.keys[rows], some.keys)
        assert torch.equal(found.targets[rows], some.targets)
        images |= dict(zip(rows.tolist(), some.inputs, strict=True))
    assert sorted(images) == list(range(len(found)))
    return [images[row] for row in range(len(found))]


@given(shapes, st.integers(1, 10))
def test_images_of_any_size_come_back_as_they_were(sizes: list[tuple[int, int, int]], size: int) -> None:
    batches = pictures(sizes)
    every = {int(key): image for batch in batches for key, image in zip(content_keys(batch), batch, strict=True)}
    pool = Pool(size, balanced=True)
    for batch in batches:
        pool.offer(Batch(batch, torch.zeros(len(batch)).long()), any_size=True)
    found = pool.result()
    assert found is not None
    assert found.keys.tolist() == sorted(every)[:size]
    for key, image in zip(found.keys.tolist(), originals(found), strict=True):
        assert torch.equal(image, every[key])
    back = found[torch.arange(len(found)).flip(0)]
    assert all(torch.equal(a, b) for a, b in zip(originals(back), originals(found)[::-1], strict=True))


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 1, 4), (3, 4, 1)], ids=str)
def test_a_dimension_may_be_one(shape: tuple[int, ...]) -> None:
    """A grey image among coloured ones, for example."""
    pool, small, large = Pool(4, balanced=True), torch.randn(2, *shape), torch.randn(2, 3, 4, 4)
    for batch in (small, large):
        pool.offer(Batch(batch, torch.zeros(2).long()), any_size=True)
    found = pool.result()
    assert found is not None
    expected = {int(key): x for images in (small, large) for key, x in zip(content_keys(images), images, strict=True)}
    for key, image in zip(found.keys.tolist(), originals(found), strict=True):
        assert torch.equal(image, expected[key])


def test_images_of_another_size_are_refused_unless_any_will_do() -> None:
    pool = Pool(4)
    pool.offer(Batch(torch.zeros(2, 1, 3, 3), torch.zeros(2)))
    with pytest.raises(BatchError, match="one shape"):
        pool.offer(Batch(torch.zeros(2, 1, 3, 4), torch.zeros(2)))
    with pytest.raises(BatchError, match="one shape"):
        pool.offer(Batch(torch.zeros(2, 3), torch.zeros(2)), any_size=True)


def test_samples_of_one_size_stay_as_they_are() -> None:
    found = collected(Pool(10), *data(), 7)
    assert found.sizes is None
    ((rows, some),) = found.of_one_shape()
    assert some is found
    assert rows.tolist() == list(range(10))


@pytest.mark.parametrize("heights", [(4, 4, 4), (4, 6, 4), (6, 4, 5)], ids=str)
def test_ranks_may_have_images_of_other_sizes(heights: tuple[int, ...]) -> None:
    batches = pictures([(height, 5, 4) for height in heights])
    single = Watchlist(["val"], ["val"], num_samples=8)
    for batch in batches:
        single.offer("val", Batch(batch, torch.arange(4)), any_size=True)
    single.freeze(any_size=True)

    def work(ranks: Ranks) -> Watchlist:
        watchlist = Watchlist(["val"], ["val"], num_samples=8)
        if ranks.rank < 3:
            watchlist.offer("val", Batch(batches[ranks.rank], torch.arange(4)), any_size=True)
        watchlist.freeze(ranks, any_size=True)
        return watchlist

    for found in on_ranks(4, work):
        for kind in ("watched", "losses"):
            own, alone = getattr(found, kind)["val"], getattr(single, kind)["val"]
            assert torch.equal(own.keys, alone.keys)
            assert torch.equal(own.targets, alone.targets)
            assert all(torch.equal(a, b) for a, b in zip(originals(own), originals(alone), strict=True))


@given(shapes)
def test_players_of_an_image_do_not_depend_on_the_others(sizes: list[tuple[int, int, int]]) -> None:
    batches = pictures(sizes)
    parts = [Samples(x, torch.zeros(len(x)), content_keys(x)) for x in batches]
    together, players = join(parts), ImagePatches(grid=2)
    labels, n = draw_players(players, together, 3)
    assert n == 3
    assert labels.shape[0] == len(together)
    row = 0
    for part in parts:
        alone, _ = draw_players(players, part, 3)
        for own in alone:
            inner = labels[row][tuple(slice(0, size) for size in own.shape)]
            assert torch.equal(inner, own)
            assert int((labels[row] >= 0).sum()) == int((own >= 0).sum()), "padding is nobody's"
            row += 1


# -- do the training samples come again? -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "batches", "expected"),
    [((6, 0), 4, (6, 16)), ((4, 4), 4, None), ((8, 8), 4, None), ((0, 0), 3, None), ((0, 0), 4, (0, 16))],
    ids=["fewer-than-half", "half", "all", "cut-short", "none"],
)
def test_ranks_judge_together_whether_samples_come_again(
    seen: tuple[int, int], batches: int, expected: tuple[int, int] | None
) -> None:
    keys = torch.arange(16) << 20

    def work(ranks: Ranks) -> Any:
        recurrence = Recurrence()
        recurrence.begin_epoch()
        recurrence.batches = 4
        recurrence.keys = keys
        assert not recurrence.looks, "not in the epoch they are from"
        assert recurrence.end_epoch(ranks) is None
        recurrence.begin_epoch()
        assert recurrence.looks
        recurrence.batches = batches
        recurrence.offer(keys[8 * ranks.rank :][: seen[ranks.rank]])
        found = recurrence.end_epoch(ranks)
        recurrence.begin_epoch()
        assert not recurrence.looks, "one epoch is enough"
        assert recurrence.end_epoch(ranks) is None
        return found

    assert on_ranks(2, work) == [expected] * 2


@pytest.mark.parametrize("left", [False, True])
def test_labels_of_tokens_are_padded_with_them(left: bool) -> None:
    """On the same side, by what stands for no label: else padding would be predicted."""
    texts = [torch.tensor([[5, 6, 7], [8, 9, 4]]), torch.tensor([[3, 2, 5, 6, 7], [9, 8, 7, 6, 5]])]
    first = torch.tensor([[0, 0, 8], [0, 8, 9]]) if left else torch.tensor([[8, 0, 0], [9, 8, 0]])
    texts[0] = torch.where(first > 0, texts[0], 0)
    pool = Pool(8)
    for ids in texts:
        pool.offer(Batch(ids, torch.ones(2).long(), carried=(torch.where(ids == 0, -100, ids),)), Padding(token=0))
    found = pool.result()
    assert found is not None
    assert found.inputs.shape == (4, 5)
    assert int((found.inputs == 0).sum()) == 7
    assert found.carried[0].equal(torch.where(found.inputs == 0, -100, found.inputs))
