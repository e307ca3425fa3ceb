"""The size of a chunk: found by doubling on a fake clock, limited, halved, remembered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import Recorder, cnn, mlp
from torch import Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.samples import Samples, draw_players
from lightning_interactions.measure.values import evaluate_coalitions
from lightning_interactions.model.chunks import FIRST_CHUNK, PATIENCE, TRIALS, ChunkSize, default_chunk_size
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.quiet import in_format_of, memory_format_of
from lightning_interactions.model.score import log_odds
from lightning_interactions.players import FeatureMask, ImagePatches, Players, TabularFeatures

CPU = torch.device("cpu")
COLUMNS = torch.zeros(1, 6)


class Clock:
    """Time that passes only when work is done: ``seconds(rows)`` for each forward."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.rows: list[int] = []

    def __call__(self) -> float:
        return self.now

    def step(self, position: int, at_most: int) -> int:
        self.rows.append(at_most)
        self.now += self.seconds(at_most)
        return at_most


def search(seconds: Callable[[int], float], samples: Tensor = COLUMNS, total: int = 10**6) -> tuple[ChunkSize, Clock]:
    clock = Clock(seconds)
    chunks = ChunkSize(clock=clock)
    chunks.suit(samples)
    chunks.run(total, clock.step, CPU)
    return chunks, clock


# -- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [32, 64, 512, 4096])
def test_the_fastest_size_is_found(best: int) -> None:
    chunks, clock = search(lambda rows: rows * (1 + abs(torch.tensor(rows / best).log2().item())))
    assert (chunks.rows, chunks.searching) == (best, False)
    assert set(clock.rows) <= {2**k for k in range(5, 13)}
    assert max(clock.rows) <= best * 2 ** (1 + PATIENCE)


def test_each_size_is_timed_on_a_few_chunks_and_nothing_is_done_twice() -> None:
    chunks, clock = search(lambda rows: 1.0 if rows <= 64 else rows, total=10_000)
    assert chunks.rows == 64
    tried = [size for size in (32, 64, 128, 256) for _ in range(TRIALS)]
    assert clock.rows[: len(tried)] == tried
    assert set(clock.rows[len(tried) :]) == {64}
    assert 10_000 <= sum(clock.rows) < 10_000 + 64


def test_a_disturbance_is_survived() -> None:
    calls = iter(range(10**9))
    chunks, _ = search(lambda rows: (1 + rows / 4096) * (50.0 if next(calls) % TRIALS == 1 else 1.0))
    assert chunks.rows == 4096


def test_a_plateau_of_one_size_does_not_end_the_search() -> None:
    pace = {32: 1.0, 64: 0.5, 128: 0.5, 256: 0.3, 512: 0.3, 1024: 0.3}
    assert search(lambda rows: rows * pace[rows])[0].rows == 256


def test_memory_is_not_spent_on_a_gain_that_is_not_clear() -> None:
    assert search(lambda rows: rows * (1 - 1e-6 * rows))[0].rows == FIRST_CHUNK


def test_the_search_ends_at_the_most_rows_that_suit_the_input() -> None:
    samples = torch.zeros(1, 3, 64, 64)
    chunks, clock = search(lambda rows: 1.0, samples)
    assert max(clock.rows) <= default_chunk_size(samples) < 2 * chunks.rows


def test_chunks_smaller_than_asked_for_say_nothing() -> None:
    chunks = ChunkSize()
    chunks.suit(COLUMNS)
    for _ in range(100):
        chunks.record(FIRST_CHUNK - 1, 1.0)
    assert (chunks.rows, chunks.searching) == (FIRST_CHUNK, True)


def test_what_was_found_is_kept_for_the_next_time() -> None:
    chunks, clock = search(lambda rows: rows * (1 + abs(torch.tensor(rows / 128).log2().item())))
    clock.rows.clear()
    chunks.suit(torch.zeros(1, 2))
    chunks.run(1280, clock.step, CPU)
    assert clock.rows == [128] * 10


def test_nothing_is_timed_when_results_must_repeat_to_the_bit() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        chunks, clock = search(lambda rows: 1.0, total=1000)
    finally:
        torch.use_deterministic_algorithms(before)
    assert not chunks.searching
    assert len(set(clock.rows)) == 1


# -- given sizes and memory ------------------------------------------------------------------------------------------


def test_a_given_size_is_used_as_it_is() -> None:
    clock = Clock(lambda rows: 1.0)
    chunks = ChunkSize(48)
    chunks.suit(COLUMNS)
    chunks.run(480, clock.step, CPU)
    assert clock.rows == [48] * 10
    assert ChunkSize().searching


@pytest.mark.parametrize("limit", [5, 40, 200])
def test_out_of_memory_halves_for_good_and_loses_no_work(limit: int) -> None:
    done: list[int] = []

    def step(position: int, at_most: int) -> int:
        if at_most > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append(position)
        return at_most

    # A clock that says larger is faster, so that the search runs into the wall.
    ticks = iter(range(10**9))
    chunks = ChunkSize(clock=lambda: float(next(ticks)))
    chunks.suit(COLUMNS)
    chunks.run(5000, step, CPU)
    assert chunks.rows == 1 << (limit.bit_length() - 1)
    assert not chunks.searching
    assert done == sorted(set(done)), "each row was done once"
    chunks.run(100, step, CPU)
    assert chunks.rows <= limit


def test_memory_that_ends_after_the_best_size_was_passed_returns_to_it() -> None:
    def step(position: int, at_most: int) -> int:
        if at_most > 64:
            raise MemoryError
        clock.now += at_most  # no size is faster than the first
        return at_most

    clock = Clock(lambda rows: 0.0)
    chunks = ChunkSize(clock=clock)
    chunks.suit(COLUMNS)
    chunks.halve()
    assert chunks.rows == FIRST_CHUNK // 2
    chunks = ChunkSize(clock=clock)
    chunks.suit(COLUMNS)
    chunks.run(1000, step, CPU)
    assert chunks.rows == FIRST_CHUNK


def test_other_errors_pass() -> None:
    def step(position: int, at_most: int) -> int:
        raise ValueError("a user's mistake")

    with pytest.raises(ValueError, match="mistake"):
        ChunkSize(8).run(10, step, CPU)


# -- in the evaluation -----------------------------------------------------------------------------------------------


def values(model: nn.Module, x: Tensor, masker: Players, chunks: ChunkSize | int | None, **kwargs) -> Tensor:
    masker.fit(x)
    players, n = draw_players(masker, Samples(x, torch.zeros(len(x)), content_keys(x)), 8)
    with torch.no_grad():
        return evaluate_coalitions(
            model, x, players, torch.zeros(len(x)).long(),
            masker=masker, num_players=n, score=log_odds, chunk_size=chunks, **kwargs,
        )  # fmt: skip


def test_values_do_not_depend_on_the_search() -> None:
    x, model = torch.randn(7, 9, generator=torch.Generator().manual_seed(0)), mlp(features=9)
    expected = values(model, x, TabularFeatures(), 64)
    ticks = iter(range(10**9))
    chunks = ChunkSize(clock=lambda: float(next(ticks)))  # every forward takes a second: larger is always faster
    recorder = Recorder(model)
    torch.testing.assert_close(values(recorder, x, TabularFeatures(), chunks), expected, rtol=1e-6, atol=1e-6)
    assert sum(recorder.rows) == expected.numel(), "no forward is wasted"
    assert len(set(recorder.rows)) > 2, "it did search"
    assert chunks.rows > FIRST_CHUNK
    torch.testing.assert_close(values(model, x, TabularFeatures(), chunks), expected, rtol=1e-6, atol=1e-6)


class FirstLayout(nn.Module):
    """Remembers the memory format of what it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        seen: set[torch.memory_format] = set()
        self.note = seen.add  # what is an attribute itself, `quiet` puts back

    @property
    def seen(self) -> set[torch.memory_format]:
        return self.note.__self__

    def forward(self, x: Tensor) -> Tensor:
        self.note(memory_format_of(x))
        return self.model(x)


def rgb_net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()


class Own(ImagePatches):
    """A user's masking, which knows nothing of memory formats."""

    def mask_batch(self, samples: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        return super().mask_batch(samples, players, coalitions).contiguous()


@pytest.mark.parametrize("masker", [ImagePatches(grid=3), ImagePatches(grid=3, baseline="mean"), Own(grid=3)])
def test_channels_last_reaches_the_model(masker: Players) -> None:
    x, model = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), rgb_net()
    expected = values(model, x, masker, None)
    model = FirstLayout(model.to(memory_format=torch.channels_last))
    found = values(model, in_format_of(model, x), masker, None)
    assert model.seen == {torch.channels_last}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_channels_last_reaches_what_follows_a_layer() -> None:
    x, net = torch.randn(3, 3, 8, 8), rgb_net().to(memory_format=torch.channels_last)
    net[2] = FirstLayout(net[2])
    cut = LayerCut(net, "1")
    x = in_format_of(net, x)
    with torch.no_grad():
        features = cut.features(net, x)
    masker = ImagePatches(grid=3)
    masker.fit(features)
    players, n = draw_players(masker, Samples(features, torch.zeros(len(x)), content_keys(x)), 8)
    net[2].seen.clear()
    with torch.no_grad():
        evaluate_coalitions(
            net, x, players, torch.zeros(3).long(), masker=masker, num_players=n, score=log_odds, cut=cut
        )
    assert net[2].seen == {torch.channels_last}


def test_channels_last_through_compute_interactions_changes_no_number() -> None:
    x, y = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    plain = compute_interactions(rgb_net(), x, y, ImagePatches(grid=3), num_players=5)
    model = FirstLayout(rgb_net().to(memory_format=torch.channels_last))
    model.seen.clear()
    found = compute_interactions(model, x, y, ImagePatches(grid=3), num_players=5)
    assert torch.channels_last in model.seen
    torch.testing.assert_close(found.values, plain.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [cnn(), mlp()])
def test_other_models_get_their_inputs_as_they_are(model: nn.Module) -> None:
    x = torch.randn(2, 1, 8, 8)
    assert in_format_of(model, x) is x
    columns = torch.zeros(2, 5)
    assert in_format_of(rgb_net().to(memory_format=torch.channels_last), columns) is columns


# -- masks made on the bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("baseline", ["zero", "mean", -1.5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_masks_on_the_bits_are_those_of_where(dtype: torch.dtype, baseline: str | float, channels_last: bool) -> None:
    x = torch.randn(3, 2, 5, 4).to(dtype)
    x[0, 0, 0, 0], x[1, 1, 2, 2], x[2, 0, 1, 1] = torch.nan, torch.inf, -0.0
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    ids = torch.randint(-1, 3, (5, 4))
    masker = FeatureMask(torch.arange(20).view(5, 4), baseline)
    masker.fit(torch.randn(4, 2, 5, 4).to(dtype))
    coalitions = (torch.arange(8)[:, None] >> torch.arange(3)).bitwise_and(1).bool()
    found = masker.mask_batch(x, ids.expand(3, 5, 4), coalitions)
    kept = torch.cat([coalitions, torch.ones(8, 1, dtype=torch.bool)], 1)[:, ids].view(1, 8, 1, 5, 4)
    expected = torch.where(kept, x.unsqueeze(1), masker.absent(x, ids.expand(3, 5, 4))).flatten(0, 1)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert memory_format_of(found) == memory_format_of(x)
    assert found.dtype == dtype
    untouched = found.clone()
    x.zero_()
    assert torch.equal(found.nan_to_num(), untouched.nan_to_num()), "masked inputs are copies"
