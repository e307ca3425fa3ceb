"""What the monitor costs, and how `max_overhead` limits it; by a clock that goes on only when told to."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from lightning_interactions.monitor import budget as budget_module
from lightning_interactions.monitor.budget import Budget, timed


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(budget_module, "time", made)
    return made


def spend(budget: Budget, clock: Clock, seconds: float) -> None:
    with budget.at_work():
        clock.now += seconds


def run(budget: Budget, clock: Clock, epochs: int, cost: float) -> list[int]:
    """The epochs measured, of one second each, of a run that would measure every one."""
    budget.start()
    measured: list[int] = []
    for epoch in range(epochs):
        clock.now += 1.0
        if budget.allows(epoch + 1, measured[-1] + 1 if measured else 0, wanted=epoch + 1, per_octave=16):
            with budget.at_work():
                clock.now += cost / 2
                budget.record()
                clock.now += cost / 2  # as for drawing
            measured.append(epoch)
    return measured


def test_work_inside_work_counts_once(clock: Clock) -> None:
    budget = Budget()
    budget.start()
    clock.now += 7.0
    with budget.at_work():
        clock.now += 1.0
        with budget.at_work():
            clock.now += 2.0
            assert (budget.spent, budget.training) == (3.0, 7.0), "also while it goes on"
        clock.now += 4.0
    clock.now += 5.0
    assert (budget.spent, budget.training) == (7.0, 12.0)


def test_work_that_fails_counts(clock: Clock) -> None:
    budget = Budget()

    def fails() -> None:
        with budget.at_work():
            clock.now += 3.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    clock.now += 1.0
    assert budget.spent == 3.0


def test_a_record_has_all_seconds_since_the_one_before(clock: Clock) -> None:
    budget = Budget()
    spend(budget, clock, 1.0)
    budget.start()
    spend(budget, clock, 2.0)
    assert budget.record() == 3.0
    spend(budget, clock, 4.0)
    clock.now += 50.0
    with budget.at_work():
        clock.now += 5.0
        assert budget.record() == 9.0
        clock.now += 6.0
    assert (budget.unrecorded, budget.spent) == (6.0, 18.0)


def test_what_is_spent_before_training_counts_but_is_no_training(clock: Clock) -> None:
    budget = Budget()
    spend(budget, clock, 10.0)
    clock.now += 1000.0
    with budget.at_work():
        clock.now += 2.0
        budget.start()
        clock.now += 3.0
    clock.now += 4.0
    assert (budget.spent, budget.training) == (15.0, 4.0)


def test_without_a_limit_everything_is_measured(clock: Clock) -> None:
    assert run(Budget(), clock, 5, cost=1000.0) == [0, 1, 2, 3, 4]


def test_nothing_is_limited_in_the_first_minute(clock: Clock) -> None:
    budget = Budget(1e-9)
    assert run(budget, clock, 11, cost=5.0) == list(range(11))
    assert (budget.spent, budget.binds) == (55.0, False), "one more would make it a minute"
    assert run(Budget(1e-9), clock, 60, cost=5.0) == [*range(11), 21, 43]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_share_is_kept_once_it_can_be(clock: Clock, share: float) -> None:
    budget = Budget(share)
    measured = run(budget, clock, 4000, cost=20.0)
    assert budget.training == pytest.approx(4000)
    assert budget.spent == pytest.approx(20.0 * len(measured))
    assert 0.5 * share * budget.training <= budget.spent <= share * budget.training, "kept, and made use of"


def test_records_are_thinned_out_evenly_on_the_logarithmic_axis(clock: Clock) -> None:
    """Not one after the other until the share is spent, and then none for a long while."""
    budget = Budget(0.25)
    measured = run(budget, clock, 5000, cost=20.0)
    assert budget.binds
    gaps = [math.log2((b + 1) / (a + 1)) for a, b in pairwise(measured) if a > 1000]
    assert len(gaps) > 20
    assert max(gaps) < 2.5 / 16
    assert min(gaps) > 0.02


def test_a_budget_that_is_large_enough_leaves_everything(clock: Clock) -> None:
    budget = Budget(0.25)
    assert run(budget, clock, 1000, cost=0.2) == list(range(1000))
    assert budget.spent == pytest.approx(200)
    assert not budget.binds


def test_a_costly_measurement_leaves_records_on_a_logarithmic_axis(clock: Clock) -> None:
    assert run(Budget(0.1), clock, 300, cost=10_000.0) == [0, 1, 3, 7, 15, 31, 63, 127, 255]


def test_one_costly_start_is_paid_off(clock: Clock) -> None:
    budget = Budget(0.5)
    spend(budget, clock, 200.0)
    measured = run(budget, clock, 500, cost=0.1)
    assert measured[:5] == [0, 1, 3, 7, 15]
    assert measured[-50:] == list(range(450, 500)), "every epoch, once the start is paid for"


def test_timed_methods_count_with_what_they_return_and_raise(clock: Clock) -> None:
    class Worker:
        def __init__(self) -> None:
            self.budget = Budget()

        @timed
        def work(self, seconds: float, *, fails: bool = False) -> float:
            """Do it."""
            clock.now += seconds
            if fails:
                raise RuntimeError
            return seconds

    worker = Worker()
    assert worker.work(2.0) == 2.0
    with pytest.raises(RuntimeError):
        worker.work(3.0, fails=True)
    assert worker.budget.spent == 5.0
    assert (Worker.work.__name__, Worker.work.__doc__) == ("work", "Do it.")
