"""What is written to TensorBoard, read back from its files."""

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
from torch import Tensor

from lightning_interactions.functional import symlog_edges
from lightning_interactions.phases import PhaseEvent
from lightning_interactions.report.writers import (
    takes_figures,
    write_boundary_line,
    write_charts,
    write_event,
    write_figures,
    write_file,
    write_histograms,
    write_order_distribution,
)


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


def test_histograms_survive(board: TensorBoardLogger) -> None:
    write_histograms([board], "interactions/", COUNTS, EDGES, step=7)
    write_histograms([board], "interactions/", 2 * COUNTS, EDGES, step=9)
    found = read(board)
    assert sorted(found.Tags()["histograms"]) == [f"interactions/histogram/order_0{order}" for order in (1, 2, 3)]
    for order in (1, 2, 3):
        events = found.Histograms(f"interactions/histogram/order_{order:02d}")
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
    write_histograms([board], "", counts, edges, step=0)
    value = read(board).Histograms("histogram/order_01")[0].histogram_value
    centre = len(edges) // 2 - 1
    assert list(value.bucket) == [*counts[0, :centre].tolist(), *counts[0, centre + 1 :].tolist()]
    limits = [math.copysign(math.log10(abs(float(edge)) / smallest), float(edge)) for edge in edges]
    assert list(value.bucket_limit) == pytest.approx([x for i, x in enumerate(limits[1:]) if i != centre], abs=1e-5)


def test_the_order_distribution_has_a_bin_for_every_order(board: TensorBoardLogger) -> None:
    share = torch.tensor([0.5, 0.25, 0.0, 0.25], dtype=torch.float64)
    write_order_distribution([board], "x/", share, step=3)
    (event,) = read(board).Histograms("x/order_distribution")
    value = event.histogram_value
    assert event.step == 3
    assert list(value.bucket) == share.tolist()
    assert list(value.bucket_limit) == [1.5, 2.5, 3.5, 4.5]
    assert (value.min, value.max, value.num) == (0.5, 4.5, 1.0)
    assert value.sum / value.num == pytest.approx(0.5 + 0.5 + 1.0)  # the mean order


def test_a_distribution_that_does_not_exist_is_not_written(board: TensorBoardLogger) -> None:
    write_order_distribution([board], "", torch.full((4,), torch.nan), step=0)
    assert read(board).Tags()["histograms"] == []


def test_figures_are_images(board: TensorBoardLogger) -> None:
    write_figures([board], "x/", {"run": figure(), "tall": figure(2, 4)}, step=5)
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
    write_event([board], "interactions/", event, step=4)
    found = read(board)
    (tag,) = found.Tags()["tensors"]
    assert tag.startswith("interactions/events")
    (kept,) = found.Tensors(tag)
    assert kept.step == 4
    text = kept.tensor_proto.string_val[0].decode()
    assert "**Epoch 4** it was." in text
    assert "| gap growth | 0.5123 |\n| odd | nan |" in text


def test_a_line_is_vertical_and_can_be_interrupted(board: TensorBoardLogger) -> None:
    for step, ends in ((7, (1.5, 3.5)), (9, (math.nan, math.nan)), (8, (1.0, 2.0))):
        write_boundary_line([board], "x/", step, ends)
    points = [(event.step, event.value) for event in read(board).Scalars("x/boundary_line")]
    assert points[:2] == [(7, 1.5), (7, 3.5)]
    assert all(math.isnan(value) for _, value in points[2:4])
    assert points[4:] == [(8, 1.0), (8, 2.0)]


def everything(loggers: list[Any], counts: Tensor = COUNTS) -> None:
    write_histograms(loggers, "x/", counts, EDGES, step=1)
    write_order_distribution(loggers, "x/", torch.tensor([0.5, 0.5]), step=1)
    write_figures(loggers, "x/", {"run": figure()}, step=1)
    write_event(loggers, "x/", PhaseEvent("boundary", 1, 2, message="text"), step=1)
    write_charts(loggers, "x/", [""])
    write_boundary_line(loggers, "x/", 1, (1.0, 2.0))


def test_other_loggers_are_left_alone(tmp_path: Path, board: TensorBoardLogger) -> None:
    csv = CSVLogger(tmp_path, name="csv", version="0")
    everything([])
    everything([csv])
    csv.save()
    assert csv.experiment.metrics == []
    everything([csv, board])
    assert read(board).Tags()["images"] == ["x/run"]


def test_dummies_that_take_any_call_are_left_alone() -> None:
    from lightning.pytorch.loggers.logger import DummyLogger

    assert not takes_figures(DummyLogger())
    everything([DummyLogger()])


def test_loggers_are_known_by_name(tmp_path: Path) -> None:
    class Own(TensorBoardLogger):
        pass

    assert takes_figures(Own(tmp_path))
    assert takes_figures(type("TensorBoardLogger", (), {})())  # that of pytorch_lightning
    assert not takes_figures(CSVLogger(tmp_path))
    assert not takes_figures(None)


def test_lightnings_own_service_gets_files(tmp_path: Path) -> None:
    """By its documented calls only: it cannot be reached from a test."""
    given: list[str] = []

    class LitLogger:
        log_dir = str(tmp_path / "logs")

        def log_file(self, path: str) -> None:
            assert Path(path).is_file()
            given.append(Path(path).name)

    everything([LitLogger()])
    write_file([LitLogger()], "interactions.json", "{}")
    assert given == ["x_run.png", "interactions.json"]
    assert not write_file([None], "interactions.json", "{}")
