"""The x axis of a run that was measured inside of epochs: epochs of training done, on a log scale."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_figures import assert_nothing_overlaps, example, lines, pixels

from lightning_interactions import PhaseEvent, RunRecord
from lightning_interactions.report.axis import EpochAxis
from lightning_interactions.report.figures import curves_figure, order_distribution_figure, run_figure
from lightning_interactions.report.html import render_report
from lightning_interactions.report.words import event_markdown, headline, short_sentence, summary, verdict

PLACES = [-1, -0.75, -0.5, -0.25, 0, 0.5, 1, 1.75, 3, 5, 7.5, 12, 15, 20, 30, 39]


def looked_into(events: bool = True) -> RunRecord:
    """A run with records inside of epochs; it turned at 7.5, and was found to overfit at 20."""
    whole = example(len(PLACES))
    history: dict[str, list[Any]] = whole | {"epoch": PLACES, "step": [10 * i for i in range(len(PLACES))]}
    if not events:
        return RunRecord(history)
    told = (
        PhaseEvent("boundary", 8, 12, 110, {"trough_epoch": 7.5, "trough": 1.5, "level": 2.0}, "It ended."),
        PhaseEvent("overfitting", 20, 20, 130, {"best_val_epoch": 7.5, "best_val_loss": 1.0, "val_loss": 2.0}, "Over."),
    )
    return RunRecord(history, told, 8, 20)


def test_places_are_epochs_done_and_the_start_stands_at_the_left() -> None:
    axis = EpochAxis(looked_into())
    assert axis.logarithmic
    assert axis.place.tolist() == pytest.approx([0.125, *(place + 1 for place in PLACES[1:])])
    assert (axis.at(-1), axis.at(7.5)) == (0.125, 8.5)
    edges = axis.edges()
    assert edges[1].item() == pytest.approx(math.sqrt(0.125 * 0.25)), "half-way on the log scale"
    assert not EpochAxis(RunRecord(example())).logarithmic


def test_steps_stand_on_a_log_scale_too() -> None:
    run = RunRecord(example(), unit="step")
    axis = EpochAxis(run)
    assert (axis.logarithmic, axis.label) == (True, "steps of training (log scale)")
    assert axis.place.tolist() == [place + 1 for place in run.history["epoch"]]
    assert_nothing_overlaps(run_figure(run))
    assert "epoch" not in "".join([headline(run), verdict(run), *summary(run).values()]).lower()


@pytest.mark.parametrize("draw", [run_figure, curves_figure], ids=["run", "curves"])
def test_lines_and_curves_stand_at_their_places(draw: Any) -> None:
    figure = draw(looked_into())
    below = next(axes for axes in figure.axes if "epochs" in axes.get_xlabel())
    assert below.get_xlabel() == "epochs of training (log scale)"
    assert below.get_xscale() == "log"
    assert (lines(below, "boundary"), lines(below, "overfitting")) == ([8.5], [21.0])
    figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in below.get_xticklabels()]
    assert ticks[0] == "init"
    assert {"1", "10"} <= set(ticks)
    assert "boundary (epoch 8)" in "".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_heat_map_has_a_column_for_each_record() -> None:
    *_, heat, _, _ = run_figure(looked_into()).axes
    edges = heat.collections[0].get_coordinates()[0, :, 0].tolist()
    assert len(edges) == len(PLACES) + 1
    assert all(a < place < b for a, place, b in zip(edges[:-1], EpochAxis(looked_into()).place, edges[1:], strict=True))


@pytest.mark.parametrize("count", [1, 2, 3, len(PLACES)])
def test_runs_of_any_length_can_be_drawn(count: int) -> None:
    history = {key: column[:count] for key, column in looked_into().history.items()}
    figure = run_figure(RunRecord(history))
    assert pixels(figure).float().std() > 0
    assert_nothing_overlaps(figure)
    pixels(curves_figure(RunRecord(history)))


def test_words_name_places_as_people_do() -> None:
    run = looked_into()
    told = [headline(run), verdict(run), *summary(run).values(), render_report(run, "T").split("<img")[0]]
    told += [short_sentence(event) for event in run.events] + [event_markdown(event) for event in run.events]
    for text in told:
        for raw in ("epoch -", "epoch 7.5", "epoch 8.5", "-1 to"):
            assert raw not in text, text
    assert summary(run)["Phase boundary"] == "epoch 8 (50 % through)"
    assert "Low-order dominance ended at epoch 8 (50 % through)" in headline(run)
    assert any("16 records, initialisation to epoch 39" in text for text in told)
    assert short_sentence(run.events[0]).startswith("Epoch 12: phase boundary at epoch 8 (50 % through)")
    assert "Keep the checkpoint of epoch 8 (50 % through)." in short_sentence(run.events[1])
    figure = run_figure(run)
    titles = [axes.get_title().splitlines()[0] for axes in figure.axes[:3]]
    assert titles == ["Start (initialisation)", "Boundary (epoch 8, 50 %)", "Now (epoch 39)"]
    last = order_distribution_figure(run.strength[0], epoch=-0.5).axes[0].get_title()
    assert last.startswith("Epoch 0 (50 % through): mean order")


def test_the_place_of_an_event_is_read_off_it() -> None:
    run = looked_into()
    assert (run.boundary_place, run.overfitting_place) == (7.5, 20)
    assert RunRecord(run.history, (), 8, 20).boundary_place == 8, "without events it is the epoch"
    older = PhaseEvent("boundary", 8, 12, 110, {"trough_epoch": 3.0})
    assert RunRecord(run.history, (older,), 8).boundary_place == 8, "another one's evidence"
    again = RunRecord.from_json(run.to_json())
    assert (again.boundary_place, list(again.history["epoch"])) == (7.5, PLACES)
