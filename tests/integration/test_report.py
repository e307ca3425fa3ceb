"""The HTML report: what is in it, and that a real browser shows it without a network."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from models import fit, small_monitor

from lightning_interactions import ArgumentError, PhaseEvent, RunRecord, StateError, write_report
from lightning_interactions.__main__ import main
from lightning_interactions.functional import mean_order
from lightning_interactions.players.picture import ImageContent, Picture, WordsContent
from lightning_interactions.report.figures import changes_figure
from lightning_interactions.report.record import find_run
from lightning_interactions.report.words import summary, verdict

N = 6


def example(epochs: int = 30, **options: Any) -> RunRecord:
    """A run whose mean order is lowest at epoch 10; validation loss at 15."""
    strength = []
    for epoch in range(epochs):
        up = torch.exp(-((torch.arange(1, N + 1) - 1.5 - min(abs(epoch - 10) / 8, 3)) ** 2) / 2)
        strength.append(torch.stack([up, up / 2]))
    orders = [float(mean_order(item)) for item in strength]
    history = {
        "epoch": list(range(epochs)),
        "step": list(range(9, 10 * epochs, 10)),
        "mean_order": orders,
        "mean_order_lower": [order - 0.2 for order in orders],
        "mean_order_upper": [order + 0.2 for order in orders],
        "train_loss": [2 * 0.9**epoch for epoch in range(epochs)],
        "val_loss": [0.5 + ((epoch - 15) / 15) ** 2 for epoch in range(epochs)],
        "overfitting_risk": [epoch / epochs for epoch in range(epochs)],
        "solver_gap": [0.004] * epochs,
        "seconds": [1.5] * epochs,
        "skipped_samples": [0.0] * epochs,
        **{f"noise_floor/order_{order:02d}": [1e-5] * epochs for order in range(1, N + 1)},
        "strength": [item.tolist() for item in strength],
    }
    event = PhaseEvent("boundary", 10, 14, 149, {"z": 3.21, "odd": math.nan}, "Epoch 14: <it> ended & rose.")
    found: dict[str, Any] = {"events": [event], "boundary_epoch": 10, "settings": {"num_samples": 32}}
    return RunRecord(history, **(found | options))


# -- the run's file ---------------------------------------------------------------------------------------------------


def test_a_run_survives_its_file() -> None:
    run = example(samples=[{"sample": 0, "onset": None, "strength": 1.5}])
    run.history["strength"][3] = [[math.nan] * N] * 2  # type: ignore[index]
    run.history["val_loss"][2] = math.nan  # type: ignore[index]
    back = RunRecord.from_json(run.to_json())
    assert back.history["epoch"] == run.history["epoch"]
    assert back.history["strength"][4] == run.history["strength"][4]
    assert all(map(math.isnan, back.history["strength"][3][0]))
    assert math.isnan(back.column("val_loss")[2])
    assert (back.boundary_epoch, back.overfitting_epoch) == (10, None)
    assert back.events[0].message == run.events[0].message
    assert back.samples == run.samples
    assert back.versions["torch"] == torch.__version__.split("+")[0] or back.versions["torch"] == torch.__version__
    json.loads(run.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": "other"}', '{"format": "lightning-interactions run, version 1"}']
)
def test_other_files_are_no_runs(text: str) -> None:
    with pytest.raises(StateError, match="cannot be read"):
        RunRecord.from_json(text)


def test_a_run_is_found_below_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="there is no"):
        find_run(tmp_path / "nowhere")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ArgumentError, match="No run was found"):
        find_run(tmp_path)
    example().write(tmp_path / "a" / "b" / "interactions.json")
    assert find_run(tmp_path) == tmp_path / "a" / "b" / "interactions.json"
    example().write(tmp_path / "c" / "mine.json")
    with pytest.raises(ArgumentError, match=r"2 runs were found.*\n.*interactions.json\n.*mine.json"):
        find_run(tmp_path)
    assert find_run(tmp_path / "c" / "mine.json").name == "mine.json"


# -- in words ---------------------------------------------------------------------------------------------------------


def test_the_verdict_names_what_happened() -> None:
    assert re.match(
        r"Low-order dominance ended at epoch 10: .* fell from 2\.\d\d to 1\.\d\d and then rose", verdict(example())
    )
    assert "not overfitting yet. The checkpoint of epoch 15" in verdict(example())
    over = verdict(example(overfitting_epoch=25))
    assert "The network overfitted: the validation loss went from 0.5 at epoch 15 to 1.37 at epoch 29" in over
    assert "Keep the checkpoint of epoch 15" in over
    early = verdict(example(8, boundary_epoch=None))
    assert "No phase boundary was found in 8 measured epochs" in early
    assert "at its lowest now (epoch 7): train on" in early
    rising = example()
    rising.history["mean_order"][0] = 1.0  # type: ignore[index]
    assert "with no fall of the mean order before it" in verdict(rising)
    nothing = RunRecord({"epoch": [0], "mean_order": [math.nan]})
    assert verdict(nothing) == "No salient interactions were found in 1 measured epoch."


def test_the_summary_has_the_numbers() -> None:
    rows = summary(example(overfitting_epoch=25))
    assert rows["Phase boundary"] == "epoch 10"
    assert rows["Overfitting"] == "found in epoch 25"
    assert rows["Lowest validation loss"] == "epoch 15 (0.500; at the end 1.371)"
    assert rows["Time spent"] == "45 s with logging and drawing, 1.50 s a record"
    assert "lowest (epoch 10)" in rows["Mean order"]
    assert summary(RunRecord({"epoch": [0]}))["Phase boundary"] == "none found"


def suspecting() -> RunRecord:
    told = PhaseEvent("suspected", 10, 12, 129, {"trough_epoch": 10.0}, "Epoch 12: it may have ended.")
    run = example(events=[told], boundary_epoch=None)
    run.history["suspected"] = [0.0] * 12 + [1.0] * 18  # type: ignore[index]
    return run


def withdrawing() -> RunRecord:
    alarm = PhaseEvent("overfitting", 12, 12, 129, {}, "Epoch 12: it is overfitting.")
    taken_back = PhaseEvent(
        "retracted", 12, 14, 149, {"alarm_epoch": 12.0}, "Epoch 14: it is withdrawn.", retracts="overfitting"
    )
    return example(events=[alarm, taken_back])


def test_what_is_suspected_is_said_to_be() -> None:
    run = suspecting()
    assert verdict(run).split(". ")[1] == "One is suspected at epoch 10"
    assert summary(run)["Phase boundary"] == "suspected at epoch 10"
    run.history["suspected"][-1] = 0.0  # type: ignore[index]
    assert "suspected" not in verdict(run)
    assert summary(run)["Phase boundary"] == "none found"


def test_an_alarm_that_was_withdrawn_is_said_to_be() -> None:
    run = withdrawing()
    assert "The overfitting alarm of epoch 12 was withdrawn. The validation loss went from 0.5" in verdict(run)
    assert summary(run)["Overfitting"] == "alarm of epoch 12, withdrawn in epoch 14"
    again = RunRecord(run.history, [*run.events, PhaseEvent("overfitting", 25, 25)], 10, 25)
    assert "withdrawn" not in verdict(again)
    assert summary(again)["Overfitting"] == "found in epoch 25"


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_everything_and_needs_nothing(tmp_path: Path) -> None:
    run = example(samples=[{"sample": 3, "onset": 12}, {"sample": 4, "onset": None}])
    page = write_report(run, tmp_path / "report.html", title="Run <7>").read_text()
    assert len(page) < 1_000_000
    for part in (
        verdict(run), "Run &lt;7&gt;", "Epoch 14: &lt;it&gt; ended &amp; rose.", "3.21", "0.40%", "45.0 s in all",
        "num_samples", "noise floor", "1e-05", '<th scope="col">onset</th>', run.versions["lightning-interactions"],
    ):  # fmt: skip
        assert part in page, part
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@import" not in page


@pytest.mark.parametrize("run", [suspecting(), withdrawing()], ids=["suspected", "withdrawn"])
def test_the_page_lists_hints_and_what_was_withdrawn(run: RunRecord, tmp_path: Path) -> None:
    page = write_report(RunRecord.from_json(run.to_json()), tmp_path / "report.html").read_text()
    for event in run.events:
        assert f"<summary><b>{event.kind}.</b> {event.message}</summary>" in page
    assert verdict(run) in page


def test_long_runs_stay_small(tmp_path: Path) -> None:
    run = example(3000)
    page = write_report(run, tmp_path / "report.html")
    assert page.stat().st_size < 2_000_000
    frames = json.loads(re.search(r'id="frames">(.*?)</script>', page.read_text(), re.S)[1])  # type: ignore[index]
    assert len(frames["epochs"]) <= 403
    assert {0, 10, 2999} <= set(frames["epochs"])
    assert frames["epochs"][frames["marks"]["Boundary"]] == 10
    total = [sum(map(sum, shares)) for shares in frames["shares"]]
    assert total == pytest.approx([100] * len(total), abs=0.05)


# -- its cards --------------------------------------------------------------------------------------------------------


def row(index: int, picture: Any = None, **columns: Any) -> dict[str, Any]:
    """A row of `history.samples`, as the monitor writes it."""
    strongest = {"kind": "and", "players": [0, 1], "now": 2.0, "boundary": 0.0, "start": 0.0}
    gone = {"kind": "or", "players": [1, 2], "now": 0.0, "boundary": 1.0, "start": 1.0}
    known: dict[str, Any] = {
        "split": "val", "index": index, "key": 987654321, "target": 1, "prediction": 0, "strength": 4.0,
        "mean_order": 2.25, "onset_epoch": None, "salient_count": 7, "score_of_nothing": -1.0, "score": 2.0,
        "epochs": {"start": 0, "boundary": 10, "now": 29}, "interactions": [strongest, gone],
    }  # fmt: skip
    return known | ({} if picture is None else {"picture": picture}) | columns


def page_of(tmp_path: Path, **options: Any) -> str:
    run = RunRecord.from_json(example(**options).to_json())
    return write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")


def test_watched_samples_are_cards(tmp_path: Path) -> None:
    picture = Picture(["not", "good", "it"], WordsContent([("not", 0), ("good", 1), ("it", 2)]))
    page = page_of(tmp_path, samples=[row(5, picture.to_dict()), row(3)])
    titles = re.findall(r'<details class="card" id="sample-(\d)">\s*<summary>\s*<h3>(.*?)</h3>', page)
    assert titles == [("0", "val sample 5: target 1, predicted 0"), ("1", "val sample 3: target 1, predicted 0")]
    assert '<mark class="positive">not</mark> <mark class="positive">good</mark> it' in page
    assert "player 0 AND player 1" in page
    assert page.count('<th scope="row">mean order</th><td>2.25</td>') == 2
    for hidden in ("987654321", "onset epoch", "<td>987", "{&#39;kind", "epochs</th>", "picture</th>"):
        assert hidden not in page, hidden
    identities = re.findall(r'\bid="(.*?)"', page)
    assert len(identities) == len(set(identities))
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize(
    "picture", [{}, {"names": 3}, "no", {"names": ["a"], "note": "", "content": {"kind": "smell"}}]
)
def test_a_picture_that_cannot_be_read_is_left_out(picture: Any, tmp_path: Path) -> None:
    assert "player 0 AND player 1" in page_of(tmp_path, samples=[row(0, picture)])


def test_rows_of_old_runs_still_tell_something(tmp_path: Path) -> None:
    old = {"sample": 3, "strength": 1.5, "picture": {"names": []}}
    page = page_of(tmp_path, samples=[old, {"sample": 4}])
    assert '<details class="card"' not in page
    assert '<th scope="col">strength</th>' in page
    assert "<td>3</td><td>1.5</td>" in page
    assert "<td>4</td><td></td>" in page
    mixed = page_of(tmp_path, samples=[row(0), old, row(1, interactions=[], strength=None)])
    assert mixed.count('<details class="card"') == 3
    assert mixed.count("no salient interactions") == 2
    assert "<h3>sample</h3>" in mixed


def test_photographs_leave_the_page_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    side = np.arange(128) // 32
    players = (4 * side[:, None] + side).astype(np.int16)
    samples = []
    for index in range(32):
        noise = generator.integers(0, 256, (128, 128, 3), dtype=np.uint8)
        picture = Picture([f"patch {i}" for i in range(16)], ImageContent(noise, players))
        shown = [{"kind": "and", "players": [i, i + 4, i + 9], "now": 2.0 - i / 4} for i in range(5)]
        samples.append(row(index, picture.to_dict(), interactions=shown))
    page = page_of(tmp_path, samples=samples)
    assert page.count("data:image/jpeg") == 32
    assert len(page.encode()) < 2_000_000


# -- what changed -----------------------------------------------------------------------------------------------------


def changing(part: str = "") -> RunRecord:
    run = example()
    columns = {}
    for name, share in (("preserved", 0.6), ("emerged", 0.4), ("removed", 0.3)):
        for key, value in (("share", share), ("order", 2.0 + share), ("ratio", share / 2)):
            for end, off in (("", 0.0), ("_lower", -0.05), ("_upper", 0.05)):
                columns[f"{part}change/{name}_{key}{end}"] = [math.nan, *[value + off] * 29]
    return RunRecord({**run.history, **columns}, run.events, 10)


@pytest.mark.parametrize("part", ["", "val/"])
def test_what_changed_is_drawn_where_it_is_known(part: str, tmp_path: Path) -> None:
    shares, orders, ratios = changes_figure(changing(part)).axes
    for axes, values in ((shares, [60, 40, 30]), (orders, [2.6, 2.4, 2.3]), (ratios, [30, 20, 15])):
        curves = {line.get_label(): line.get_ydata()[5] for line in axes.lines if line.get_gid() is None}
        assert curves == pytest.approx(dict(zip(("preserved", "emerged", "removed"), values, strict=True)))
        assert [line.get_xdata()[0] for line in axes.lines if line.get_gid() == "boundary"] == [10]
    band = shares.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((55, 65))
    page = write_report(changing(part), tmp_path / "report.html").read_text()
    assert "<h2>What changed</h2>" in page
    assert "<h2>What changed</h2>" not in write_report(example(), tmp_path / "report.html").read_text()


def test_the_page_has_a_dark_side_and_a_strict_policy(tmp_path: Path) -> None:
    page = write_report(example(), tmp_path / "report.html").read_text()
    assert "color-scheme: light dark" in page
    assert page.count("@media (prefers-color-scheme: dark)") == 2  # the page's and the cards'
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "#000" not in page[page.index("<script>") :], "lines of the chart would be black on black"


@pytest.mark.parametrize("empty", ["one epoch", "no losses", "no strength"])
def test_little_data_is_no_error(empty: str, tmp_path: Path) -> None:
    run = example(1, events=[], boundary_epoch=None) if empty == "one epoch" else example()
    history = dict(run.history)
    if empty == "no losses":
        history = {key: history[key] for key in ("epoch", "step", "strength")}
    if empty == "no strength":
        history |= {"strength": [[[math.nan] * N] * 2] * 30, "mean_order": [math.nan] * 30}
    page = write_report(RunRecord.from_json(RunRecord(history).to_json()), tmp_path / "report.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert "TwoPhaseMonitor" in page or "lightning-interactions" in page


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="Nothing was measured"):
        small_monitor().report(tmp_path / "report.html")
    with pytest.raises(ArgumentError, match="`path`"):
        write_report(example())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("watch", "key"), [("val", "mean_order"), ("both", "val/mean_order")])
def test_a_real_run_is_reported_on_the_command_line(
    watch: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = small_monitor(watch=watch)
    trainer = fit(monitor, logger=TensorBoardLogger(tmp_path), max_epochs=2)
    assert main(["report", str(tmp_path), "--title", "From the command line"]) == 0
    page = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert page == Path(trainer.log_dir) / "interactions.html"
    monitor.report(tmp_path / "own.html")
    for part in (f"lowest ({min(monitor.history.column(key)):.2f})", "Solver gap", "noise floor", "Watched samples"):
        assert part in page.read_text()
    own, theirs = (tmp_path / "own.html").read_text(), page.read_text()
    assert theirs.replace("From the command line", "Interactions by order") == own
    for option in (["-o", str(tmp_path / "o.html")], [f"--output={tmp_path / 'o-o.html'}"]):
        assert main(["report", *option, str(tmp_path)]) == 0
        assert Path(capsys.readouterr().out.strip()).read_text() == own
    assert {path.name for path in tmp_path.glob("o*.html")} == {"o.html", "o-o.html", "own.html"}
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "there is no" in capsys.readouterr().err


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1200,1000",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(flag)
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


def test_the_slider_works_in_a_browser_without_network_or_errors(chromium: Any, tmp_path: Path) -> None:
    run = example()
    page = write_report(run, tmp_path / "report.html")
    chromium.get("about:blank")
    chromium.get_log("performance")  # what the browser loads for its own start page
    chromium.get(page.as_uri())

    def bars(sign: str) -> list[float]:
        script = f"return [...document.querySelectorAll('.{sign}')].map(bar => Number(bar.getAttribute('height')))"
        return list(chromium.execute_script(script))

    def assert_shown(epoch: int) -> None:
        up, down = torch.tensor(run.history["strength"][epoch])
        heights = torch.tensor(bars("positive") + bars("negative"))
        assert (heights / heights.sum()).tolist() == pytest.approx(
            (torch.cat([up, down]) / (up + down).sum()).tolist(), abs=1e-4
        )
        text = chromium.find_element("id", "frame").text
        assert text == f"Epoch {epoch}, mean order {run.history['mean_order'][epoch]:.2f} (dotted)"

    assert_shown(29)
    slider = chromium.find_element("id", "slider")
    slider.send_keys("\ue012")  # arrow left, as a person would
    assert_shown(28)
    slider.send_keys("\ue011")  # home
    assert_shown(0)
    buttons = {button.text: button for button in chromium.find_elements("tag name", "button")}
    assert set(buttons) == {"Start", "Boundary", "Now"}
    buttons["Boundary"].click()
    assert_shown(10)
    assert slider.get_attribute("value") == "10"
    assert chromium.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 500)")
    assert chromium.get_log("browser") == []
    requests = [
        message["params"]["request"]["url"]
        for message in (json.loads(entry["message"])["message"] for entry in chromium.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert all(url.startswith(("file:", "data:")) for url in requests), requests
