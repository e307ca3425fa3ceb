"""Is the game the user's: the kind of task, decided on many samples, and whether the loss is the logged one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import mlp, on_ranks
from torch import Tensor, nn

from lightning_interactions.measure import values
from lightning_interactions.measure.judge import Verdict, compare_losses, settle_tasks
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.samples import Samples, join
from lightning_interactions.model.model import Model
from lightning_interactions.model.score import log_odds, output
from lightning_interactions.model.task import Task, find_task

SIZE = 200


def samples(targets: Tensor, seed: int = 0, counts: Tensor | None = None) -> Samples:
    x = torch.randn(len(targets), 5, generator=torch.Generator().manual_seed(seed))
    return Samples(x, targets, torch.arange(len(targets)), counts=counts)


def network(classes: int = 3, scale: float = 8.0) -> nn.Sequential:
    """Sure of itself, so that different losses differ clearly."""
    net = mlp(classes=classes)
    with torch.no_grad():
        net[2].weight.mul_(scale)
    return net


def outputs_of(module: nn.Module, some: Samples) -> Tensor:
    with torch.no_grad():
        return module(some.inputs).double()


def classes(size: int = SIZE, top: int = 3) -> Tensor:
    return torch.randint(top, (size,), generator=torch.Generator().manual_seed(7))


# -- what kind of task -----------------------------------------------------------------------------------------------


def settled(module: nn.Module, watched: Any, losses: Any = None, **options: Any) -> tuple[dict[str, Task], str | None]:
    usual = {"score": "log_odds", "target": "label"} | options
    tasks, problem, notes = settle_tasks(Model(module), watched, losses or {}, **usual)
    assert notes == []
    return tasks, problem


def test_the_first_batch_may_mislead() -> None:
    """Nothing but zeros and ones in the first batch, and numbers to predict in those that follow."""
    net, watched = network(1), samples(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert settled(net, {"val": watched})[0]["val"].kind == "binary"
    tasks, problem = settled(net, {"val": watched}, {"val": samples(torch.arange(9.0), 1)})
    assert problem is None
    assert {split: task.kind for split, task in tasks.items()} == {"val": "regression"}
    assert tasks["val"].score is output


def test_probabilities_show_in_many_samples() -> None:
    net = nn.Sequential(network(1), nn.Sigmoid())
    few, many = samples(classes(2, 2)), samples(classes(40, 2))
    assert not settled(net, {"val": few})[0]["val"].probabilities
    assert settled(net, {"val": many})[0]["val"].probabilities


def test_every_split_reads_its_own_targets() -> None:
    """MixUp makes soft labels of the training samples only."""
    hard, soft = classes(8), torch.rand(8, 3).softmax(1)
    tasks, problem = settled(network(), {"val": samples(hard)}, {"val": samples(hard, 1), "train": samples(soft, 2)})
    assert problem is None
    assert {split: (task.kind, task.soft) for split, task in tasks.items()} == {
        "val": ("classes", False), "train": ("classes", True)}  # fmt: skip
    assert torch.equal(tasks["train"].read(soft), soft)
    both, _ = settled(network(), {"train": samples(soft)}, {"val": samples(hard)})
    assert {split: task.soft for split, task in both.items()} == {"train": True, "val": False}


def test_a_split_of_another_kind_has_no_loss_and_it_is_said() -> None:
    wide = torch.zeros(8, 7)
    tasks, problem = settled(network(), {"val": samples(classes(8))}, {"train": samples(wide)})
    assert list(tasks) == ["val"]
    assert str(problem).startswith("the train loss is missing: ")
    assert "(8, 7)" in str(problem)


def test_options_of_the_task_are_kept() -> None:
    loss_fn = lambda z, y: z[:, 0]  # noqa: E731
    tasks, _ = settled(network(), {"val": samples(classes(8))}, score="logit", target=2, loss_fn=loss_fn)
    assert (tasks["val"].score.__name__, tasks["val"].target, tasks["val"].loss_fn) == ("logit", 2, loss_fn)


def noted(columns: int, targets: Tensor) -> list[str]:
    options: dict[str, Any] = {"score": "log_odds", "target": "label"}
    return settle_tasks(Model(network(columns)), {"val": samples(targets)}, {}, **options)[2]


def test_outputs_of_which_most_are_never_a_target_are_told() -> None:
    """They look like an embedding: of 32 samples and more some should be of the upper half of all classes."""
    (note,) = noted(16, classes(32, 4))
    assert "returns 16 numbers, but the targets of 32 samples name only 4 of them" in note
    assert "`forward_fn=" in note
    assert not note.endswith(".")


@pytest.mark.parametrize(
    ("columns", "targets"),
    [(15, classes(32, 4)), (16, classes(31, 4)), (16, torch.arange(32) % 9), (16, torch.randn(40, 16).softmax(1)),
     (1, classes(40, 2))],
    ids=["few outputs", "few samples", "upper half", "soft", "binary"],
)  # fmt: skip
def test_outputs_that_may_be_classes_are_not_doubted(columns: int, targets: Tensor) -> None:
    assert noted(columns, targets) == []


def test_outputs_come_in_the_order_of_the_samples() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    images = [torch.randn(1, 1, size, 9 - size) for size in (5, 6, 4, 6, 5)]
    together = join([Samples(x, torch.zeros(1), torch.tensor([i])) for i, x in enumerate(images)])
    model = Model(net)
    with model.quiet():
        found = values.outputs_of(model, together)
    expected = torch.cat([net(x).detach() for x in images]).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# -- whether the loss is the logged one ------------------------------------------------------------------------------


def verdict_of(net: nn.Module, some: Samples, logged: Any, *, task: Task | None = None) -> Verdict | None:
    own = find_task(outputs_of(net, some), some.targets) if task is None else task
    logged = logged if isinstance(logged, dict) else {"val_loss": float(logged)}
    return compare_losses(Model(net), own, some, logged, Ranks())


def near(*args: Any, **options: Any) -> Verdict:
    verdict = verdict_of(*args, **options)
    assert verdict is not None
    assert verdict.near, verdict.text
    assert verdict.ours == pytest.approx(verdict.logged, rel=1e-5)
    return verdict


KINDS = {
    "classes": (3, classes(), lambda z, y: F.cross_entropy(z, y)),
    "soft": (3, torch.randn(SIZE, 3).softmax(1), lambda z, y: F.cross_entropy(z, y.double())),
    "binary": (1, classes(top=2), lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.double())),
    "smoothed": (1, classes(top=2) * 0.8 + 0.1, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.double())),
    "labels": (3, torch.eye(3)[classes()] + torch.eye(3)[0], lambda z, y: F.binary_cross_entropy_with_logits(
        z, y.clamp(max=1).double())),
    "regression": (1, 5 * torch.randn(SIZE), lambda z, y: F.mse_loss(z[:, 0], y.double())),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "targets", "loss"), KINDS.values(), ids=KINDS.keys())
def test_the_same_loss_is_near_and_others_are_not(columns: int, targets: Tensor, loss: Any) -> None:
    net, some = network(columns), samples(targets.clamp(max=1) if targets.ndim == 2 else targets)
    logged = float(loss(outputs_of(net, some), targets))
    task = find_task(outputs_of(net, some), some.targets)
    verdict = near(net, some, logged)
    assert verdict.task == task, "as it was"
    assert (verdict.key, verdict.ours) == ("val_loss", pytest.approx(logged))
    for other in (40 * logged, -logged):
        far = verdict_of(net, some, other)
        assert far is not None
        assert not far.near
        assert far.task == task
        assert far.ours == pytest.approx(logged), "the usual one is told"
        assert "'val_loss'" in far.text
        assert "loss_fn" in far.text


@pytest.mark.parametrize("logged", [math.nan, math.inf, -math.inf])
def test_a_logged_loss_that_is_not_finite_is_not_near(logged: float) -> None:
    verdict = verdict_of(network(), samples(classes()), logged)
    assert verdict is not None
    assert not verdict.near


def test_without_a_logged_loss_there_is_nothing_to_compare() -> None:
    some = samples(classes())
    assert verdict_of(network(), some, {}) is None
    assert verdict_of(network(), some[:0], 1.0, task=Task("classes", 3)) is None


def test_any_of_the_logged_losses_will_do() -> None:
    net, some = network(), samples(classes())
    logged = float(F.cross_entropy(outputs_of(net, some), some.targets))
    assert near(net, some, {"val_loss": 99.0, "val_nll": logged}).key == "val_nll"
    far = verdict_of(net, some, {"val_loss": 99.0, "val_nll": 77.0})
    assert far is not None
    assert far.key == "val_loss", "the likeliest"


class Owner(nn.Module):
    """A network with its loss."""

    def __init__(self, net: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.net, self.criterion = net, criterion

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


RIGHT = outputs_of(network(), samples(classes())).argmax(1)
"""What the network says."""

MOSTLY = torch.where(RIGHT.eq(1) & torch.arange(SIZE).remainder(2).eq(0), 0, RIGHT)
"""Mostly: half of what it takes for class 1 is of class 0."""

CRITERIA: dict[str, tuple[int, nn.Module, Tensor]] = {
    "label smoothing": (3, nn.CrossEntropyLoss(label_smoothing=0.5), RIGHT),
    "class weights": (3, nn.CrossEntropyLoss(weight=torch.tensor([20.0, 0.1, 0.1])), MOSTLY),
    "positive weight": (1, nn.BCEWithLogitsLoss(pos_weight=torch.tensor(20.0)), classes(top=2)),
    "positive weights of labels": (
        3, nn.BCEWithLogitsLoss(pos_weight=torch.tensor([20.0, 1.0, 1.0])), (torch.randn(SIZE, 3) > 0).float()),
    "smooth numbers": (1, nn.HuberLoss(delta=0.5), 50 * torch.randn(SIZE)),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "criterion", "targets"), CRITERIA.values(), ids=CRITERIA.keys())
def test_what_a_loss_module_knows_is_used(columns: int, criterion: nn.Module, targets: Tensor) -> None:
    owner, some = Owner(network(columns), criterion), samples(targets)
    z = outputs_of(owner, some)
    wanted = targets.double() if columns == 1 or targets.is_floating_point() else targets
    logged = float(criterion.double()(z[:, 0] if columns == 1 else z, wanted))
    criterion.float()
    verdict = near(owner, some, logged)
    assert verdict.task.loss_fn is not None
    assert verdict.task.named == type(criterion).__name__
    assert criterion.reduction == "mean", "the user's own is left alone"
    assert {p.dtype for p in owner.state_dict().values()} == {torch.float32}
    plain = verdict_of(owner.net, some, logged)
    assert plain is not None
    assert not plain.near, "without the module it is another loss"


def test_sums_over_labels_are_recognised() -> None:
    net, some = network(4), samples((torch.randn(SIZE, 4) > 0).float())
    z = outputs_of(net, some)
    summed = F.binary_cross_entropy_with_logits(z, some.targets.double(), reduction="none").sum(1).mean()
    verdict = near(net, some, summed)
    assert verdict.task.kind == "labels"


@pytest.mark.parametrize("columns", [1, 3])
def test_outputs_that_are_probabilities_are_recognised_by_their_loss(columns: int) -> None:
    """By themselves, a few outputs of one logit between 0 and 1 say nothing."""
    last = nn.Sigmoid() if columns == 1 else nn.Softmax(1)
    net, some = nn.Sequential(network(columns), last), samples(classes(top=max(columns, 2)))
    p, wrong = outputs_of(net, some), Task("binary" if columns == 1 else "classes", columns)
    if columns == 1:
        logged = F.binary_cross_entropy(p[:, 0], some.targets.double())
    else:
        logged = F.nll_loss(p.log(), some.targets)
    assert near(net, some, logged, task=wrong).task.probabilities
    # and the other way round: a softmax that goes into a cross-entropy, which takes it for logits
    taken = F.cross_entropy(p, some.targets) if columns > 1 else F.binary_cross_entropy_with_logits(
        p[:, 0], some.targets.double())  # fmt: skip
    found = find_task(p, some.targets)
    assert found.probabilities
    assert not near(net, some, taken, task=found).task.probabilities


@pytest.mark.parametrize(
    ("loss", "factor"),
    [(lambda z, y: (z - y).abs().mean(), None), (lambda z, y: (z - y).square().mean() / 2, None),
     (lambda z, y: (z - y).square().sum(1).mean(), None), (F.smooth_l1_loss, None)],
    ids=["absolute", "half", "sum", "Huber"],
)  # fmt: skip
def test_other_errors_of_numbers_are_recognised(loss: Any, factor: Any) -> None:
    net, some = network(3), samples(50 * torch.randn(SIZE, 3))
    task = find_task(outputs_of(net, some), some.targets, "output", 1)
    verdict = near(net, some, loss(outputs_of(net, some), some.targets.double()), task=task)
    assert verdict.task.kind == "regression"
    assert verdict.task.score is output


@pytest.mark.parametrize("loss", [F.l1_loss, F.huber_loss, F.mse_loss])
def test_of_several_numbers_the_one_that_has_targets_is_compared(loss: Any) -> None:
    net, some = network(3), samples(50 * torch.randn(SIZE))
    task = find_task(outputs_of(net, some), some.targets, target=1)
    near(net, some, loss(outputs_of(net, some)[:, 1], some.targets.double()), task=task)


def test_numbers_between_0_and_1_may_be_probabilities() -> None:
    net, some = network(1), samples(torch.rand(SIZE))
    task = find_task(outputs_of(net, some), some.targets)
    assert task.kind == "regression"
    logged = F.binary_cross_entropy_with_logits(outputs_of(net, some)[:, 0], some.targets.double())
    found = near(net, some, logged, task=task).task
    assert (found.kind, found.soft, found.score) == ("binary", True, log_odds)
    squared = F.mse_loss(outputs_of(net, some)[:, 0], some.targets.double())
    assert near(net, some, squared, task=task).task == task


def test_a_loss_of_ones_own_is_the_only_form() -> None:
    net, some = network(), samples(classes())
    z = outputs_of(net, some)
    own = find_task(z, some.targets, loss_fn=lambda z, y: 3 + F.cross_entropy(z, y, reduction="none"))
    plain = float(F.cross_entropy(outputs_of(net, some), some.targets))
    assert near(net, some, plain + 3, task=own).task == own
    verdict = verdict_of(net, some, plain + 90, task=own)
    assert verdict is not None
    assert not verdict.near
    assert verdict.ours == pytest.approx(plain + 3)


def test_samples_count_as_often_as_they_occur() -> None:
    counts = torch.ones(SIZE, dtype=torch.long)
    counts[:20] = 1000
    net, some = network(), samples(classes(), counts=counts)
    each = F.cross_entropy(outputs_of(net, some), some.targets, reduction="none")
    near(net, some, (each * counts).sum() / counts.sum())


def test_missing_targets_are_left_out_of_the_mean() -> None:
    targets = (torch.randn(SIZE, 3) > 0).float()
    targets[::3, 1] = torch.nan
    net, some = network(), samples(targets)
    z, known = outputs_of(net, some), targets.isfinite()
    each = F.binary_cross_entropy_with_logits(z, targets.nan_to_num().double(), reduction="none")
    near(net, some, ((each * known).sum(1) / known.sum(1)).mean(), task=Task("labels", 3))


def test_all_ranks_come_to_the_same() -> None:
    net, some = network(), samples(classes())
    logged = {"val_loss": float(F.cross_entropy(outputs_of(net, some), some.targets))}
    task = Task("classes", 3)

    def work(ranks: Ranks) -> Any:
        class Loud(Model):
            def quiet(self) -> Any:
                raise KeyError("gone")

        model = Loud(net) if ranks.rank else Model(net)
        return compare_losses(model, task, some, logged, ranks)

    errors = on_ranks(2, work)
    assert all("gone" in str(error) for error in errors), "none goes on alone"
