"""A model as it is asked: without a trace, in its precision, a chunk at a time, cut where it is masked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from models import Recorder, cnn, mlp
from torch import Tensor, nn

from lightning_interactions.errors import ArgumentError, BatchError, ModelOutputError
from lightning_interactions.model.batch import Batch, read_batch
from lightning_interactions.model.keep import Kept
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.model import ROUNDING, Model, find_model


class Fn(nn.Module):
    """A function with one parameter, so that it is somewhere."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Watched:
    """A precision that keeps what happens, as the plugins of Lightning have it."""

    precision = "16-mixed"

    def __init__(self) -> None:
        self.events: list[Any] = []

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        self.events.append("enter")
        yield
        self.events.append("leave")

    def convert_input(self, inputs: Tensor) -> Tensor:
        self.events.append("convert")
        return inputs * 2


# -- quiet -----------------------------------------------------------------------------------------------------------


def test_a_model_is_asked_in_evaluation_mode_and_left_as_it_was() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model, x, random = Model(net), torch.randn(8, 3), torch.get_rng_state()
    with model.quiet():
        first, second = model(x), model(x)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert all(module.training for module in net.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_model_is_asked_only_inside_quiet() -> None:
    model, x = Model(mlp()), torch.randn(2, 5)
    with pytest.raises(AssertionError, match="inside `quiet`"):
        model(x)
    with pytest.raises(KeyError), model.quiet():
        raise KeyError
    with pytest.raises(AssertionError, match="inside `quiet`"):
        model(x)


def test_every_quiet_has_the_weights_of_its_begin() -> None:
    net = mlp().bfloat16()  # half precision is cast up once for all calls
    model, x = Model(net), torch.randn(4, 5)
    with model.quiet():
        first = model.logits(x)
    with torch.no_grad():
        net[2].bias.add_(1)
    with model.quiet():
        second = model.logits(x)
    torch.testing.assert_close(second, first + 1, rtol=1e-2, atol=1e-2)


# -- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights_compute_in_float32(dtype: torch.dtype) -> None:
    low = mlp().to(dtype)
    high = mlp()
    high.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
    x, model = torch.randn(6, 5), Model(low)
    with model.quiet(), torch.no_grad():
        seen: list[torch.dtype] = []
        handle = low[2].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        assert model(x.to(dtype)).dtype == torch.float64
        handle.remove()
        assert seen == [torch.float32]
        torch.testing.assert_close(model.logits(x), high(x).double(), rtol=1e-6, atol=1e-7)
    assert {p.dtype for p in low.parameters()} == {dtype}


def test_double_precision_stays_double() -> None:
    net, x = mlp().double(), torch.randn(6, 5)
    model = Model(net)
    with model.quiet(), torch.no_grad():
        assert torch.equal(model(x), net(x.double()))


def test_a_precision_wraps_every_call_and_converts_the_inputs() -> None:
    precision, net, x = Watched(), mlp(), torch.randn(3, 5)
    model = Model(net, precision=precision)
    with model.quiet(), torch.no_grad():
        assert precision.events == []
        assert torch.equal(model(x), net(x * 2))
    assert precision.events == ["enter", "convert", "leave"]


def test_the_precisions_of_lightning_decide_the_type() -> None:
    x, seen = torch.randn(3, 5), list[torch.dtype]()

    def returned(module: nn.Sequential, precision: Any) -> torch.dtype:
        module[2].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        with (model := Model(module, precision=precision, hooks=True)).quiet():
            assert model(x).dtype == torch.float64, "whatever the model computes in"
        return seen[-1]

    assert returned(mlp(), MixedPrecision("bf16-mixed", "cpu")) == torch.bfloat16
    assert returned(mlp().bfloat16(), HalfPrecision("bf16-true")) == torch.bfloat16
    assert returned(mlp(), Precision()) == torch.float32


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("16-mixed", "16"), ("16-true", "16"), ("bf16-mixed", "bf16"), ("bf16-true", "bf16"), ("32-true", "32"),
     ("64-true", "64"), ("transformer-engine", "32")],
)  # fmt: skip
def test_rounding_is_that_of_the_precision(precision: str, expected: str) -> None:
    plugin = type("Plugin", (), {"precision": precision})()
    assert Model(mlp(), precision=plugin).rounding == ROUNDING[expected]


def test_rounding_without_a_precision_is_that_of_the_calls() -> None:
    assert ROUNDING == {"16": 2.0**-11, "bf16": 2.0**-8, "32": 2.0**-23, "64": 2.0**-52}
    assert Model(mlp()).rounding == ROUNDING["32"]
    assert Model(mlp().bfloat16()).rounding == ROUNDING["32"], "computed in float32"
    assert Model(mlp().double()).rounding == ROUNDING["64"]
    mixed = nn.Sequential(nn.Linear(2, 2).double(), nn.Linear(2, 2))
    assert Model(mixed).rounding == ROUNDING["32"]
    assert Model(nn.Flatten()).rounding == ROUNDING["32"]
    assert Model(mlp(), precision=object()).rounding == ROUNDING["32"], "it does not say"


# -- logits and features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_logits_come_in_chunks_and_are_the_same(chunk_size: int | None, rows: int) -> None:
    recorder, x = Recorder(mlp()), torch.randn(rows, 5)
    model = Model(recorder)
    with model.quiet(), torch.no_grad():
        found = model.logits(x, chunk_size)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, recorder.model(x).detach().double(), rtol=1e-5, atol=1e-6)
    assert max(recorder.rows) <= max(chunk_size or 10**9, 2)
    assert min(recorder.rows) >= (2 if rows == 1 else 1), "a model that squeezes would mistake a single row"


def test_features_are_the_inputs_or_what_the_layer_returns() -> None:
    net, x = cnn(), torch.randn(5, 1, 8, 8)
    assert Model(net).features(x) is x
    model = Model(net, cut=LayerCut(net, "2"))
    with model.quiet(), torch.no_grad():
        expected = net[:3](x.clone())
        for chunk_size in (None, 1, 2):
            torch.testing.assert_close(model.features(x, chunk_size), expected, rtol=1e-5, atol=1e-6)


def test_place_follows_the_device_and_the_memory_format() -> None:
    images = torch.randn(2, 3, 8, 8)
    plain = Model(nn.Conv2d(3, 4, 3))
    assert plain.device == torch.device("cpu")
    along = torch.arange(2)
    assert [a is b for a, b in zip(plain.place(images, along), (images, along), strict=True)] == [True, True]
    last = Model(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last))
    placed, beside = last.place(images, along)
    assert torch.equal(placed, images)
    assert torch.equal(beside, along)
    assert placed.is_contiguous(memory_format=torch.channels_last)
    assert Model(nn.Linear(2, 2, device="meta")).place(torch.zeros(3, 2))[0].device.type == "meta"


# -- finding out -----------------------------------------------------------------------------------------------------


def test_a_found_model_answers_as_the_module_does() -> None:
    net, x = mlp(), torch.randn(4, 5)
    model = find_model(net, Batch(x[:2], torch.zeros(2)))
    assert (model.module, model.precision, model.cut) == (net, None, None)
    with model.quiet(), torch.no_grad():
        assert torch.equal(model(x), net(x))


def test_named_inputs_find_their_way() -> None:
    few = read_batch({"pixels": torch.randn(2, 3), "label": torch.zeros(2)})
    net = Fn(lambda other=None, *, pixels: pixels * 3)
    with (model := find_model(net, few)).quiet():
        assert torch.equal(model(few.inputs), few.inputs * 3)


def test_the_trial_of_named_inputs_is_quiet_and_in_the_precision() -> None:
    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, pixels: Tensor) -> Tensor:
            torch.rand(1)
            return self.norm(pixels)

    few, precision, net = read_batch({"pixels": torch.randn(2, 3), "label": torch.zeros(2)}), Watched(), Averaging()
    before, random = net.norm.running_mean.clone(), torch.get_rng_state()
    find_model(net, few, precision=precision)
    assert precision.events == ["enter", "convert", "leave"] * 2, "to find the way, and to see whether it gives logits"
    assert torch.equal(net.norm.running_mean, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert net.norm.training


def test_a_way_of_ones_own_is_taken() -> None:
    few, precision = Batch(torch.randn(2, 3), torch.zeros(2)), Watched()
    net = Fn(lambda x, flag: x if flag else None)
    model = find_model(net, few, forward_fn=lambda module, x: module(x, True) + 1, precision=precision)
    with model.quiet():
        assert torch.equal(model(few.inputs), 2 * few.inputs + 1)
    assert precision.events.count("enter") == 2, "once to try it"


def test_a_layer_is_found_and_tried() -> None:
    few, net = Batch(torch.randn(2, 5), torch.zeros(2)), mlp()
    model = find_model(net, few, layer="1")
    assert model.cut is not None
    with model.quiet(), torch.no_grad():
        torch.testing.assert_close(model.features(few.inputs), net[:2](few.inputs))


FEW = Batch(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(2))


@pytest.mark.parametrize(
    ("module", "options", "error", "text"),
    [
        (mlp(), {"layer": "nowhere"}, ArgumentError, "nowhere"),
        (Fn(lambda x: x.sum()), {}, ModelOutputError, r"got torch.float32 of shape \(\)"),
        (Fn(lambda x: x[:1]), {}, ModelOutputError, "one row of logits per input"),
        (Fn(lambda x: "logits"), {}, ModelOutputError, "logits of shape.* got str"),
        (mlp(), {"forward_fn": lambda module, x: None}, ModelOutputError, "logits of shape.* got NoneType"),
        (nn.Sequential(mlp(), mlp(3)), {"layer": "1.3"}, ArgumentError, "1.3"),
        (nn.Sequential(act := nn.Tanh(), nn.Linear(5, 3), act), {"layer": "0"}, ModelOutputError, "ran 2 times"),
    ],
    ids=["no layer", "loss", "rows", "text", "forward_fn", "no inner layer", "twice"],
)
def test_what_cannot_be_asked_is_said(module: nn.Module, options: Any, error: type[Exception], text: str) -> None:
    module.train()
    with pytest.raises(error, match=text):
        find_model(module, FEW, **options)
    assert module.training, "left as it was"


def test_named_inputs_that_find_no_way_are_told_of() -> None:
    few = read_batch({"pixels": torch.randn(2, 3), "label": torch.zeros(2)})
    with pytest.raises(BatchError, match=r"returned no logits when called with pixels .*forward_fn"):
        find_model(Fn(lambda **inputs: None), few)


# -- state -----------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts its calls, and multiplies with their number."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x) * self.calls


@pytest.mark.parametrize("precision", [None, Precision()], ids=["full", "inherited"])
def test_every_call_begins_from_the_same_state(precision: Any) -> None:
    module, x = Counting(), torch.ones(2, 5)
    start = Kept(module)
    module(x)
    model = Model(module, precision=precision)
    for where, calls in ((None, 2), (start, 1), (None, 2)):
        model.start = where
        with model.quiet():
            for _ in range(3):
                assert torch.equal(model(x), module.net(x) * calls)
        assert module.calls == 1


def test_another_module_has_no_start_of_its_own() -> None:
    module, other = Counting(), Counting()
    start = Kept(module)
    module(torch.ones(2, 5))
    model = find_model(module, FEW, start=start)
    assert model.start is start
    assert model.of(other).start is None
    with (own := model.of(other)).quiet():
        assert torch.equal(own(FEW.inputs), other.net(FEW.inputs).double())
    assert (module.calls, other.calls) == (1, 0)


@pytest.mark.parametrize(
    ("returns", "columns"),
    [(lambda z: z, 3), (lambda z: z[:, 0], 1), (lambda z: z[:, :, None, None], 3), (lambda z: {"logits": z.half()}, 3),
     (lambda z: (z.mean(), z.bfloat16()), 3)],
    ids=["plain", "one number", "maps of one pixel", "named", "with a loss"],
)  # fmt: skip
def test_a_call_returns_logits_whatever_the_module_returns(returns: Any, columns: int) -> None:
    net, x = mlp(), torch.randn(4, 5)
    model = Model(Fn(lambda x: returns(net(x))))
    with model.quiet():
        found = model(x)
    assert found.shape == (4, columns)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, net(x).detach()[:, :columns].double(), rtol=1e-2, atol=1e-2)


def test_chunks_and_a_cut_begin_from_the_same_state() -> None:
    module = Counting()
    x = torch.randn(6, 5)
    model = find_model(module, Batch(x, torch.zeros(6)), layer="net.1")
    with model.quiet(), torch.no_grad():
        assert torch.equal(model.logits(x, 2), module.net(x))
        features = model.features(x, 2)
        torch.testing.assert_close(model.cut.resume(model, x, features), module.net(x).double(), rtol=1e-5, atol=1e-6)
    assert module.calls == 0


def test_hooks_run_where_they_are_asked_for() -> None:
    net, x = mlp(), torch.ones(2, 5)
    heard: list[int] = []
    net.register_forward_hook(lambda *args: heard.append(1))
    for hooks, expected in ((False, 0), (True, 2)):
        model = Model(net, hooks=hooks)
        for asked in (model, model.of(net)):
            with asked.quiet():
                asked(x)
        assert len(heard) == expected


class Shrinking(nn.Module):
    """Writes to its weights in every mode; autograd counts it or not."""

    def __init__(self, counted: bool) -> None:
        super().__init__()
        self.net = mlp()
        self.counted = counted

    def forward(self, x: Tensor) -> Tensor:
        weight = self.net[0].weight
        with torch.no_grad():
            (weight if self.counted else weight.data).mul_(0.5)
        return self.net(x)


@pytest.mark.parametrize("counted", [True, False])
def test_a_model_that_writes_to_its_parameters_leaves_no_trace(counted: bool) -> None:
    module, x = Shrinking(counted), torch.ones(2, 5)
    before = copy.deepcopy(module.state_dict())
    model = Model(module)
    for _ in range(3):
        with model.quiet():
            assert torch.equal(model(x), model(x))
        assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_parameters_are_copied_the_first_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[bool] = []
    own = Kept.__init__

    def noted(self: Kept, module: nn.Module, *, parameters: bool = False) -> None:
        copied.append(parameters)
        own(self, module, parameters=parameters)

    monkeypatch.setattr(Kept, "__init__", noted)
    for module, expected in ((mlp(), [True, False, False]), (Shrinking(False), [True, True, True])):
        copied.clear()
        model = Model(module)
        for _ in expected:
            with model.quiet():
                model(torch.ones(2, 5))
        assert copied == expected
