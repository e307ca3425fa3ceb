"""Several real processes give the numbers of one, never wait for each other, and only one of them speaks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import ddp_run
import pytest
import torch
from identity import assert_identical
from launching import assert_equal_histories, launch
from lightning.pytorch.strategies import FSDPStrategy
from models import ColumnNet, column_data, fit, loaders, small_monitor, told_during
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_interactions import Alert, ImagePatches, InteractionsWarning, PhaseDetector, PhaseEvent
from lightning_interactions.measure.ranks import CELLS
from lightning_interactions.monitor.actions import STOP_AFTER

Found = dict[str, Any]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two processes saved; one launch for everything, as starting them takes longest."""
    return launch(ddp_run, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def ranks(launched: Path) -> dict[str, list[Found]]:
    """What both ranks found in every scenario."""
    return {
        name: [torch.load(launched / f"{name}_2.rank{rank}", weights_only=True) for rank in range(2)]
        for name in ddp_run.SCENARIOS
    }


@pytest.mark.parametrize("scenario", ["plain", "both", "shared", "few", "uneven", "wide", "sampled", "sampled_both"])
def test_two_ranks_give_the_numbers_of_one(scenario: str, ranks: dict[str, list[Found]], tmp_path: Path) -> None:
    told = told_during(lambda: ddp_run.main(1, tmp_path, scenario))
    # Of the wide samples only a few columns count, mostly none that plays.
    kinds = ["rounding noise", "changes the score of no"] if scenario == "wide" else []
    assert len(told) == len(kinds)
    assert all(kind in text for kind, text in zip(kinds, told, strict=True))
    single = torch.load(tmp_path / f"{scenario}_1.rank0", weights_only=True)
    assert single["history"]["epoch"] == [0, 1, 2]
    for split, keys in single["keys"].items():
        assert torch.equal(keys, ranks[scenario][0]["keys"][split]), "the same samples are watched"
    # Other numbers of rows in a forward round differently, and a split that is certified to 2 % follows the rounding.
    assert_equal_histories(ranks[scenario][0]["history"], single["history"], rel=5e-3)
    losses = [found["state"]["detector"]["losses"]["last_each"] for found in (single, *ranks[scenario])]
    assert len(losses[0]) == 49
    assert all(torch.allclose(other, losses[0], rtol=1e-5, atol=1e-7) for other in losses), "in the same order"
    for rank in ranks[scenario]:
        assert len(rank["samples"]) == len(single["samples"])
        assert bool(single["samples"]) == ("sampled" not in scenario)
        for one, other in zip(rank["samples"], single["samples"], strict=True):
            for key, value in other.items():
                close = pytest.approx(value, rel=5e-3, abs=1e-9) if isinstance(value, float) else value
                assert one[key] == close, key


@pytest.mark.parametrize("scenario", ["inside", "inside_both"])
def test_two_ranks_give_the_numbers_of_one_inside_of_epochs(
    scenario: str, ranks: dict[str, list[Found]], tmp_path: Path
) -> None:
    ddp_run.main(1, tmp_path, scenario)
    single = torch.load(tmp_path / f"{scenario}_1.rank0", weights_only=True)
    expected = [x / 4 for x in range(-4, 9)]
    assert single["history"]["epoch"] == (expected if scenario == "inside" else expected[4:])
    for split, keys in single["keys"].items():
        assert torch.equal(keys, ranks[scenario][0]["keys"][split]), "the same samples are watched"
    assert ranks[scenario][0]["history"]["step"] == single["history"]["step"]
    assert_equal_histories(ranks[scenario][0]["history"], single["history"], rel=1e-5)


@pytest.mark.parametrize(("scenario", "done"), [("steps", range(0, 17, 2)), ("steps_alone", range(8, 17, 2))])
def test_two_ranks_give_the_numbers_of_one_on_an_endless_stream(
    scenario: str, done: range, ranks: dict[str, list[Found]], tmp_path: Path
) -> None:
    ddp_run.main(1, tmp_path, scenario)
    single = torch.load(tmp_path / f"{scenario}_1.rank0", weights_only=True)
    assert single["history"]["epoch"] == [steps - 1 for steps in done]
    assert single["state"]["history"]["unit"] == "step"
    for split, keys in single["keys"].items():
        assert torch.equal(keys, ranks[scenario][0]["keys"][split]), "the same samples are watched"
    assert ranks[scenario][0]["history"]["step"] == single["history"]["step"]
    assert_equal_histories(ranks[scenario][0]["history"], single["history"], rel=1e-5)


def test_a_fault_of_one_rank_inside_of_an_epoch_stops_no_rank(ranks: dict[str, list[Found]]) -> None:
    for rank in ranks["inside_fault"]:
        assert rank["epochs"] == 3
        assert rank["history"]["epoch"][0] == -1
        assert len(rank["history"]["epoch"]) < 4
        assert {event["kind"] for event in rank["events"]} == {"probe_failed"}


def test_batches_beside_the_marks_need_no_exchange(ranks: dict[str, list[Found]]) -> None:
    """Rank 0 tells the others where it measures: in every validation, and once more for each place inside an epoch."""
    plain, inside = (len([x for x in ranks[s][0]["collectives"] if x == "broadcast_object_list"])
                     for s in ("plain", "inside"))  # fmt: skip
    # Nine places more, the length of three epochs, and whether there is anything to be done before training.
    assert 9 <= inside - plain <= 9 + 3 + 1


def test_two_ranks_share_the_work(ranks: dict[str, list[Found]]) -> None:
    """Nine samples, and one more for the rounding noise, each with 32 coalitions, three times: half for each rank."""
    first, second = (rank["pairs"] for rank in ranks["shared"])
    assert first + second == 3 * (9 + 1) * 32
    assert abs(first - second) <= 3 * 2 * CELLS, "the shares of both tables differ by one unit at most"


@pytest.mark.parametrize("scenario", ddp_run.SCENARIOS)
def test_all_ranks_make_the_same_collective_calls(scenario: str, ranks: dict[str, list[Found]]) -> None:
    first, second = ranks[scenario]
    assert first["collectives"] == second["collectives"]
    assert {"all_gather", "all_gather_object"} & set(first["collectives"]), "the calls were seen"


@pytest.mark.parametrize("scenario", ddp_run.SCENARIOS)
def test_all_ranks_have_the_same_state(scenario: str, ranks: dict[str, list[Found]]) -> None:
    first, second = ranks[scenario]
    assert_equal_histories(first["history"], second["history"], rel=0)
    for key in ("keys", "epochs"):
        assert str(first[key]) == str(second[key])
    assert str(first["state"]["detector"]) == str(second["state"]["detector"])


def test_losses_logged_without_sync_dist_are_averaged_and_one_rank_tells(ranks: dict[str, list[Found]]) -> None:
    first, second = ranks["logged_loss"]
    assert first["history"]["epoch"] == [0, 1, 2]
    assert all(map(float.__eq__, first["history"]["val_loss"], second["history"]["val_loss"]))
    assert first["told"] == ["boundary", "overfitting"]
    assert second["told"] == []
    assert [event["kind"] for event in second["events"]] == ["boundary", "overfitting"], "it knows all the same"


def test_a_loss_logged_on_rank_0_only_is_read_by_all(ranks: dict[str, list[Found]]) -> None:
    first, second = ranks["rank_zero_only"]
    for key in ("val_loss", "train_loss"):
        assert first["history"][key] == second["history"][key]
        assert all(x == x for x in first["history"][key])


def test_a_fault_on_one_rank_stops_no_rank(ranks: dict[str, list[Found]]) -> None:
    found = ranks["fault"]
    assert all(rank["history"]["epoch"] == [] for rank in found)
    for rank in found:
        assert [event["kind"] for event in rank["events"]] == ["probe_failed"]
        assert "this score fails on rank 1" in rank["events"][0]["message"], "rank 0 tells what happened elsewhere"
    assert [rank["told"] for rank in found] == [["probe_failed"], []]
    assert found[0]["epochs"] == found[1]["epochs"] == 3
    assert all(torch.isfinite(w.float()).all() for w in found[0]["weights"].values())


def test_batches_that_one_rank_cannot_read_stop_no_rank(ranks: dict[str, list[Found]]) -> None:
    for rank in ranks["unreadable"]:
        assert (rank["history"]["epoch"], rank["epochs"]) == ([], 3)
        (event,) = rank["events"]
        assert "TabularFeatures and 3 outputs on rank 0, nothing usable on rank 1" in event["message"]


def test_samples_are_not_exchanged_before_they_are_chosen(ranks: dict[str, list[Found]]) -> None:
    """Of 64 training samples for the loss each rank has seen half: 8 kB each, of which the keys are exchanged first."""
    for rank in ranks["wide"]:
        assert rank["history"]["epoch"] == [0, 1, 2]
        assert 0 < max(rank["pickled"]) < 10_000


def test_samples_of_another_shape_on_one_rank_stop_no_rank(ranks: dict[str, list[Found]]) -> None:
    for rank in ranks["shapes"]:
        assert (rank["history"]["epoch"], rank["epochs"]) == ([], 3)
        (event,) = rank["events"]
        assert "float32 (5,)" in event["message"]
        assert "float32 (10,)" in event["message"]
        assert "on rank 1" in event["message"]


def test_a_full_disk_on_rank_0_keeps_no_rank_from_stopping(ranks: dict[str, list[Found]]) -> None:
    for rank in ranks["disk_full"]:
        assert rank["epochs"] == 1 + STOP_AFTER, "the boundary at epoch 0 stops training"
        assert rank["history"]["epoch"] == list(range(1 + STOP_AFTER))
    first, second = ranks["disk_full"]
    assert "No space left" in first["events"][0]["message"]
    assert [kind for kind in first["told"] if kind != "probe_failed"] == ["boundary"]
    assert first["told"] == [event["kind"] for event in first["events"]], "of the disk too"
    assert second["told"] == []


def test_a_boundary_that_is_withdrawn_stops_no_rank(ranks: dict[str, list[Found]]) -> None:
    for rank in ranks["withdrawn"]:
        assert [event["kind"] for event in rank["events"]] == ["boundary", "retracted"]
        assert rank["epochs"] == 3 + STOP_AFTER, "min_epochs kept it going until then"


def test_a_run_of_two_ranks_resumes_on_one(ranks: dict[str, list[Found]], launched: Path) -> None:
    assert ranks["stopped"][0]["history"]["epoch"] == [0, 1]
    resumed = small_monitor(num_samples=7, on_event=None)
    validation = DataLoader(column_data(49, seed=2), 16)
    fit(resumed, model=ddp_run.FixedNet, data=loaders() | {"val_dataloaders": validation},
        ckpt_path=str(launched / "stopped.ckpt"))  # fmt: skip
    assert resumed.history.column("epoch") == [0, 1, 2]
    assert_equal_histories(resumed.history.to_dict(), ranks["plain"][0]["history"], rel=1e-5)


@pytest.mark.parametrize("name", [*ddp_run.COMPARED, *ddp_run.REMEMBERING])
@pytest.mark.parametrize("rank", [0, 1])
def test_training_on_two_ranks_is_bit_identical(name: str, rank: int, launched: Path) -> None:
    with_monitor, without = (
        torch.load(launched / f"{name}_{monitored}.rank{rank}", weights_only=False) for monitored in (True, False)
    )
    assert with_monitor["measured"] > without["measured"] == 0
    assert_identical(with_monitor["left"], without["left"])


# -- other strategies ------------------------------------------------------------------------------------------------


def score(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


class Silent(Alert):
    def send(self, event: PhaseEvent) -> None:
        pass


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer": "net.0"},
        {"players": ImagePatches(), "score": score, "on_event": Silent(), "detector": PhaseDetector()},
    ],
    ids=["defaults", "layer", "objects"],
)
def test_a_monitor_can_be_pickled(options: dict[str, Any]) -> None:
    monitor = small_monitor(**options)
    if "players" not in options:  # those are only pickled, not used
        fit(monitor)
    again = pickle.loads(pickle.dumps(monitor))
    assert again.state_key == monitor.state_key
    assert str(again.history.to_dict()) == str(monitor.history.to_dict())


class Checking(ColumnNet):
    """Asserts in the process that trains that the monitor works there."""

    def on_train_end(self) -> None:
        (monitor,) = (c for c in self.trainer.callbacks if hasattr(c, "boundary_epoch"))
        self.trainer.callback_metrics["measured"] = torch.tensor(len(monitor.history))


def test_ddp_spawn() -> None:
    trainer = fit(small_monitor(), model=Checking, strategy="ddp_spawn", max_epochs=2)
    assert trainer.callback_metrics["measured"] == 2


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log:UserWarning")
def test_fsdp_switches_the_monitor_off() -> None:
    monitor = small_monitor()
    with pytest.warns(InteractionsWarning, match="FSDPStrategy splits the model"):
        fit(monitor, accelerator="cuda", devices=1, strategy=FSDPStrategy(), max_epochs=1)
    assert len(monitor.history) == 0


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log:UserWarning")
def test_cuda_gives_the_numbers_of_the_cpu() -> None:
    histories = []
    for accelerator in ("cpu", "cuda"):
        monitor = small_monitor()
        fit(monitor, model=ddp_run.FixedNet, accelerator=accelerator, data=loaders())
        # Rounding is another one on every device.
        columns = monitor.history.to_dict()
        histories.append({key: column for key, column in columns.items() if not key.startswith("noise_floor/")})
    assert_equal_histories(*histories, rel=1e-3)
