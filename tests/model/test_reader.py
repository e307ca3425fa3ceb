"""From what a step did with a batch to samples: inputs as the model got them, and targets wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from models import mlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from lightning_interactions.errors import BatchError
from lightning_interactions.model.reader import Reader, Sight, Sighting, learn

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 2, 1, 1, 0, 2])
OTHER = torch.tensor([7, 8, 9, 7, 8, 9])


class Net(nn.Module):
    """A network with losses and metrics as modules, and parts that steps call by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.criterion = nn.CrossEntropyLoss()
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)
        self.other = mlp()

    def forward(self, x: Tensor, labels: Any = None) -> Tensor:
        return self.net(x)


Step = Callable[[Any, Any], Any]


def sighting(step: Step, batch: Any, model: nn.Module | None = None) -> Sighting:
    model = Net().eval() if model is None else model
    sight = Sight(model).open(batch)
    with torch.no_grad():
        step(model, batch)
    return sight.close()


def reader_of(seen: Sighting, **options: Any) -> Reader:
    reader, note = learn(seen, **options)
    assert note is None
    return reader


def popped(m: Any, batch: Any) -> None:
    labels = batch.pop("labels")
    cross_entropy(m(**batch), labels)


def plainly(m: Any, batch: Any) -> None:
    cross_entropy(m(batch[0]), batch[1])


def meta(m: Any, batch: Any) -> None:
    x, _, y = batch
    m.criterion(m(x), y)


def made(m: Any, batch: Any) -> None:
    m.criterion(m(batch[0]), (batch[0].sum(1) > 0).long())


MADE = (X.sum(1) > 0).long()

FOUND: dict[str, tuple[Step, Any, Tensor]] = {
    "popped labels": (popped, {"x": X, "labels": Y}, Y),
    "a usual name": (lambda m, b: m(b["picture"]), {"picture": X, "number": OTHER, "target": Y}, Y),
    "a usual name inside": (lambda m, b: m(b["a"]["b"]), {"a": {"b": X, "label": Y}, "number": OTHER}, Y),
    "an unusual name": (lambda m, b: m(b["pixels"]), {"grade": Y, "pixels": X}, Y),
    "index 1": (plainly, [X, Y], Y),
    "index 1 of three": (plainly, (X, Y, OTHER), Y),
    "index 1 before whole numbers": (lambda m, b: m(b[0]), (X, X[:, 0] * 2, OTHER), X[:, 0] * 2),
    "inputs inside": (lambda m, b: m(b[0]["x"]), ({"x": X}, Y), Y),
    "what a loss is given": (meta, (X, OTHER, Y), Y),
    "a loss that wants another type": (
        lambda m, b: nn.functional.mse_loss(m(b[0])[:, 0], b[2]) + m.criterion(m(b[0]), b[2].long()),
        (X, OTHER, Y.float()), Y.float()),
    "what a metric is given": (lambda m, b: m.accuracy(m(b[0]).argmax(1), b[2]), (X, OTHER, Y), Y),
    "a loss before a metric": (
        lambda m, b: (m.accuracy(m(b[0]).argmax(1), b[1]), m.criterion(m(b[0]), b[2])), (X, OTHER, Y), Y),
    "made in the step": (made, [X], MADE),
    "made in the step, of a mapping": (lambda m, b: made(m, [b["x"]]), {"x": X}, MADE),
    "given to the model": (lambda m, b: m(*b), (X, Y), Y),
    "given to the model by name": (lambda m, b: m(b["first"], labels=b["second"]), {"first": X, "second": Y}, Y),
    "numbers": (lambda m, b: mse_loss(m(b[0]), b[1]), (X, X[:, :3] * 2), X[:, :3] * 2),
}  # fmt: skip


@pytest.mark.parametrize(("step", "batch", "expected"), FOUND.values(), ids=FOUND.keys())
def test_targets_are_found(step: Step, batch: Any, expected: Tensor) -> None:
    seen = sighting(step, batch if not isinstance(batch, dict) else dict(batch))
    reader = reader_of(seen)
    found = reader.read("val", seen)
    assert torch.equal(found.inputs, X)
    assert torch.equal(found.targets, expected)
    again = reader.read("val", sighting(step, _flipped(batch)))
    assert torch.equal(again.inputs, X.flip(0)), "and in the next batch in the same place"
    assert torch.equal(again.targets, expected.flip(0))


def _flipped(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.flip(0)
    if isinstance(batch, dict):
        return {key: _flipped(value) for key, value in batch.items()}
    return type(batch)(map(_flipped, batch))


def test_an_autoencoder_has_its_inputs_for_targets() -> None:
    class Auto(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x

    seen = sighting(lambda m, b: mse_loss(m(b[0]), b[0]), [X], Auto())
    found = learn(seen)[0].read("val", seen)
    assert torch.equal(found.targets, found.inputs)
    with_labels = sighting(lambda m, b: m(b[0]), [X, Y], Auto())
    assert torch.equal(learn(with_labels)[0].read("val", with_labels).targets, Y)


def test_no_target_is_told() -> None:
    seen = sighting(lambda m, b: m(b[0]), [X])
    with pytest.raises(BatchError, match=r"each of 6 samples.*list\(float32 tensor \(6, 5\)\).*target_fn"):
        reader_of(seen).read("val", seen)


@pytest.mark.parametrize(
    ("inputs", "change"),
    [(X, lambda x: x), (torch.where(X > 1, torch.nan, X), lambda x: x), (X, lambda x: x / 10)],
    ids=["as they are", "missing values", "changed by the step"],
)
def test_inputs_are_no_targets(inputs: Tensor, change: Any) -> None:
    price = X[:, 0] * 2
    seen = sighting(lambda m, b: m(change(b["columns"])), {"columns": inputs, "price": price})
    assert torch.equal(reader_of(seen).read("val", seen).targets, price)


@pytest.mark.parametrize(
    ("targets", "kept"),
    [
        (torch.tensor([0, -100, 1, -100, 0, 2]), [0, 2, 4, 5]),
        (torch.tensor([0.5, torch.nan, 1, 2, torch.nan, torch.nan]), [0, 2, 3]),
        (torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]).repeat(3, 1), [0, 2, 4]),
        (torch.full((6,), -100), []),
        (torch.tensor([-100.0, 1, 1, 1, 1, 1]), [0, 1, 2, 3, 4, 5]),
    ],
    ids=["ignored", "nan", "rows", "all", "a number"],
)
def test_samples_whose_target_is_missing_are_left_out(targets: Tensor, kept: list[int]) -> None:
    seen = sighting(lambda m, b: m(b[0], b[2]), (X, targets, OTHER))
    reader = reader_of(seen)
    for found in (reader.read("val", seen), Reader(None).read("val", Sighting((X, targets)))):
        assert torch.equal(found.inputs, X[kept])
        assert torch.equal(found.targets.nan_to_num(-1), targets[kept].nan_to_num(-1))
    (along,) = reader.read("val", seen).carried
    assert torch.equal(along, OTHER[kept])


@pytest.mark.parametrize("rows", [0, 1, 4, 6, 9])
def test_samples_that_a_sampler_repeated_are_left_out(rows: int) -> None:
    seen = sighting(plainly, [X, torch.tensor([0, -100, 1, 1, -100, 2])])
    seen.rows = rows
    kept = [row for row in (0, 2, 3, 5) if row < rows]
    reader = reader_of(seen)
    for found in (reader.read("val", seen), Reader(None).read("val", seen)):
        assert torch.equal(found.inputs, X[kept])
        assert len(found.targets) == len(kept)


def test_every_split_has_its_own_place_for_targets() -> None:
    val, train = sighting(plainly, [X, Y]), sighting(lambda m, b: m(b["x"]), {"x": X + 1, "labels": OTHER})
    reader = reader_of(val)
    assert torch.equal(reader.read("val", val).targets, Y)
    assert torch.equal(reader.read("train", train).targets, OTHER)
    assert torch.equal(reader.read("train", train).inputs, X + 1)
    assert torch.equal(reader.read("val", val).targets, Y)


def test_inputs_are_what_the_model_got_and_not_what_the_batch_holds() -> None:
    seen = sighting(lambda m, b: m(b[0].div_(255)), [255 * X, Y])
    found = reader_of(seen).read("val", seen)
    torch.testing.assert_close(found.inputs, X)
    assert [field.name for field in found.fields] == ["x"]


# -- what was seen of the first batch --------------------------------------------------------------------------------


def test_the_first_samples_come_with_what_the_model_returned() -> None:
    seen = sighting(plainly, [X, Y])
    reader = reader_of(seen)
    first = reader.first("val", seen)
    assert torch.equal(first.seen, seen.calls[-1].output)  # type: ignore[index]
    assert reader.read("val", seen).seen is None
    missing = sighting(plainly, [X, torch.tensor([0, -100, 1, 1, 1, 1])])
    assert reader_of(missing).first("val", missing).seen is None, "its rows would be others"
    trained = sighting(plainly, [X, Y], Net().train())
    assert reader_of(trained).first("val", trained).seen is None, "of training mode"


# -- batches that are read instead -----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [{"input_fn": lambda b: b[0] + 1}, {"forward_fn": lambda m, x: m(x)}])
def test_what_the_user_says_is_not_guessed(option: Any) -> None:
    seen = sighting(plainly, [X, Y])
    reader = reader_of(seen, **option)
    assert reader.plan is None
    found = reader.read("val", seen)
    assert torch.equal(found.inputs, X + 1 if "input_fn" in option else X)
    assert torch.equal(found.targets, Y)


def test_targets_of_ones_own_go_with_the_inputs_of_the_model() -> None:
    seen = sighting(lambda m, b: m(b[0] * 2), [X, Y])
    found = reader_of(seen, target_fn=lambda batch: batch[1] + 1).read("val", seen)
    assert torch.equal(found.inputs, X * 2)
    assert torch.equal(found.targets, Y + 1)
    with pytest.raises(BatchError, match="one target for each of 6"):
        reader_of(seen, target_fn=lambda batch: batch[1][:3]).read("val", seen)


def test_a_step_that_calls_nothing_is_told_of() -> None:
    seen = sighting(lambda m, b: None, [X, Y])
    reader, note = learn(seen)
    assert reader.plan is None
    assert "calls no module" in str(note)
    assert torch.equal(reader.read("val", seen).inputs, X)
    reader, note = learn(Sighting([X, Y]))
    assert (reader.plan, note) == (None, None)
    assert torch.equal(reader.read("val", Sighting([X, Y])).targets, Y)
    only_judged = sighting(lambda m, b: m.criterion(b[0], b[1]), [X, Y])
    assert learn(only_judged)[0].plan is None


def test_the_wanted_input_is_passed_on() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left - right

    seen = sighting(lambda m, b: m(b[0], b[1]), [X, X + 1, Y], Two())
    reader, _ = learn(seen, wanted="right")
    found = reader.read("val", seen)
    assert torch.equal(found.inputs, X + 1)
    assert torch.equal(found.carried[0], X)
    assert torch.equal(found.targets, Y)


# -- batches that differ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "batch", "says"),
    [
        (lambda m, b: m.other(b[0].double()), [X, Y], r"in another way .* \[\(6, 5\)\]"),
        (lambda m, b: m.other(b[0].flatten(0).view(3, 10)), [X, Y], "in another way"),
        (lambda m, b: None, [X, Y], r"in another way .* \[\]"),
        (lambda m, b: m(b[0]), [X, Y[:3]], "one target for each of 6"),
        (lambda m, b: m(b[0]), [X, "text"], "one target for each of 6"),
    ],
    ids=["another type", "another shape", "nothing", "fewer targets", "no target"],
)
def test_a_batch_that_differs_is_told(step: Step, batch: Any, says: str) -> None:
    first = sighting(lambda m, b: m(b[0]), [X, Y])
    reader = reader_of(first)
    reader.read("val", first)
    with pytest.raises(BatchError, match=says):
        reader.read("val", sighting(step, batch, Lenient()))


class Lenient(Net):
    """Its parts take everything."""

    def __init__(self) -> None:
        super().__init__()
        self.net = self.other = nn.Identity()


@pytest.mark.parametrize(
    "step", [lambda m, b: m.other(b[0]), lambda m, b: m(x=b[0]), lambda m, b: m.criterion(m.net(b[0]), b[1])],
    ids=["another module", "by name", "a part"],
)  # fmt: skip
def test_a_step_that_calls_another_part_with_the_like_is_read(step: Step) -> None:
    """A training step may call a part of the model where validation calls the model itself."""
    first = sighting(lambda m, b: m(b[0]), [X, Y])
    reader = reader_of(first)
    reader.read("val", first)
    found = reader.read("train", sighting(step, [X + 1, Y.flip(0)]))
    assert torch.equal(found.inputs, X + 1)
    assert torch.equal(found.targets, Y.flip(0))


class Whole(nn.Module):
    """Does everything with a batch, and returns a loss and an accuracy."""

    def __init__(self, criterion: Any) -> None:
        super().__init__()
        self.net, self.criterion = Net(), criterion

    def forward(self, batch: Any) -> Any:
        x, y = batch.values() if isinstance(batch, dict) else batch
        logits = self.net(x)
        return self.criterion(logits, y), (logits.argmax(1) == y).float().mean()


@pytest.mark.parametrize("batch", [(X, Y), {"pixels": X, "grade": Y}, {"x": X, "labels": Y}],
                         ids=["pair", "mapping", "usual names"])  # fmt: skip
@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), cross_entropy], ids=["module", "function"])
def test_a_model_that_is_given_the_whole_batch(criterion: Any, batch: Any) -> None:
    module = Whole(criterion).eval()
    seen = sighting(lambda m, b: m(b), batch, module)
    reader, note = learn(seen)
    assert note is None
    assert reader.plan is not None
    assert reader.plan.sites == ("net",)
    found = reader.first("val", seen)
    assert torch.equal(found.inputs, X)
    assert torch.equal(found.targets, Y)
    assert torch.equal(found.seen, module.net(X))
    again = reader.read("val", sighting(lambda m, b: m(b), _flipped(batch), module))
    assert torch.equal(again.inputs, X.flip(0))
    assert torch.equal(again.targets, Y.flip(0))


def test_targets_may_be_what_a_part_inside_is_given() -> None:
    """The targets are where the plan's first call has them, which is not the first that was seen."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Giving()

        def forward(self, batch: Any) -> Tensor:
            return self.net(batch[0], labels=batch[1])[0]

    module = Inner().eval()
    seen = sighting(lambda m, b: m(b), (X, Y), module)
    reader, _ = learn(seen)
    found = reader.read("val", seen)
    assert torch.equal(found.inputs, X)
    assert torch.equal(found.targets, Y)


class Giving(Net):
    def forward(self, x: Tensor, labels: Any = None) -> Any:
        logits = self.net(x)
        return cross_entropy(logits, labels), logits


def test_a_batch_that_was_not_looked_at_cannot_be_read_by_a_plan() -> None:
    reader = reader_of(sighting(plainly, [X, Y]))
    with pytest.raises(BatchError, match=r"in another way than in the first batch, with tensors \[\]"):
        reader.read("val", Sighting([X, Y]))
