"""A real notebook, run by a real kernel: what its cells show."""

from __future__ import annotations

import base64
import textwrap
from typing import Any

import nbclient
import nbformat
import pytest
import torch
from torch import Tensor

from lightning_interactions import ArgumentError, TabularFeatures, TwoPhaseMonitor, compute_interactions

pytestmark = pytest.mark.thorough

PROJECT = """
import lightning as L, torch, warnings
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lightning_interactions import TwoPhaseMonitor, compute_interactions, TabularFeatures
warnings.simplefilter("ignore")

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])
    def validation_step(self, batch, index):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

data = DataLoader(TensorDataset(torch.randn(24, 5), torch.arange(24) % 2), 8)
monitor = TwoPhaseMonitor(num_samples=4, num_players=5, verbose=False)
trainer = L.Trainer(max_epochs=3, callbacks=[monitor], logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
"""

CELLS = [
    PROJECT,
    "monitor",
    "monitor.plot(live=True)\nbefore = len(monitor.history)\ntrainer.fit(Net(), data, data)",
    "monitor",
    "monitor.plot()",
    "monitor.show()",
    "compute_interactions(Net(), torch.ones(2, 5), torch.tensor([0, 1]), TabularFeatures('zero'), num_players=5)",
]


def shown() -> list[list[dict[str, Any]]]:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in CELLS]
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return [
        [output.get("data", {"text": output.get("text", "")}) for output in cell.outputs] for cell in notebook.cells
    ]


def is_png(data: dict[str, Any]) -> bool:
    return base64.b64decode(data.get("image/png", "")).startswith(b"\x89PNG")


def test_a_notebook_shows_the_run_as_it_goes_on() -> None:
    _, empty, live, monitor, plot, show, interactions = shown()
    assert "nothing measured so far" in empty[0]["text/html"]
    assert sum(map(is_png, live)) == 1, "one output, drawn anew in its place"
    assert not any("nothing measured" in data.get("text/html", "") for data in live)
    html = monitor[0]["text/html"]
    assert "TwoPhaseMonitor" in html
    assert "data:image/png;base64," in html
    assert "val sample" in html
    assert is_png(plot[0])
    assert is_png(show[0])
    assert "sample 1" in interactions[0]["text/html"]


def test_outside_of_a_notebook_nothing_is_live() -> None:
    with pytest.raises(ArgumentError, match="outside of a notebook"):
        TwoPhaseMonitor().plot(live=True)


def test_interactions_are_plotted_as_cards() -> None:
    def product(x: Tensor) -> Tensor:
        return x[:, 0] * x[:, 1]

    found = compute_interactions(product, torch.ones(6, 3), torch.ones(6), TabularFeatures("zero"), num_players=3)
    html = found._repr_html_()
    assert html.count("sample ") >= 4
    assert "sample 4" not in html, "four samples are enough"
    with pytest.raises(ArgumentError, match="one of the 6 samples"):
        found.plot(6)
