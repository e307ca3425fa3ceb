"""Kinds of outputs, targets and losses: ours is the logged one, or the logged one decides and that is told."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
    thirds,
    watch,
)
from torch import Tensor, nn
from torch.utils.data import default_collate

DECIDES = r"its validation loss \(.*\) is not the logged 'val_loss' \(.*\), which is judged instead"


class LossNet(ForwardNet):
    """Any loss of outputs and targets; one that is a module belongs to the model."""

    def __init__(self, net: nn.Module, criterion: Any) -> None:
        super().__init__(net)
        self.criterion = criterion

    def judge(self, batch: Any) -> Tensor:
        return self.criterion(self(batch[0]), batch[1])


def halves(x: Tensor) -> Tensor:
    return (x[:, 0] * x[:, 1] > 0).float()


# -- outputs -----------------------------------------------------------------------------------------------------------


def nll_of_probabilities(p: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(p.log(), y)


def bce_of_one(p: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy(p.squeeze(1), y)


@pytest.mark.parametrize(
    ("last", "outputs", "criterion"),
    [
        pytest.param(nn.Softmax(1), 3, nll_of_probabilities, id="softmax"),
        pytest.param(nn.LogSoftmax(1), 3, F.nll_loss, id="log-softmax"),
        pytest.param(nn.Sigmoid(), 1, bce_of_one, id="sigmoid"),
    ],
)
def test_outputs_are_no_logits(last: nn.Module, outputs: int, criterion: Any) -> None:
    x = columns()
    data = both(pairs(x, thirds(x) if outputs == 3 else halves(x)))
    assert_measured(watch(lambda: LossNet(nn.Sequential(*layers(5, outputs), last), criterion), data))


def test_outputs_are_probabilities_of_several_labels() -> None:
    x = columns()
    data = both(pairs(x, (x[:, :4] > 0.3).float()))
    net = partial(nn.Sequential, nn.Linear(5, 4), nn.Sigmoid())
    assert_measured(watch(lambda: LossNet(net(), nn.BCELoss()), data))


def test_outputs_are_embeddings_with_a_loss_of_their_own() -> None:
    class Net(ForwardNet):
        """Samples of one class belong together."""

        def judge(self, batch: Any) -> Tensor:
            found = F.normalize(self(batch[0]), dim=1)
            alike = (batch[1].unsqueeze(0) == batch[1].unsqueeze(1)).float()
            return F.binary_cross_entropy_with_logits(8 * found @ found.T, alike)

    run = watch(lambda: Net(layers(5, 8)))
    assert_told(run, DECIDES)
    assert run.monitor.history.column("val_loss")[-1] == pytest.approx(run.logged)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_the_criterion_smooths_labels() -> None:
    assert_measured(watch(lambda: LossNet(layers(), nn.CrossEntropyLoss(label_smoothing=0.2))))


def test_the_criterion_weighs_classes() -> None:
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0, 1.0]))
    data = both(pairs(), size=48)  # such a mean is one over the weights of a batch
    assert_measured(watch(lambda: LossNet(layers(), criterion), data))


def test_the_criterion_weighs_what_is_rare() -> None:
    def one(p: Tensor, y: Tensor) -> Tensor:
        return criterion(p.squeeze(1), y)

    class Net(LossNet):
        def judge(self, batch: Any) -> Tensor:
            return self.criterion(self(batch[0]).squeeze(1), batch[1])

    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(4.0))
    x = columns()
    assert_measured(watch(lambda: Net(layers(5, 1), criterion), both(pairs(x, halves(x)))))


def test_binary_targets_are_smoothed() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0]).squeeze(-1), batch[1])

    x = columns()
    assert_measured(watch(lambda: Net(layers(5, 1)), both(pairs(x, 0.05 + 0.9 * halves(x)))))


def test_squared_errors_are_added_up_over_outputs() -> None:
    def summed(out: Tensor, y: Tensor) -> Tensor:
        return (out - y).square().sum(1).mean()

    x = columns()
    data = both(pairs(x, torch.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3]], 1)))
    assert_measured(watch(lambda: LossNet(layers(), summed), data, {"score": "output", "target": 0}))


def test_several_numbers_are_predicted_and_none_is_chosen() -> None:
    x = columns()
    data = both(pairs(x, torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)))
    assert_off(watch(lambda: LossNet(layers(5, 2), F.mse_loss), data), "returns 2 numbers .*`target=0` to `target=1`")
    assert_measured(watch(lambda: LossNet(layers(5, 2), F.mse_loss), data, {"target": 1}))


def test_losses_are_added_up_over_samples() -> None:
    run = watch(lambda: LossNet(layers(), partial(F.cross_entropy, reduction="sum")))
    assert_told(run, DECIDES)
    assert run.monitor.history.column("val_loss")[-1] == pytest.approx(run.logged)


def test_the_loss_is_logged_at_the_end_of_the_epoch_only() -> None:
    class Net(ForwardNet):
        def __init__(self, net: nn.Module, decay: float) -> None:
            super().__init__(net)
            self.decay = decay

        def on_validation_epoch_start(self) -> None:
            self.losses: list[Tensor] = []

        def judge(self, batch: Any) -> Tensor:
            penalty = sum(weights.square().sum() for weights in self.parameters())
            return F.cross_entropy(self(batch[0]), batch[1]) + self.decay * penalty

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.losses.append(self.judge(batch))

        def on_validation_epoch_end(self) -> None:
            self.log("val_loss", torch.stack(self.losses).mean())

    assert_measured(watch(lambda: Net(layers(), 0.0)))
    run = watch(lambda: Net(layers(), 0.1))
    assert_told(run, DECIDES)
    assert run.monitor.history.column("val_loss")[-1] == pytest.approx(run.logged)


# -- targets -----------------------------------------------------------------------------------------------------------


def test_images_are_mixed_in_training_only() -> None:
    """Their targets are probabilities there, and classes in validation."""

    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    def mixed(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = default_collate(items)
        share, one_hot = torch.rand(()), F.one_hot(y, 3).float()
        return share * x + (1 - share) * x.flip(0), share * one_hot + (1 - share) * one_hot.flip(0)

    data = both(pairs(), collate_fn=mixed) | {"val_dataloaders": both(pairs(columns(seed=3)))["val_dataloaders"]}
    assert_measured(watch(lambda: Net(layers()), data), "look different in every epoch")


def test_images_are_mixed_by_the_training_step() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, share, others = batch[0], float(torch.rand(())), torch.randperm(len(batch[0]))
            out = self(share * x + (1 - share) * x[others])
            return share * F.cross_entropy(out, batch[1]) + (1 - share) * F.cross_entropy(out, batch[1][others])

    assert_measured(watch(lambda: Net(layers())), "look different in every epoch")


@pytest.mark.parametrize("kind", ["numbers", "classes", "labels"])
def test_targets_are_missing(kind: str) -> None:
    x = columns()
    absent = torch.arange(48) % 4 == 1

    def squared(out: Tensor, y: Tensor) -> Tensor:
        known = y.isfinite()
        return (out.squeeze(1)[known] - y[known]).square().mean()

    def labels(out: Tensor, y: Tensor) -> Tensor:
        known = y.isfinite()
        each = F.binary_cross_entropy_with_logits(out, y.nan_to_num(), reduction="none")
        return (each * known).sum() / known.sum()

    few = torch.arange(4) == torch.arange(48).unsqueeze(1) % 4  # one label of each sample
    outputs, criterion, y = {
        "numbers": (1, squared, (x[:, 0] * x[:, 1]).masked_fill(absent, torch.nan)),
        "classes": (3, F.cross_entropy, thirds(x).masked_fill(absent, -100)),
        "labels": (4, labels, (x[:, :4] > 0).float().masked_fill(few, torch.nan)),
    }[kind]
    assert_measured(watch(lambda: LossNet(layers(5, outputs), criterion), both(pairs(x, y))))


def test_all_targets_of_the_first_batch_are_missing() -> None:
    class Net(ForwardNet):
        def judge(self, batch: Any) -> Tensor:
            known = batch[1] != -100
            return F.cross_entropy(self(batch[0])[known], batch[1][known]) if known.any() else 0 * self(batch[0]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss = self.judge(batch)
            if batch_idx:
                self.log("val_loss", loss, batch_size=1)

    x = columns()
    data = both(pairs(x, thirds(x).masked_fill(torch.arange(48) < 16, -100)))
    assert_measured(watch(lambda: Net(layers()), data, num_sanity_val_steps=1))


def test_samples_count_as_often_as_they_occur() -> None:
    x = columns(size=12)
    often = torch.tensor([9, 1, 1, 1, 7, 1, 1, 1, 1, 1, 20, 4])  # 48 in all
    x = x.repeat_interleave(often, 0)
    assert_measured(watch(lambda: LossNet(layers(), F.cross_entropy), both(pairs(x))))


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_the_first_batch_looks_like_another_task(kind: str) -> None:
    x = columns()
    numbers = torch.cat([halves(x[:16]), x[16:, 0] * x[16:, 1] * 3])
    rows = torch.cat([F.one_hot(thirds(x[:16]), 3), (x[16:, :3] > 0).long()]).float()
    numeric = kind == "numbers"
    criterion = (lambda out, y: F.mse_loss(out.squeeze(1), y)) if numeric else F.binary_cross_entropy_with_logits
    net = partial(layers, 5, 1 if numeric else 3)
    assert_measured(watch(lambda: LossNet(net(), criterion), both(pairs(x, numbers if numeric else rows))))


def test_a_handful_of_validation_samples() -> None:
    data = both(pairs(), val=pairs(columns(size=7, seed=4)), size=7)
    run = watch(lambda: LossNet(layers(), F.cross_entropy), data)
    assert_measured(run, "only 7 val samples are in the loss, too few for an alarm")


# -- no game -----------------------------------------------------------------------------------------------------------


def test_masking_changes_nothing() -> None:
    class Net(StepNet):
        """Decides on the columns; the image is there for show."""

        def forward(self, image: Tensor, x: Tensor) -> Tensor:
            return self.net(x) + 0 * image.mean()

        def judge(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0], batch[1]), batch[2])

    items = [(image, x, y) for image, (x, y) in zip(pictures(), pairs(), strict=True)]
    run = watch(lambda: Net(layers()), both(items))
    assert_told(run, r"masking image of shape .* changes the score of no val sample.*`input=`")
    assert_measured(watch(lambda: Net(layers()), both(items), {"input": "x"}))
