"""What the monitor costs, and how `max_overhead` limits it; by a clock that goes on only when told to."""

from __future__ import annotations

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
    """The epochs measured, of one second and ten steps each."""
    budget.start()
    measured: list[int] = []
    for epoch in range(epochs):
        clock.now += 1.0
        if budget.allows(10 * (epoch + 1), 10 * (measured[-1] + 1) if measured else None):
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


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_share_is_kept_once_it_can_be(clock: Clock, share: float) -> None:
    budget = Budget(share)
    measured = run(budget, clock, 200, cost=2.0)
    assert budget.training == pytest.approx(200)
    assert len(measured) == budget.records == pytest.approx(share * 200 / 2, abs=1)
    assert budget.spent == 2.0 * len(measured) <= share * budget.training


def test_a_costly_measurement_leaves_records_on_a_logarithmic_axis(clock: Clock) -> None:
    assert run(Budget(0.1), clock, 300, cost=10_000.0) == [0, 1, 3, 7, 15, 31, 63, 127, 255]


def test_one_costly_start_is_paid_off(clock: Clock) -> None:
    budget = Budget(0.5)
    spend(budget, clock, 20.0)
    measured = run(budget, clock, 200, cost=0.1)
    assert measured[:5] == [0, 1, 3, 7, 15]
    assert measured[-1] == 199
    assert measured[-50:] == list(range(150, 200)), "every epoch, once the start is paid for"


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
