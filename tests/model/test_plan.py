"""How the model is asked, learned from a step: the same output for the same samples, and other rows for others."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import mlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from lightning_interactions.errors import ArgumentError, BatchError
from lightning_interactions.model.plan import Plan, check_input_option, make_plan, model_calls
from lightning_interactions.model.seen import Recorder, SeenCall
from lightning_interactions.model.tree import rebuild, tensors

ROWS = 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def calls_of(module: nn.Module, step: Callable[[Any], Any], rows: int = ROWS) -> list[SeenCall]:
    """The calls of the model in a step, and with it what the step returned, as that of the last one."""
    recorder = Recorder(module).start((rows,))
    with torch.no_grad():
        step(module)
    return model_calls(recorder.stop())


def learned(module: nn.Module, step: Callable[[Any], Any], wanted: Any = None) -> tuple[Plan, list[SeenCall]]:
    calls = calls_of(module.eval(), step)
    return make_plan(calls, wanted), calls


def asked(plan: Plan, module: nn.Module, calls: Sequence[SeenCall], rows: Sequence[int] = range(ROWS)) -> Any:
    """Ask for some of the samples of a step."""
    inputs, carried = plan.read(calls)
    some = torch.tensor(rows)
    with torch.no_grad():
        return plan(module, inputs[some], *(tensor[some] for tensor in carried))


def output_of(plan: Plan, calls: Sequence[SeenCall]) -> Any:
    """What the step was seen to get of the last call of the plan."""
    return next(call.output for call in calls if call.site == plan.sites[-1])


# -- models and steps ------------------------------------------------------------------------------------------------

TEXTS = [[3, 4, 5, 6, 7], [5, 6, 7], [9, 8], [3, 3, 3, 3], [4, 7], [8]]
IDS = torch.tensor([text + [0] * (5 - len(text)) for text in TEXTS])
PRESENT = IDS != 0
LENGTHS = PRESENT.sum(1)
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
IMAGES = random(ROWS, 2, 4, 4), random(ROWS, 2, 4, 4, seed=1)
COLUMNS = random(ROWS, 4)


class Text(nn.Module):
    """Averages embeddings over what a mask tells: any of those users have."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 3)
        self.kinds = nn.Embedding(2, 3)

    def mean(self, ids: Tensor, counts: Tensor) -> Tensor:
        weights = counts.to(self.embed.weight).unsqueeze(-1)
        return (self.embed(ids) * weights).sum(1) / weights.sum(1)


class HuggingFace(Text):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Any = None, labels: Any = None) -> Any:
        assert attention_mask.dtype in (torch.long, torch.bool, torch.float32)
        logits = self.mean(input_ids, attention_mask) + self.kinds(token_type_ids).mean(1)
        loss = None if labels is None else cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Padded(Text):
    def forward(self, tokens: Tensor, key_padding_mask: Tensor) -> Tensor:
        assert key_padding_mask.dtype == torch.bool
        return self.mean(tokens, ~key_padding_mask)


class Masked(Text):
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        assert mask.dtype == torch.float32
        return self.mean(tokens, mask)


class ByLengths(Text):
    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        assert lengths.shape == tokens.shape[:1]
        return self.mean(tokens, torch.arange(tokens.shape[1]) < lengths.unsqueeze(1))


class Columns(nn.Module):
    """Categorical columns beside continuous ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 3)
        self.linear = nn.Linear(4, 3)

    def forward(self, categorical: Tensor, continuous: Tensor) -> Tensor:
        assert categorical.dtype == torch.long
        return self.embed(categorical).sum(1) + self.linear(continuous)


class Images(nn.Module):
    """Two images, of which the second counts twice."""

    def forward(self, left: Tensor, right: Tensor, weight: float = 2.0) -> Tensor:
        return left.flatten(1)[:, :3] + weight * right.flatten(1)[:, :3]


class Nested(nn.Module):
    def forward(self, batch: Any, options: Any) -> Any:
        (extra,) = batch["others"]
        return SimpleNamespace(), [batch["views"]["image"].flatten(1)[:, :3] * extra.unsqueeze(1) * options["scale"]]


class Parts(nn.Module):
    """Steps call its parts one by one; it has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.backbone = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.head = nn.Linear(5, 3)
        self.net = mlp(4)
        self.loss = nn.CrossEntropyLoss()


class WithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        logits = self.net(x)
        return cross_entropy(logits, y), logits


class Sized(nn.Module):
    """Wants to be told how many samples there are."""

    def forward(self, x: Tensor, batch_size: int, steps: int) -> Tensor:
        assert batch_size == len(x)
        return x.view(batch_size, 4) * steps


class Constant(nn.Module):
    def forward(self, x: Tensor, matrix: Tensor, *, scale: Tensor) -> Tensor:
        return x @ matrix * scale


@dataclass
class Case:
    module: nn.Module
    step: Callable[[Any], Any]
    masked: str  # names of what is masked, as it is told
    carried: tuple[str, ...] = ()
    sites: tuple[str, ...] = ("",)
    wanted: Any = field(default=None)


CASES = {
    "keywords": Case(
        HuggingFace(),
        lambda m: m(**{"labels": LABELS, "attention_mask": PRESENT.long(), "input_ids": IDS,
                       "token_type_ids": (IDS > 5).long()}),
        "input_ids with attention_mask with token_type_ids", ("labels",)),
    "boolean attention": Case(
        HuggingFace(), lambda m: m(IDS, PRESENT, token_type_ids=torch.zeros_like(IDS)),
        "input_ids with attention_mask with token_type_ids"),
    "nested": Case(
        Nested(), lambda m: m({"views": {"image": IMAGES[0]}, "others": (COLUMNS[:, 0],)}, {"scale": 3.0}),
        "batch.views.image", ("batch.others.0",)),
    "columns": Case(
        Columns(), lambda m: m(IDS[:, :3], COLUMNS), "categorical with continuous"),
    "columns of one width": Case(
        Columns(), lambda m: m(IDS[:, :4], continuous=COLUMNS), "categorical with continuous"),
    "numbers alone": Case(
        Columns(), lambda m: m(IDS[:, :4], COLUMNS), "continuous", ("categorical",), wanted="continuous"),
    "categorical columns": Case(
        Columns(), lambda m: m(IDS[:, :4], COLUMNS), "categorical", ("continuous",), wanted="categorical"),
    "two images": Case(Images(), lambda m: m(*IMAGES), "left", ("right",)),
    "the other by name": Case(Images(), lambda m: m(*IMAGES, weight=3.0), "right", ("left",), wanted="right"),
    "the other by position": Case(Images(), lambda m: m(*IMAGES), "right", ("left",), wanted=1),
    "padding mask": Case(Padded(), lambda m: m(IDS, ~PRESENT), "tokens with key_padding_mask"),
    "padding mask by name": Case(Padded(), lambda m: m(key_padding_mask=~PRESENT, tokens=IDS),
                                 "tokens with key_padding_mask"),
    "float mask": Case(Masked(), lambda m: m(IDS, PRESENT.float()), "tokens with mask"),
    "lengths": Case(ByLengths(), lambda m: m(IDS, LENGTHS), "tokens", ("lengths",)),
    "normalised first": Case(Parts(), lambda m: m.net(m.norm(COLUMNS)), "input", sites=("norm", "net")),
    "backbone and head": Case(Parts(), lambda m: m.loss(m.head(m.backbone(COLUMNS)), LABELS), "input",
                              sites=("backbone", "head")),
    "three parts": Case(Parts(), lambda m: m.head(m.backbone(m.norm(COLUMNS))), "input",
                        sites=("norm", "backbone", "head")),
    "with loss": Case(WithLoss(), lambda m: m(COLUMNS, LABELS), "x", ("y",)),
    "number of samples": Case(Sized(), lambda m: m(COLUMNS, batch_size=ROWS, steps=ROWS), "x"),
    "constants": Case(Constant(), lambda m: m(COLUMNS, random(4, 3, seed=2), scale=torch.tensor(2.0)), "x"),
}  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_case
def test_what_is_masked_and_what_is_carried(case: Case) -> None:
    plan, calls = learned(case.module, case.step, case.wanted)
    assert plan.sites == case.sites
    assert " with ".join(f.name for f in plan.fields if f.name) == case.masked
    assert tuple(plan.carried.values()) == case.carried
    inputs, carried = plan.read(calls)
    assert len(inputs) == ROWS
    assert [len(tensor) for tensor in carried] == [ROWS] * len(case.carried)


def same(first: Any, second: Any, rows: Sequence[int] = range(ROWS)) -> None:
    """Compare two outputs, the first of which has some rows of the second."""
    found, expected = tensors(first), tensors(second)
    assert found.keys() == expected.keys()
    for path, tensor in found.items():
        if expected[path].ndim:
            torch.testing.assert_close(tensor, expected[path][torch.tensor(rows)], rtol=1e-6, atol=1e-6)
        elif list(rows) == list(range(ROWS)):
            torch.testing.assert_close(tensor, expected[path])


@every_case
def test_with_the_inputs_of_the_step_it_returns_what_the_step_got(case: Case) -> None:
    plan, calls = learned(case.module, case.step, case.wanted)
    expected = output_of(plan, calls)
    assert expected is not None
    found = tensors(asked(plan, case.module, calls))
    assert found.keys() == tensors(expected).keys()
    assert all(torch.equal(found[path], tensor) for path, tensor in tensors(expected).items())


@every_case
@given(rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9))
def test_other_rows_return_other_rows(case: Case, rows: list[int]) -> None:
    plan, calls = learned(case.module, case.step, case.wanted)
    same(asked(plan, case.module, calls, rows), output_of(plan, calls), rows)


@pytest.mark.parametrize("name", ["columns", "two images", "backbone and head", "keywords", "lengths"])
def test_other_steps_are_read_alike(name: str) -> None:
    """Learned from one batch, it reads the next one."""
    case, rows = CASES[name], [5, 0, 3]
    plan, calls = learned(case.module, case.step, case.wanted)
    inputs, carried = plan.read(calls)
    some = torch.tensor(rows)
    fewer = [
        SeenCall(call.site, *_rows_of((call.args, call.kwargs), some), len(rows), call.training, call.judge)
        for call in calls
    ]
    own, along = plan.read(fewer)
    assert torch.equal(own, inputs[some])
    assert all(torch.equal(a, b[some]) for a, b in zip(along, carried, strict=True))


def _rows_of(value: Any, rows: Tensor) -> Any:
    return rebuild(value, lambda _, leaf: leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim else leaf)


# -- masks of texts --------------------------------------------------------------------------------------------------


def mask_cases() -> list[Any]:
    kinds = {
        "present": lambda present: present.long(), "present bool": lambda present: present,
        "present float": lambda present: present.float(), "padding bool": lambda present: ~present,
        "padding float": lambda present: (~present).float(), "padding long": lambda present: (~present).long(),
    }  # fmt: skip
    ids = {
        "right": IDS,
        "left": torch.stack([row.roll(int((row == 0).sum())) for row in IDS]),
        "none": IDS.clamp(min=1),
        "no text is full": pad(IDS, (0, 1)),
    }
    return [pytest.param(x, kind, name.startswith("padding"), id=f"{name}-{side}")
            for name, kind in kinds.items() for side, x in ids.items()]  # fmt: skip


@pytest.mark.parametrize(("ids", "kind", "padding"), mask_cases())
def test_masks_of_either_polarity_are_packed_as_what_counts(ids: Tensor, kind: Any, padding: bool) -> None:
    class Own(Text):
        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return self.mean(tokens, (mask == 0) if padding else mask)

    module, present = Own(), ids != 0
    mask = kind(present)
    plan, calls = learned(module, lambda m: m(tokens=ids, mask=mask))
    packed, _ = plan.read(calls)
    assert packed.shape == (ROWS, 2, ids.shape[1])
    assert packed.dtype == torch.long
    assert [f.row for f in plan.fields] == ["tokens", "attention_mask"]
    assert torch.equal(packed[:, 0], ids)
    assert torch.equal(packed[:, 1], present.long())
    assert torch.equal(asked(plan, module, calls), output_of(plan, calls))
    with torch.no_grad():  # more padding makes no difference
        longer = plan(module, pad(packed, (0, 3)))
    torch.testing.assert_close(longer, output_of(plan, calls))


def test_an_attention_mask_counts_by_its_name_and_others_by_what_they_cover() -> None:
    class Two(Text):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, special_tokens_mask: Tensor) -> Tensor:
            return self.mean(input_ids, attention_mask * (1 - special_tokens_mask))

    special = torch.zeros_like(IDS)
    special[:, 0] = 1
    mask = PRESENT.long()
    mask[5] = special[5] = torch.tensor([1, 1, 0, 0, 0])
    special[5, 1] = 0
    plan, calls = learned(Two(), lambda m: m(IDS, mask, special))
    assert [(f.name, f.role) for f in plan.fields] == [
        ("input_ids", ""), ("attention_mask", "counts"), ("special_tokens_mask", "")]  # fmt: skip
    assert torch.equal(plan.read(calls)[0], torch.stack([IDS, mask, special], 1))


def test_lengths_make_a_mask_of_their_own() -> None:
    plan, calls = learned(ByLengths(), lambda m: m(IDS, LENGTHS))
    packed, (lengths,) = plan.read(calls)
    assert torch.equal(packed[:, 1], PRESENT.long())
    assert torch.equal(lengths, LENGTHS)
    assert [f.role for f in plan.fields] == ["", "lengths"]
    zero = plan.read(calls_of(ByLengths(), lambda m: m(IDS[:2, :3], torch.tensor([1, 3])), 2))[0]
    assert zero[:, 1].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_ids_may_be_viewed_as_those_of_the_step() -> None:
    """They are rows of a packed tensor, and not contiguous there."""

    class Flat(Text):
        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return self.embed(tokens.view(-1)).view(*mask.shape, 3).mul(mask.view(*mask.shape, 1)).sum(1)

    module = Flat()
    plan, calls = learned(module, lambda m: m(IDS, PRESENT.long()))
    assert torch.equal(asked(plan, module, calls), output_of(plan, calls))


# -- chains ----------------------------------------------------------------------------------------------------------


def test_a_head_may_be_given_the_mask_again() -> None:
    """The mask is accounted for: it is what the first call was given, and follows it."""

    class Encoded(Text):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder()
            self.pool = Pool()

    module = Encoded()
    plan, calls = learned(module, lambda m: m.pool(m.encoder(IDS, PRESENT), PRESENT))
    assert plan.sites == ("encoder", "pool")
    assert plan.repeats == {(1, (0, 1)): (0, (0, 1))}
    assert plan.links == {(1, (0, 0)): (0, ())}
    assert torch.equal(asked(plan, module, calls), calls[-1].output)
    same(asked(plan, module, calls, [3, 3, 0]), calls[-1].output, [3, 3, 0])


def test_a_head_may_be_given_what_is_in_the_batch() -> None:
    """It is carried along; what is in no batch is not accounted for."""

    class Gated(Parts):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Gate()

    module, weights = Gated(), random(ROWS, 1, seed=3)
    calls = calls_of(module, lambda m: m.gate(m.backbone(COLUMNS), weights))
    plan = make_plan(calls, batch={"x": COLUMNS, "weights": weights})
    assert plan.sites == ("backbone", "gate")
    assert dict(plan.carried) == {(1, (0, 1)): "weights"}
    assert torch.equal(asked(plan, module, calls), calls[-1].output)
    same(asked(plan, module, calls, [5, 0, 0]), calls[-1].output, [5, 0, 0])
    assert make_plan(calls, batch={"x": COLUMNS}).sites == ("backbone",)


class Gate(nn.Module):
    def forward(self, hidden: Tensor, weights: Tensor) -> Tensor:
        return hidden * weights


class Encoder(Text):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.embed(ids) * mask.unsqueeze(-1)


class Pool(nn.Module):
    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden.sum(1) / mask.sum(1, keepdim=True)


def test_calls_that_have_nothing_to_do_with_the_first_are_left_out() -> None:
    def step(m: Any) -> None:
        hidden = m.backbone(COLUMNS)
        m.net(random(ROWS, 4, seed=5))
        m.norm(COLUMNS[:2])
        m.head(hidden)

    module = Parts()
    plan, calls = learned(module, step)
    assert plan.sites == ("backbone", "head")
    assert torch.equal(asked(plan, module, calls), module.head(module.backbone(COLUMNS)))


def test_what_comes_before_the_model_itself_prepares_nothing() -> None:
    class Whole(Parts):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    def step(m: Any) -> None:
        m(m.norm(COLUMNS))

    module = Whole()
    recorder = Recorder(module).start((ROWS,))
    step(module)
    every = recorder.stop()
    assert [(call.site, call.inside) for call in every] == [("norm", False), ("", False), ("net", True)]
    assert [call.site for call in model_calls(every)] == [""]
    assert torch.equal(make_plan(model_calls(every)).read(every)[0], every[0].output)


def test_losses_and_metrics_are_no_calls_of_the_model() -> None:
    calls = calls_of(Parts(), lambda m: m.loss(m.net(COLUMNS), LABELS))
    assert [call.site for call in calls] == ["net"]
    assert model_calls([]) == []


# -- models that do everything themselves -----------------------------------------------------------------------------


class Unpacks(nn.Module):
    """Its forward unpacks a batch; what it returns is up to the test."""

    def __init__(self, returns: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.criterion, self.returns = mlp(4), nn.CrossEntropyLoss(), returns

    def forward(self, batch: Any) -> Any:
        logits = self.net(batch["x"])
        return self.returns(logits, self.criterion(logits, batch["y"]), logits.argmax(1) == batch["y"])


BATCH = {"x": COLUMNS, "y": LABELS}


@pytest.mark.parametrize(
    "returns",
    [lambda z, loss, right: (loss, right.float().mean()), lambda z, loss, right: loss,
     lambda z, loss, right: {"loss": loss, "acc": right.float().mean()}, lambda z, loss, right: (loss, z.argmax(1)),
     lambda z, loss, right: (loss, z[:2])],
    ids=["loss and accuracy", "loss", "names", "loss and classes", "some rows"],
)  # fmt: skip
def test_a_model_that_returns_nothing_like_logits_is_understood_through_its_parts(returns: Any) -> None:
    module = Unpacks(returns)
    plan, calls = learned(module, lambda m: m(BATCH))
    assert [(call.site, call.inside) for call in calls] == [("net", True)], "and not the loss"
    assert plan.sites == ("net",)
    assert torch.equal(plan.read(calls)[0], COLUMNS)
    assert plan.carried == {}
    assert torch.equal(asked(plan, module, calls, [4, 4, 1]), module.net(COLUMNS)[[4, 4, 1]])


@pytest.mark.parametrize(
    "returns",
    [lambda z, loss, right: z, lambda z, loss, right: (loss, z), lambda z, loss, right: z.squeeze(1),
     lambda z, loss, right: {"deep": [loss, {"z": z}]}, lambda z, loss, right: SimpleNamespace(logits=z, loss=loss)],
    ids=["logits", "with loss", "squeezed", "inside", "an object"],
)  # fmt: skip
def test_a_model_that_returns_logits_is_called_itself(returns: Any) -> None:
    module = Unpacks(returns)
    plan, calls = learned(module, lambda m: m(BATCH))
    assert [call.site for call in calls] == [""]
    assert plan.sites == ("",)
    assert dict(plan.carried) == {(0, (0, 0, "y")): "batch.y"}


def test_a_model_of_which_no_part_answers_is_called_itself() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sum = Sum()

        def forward(self, x: Tensor) -> Tensor:
            return self.sum(x)

    calls = calls_of(Alone(), lambda m: m(COLUMNS))
    assert [(call.site, call.inside) for call in calls] == [("", False)]


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


def test_inner_calls_of_a_backbone_and_a_head_are_linked() -> None:
    class Trained(Parts):
        def forward(self, batch: Any) -> Tensor:
            return cross_entropy(self.head(self.backbone(batch["x"])), batch["y"])

    module = Trained()
    plan, calls = learned(module, lambda m: m(BATCH))
    assert plan.sites == ("backbone", "head")
    same(asked(plan, module, calls, [2, 0]), calls[-1].output, [2, 0])


# -- constants -------------------------------------------------------------------------------------------------------


def test_constants_in_half_precision_are_as_precise_as_what_is_masked() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
            assert x.dtype == matrix.dtype
            return x @ matrix

    plan, _ = learned(Scaled(), lambda m: m(COLUMNS.bfloat16(), torch.eye(4)[:, :3].bfloat16()))
    assert plan(Scaled(), COLUMNS).dtype == torch.float32
    assert torch.equal(plan(Scaled(), COLUMNS), COLUMNS[:, :3])


def test_only_a_number_of_samples_called_so_follows_them() -> None:
    plan, calls = learned(CASES["number of samples"].module, CASES["number of samples"].step)
    assert plan.counts == {(0, (1, "batch_size"))}
    assert torch.equal(asked(plan, Sized(), calls, [0, 1]), COLUMNS[:2] * ROWS)


def test_the_number_of_samples_may_be_given_by_position() -> None:
    plan, calls = learned(Sized(), lambda m: m(COLUMNS, ROWS, ROWS))
    assert plan.counts == {(0, (0, 1))}
    assert torch.equal(asked(plan, Sized(), calls, [0, 1]), COLUMNS[:2] * ROWS)


# -- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["middle", 2, -1, 99])
def test_an_input_that_there_is_not_is_named(wanted: Any) -> None:
    with pytest.raises(ArgumentError, match=r"`input`.*left \(6, 2, 4, 4\), right \(6, 2, 4, 4\)"):
        learned(Images(), lambda m: m(*IMAGES), wanted)


def test_a_tensor_without_parts_cannot_be_masked() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.stack([x, y], 1)

    with pytest.raises(BatchError, match=r"x \(6,\), y \(6,\).*input_fn"):
        learned(Flat(), lambda m: m(COLUMNS[:, 0], COLUMNS[:, 1]))
    with pytest.raises(ArgumentError, match="`input`"):
        learned(Flat(), lambda m: m(COLUMNS[:, 0], COLUMNS[:, 1]), "x")


OTHERS = random(ROWS, 4, seed=8)


@pytest.mark.parametrize(
    "step",
    [lambda m: m.net(OTHERS), lambda m: m.backbone(OTHERS), lambda m: m.head(m.backbone(input=OTHERS)),
     lambda m: m.loss(m.net(OTHERS), LABELS)],
    ids=["another part", "a part less", "by name", "with a loss"],
)  # fmt: skip
def test_steps_that_call_another_part_with_the_like_are_read(step: Any) -> None:
    """A training step may call a part of the model where validation calls the model."""
    module = Parts()
    plan, _ = learned(module, lambda m: m.head(m.backbone(COLUMNS)))
    inputs, carried = plan.read(calls_of(module, step))
    assert torch.equal(inputs, OTHERS)
    assert carried == ()


class Wrapped(nn.Module):
    """Validation calls the model, training its part."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


def test_a_training_step_that_calls_the_part_is_read_as_the_model() -> None:
    module = Wrapped(mlp(4))
    plan, _ = learned(module, lambda m: m(COLUMNS))
    assert plan.sites == ("",)
    calls = calls_of(module, lambda m: m.net(OTHERS))
    assert [call.site for call in calls] == ["net"]
    assert torch.equal(plan.read(calls)[0], OTHERS)
    assert torch.equal(asked(plan, module, calls, [3]), module.net(OTHERS[3:4]))
    back, _ = learned(module, lambda m: m.net(COLUMNS))
    assert back.sites == ("net",)
    recorder = Recorder(module).start((ROWS,))
    module(OTHERS)
    assert torch.equal(back.read(recorder.stop())[0], OTHERS), "and the other way round, of the call inside"


def test_texts_of_another_length_are_alike() -> None:
    class Named(Wrapped):
        def forward(self, tokens: Tensor, key_padding_mask: Tensor) -> Any:
            return self.net(tokens, key_padding_mask)

    module = Named(Padded())
    plan, _ = learned(module, lambda m: m(IDS, ~PRESENT))
    calls = calls_of(module, lambda m: m.net(IDS[:, :3].clamp(min=1), ~PRESENT[:, :3]))
    assert torch.equal(plan.read(calls)[0], torch.stack([IDS[:, :3].clamp(min=1), PRESENT[:, :3].long()], 1))


@pytest.mark.parametrize(
    "step",
    [lambda m: m(left=IMAGES[0], right=IMAGES[1]), lambda m: m(right=IMAGES[1], left=IMAGES[0]),
     lambda m: m(IMAGES[0], right=IMAGES[1])],
    ids=["by name", "the other way round", "one of them by name"],
)  # fmt: skip
@pytest.mark.parametrize("wanted", [None, "right"])
def test_tensors_of_one_shape_are_not_mistaken_for_each_other(step: Any, wanted: Any) -> None:
    """Which of them is masked must not depend on how a step hands them over."""
    plan, _ = learned(Images(), lambda m: m(*IMAGES), wanted)
    masked, other = IMAGES if wanted is None else reversed(IMAGES)
    try:
        inputs, carried = plan.read(calls_of(Images(), step))
    except BatchError:
        return  # left out, and told
    assert torch.equal(inputs, masked)
    assert torch.equal(carried[0], other)


@pytest.mark.parametrize(
    "order",
    [["input_ids", "token_type_ids", "attention_mask"], ["attention_mask", "input_ids", "token_type_ids"]],
    ids=["BERT", "mask first"],
)
def test_ids_and_their_companions_are_not_mistaken_for_each_other(order: list[str]) -> None:
    """A tokenizer's mapping has an order of its own; validation gives them by position, training by name."""
    texts = {"input_ids": IDS, "attention_mask": PRESENT.long(), "token_type_ids": (IDS > 5).long()}
    plan, calls = learned(HuggingFace(), lambda m: m(*texts.values()))
    try:
        inputs, _ = plan.read(calls_of(HuggingFace(), lambda m: m(**{name: texts[name] for name in order})))
    except BatchError:
        return  # left out, and told
    assert torch.equal(inputs, plan.read(calls)[0])


@pytest.mark.parametrize(
    ("step", "shape"),
    [(lambda m: m.backbone(COLUMNS.double()), "(6, 4)"), (lambda m: m.backbone(random(ROWS, 2, 4)), "(6, 2, 4)"),
     (lambda m: m.head(random(ROWS, 5)), "(6, 5)"), (lambda m: m.two(COLUMNS, COLUMNS), "(6, 4), (6, 4)"),
     (lambda m: m.loss(COLUMNS, LABELS), "")],
    ids=["type", "dimensions", "shape", "number", "nothing but a loss"],
)  # fmt: skip
def test_steps_that_differ_are_told(step: Any, shape: str) -> None:
    module = Parts()
    module.two = Images()
    plan, _ = learned(module, lambda m: m.head(m.backbone(COLUMNS)))
    recorder = Recorder(module).start((ROWS,))
    with contextlib.suppress(RuntimeError):  # the weights are of another type
        step(module)
    told = f"the model is called in another way than in the first batch, with tensors [{shape}]"
    with pytest.raises(BatchError, match=re.escape(told)):
        plan.read(model_calls(recorder.stop()))


def test_a_loss_of_the_like_is_not_taken_for_the_model() -> None:
    class Comparing(Images):
        def __init__(self) -> None:
            super().__init__()
            self.error = nn.MSELoss()

    module = Comparing()
    plan, _ = learned(module, lambda m: m(*IMAGES))
    recorder = Recorder(module).start((ROWS,))
    module.error(*IMAGES)
    with pytest.raises(BatchError, match="in another way"):
        plan.read(recorder.stop())


def test_a_tensor_that_is_missing_or_has_other_rows_is_told() -> None:
    plan, _ = learned(Images(), lambda m: m(*IMAGES))
    with pytest.raises(BatchError, match=r"another way than in the first batch, with tensors .*\(1, 2, 4, 4\)\]"):
        plan.read(calls_of(Images(), lambda m: m(IMAGES[0], IMAGES[1][:1])))
    with pytest.raises(BatchError, match=r"another way than in the first batch, with tensors \[\]"):
        plan.read([])


@pytest.mark.parametrize("wanted", [True, 1.0, ["x"], b"x"])
def test_options_that_are_no_name_or_position(wanted: Any) -> None:
    with pytest.raises(ArgumentError, match="`input`"):
        check_input_option(wanted)
    for good in (None, "x", 0):
        check_input_option(good)


def test_a_slim_plan_holds_no_samples_and_does_the_same() -> None:
    module = Images()
    plan, calls = learned(module, lambda m: m(IMAGES[0], IMAGES[1]))
    inputs, carried = plan.read(calls)
    expected = plan(module, inputs, *carried)
    plan.slim()
    assert all(len(x) == 0 for call in plan.calls for x in (*call.args, *call.kwargs.values()))
    assert all(call.output is None for call in plan.calls)
    assert torch.equal(plan(module, inputs, *carried), expected)
    again, along = plan.read(calls)
    assert torch.equal(again, inputs), "the calls it was learned from are as they were"
    assert all(torch.equal(a, b) for a, b in zip(along, carried, strict=True))
