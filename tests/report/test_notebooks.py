"""What a notebook shows of the results."""

from __future__ import annotations

from html.parser import HTMLParser

import torch
from torch import nn

from lightning_interactions import History, PhaseEvent, TabularFeatures, compute_interactions
from lightning_interactions.report.history import write_whole


class Cells(HTMLParser):
    """The texts in an HTML fragment; its tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_history_shows_its_latest_records() -> None:
    history = History()
    assert Cells(history._repr_html_()).texts == ["History(empty)"]
    for epoch in range(20):
        scalars = {"mean_order": 1 + epoch / 8} | ({"val_loss": 0.5} if epoch == 19 else {})
        history.append(epoch, epoch, scalars, [[1.0, 2.0], [0.0, 0.0]])
    texts = Cells(history._repr_html_()).texts
    assert texts[0] == f"{history!r}; the last 12"
    assert texts[1:4] == ["epoch", "mean_order", "val_loss"]
    assert texts[-3:] == ["19", "3.375", "0.5"]
    assert texts.count("8") == 1
    assert "7" not in texts, "the first eight are not shown"


def test_an_event_is_safe_to_show() -> None:
    event = PhaseEvent("probe_failed", 1, 2, evidence={"a<b": 0.123456, "odd": float("nan")}, message="<script>")
    shown = event._repr_html_()
    assert "<script>" not in shown
    assert Cells(shown).texts == ["probe failed.", " <script>", "a<b", "0.1235", "odd", "nan"]


def test_interactions_show_the_strongest_of_the_first_samples() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x[:, 0] * x[:, 1] + x[:, 2]

    found = compute_interactions(Net(), torch.ones(6, 3), torch.ones(6), TabularFeatures("zero"), num_players=3)
    texts = " ".join(Cells(found._repr_html_()).texts)
    assert repr(found) in texts
    assert [f"sample {i}" in texts for i in range(5)] == [True] * 4 + [False], "four samples are enough"
    assert "AND +2.00" in texts
    assert "column 0 = 1 AND column 1 = 1" in texts


def test_files_go_wherever_loggers_write(tmp_path) -> None:
    import fsspec

    write_whole("memory://bucket/run/interactions.json", "{}")
    assert fsspec.filesystem("memory").cat("/bucket/run/interactions.json") == b"{}"
    write_whole(tmp_path / "a" / "b.txt", "first")
    write_whole(tmp_path / "a" / "b.txt", "second")
    assert [path.read_text() for path in (tmp_path / "a").iterdir()] == ["second"]
