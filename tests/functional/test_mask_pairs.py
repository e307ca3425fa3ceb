"""The mean degree from random mask pairs: against leaving out pairs one by one, and functions of known degree."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional import (
    SampledDegree,
    degree_energy,
    influence_and_variance,
    mean_degree,
    pooled_mean_degree,
    random_mask_pairs,
    sampled_mean_degree,
)
from lightning_interactions.functional.mask_pairs import DegreeSums

Game = Callable[[Tensor], Tensor]  # masks (..., n) -> (...)


def random_pairs(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(game: Game, n: int, pairs: int, draws: int, seed: int = 0) -> Tensor:
    """The values ``(draws, pairs, 2)`` of a game, new masks for each draw."""
    masks = random_mask_pairs(n, draws * pairs, torch.Generator().manual_seed(seed))
    return torch.stack([game(part) for part in masks], -1).view(draws, pairs, 2)


def table(values: Tensor) -> Game:
    """The game with these values ``(2**n,)``."""
    return lambda masks: values[(masks.long() << torch.arange(masks.shape[-1])).sum(-1)]


def planted(n: int, seed: int = 0) -> tuple[Game, float, float]:
    """Effects of single players and of parities of three: the game, its mean degree and its variance."""
    generator = torch.Generator().manual_seed(seed)
    single, triple = (torch.rand(k, generator=generator, dtype=torch.float64) + 0.2 for k in (n, n // 3))

    def game(masks: Tensor) -> Tensor:
        x = 1 - 2 * masks.double()
        return 5 + x @ single + x[..., : n // 3 * 3].unflatten(-1, (-1, 3)).prod(-1) @ triple

    one, three = float(single.square().sum()), float(triple.square().sum())
    return game, (one + 3 * three) / (one + three), one + three


def energies(values: Tensor) -> tuple[float, float]:
    """Mean degree and variance, exactly."""
    return float(mean_degree(degree_energy(values))), float(values.var(correction=0))


def masks_of(n: int) -> Tensor:
    return torch.arange(2**n)[:, None] >> torch.arange(n) & 1


def cases() -> dict[str, tuple[Game, int, float, float]]:
    """Games with their number of players, mean degree and variance."""
    n = 10
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2**n, generator=generator, dtype=torch.float64)
    x = 1 - 2 * masks_of(n).double()
    steep = torch.sigmoid(2 * x @ torch.randn(n, generator=generator, dtype=torch.float64))
    parity = x[:, 2:6].prod(-1)
    exact = {"noise": noise, "sigmoid": steep, "parity of 4": parity, "additive": x.sum(-1)}
    games: dict[str, tuple[Game, int, float, float]] = {
        name: (table(values), n, *energies(values)) for name, values in exact.items()
    }
    for players in (12, 200):
        game, degree, variance = planted(players)
        games[f"planted, n={players}"] = game, players, degree, variance
    return games


GAMES = cases()
every_game = pytest.mark.parametrize("name", GAMES)

# -- the masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 17, 512])
def test_pairs_are_random_masks_that_differ_in_one_player(n: int) -> None:
    pairs = 4096
    masks, flipped = random_mask_pairs(n, pairs, torch.Generator().manual_seed(0))
    assert masks.shape == flipped.shape == (pairs, n)
    assert masks.dtype == flipped.dtype == torch.bool
    differ = masks != flipped
    assert (differ.sum(-1) == 1).all()
    for found, chance in ((masks, 0.5), (flipped, 0.5), (differ, 1 / n), (masks & differ, 0.5 / n)):
        off = (found.double().mean(0) - chance).abs().max() / math.sqrt(chance * (1 - chance) / pairs)
        assert off < 5, "every player as often as any other"


def test_the_generator_is_the_only_source() -> None:
    first, again, other = (random_mask_pairs(8, 16, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    state = torch.get_rng_state()
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))
    generator = torch.Generator().manual_seed(1)
    assert all(map(torch.equal, random_mask_pairs(8, 16, generator), first))
    assert not all(map(torch.equal, random_mask_pairs(8, 16, generator), first)), "drawn anew"
    assert torch.equal(torch.get_rng_state(), state)


# -- the estimate ----------------------------------------------------------------------------------------------------


@given(st.integers(16, 24), st.integers(2, 512), st.integers(0, 1000))
def test_influence_and_variance_are_the_sums_over_pairs(pairs: int, n: int, seed: int) -> None:
    values = random_pairs(seed, pairs)
    rows = values.tolist()
    influence, variance = influence_and_variance(values, n)
    assert float(influence) == pytest.approx(n * sum((a - b) ** 2 for a, b in rows) / pairs / 4)
    squares = sum(a * a + b * b for a, b in rows) / pairs / 2
    products = [(a + b) * (c + d) / 4 for (a, b), (c, d) in itertools.permutations(rows, 2)]
    assert float(variance) == pytest.approx(squares - sum(products) / len(products))


@given(st.integers(17, 24), st.integers(2, 512), st.integers(0, 1000))
def test_bias_and_error_are_those_of_leaving_out_one_after_the_other(pairs: int, n: int, seed: int) -> None:
    values = random_pairs(seed, pairs)

    def ratio(rows: Tensor) -> float:
        influence, variance = influence_and_variance(rows, n)
        return float(influence / variance)

    without = [ratio(torch.cat([values[:p], values[p + 1 :]])) for p in range(pairs)]
    middle = sum(without) / pairs
    found = sampled_mean_degree(values, n)
    assert float(found.mean_degree) == pytest.approx(pairs * ratio(values) - (pairs - 1) * middle)
    error = math.sqrt((pairs - 1) / pairs * sum((x - middle) ** 2 for x in without))
    assert float(found.standard_error) == pytest.approx(error)
    assert float(found.total_variance) == pytest.approx(float(influence_and_variance(values, n)[1]))


def test_a_pair_is_worth_its_share() -> None:
    values = torch.zeros(16, 2, dtype=torch.float64)
    values[:4, 0], values[4:8] = 1.0, 2.0
    flip = [0.25] * 4 + [0.0] * 12
    mean = (4 * 0.5 + 4 * 2) / 16
    whole = [f + (m - mean) ** 2 for f, m in zip(flip, [0.5] * 4 + [2.0] * 4 + [0.0] * 8, strict=True)]
    worth = [sum(x) ** 2 / sum(y * y for y in x) for x in (flip, whole)]
    assert worth[0] == 4 < worth[1]
    assert float(sampled_mean_degree(values, 5).freedom) == pytest.approx(3)
    one = torch.zeros(16, 2, dtype=torch.float64)
    one[0, 0], one[5:] = 1.0, 3.0
    assert float(sampled_mean_degree(one, 5).freedom) == 1


def test_the_interval_is_students() -> None:
    found = SampledDegree(*torch.tensor([[1.5, 2.0], [0.1, 0.2], [1.0, 1.0], [3.0, 94.7]], dtype=torch.float64))
    for end, sign in zip(found.interval(), (-1, 1), strict=True):
        expected = [x + sign * t.ppf(0.975, k) * e for x, e, k in ((1.5, 0.1, 3.0), (2.0, 0.2, 94.7))]
        assert end.tolist() == pytest.approx(expected, rel=1e-4)
    unknown = SampledDegree(*torch.full((4, 2), math.nan))
    assert torch.stack(unknown.interval()).isnan().all()


@every_game
def test_influence_and_variance_have_no_bias(name: str) -> None:
    game, n, degree, variance = GAMES[name]
    parts = influence_and_variance(drawn(game, n, 16, 4000), n)
    for found, expected in zip(parts, (degree * variance, variance), strict=True):
        assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(len(found)) + 1e-12


@every_game
def test_the_estimate_has_no_bias_and_its_interval_covers_the_truth(name: str) -> None:
    game, n, degree, variance = GAMES[name]
    found = sampled_mean_degree(drawn(game, n, 96, 500), n)
    assert abs(float(found.mean_degree.mean()) - degree) < 3 * float(found.mean_degree.std()) / math.sqrt(500)
    assert abs(float(found.total_variance.mean()) - variance) < 3 * float(found.total_variance.std()) / math.sqrt(500)
    assert float(found.standard_error.mean() / found.mean_degree.std()) == pytest.approx(1, abs=0.15)
    lower, upper = found.interval()
    assert 0.90 <= float(((lower <= degree) & (degree <= upper)).double().mean()) <= 0.99


@pytest.mark.parametrize("players", [60, 12])
def test_the_interval_knows_that_few_of_the_players_act(players: int) -> None:
    small, degree, _ = planted(players)
    found = sampled_mean_degree(drawn(lambda masks: small(masks[..., :players]), 200, 96, 500), 200)
    lower, upper = found.interval()
    assert 0.90 <= float(((lower <= degree) & (degree <= upper)).double().mean()) <= 0.99


def test_the_correction_takes_the_bias_away() -> None:
    game, n, degree, _ = GAMES["additive"]
    values = drawn(game, n, 16, 20_000)
    influence, variance = influence_and_variance(values, n)
    plain, corrected = influence / variance, sampled_mean_degree(values, n).mean_degree
    assert float(plain.mean()) - degree > 0.08
    assert abs(float(corrected.mean()) - degree) < 0.03


def test_with_many_pairs_it_is_the_exact_mean_degree() -> None:
    for name in ("noise", "sigmoid"):
        game, n, degree, variance = GAMES[name]
        found = sampled_mean_degree(drawn(game, n, 100_000, 1)[0], n)
        assert float(found.mean_degree) == pytest.approx(degree, rel=0.03)
        assert float(found.total_variance) == pytest.approx(variance, rel=0.03)


# -- several samples -------------------------------------------------------------------------------------------------


def many(samples: int, pairs: int, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of unlike degree and size: their values at pairs, influences and variances."""
    n = 12
    masks, flipped = random_mask_pairs(n, samples * pairs, generator)
    single = torch.randn(samples, n, generator=generator, dtype=torch.float64)
    triple = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    size = torch.exp(spread * torch.randn(samples, generator=generator, dtype=torch.float64))

    def game(rows: Tensor) -> Tensor:
        x = 1 - 2 * rows.double().view(samples, pairs, n)
        parities = x.unflatten(-1, (4, 3)).prod(-1)
        return ((x * single[:, None]).sum(-1) + (parities * triple[:, None]).sum(-1)) * size[:, None]

    one, three = single.square().sum(-1) * size**2, triple.square().sum(-1) * size**2
    return torch.stack([game(masks), game(flipped)], -1), one + 3 * three, one + three


@pytest.mark.thorough
@pytest.mark.parametrize("spread", [0.0, 0.7])
@pytest.mark.parametrize("samples", [4, 16])
def test_pooled_interval_covers_the_truth_of_new_samples(samples: int, spread: float) -> None:
    truth = (12 + 3 * 4) / (12 + 4)  # sizes are drawn apart from the degrees
    generator = torch.Generator().manual_seed(0)
    found = [pooled_mean_degree(many(samples, 32, spread, generator)[0], 12) for _ in range(500)]
    ends = [estimate.interval() for estimate in found]
    assert 0.90 <= sum(float(low) <= truth <= float(high) for low, high in ends) / 500 <= 0.99
    degrees = torch.stack([estimate.mean_degree for estimate in found])
    assert abs(float(degrees.mean()) - truth) < 3 * float(degrees.std()) / math.sqrt(500)


def test_pooling_averages_before_the_ratio() -> None:
    values, top, bottom = many(40, 4000, 1.0, torch.Generator().manual_seed(1))
    found = pooled_mean_degree(values, 12)
    expected = float(top.sum() / bottom.sum())
    plain = float((top / bottom).mean())
    assert abs(plain - expected) > 0.05, "else the test shows nothing"
    assert float(found.mean_degree) == pytest.approx(expected, abs=0.05 + float(found.standard_error) / 3)
    assert float(found.total_variance) == pytest.approx(float(bottom.mean()), rel=0.05)
    assert torch.equal(found.mean_degree, pooled_mean_degree(values.view(8, 5, 4000, 2), 12).mean_degree)


@given(st.integers(2, 8), st.integers(0, 1000))
def test_pooled_error_and_bias_by_loops(samples: int, seed: int) -> None:
    values = random_pairs(seed, samples, 16) * torch.arange(1, samples + 1)[:, None, None]
    top, bottom = (x.tolist() for x in influence_and_variance(values, 7))
    ratio = sum(top) / sum(bottom)
    mean = sum(bottom) / samples
    rest = [a - ratio * b for a, b in zip(top, bottom, strict=True)]
    covariance = sum((b - mean) * r for b, r in zip(bottom, rest, strict=True)) / (samples - 1) / samples
    worth = sum(bottom) ** 2 / sum(b * b for b in bottom)
    error = math.sqrt(worth / (worth - 1) * sum(r * r for r in rest)) / sum(bottom)
    found = pooled_mean_degree(values, 7)
    assert float(found.mean_degree) == pytest.approx(ratio + covariance / mean**2)
    assert float(found.standard_error) == pytest.approx(error, rel=1e-6)
    assert float(found.total_variance) == pytest.approx(mean)
    assert float(found.freedom) == pytest.approx(max(worth - 1, 1))


def test_one_sample_alone_is_judged_by_its_pairs() -> None:
    values = random_pairs(3, 16)
    for batch in (values, values[None], torch.stack([torch.ones(16, 2).double(), values])):
        found, alone = pooled_mean_degree(batch, 9), sampled_mean_degree(values, 9)
        torch.testing.assert_close(found._replace(total_variance=0), alone._replace(total_variance=0))
        samples = 1 if batch.ndim == 2 else len(batch)
        assert float(found.total_variance) == pytest.approx(float(alone.total_variance) / samples), "constants count"


@given(st.lists(st.integers(0, 6), max_size=3))
def test_sums_of_parts_are_those_of_the_whole(cuts: list[int]) -> None:
    values = random_pairs(4, 6, 16)
    parts = [DegreeSums.of(values[a:b], 5) for a, b in itertools.pairwise([0, *sorted(cuts), 6])]
    added = DegreeSums(*(torch.stack(sums).sum(0) for sums in zip(*parts, strict=True)))
    for one, other in zip(added.estimate(), pooled_mean_degree(values, 5), strict=True):
        torch.testing.assert_close(one, other)


@given(st.lists(st.integers(2, 512), min_size=1, max_size=5), st.integers(0, 1000))
def test_samples_may_have_their_own_numbers_of_players(counts: list[int], seed: int) -> None:
    values, players = random_pairs(seed, len(counts), 16), torch.tensor(counts)
    for estimate in (influence_and_variance, sampled_mean_degree):
        alone = [estimate(row, n) for row, n in zip(values, counts, strict=True)]
        for found, expected in zip(estimate(values, players), zip(*alone, strict=True), strict=True):
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=0, equal_nan=True)
    parts = [DegreeSums.of(row[None], n) for row, n in zip(values, counts, strict=True)]
    added = DegreeSums(*(torch.stack(sums).sum(0) for sums in zip(*parts, strict=True)))
    for one, other in zip(pooled_mean_degree(values, players), added.estimate(), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_wrong_numbers_of_players_are_refused() -> None:
    values = random_pairs(0, 2, 16)
    for bad in ([1, 5], [5, 513], [5.0, 6.0], [5], [5, 6, 7], [True, True]):
        with pytest.raises(ArgumentError, match="`num_players` to be integers from 2 to 512 of shape"):
            pooled_mean_degree(values, torch.tensor(bad))


# -- what may come in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [(0, 0), (3, 1)])
def test_a_bad_value_spoils_its_own_sample_only(bad: float, at: tuple[int, int]) -> None:
    values = random_pairs(5, 4, 16)
    expected, pooled = sampled_mean_degree(values[1:], 5), pooled_mean_degree(values[1:], 5)
    values[0][at] = bad
    for found, others in zip(sampled_mean_degree(values, 5), expected, strict=True):
        assert found[0].isnan()
        torch.testing.assert_close(found[1:], others)
    assert all(x[0].isnan() for x in influence_and_variance(values, 5))
    for found, others in zip(pooled_mean_degree(values, 5), pooled, strict=True):
        torch.testing.assert_close(found, others)
    assert all(x.isnan() for x in pooled_mean_degree(values[:1], 5))
    assert all(x.isnan() for x in pooled_mean_degree(values[:0], 5))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e30])
def test_what_does_not_vary_has_no_degree(constant: float) -> None:
    for estimate in (sampled_mean_degree, pooled_mean_degree):
        for pairs in range(16, 100, 3):  # the mean of so many equal numbers is not always that number
            degree, error, variance, freedom = estimate(torch.full((pairs, 2), constant, dtype=torch.float64), 9)
            assert variance == 0
            assert all(x.isnan() for x in (degree, error, freedom))


def test_what_too_few_pairs_saw_has_no_degree() -> None:
    one = torch.full((20, 2), 0.7, dtype=torch.float64)
    one[3] = torch.tensor([0.1, 0.3])
    still = random_pairs(6, 20)[..., :1].expand(-1, 2)
    for values in (one, still):
        degree, error, variance, freedom = sampled_mean_degree(values, 9)
        assert variance > 0
        assert all(x.isnan() for x in (degree, error, freedom))


@given(st.integers(0, 1000), st.floats(-1000, 1000), st.floats(0.01, 100))
def test_offset_and_unit_do_not_matter(seed: int, offset: float, unit: float) -> None:
    values = random_pairs(seed, 20)
    found, expected = sampled_mean_degree(offset + unit * values, 6), sampled_mean_degree(values, 6)
    torch.testing.assert_close(found.mean_degree, expected.mean_degree, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.total_variance, unit**2 * expected.total_variance, rtol=1e-6, atol=0)
    torch.testing.assert_close(sampled_mean_degree(values.flip(-1), 6), expected), "which of the two came first"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_any_real_dtype_is_estimated_in_float64(dtype: torch.dtype) -> None:
    values = (random_pairs(7, 2, 16) * 3).to(dtype)
    found = sampled_mean_degree(values, 5)
    assert all(x.dtype == torch.float64 and x.shape == (2,) for x in found)
    assert all(map(torch.equal, found, sampled_mean_degree(values.double(), 5)))


@pytest.mark.parametrize("estimate", [influence_and_variance, sampled_mean_degree, pooled_mean_degree])
def test_wrong_arguments_are_named(estimate: Callable[..., object]) -> None:
    for shape in ((15, 2), (16, 3), (16,), ()):
        with pytest.raises(ArgumentError, match=r"`values`.*at least 16 pairs, but got " + re.escape(f"{shape}.")):
            estimate(torch.zeros(shape), 5)
    with pytest.raises(ArgumentError, match="`values` to be a real tensor"):
        estimate(torch.zeros(16, 2, dtype=torch.complex64), 5)
    for n in (1, 513, 5.0, True, None):
        with pytest.raises(ArgumentError, match="`num_players` to be an integer from 2 to 512"):
            estimate(torch.zeros(16, 2), n)


def test_wrong_draws_are_refused() -> None:
    generator = torch.Generator()
    for n in (1, 513, 5.0, True, None):
        with pytest.raises(ArgumentError, match="`num_players`"):
            random_mask_pairs(n, 16, generator)
    for pairs in (15, 16.0, None):
        with pytest.raises(ArgumentError, match="`pairs` to be an integer not below 16"):
            random_mask_pairs(4, pairs, generator)
