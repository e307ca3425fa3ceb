"""Every logger, real: what it stored is read back and compared with the history."""

from __future__ import annotations

import csv
import json
import math
import struct
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from models import fit, loaders, small_monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_interactions import (
    ArgumentError,
    InteractionsWarning,
    PhaseEvent,
    RunRecord,
    TrackioAlert,
    TwoPhaseMonitor,
    WandbAlert,
    log_histogram,
)
from lightning_interactions.report.loggers import Loggers
from lightning_interactions.report.sinks import sink_of
from lightning_interactions.report.words import event_markdown

EVENT = PhaseEvent("overfitting", 3, 3, 4, {"gap_growth": 0.5}, "Epoch 3: it overfits.")
KEYS = "mean_order", "mean_order_lower", "mean_order_upper", "overfitting_risk", "strength/order_02_neg"


def small_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1])
    return figure


def columns(monitor: TwoPhaseMonitor) -> dict[str, list[float]]:
    return {monitor.options.names.full(key): monitor.history.column(key) for key in KEYS}


def assert_kept(text: str, monitor: TwoPhaseMonitor) -> None:
    """The file a run leaves behind holds the whole history."""
    run = RunRecord.from_json(text)
    plain = monitor.history.to_dict().items()  # JSON has no nan
    kept = {key: [None if isinstance(x, float) and math.isnan(x) else x for x in column] for key, column in plain}
    assert run.history == kept
    assert run.settings["num_samples"] == 6


def test_tensorboard(tmp_path: Path) -> None:
    monitor = small_monitor()
    trainer = fit(monitor, logger=TensorBoardLogger(tmp_path))
    events = EventAccumulator(trainer.log_dir, size_guidance={"tensors": 0, "scalars": 0}).Reload()
    for tag, column in columns(monitor).items():
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(column, rel=1e-6)
    (config,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    (category,) = layout.category
    assert category.title == "interactions"
    charts = {chart.title.split(" (")[0].split(",")[0]: chart for chart in category.chart}
    assert set(charts) == {"Mean order", "Loss gap", "Overfitting risk"}
    band, line = charts["Mean order"].margin.series
    detail = "interactions_detail/"
    bounds = f"{detail}mean_order_lower", f"{detail}mean_order_upper"
    assert (band.value, band.lower, band.upper) == ("interactions/mean_order", *bounds)
    assert {line.value, line.lower, line.upper} == {f"{detail}boundary_line"}
    scalars = set(events.Tags()["scalars"])
    assert {band.value, band.lower, band.upper} <= scalars
    for chart in ("Loss gap", "Overfitting risk"):
        assert {tag.strip("^$") for tag in charts[chart].multiline.tag} <= scalars
    assert_kept((Path(trainer.log_dir) / "interactions.json").read_text(), monitor)


def test_two_splits_have_a_band_each(tmp_path: Path) -> None:
    trainer = fit(small_monitor(watch="both"), logger=TensorBoardLogger(tmp_path), max_epochs=1)
    events = EventAccumulator(trainer.log_dir, size_guidance={"tensors": 0}).Reload()
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    bands = [series for chart in layout.category[0].chart for series in chart.margin.series]
    values = ["interactions/val/mean_order", "interactions/train/mean_order", "interactions_detail/boundary_line"]
    assert [band.value for band in bands] == values
    assert {tag for band in bands[:2] for tag in (band.value, band.lower, band.upper)} <= set(events.Tags()["scalars"])


def test_csv(tmp_path: Path) -> None:
    monitor = small_monitor()
    with pytest.warns(InteractionsWarning, match="CSVLogger can show neither") as caught:
        trainer = fit(monitor, logger=CSVLogger(tmp_path))
    assert sum(issubclass(item.category, InteractionsWarning) for item in caught) == 1
    with open(Path(trainer.log_dir) / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("interactions/mean_order")]
    for tag, column in columns(monitor).items():
        assert [float(row[tag]) for row in rows] == pytest.approx(column, rel=1e-6)
    assert_kept((Path(trainer.log_dir) / "interactions.json").read_text(), monitor)


def wandb_records(file: Path) -> Iterator[Any]:
    """W&B keeps LevelDB's log format: blocks of 32 KiB, records of checksum, length, type and data."""
    from wandb.proto import wandb_internal_pb2

    data, place, part = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


def wandb_log(folder: Path) -> list[Any]:
    (file,) = folder.rglob("*.wandb")
    records: list[Any] = []
    deadline = time.monotonic() + 30  # its service writes on for a moment after `finish`
    while not any(record.WhichOneof("record_type") == "exit" for record in records) and time.monotonic() < deadline:
        time.sleep(0.1)
        records = list(wandb_records(file))
    return records


def wandb_history(records: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                found.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    return found


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    monitor = small_monitor()
    try:
        logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
        fit(monitor, logger=logger)
        Loggers([logger], "interactions/").event(EVENT, step=4)
        alert = WandbAlert(title="run 7")
        for _ in range(2):  # the second one is throttled
            alert.send(EVENT)
    finally:
        wandb.finish()
    records = wandb_log(tmp_path)
    (told,) = [record.alert for record in records if record.WhichOneof("record_type") == "alert"]
    assert (told.title, told.text, told.level) == ("run 7: overfitting", "Epoch 3: it overfits.", "WARN")
    found = wandb_history(records)
    for tag, column in columns(monitor).items():
        assert found[tag] == pytest.approx(column, rel=1e-6)
    share = np.array(monitor.history.column("strength")).sum(1)
    share /= share.sum(1, keepdims=True)
    assert found["interactions/order_distribution/_type"] == ["histogram"] * 3
    assert np.array(found["interactions/order_distribution/values"]) == pytest.approx(share, rel=1e-6)
    assert found["interactions/order_distribution/bins"] == [[0.5, 1.5, 2.5, 3.5, 4.5]] * 3
    assert found["interactions/run/_type"][0] == "image-file"
    assert list(tmp_path.rglob("media/images/interactions/run*.png"))
    (table,) = tmp_path.rglob("media/table/interactions/events*.table.json")
    assert json.loads(table.read_text())["data"] == [[4, event_markdown(EVENT)]]
    (kept,) = tmp_path.rglob("files/interactions.json")
    assert_kept(kept.read_text(), monitor)


@pytest.mark.parametrize("stream", [False, True], ids=["epochs", "steps"])
def test_wandb_drops_nothing_that_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """Records inside of the first epoch wait for its validation, while Lightning logs on."""
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    monitor = small_monitor(every_n_epochs=None)
    options: dict[str, Any] = {"max_epochs": -1, "max_steps": 12, "val_check_interval": 8} if stream else {}
    try:
        data = loaders(train=3200) if stream else loaders()
        fit(monitor, logger=WandbLogger(project="test", save_dir=tmp_path, offline=True), data=data, **options)
    finally:
        wandb.finish()
    found: dict[str, list[tuple[int, float]]] = {}
    for record in wandb_log(tmp_path):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for key in row:
                found.setdefault(key, []).append((json.loads(row.get("trainer/global_step", "-1")), row[key]))
    steps = monitor.history.column("step")
    assert len(steps) > 6
    for tag, column in columns(monitor).items():
        assert [step for step, _ in found[tag]] == steps, "in order, each at its own step"
        assert [json.loads(value) for _, value in found[tag]] == pytest.approx(column, rel=1e-6)
    for tag in ("interactions/order_distribution/_type", "interactions_detail/histogram/order_01/_type"):
        assert [step for step, _ in found[tag]] == steps
    drawn = [step for step, _ in found["interactions/run/_type"]]
    assert drawn == sorted(drawn)
    assert [step for step, _ in found["train_loss_step"]] == list(range(12)), "nor anything of the user's"


class TrackioLogger(Logger):
    """What people write, as Lightning has none."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self.project = project

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return "run"

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        import trackio

        trackio.init(project=self.project, name="run", embed=False, auto_log_cpu=False, auto_log_gpu=False)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        import trackio

        trackio.log(dict(metrics), step=step)


def test_trackio_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trackio = pytest.importorskip("trackio", reason="Trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    logger, monitor, alert = TrackioLogger("test"), small_monitor(every_n_epochs=None), TrackioAlert(title="run 7")
    logger.log_hyperparams({})
    try:
        fit(monitor, logger=logger)
        Loggers([logger], "interactions/").event(EVENT, step=4)
        for _ in range(2):  # the second one is throttled
            alert.send(EVENT)
        assert log_histogram(logger, "sizes", [3, 0, 1.5], [0, 1, 2, 4], step=10)
    finally:
        trackio.finish()
    (told,) = SQLiteStorage.get_alerts("test", "run")
    assert (told["title"], told["text"], told["level"]) == ("run 7: overfitting", "Epoch 3: it overfits.", "warn")
    found: dict[str, list[tuple[int, Any]]] = {}
    for row in SQLiteStorage.get_logs("test", "run"):
        for key, value in row.items():
            found.setdefault(key, []).append((row["step"], value))
    steps = monitor.history.column("step")
    for tag, column in columns(monitor).items():
        assert [step for step, _ in found[tag]] == steps
        assert [value for _, value in found[tag]] == pytest.approx(column, rel=1e-6)
    share = np.array(monitor.history.column("strength")).sum(1)
    share /= share.sum(1, keepdims=True)
    assert [step for step, _ in found["interactions/order_distribution"]] == steps
    kept = [value["values"] for _, value in found["interactions/order_distribution"]]
    assert np.array(kept) == pytest.approx(share, rel=1e-6)
    assert {tuple(value["bins"]) for _, value in found["interactions/order_distribution"]} == {
        (0.5, 1.5, 2.5, 3.5, 4.5)
    }
    assert found["sizes"] == [(10, {"_type": "trackio.histogram", "bins": [0, 1, 2, 4], "values": [3, 0, 1.5]})]
    assert found["interactions/events"] == [(4, {"_type": "trackio.markdown", "_value": event_markdown(EVENT)})]
    picture = trackio.utils.MEDIA_DIR / found["interactions/run"][-1][1]["file_path"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_mlflow_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(experiment_name="test", tracking_uri=f"file:{tmp_path}")
    monitor = small_monitor()
    fit(monitor, logger=logger)
    for tag, column in columns(monitor).items():
        stored = logger.experiment.get_metric_history(logger.run_id, tag)
        assert [metric.value for metric in stored] == pytest.approx(column, rel=1e-6)
        assert [metric.step for metric in stored] == monitor.history.column("step")
    (run,) = tmp_path.rglob("artifacts/interactions/run.png")
    assert run.read_bytes().startswith(b"\x89PNG")
    Loggers([logger], "interactions/").event(EVENT, step=4)
    (told,) = tmp_path.rglob("artifacts/interactions/events/step_00000004.md")
    assert told.read_text() == event_markdown(EVENT)
    (kept,) = tmp_path.rglob("artifacts/interactions.json")
    assert_kept(kept.read_text(), monitor)
    assert log_histogram(logger, "sizes", [1, 2], [0, 1, 3], step=5)
    (stored_histogram,) = tmp_path.rglob("artifacts/sizes/step_00000005.json")
    assert json.loads(stored_histogram.read_text()) == {"step": 5, "edges": [0, 1, 3], "counts": [1, 2]}


def test_comet_offline(tmp_path: Path) -> None:
    comet_ml = pytest.importorskip("comet_ml", reason="Comet is not installed")
    experiment = comet_ml.OfflineExperiment(
        offline_directory=str(tmp_path), api_key="x" * 20, project_name="test", disabled=False,
        log_env_details=False, log_git_metadata=False, display_summary_level=0,
    )  # fmt: skip

    class CometLogger:  # Lightning's own switches everything off with online=False
        pass

    logger: Any = CometLogger()
    logger.experiment = experiment
    assert log_histogram(logger, "whole", [5, 0, 2], [0.5, 1.5, 2.5, 3.5], step=3)
    assert log_histogram(logger, "shares", [0.75, 0.0, 0.25], [0.5, 1.5, 2.5, 3.5], step=3)
    sink_of(logger).file("interactions.json", '{"a": 1}')
    Loggers([logger], "interactions/").event(EVENT, step=4)
    sink_of(logger).figure("interactions/run", small_figure(), step=4)
    experiment.end()
    (archive,) = tmp_path.glob("*.zip")
    stored = zipfile.ZipFile(archive)
    contents = [stored.read(name) for name in stored.namelist()]
    assert any(content.startswith(b"\x89PNG") for content in contents)
    texts = [content.decode(errors="replace") for content in contents]
    assert '{"a": 1}' in texts
    messages = "\n".join(texts)
    assert '"whole"' in messages
    assert '"shares"' in messages
    assert "it overfits" in messages


@pytest.mark.parametrize("options", [{"log_figures": False}, {"logger": False}], ids=["no figures wanted", "no logger"])
def test_nothing_to_warn_of(options: dict[str, Any], tmp_path: Path) -> None:
    # Recorded, not made errors: those the monitor takes for nothing, for they must not stop a run.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figures = options.pop("log_figures", True)
        fit(small_monitor(log_figures=figures), **({"logger": CSVLogger(tmp_path)} | options), max_epochs=1)
    assert [str(item.message) for item in caught if issubclass(item.category, InteractionsWarning)] == []


def test_an_interrupted_run_keeps_its_history(tmp_path: Path) -> None:
    import lightning as L

    class Stop(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 3:
                raise RuntimeError("out of luck")

    monitor, logger = small_monitor(), TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(monitor, logger=logger, callbacks=(Stop(),), max_epochs=5)
    assert monitor.history.column("epoch") == [0, 1, 2]
    assert_kept((Path(logger.log_dir) / "interactions.json").read_text(), monitor)


# -- log_histogram ----------------------------------------------------------------------------------------------------


def test_log_histogram_survives_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert log_histogram(logger, "sizes", [3, 0, 1.5], [0, 1, 2, 4], step=10)
    logger.experiment.flush()
    (event,) = EventAccumulator(logger.log_dir).Reload().Histograms("sizes")
    assert event.step == 10
    assert list(event.histogram_value.bucket) == [3, 0, 1.5]
    assert list(event.histogram_value.bucket_limit) == [1, 2, 4]
    assert event.histogram_value.min == 0


def test_a_logger_that_cannot_is_told_once() -> None:
    class Own:
        pass

    with pytest.warns(InteractionsWarning, match="Own cannot take histograms"):
        assert not log_histogram(Own(), "a", [1], [0, 1], step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not log_histogram(Own(), "b", [1], [0, 1], step=0)


@pytest.mark.parametrize(
    ("counts", "edges", "word"),
    [
        ([1, 2], [0, 1], "counts"),
        ([], [0], "counts"),
        ([-1], [0, 1], "counts"),
        ([np.nan], [0, 1], "counts"),
        ([1], [1, 0], "edges"),
        ([1], [0, np.inf], "edges"),
    ],
)
def test_what_is_no_histogram_is_refused(counts: list[float], edges: list[float], word: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{word}`"):
        log_histogram(None, "x", counts, edges, step=0)
