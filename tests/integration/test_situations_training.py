"""Kinds of training: several loaders, models that remember, and runs that are continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from models import Asks, fit, listening, small_monitor
from situations import (
    ForwardNet,
    StepNet,
    assert_measured,
    assert_off,
    assert_told,
    both,
    columns,
    layers,
    pairs,
    pictures,
    watch,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from lightning_interactions import ArgumentError, BatchError, FeatureMask, InteractionsError


class PlainNet(ForwardNet):
    """Cross-entropy on pairs."""

    def judge(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


# -- loaders -----------------------------------------------------------------------------------------------------------


def test_training_batches_are_views_of_each_sample() -> None:
    class Net(PlainNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            views, wanted = batch
            return F.cross_entropy(self(torch.cat(views)), wanted.repeat(len(views)))

    def views_of(items: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], Tensor]:
        x, y = default_collate(items)
        return [x, x + 0.1 * torch.randn_like(x)], y

    val = both(pairs(columns(seed=3)))["val_dataloaders"]
    run = watch(lambda: Net(layers()), both(pairs(), collate_fn=views_of) | {"val_dataloaders": val})
    assert_measured(run, "the train loss is missing.*the validation loss is judged alone", train=False)


def test_training_batches_come_from_two_loaders() -> None:
    """Those without labels are to be answered alike twice."""

    class Net(PlainNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            known, unknown = batch["known"], batch["unknown"][0]
            return self.judge(known) + (self(unknown) - self(unknown + 0.1)).square().mean()

    unknown = DataLoader([(x,) for x in columns(seed=9)], 12)
    known = both(pairs())
    data = known | {"train_dataloaders": CombinedLoader({"known": known["train_dataloaders"], "unknown": unknown})}
    assert_measured(watch(lambda: Net(layers()), data))


def test_several_validation_loaders() -> None:
    class Net(PlainNet):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    data = both(pairs())
    data["val_dataloaders"] = [data["val_dataloaders"], DataLoader(pairs(5 * columns(seed=2)), 16)]  # type: ignore
    assert_measured(watch(lambda: Net(layers()), data), key="val_loss/dataloader_idx_0")


def test_no_validation_loader() -> None:
    data = {"train_dataloaders": both(pairs())["train_dataloaders"]}
    run = watch(lambda: PlainNet(layers()), data)
    assert_told(run, "there is no validation loader .*, so the training samples are watched")
    assert len(run.monitor.history) == 2


def test_images_of_different_size_come_one_at_a_time() -> None:
    class Net(PlainNet):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                                           nn.Linear(16, 2)))  # fmt: skip

    generator = torch.Generator().manual_seed(0)
    sides = torch.randint(8, 14, (24, 2), generator=generator).tolist()
    items = [(torch.randn(1, *side, generator=generator), i % 2) for i, side in enumerate(sides)]
    crops = [(image[:, :8, :8], label) for image, label in items]
    data = both(crops, size=8) | {"val_dataloaders": DataLoader(items, 1)}  # type: ignore[arg-type]
    assert_measured(watch(Net, data))


# -- models that remember ----------------------------------------------------------------------------------------------


def test_a_state_is_carried_from_batch_to_batch() -> None:
    class Net(PlainNet):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head, self.state = nn.GRUCell(5, 8), nn.Linear(8, 3), None

        def on_train_epoch_start(self) -> None:
            self.state = None

        def on_validation_epoch_start(self) -> None:
            self.state = None

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(x, self.state)
            self.state = state.detach()
            return self.head(state)

    run = watch(Net, both(pairs(columns(16)), size=16))
    assert_measured(run)  # one batch: every sample begins anew
    assert_measured(watch(Net), rel=0.05)  # in the step those of later batches began with a state of others


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_forward_hook_collects_features(where: str) -> None:
    """They are compared with the labels at the end of the epoch, and must be as many."""
    elsewhere: list[Tensor] = []

    class Net(PlainNet):
        def __init__(self) -> None:
            super().__init__(layers())
            self.found: list[Tensor] = []
            self.labels: list[Tensor] = []
            kept = self.found if where == "inside" else elsewhere
            self.net[1].register_forward_hook(lambda m, i, out: None if m.training else kept.append(out.detach()))

        def on_validation_epoch_start(self) -> None:
            for kept in (self.found, self.labels, elsewhere):
                kept.clear()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.labels.append(batch[1])

        def on_validation_epoch_end(self) -> None:
            features = torch.cat(self.found if where == "inside" else elsewhere)
            self.log("margin", features[torch.cat(self.labels) == 1].mean())

    assert_measured(watch(Net))


def test_dropout_is_left_on() -> None:
    class Net(PlainNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.net[2](F.dropout(self.net[:2](x), 0.5))

    run = watch(lambda: Net(layers()))
    assert_told(run, "answers at random in evaluation mode .*dropout that is left on")
    assert len(run.monitor.history) == 2


def test_answers_depend_on_the_batch() -> None:
    class Net(PlainNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.net((x - x.mean(0)) / x.std(0))

    run = watch(lambda: Net(layers()))
    assert_told(run, "answers otherwise than in the step.*depend on the other samples of the batch")


# -- no game -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("validates", [False, True])
def test_adversaries(labels: bool, validates: bool) -> None:
    class Net(StepNet):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.maker, self.critic = layers(3, 5), layers(5, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            for number, optimizer in enumerate(self.optimizers()):
                made = self.critic(self.maker(torch.randn(len(batch[0]), 3)))
                loss = F.softplus(-made).mean() if number else F.softplus(made).mean() + self.real(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def real(self, batch: Any) -> Tensor:
            return F.softplus(-self.critic(batch[0])).mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_real", self.real(batch))

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (self.critic, self.maker)]

    data = both([(x, y) if labels else (x,) for x, y in pairs()])
    if not validates:
        del data["val_dataloaders"]
    assert_off(watch(Net, data), "several optimizers and no targets that fit")


def test_two_views_without_labels() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            first, second = (F.normalize(self(view), dim=1) for view in batch)
            return F.cross_entropy(first @ second.T, torch.arange(len(first)))

    run = watch(lambda: Net(layers(5, 8)), both([(x, x + 0.1) for x in columns()]))
    assert_off(run, r"no targets \(self-supervised learning\)")


def test_segmentation_without_labels() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return self(batch).square().mean()

    run = watch(lambda: Net(nn.Conv2d(1, 2, 3, padding=1)), both(list(pictures(16))))
    assert_off(run, r"numbers for every position \(16, 2, 6, 6\).*`target_fn=batch -> labels` \(16, 6, 6\)")


def test_object_detection() -> None:
    class Net(StepNet):
        """Takes lists; returns its losses in training, else boxes."""

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
            found = self.net(torch.stack([image.mean((1, 2)) for image in images]))
            if targets is None:
                return [{"boxes": row.unsqueeze(0), "scores": row[:1]} for row in found]
            return {"box_loss": (found - torch.cat([target["boxes"] for target in targets])).square().mean()}

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(*batch)["box_loss"]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_boxes", float(len(self(batch[0]))), batch_size=1)

    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 8 + i % 3, 8, generator=generator) for i in range(16)]
    items = [(x, {"boxes": torch.rand(1, 4, generator=generator), "labels": torch.tensor([1])}) for x in images]
    data = both(items, size=4, collate_fn=lambda items: tuple(zip(*items, strict=True)))
    assert_off(watch(lambda: Net(nn.Linear(1, 4)), data), r"boxes \(1, 4\), and object detection is not supported")


class Graph:
    """Nodes of several graphs, as the libraries for them have it."""

    def __init__(self, items: list[tuple[Tensor, Tensor]]) -> None:
        x, self.y = default_collate(items)
        self.x = x.flatten().unsqueeze(1)
        self.edge_index = torch.arange(len(self.x)).repeat(2, 1)
        self.batch = torch.arange(len(items)).repeat_interleave(5)


def test_graphs() -> None:
    class Net(StepNet):
        def forward(self, graph: Graph) -> Tensor:
            nodes = self.net(graph.x)
            return torch.zeros(len(graph.y), 3).index_add(0, graph.batch, nodes)

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch), batch.y)

    assert_off(watch(lambda: Net(layers(1, 3)), both(pairs(), collate_fn=Graph)), "graphs are not supported")


# -- mistakes ----------------------------------------------------------------------------------------------------------


WRONG = {
    "input": ({"input": "pixels"}, ArgumentError, "`input`.*the name or position of a tensor"),
    "players": ({"players": FeatureMask([0, 0, 1, 1])}, BatchError, "mask"),
    "target": ({"target": 7}, ArgumentError, "`target`.*an index from 0 to 2"),
    "layer": ({"layer": "net.9"}, ArgumentError, "net.9"),
    "target_fn": ({"target_fn": lambda batch: batch["label"]}, BatchError, "`target_fn` raised TypeError"),
    "forward_fn": ({"forward_fn": lambda module, x: module(x[:, :2])}, InteractionsError, "raised RuntimeError"),
}


@pytest.mark.parametrize(
    ("name", "sanity"), [(name, steps) for name in WRONG for steps in (2, 0) if steps or not name.endswith("_fn")]
)
def test_a_wrong_choice_is_an_error_before_training(name: str, sanity: int) -> None:
    options, error, words = WRONG[name]
    model = PlainNet(layers())
    with listening() as told, pytest.raises(error, match=words):
        fit(small_monitor(on_error="warn", **options), model=model, data=both(pairs()), num_sanity_val_steps=sanity)
    assert told == []
    assert model.global_step <= (0 if sanity else 1)  # without the check, the first step shows how the model is called


@pytest.mark.parametrize("name", [name for name in WRONG if name.endswith("_fn")])
def test_a_function_is_known_to_be_wrong_when_validation_batches_pass(name: str) -> None:
    """Training batches may be others, so nothing is said of these."""
    options, _, words = WRONG[name]
    assert_off(watch(lambda: PlainNet(layers()), monitor=options, num_sanity_val_steps=0), words)


# -- runs that are continued -------------------------------------------------------------------------------------------


def in_two_parts(model: Any, folder: Path, data: dict[str, Any]) -> tuple[Any, list[str], list[str]]:
    """Two epochs, and two more from a checkpoint; the monitor of the second part, and what was told in either."""
    keeper = ModelCheckpoint(folder, save_top_k=-1)
    with listening() as first:
        fit(small_monitor(on_error="warn", on_event=None), model=model, data=data, max_epochs=4,
            callbacks=(keeper, Asks(1)), enable_checkpointing=True)  # fmt: skip
    monitor = small_monitor(on_error="warn", on_event=None)
    with listening() as second:
        trainer = fit(monitor, model=model, data=data, max_epochs=4, ckpt_path=keeper.best_model_path)
    assert trainer.state.finished
    assert trainer.current_epoch == 4
    return monitor, first, second


def test_a_run_that_is_not_measured_is_continued(tmp_path: Path) -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return self(batch).square().mean()

    items = list(pictures(16))
    monitor, first, second = in_two_parts(lambda: Net(nn.Conv2d(1, 2, 3, padding=1)), tmp_path, both(items))
    assert len(monitor.history) == 0
    assert len(first) == len(second) == 1
    assert first == second
    assert "numbers for every position" in first[0]


def test_a_run_whose_logged_loss_decides_is_continued(tmp_path: Path) -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1], reduction="sum")

    data = both(pairs()) | {"train_dataloaders": DataLoader(pairs(), 16)}  # type: ignore[arg-type]
    whole = small_monitor(on_error="warn", on_event=None)
    with listening() as told:
        fit(whole, model=lambda: Net(layers()), data=data, max_epochs=4)
    assert len(told) == 1
    monitor, first, second = in_two_parts(lambda: Net(layers()), tmp_path, data)
    assert first == told
    assert second == []
    ours, theirs = monitor.history.to_dict(), whole.history.to_dict()
    for key in set(theirs) - {"seconds"}:
        assert torch.allclose(torch.tensor(ours[key]), torch.tensor(theirs[key]), rtol=1e-6, equal_nan=True), key
