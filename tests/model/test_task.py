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
        (3, torch.tensor([[0.2, 0.9, -0.1], [1.0, 0.0, 0.0]]), "returns 3 numbers.*`target=0` to `target=2`"),
        (3, torch.tensor([[1.0, 1.0, -1.0], [1.0, 0.0, 0.0]]), "not one-hot.*argmax"),
        (3, torch.tensor([0.5, 1.0]), "returns 3 numbers.*`target=0` to `target=2`"),
        (3, torch.tensor([0, -100]), "from 0 to 2.*from -100"),
        (1, torch.tensor([0, 4]), r"from 0 to 1.*score=\"output\""),
        (1, torch.tensor([-1.0, 1.0]), "from 0 to 1.*from -1"),
        (3, torch.zeros(2, 5), r"shape \(2, 5\).*target_fn"),
        (3, ["cat", "dog"], "tensor of class indices.*list"),
    ],
    ids=["numbers", "signs of several", "fractions", "ignored", "ratings", "signs", "other width", "names"],
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


# -- soft labels, probabilities, missing labels, reconstructions -------------------------------------------------------


SOFT = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4], [0.0, 0.5, 0.5]])


def test_rows_of_probabilities_are_soft_labels() -> None:
    logits = torch.randn(4, 3).double()
    task = find_task(logits, SOFT)
    assert (task.kind, task.soft, task.probabilities) == ("classes", True, False)
    assert torch.equal(task.read(SOFT), SOFT)
    expected = F.cross_entropy(logits, SOFT.double(), reduction="none")
    torch.testing.assert_close(task.loss(logits, task.read(SOFT)), expected)
    picked = task.pick(task.read(SOFT), logits, KEYS)
    assert picked.tolist() == task.truth(SOFT, picked).tolist() == [1, 0, 2, 1], "the likeliest"
    assert torch.equal(task.follow(logits, picked), log_odds(logits, picked))
    classes = task.classes_of(SOFT)
    assert classes is not None
    assert classes.tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_smoothed_zeros_and_ones_of_a_single_output_are_soft_labels(shape: tuple[int, ...]) -> None:
    logits, targets = torch.randn(4, 1).double(), torch.tensor([0.05, 0.95, 0.95, 0.05]).view(shape)
    task = find_task(logits, targets)
    assert (task.kind, task.soft) == ("binary", True)
    own = task.read(targets)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], own.double(), reduction="none")
    torch.testing.assert_close(task.loss(logits, own), expected)
    picked = task.pick(own, logits, KEYS)
    assert picked.tolist() == task.truth(own, picked).tolist() == [0, 1, 1, 0]
    assert find_task(logits, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.55])).kind == "regression", "too many values"


def test_smoothed_labels_of_several_outputs() -> None:
    logits, targets = torch.randn(2, 3).double(), torch.tensor([[0.95, 0.95, 0.05], [0.05, 0.05, 0.05]])
    task = find_task(logits, targets)
    assert (task.kind, task.soft) == ("labels", True)
    expected = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none").mean(1)
    torch.testing.assert_close(task.loss(logits, task.read(targets)), expected)
    picked = task.pick(task.read(targets), logits, KEYS[:2])
    assert (picked % 2).tolist() == task.truth(targets, picked).tolist() == [1, 0]


@pytest.mark.parametrize("score", ["log_odds", "probability"])
def test_a_softmax_is_recognised_and_scored_as_its_logits_would_be(score: str) -> None:
    logits, targets = 2 * torch.randn(4, 3).double(), torch.tensor([0, 2, 1, 1])
    certain, plain = find_task(logits.softmax(1), targets, score), find_task(logits, targets, score)
    assert (certain.probabilities, plain.probabilities) == (True, False)
    assert "(outputs are probabilities)" in certain.describe()
    picked = certain.pick(targets, logits.softmax(1), KEYS)
    torch.testing.assert_close(certain.follow(logits.softmax(1), picked), plain.follow(logits, picked))
    torch.testing.assert_close(certain.loss(logits.softmax(1), targets), plain.loss(logits, targets))
    expected = F.nll_loss(logits.softmax(1).log(), targets, reduction="none")
    torch.testing.assert_close(certain.loss(logits.softmax(1), targets), expected)
    assert torch.equal(certain.predict(logits.softmax(1), picked), plain.predict(logits, picked))


@pytest.mark.parametrize("columns", [1, 4])
def test_a_sigmoid_is_recognised_if_there_are_many(columns: int) -> None:
    logits = 2 * torch.randn(16, columns).double()
    targets = torch.randint(0, 2, (16, columns)) if columns > 1 else torch.arange(16) % 2
    certain, plain = find_task(logits.sigmoid(), targets), find_task(logits, targets)
    assert (certain.probabilities, plain.probabilities) == (True, False)
    keys = torch.arange(16)
    picked = certain.pick(certain.read(targets), logits.sigmoid(), keys)
    assert torch.equal(picked, plain.pick(plain.read(targets), logits, keys))
    torch.testing.assert_close(certain.follow(logits.sigmoid(), picked), plain.follow(logits, picked))
    torch.testing.assert_close(
        certain.loss(logits.sigmoid(), certain.read(targets)), plain.loss(logits, plain.read(targets))
    )
    assert torch.equal(certain.predict(logits.sigmoid(), picked), plain.predict(logits, picked))
    assert not find_task(logits.sigmoid()[:3], targets[:3]).probabilities


def test_probabilities_of_zero_and_one_are_finite() -> None:
    hard, targets = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), torch.tensor([0, 0])
    task = find_task(hard, targets)
    assert task.probabilities
    assert task.follow(hard, targets).isfinite().all()
    assert task.loss(hard, targets).isfinite().all()
    sure = Task("binary", 1, probabilities=True)
    assert sure.follow(hard[:, :1], targets).isfinite().all()


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_missing_labels_are_left_out_of_the_mean(seed: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, outputs, generator=generator).double()
    targets = torch.randint(0, 2, (4, outputs), generator=generator).float()
    missing = torch.rand(4, outputs, generator=generator) < 0.4
    missing[:, 0] = False
    targets[missing] = torch.nan
    task = Task("labels", outputs)
    found = task.loss(logits, task.read(targets))
    picked = task.pick(task.read(targets), logits, KEYS)
    for row in range(4):
        known = [column for column in range(outputs) if not missing[row, column]]
        each = [
            F.binary_cross_entropy_with_logits(logits[row, c], targets[row, c].double()).item() for c in known
        ]  # fmt: skip
        assert found[row].item() == pytest.approx(sum(each) / len(each))
        label, applies = divmod(int(picked[row]), 2)
        if (targets[row] == 1).any():
            assert applies
            assert targets[row, label] == 1, "one that is missing does not apply"
    assert task.follow(logits, picked).isfinite().all()


def test_where_no_label_applies_a_known_one_is_followed() -> None:
    """The game of a label nobody knows of has no answer."""
    targets = torch.tensor([[torch.nan, 0.0, torch.nan]]).expand(60, -1)
    task = Task("labels", 3)
    picked = task.pick(task.read(targets), torch.zeros(60, 3), torch.arange(60) * 7919)
    assert set((picked // 2).tolist()) == {1}
    assert task.truth(targets, picked).isfinite().all()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=str)
def test_a_reconstruction_is_scored_by_its_error(shape: tuple[int, ...]) -> None:
    samples, outputs = torch.randn(4, *shape).double(), torch.randn(4, *shape).double().flatten(1)
    task = find_task(outputs, samples, whole=True)
    assert (task.kind, task.outputs) == ("reconstruction", outputs.shape[1])
    own = task.read(samples).double()
    picked = task.pick(own, outputs, KEYS)
    expected = F.mse_loss(outputs.float(), samples.flatten(1).float(), reduction="none").mean(1)
    torch.testing.assert_close(task.follow(outputs, picked).float(), -expected)
    torch.testing.assert_close(task.loss(outputs, own).float(), expected)
    assert task.classes_of(samples) is None
    for answer in (task.truth(own, picked), task.predict(outputs, picked), task.followed(picked)):
        assert answer.shape == (4,)
    assert task.describe() == "negative squared error of what the model returns"


@given(st.integers(0, 10**6), st.sampled_from([0.1, 3.0, 40.0]), st.integers(2, 6))
def test_losses_agree_with_torch(seed: int, scale: float, outputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(5, outputs, generator=generator).double()
    hard = torch.randint(outputs, (5,), generator=generator)
    rows = torch.randn(5, outputs, generator=generator).double()

    def check(task: Task, own: Tensor, targets: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(task.loss(own, task.read(targets)), expected, rtol=1e-6, atol=1e-7)

    single = logits[:, :1]
    check(Task("classes", outputs), logits, hard, F.cross_entropy(logits, hard, reduction="none"))
    soft = rows.softmax(1)
    check(Task("classes", outputs, soft=True), logits, soft, F.cross_entropy(logits, soft, reduction="none"))
    zeros_ones = hard.clamp(max=1)
    bce = F.binary_cross_entropy_with_logits
    check(Task("binary", 1), single, zeros_ones, bce(single[:, 0], zeros_ones.double(), reduction="none"))
    between = rows[:, 0].sigmoid()
    check(Task("binary", 1, soft=True), single, between, bce(single[:, 0], between, reduction="none"))
    multi = (rows > 0).double()
    check(Task("labels", outputs), logits, multi, bce(logits, multi, reduction="none").mean(1))
    mse = F.mse_loss
    check(Task("regression", 1, output), single, rows[:, 0], mse(single[:, 0], rows[:, 0], reduction="none"))
    check(Task("regression", outputs, output, 1), logits, rows, mse(logits, rows, reduction="none").mean(1))
    one = Task("regression", outputs, output, 1)
    check(one, logits, rows[:, 0], mse(logits[:, 1], rows[:, 0], reduction="none"))


def test_a_loss_of_ones_own_takes_the_place_of_the_usual_one() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    task = find_task(logits, targets, loss_fn=lambda z, y: z[:, 0] + y)
    assert torch.equal(task.loss(logits, targets), logits[:, 0] + targets)
    for wrong, got in [
        (lambda z, y: z, r"shape \(4, 3\)"),
        (lambda z, y: z.sum(), r"shape \(\)"),
        (lambda z, y: 1.0, "float"),
    ]:
        with pytest.raises(ArgumentError, match=f"`loss_fn`.*{got}"):
            find_task(logits, targets, loss_fn=wrong).loss(logits, targets)


def test_only_classes_balance() -> None:
    labels, numbers = torch.tensor([[0, 1, 1], [0, 0, 0]]), torch.tensor([0.3, 7.0])
    assert find_task(torch.randn(2, 3), labels).classes_of(labels) is None
    assert find_task(torch.randn(2, 1), numbers).classes_of(numbers) is None
    task = Task("classes", 3)
    assert task.classes_of(torch.tensor([7, 0])) is None, "said where they are used"
    one_hot = task.classes_of(torch.eye(3))
    assert one_hot is not None
    assert one_hot.tolist() == [0, 1, 2]
