"""What is written to the loggers: read back from TensorBoard's files; what the others are spared."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_interactions.functional import symlog_edges
from lightning_interactions.phases import PhaseEvent
from lightning_interactions.report.loggers import Loggers
from lightning_interactions.report.record import RunRecord
from lightning_interactions.report.sinks import sink_of


@pytest.fixture
def board(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, name="board", version="0")


def read(board: TensorBoardLogger) -> EventAccumulator:
    board.experiment.flush()
    found = EventAccumulator(board.log_dir, size_guidance={"images": 0, "histograms": 0, "tensors": 0})
    found.Reload()
    return found


def figure(width: float = 4, height: float = 2) -> Figure:
    drawn = Figure(figsize=(width, height), dpi=50)
    drawn.add_subplot().plot([0, 1], [1, 0], color="red")
    return drawn


# negative sizes, what is not salient, positive sizes
COUNTS = torch.tensor([[0.0, 3.0, 9.0, 1.0, 0.0], [0.0, 0.0, 7.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0, 5.0]])
EDGES = torch.tensor([-20.0, -2.0, -0.2, 0.2, 2.0, 20.0])
NO_SHARE = torch.full((3,), torch.nan)


def test_histograms_survive(board: TensorBoardLogger) -> None:
    to = Loggers([board], "interactions/")
    to.histograms("", COUNTS, EDGES, NO_SHARE, step=7)
    to.histograms("", 2 * COUNTS, EDGES, NO_SHARE, step=9)
    found = read(board)  # no distribution of orders: it does not exist
    tags = [f"interactions_detail/histogram/order_{order:02d}" for order in (1, 2, 3)]
    assert sorted(found.Tags()["histograms"]) == tags
    for order in (1, 2, 3):
        events = found.Histograms(tags[order - 1])
        assert [event.step for event in events] == [7, 9]
        for factor, event in zip((1, 2), events, strict=True):
            counts = [factor * float(COUNTS[order - 1, i]) for i in (0, 1, 3, 4)]
            middle = [-1.5, -0.5, 0.5, 1.5]  # decades above the threshold of 0.2
            value = event.histogram_value
            assert list(value.bucket_limit) == pytest.approx([-1.0, 0.0, 1.0, 2.0], abs=1e-6)
            assert list(value.bucket) == counts
            assert (value.min, value.max, value.num) == (pytest.approx(-2.0), pytest.approx(2.0), sum(counts))
            assert value.sum == pytest.approx(sum(c * m for c, m in zip(counts, middle, strict=True)), abs=1e-5)
            assert value.sum_squares == pytest.approx(sum(c * m * m for c, m in zip(counts, middle, strict=True)))


@pytest.mark.parametrize("smallest", [1e-3, 0.03])
def test_the_monitors_own_bins_fit(board: TensorBoardLogger, smallest: float) -> None:
    edges = symlog_edges(smallest, 100 * smallest)
    counts = torch.arange(float(len(edges) - 1)).unsqueeze(0)
    Loggers([board], "x/").histograms("", counts, edges, NO_SHARE, step=0)
    value = read(board).Histograms("x_detail/histogram/order_01")[0].histogram_value
    centre = len(edges) // 2 - 1
    assert list(value.bucket) == [*counts[0, :centre].tolist(), *counts[0, centre + 1 :].tolist()]
    limits = [math.copysign(math.log10(abs(float(edge)) / smallest), float(edge)) for edge in edges]
    assert list(value.bucket_limit) == pytest.approx([x for i, x in enumerate(limits[1:]) if i != centre], abs=1e-5)


def test_the_order_distribution_has_a_bin_for_every_order(board: TensorBoardLogger) -> None:
    share = torch.tensor([0.5, 0.25, 0.0, 0.25], dtype=torch.float64)
    Loggers([board], "x/").histograms("val/", COUNTS, EDGES, share, step=3)
    (event,) = read(board).Histograms("x/val/order_distribution")
    value = event.histogram_value
    assert event.step == 3
    assert list(value.bucket) == share.tolist()
    assert list(value.bucket_limit) == [1.5, 2.5, 3.5, 4.5]
    assert (value.min, value.max, value.num) == (0.5, 4.5, 1.0)
    assert value.sum / value.num == pytest.approx(0.5 + 0.5 + 1.0)  # the mean order


def test_figures_are_images(board: TensorBoardLogger) -> None:
    for name, drawn in (("run", figure()), ("tall", figure(2, 4))):
        sink_of(board).figure(f"x/{name}", drawn, step=5)
    found = read(board)
    assert sorted(found.Tags()["images"]) == ["x/run", "x/tall"]
    for name, size in (("run", (200, 100)), ("tall", (100, 200))):
        (event,) = found.Images(f"x/{name}")
        assert event.step == 5
        assert (event.width, event.height) == size
        pixels = matplotlib.image.imread(io.BytesIO(event.encoded_image_string), format="png")
        assert pixels.shape == (size[1], size[0], 3)
        red = (pixels[..., 0] > 0.9) & (pixels[..., 1] < 0.3)
        assert red.any()
        assert (pixels > 0.99).all(-1).mean() > 0.5  # a white page, not noise


def test_an_event_is_kept_with_its_evidence(board: TensorBoardLogger) -> None:
    event = PhaseEvent("overfitting", 4, 4, 9, {"gap_growth": 0.51234, "odd": float("nan")}, "**Epoch 4** it was.")
    Loggers([board], "interactions/").event(event, step=4)
    found = read(board)
    (tag,) = found.Tags()["tensors"]
    assert tag.startswith("interactions/events")
    (kept,) = found.Tensors(tag)
    assert kept.step == 4
    text = kept.tensor_proto.string_val[0].decode()
    assert "**Epoch 4** it was." in text
    assert "| gap growth | 0.5123 |\n| odd | nan |" in text


def run(boundary: int | None, orders: list[float]) -> RunRecord:
    """A run measured at steps 7, 8, 9, ..."""
    epochs = list(range(len(orders)))
    strength = [[[1.0, 2.0], [0.5, 0.0]]] * len(orders)
    history = {"epoch": epochs, "step": [7 + e for e in epochs], "mean_order": orders, "strength": strength}
    return RunRecord(history, boundary_epoch=boundary)


def test_the_boundary_is_a_vertical_line_and_can_be_withdrawn(board: TensorBoardLogger) -> None:
    to = Loggers([board], "x/")
    for boundary, orders in ((0, [1.5, 3.5, math.nan]), (None, [1.5, 3.5, 2.0]), (1, [2.0, 1.0])):
        to.mark_boundary(run(boundary, orders))
    to.mark_boundary(run(5, [1.0]))  # of an epoch that was not measured
    to.mark_boundary(run(0, [math.nan]))
    points = [(event.step, event.value) for event in read(board).Scalars("x_detail/boundary_line")]
    assert points[:2] == [(7, 1.5), (8, 3.5)]
    assert [step for step, value in points[2:4] if math.isnan(value)] == [7, 8], "written over where it was"
    assert points[4:] == [(8, 1.0), (9, 2.0)]


@pytest.mark.thorough
def test_figures_are_drawn_only_where_they_can_be_seen(board: TensorBoardLogger, tmp_path: Path) -> None:
    Loggers([board], "x/", figures=False).draw(run(0, [1.5]), step=7)
    Loggers([board], "x/").draw(run(None, []), step=7)
    assert read(board).Tags()["images"] == []
    Loggers([CSVLogger(tmp_path), board], "x/").draw(run(0, [1.5]), step=7)
    assert sorted(read(board).Tags()["images"]) == ["x/run", "x/strength_by_order"]


def everything(loggers: list[Any]) -> None:
    to = Loggers(loggers, "x/")
    to.open([""])
    to.histograms("", COUNTS, EDGES, torch.tensor([0.5, 0.25, 0.25]), step=1)
    to.event(PhaseEvent("boundary", 1, 2, message="text"), step=1)
    to.mark_boundary(run(0, [1.0, 2.0]))
    to.draw(run(0, [1.0, 2.0]), step=1)


@pytest.mark.thorough
def test_other_loggers_are_left_alone(tmp_path: Path, board: TensorBoardLogger) -> None:
    csv = CSVLogger(tmp_path, name="csv", version="0")
    everything([])
    everything([csv])
    csv.save()
    assert csv.experiment.metrics == []
    everything([csv, board])
    assert read(board).Tags()["images"] == ["x/run", "x/strength_by_order"]


def test_dummies_that_take_any_call_are_left_alone() -> None:
    from lightning.pytorch.loggers.logger import DummyLogger

    assert not Loggers([DummyLogger()], "").takes_figures
    assert Loggers([DummyLogger()], "").blind is None
    everything([DummyLogger()])


def test_loggers_are_known_by_name(tmp_path: Path) -> None:
    class Own(TensorBoardLogger):
        pass

    csv = CSVLogger(tmp_path)
    assert Loggers([csv, Own(tmp_path)], "").takes_figures
    assert Loggers([type("TensorBoardLogger", (), {})()], "").takes_figures  # that of pytorch_lightning
    assert not Loggers([csv, None], "").takes_figures
    assert Loggers([csv], "").blind == "CSVLogger"
    assert Loggers([csv], "", figures=False).blind is None
    assert Loggers([csv, Own(tmp_path)], "").blind is None
    assert Loggers([], "").blind is None


@pytest.mark.thorough
def test_lightnings_own_service_gets_files(tmp_path: Path) -> None:
    """By its documented calls only: it cannot be reached from a test."""
    given: list[str] = []

    class LitLogger:
        log_dir = str(tmp_path / "logs")

        def log_file(self, path: str) -> None:
            assert Path(path).is_file()
            given.append(Path(path).name)

    everything([LitLogger()])
    Loggers([LitLogger(), None], "interactions/").keep(run(0, [1.0]))
    assert given == ["x_run.png", "x_strength_by_order.png", "interactions.json"]
    assert RunRecord.from_json((tmp_path / "logs" / "interactions.json").read_text()).boundary_epoch == 0
