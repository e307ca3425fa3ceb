"""What is kept comes back: as columns, from checkpoints, from files."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interactions.errors import ArgumentError, StateError
from lightning_interactions.report.history import History

NAN = float("nan")


def example() -> History:
    history = History()
    history.append(0, 10, {"mean_order": 3.5, "train_loss": 2.3}, torch.tensor([[1.0, 0.25], [0.5, 0.0]]))
    history.append(3, 40, {"mean_order": torch.tensor(NAN), "val_loss": np.float64(1.5)}, [[NAN, 1.0], [0.0, 0.0]])
    history.append(
        np.int64(7),
        80,
        {"mean_order": 2.5, "val_loss": None},
        ((1, 2), (3, 4)),
        {"train/strength": torch.tensor([[5.0, 6.0], [7.0, 8.0]], dtype=torch.float64, requires_grad=True)},
    )
    return history


def same(a, b) -> bool:
    """Equal, with nan equal to nan."""
    return repr(a) == repr(b)


def test_columns_are_plain_lists_of_equal_length():
    columns = example().to_dict()
    assert same(
        columns,
        {
            "epoch": [0, 3, 7],
            "step": [10, 40, 80],
            "mean_order": [3.5, NAN, 2.5],
            "train_loss": [2.3, None, None],
            "val_loss": [None, 1.5, None],
            "strength": [[[1.0, 0.25], [0.5, 0.0]], [[NAN, 1.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]],
            "train/strength": [None, None, [[5.0, 6.0], [7.0, 8.0]]],
        },
    )
    assert all(type(x) is int for x in columns["epoch"])
    assert all(type(x) is float for x in columns["mean_order"])


@given(st.lists(st.sets(st.sampled_from("abcde")), max_size=8))
def test_any_mixture_of_scalars_gives_equal_lengths_and_survives_a_checkpoint(keys):
    history, restored = History(), History()
    for epoch, present in enumerate(keys):
        history.append(epoch, epoch, {key: epoch + ord(key) for key in present}, [[1.0], [2.0]])
    columns = history.to_dict()
    assert {len(column) for column in columns.values()} == {len(keys)}
    assert set(columns) == {"epoch", "step", "strength", *set().union(*keys)}
    for epoch, present in enumerate(keys):
        assert [columns[key][epoch] for key in sorted(present)] == [float(epoch + ord(key)) for key in sorted(present)]
    restored.load_state_dict(history.state_dict())
    assert restored.to_dict() == columns


def test_empty():
    history = History()
    assert len(history) == 0
    assert history.last is None
    assert history.to_dict() == {"epoch": [], "step": [], "strength": []}
    assert repr(history) == "History(empty)"


def test_last_column_and_repr():
    history = example()
    assert len(history) == 3
    assert history.last["epoch"] == 7
    assert history.last["train/strength"] == [[5.0, 6.0], [7.0, 8.0]]
    assert "val_loss" not in history.last
    assert history.column("val_loss") == [None, 1.5, None]
    assert repr(history) == "History(3 epochs, 0 to 7: mean_order, train_loss, val_loss, strength, train/strength)"
    history.append(8, 80, dict.fromkeys("abcdefg", 1.0), [[1, 2], [3, 4]])
    assert repr(history).endswith(": mean_order, train_loss, val_loss, a, b, c, and 6 more)")
    with pytest.raises(ArgumentError, match=r"mean_order.*'val_los'"):
        history.column("val_los")


def test_what_is_handed_out_is_a_copy():
    history = example()
    before = repr(history.to_dict())
    history.to_dict()["strength"][0][0][0] = 99.0
    history.to_dict()["epoch"].append(99)
    history.column("strength")[0][0][0] = 99.0
    history.last["strength"][0][0] = 99.0
    history.state_dict()["records"][0]["strengths"]["strength"][0][0] = 99.0
    assert repr(history.to_dict()) == before


def test_survives_torch_save_with_weights_only(tmp_path):
    history, restored = example(), History()
    torch.save({"callbacks": history.state_dict()}, tmp_path / "checkpoint.pt")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["callbacks"]
    restored.load_state_dict(state)
    assert same(restored.to_dict(), history.to_dict())
    state["records"][0]["strengths"]["strength"][0][0] = 99.0  # the checkpoint is not the history
    assert same(restored.to_dict(), history.to_dict())
    restored.append(8, 90, {}, [[0.0, 0.0], [0.0, 0.0]])  # and it goes on
    assert (len(restored), len(history)) == (4, 3)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"records": 3},
        {"records": [{"epoch": 0}]},
        {"records": [{"epoch": 0, "step": 0, "scalars": {}, "strengths": {"strength": [[1.0]]}}]},
        {"records": [{"epoch": 0, "step": 0, "scalars": [], "strengths": {"strength": [[1.0], [1.0]]}}]},
        {"records": [], "samples": 3},
    ],
)
def test_a_state_that_does_not_fit_leaves_the_history_alone(state):
    history = example()
    with pytest.raises(StateError):
        history.load_state_dict(state)
    assert same(history.to_dict(), example().to_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7, 80, {}, [[1, 2], [3, 4]]), r"after \(7, 80\)"),
        ((2, 100, {}, [[1, 2], [3, 4]]), r"after \(7, 80\)"),
        ((8, 90, {"a": "high"}, [[1, 2], [3, 4]]), "`scalars.'a'.`.*'high'"),
        ((8, 90, {"a": torch.zeros(2)}, [[1, 2], [3, 4]]), "a number"),
        ((8, 90, {"epoch": 8}, [[1, 2], [3, 4]]), "'epoch'"),
        ((8, 90, {"x": 8}, [[1, 2], [3, 4]], {"x": [[1, 2], [3, 4]]}), "'x'"),
        ((8, 90, {}, [[1, 2], [3]]), r"`strength`.*\(2, n\)"),
        ((8, 90, {}, [[], []]), r"\(2, n\)"),
        ((8, 90, {}, torch.zeros(3, 2)), r"\(2, n\)"),
        ((8, 90, {}, torch.zeros(2)), r"\(2, n\)"),
        ((8, 90, {}, torch.zeros(2, 3)), r"\(2, 2\), as the strengths before it"),
        ((8, 90, {}, torch.zeros(2, 2), {"val/strength": torch.zeros(2, 3)}), "val/strength"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_and_nothing_changes(arguments, message):
    history = example()
    with pytest.raises(ArgumentError, match=message):
        history.append(*arguments)
    assert same(history.to_dict(), example().to_dict())


def test_a_run_without_interactions_has_no_strengths(tmp_path):
    history = History()
    for epoch in range(2):
        history.append(epoch=epoch, step=epoch, scalars={"mean_degree": 1.5}, strength=None)
    assert set(history.to_dict()) == {"epoch", "step", "mean_degree"}
    restored = History()
    restored.load_state_dict(history.state_dict())
    assert restored.to_dict() == history.to_dict()
    assert "<th>mean_degree</th>" in restored._repr_html_()
    with pytest.raises(ArgumentError, match="`strength` to be None, as in the records before"):
        restored.append(epoch=2, step=2, scalars={}, strength=[[1.0], [1.0]])
    assert len(restored) == 2
    other = example()
    before = other.to_dict()
    with pytest.raises(ArgumentError, match=r"`strength` to be a tensor \(2, n\), as in the records before"):
        other.append(epoch=99, step=99, scalars={}, strength=None)
    assert same(other.to_dict(), before)
    other = History()
    other.append(epoch=0, step=0, scalars={"mean_order": 1.5, "mean_degree": 1.2}, strength=[[1.0], [1.0]])
    assert "<th>mean_degree</th>" not in other._repr_html_(), "a detail beside the mean order"


def test_an_epoch_may_be_measured_again_at_a_later_step():
    history = example()
    history.append(7, 85, {}, [[1, 2], [3, 4]])
    assert history.column("epoch") == [0, 3, 7, 7]


def test_samples_are_a_table_beside_the_columns(tmp_path):
    history, restored = example(), History()
    assert history.samples == []
    assert history.state_dict()["samples"] == []
    rows = [{"index": 1, "target": 0, "prediction": [1, 0]}, {"index": 0, "target": 2, "prediction": None}]
    history.samples = rows
    assert same(history.to_dict(), example().to_dict())
    history.samples[0]["prediction"].append(9)
    rows[1]["index"] = 99
    assert history.samples == [{"index": 1, "target": 0, "prediction": [1, 0]},
                               {"index": 0, "target": 2, "prediction": None}]  # fmt: skip
    torch.save(history.state_dict(), tmp_path / "checkpoint.pt")
    restored.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert restored.samples == history.samples
    old = example().state_dict()
    del old["samples"]  # a checkpoint of an older version
    restored.load_state_dict(old)
    assert restored.samples == []


def test_csv_reads_back(tmp_path):
    path = tmp_path / "history.csv"
    example().to_csv(str(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "3", "7"]
    assert [row["val_loss"] for row in rows] == ["", "1.5", ""]
    assert math.isnan(float(rows[1]["mean_order"]))
    for k in (1, 2):
        for sign, name in enumerate(("pos", "neg")):
            column = [float(row[f"order_{k:02d}_{name}"]) for row in rows]
            assert same(column, [record[sign][k - 1] for record in example().column("strength")])
    assert [row["train/order_02_neg"] for row in rows] == ["", "", "8.0"]


def test_csv_keeps_scalars_named_like_the_logged_strengths_apart(tmp_path):
    history = History()
    history.append(0, 1, {"strength/order_01_pos": 5.0}, [[1.0], [2.0]], {"other": [[3.0], [4.0]]})
    history.to_csv(tmp_path / "h.csv")
    header, row = (tmp_path / "h.csv").read_text().splitlines()
    assert header == "epoch,step,strength/order_01_pos,order_01_pos,order_01_neg,other/order_01_pos,other/order_01_neg"
    assert row == "0,1,5.0,1.0,2.0,3.0,4.0"


def test_an_empty_history_can_be_written(tmp_path):
    History().to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text() == "epoch,step\n"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder" / "h.csv"
    example().to_csv(path)
    before = path.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        History().to_csv(path)
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.thorough
def test_history_is_light():
    import subprocess
    import sys

    code = (
        "import sys; import lightning_interactions.report.history, lightning_interactions.report.loggers; "
        "print([m for m in ('lightning', 'matplotlib', 'torchmetrics') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
