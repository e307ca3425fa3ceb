"""More than 16 players: whole trainings in which the mean degree is sampled."""

from __future__ import annotations

import csv
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from identity import Spy, assert_identical, outcome
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from models import (
    Asks,
    ColumnNet,
    PictureNet,
    TaskNet,
    column_data,
    fit,
    picture_loaders,
    small_monitor,
    told_during,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import (
    ArgumentError,
    ImagePatches,
    InteractionMonitor,
    InteractionsWarning,
    Options,
    RunRecord,
    StateError,
    Tokens,
    TwoPhaseMonitor,
    analyze_checkpoints,
    compute_interactions,
    write_report,
)
from lightning_interactions.monitor.session import DECISION_KEYS
from lightning_interactions.report.figures import curves_figure, run_figure

MEASURED = {
    "mean_degree", "mean_degree_error", "mean_degree_lower", "mean_degree_upper", "total_variance", "effect",
    "skipped_samples", "mean_players",
}  # fmt: skip
KEYS = MEASURED | {*DECISION_KEYS, "loss_gap", "train_loss", "val_loss", "seconds"}
FIRST = {"mean_degree", "train_loss", "val_loss", "loss_gap", "phase", "boundary_epoch", "overfitting_risk",
         "val_loss_before_alarm"}  # fmt: skip


def wide_loaders() -> dict[str, Any]:
    return {
        "train_dataloaders": DataLoader(column_data(64, columns=40, seed=1), 16),
        "val_dataloaders": DataLoader(column_data(48, columns=40, seed=2), 16),
    }


Wide = partial(ColumnNet, columns=40)


def train(monitor: TwoPhaseMonitor, folder: Path | None = None, **options: Any) -> Any:
    return fit(monitor, folder, **({"model": Wide, "data": wide_loaders()} | options))


# -- what is found ----------------------------------------------------------------------------------------------------


def test_the_history_has_the_mean_degree_and_no_interactions() -> None:
    monitor = small_monitor(num_players=30)
    train(monitor)
    history = monitor.history.to_dict()
    assert set(history) == KEYS | {"epoch", "step"}
    assert history["epoch"] == [0, 1, 2]
    for low, value, high in zip(*(history[f"mean_degree{end}"] for end in ("_lower", "", "_upper")), strict=True):
        assert low < value < high
    assert history["mean_players"] == [30] * 3
    assert all(x > 0 for key in ("total_variance", "effect", "mean_degree_error") for x in history[key])
    assert monitor.history.samples == []
    assert "<th>mean_degree</th>" in monitor.history._repr_html_()


def test_exact_agrees_with_sampled_through_a_whole_training() -> None:
    """With many pairs the curve is that of the exact run, record by record."""
    exact, sampled = small_monitor(num_players=5), small_monitor(num_players=5, num_pairs=3000)
    for monitor in (exact, sampled):
        fit(monitor, max_epochs=4)
    for key in ("mean_degree", "effect", "val_loss", "mean_players"):
        assert sampled.history.column(key) == pytest.approx(exact.history.column(key), rel=0.03), key


def test_records_share_their_masks() -> None:
    """A network that does not change has the same number at every record, not another draw."""
    monitor = small_monitor(num_players=30)
    train(monitor, model=TaskNet(nn.Linear(40, 3), lr=0.0))
    first, *others = monitor.history.column("mean_degree")
    assert others == pytest.approx([first] * 2, rel=1e-6)
    again = small_monitor(num_players=30, seed=1)
    train(again, model=TaskNet(nn.Linear(40, 3), lr=0.0))
    assert again.history.column("mean_degree")[0] != pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("options", [{"watch": "both"}, {"watch": "train"}, {"resample": True}], ids=str)
def test_other_samples_are_sampled_too(options: dict[str, Any]) -> None:
    monitor = small_monitor(num_players=30, **options)
    train(monitor)
    parts = ("val/", "train/") if options.get("watch") == "both" else ("",)
    assert {part + key for part in parts for key in MEASURED} <= set(monitor.history.to_dict())
    assert all(x > 0 for part in parts for x in monitor.history.column(f"{part}mean_degree"))
    assert len(monitor.detector.state_dict()["orders"]["order"]["values"]) == 3
    run_figure(monitor.record())


@pytest.mark.parametrize("layer", [None, "net.0"])
def test_a_layer_and_patches_of_pixels(layer: str | None) -> None:
    monitor = small_monitor(players=ImagePatches(grid=6, margin=0), layer=layer, num_players=36)
    fit(monitor, model=PictureNet, data=picture_loaders())
    assert monitor.history.column("mean_players") == [36] * 3
    assert all(map(math.isfinite, monitor.history.column("mean_degree")))


class BagOfWords(nn.Module):
    """Adds up what its tokens are worth: the mean degree of a linear score is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 1, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids).sum((1, 2))


def test_texts_of_any_length_play_with_all_their_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 50, (48, 60), generator=generator)
    lengths = torch.randint(4, 61, (48,), generator=generator)
    ids[torch.arange(60) >= lengths[:, None]] = 0
    data = TensorDataset(ids, (ids == 7).any(1).float())
    loader: DataLoader[Any] = DataLoader(data, 16)
    monitor = small_monitor(players=Tokens(mask_token_id=1), num_players=512, num_pairs=400, score="logit")
    model = TaskNet(BagOfWords(), nn.functional.binary_cross_entropy_with_logits)
    both = {"train_dataloaders": loader, "val_dataloaders": loader}
    told = told_during(lambda: fit(monitor, model=model, data=both))
    assert any("the mean degree of each is that of its own game" in text for text in told)
    watched = monitor._loop.watchlist.watched["val"].inputs
    assert monitor.history.column("mean_players")[0] == pytest.approx(float((watched > 0).sum(1).double().mean()))
    assert len(set((watched > 0).sum(1).tolist())) > 2, "of different length"
    assert monitor.history.column("mean_degree") == pytest.approx([1] * 3, abs=0.15)


def test_too_few_regions_are_told_with_what_has_more() -> None:
    monitor = small_monitor(num_players=64)
    told = told_during(lambda: fit(monitor, model=PictureNet, data=picture_loaders()))
    text = "num_players=64, but the val samples have only 36 (players=ImagePatches(grid=8, margin=0)"
    assert any(text in said for said in told)
    more = small_monitor(players=ImagePatches(grid=8, margin=0), num_players=64)
    assert told_during(lambda: fit(more, model=PictureNet, data=picture_loaders())) == []
    assert more.history.column("mean_players") == [64] * 3


def test_players_that_do_not_matter_are_told() -> None:
    monitor = small_monitor(num_players=30, on_error="warn")
    model = TaskNet(nn.Linear(40, 3), lr=0.0)
    with torch.no_grad():
        model.net.weight.zero_()
    told = told_during(lambda: train(monitor, model=model))
    assert any("changes the score of no val sample" in text for text in told)
    assert all(map(math.isnan, monitor.history.column("mean_degree")))
    assert monitor.history.column("total_variance") == [0] * 3
    text = monitor.record()
    assert RunRecord.from_json(text.to_json()).is_sampled
    run_figure(text)
    curves_figure(text)


# -- training is not changed, and goes on after a stop --------------------------------------------------------------


@pytest.mark.parametrize("rhythm", [{}, {"every_n_epochs": None}], ids=["validations", "inside"])
def test_training_is_the_same_to_the_bit(rhythm: dict[str, Any]) -> None:
    left = []
    for monitor in (small_monitor(num_players=30, **rhythm), None):
        spy = Spy()
        left.append(outcome(fit(monitor, model=Wide, data=wide_loaders(), callbacks=(spy,)), spy))
        if monitor is not None:
            assert len(monitor.history) >= 3
    assert_identical(*left)


def test_a_resumed_run_has_the_history_of_an_uninterrupted_one(tmp_path: Path) -> None:
    class NoDropout(ColumnNet):
        def __init__(self) -> None:
            super().__init__(columns=40)
            self.net[3] = nn.Identity()

    uninterrupted, resumed = (small_monitor(num_players=30) for _ in range(2))
    train(uninterrupted, model=NoDropout, max_epochs=6)
    keeper = ModelCheckpoint(tmp_path, filename="stop")
    stopped: dict[str, Any] = {"callbacks": (keeper, Asks(2)), "enable_checkpointing": True}
    train(small_monitor(num_players=30), model=NoDropout, max_epochs=6, **stopped)
    train(resumed, model=NoDropout, max_epochs=6, ckpt_path=str(tmp_path / "stop.ckpt"))
    one, other = resumed.history.to_dict(), uninterrupted.history.to_dict()
    assert set(one) == set(other)
    for key in set(one) - {"seconds"}:
        assert one[key] == pytest.approx(other[key], rel=1e-6, nan_ok=True), key
    assert one["epoch"] == list(range(6))
    assert resumed.detector.evidence == pytest.approx(uninterrupted.detector.evidence, rel=1e-3, nan_ok=True)
    for options in ({"num_players": 30, "num_pairs": 32}, {"num_players": 31}):
        with pytest.raises(StateError, match="now 3"):
            train(small_monitor(**options), ckpt_path=str(tmp_path / "stop.ckpt"))


def test_an_exact_run_is_not_continued_with_samples() -> None:
    exact = small_monitor(num_players=5)
    fit(exact)
    state = exact.state_dict()
    with pytest.raises(StateError, match=r"pairs=None \(now 16\)"):
        small_monitor(num_players=5, num_pairs=16).load_state_dict(state)
    del state["settings"]["pairs"]  # as in states from before there was a choice
    small_monitor(num_players=5).load_state_dict(state)
    with pytest.raises(StateError, match=r"pairs=None \(now 16\)"):
        small_monitor(num_players=5, num_pairs=16).load_state_dict(state)


def test_saved_checkpoints_are_analysed_as_they_were_live(tmp_path: Path) -> None:
    live = small_monitor(num_players=30)
    keeper = ModelCheckpoint(tmp_path, save_top_k=-1)
    train(live, callbacks=(keeper,), enable_checkpointing=True)
    data = wide_loaders()
    found = analyze_checkpoints(
        Wide(), (data["train_dataloaders"], data["val_dataloaders"]), tmp_path, sanity_val_steps=0, progress=False,
        num_players=30, num_samples=6,
    )  # fmt: skip
    for key in ("mean_degree", "mean_degree_error", "val_loss"):
        assert found.history.column(key) == pytest.approx(live.history.column(key), rel=1e-5), key


def test_a_plain_loop_is_sampled_too() -> None:
    torch.manual_seed(0)
    net, batch = nn.Linear(40, 2), (torch.randn(12, 40), torch.arange(12) % 2)
    monitor = InteractionMonitor(Options(num_samples=6, num_players=40), tell=lambda text: None)
    for epoch in range(3):
        monitor.observe("val", batch)
        monitor.measure(net, epoch)
    assert monitor.history.column("mean_players") == [40] * 3
    assert monitor.masked_rows() == 6 * (2 + 2 * 96)


# -- where it is told -----------------------------------------------------------------------------------------------


def test_tensorboard_gets_scalars_and_the_figure_of_the_run(tmp_path: Path) -> None:
    monitor = small_monitor(num_players=30)
    trainer = train(monitor, logger=TensorBoardLogger(tmp_path))
    events = EventAccumulator(trainer.log_dir, size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    ours = {tag for tag in tags["scalars"] if tag.startswith("interactions")}
    assert ours == {f"interactions{'' if key in FIRST else '_detail'}/{key}" for key in KEYS}
    logged = [event.value for event in events.Scalars("interactions/mean_degree")]
    assert logged == pytest.approx(monitor.history.column("mean_degree"))
    assert tags["histograms"] == []
    assert tags["images"] == ["interactions/run"]
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"Sampled mean degree (95 % band" in layout
    assert b"interactions_detail/mean_degree_lower" in layout
    kept = RunRecord.from_json((Path(trainer.log_dir) / "interactions.json").read_text())
    assert kept.is_sampled
    assert kept.curve == pytest.approx(monitor.history.column("mean_degree"))


def test_csv_and_checkpoints_have_the_keys(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(tmp_path, monitor="interactions/mean_degree", mode="min")
    monitor = small_monitor(num_players=30, every_n_epochs=2)
    options: dict[str, Any] = {"logger": CSVLogger(tmp_path), "callbacks": (keeper,), "enable_checkpointing": True}
    with pytest.warns(InteractionsWarning, match="neither histograms nor figures"):
        train(monitor, tmp_path, max_epochs=4, **options)
    assert keeper.best_model_score == pytest.approx(min(monitor.history.column("mean_degree")))
    monitor.history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean_degree"]) for row in rows] == monitor.history.column("mean_degree")
    assert not [key for key in rows[0] if "order" in key]


def test_figures_and_report_say_that_it_is_sampled(tmp_path: Path) -> None:
    monitor = small_monitor(num_players=30)
    train(monitor, max_epochs=5)
    spread, losses = run_figure(monitor.record()).axes[1], run_figure(monitor.record()).axes[2]
    degree = run_figure(monitor.record()).axes[0]
    assert "Sampled mean degree" in degree.get_title()
    assert degree.lines[0].get_ydata().tolist() == pytest.approx(monitor.history.column("mean_degree"))
    variance = monitor.history.column("total_variance")
    assert spread.lines[0].get_ydata().tolist() == pytest.approx([math.sqrt(x) for x in variance])
    assert "sampled" in spread.get_title()
    assert {line.get_label() for line in losses.lines} >= {"training loss", "validation loss"}
    top = curves_figure(monitor.record()).axes[0]
    assert top.get_ylabel() == "sampled mean degree"
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(max(monitor.history.column("mean_degree_upper")))
    monitor.report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    error = monitor.history.column("mean_degree_error")[-1]
    for text in ("Sampled mean degree and risk", f"standard error {error:.2g} at the last record"):
        assert text in html, text
    for text in ("Order distribution", "<script", "ean order", "Solver gap", "Certificate", "Watched samples"):
        assert text not in html, text
    (tmp_path / "run.json").write_text(monitor.record().to_json())
    assert "Sampled mean degree" in write_report(tmp_path / "run.json").read_text()
    shown = monitor._repr_html_()
    assert "Sampled mean degree" in shown
    assert "mean order" not in shown


def test_the_terminal_says_what_is_sampled(caplog: pytest.LogCaptureFixture) -> None:
    monitor = small_monitor(num_players=30, verbose=True)
    train(monitor)
    text = caplog.text
    assert "6 samples x 96 random mask pairs of 30 players" in text
    assert "Sampled mean degree" in text
    assert "mean order" not in text


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [{"noise_bound": 0.0}, {"salience": 0.1}, {"scale": "difference"}, {"tolerance": 0.01},
     {"reference": nn.Linear(2, 2)}, {"extras": ["persistence"]}],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
@pytest.mark.parametrize("sampled", [{"num_players": 17}, {"num_players": 8, "num_pairs": 32}], ids=["many", "pairs"])
def test_options_of_interactions_are_refused(option: dict[str, Any], sampled: dict[str, Any]) -> None:
    (name,) = option
    why = "num_pairs=32" if "num_pairs" in sampled else "num_players=17"
    with pytest.raises(ArgumentError, match=f"no argument `{name}` with {why}: .*there are no interactions") as caught:
        TwoPhaseMonitor(**option, **sampled)
    assert "at most 16 players" in str(caught.value)
    TwoPhaseMonitor(**option, num_players=16)
    TwoPhaseMonitor(layer="net.0", show_samples=False, **sampled)


def test_a_picture_of_a_sample_is_refused() -> None:
    monitor = small_monitor(num_players=30)
    train(monitor)
    with pytest.raises(ArgumentError, match="sampled from random masks, so there are no interactions to draw"):
        monitor.show()


def test_interactions_of_more_players_point_to_the_mean_degree() -> None:
    with pytest.raises(ArgumentError, match=r"but got 17.*Up to 512 have a mean degree, sampled by `TwoPhaseMonitor`"):
        compute_interactions(nn.Linear(40, 2), torch.randn(2, 40), torch.tensor([0, 1]), num_players=17)


def test_settings_are_kept_with_the_run() -> None:
    monitor = small_monitor(num_players=30)
    train(monitor)
    settings = json.loads(monitor.record().to_json())["settings"]
    assert (settings["num_players"], settings["num_pairs"]) == (30, None)
