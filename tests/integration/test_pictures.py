"""What people see of the watched samples: in figures, event files and reports; and where nothing may be seen."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_interactions import (
    ArgumentError,
    InteractionsWarning,
    TwoPhaseMonitor,
    compute_interactions,
    write_report,
)
from lightning_interactions.players import ImagePatches, Players, TabularFeatures, picture_of

SECRET = 7421.5
FOUND = re.compile(r"(?<![\d.])74(19|2[0-4])(\.\d+)?(?![\d.])")
SMALL: dict[str, Any] = {"num_samples": 6, "num_players": 5, "verbose": False, "on_event": None}


class Table(Dataset[Any]):
    """Rows with a value that would be recognised anywhere."""

    feature_names = ("age", "hours", "pay", "gain", "loss")

    def __init__(self, rows: int = 24) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(rows, 5, generator=generator)
        self.x[:, 2] += SECRET
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class Net(L.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.02)


def table_net() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))


def fit(
    monitor: TwoPhaseMonitor,
    logger: Any = False,
    data: Dataset[Any] | None = None,
    net: nn.Module | None = None,
    module: L.LightningModule | None = None,
    shuffle: bool = False,
) -> L.Trainer:
    torch.manual_seed(0)
    data = data or Table()
    trainer = L.Trainer(
        max_epochs=5, callbacks=[monitor], logger=logger, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    loaders = DataLoader(data, 8, shuffle=shuffle), DataLoader(data, 24)
    trainer.fit(module or Net(net or table_net()), *loaders)
    return trainer


def texts_of(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_a_sample_is_shown_with_the_names_of_the_data() -> None:
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), **SMALL)
    fit(monitor)
    told = texts_of(monitor.show())
    assert "pay" in told
    assert "hours" in told
    row = monitor.history.samples[0]
    assert f"{row['split']} sample {row['index']}" in told
    assert texts_of(monitor.show(-1)) != told


@pytest.mark.parametrize("sample", [6, -7, 0.5, True])
def test_a_sample_that_is_not_there_is_an_error(sample: Any) -> None:
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), **SMALL)
    with pytest.raises(ArgumentError, match="nothing was measured so far"):
        monitor.show()
    fit(monitor)
    with pytest.raises(ArgumentError, match="0 to 5"):
        monitor.show(sample)


@pytest.mark.parametrize("shown", [True, False])
def test_what_may_not_be_shown_is_nowhere(shown: bool, tmp_path: Path) -> None:
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), show_samples=shown, **SMALL)
    trainer = fit(monitor, TensorBoardLogger(tmp_path))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    (file,) = tmp_path.rglob("interactions.json")
    monitor.report(tmp_path / "live.html")
    write_report(file, tmp_path / "later.html")
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)["callbacks"]
    seen = [file.read_text(), *((tmp_path / name).read_text() for name in ("live.html", "later.html"))]
    seen.append("".join(texts_of(monitor.show(sample)) for sample in range(6)))
    assert [bool(FOUND.search(text)) for text in seen] == [shown] * 4
    assert all("pay" in text for text in seen)
    assert all(("picture" in row) for row in json.loads(file.read_text())["samples"])
    assert not FOUND.search(str(state)), "a checkpoint has no inputs in any case"


def images(name: str, folder: Path) -> list[np.ndarray[Any, Any]]:
    from PIL import Image

    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    if name not in found.Tags()["images"]:
        return []
    return [np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) for event in found.Images(name)]


def test_tensorboard_gets_the_few_at_the_records_with_figures(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), **SMALL)
    fit(monitor, logger)
    drawn, runs = images("interactions/samples", logger.log_dir), images("interactions/run", logger.log_dir)
    assert len(drawn) == len(runs) > 2
    assert drawn[-1].shape[1] >= 800
    assert np.ptp(drawn[-1]) > 200
    assert not np.array_equal(drawn[0], drawn[-1])


@pytest.mark.parametrize("option", [{"log_figures": False}, {"keep_samples": "nothing"}, {"resample": True}], ids=str)
def test_there_is_no_figure_of_samples_that_are_not_kept(option: dict[str, Any], tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), **SMALL, **option)
    fit(monitor, logger)
    assert images("interactions/samples", logger.log_dir) == []
    kept = FOUND.search(next(tmp_path.rglob("interactions.json")).read_text())
    assert bool(kept) is ("log_figures" in option)


class Broken(TabularFeatures):
    """Its picture fails."""

    def picture(self, sample: Tensor, players: Tensor) -> Any:
        raise ValueError("no idea")


def test_a_picture_that_fails_costs_nothing(tmp_path: Path) -> None:
    monitor = TwoPhaseMonitor(Broken("zero"), **SMALL)
    logger = TensorBoardLogger(tmp_path)
    fit(monitor, logger)
    assert len(monitor.history) > 4
    assert not [event for event in monitor.events if event.kind == "probe_failed"]
    assert "no idea" in texts_of(monitor.show())
    assert images("interactions/samples", logger.log_dir)


class Dicing(TabularFeatures):
    """Its picture and its names draw random numbers."""

    def names(self, players: Tensor) -> list[str]:
        torch.rand(1), np.random.rand(), random.random()
        return super().names(players)


@pytest.mark.parametrize("shown", [True, False])
def test_random_numbers_drawn_for_a_picture_change_nothing(shown: bool, tmp_path: Path) -> None:
    weights = []
    for kind in (TabularFeatures, Dicing):
        monitor = TwoPhaseMonitor(kind("zero"), show_samples=shown, **SMALL)
        trainer = fit(monitor, TensorBoardLogger(tmp_path), shuffle=True)
        weights.append(trainer.lightning_module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def odd_table(columns: Any) -> Table:
    class Odd(Table):
        feature_names: Any = columns

    return Odd()


class Raising(Table):
    @property
    def feature_names(self) -> Any:  # type: ignore[override]
        raise RuntimeError("not today")

    @property
    def dataset(self) -> Any:
        raise RuntimeError("not today either")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (odd_table(np.array(["a", "b", "c", "d", "e"])), "c"),
        (odd_table(["a", "b", "c"]), "column 2"),
        (odd_table(["a", "a", "c", "d", "e"]), "column 2"),
        (odd_table(itertools.count()), "column 2"),
        (odd_table(torch.ones(5)), "column 2"),
        (odd_table("abcde"), "column 2"),
        (Raising(), "column 2"),
    ],
    ids=["array", "too few", "twice", "endless", "numbers", "a text", "raises"],
)
def test_names_of_columns_are_texts_as_many_as_there_are(data: Table, name: str) -> None:
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), show_samples=False, **SMALL)
    fit(monitor, data=data)
    picture = monitor.picture("val", 0)
    assert picture is not None
    assert picture.names[2] == name


def test_the_names_of_the_module_serve_where_those_of_the_data_do_not_fit() -> None:
    net = table_net()
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), show_samples=False, **SMALL)
    module = Net(net)
    module.feature_names = ["v", "w", "x", "y", "z"]  # type: ignore[assignment]
    fit(monitor, data=odd_table(["features", "label"]), module=module)
    picture = monitor.picture("val", 0)
    assert picture is not None
    assert picture.names == ["v", "w", "x", "y", "z"]


def test_characters_that_turn_the_text_are_left_out() -> None:
    picture = picture_of(TabularFeatures(names=["age\u202e", "pay"]), torch.ones(2), torch.tensor([0, 1]))
    assert picture.names[0] == "age = 1"
    assert "\u202e" not in json.dumps(picture.to_dict(), ensure_ascii=False)


def test_inputs_that_may_not_be_shown_cannot_be_kept() -> None:
    with pytest.raises(ArgumentError, match=r"`keep_samples`.*show_samples=False"):
        TwoPhaseMonitor(show_samples=False, keep_samples="inputs")


def test_other_rows_of_a_result_do_not_show_the_pictures_of_the_first() -> None:
    x = torch.arange(1.0, 7).view(3, 2)
    found = compute_interactions(lambda x: x[:, 0] * x[:, 1], x, torch.zeros(3), TabularFeatures("zero"), num_players=2)
    last = replace(found, **{f.name: getattr(found, f.name)[2:] for f in fields(found) if f.name != "game"})
    assert "column 0 = 5" in found._repr_html_()
    assert "column 0" not in last._repr_html_()


def test_a_figure_that_fails_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise ValueError("no ink")

    monkeypatch.setattr("lightning_interactions.report.loggers.samples_figure", broken)
    monitor = TwoPhaseMonitor(TabularFeatures("zero"), **SMALL)
    logger = TensorBoardLogger(tmp_path)
    with pytest.warns(InteractionsWarning, match="no ink"):
        fit(monitor, logger)
    assert images("interactions/run", logger.log_dir), "the others are drawn"
    assert len(monitor.history) > 4
    assert monitor.history.column("mean_order")[-1] is not None


class Flat(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(size, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("shape", "note"), [((3, 12, 12), ""), ((1, 40, 300), ""), ((5, 12, 12), "(5, 12, 12)")], ids=str
)
def test_images_are_drawn_or_it_is_said_why_not(shape: tuple[int, ...], note: str) -> None:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(24, *shape, generator=generator), torch.arange(24) % 2)
    monitor = TwoPhaseMonitor(ImagePatches(4), **SMALL)
    fit(monitor, data=data, net=Flat(int(np.prod(shape))))
    picture = monitor.picture("val", 0)
    assert picture is not None
    assert (picture.content is None) is bool(note)
    assert note in picture.note
    assert note in texts_of(monitor.show())
    again = type(picture).from_dict(json.loads(json.dumps(picture.to_dict())))
    assert again.names == picture.names


def test_with_a_layer_the_patches_are_those_of_the_input() -> None:
    """Players of a feature map (8, 6, 6) are shown on the image (3, 12, 12) they come from."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(24, 3, 12, 12, generator=generator), torch.arange(24) % 2)
    net = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    monitor = TwoPhaseMonitor(layer="net.1", **SMALL)
    fit(monitor, data=data, net=net)
    picture: Any = monitor.picture("val", 0)
    assert picture.content.pixels.shape == (12, 12, 3)
    for player in range(5):
        ys, xs = np.nonzero(picture.content.players == player)
        assert (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1) == (2, 2)


class Halves(Players):
    """A kind with the two methods a new one needs."""

    def partition(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        return torch.arange(len(sample)) % 3

    def mask(self, sample: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        from lightning_interactions.players.base import with_background

        return torch.where(with_background(coalitions)[:, players], sample, 0.0)


def test_a_kind_of_ones_own_has_a_list_of_bars() -> None:
    monitor = TwoPhaseMonitor(Halves(), **SMALL | {"num_players": 3})
    fit(monitor)
    assert monitor.picture("val", 0).names == ["player 0", "player 1", "player 2"]  # type: ignore[union-attr]
    assert "player " in texts_of(monitor.show())
