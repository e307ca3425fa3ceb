"""A model that is split over real processes: the numbers of one, the training as without, and no rank that waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import sharded_run
import torch
from identity import assert_identical
from launching import assert_equal_histories, launch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy, Strategy
from models import fit, small_monitor
from sharded_run import CASES, all_cases

from lightning_interactions import InteractionsWarning
from lightning_interactions.monitor.trainer import UNTESTED

Found = dict[str, Any]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two processes saved; one launch for everything, as starting them takes longest."""
    return launch(sharded_run, tmp_path_factory.mktemp("sharded"))


@pytest.fixture(scope="module")
def found(launched: Path) -> dict[str, dict[bool, list[Found]]]:
    """What both ranks found in every case, with the monitor and without."""
    return {
        name: {
            monitored: [
                torch.load(launched / f"{name}_{monitored}.rank{rank}", weights_only=False) for rank in range(2)
            ]
            for monitored in (True, False)
        }
        for name in all_cases()
    }


Both = dict[str, dict[bool, list[Found]]]


@pytest.mark.parametrize("name", all_cases())
@pytest.mark.parametrize("rank", [0, 1])
def test_training_is_bit_identical(name: str, rank: int, found: Both) -> None:
    with_monitor, without = (found[name][monitored][rank]["left"] for monitored in (True, False))
    assert len(without["gradients"]) > 0
    assert_identical(with_monitor, without)


@pytest.mark.parametrize("name", all_cases())
def test_both_ranks_find_the_same_and_nobody_waits(name: str, found: Both) -> None:
    """Who waited for the other would do so for half an hour, and the launch would have been ended before."""
    first, second = found[name][True]
    assert_equal_histories(first["history"], second["history"], rel=0, absolute=0)
    assert [event["kind"] for event in first["events"]] == [event["kind"] for event in second["events"]]
    for rank in (first, second):
        assert rank["epochs"] == found[name][False][0]["epochs"]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("fixed")])
def test_two_ranks_give_the_numbers_of_one(name: str, found: Both, tmp_path: Path) -> None:
    single = sharded_run.run(CASES[name], tmp_path, 1, monitored=True)
    assert single["history"]["epoch"] == [0, 1]
    assert_equal_histories(found[name][True][0]["history"], single["history"], rel=1e-5, absolute=1e-7, rough=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("memory")])
def test_memory_that_runs_out_on_one_rank_is_made_up_for(name: str, found: Both) -> None:
    for rank in found[name][True]:
        assert "probe_failed" not in {event["kind"] for event in rank["events"]}
        assert len(rank["history"]["epoch"]) >= 2
        assert all(x == x for x in rank["history"]["mean_order"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("score", "this score fails on rank 1"), ("masks", "no mask on rank 1"), ("broken", "it raised ValueError")],
)
def test_a_fault_on_one_rank_is_told_and_ends_the_measurement_on_all(name: str, reason: str, found: Both) -> None:
    for rank in found[name][True]:
        assert rank["history"]["epoch"] == []
    (told,) = found[name][True][0]["told"]
    assert "measuring failed: on rank 1: " in told
    assert reason in told


def test_a_rank_that_can_be_asked_in_another_way_only_is(found: Both) -> None:
    """Rank 0 fails in passes of two rows, with which everything is tried out, and is asked whole batches."""
    for rank in found["broken_first"][True]:
        assert rank["history"]["epoch"] == [0, 1]


def test_a_batch_that_says_nothing_on_one_rank_is_waited_for_by_all(found: Both) -> None:
    for rank in found["late"][True]:
        assert rank["history"]["epoch"] == [0, 1]


def test_it_can_be_switched_off(found: Both) -> None:
    first, second = found["off"][True]
    assert (first["history"]["epoch"], second["history"]["epoch"]) == ([], [])
    (told,) = first["told"]
    assert 'switched off for this run: ModelParallelStrategy splits the model over ranks, and sharded="off"' in told


@pytest.mark.parametrize("name", ["bfloat16", "bfloat16_weights"])
def test_half_precision_inside_of_the_parts_is_told(name: str, found: Both) -> None:
    first, _ = found[name][True]
    assert len(first["history"]["epoch"]) == 2
    assert any("whose rounding looks like high orders" in text for text in first["told"])
    assert (
        any("rounding noise" in text for text in first["told"]) or max(first["history"]["noise_floor/order_04"]) > 1e-4
    )


def test_fuzzed_configurations_measure_unless_they_fail(found: Both) -> None:
    measured = [name for name in found if name.startswith("fuzzed") and len(found[name][True][0]["history"]["epoch"])]
    assert len(measured) >= sharded_run.FUZZED // 2
    for name in measured:
        history = found[name][True][0]["history"]
        key = "val/mean_order" if "val/mean_order" in history else "mean_order"
        assert all(1 <= x <= 5 for x in history[key]), name


@pytest.mark.parametrize("how", sharded_run.LOOPS)
def test_a_loop_of_ones_own_is_in_step_too(how: str, launched: Path) -> None:
    single = sharded_run.plain_loop(how)
    for rank in range(2):
        both = torch.load(launched / f"{how}.rank{rank}", weights_only=False)
        assert_equal_histories(both["history"], single["history"], rel=1e-5, absolute=1e-7, rough=1e-4)
        assert torch.allclose(both["values"], single["values"], rtol=1e-5, atol=1e-6)


# -- which strategies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*UNTESTED, "XLAStrategy"])
def test_strategies_that_are_not_tested_switch_the_monitor_off(name: str) -> None:
    subclass = type("Users", (type(name, (SingleDeviceStrategy,), {}),), {})  # known by name, through a subclass too
    monitor = small_monitor()
    with pytest.warns(InteractionsWarning, match=f"switched off for this run: .*{name}"):
        trainer = fit(monitor, strategy=subclass("cpu"), max_epochs=1)
    assert (len(monitor.history), trainer.current_epoch) == (0, 1)


class NobodyKnows(Strategy):
    """Does what Lightning's for one device does, but derives from none that is known."""

    def __init__(self) -> None:
        super().__init__(accelerator=CPUAccelerator())

    root_device = torch.device("cpu")
    is_global_zero, world_size, global_rank, local_rank, node_rank = True, 1, 0, 0, 0
    model_to_device = teardown = lambda self: None
    all_gather = broadcast = reduce = reduce_boolean_decision = lambda self, x, *rest, **others: x
    barrier = lambda self, *rest, **others: None  # noqa: E731


def test_a_strategy_nobody_knows_switches_the_monitor_off() -> None:
    monitor = small_monitor()
    with pytest.warns(
        InteractionsWarning, match="it does not know the strategy NobodyKnows, only SingleDeviceStrategy"
    ):
        trainer = fit(monitor, strategy=NobodyKnows(), max_epochs=1, accelerator="auto")
    assert (len(monitor.history), trainer.current_epoch) == (0, 1)


def test_fsdp_needs_an_accelerator_says_lightning() -> None:
    """If Lightning comes to allow it, this fails, and FSDP on the CPU has to be tested."""
    with pytest.raises(ValueError, match="requires a GPU accelerator"):
        L.Trainer(accelerator="cpu", strategy=FSDPStrategy())
