"""The figures: what is in them, and that nothing breaks where there is little to draw."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from lightning_interactions import PhaseEvent, RunRecord
from lightning_interactions.errors import ArgumentError
from lightning_interactions.report.figures import curves_figure, order_distribution_figure, run_figure

NAN = float("nan")
N = 10


def example(epochs: int = 40, every: int = 1) -> dict[str, list[Any]]:
    """A run with two phases: the mean order falls until epoch 12 and rises then; validation loss is lowest at 20."""
    epoch = list(range(0, epochs, every))
    strength = []
    for e in epoch:
        centre = 1.5 + abs(e - 12) / 8
        up = torch.exp(-((torch.arange(1, N + 1) - centre) ** 2) / 3.0)
        strength.append(torch.stack([up, 0.7 * up.roll(1)]).tolist())
    return {
        "epoch": epoch,
        "step": [10 * e for e in epoch],
        "strength": strength,
        "train_loss": [2.3 * 0.9**e for e in epoch],
        "val_loss": [0.5 + ((e - 20) / 20) ** 2 for e in epoch],
    }


def pixels(figure: Figure) -> torch.Tensor:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8).view(
        *canvas.get_width_height()[::-1], 4
    )


def lines(axes, name: str) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_gid() == name]


def texts(figure: Figure) -> list[Any]:
    """All visible texts with something in them."""
    from matplotlib.text import Text

    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def assert_nothing_overlaps(figure: Figure) -> None:
    figure.draw_without_rendering()
    boxes = []
    for axes in figure.axes:
        boxes += [axes.title, axes.xaxis.label, axes.yaxis.label]
        boxes += [t for t in axes.texts if t.get_transform() is not axes.transAxes]
    boxes += [figure._suptitle] if figure._suptitle else []
    shown = [(t.get_text(), t.get_window_extent()) for t in boxes if t.get_text()]
    for i, (text, box) in enumerate(shown):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
        for other, other_box in shown[i + 1 :]:
            assert not box.overlaps(other_box), (text, other)


# -- structure --------------------------------------------------------------------------------------------------------


def test_run_figure_has_panels_heat_map_and_losses_all_labelled():
    figure = run_figure(RunRecord(example(), boundary_epoch=12, overfitting_epoch=24))
    *panels, heat, bar, losses = figure.axes
    assert len(panels) == 3
    assert [axes.get_xlabel() for axes in panels] == ["order (number of players)"] * 3
    assert "share of strength (%)" in panels[0].get_ylabel()
    assert heat.get_ylabel() == "order (number of players)"
    assert bar.get_ylabel() == "share of strength (%)"
    assert (losses.get_xlabel(), losses.get_ylabel()) == ("epoch", "loss")
    assert heat.get_xlim() == losses.get_xlim()
    assert [axes.get_title().splitlines()[0] for axes in panels] == [
        "Start (epoch 0)",
        "Boundary (epoch 12)",
        "Now (epoch 39)",
    ]
    legend = [text.get_text() for text in losses.get_legend().get_texts()]
    assert legend == ["training loss", "validation loss", "loss gap", "lowest (epoch 20)"]


SUSPECTED = PhaseEvent("suspected", 12, 14, evidence={"trough_epoch": 12.0})


def suspecting(*now: float, epochs: int = 40) -> dict[str, list[Any]]:
    """The run, with what was suspected at its last records."""
    return example(epochs) | {"suspected": [0.0] * (epochs - len(now)) + list(now)}


def test_a_suspected_boundary_is_a_thin_dotted_line_with_a_name():
    for draw, places in ((run_figure, (3, 5)), (curves_figure, (0, 1, 2))):
        figure = draw(RunRecord(suspecting(1.0, 1.0), [SUSPECTED]))
        for axes in (figure.axes[place] for place in places):
            (line,) = [line for line in axes.lines if line.get_gid() == "boundary suspected"]
            assert (line.get_xdata()[0], line.get_linestyle()) == (12, ":")
            assert line.get_linewidth() < 1.5
            assert not lines(axes, "boundary")
        assert "boundary suspected 12" in [t.get_text() for t in texts(figure)]


@pytest.mark.parametrize(
    ("history", "boundary"), [(suspecting(1.0, 0.0), None), (suspecting(1.0, 1.0), 12), (example(), None)],
    ids=["no more", "found", "an old file"],
)  # fmt: skip
def test_what_is_suspected_no_more_or_found_is_no_dotted_line(history: dict[str, Any], boundary: int | None):
    figure = run_figure(RunRecord(history, [SUSPECTED], boundary_epoch=boundary))
    assert not any(lines(axes, "boundary suspected") for axes in figure.axes)
    assert "suspected" not in figure.get_suptitle()


def test_an_alarm_that_is_withdrawn_leaves_no_line():
    told = [
        PhaseEvent("overfitting", 24, 24, 240),
        PhaseEvent("retracted", 24, 30, 300, {"alarm_epoch": 24.0}, retracts="overfitting"),
    ]
    figure = run_figure(RunRecord(example(), told, boundary_epoch=12))
    assert not any(lines(axes, "overfitting") for axes in figure.axes)
    assert "overfitting" not in figure.get_suptitle()
    again = run_figure(RunRecord(example(), [*told, PhaseEvent("overfitting", 35, 35, 350)], 12, 35))
    assert lines(again.axes[-1], "overfitting") == [35]


def test_events_are_drawn_at_their_epochs_in_both_axes():
    figure = run_figure(RunRecord(example(), boundary_epoch=12, overfitting_epoch=30))
    *_, heat, _, losses = figure.axes
    for axes in (heat, losses):
        assert lines(axes, "boundary") == [12]
        assert lines(axes, "overfitting") == [30]
    assert [(t.get_text(), t.get_position()[0]) for t in losses.texts] == [("boundary 12", 12), ("overfitting 30", 30)]
    *_, heat, _, losses = run_figure(RunRecord(example())).axes
    assert not lines(heat, "boundary")
    assert not lines(losses, "overfitting")
    assert not losses.texts


def test_the_heat_map_shows_the_share_of_every_order_and_the_mean_order():
    history = example()
    *_, heat, _, _ = run_figure(RunRecord(history)).axes
    (mesh,) = heat.collections
    (line,) = heat.lines
    for i in (0, 12, 39):
        total = [up + down for up, down in zip(*history["strength"][i], strict=True)]
        for k in range(N):
            assert mesh.get_array()[k, i] == pytest.approx(100 * total[k] / sum(total))
        mean = sum((k + 1) * total[k] for k in range(N)) / sum(total)
        assert line.get_xydata()[i].tolist() == pytest.approx([i, mean])


def test_panels_show_shares_of_the_total_so_that_epochs_compare():
    history = example()
    history["strength"][-1] = (1000 * torch.tensor(history["strength"][-1])).tolist()
    for axes in run_figure(RunRecord(history, boundary_epoch=12)).axes[:3]:
        heights = [bar.get_height() for bar in axes.patches]
        assert sum(map(abs, heights)) == pytest.approx(100)
        assert all(h >= 0 for h in heights[:N])
        assert all(h <= 0 for h in heights[N:])


def test_without_a_boundary_the_lowest_mean_order_is_shown():
    assert run_figure(RunRecord(example())).axes[1].get_title().startswith("Lowest (epoch 12)\nmean order")


def test_unevenly_spaced_epochs_get_columns_up_to_half_way():
    history = {key: [column[i] for i in (0, 1, 2, 6, 14)] for key, column in example().items()}
    *_, heat, _, _ = run_figure(RunRecord(history)).axes
    edges = heat.collections[0].get_coordinates()[0, :, 0].tolist()
    assert edges == [-0.5, 0.5, 1.5, 4.0, 10.0, 18.0]


def test_several_records_of_one_epoch_share_its_width():
    history = example(6)
    history["epoch"] = [0, 0, 0, 0, 1, 1]
    *_, heat, _, _ = run_figure(RunRecord(history)).axes
    assert heat.lines[0].get_xdata().tolist() == [0, 0.25, 0.5, 0.75, 1, 1.5]


# -- the sentence on top ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "events", "title"),
    [
        (40, (12, None), "Low-order dominance ended at epoch 12;\nvalidation loss was lowest at epoch 20"),
        (10, (None, None), "No phase boundary so far (10 measured epochs);\nvalidation loss is at its lowest now"),
        (1, (None, None), "No phase boundary so far (1 measured epoch)"),
        (
            40,
            (12, 24),
            "Low-order dominance ended at epoch 12; overfitting began at epoch 24;\n"
            "validation loss was lowest at epoch 20",
        ),
        (
            40,
            (None, 24),
            "No phase boundary so far (40 measured epochs);\n"
            "overfitting began at epoch 24; validation loss was lowest at epoch 20",
        ),
    ],
)
def test_the_title_says_what_to_see(epochs, events, title):
    figure = run_figure(RunRecord(example(epochs), (), *events))
    assert figure.get_suptitle() == title


def test_the_title_says_what_is_suspected():
    title = run_figure(RunRecord(suspecting(1.0), [SUSPECTED])).get_suptitle()
    assert title.splitlines()[0] == "No phase boundary so far, but one is suspected at epoch 12;"


# -- edges of what there is to draw -----------------------------------------------------------------------------------


def without_losses() -> dict[str, list[Any]]:
    return {key: column for key, column in example().items() if "loss" not in key}


def all_nan() -> dict[str, list[Any]]:
    return example() | {"strength": [[[NAN] * N] * 2] * 40, "val_loss": [NAN] * 40, "train_loss": [None] * 40}


def some_missing() -> dict[str, list[Any]]:
    history = example()
    history["strength"][5] = [[NAN] * N] * 2
    history["val_loss"][:10] = [None] * 10
    history["train_loss"][3:6] = [NAN, float("inf"), None]
    return history


def all_zero() -> dict[str, list[Any]]:
    return example() | {"strength": [[[0.0] * N] * 2] * 40}


HISTORIES = {
    "one": example(1),
    "two": example(2),
    "every-7": example(40, every=7),
    "no-losses": without_losses(),
    "all-nan": all_nan(),
    "some-missing": some_missing(),
    "all-zero": all_zero(),
}


@pytest.mark.thorough
@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
@pytest.mark.parametrize("events", [(None, None), (12, 14)])
def test_every_history_is_drawn_without_overlap(history, events):
    figure = run_figure(RunRecord(history, (), *events))
    assert len(figure.axes) == 6
    assert_nothing_overlaps(figure)
    assert figure.get_suptitle()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "events", [(0, 1), (0, 39), (6, 8), (33, 38), (38, 39), (20, 20), (39, 39), (25, 15), (None, 50)]
)
def test_labels_of_events_do_not_overlap(events):
    figure = run_figure(RunRecord(example(), (), *events))
    assert_nothing_overlaps(figure)
    said = ", ".join(t.get_text() for t in figure.axes[-1].texts)
    assert said.count("overfitting") == 1
    assert f"overfitting {events[1]}" in said


@pytest.mark.thorough
@pytest.mark.parametrize("inside", [False, True], ids=["epochs", "inside of epochs"])
@pytest.mark.parametrize(
    "events", [(0, 1), (0, 39), (6, 8), (12, 24), (12, None), (33, 38), (38, 39), (20, 20), (25, 15)]
)
def test_labels_of_a_suspected_boundary_do_not_overlap(events, inside):
    told = PhaseEvent("suspected", events[0], 39, evidence={"trough_epoch": float(events[0])})
    history = suspecting(1.0)
    history["epoch"][1] -= 0.5 * inside
    for draw in (run_figure, curves_figure):
        figure = draw(RunRecord(history, [told], overfitting_epoch=events[1]))
        assert_nothing_overlaps(figure)
        assert "suspected" in "".join(t.get_text() for axes in figure.axes for t in axes.texts)


def test_missing_pieces_are_said():
    figure = run_figure(RunRecord(all_nan()))
    said = [t.get_text() for t in texts(figure)]
    assert said.count("no salient interactions") == 4
    assert "no losses recorded" in said
    assert "no losses recorded" in [t.get_text() for t in texts(run_figure(RunRecord(without_losses())))]


def test_gaps_in_the_losses_do_not_move_the_minimum():
    history = example() | {"val_loss": [None] * 15 + [3.0, NAN, 1.0, 2.0] + [None] * 21}
    assert run_figure(RunRecord(history)).get_suptitle().endswith("validation loss was lowest at epoch 17")


@pytest.mark.thorough
@pytest.mark.parametrize(("epochs", "n"), [(3, 2), (3, 16), (2000, 10)])
def test_other_sizes(epochs, n):
    generator = torch.Generator().manual_seed(0)
    history = {
        "epoch": list(range(100_000, 100_000 + epochs)),
        "strength": torch.rand(epochs, 2, n, generator=generator).tolist(),
    }
    assert_nothing_overlaps(run_figure(RunRecord(history, boundary_epoch=100_001, overfitting_epoch=100_002)))


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, "'epoch'"),
        ({"epoch": [], "strength": []}, "nothing was measured"),
        ({"epoch": [0]}, "'strength'"),
        ({"epoch": [0, 1], "strength": [[[1.0], [1.0]]]}, "equal length"),
        (example() | {"val_loss": [1.0]}, "val_loss"),
        ({"epoch": [0], "strength": [[1.0, 2.0]]}, r"\(epochs, 2, n\)"),
    ],
)
def test_unusable_histories_are_refused(history, message):
    with pytest.raises(ArgumentError, match=message):
        run_figure(RunRecord(history))


# -- curves -----------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
@pytest.mark.parametrize("events", [(None, None), (12, 14)])
def test_curves_of_every_history_are_drawn_without_overlap(history, events):
    figure = curves_figure(RunRecord(history, (), *events))
    assert [axes.get_ylabel() for axes in figure.axes] == ["mean order", "loss gap", "overfitting risk"]
    assert_nothing_overlaps(figure)
    for axes in figure.axes:
        assert lines(axes, "boundary") == ([12] if events[0] else [])


def test_curves_show_the_band_the_gap_and_the_risk():
    history = example()
    order = [sum((k + 1) * (up[k] + down[k]) for k in range(N)) / sum(up + down) for up, down in history["strength"]]
    history |= {"mean_order_lower": [x - 0.25 for x in order], "mean_order_upper": [x + 0.5 for x in order]}
    history["overfitting_risk"] = [0.01 * epoch for epoch in history["epoch"]]
    orders, gap, risk = curves_figure(RunRecord(history)).axes
    assert orders.lines[0].get_ydata().tolist() == pytest.approx(order)
    corners = orders.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.min() == pytest.approx(min(order) - 0.25)
    assert corners.max() == pytest.approx(max(order) + 0.5)
    differences = [v - t for v, t in zip(history["val_loss"], history["train_loss"], strict=True)]
    assert gap.lines[0].get_ydata().tolist() == pytest.approx(differences)
    assert risk.lines[0].get_ydata().tolist() == pytest.approx(history["overfitting_risk"])


# -- one epoch --------------------------------------------------------------------------------------------------------


def test_order_distribution_figure():
    strength = torch.tensor([[3.0, 1.0, 0.0, 0.0], [2.0, 0.0, 0.0, 2.0]])
    (axes,) = order_distribution_figure(strength, epoch=7).axes
    assert [bar.get_height() for bar in axes.patches] == [3, 1, 0, 0, -2, 0, 0, -2]
    assert axes.get_title() == "Epoch 7: mean order 1.9 of 4, 75 % of the strength in orders 1 to 3"
    assert axes.get_xlabel() == "order (number of players)"
    assert axes.get_ylabel() == "strength (units of the score)"
    assert order_distribution_figure(strength).axes[0].get_title().startswith("Mean order 1.9")


def test_order_distribution_figure_without_strength():
    figure = order_distribution_figure(torch.full((2, 4), NAN), epoch=0)
    assert figure.axes[0].get_title() == "Epoch 0: no salient interactions measured"
    assert_nothing_overlaps(figure)


def test_order_distribution_figure_refuses_other_shapes():
    with pytest.raises(ArgumentError, match=r"\(2, n\)"):
        order_distribution_figure(torch.zeros(3, 2, 4))


# -- side effects -----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_png_is_written_and_not_blank(tmp_path):
    run_figure(RunRecord(example(), boundary_epoch=12)).savefig(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 20_000
    image = pixels(run_figure(RunRecord(example(), boundary_epoch=12)))
    assert image.shape == (912, 1008, 4)
    assert (image[..., :3] < 255).any(-1).float().mean() > 0.2


@pytest.mark.thorough
def test_no_pyplot_no_global_state_no_random_numbers():
    code = """
import random, sys, numpy, torch
from lightning_interactions import RunRecord
from test_figures import example, pixels
from lightning_interactions.report.figures import curves_figure, order_distribution_figure, run_figure
before = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
history = example()
pixels(run_figure(RunRecord(history, boundary_epoch=3)))
pixels(order_distribution_figure(torch.tensor(history["strength"][0])))
assert before == (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist())
assert history == example()
assert "matplotlib.pyplot" not in sys.modules
"""
    import pathlib

    folder = pathlib.Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=_environment())
    assert run.returncode == 0, run.stderr


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
