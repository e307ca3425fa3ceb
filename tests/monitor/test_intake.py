"""What passes by goes in: it waits for the model to be known, is read, left out with a reason, or skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import mlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_interactions.measure.games import Rules, find_rules
from lightning_interactions.measure.samples import Samples
from lightning_interactions.measure.watchlist import LOSS_SAMPLES, Watchlist
from lightning_interactions.model.batch import read_batch
from lightning_interactions.model.reader import Reader, Sight, Sighting, learn
from lightning_interactions.monitor.intake import Intake
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.monitor.options import Options

OPTIONS = Options(num_samples=8, num_players=4)


def batch(size: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 5, generator=generator), torch.arange(size) % 3


RULES = find_rules(mlp(), read_batch(batch()))


class Desk:
    """An intake with its watchlist, and what it told."""

    def __init__(self, reader: Reader | None = None, **options: Any) -> None:
        own = Options(num_samples=64, num_players=4, **options)
        self.watchlist, self.told = Watchlist(own.splits, own.loss_splits, num_samples=64), list[str]()
        self.intake = Intake(self.watchlist, own, self.told.append)
        self.intake.reader = reader

    def samples(self, split: str = "val", kind: str = "losses") -> Samples | None:
        return self.watchlist._pools[kind, split].result()

    def inputs(self, split: str = "val") -> list[float]:
        """First number of every sample that came, in order."""
        found = self.samples(split)
        return [] if found is None else sorted(found.inputs[:, 0].tolist())


def first_numbers(*batches: tuple[Tensor, Tensor]) -> list[float]:
    return sorted(torch.cat([x[:, 0] for x, _ in batches]).tolist())


def plain() -> Desk:
    return Desk(Reader(None))


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_batches_wait_until_the_model_is_known() -> None:
    desk, many = Desk(), [batch(4, seed) for seed in range(3)]
    for each in many:
        assert desk.intake.wants("val", None)
        desk.intake.take("val", Sighting(each), None)
    assert desk.inputs() == []
    first = desk.intake.first_waiting("val")
    assert first is not None
    assert torch.equal(first.batch[0], many[0][0])
    assert desk.intake.first_waiting("train") is None
    desk.intake.reader = Reader(None)
    desk.intake.take_waiting(RULES)
    assert desk.inputs() == first_numbers(*many)
    assert desk.intake.first_waiting("val") is None
    desk.intake.take_waiting(RULES)
    assert desk.inputs() == first_numbers(*many), "and once only"


def test_every_split_waits_for_itself() -> None:
    desk = Desk()
    desk.intake.take("val", Sighting(batch(4, 1)), None)
    desk.intake.take("train", Sighting(batch(6, 2)), None)
    desk.intake.reader = Reader(None)
    desk.intake.take_waiting(RULES)
    assert desk.inputs("val") == first_numbers(batch(4, 1))
    assert desk.inputs("train") == first_numbers(batch(6, 2))


def test_only_so_many_wait() -> None:
    desk, half = Desk(), LOSS_SAMPLES // 2
    for seed in range(4):
        assert desk.intake.wants("val", None) == (seed < 2)
        desk.intake.take("val", Sighting(batch(half, seed)), None)
    assert desk.intake.wants("train", None), "another split"
    desk.intake.reader = Reader(None)
    desk.intake.take_waiting(RULES)
    found = desk.samples()
    assert found is not None
    assert len(found) == 2 * half
    assert desk.inputs() == first_numbers(batch(half, 0), batch(half, 1))


def test_what_waits_is_a_copy() -> None:
    desk, (x, y) = Desk(), batch()
    desk.intake.take("val", Sighting((x, y)), None)
    seen = Sighting(batch(4, 5), [])  # copied by `Sight` already
    desk.intake.take("train", seen, None)
    x.zero_()
    waiting = desk.intake.first_waiting("val")
    assert waiting is not None
    assert torch.equal(waiting.batch[0], batch()[0])
    assert desk.intake.first_waiting("train") is seen


def test_what_was_learned_is_forgotten() -> None:
    desk = plain()
    desk.intake.take("val", Sighting(batch()), None)
    desk.intake.take("val", Sighting("text"), RULES)
    desk.intake.own["val"] = 3
    desk.intake.forget()
    assert desk.intake.reader is None
    assert desk.intake.first_waiting("val") is None
    desk.intake.tell_of_left_out()
    assert desk.told == []
    assert desk.intake.passed == {}
    assert desk.intake.own == {"val": 3}, "that belongs to the loaders"


# -- what is of interest ---------------------------------------------------------------------------------------------


def test_the_sites_of_interest_are_those_of_the_plan() -> None:
    desk, net = Desk(), mlp()
    assert desk.intake.sites("val") is None, "everything"
    desk.intake.reader = Reader(None)
    assert desk.intake.sites("val") == set()
    seen = sighting(net, batch(), lambda m, b: m(b[0]))
    desk.intake.reader, _ = learn(seen)
    assert desk.intake.sites("val") is None, "a split that was not read yet may call another part"
    desk.intake.reader.read("val", seen)
    assert desk.intake.sites("val") == {""}
    assert desk.intake.sites("train") is None


def test_batches_are_wanted_until_the_samples_are_chosen() -> None:
    desk = plain()
    assert desk.intake.wants("val", RULES)
    desk.intake.take("val", Sighting(batch(8)), RULES)
    desk.watchlist.freeze()
    assert not desk.intake.wants("val", RULES)
    assert desk.intake.wants("train", RULES), "of its loss"


def test_training_batches_are_counted_as_they_are_looked_at() -> None:
    desk = plain()
    for seed in range(3):
        assert desk.intake.wants("train", RULES)
        desk.intake.take("train", Sighting(batch(4, seed)), RULES)
    assert desk.intake.wants("val", RULES)
    assert desk.watchlist.recurrence.batches == 3
    assert desk.intake.wants("train", RULES)
    desk.intake.take("train", Sighting("text"), RULES)
    assert desk.watchlist.recurrence.batches == 3, "it could not be read"


# -- left out --------------------------------------------------------------------------------------------------------


def test_how_many_are_left_out_is_told_once() -> None:
    desk, (x, y) = plain(), batch(5)
    for each in ((x, y), (x[:3], y[:1]), (x[:4], "text")):
        desk.intake.take("val", Sighting(each), RULES)
    assert desk.told == []
    desk.intake.tell_of_left_out()
    (text,) = desk.told
    assert text.startswith("7 of 12 val samples are left out: Expected a batch (inputs, targets) with one target for")
    assert "each of 3" in text, "the first problem"
    desk.intake.tell_of_left_out()
    assert len(desk.told) == 1
    desk.intake.take("val", Sighting((x[:2], "text")), RULES)
    desk.intake.tell_of_left_out()
    assert desk.told[1].startswith("2 of 14 val samples are left out: ")
    assert desk.inputs() == first_numbers((x, y))


def test_every_split_has_its_own_problem() -> None:
    desk, (x, y) = plain(), batch(5)
    desk.intake.take("val", Sighting((x, "text")), RULES)
    desk.intake.take("train", Sighting((x.unsqueeze(0), y)), RULES)
    desk.intake.take("train", Sighting((x, y)), RULES)
    desk.intake.tell_of_left_out()
    assert [text.partition(":")[0] for text in desk.told] == [
        "5 of 5 val samples are left out", "1 of 6 train samples are left out"]  # fmt: skip


def test_samples_of_another_shape_or_with_other_names_are_left_out() -> None:
    desk, (x, y) = plain(), batch()
    desk.intake.take("val", Sighting((x, y)), RULES)
    desk.intake.take("val", Sighting((x[:, :4], y)), RULES)
    desk.intake.take("train", Sighting({"image": x, "label": y}), RULES)
    desk.intake.tell_of_left_out()
    assert "Expected all inputs to have one shape, but got (4,) after (5,)" in desk.told[0]
    assert desk.told[1] == "4 of 4 train samples are left out: it has image, the first batch had other inputs"
    assert desk.inputs() == first_numbers((x, y))


def test_failures_of_the_users_own_functions_leave_samples_out() -> None:
    def fail(batch: Any) -> Any:
        raise KeyError("gone")

    desk = Desk(Reader(None, target_fn=fail))
    desk.intake.take("val", Sighting(batch()), RULES)
    desk.intake.tell_of_left_out()
    assert desk.told == [
        "4 of 4 val samples are left out: `target_fn` raised KeyError ('gone') for the batch tuple(float32 tensor "
        "(4, 5), int64 tensor (4,))."
    ]


# -- what a sampler repeats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
def test_only_a_ranks_own_samples_are_taken(waits: bool) -> None:
    desk, many = plain(), [batch(4, seed) for seed in range(3)]
    desk.intake.own["val"] = 6
    for each in many:
        desk.intake.take("val", Sighting(each), None if waits else RULES)
    desk.intake.take_waiting(RULES)
    (x, y) = many[1]
    assert desk.inputs() == first_numbers(many[0], (x[:2], y[:2]))
    desk.intake.tell_of_left_out()
    assert desk.told == [], "those are no loss"


def test_every_pass_counts_anew() -> None:
    desk, many = plain(), [batch(4, seed) for seed in range(3)]
    desk.intake.own["val"] = 6
    for each in (many[0], many[1]):
        desk.intake.take("val", Sighting(each), RULES)
    desk.intake.begin_pass("val")
    for each in (many[2], many[1]):
        desk.intake.take("val", Sighting(each), RULES)
    (x, y) = many[1]
    assert desk.inputs() == first_numbers(many[0], many[2], (x[:2], y[:2]))
    desk.intake.take("train", Sighting(many[1]), RULES)
    assert desk.inputs("train") == first_numbers(many[1]), "of another split nothing is repeated"


def test_what_comes_in_one_pass_is_counted_as_often_as_it_occurs() -> None:
    desk = plain()
    for _ in range(2):
        desk.intake.begin_pass("val")
        desk.intake.take("val", Sighting(batch(4)), RULES)
        desk.intake.take("val", Sighting(batch(4)), RULES)
    found = desk.samples()
    assert found is not None
    assert found.counts is not None
    assert found.counts.tolist() == [2] * 4


# -- what steps do ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.criterion = mlp(), nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


Step = Callable[[Any, Any], Any]


def usual(m: Any, b: Any) -> None:
    cross_entropy(m(b[0]), b[1])


def skip(m: Any, b: Any) -> None:
    return


def sighting(model: nn.Module, given: Any, step: Step) -> Sighting:
    sight = Sight(model).open(given)
    with torch.no_grad():
        step(model.eval(), given)
    return sight.close()


def learned(model: nn.Module, step: Step = usual) -> tuple[Desk, Rules]:
    seen = sighting(model, batch(), step)
    reader, _ = learn(seen)
    rules = find_rules(model, reader.first("val", seen), call=reader.plan)
    return Desk(reader), rules


def test_skipped_steps_are_neither_taken_nor_left_out() -> None:
    model = Net()
    desk, rules = learned(model)
    for seed, step in enumerate((usual, skip, usual, skip)):
        assert desk.intake.wants("train", rules)
        desk.intake.take("train", sighting(model, batch(4, seed), step), rules)
    assert desk.inputs("train") == first_numbers(batch(4, 0), batch(4, 2))
    assert desk.watchlist.recurrence.batches == 2
    desk.intake.tell_of_left_out()
    assert desk.told == []
    desk.intake.take("val", sighting(model, batch(4, 7), skip), rules)
    assert desk.inputs("val") == []
    assert desk.watchlist.recurrence.batches == 2, "of training batches only"


def test_steps_that_call_the_model_otherwise_are_left_out() -> None:
    model = Net()
    desk, rules = learned(model)
    model.net = nn.Identity()
    desk.intake.take("val", sighting(model, batch(4, 1), lambda m, b: m.net(b[0].unsqueeze(1))), rules)
    desk.intake.tell_of_left_out()
    assert desk.told == [
        "4 of 4 val samples are left out: the model is called in another way than in the first batch, with tensors "
        "[(4, 1, 5)]"]  # fmt: skip


def run(model: nn.Module, val: Step, later: list[tuple[str, Step]], given: Any) -> tuple[InteractionMonitor, list[str]]:
    """What the loop takes in of a first validation step, after which the model is known, and of later ones."""
    told: list[str] = []
    monitor = InteractionMonitor(OPTIONS)
    monitor.tell = told.append  # type: ignore[method-assign]
    with torch.no_grad(), monitor.step("val", model, given(0)):
        val(model, given(0))
    monitor.look(model, monitor.intake.first_waiting("val"))
    assert monitor.rules is not None
    monitor.intake.take_waiting(monitor.rules)
    for seed, (split, step) in enumerate(later, 1):
        with torch.no_grad(), monitor.step(split, model, given(seed)):
            step(model, given(seed))
    monitor.intake.tell_of_left_out()
    return monitor, told


def taken(monitor: InteractionMonitor, split: str) -> list[float]:
    found = monitor.watchlist._pools["losses", split].result()
    return [] if found is None else sorted(found.inputs[:, 0].tolist())


LATER: dict[str, Step] = {
    "as ever": usual,
    "a part": lambda m, b: cross_entropy(m.net(b[0]), b[1]),
    "by name": lambda m, b: cross_entropy(m(x=b[0]), b[1]),
}


@pytest.mark.parametrize("step", LATER.values(), ids=LATER.keys())
def test_a_training_step_that_calls_another_part_with_the_like_is_taken_in(step: Step) -> None:
    """Only the sites of the plan are listened to once it is known: this must be among them."""
    given = lambda seed: batch(4, seed)  # noqa: E731
    monitor, told = run(Net().eval(), usual, [("train", step), ("train", step)], given)
    assert told == []
    assert taken(monitor, "train") == first_numbers(given(1), given(2))


def test_targets_that_a_step_makes_are_found_in_every_batch() -> None:
    """They are seen where the loss is given them: it is to be listened to after the first batch, too."""

    def made(m: Any, b: Any) -> None:
        m.criterion(m(b[0]), (b[0].sum(1) > 0).long())

    given = lambda seed: [batch(8, seed)[0]]  # noqa: E731
    monitor, told = run(Net().eval(), made, [("val", made), ("train", made)], given)
    assert told == []
    assert len(taken(monitor, "val")) == 16
    assert len(taken(monitor, "train")) == 8
