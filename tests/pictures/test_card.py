"""Cards: what is marked in them, that they are sound HTML, and that a browser draws what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from lightning_interactions.pictures.card import MOST_POINTS, MOST_WORDS, STYLE, card, excerpt
from lightning_interactions.pictures.exhibit import Exhibit, Shown
from lightning_interactions.players.picture import (
    Content,
    ImageContent,
    Picture,
    PointsContent,
    RowsContent,
    WordsContent,
)

SHOWN = [
    Shown("and", (0, 2), 2.314, 0.0, -0.5),
    Shown("or", (1, 2), -1.0, -1.5, 0.0),
    Shown("and", (1,), 0.5, 0.5, 0.5),
]
GONE = [Shown("and", (0, 1), 0.0, 1.2, -0.4)]
EPOCHS = {"start": -1, "boundary": 10, "now": 29}
EMPTY = ("meta", "link", "path", "use", "rect", "image", "br", "img")


class Tags(HTMLParser):
    """The elements of a page with their attributes, and the text in each; what is not closed is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[int, str] = {}
        self._open: list[tuple[str, int]] = []
        self.feed(str(html))  # a `Markup` would escape what is added to it
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append((tag, len(self.found) - 1))
        if tag in EMPTY:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, place in self._open:
            self.texts[place] = self.texts.get(place, "") + data

    def of(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [own for kind, own in self.found if kind == tag and wanted.items() <= own.items()]

    def text(self, tag: str, class_: str | None = None) -> list[str]:
        return [
            " ".join(self.texts.get(i, "").split())
            for i, (kind, own) in enumerate(self.found)
            if kind == tag and (class_ is None or class_ in own.get("class", "").split())
        ]


def exhibit(content: Content | None, names: Sequence[str] = ("one", "two", "three"), note: str = "") -> Exhibit:
    picture = Picture(names, content, note)
    return Exhibit("val sample 3: target 1", picture, SHOWN, GONE, 9, 10.0, (0.0, 2.0), EPOCHS)


def image(side: int = 8) -> ImageContent:
    players = np.full((side, side), -1, dtype=np.int16)
    players[: side // 2, : side // 2], players[side // 2 :, : side // 2], players[side // 2, side // 2 :] = 0, 1, 2
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return ImageContent(pixels, players)


def cloud(points: int) -> PointsContent:
    places = np.random.default_rng(0).random((points, 3))
    return PointsContent(places, (np.arange(points) % 4 - 1).astype(np.int16))


CONTENTS: dict[str, Content | None] = {
    "image": image(),
    "words": WordsContent([("one", 0), ("two", 1), ("\u2060three", 2), (".", -1)]),
    "rows": RowsContent([("one", "1.5", 0), ("two", "<b>", 1), ("three", "x", 2), ("other", "y", -1)]),
    "points": cloud(50),
    "nothing": None,
}
every_kind = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)


@every_kind
def test_a_card_is_sound_and_tells_every_interaction(content: Content | None) -> None:
    html = card(exhibit(content, note="no <picture>"), anchor="s-1", facts={"mean order": "2.3"})
    assert html.__html__() == html  # a page takes it as it is
    tags = Tags(html)
    ids = Counter(own["id"] for _, own in tags.found if "id" in own)
    assert set(ids.values()) == {1}
    assert all(re.match(r"s-1($|-)", name) for name in ids)
    targets = {own["href"][1:] for own in tags.of("use")} | set(re.findall(r"url\(#(.*?)\)", html))
    assert targets <= set(ids)
    assert tags.text("summary")[1:] == [
        "AND +2.31 · one AND three · 23 % · new since the boundary",
        "OR -1.00 · two OR three · 10 % · new before the boundary",
        "+0.50 · two alone · 5 % · stayed",
        "AND was +1.20 · one AND two · gone",
    ]
    assert tags.text("summary")[0].startswith("val sample 3: target 1 ")
    assert tags.text("summary")[0].endswith("together +1.81 of +2.00, the effect of all parts")
    moments = tags.text("table", "moments")
    assert moments[1] == "start (initialisation)none boundary (epoch 10)-1.50 now (epoch 29)-1.00"
    assert "no &lt;picture&gt;" in html
    assert tags.text("table", "facts") == ["mean order2.3"]


def test_bars_have_one_scale_and_go_from_the_middle() -> None:
    bars = Tags(card(exhibit(None), anchor="s")).of("rect")
    signs = [own["class"] for own in bars[:6:2]]
    places = [float(own[name]) for own in bars[:6:2] for name in ("x", "width")]
    assert signs == ["negative", "positive", "negative"]  # -0.5, 2.314 and -1.5 ...
    up, at_start, before = 50.0, 50 * 0.5 / 2.314, 50 * 1.5 / 2.314  # ... of which 2.314 has half of the width
    assert places == pytest.approx([50 - at_start, at_start, 50, up, 50 - before, before], abs=0.1)


# -- images -----------------------------------------------------------------------------------------------------------


def test_an_image_is_there_once_and_used_everywhere() -> None:
    html = card(exhibit(image()), anchor="s")
    tags = Tags(html)
    assert html.count("data:image/") == len(tags.of("image")) == 1
    assert tags.of("image")[0]["style"] == "image-rendering: pixelated"
    assert len(tags.of("use", href="#s-picture")) == 2 * (1 + len(SHOWN) + len(GONE))
    assert [own["aria-label"] for own in tags.of("svg", role="img")][:2] == 2 * [
        "val sample 3: target 1; marked as positive: one AND three"
    ]
    clips = dict(re.findall(r'<clipPath id="(.*?)">(.*?)</clipPath>', html))
    marked = {name: {int(i) for i in re.findall(r"player-(\d)", uses)} for name, uses in clips.items()}
    assert marked == {
        "s-strongest-clip": {0, 2},
        "s-0-clip": {0, 2},
        "s-1-clip": {1, 2},
        "s-2-clip": {1},
        "s-3-clip": {0, 1},
    }
    outlines = re.findall(r'<g class="outline (.*?)">', html)
    assert outlines == ["positive", "positive", "negative", "positive", "positive"]


def test_the_path_of_a_player_covers_its_pixels() -> None:
    content = image()
    paths = {own["id"]: own["d"] for own in Tags(card(exhibit(content), anchor="s")).of("path") if "id" in own}
    for player in range(3):
        covered = np.zeros((8, 8), dtype=int)
        for box in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h-\d+z", paths[f"s-player-{player}"]):
            x, y, width, height = map(int, box)
            covered[y : y + height, x : x + width] += 1
        assert (covered == (content.players == player)).all()


def test_large_images_are_smooth() -> None:
    html = card(exhibit(image(100)), anchor="s")
    assert "pixelated" not in html
    assert 'href="data:image/jpeg;' in html


# -- words, rows, points ----------------------------------------------------------------------------------------------


def test_words_are_marked_where_they_stand() -> None:
    tags = Tags(card(exhibit(CONTENTS["words"]), anchor="s"))
    assert tags.text("span", "words") == 5 * ["one twothree ."]
    assert tags.text("mark", "positive") == ["one", "three", "one", "three", "two", "one", "two"]
    assert tags.text("mark", "negative") == ["two", "three"]


def test_of_a_long_text_the_marked_words_are_kept() -> None:
    parts = [(f"w{i}", i) for i in range(300)]
    text = excerpt(parts, [40, 200])
    assert [word for word, marked, _ in text if marked] == ["w40", "w200"]
    assert [i for i, (word, _, _) in enumerate(text) if word == "\u2026"] == [0, 14, 28]
    assert text[1][0] == "w34"
    assert [word for word, _, _ in excerpt(parts, [])] == [*(f"w{i}" for i in range(MOST_WORDS)), "\u2026"]
    assert len(excerpt(parts[:MOST_WORDS], [3])) == MOST_WORDS


def test_rows_of_an_interaction_are_marked() -> None:
    tags = Tags(card(exhibit(CONTENTS["rows"]), anchor="s"))
    assert tags.text("span", "rows") == ["one 1.5three x"]  # closed it shows these alone
    assert tags.text("table", "rows") == 4 * ["one1.5 two<b> threex othery"]
    assert tags.text("tr", "negative") == ["two<b>", "threex"]
    assert len(tags.text("tr", "positive")) == 5


@pytest.mark.parametrize("count", [3, 400, 5000])
def test_a_cloud_is_thinned_evenly(count: int) -> None:
    paths = {own["id"]: own["d"] for own in Tags(card(exhibit(cloud(count)), anchor="s")).of("path") if "id" in own}
    dots = {name: path.count("h0") for name, path in paths.items()}
    assert sum(dots.values()) == min(count, MOST_POINTS)
    assert len(dots) == min(count, 4), "no player is left out"
    assert max(dots.values()) - min(dots.values()) <= 1
    numbers = [int(x) for path in paths.values() for x in re.findall(r"\d+(?=[ h])", path)]
    assert 0 <= min(numbers) <= max(numbers) <= 200


# -- odd samples ------------------------------------------------------------------------------------------------------


@every_kind
def test_without_interactions_a_card_has_its_picture_alone(content: Content | None) -> None:
    html = card(Exhibit("sample", Picture(["one"], content), []), anchor="s")
    tags = Tags(html)
    assert "no salient interactions" in html
    assert len(tags.of("details")) == 1
    assert not tags.of("mark")
    assert not tags.of("clippath")


@every_kind
def test_names_and_players_may_be_anything(content: Content | None) -> None:
    names = ["<script>alert(1)</script>", '"' * 200]
    odd = Exhibit("<i>", Picture(names, content), [Shown("or", (0, 1, 14), 1e-3)], count=1, strength=1e-3)
    html = card(odd, anchor="s")
    assert "<script" not in html
    assert "<i>&lt;" not in html
    assert Tags(html).text("summary")[1].startswith("OR +0.001 · <script>alert(1)</script> OR")
    assert "player 14" in html


# -- the style --------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    full = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
    parts = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("side", ["light", "dark"])
def test_texts_stand_out(side: str) -> None:
    light, dark = re.findall(r"\.card \{(.*?)\}", STYLE, re.S)
    found = dict(re.findall(r"--card(-?[\w-]*): (#\w+)", light if side == "light" else dark))
    for text in ("-ink", "-quiet", "-plus-text", "-minus-text"):
        assert contrast(found[text], found[""]) >= 4.5, text
    for back in ("-plus-back", "-minus-back"):
        assert contrast(found["-ink"], found[back]) >= 4.5, back
    for drawn in ("-plus", "-minus", "-zero"):
        assert contrast(found[drawn], found[""]) >= 3, drawn


def test_signs_are_no_matter_of_colour_alone() -> None:
    for name, content in CONTENTS.items():
        text = " ".join(Tags(card(exhibit(content), anchor="s")).text("summary"))
        assert "AND +2.31" in text, name
        assert "OR -1.00" in text, name


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_browser_shows_the_members_and_dims_the_rest(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    from PIL import Image

    players = np.arange(4, dtype=np.int16).reshape(2, 2).repeat(2, 0).repeat(2, 1)
    content = ImageContent(np.full((4, 4, 3), (250, 240, 0), dtype=np.uint8), players)
    shown = Exhibit("sample", Picture(list("abcd"), content), [Shown("and", (1, 2), -1.0)], count=1, strength=1.0)
    page = tmp_path / "card.html"
    style = f"<style>body {{ margin: 0 }} {STYLE} .card .scene {{ width: 300px; height: 300px; margin: 0 }}"
    place = ".card .scene { position: fixed; left: 0; top: 0 }</style>"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8>{style}{place}{card(shown, anchor='s')}", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=600,500"]
    own = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'card.png'}"]
    subprocess.run([browser, *flags, *own, page.as_uri()], check=True, capture_output=True, timeout=120)
    drawn = np.asarray(Image.open(tmp_path / "card.png").convert("RGB")).astype(int)[:300, :300]
    middles = {"a": (75, 75), "b": (75, 225), "c": (225, 75), "d": (225, 225)}
    colours = {name: drawn[y, x] for name, (y, x) in middles.items()}
    for name in "bc":
        np.testing.assert_allclose(colours[name], (250, 240, 0), atol=2)
    for name in "ad":
        assert np.ptp(colours[name]) < 100, "dimmed is nearly gray"
    outline = (abs(drawn - (0xD5, 0x5E, 0x00)).sum(-1) < 12).any(0)
    assert outline.sum() > 250, "both members, which meet in the middle, are outlined"
    for one, other in combinations("ad", 2):
        np.testing.assert_array_equal(colours[one], colours[other])
