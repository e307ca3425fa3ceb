"""The figure of samples: what is bright, what is dimmed, what is said, and that nothing odd breaks it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from lightning_interactions.metrics.drawing import BLUE, VERMILLION
from lightning_interactions.pictures.exhibit import Exhibit, Shown
from lightning_interactions.pictures.figure import samples_figure
from lightning_interactions.players.picture import (
    Content,
    ImageContent,
    Picture,
    PointsContent,
    RowsContent,
    WordsContent,
)

MOMENTS = {"start": -1.0, "boundary": 8.0, "now": 30.0}
LONG = "a_very_$long_{name}$_\\" * 10
SHOWN = [Shown("and", (0, 1), 2.0, 1.0, 0.0), Shown("or", (0, 2), -1.5, -1.0, -0.5), Shown("and", (1,), 0.5, 0.0, 0.0)]
GONE = [Shown("or", (1, 2), 0.0, 0.9, 0.1)]

Pixels = NDArray[np.uint8]


def exhibit(
    content: Content | None, players: int = 4, epochs: Mapping[str, float] = MOMENTS, note: str = ""
) -> Exhibit:
    names = [f"part {i}" for i in range(players)]
    picture = Picture(names, content, note)
    return Exhibit("val sample 3: target 1", picture, SHOWN, GONE, count=9, strength=8.0, epochs=epochs)


def colour(name: str) -> list[int]:
    return [round(255 * channel) for channel in to_rgb(name)]


def drawn(figure: Figure) -> Pixels:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


def said(figure: Figure) -> str:
    return " ".join(" ".join(texts(figure)).split())


def panels(figure: Figure, count: int) -> list[Pixels]:
    """The image of a row, cut into its panels, as it is on the page; the white between them is left out."""
    (image,) = figure.axes[0].images
    left, right, bottom, top = (round(100 * place) for place in image.get_extent())
    row = drawn(figure)[top:bottom, left:right]
    pitch = row.shape[1] // count
    assert row.shape[1] == pitch * count
    return [row[:, i * pitch : (i + 1) * pitch - 12] for i in range(count)]


def quarters(size: int) -> NDArray[np.int16]:
    """Four players, each a quarter of an image."""
    half = np.arange(size) * 2 // size
    return (2 * half[:, None] + half).astype(np.int16)


def square(size: int = 8) -> ImageContent:
    """A green image of four players."""
    pixels = np.full((size, size, 3), (20, 140, 60), dtype=np.uint8)
    return ImageContent(pixels, quarters(size))


def cloud() -> PointsContent:
    """Player 0 at the left, 1 at the right, 2 in front of both in the middle, 3 nowhere; one point is nobody's."""
    places = np.array([[0.1, 0.5, 0.2], [0.9, 0.5, 0.2], [0.5, 0.5, 0.9], [0.5, 0.5, 0.1], [0.5, 0.1, 0.5]])
    return PointsContent(places, np.array([0, 1, 2, 0, -1], dtype=np.int16))


WORDS = WordsContent([("This", -1), ("film", 0), ("is", -1), ("not", 1), ("bor", 2), ("\u2060ing", 3), ("\u2060.", -1)])
ROWS = RowsContent([("age", "39", 0), ("edu_$cation", "BSc", 1), ("sex", "F", 2), ("hours", "40", 3)])
CONTENTS: dict[str, Content | None] = {
    "image": square(),
    "points": cloud(),
    "words": WORDS,
    "rows": ROWS,
    "none": None,
}
every_kind = pytest.mark.parametrize("kind", CONTENTS)


def inner(panel: Pixels, quarter: int) -> Pixels:
    """What is inside a quarter, without its outline."""
    half = panel.shape[0] // 2
    y, x = divmod(quarter, 2)
    return panel[y * half + 5 : (y + 1) * half - 5, x * half + 5 : (x + 1) * half - 5].reshape(-1, 3)


@pytest.mark.parametrize("size", [2, 8, 120, 300])
def test_players_of_an_interaction_are_bright_and_the_others_are_dimmed(size: int) -> None:
    found = panels(samples_figure([exhibit(square(size))]), 5)
    for panel, one in zip(found[1:], [*SHOWN, *GONE], strict=True):
        for player in range(4):
            pixels = inner(panel, player)
            if player in one.players:
                assert (pixels == (20, 140, 60)).all()
            else:
                assert (pixels == pixels[0, 0]).all(), "gray"
                assert pixels.min() > 170, "light"


def test_players_of_an_interaction_have_an_outline_in_the_colour_of_its_sign() -> None:
    found = panels(samples_figure([exhibit(square())]), 5)
    for panel, name in zip(found[1:], [BLUE, VERMILLION, BLUE, BLUE], strict=True):
        outlined = (panel == colour(name)).all(-1)
        assert outlined.any()
        assert not (panel == colour(VERMILLION if name == BLUE else BLUE)).all(-1).any()
    top_left = (found[1] == colour(BLUE)).all(-1)  # players 0 and 1: the upper half
    half = len(top_left) // 2
    assert top_left[:2].all()
    assert top_left[:half, :2].all()
    assert not top_left[half:].any()


def test_outlines_follow_players_that_are_no_rectangles() -> None:
    y, x = np.mgrid[:100, :100]
    disc = ((y - 50) ** 2 + (x - 50) ** 2 < 30**2).astype(np.int16)
    content = ImageContent(np.full((100, 100, 3), 90, dtype=np.uint8), disc)
    one = Exhibit("sample", Picture(["around", "disc"], content), [Shown("and", (1,), -1.0)], count=1, strength=1.0)
    panel = panels(samples_figure([one]), 2)[1]
    outlined = np.argwhere((panel == colour(VERMILLION)).all(-1))
    away = np.hypot(*(outlined - (np.array(panel.shape[:2]) - 1) / 2).T) / panel.shape[0]
    assert len(outlined) > 200
    assert away.min() > 0.27
    assert away.max() < 0.32


def test_the_sample_itself_is_as_it_is_with_lines_and_numbers() -> None:
    sample = panels(samples_figure([exhibit(square())]), 5)[0]
    half = sample.shape[0] // 2
    assert (sample == (20, 140, 60)).all(-1).mean() > 0.8
    assert (sample[10, half - 1 : half + 1] != (20, 140, 60)).any(), "a line between players"
    for player in range(4):
        chip = inner(sample, player)
        assert (chip == 255).all(-1).any()
        assert (chip < 128).all(-1).any()


def test_players_that_are_small_stay_visible() -> None:
    players = np.arange(48 * 48).reshape(48, 48) % 7
    content = ImageContent(np.full((48, 48, 3), (20, 140, 60), dtype=np.uint8), players.astype(np.int16))
    panel = panels(samples_figure([exhibit(content, 7)]), 5)[1]
    assert (panel == (20, 140, 60)).all(-1).any()


def test_points_of_an_interaction_are_coloured_and_near_ones_hide_far_ones() -> None:
    found = panels(samples_figure([exhibit(cloud())]), 5)
    left, middle, right = (
        [panel[panel.shape[0] // 2, int(x * (panel.shape[1] - 9)) + 4].astype(int) for panel in found]
        for x in (0.1, 0.5, 0.9)
    )
    # Blue has least red, vermillion least blue.
    assert left[1].argmin() == right[1].argmin() == 0
    assert left[2].argmin() == middle[2].argmin() == 2
    assert right[2].tolist() == left[3].tolist() == middle[1].tolist() == [216, 216, 216]
    assert right[3].argmin() == 0


def test_words_of_an_interaction_are_on_its_colour() -> None:
    figure = samples_figure([exhibit(WORDS)])
    marked = [text for text in figure.findobj(Text) if text.get_color() == "white"]
    assert [text.get_text() for text in marked] == ["film", "not", "film", "bor", "not", "not bor"]
    page = drawn(figure)
    for text, name in zip(marked, [BLUE, BLUE, VERMILLION, VERMILLION, BLUE, BLUE], strict=True):
        box = text.get_window_extent()
        top, bottom = (round(page.shape[0] - y) for y in (box.y1, box.y0))
        behind = page[top:bottom, round(box.x0) : round(box.x1)].reshape(-1, 3)
        assert (behind == colour(name)).all(-1).mean() > 0.3
    assert "This" in texts(figure)


def test_parts_are_attached_where_they_say_so() -> None:
    content = WordsContent([("bor", -1), ("\u2060ing", -1), ("\u2060,", -1), ("two words", -1)])
    assert "boring, two words" in texts(samples_figure([exhibit(content)]))


def test_long_texts_are_cut_but_the_words_of_the_interaction_stay() -> None:
    parts = [(f"word{i}", {40: 0, 160: 1}.get(i, -1)) for i in range(200)]
    figure = samples_figure([Exhibit("sample", Picture(["a", "b"], WordsContent(parts)), SHOWN[:1], count=1)])
    lines = [text for text in texts(figure) if "word" in text]
    assert {"word40", "word160"} <= set(lines)
    assert "\u2026" in said(figure)
    assert "word100" not in said(figure)
    heights = {text.get_position()[1] for text in figure.findobj(Text) if "word" in text.get_text()}
    assert len(heights) <= 3


def test_marked_words_lie_where_the_text_leaves_room_for_them() -> None:
    figure = samples_figure([exhibit(WORDS)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts if text.get_fontfamily() == ["DejaVu Sans Mono"]]
    for i, one in enumerate(boxes):
        assert not any(min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and abs(one.y0 - other.y0) < 8
                       for other in boxes[i + 1 :])  # fmt: skip


def test_the_matrix_has_a_dot_for_each_member_hollow_for_or() -> None:
    figure = samples_figure([exhibit(ROWS)])
    (dots,) = figure.axes[0].collections[1:]
    faces = [tuple(face) for face in np.round(dots.get_facecolors()[:, :3], 3)]
    members = {name: faces.count(tuple(np.round(to_rgb(name), 3))) for name in (BLUE, VERMILLION, "white")}
    assert members == {BLUE: 3, VERMILLION: 0, "white": 4}
    assert {"age = 39", "edu_$cation = BSc", "sex = F", "hours = 40"} <= set(texts(figure))


def test_the_list_names_the_players() -> None:
    found = texts(samples_figure([exhibit(None, note="nothing to draw")]))
    assert {"part 0 AND part 1", "part 0 OR part 2", "part 1 alone", "part 1 OR part 2", "nothing to draw"} <= set(
        found
    )


@every_kind
def test_every_block_says_what_there_is_to_see(kind: str) -> None:
    figure = samples_figure([exhibit(CONTENTS[kind])])
    assert figure.get_suptitle() == "val sample 3: target 1"
    told = said(figure)
    for text in ("3 of 9 salient interactions have 50 % of the strength", "AND +2.00", "OR -1.50", "alone +0.50",
                 "25 %", "new before the boundary", "gone", "OR (+0.90)", "start (initialisation)",
                 "boundary (epoch 8)", "now (epoch 30)", "effect on the score"):  # fmt: skip
        assert text in told, text


@every_kind
def test_without_moments_only_the_present_is_drawn(kind: str) -> None:
    told = said(samples_figure([exhibit(CONTENTS[kind], epochs={})]))
    assert "AND +2.00" in told
    assert "(+0.90)" not in told, "what is gone"
    assert "over time" not in told


def test_bars_show_every_moment_in_its_tint() -> None:
    page = drawn(samples_figure([exhibit(None)])).reshape(-1, 3)
    for name in (BLUE, VERMILLION):
        for part in (0.28, 0.6, 1.0):
            tint = [255 - part * (255 - channel) for channel in colour(name)]
            assert (np.abs(page - np.array(tint)) <= 2).all(-1).sum() > 50, (name, part)


def test_every_sample_is_a_block_and_equal_moments_are_told_once() -> None:
    blocks = [exhibit(content) for content in CONTENTS.values()]
    told = texts(samples_figure(blocks))
    assert told.count("val sample 3: target 1") == len(blocks)
    assert told.count("over time:") == 1
    other = exhibit(None, epochs={**MOMENTS, "now": 31.0})
    assert texts(samples_figure([blocks[0], other])).count("over time:") == 2


def assert_all_is_on_the_page(figure: Figure) -> None:
    page = drawn(figure)
    for text in figure.findobj(Text):
        if text.get_text().strip():
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.x1 <= page.shape[1], text
            assert box.y0 >= 0, text
            assert box.y1 <= page.shape[0], text


def strip(height: int, width: int) -> ImageContent:
    players = np.zeros((height, width), dtype=np.int16)
    players[-1, -1] = 1
    return ImageContent(np.full((height, width, 3), 99, dtype=np.uint8), players)


ODD: dict[str, Picture] = {
    "one pixel": Picture(["a", "b", "c"], ImageContent(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.int16))),
    "background only": Picture(["a"] * 3, ImageContent(np.zeros((9, 9, 3), np.uint8), np.full((9, 9), -1, np.int16))),
    "portrait": Picture(["a", "b", "c"], strip(128, 20)),
    "landscape": Picture(["a", "b", "c"], strip(20, 128)),
    "strip": Picture(["a", "b", "c"], strip(1, 500)),
    "no points": Picture(["a", "b", "c"], PointsContent(np.zeros((0, 3)), np.zeros(0, np.int16))),
    "no words": Picture(["a", "b", "c"], WordsContent([])),
    "no rows": Picture(["a", "b", "c"], RowsContent([])),
    "16 players": Picture([f"player {i}" for i in range(16)], ImageContent(square(64).pixels, quarters(64))),
    "long names": Picture([LONG] * 3, None, LONG),
    "long words": Picture([LONG] * 3, WordsContent([(LONG, 0), (LONG, 1), (LONG, -1)])),
    "long rows": Picture([LONG] * 3, RowsContent([(LONG, LONG, i) for i in range(3)])),
    "other scripts": Picture(
        ["日", "é", "\ud800"], WordsContent([("日本", 0), ("naïve", 1), ("😀\n\t", 2), ("ж", -1)])
    ),
    "names in other scripts": Picture(["日本", "$x_1$", "😀"], None, "\x00日本"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_samples_are_drawn_and_stay_on_the_page(name: str) -> None:
    one = Exhibit(f"{name} {LONG}", ODD[name], SHOWN, GONE, count=9, strength=8.0, epochs=MOMENTS)
    assert_all_is_on_the_page(samples_figure([one]))
    assert_all_is_on_the_page(samples_figure([one, one]))


@every_kind
def test_a_sample_without_interactions_says_so(kind: str) -> None:
    picture = exhibit(CONTENTS[kind]).picture
    for epochs in ({}, MOMENTS):
        figure = samples_figure([Exhibit("sample", picture, [], [], epochs=epochs)])
        assert "no salient interactions" in texts(figure)
        assert "over time:" not in texts(figure)
        assert_all_is_on_the_page(figure)


@every_kind
def test_values_that_are_tiny_huge_or_not_known_are_drawn(kind: str) -> None:
    for value, told in ((1e-9, "+1e-09"), (3e8, "+300000000.00"), (float("nan"), "not known")):
        shown = [Shown("and", (0, 1), value), Shown("or", tuple(range(4)), -value, 0.0, None)]
        one = Exhibit("sample", exhibit(CONTENTS[kind]).picture, shown, strength=float("nan"), epochs={"now": 3.25})
        assert f"AND {told}" in said(samples_figure([one]))


def test_no_sample_is_an_empty_figure() -> None:
    figure = samples_figure([])
    assert (drawn(figure) < 255).any()  # the line that explains the colours
    assert said(figure).startswith("Blue raises the score")
    assert len(texts(figure)) == 1
