"""What the model is asked: kinds of tasks, told apart by outputs and targets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import ArgumentError, BatchError
from lightning_interactions.model.score import log_odds, logit, output
from lightning_interactions.model.task import Task, check_target_option, find_task

KEYS = torch.tensor([-7, 0, 5, 2**62])


@pytest.mark.parametrize(
    ("outputs", "targets", "kind"),
    [
        (3, torch.tensor([0, 2, 1, 1]), "classes"),
        (3, torch.tensor([[0.0], [2.0], [1.0], [1.0]]), "classes"),
        (3, torch.eye(3)[[0, 2, 1, 1]], "classes"),
        (2, torch.tensor([0, 1, 1, 0]), "classes"),
        (1, torch.tensor([0, 1, 1, 0]), "binary"),
        (1, torch.tensor([[0.0], [1.0], [1.0], [0.0]]), "binary"),
        (1, torch.tensor([True, False, True, True]), "binary"),
        (3, torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]), "labels"),
        (3, torch.tensor([[0.0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]]), "labels"),
        (1, torch.tensor([0.3, 7.1, -2.0, 0.0]), "regression"),
        (1, torch.tensor([[21.0], [35.0], [4.0], [0.0]]), "regression"),
    ],
)
def test_kinds_are_told_apart(outputs: int, targets: Tensor, kind: str) -> None:
    assert find_task(torch.randn(2, outputs), targets).kind == kind


@pytest.mark.parametrize(
    ("outputs", "targets", "says"),
    [
        (3, torch.tensor([[0.2, 0.9, -0.1], [1.0, 0.0, 0.0]]), r"not one-hot.*argmax.*score=\"output\""),
        (3, torch.tensor([0.5, 1.0]), r"fractional.*target_fn.*score=\"output\""),
        (3, torch.tensor([0, -100]), "from 0 to 2.*from -100"),
        (1, torch.tensor([0, 4]), r"from 0 to 1.*score=\"output\""),
        (1, torch.tensor([-1.0, 1.0]), "from 0 to 1.*from -1"),
        (3, torch.zeros(2, 5), r"shape \(2, 5\).*target_fn"),
        (3, ["cat", "dog"], "tensor of class indices.*list"),
    ],
    ids=["soft", "fractions", "ignored", "ratings", "signs", "other width", "names"],
)
def test_targets_that_fit_no_kind_are_explained(outputs: int, targets: Any, says: str) -> None:
    with pytest.raises(BatchError, match=says):
        find_task(torch.randn(2, outputs), targets)


@pytest.mark.parametrize("target", [3, 99])
@pytest.mark.parametrize("targets", [torch.tensor([0, 2]), torch.tensor([[0, 1, 1], [0, 0, 0]])])
def test_an_index_beyond_the_outputs_is_an_error(targets: Tensor, target: int) -> None:
    with pytest.raises(ArgumentError, match="`target` to be an index from 0 to 2"):
        find_task(torch.randn(2, 3), targets, target=target)


def test_several_numbers_need_an_index() -> None:
    with pytest.raises(ArgumentError, match="`target` to be an index from 0 to 2"):
        find_task(torch.randn(2, 3), torch.randn(2, 3), "output")
    assert find_task(torch.randn(2, 3), torch.randn(2, 3), "output", 2).describe() == "output 2 of 3"


def test_a_regression_predicts_no_class() -> None:
    with pytest.raises(ArgumentError, match=r"`target`.*regression"):
        find_task(torch.randn(2, 1), torch.tensor([0.5, 2.0]), target="predicted")
    with pytest.raises(ArgumentError, match=r"`score`.*numbers to predict"):
        find_task(torch.randn(2, 1), torch.tensor([0.5, 2.0]), "probability")


@pytest.mark.parametrize("score", ["log_odds", "logit", "output"])
def test_the_score_of_a_regression_is_the_output(score: str) -> None:
    logits, targets = torch.randn(4, 1), torch.tensor([0.5, 2.0, -1.0, 1.0])
    task = find_task(logits, targets, score)
    assert torch.equal(task.follow(logits, task.pick(targets, logits, KEYS)), logits[:, 0])
    torch.testing.assert_close(task.loss(logits, task.read(targets.unsqueeze(1))), (logits[:, 0] - targets) ** 2)


def test_a_users_score_gets_the_numbers_to_predict() -> None:
    logits, targets = torch.randn(4, 1), torch.tensor([0.5, 2.0, -1.0, 1.0])
    task = find_task(logits, targets, lambda z, y: -(z[:, 0] - y).abs())
    torch.testing.assert_close(task.follow(logits, task.pick(targets, logits, KEYS)), -(logits[:, 0] - targets).abs())


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_a_label_is_a_binary_game_of_its_own(seed: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, outputs, generator=generator).double()
    targets = torch.randint(0, 2, (4, outputs), generator=generator)
    task = Task("labels", outputs)
    picked = task.pick(targets, logits, KEYS)
    for row, code in enumerate(picked.tolist()):
        label, applies = divmod(code, 2)
        assert applies == int(targets[row, label]) == int(targets[row].any())
        sign = 1 if applies else -1
        assert float(task.follow(logits, picked)[row]) == float(sign * logits[row, label])
    expected = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none").mean(1)
    torch.testing.assert_close(task.loss(logits, targets), expected)


def test_the_key_draws_among_the_labels_that_apply() -> None:
    targets = torch.tensor([[0, 1, 0, 1, 1]]).expand(300, -1)
    picked = Task("labels", 5).pick(targets, torch.zeros(300, 5), torch.arange(300) * 7919)
    assert sorted(set(picked.tolist())) == [3, 7, 9]
    assert torch.bincount(picked)[[3, 7, 9]].tolist() == [100, 100, 100]


def test_a_chosen_label_may_not_apply() -> None:
    targets, logits = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[3.0, -2.0], [4.0, 5.0]])
    task = Task("labels", 2, target=0)
    assert task.follow(logits, task.pick(targets, logits, KEYS[:2])).tolist() == [-3.0, 4.0]


def test_the_predicted_class_and_a_fixed_one() -> None:
    logits, targets = torch.tensor([[3.0, -2.0, 0.0], [4.0, 5.0, 0.0]]), torch.tensor([1, 0])
    for target, classes in [("label", [1, 0]), ("predicted", [0, 1]), (2, [2, 2])]:
        task = find_task(logits, targets, target=target)  # type: ignore[arg-type]
        picked = task.pick(task.read(targets), logits, KEYS[:2])
        assert picked.tolist() == classes
        torch.testing.assert_close(task.follow(logits, picked), log_odds(logits, torch.tensor(classes)))
        assert task.predict(logits, picked).tolist() == [0.0, 1.0]
    single = torch.tensor([[3.0], [-2.0]])
    task = find_task(single, torch.tensor([0, 1]), target="predicted")
    assert task.follow(single, task.pick(torch.tensor([0, 1]), single, KEYS[:2])).tolist() == [3.0, 2.0]
    labels = Task("labels", 3, target="predicted")
    assert labels.pick(torch.zeros(2, 3).long(), -logits, KEYS[:2]).tolist() == [3, 4]


def test_what_was_read_can_be_read_again() -> None:
    one_hot, numbers, binary = torch.eye(3)[[0, 2]], torch.tensor([[0.5], [2.0]]), torch.tensor([1.0, 0.0])
    for outputs, targets in [(3, one_hot), (1, numbers), (1, binary), (2, torch.tensor([[1.0, 1.0], [0.0, 1.0]]))]:
        task = find_task(torch.zeros(2, outputs), targets)
        once = task.read(targets)
        assert torch.equal(task.read(once), once)


@pytest.mark.parametrize(
    ("kind", "outputs", "targets"),
    [
        ("labels", 3, torch.tensor([0, 1])),
        ("labels", 3, torch.tensor([[0.5, 0.0, 1.0]])),
        ("classes", 3, torch.tensor([[1, 1, 0]])),
        ("classes", 3, torch.tensor([[0.4, 0.6, 0.0]])),
        ("binary", 1, torch.tensor([0.25])),
        ("regression", 1, torch.zeros(2, 3)),
        ("regression", 1, None),
        ("labels", 3, "cat"),
    ],
)
def test_later_batches_must_fit_the_first(kind: Any, outputs: int, targets: Any) -> None:
    with pytest.raises(BatchError):
        Task(kind, outputs).read(targets)


def test_one_printed_phrase_says_what_is_followed() -> None:
    assert Task("binary", 1).describe() == "log_odds of the label, of 2 classes"
    assert Task("classes", 10, logit, 3).describe() == "logit of 3, of 10 classes"
    assert Task("classes", 10, target="predicted").describe() == "log_odds of the predicted class, of 10 classes"
    assert Task("labels", 4).describe() == "log_odds of one label that applies, of 4 labels (multi-label)"
    assert Task("regression", 1, output).describe() == "output of a regression"


@pytest.mark.parametrize("target", ["class", -1, True, 1.0, None])
def test_bad_targets(target: Any) -> None:
    with pytest.raises(ArgumentError, match="`target`"):
        check_target_option(target)


def test_losses_of_all_kinds_of_classes_agree_with_torch() -> None:
    logits = torch.randn(4, 3).double()
    targets = torch.tensor([0, 2, 1, 1])
    torch.testing.assert_close(
        find_task(logits, targets).loss(logits, targets), F.cross_entropy(logits, targets, reduction="none")
    )
    numbers = torch.randn(4, 3).double()
    task = find_task(logits, numbers, "output", 1)
    torch.testing.assert_close(task.loss(logits, task.read(numbers)), ((logits - numbers) ** 2).mean(1))
    assert math.isfinite(float(task.pick(task.read(numbers), logits, KEYS).sum()))
    assert torch.equal(task.predict(logits, numbers[:, 1]), logits[:, 1])


def test_truth_and_what_is_followed_stand_beside_the_prediction() -> None:
    logits, long = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 1.0]]), torch.tensor([2, 0])
    for target, followed in [("label", [2, 0]), ("predicted", [1, 0]), (1, [1, 1])]:
        task = Task("classes", 3, target=target)
        picked = task.pick(long, logits, KEYS[:2])
        assert task.truth(long, picked).tolist() == [2, 0], "whatever is followed"
        assert task.followed(picked).tolist() == followed
    rows = torch.tensor([[0, 0, 1], [1, 0, 0]])
    for target, truth, followed in [("label", [1, 1], [2, 0]), ("predicted", [0, 1], [1, 0]), (2, [1, 0], [2, 2])]:
        task = Task("labels", 3, target=target)
        picked = task.pick(rows, logits, KEYS[:2])
        assert (task.truth(rows, picked).tolist(), task.followed(picked).tolist()) == (truth, followed)
    numbers, task = torch.tensor([[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]), Task("regression", 3, output, 1)
    picked = task.pick(numbers, logits, KEYS[:2])
    assert (task.truth(numbers, picked).tolist(), task.followed(picked).tolist()) == ([1.5, 4.5], [1, 1])
    assert Task("regression", 1, output).truth(numbers[:, 0], numbers[:, 0]).tolist() == [0.5, 3.5]
    assert Task("binary", 1).truth(torch.tensor([1, 0]), torch.tensor([0, 0])).tolist() == [1, 0]
