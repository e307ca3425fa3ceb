"""The e-value of a rise: against numerical integration over the step, and the bound it keeps in noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interactions.phases.change import MEMORY, rise_evidence

LEVELS = 1, 2, 3, 5, 8, 12, 20, 32
WIDTH = 3.0  # of the prior of the step, in noises
LARGEST = math.exp(27)
VALUES = st.floats(-3, 3, width=32)


def likelihood_ratio(difference: float, variance: float) -> float:
    """Of a step up against none, given a difference of two means in noises: averaged over half-normal steps."""
    step = np.linspace(0, 60, 12001)
    simpson = np.full(len(step), 2.0)
    simpson[1::2], simpson[[0, -1]] = 4, 1
    prior = 2 / math.sqrt(2 * math.pi) / WIDTH * np.exp(-((step / WIDTH) ** 2) / 2)
    ratio = np.exp((step * difference - step**2 / 2) / variance)
    return float((simpson * prior * ratio).sum() * step[1] / 3)


def prior(last_before: int) -> float:
    """Of a rise after this record (the first is 0) and one length of the level before it."""
    place = last_before + 2
    return 1.2 / len(LEVELS) / (place * (math.log2(place) + 1) ** 2)


def expected_evidence(values: Sequence[float], noise: float, older: int = 0) -> float:
    """By two loops over all records, with ``older`` ones before them that were forgotten."""
    now, total = len(values) - 1, 0.0
    for last_before in range(max(0, now - 32), now):
        for level in LEVELS:
            if level > last_before + 1:
                continue
            before, since = values[last_before + 1 - level : last_before + 1], values[last_before + 1 :]
            difference = (sum(since) / len(since) - sum(before) / level) / noise
            ratio = likelihood_ratio(difference, 1 / len(since) + 1 / level)
            total += prior(older + last_before) * ratio
    return total


# ------------------------------------------------------------------------------------------------------- the number


@given(st.lists(VALUES, min_size=2, max_size=12), st.floats(0.5, 3), st.integers(0, 10**6))
def test_it_is_the_integral_over_all_steps(values: list[float], noise: float, older: int) -> None:
    found = rise_evidence(values, noise, len(values) + older)
    assert found == pytest.approx(min(expected_evidence(values, noise, older), LARGEST), rel=1e-5)


@pytest.mark.parametrize("records", [33, 34, 65, 66, 100])
def test_of_long_runs_the_latest_beginnings_count(records: int) -> None:
    values = np.random.default_rng(records).normal(size=records).tolist()
    values[-6:] = [value + 2 for value in values[-6:]]
    assert rise_evidence(values, 1.0, records) == pytest.approx(expected_evidence(values, 1.0), rel=1e-6)


@given(st.lists(VALUES, min_size=2, max_size=80), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_neither_the_level_nor_the_unit_matters(values: list[float], level: float, unit: float) -> None:
    found = rise_evidence(values, 1.5, len(values))
    moved = [level + unit * value for value in values]
    assert rise_evidence(moved, unit * 1.5, len(values)) == pytest.approx(found, rel=1e-4)


def test_a_level_of_many_noises_costs_no_digits() -> None:
    values = [0.0, 1.0, -1.0, 0.0, 1.0, -1.0, 3.0, 4.0, 3.0]
    moved = [5 + 1e-7 * value for value in values]
    assert rise_evidence(moved, 1e-7, 9) == pytest.approx(rise_evidence(values, 1.0, 9), rel=1e-5)


@given(st.lists(VALUES, min_size=3, max_size=80), st.data())
def test_the_higher_the_latest_records_the_stronger(values: list[float], data: st.DataObject) -> None:
    late = data.draw(st.integers(1, len(values) - 1))
    by = data.draw(st.floats(0, 3))
    risen = [*values[:-late], *(value + by for value in values[-late:])]
    assert rise_evidence(risen, 1.0, len(values)) >= rise_evidence(values, 1.0, len(values)) * (1 - 1e-9)


@given(st.lists(st.floats(-1e6, 1e6), max_size=4), st.integers(0, 2**32))
def test_what_is_older_than_its_memory_does_not_matter(older: list[float], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=MEMORY).tolist()
    found = rise_evidence(values, 1.0, 200)
    assert rise_evidence([*older, *values], 1.0, 200) == found
    assert rise_evidence([values[0] - 1, *values[1:]], 1.0, 200) > found, "the oldest is part of the longest level"


def test_there_is_none_while_nothing_can_be_compared() -> None:
    assert rise_evidence([], 1.0, 0) == rise_evidence([5.0], 1.0, 1) == rise_evidence([1.0, 2.0], math.inf, 2) == 0.0
    assert rise_evidence([1.0, 2.0], 0.0, 2) == LARGEST, "where there is no noise any rise is one"
    assert 0 < rise_evidence([1.0] * 50, 0.0, 50) < 1
    assert rise_evidence([2.0, 1.0], 0.0, 2) == 0.0


# ------------------------------------------------------------------------------------------------------- the bound


def test_all_priors_together_are_at_most_1_in_a_run_of_any_length() -> None:
    """With one pair the evidence is its prior times what a difference of 0 says, so that priors can be read off."""

    def read_off(place: int) -> float:
        return rise_evidence([0.0, 0.0], 1.0, place) / likelihood_ratio(0.0, 2.0)

    priors = [read_off(place) for place in range(2, 200)]
    assert priors == sorted(priors, reverse=True)
    assert priors[0] == pytest.approx(prior(0), rel=1e-6)
    # They only fall, so 2**k times the one at 2**k is more than all of those from there to 2**(k + 1).
    powers = range(1, 60)
    bound = len(LEVELS) * sum(2.0**power * read_off(2**power) for power in powers)
    rest = 1.2 / len(powers)  # of sum 1.2 / (k + 1)**2
    assert 0.4 < bound + rest <= 1


@pytest.mark.parametrize("records", [2, 3])
def test_in_noise_it_is_worth_what_was_staked(records: int) -> None:
    """Its mean over normal noise, summed up over a grid of the differences to the first record, is that of its priors.

    The first record being noise too, these have variance 2 and covariance 1.
    """
    grid = np.arange(-26, 26.1, 0.5)
    points = np.stack(np.meshgrid(*[grid] * (records - 1)), -1).reshape(-1, records - 1)
    covariance = np.eye(records - 1) + 1
    inverse = np.linalg.inv(covariance)
    density = np.exp(-np.einsum("pi,ij,pj->p", points, inverse, points) / 2)
    density *= 0.5 ** (records - 1) / math.sqrt((2 * math.pi) ** (records - 1) * np.linalg.det(covariance))
    found = [rise_evidence([0.0, *point], 1.0, records) for point in points.tolist()]
    staked = sum(prior(s) * sum(level <= s + 1 for level in LEVELS) for s in range(records - 1))
    assert density @ np.array(found) == pytest.approx(staked, rel=1e-3)


@pytest.mark.thorough
def test_noise_hardly_ever_reaches_what_a_rise_reaches_soon() -> None:
    """Ville's inequality: at most a share ``a`` of all sequences ever reaches ``1 / a``, however long they are."""
    generator = np.random.default_rng(0)
    sequences, records = 200, 300
    noise = generator.normal(size=(sequences, records))
    highest = [max(rise_evidence(row[:now], 1.0, now) for now in range(2, records)) for row in noise.tolist()]
    for share in (0.5, 0.2, 0.05):
        slack = 2 * math.sqrt(share * (1 - share) / sequences)
        assert np.mean(np.array(highest) >= 1 / share) <= share + slack
    stepped = noise[:, :36] + 4.0 * (np.arange(36) >= 30)
    assert np.mean([rise_evidence(row, 1.0, 36) >= 20 for row in stepped.tolist()]) >= 0.95
