"""What is told of a measurement besides its numbers: what there is less of than was asked for, and what is in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from models import mlp
from torch import Tensor

from lightning_interactions.measure.games import Game, Rules
from lightning_interactions.measure.measurement import Measurement
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.samples import Samples
from lightning_interactions.model.model import Model
from lightning_interactions.model.task import Task
from lightning_interactions.monitor.notes import doubts, shortages
from lightning_interactions.monitor.options import Options
from lightning_interactions.players import Players, TabularFeatures

OPTIONS = Options(num_samples=3, num_players=4)


def game(counts: Sequence[int], players: Players | None = None) -> Game:
    """Of samples with so many players each."""
    labels = torch.full((len(counts), 6), -1)
    for row, count in enumerate(counts):
        labels[row, :count] = torch.arange(count)
    samples = Samples(torch.zeros(len(counts), 6), torch.zeros(len(counts)), torch.arange(len(counts)))
    return Game(samples, players or TabularFeatures(), labels, max(counts))


def rules(precision: Any = None) -> Rules:
    return Rules(Model(mlp(), precision=precision), Task("classes", 3), TabularFeatures(), (), "inputs of shape (B, 5)")


def measured(
    strength: Tensor, noise: Tensor | None = None, gap: Tensor | None = None, effect: float = 1.0
) -> Measurement:
    """Of a strength by order ``(n,)``."""
    none, n = torch.zeros(2), len(strength)
    mean = torch.stack([strength, torch.zeros(n)]).double()
    return Measurement(
        mean.expand(2, 2, n), mean, {"effect": effect}, torch.zeros(n, 3).long(), torch.ones(4), torch.ones(2, n),
        mean.expand(2, 2, n), none if gap is None else gap,
        torch.full((n,), torch.nan) if noise is None else noise, none, none, none,
        torch.zeros(2, 2, 2**n), torch.zeros(2, 2),
    )  # fmt: skip


# -- what there is less of -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[4, 4, 4], [4, 4, 4, 4], [4, 5, 6]])
def test_nothing_is_told_where_there_is_enough(counts: list[int]) -> None:
    assert list(shortages("val", game(counts), OPTIONS)) == []


def test_too_few_samples_are_told() -> None:
    assert list(shortages("train", game([4, 4]), OPTIONS)) == ["only 2 train samples to watch, num_samples=3"]


def test_too_few_players_of_all_samples_are_told() -> None:
    (text,) = shortages("val", game([3, 3, 3]), OPTIONS)
    assert text == "num_players=4, but the val samples have only 3"


@pytest.mark.parametrize(
    ("counts", "fewer", "fewest"), [([2, 4, 4], 1, 2), ([3, 3, 4], 2, 3), ([3, 2, 3], 3, 2), ([4, 4, 4, 4, 2], 1, 2)]
)
def test_too_few_players_of_some_samples_are_told(counts: list[int], fewer: int, fewest: int) -> None:
    (text,) = shortages("val", game(counts), OPTIONS)
    assert text.startswith(f"{fewer} of {len(counts)} val samples have fewer than 4 players (the fewest {fewest}); ")


def test_what_the_players_do_without_is_told_first() -> None:
    class Without(TabularFeatures):
        @property
        def note(self) -> str:
            return "there is no mean of a column"

    assert list(shortages("val", game([3, 3], Without()), OPTIONS)) == [
        "there is no mean of a column", "only 2 val samples to watch, num_samples=3",
        "num_players=4, but the val samples have only 3"]  # fmt: skip


# -- what is in doubt ------------------------------------------------------------------------------------------------

SOUND = measured(torch.tensor([4.0, 2.0, 1.0, 1.0]), torch.full((4,), 1e-6))
NOISY = measured(torch.tensor([4.0, 0.2, 0.1, 0.1]), torch.tensor([0.0, 0.0, 0.0, 0.5]))
NOTHING = measured(torch.zeros(4), torch.zeros(4))
TOKENS = measured(torch.tensor([4.0, 2.0, 1.0, 1.0]))
SKIPPED = measured(torch.zeros(4), gap=torch.full((2,), torch.nan))


@pytest.mark.parametrize("sound", [SOUND, TOKENS], ids=["columns", "tokens"])
def test_nothing_is_told_of_a_sound_measurement(sound: Measurement) -> None:
    assert list(doubts({"val": sound, "train": sound}, rules(), Reading())) == []
    assert list(doubts({}, rules(), Reading())) == []


def test_noise_is_told_once_with_what_can_be_done() -> None:
    (text,) = doubts({"val": NOISY, "train": NOISY}, rules(precision=object()), Reading())
    assert "rounding noise" in text
    assert text.endswith('use precision="32-true"')
    (text,) = doubts({"val": SOUND, "train": NOISY}, rules(), Reading())
    assert "precision" not in text, "it is in full precision already"


def test_strength_that_is_rough_detail_is_told_once_the_network_is_trained() -> None:
    rough = measured(torch.tensor([4.0, 6.0, 6.0, 1.0]), effect=1.0)
    smooth = measured(torch.tensor([4.0, 6.0, 6.0, 1.0]), effect=2.0)
    (text,) = doubts({"val": rough, "train": rough}, rules(), Reading(0.0))
    assert text.endswith("noise_bound=0.05, the default, leaves it out")
    (text,) = doubts({"val": smooth, "train": rough}, rules(), Reading())
    assert "a larger noise_bound" in text
    assert list(doubts({"val": rough}, rules(), Reading(), trained=False)) == []
    assert list(doubts({"val": smooth}, rules(), Reading())) == []


def test_a_game_in_which_nothing_matters_is_told_of_every_split() -> None:
    first, second = doubts({"val": NOTHING, "train": NOTHING}, rules(), Reading())
    assert first.startswith("masking inputs of shape (B, 5) changes the score of no val sample")
    assert "`players=`" in first
    assert "no train sample" in second
    (text,) = doubts({"val": SOUND, "train": NOTHING}, rules(), Reading())
    assert "no train sample" in text


def test_samples_that_are_all_skipped_are_no_game_in_which_nothing_matters() -> None:
    assert list(doubts({"val": SKIPPED}, rules(), Reading())) == []
    some = measured(torch.zeros(4), gap=torch.tensor([torch.nan, 0.0]))
    assert len(list(doubts({"val": some}, rules(), Reading()))) == 1


def test_no_note_ends_with_a_full_stop() -> None:
    told = [*shortages("val", game([2, 3]), OPTIONS), *doubts({"val": NOISY, "train": NOTHING}, rules(), Reading())]
    assert len(told) == 4
    assert not any(text.endswith(".") for text in told)
