"""The probing context leaves no trace, and the forward inside it is exact."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from leaving import however, run
from lightning.pytorch import LightningModule
from models import cnn, mlp
from torch import Tensor, nn

from lightning_interactions.model.quiet import device_of, float32_forward, quiet


def random_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist()


def precision_settings() -> list[Any]:
    top: Any = torch.backends
    places = [top, top.cudnn, top.mkldnn, top.cuda.matmul, top.cudnn.conv, top.cudnn.rnn, top.mkldnn.matmul]
    new = [getattr(place, "fp32_precision", None) for place in places]
    try:
        return [*new, torch.get_float32_matmul_precision(), top.cudnn.allow_tf32, top.cuda.matmul.allow_tf32]
    except RuntimeError:  # torch refuses to tell when both kinds of settings were used
        return new


def process() -> tuple[Any, ...]:
    return (random_states(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(), precision_settings(),
            torch.is_autocast_enabled("cpu"))  # fmt: skip


def mess_up() -> None:
    random.random()
    np.random.rand()
    torch.rand(1)
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)


@pytest.fixture(autouse=True)
def restored_precision() -> Any:
    top: Any = torch.backends
    yield
    if hasattr(top, "fp32_precision"):
        for place in (top, top.cudnn, top.mkldnn, top.cuda.matmul, top.mkldnn.matmul, top.mkldnn.conv):
            place.fp32_precision = "none"
        top.cudnn.conv.fp32_precision = top.cudnn.rnn.fp32_precision = "tf32"
    if torch.get_float32_matmul_precision() != "highest":
        torch.set_float32_matmul_precision("highest")
    top.cudnn.allow_tf32 = True


# -- the process -----------------------------------------------------------------------------------------------------


@however
def test_random_states_are_restored(fails: bool) -> None:
    before = process()
    run(mlp(), mess_up, fails=fails)
    assert process() == before


@however
@pytest.mark.parametrize(
    "outside",
    [torch.enable_grad, torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["grad", "no grad", "inference mode", "autocast"],
)
def test_modes_are_plain_inside_and_restored_outside(outside: Callable[[], Any], fails: bool) -> None:
    inside: list[Any] = []

    def look() -> None:
        out = model(torch.ones(2, 5))
        inside.extend([torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
                       out.is_inference(), out.requires_grad, out.dtype])  # fmt: skip

    model = mlp()
    with outside():
        before = process()
        run(model, look, fails=fails)
        assert process() == before
    assert inside == [False, False, False, False, False, torch.float32]


@however
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolution", [True, False], ids=["conv tf32", "conv full"])
def test_matmul_precision_is_full_inside_and_restored(precision: str, convolution: bool, fails: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = convolution
    before = process()
    inside: list[Any] = []
    run(
        mlp(),
        lambda: inside.extend([torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32]),
        fails=fails,
    )
    assert inside == ["highest", False]
    assert process() == before


SETTINGS = {
    "all": ("fp32_precision", "tf32"),
    "matmul": ("cuda.matmul.fp32_precision", "tf32"),
    "convolution": ("cudnn.conv.fp32_precision", "ieee"),
    "cpu": ("mkldnn.matmul.fp32_precision", "bf16"),
}


@however
@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has no such settings")
@pytest.mark.parametrize(("path", "value"), SETTINGS.values(), ids=SETTINGS.keys())
def test_the_newer_precision_settings_are_respected_too(path: str, value: str, fails: bool) -> None:
    # torch raises when they are mixed with the older ones, even when those are only read
    *parents, name = path.split(".")
    place: Any = torch.backends
    for parent in parents:
        place = getattr(place, parent)
    setattr(place, name, value)
    before = process()
    inside: list[Any] = []
    run(mlp(), lambda: inside.extend(precision_settings()[:7]), fails=fails)
    assert process() == before
    assert not {"tf32", "bf16"} & set(inside)
    torch.backends.fp32_precision = "tf32"  # what inherited before still does
    assert torch.backends.mkldnn.fp32_precision == "tf32"


def test_precision_is_left_alone_on_request() -> None:
    torch.set_float32_matmul_precision("medium")
    with quiet(mlp(), full_precision=False):
        assert torch.get_float32_matmul_precision() == "medium"


# -- the model -------------------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """Some parts the user has put into evaluation mode, and a `train` that would undo it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)).eval()
        self.head = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
        self.calls = 0

    def train(self, mode: bool = True) -> Frozen:
        self.calls += 1
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def test_modes_of_every_part_are_restored_without_train_or_eval() -> None:
    for fails in (False, True):
        model = Frozen()
        model.head[1].eval()
        before = {name: module.training for name, module in model.named_modules()}
        calls = model.calls
        inside: list[bool] = []
        run(model, lambda m=model, i=inside: i.extend(part.training for part in m.modules()), fails=fails)
        assert not any(inside)
        assert {name: module.training for name, module in model.named_modules()} == before
        assert model.calls == calls


@however
def test_weights_buffers_and_gradients_are_untouched(fails: bool) -> None:
    model = Frozen()
    model(torch.randn(4, 5)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    run(model, lambda: float32_forward(model)(torch.randn(4, 5)), fails=fails)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(
        torch.equal(a, p.grad)
        for a, p in zip(gradients, [p for p in model.parameters() if p.grad is not None], strict=True)
    )
    assert versions == [t._version for t in (*model.parameters(), *model.buffers())]


@however
def test_buffers_that_change_in_evaluation_mode_are_restored(fails: bool) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("largest", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.largest = torch.maximum(self.largest, x.max())
            return x

    model = Counting()
    model(torch.ones(2))
    before = (model.calls, model.largest)
    run(model, lambda: model(torch.full((2,), 9.0)), fails=fails)
    assert (model.calls, model.largest) == (1, 1)
    assert (model.calls is before[0], model.largest is before[1]) == (True, True), "no other tensor in their place"


def test_dropout_is_off() -> None:
    model, x = Frozen(), torch.randn(4, 5)
    with quiet(model):
        assert torch.equal(model(x), model(x))


class Logging(LightningModule):
    """Logs wherever it can, which Lightning forbids outside its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 3)
        self.seen: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        self.log("mean", out.mean())
        self.log_dict({"max": out.max()})
        return out


@however
def test_log_does_nothing_inside(fails: bool) -> None:
    model = Logging()
    model._trainer = SimpleNamespace(_results=None, barebones=False)  # a Trainer outside of every hook
    outer = nn.ModuleDict({"part": model})
    with pytest.raises(Exception, match="log"):
        model(torch.ones(2, 5))
    run(outer, lambda: model(torch.ones(2, 5)), fails=fails)
    assert "log" not in vars(model)
    assert "log_dict" not in vars(model)
    assert model.log.__func__ is LightningModule.log


@however
def test_an_own_log_comes_back(fails: bool) -> None:
    model, heard = Logging(), []
    own = model.__dict__["log"] = lambda name, *args, **kwargs: heard.append(name)
    model.__dict__["log_dict"] = own
    run(model, lambda: model(torch.ones(2, 5)), fails=fails)
    assert heard == []
    assert model.__dict__["log"] is own
    assert model.__dict__["log_dict"] is own


def test_a_module_named_log_is_no_logger() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.log(x)

    model = Odd()
    with quiet(model):
        assert model(torch.ones(1, 2)).shape == (1, 2)


def test_nested_contexts_unwind_in_order() -> None:
    model = Frozen()
    before = {name: module.training for name, module in model.named_modules()}
    with quiet(model), quiet(model.backbone):
        mess_up()
    assert {name: module.training for name, module in model.named_modules()} == before


def test_the_device_is_that_of_the_weights() -> None:
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")) == torch.device("meta")


# -- precision of the forward ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["mlp", "cnn", "batch norm", "tied"])
def test_half_precision_weights_compute_in_float32(kind: str, dtype: torch.dtype) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(5, 5, bias=False), nn.Linear(5, 5)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x).tanh())

    model = {"mlp": mlp, "cnn": cnn, "batch norm": Frozen, "tied": Tied}[kind]().eval().to(dtype)
    x = torch.randn(3, 1, 8, 8) if kind == "cnn" else torch.randn(3, 5)
    wide = copy.deepcopy(model).float()
    with quiet(model):
        found = float32_forward(model)(x)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wide(x), rtol=0, atol=0)
    assert {p.dtype for p in model.parameters()} == {dtype}
    if kind == "tied":
        assert model.decode.weight is model.encode.weight


def test_parts_in_half_precision_are_cast_alone() -> None:
    model = mlp()
    model[0].bfloat16()
    wide = copy.deepcopy(model).float()
    x = torch.randn(3, 5)
    with quiet(model):
        torch.testing.assert_close(float32_forward(model)(x), wide(x), rtol=0, atol=0)


def test_double_precision_is_kept() -> None:
    model = mlp().double()
    x = torch.randn(3, 5)
    with quiet(model):
        found = float32_forward(model)(x)
        assert found.dtype == torch.float64
        assert torch.equal(found, model(x.double()))


def test_a_double_buffer_does_not_make_a_double_model() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()
            self.register_buffer("temperature", torch.tensor(2.0, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) / self.temperature

    model, x = Scaled(), torch.randn(3, 5)
    with quiet(model):
        assert torch.equal(float32_forward(model)(x.double()), model(x))


def test_integer_inputs_stay_integers() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2)).bfloat16()
    with quiet(model):
        assert float32_forward(model)(torch.tensor([[1, 2, 3]])).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_users_own_call_is_used(dtype: torch.dtype) -> None:
    model, x = mlp().to(dtype), torch.randn(2, 5)
    with quiet(model):
        found = float32_forward(model, lambda module, inputs: {"logits": module(inputs) * 2})(x)
        torch.testing.assert_close(found["logits"], float32_forward(model)(x) * 2)


def test_half_precision_buffers_begin_every_pass_as_they_are() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x) + self.calls

    model, x = Counting().bfloat16(), torch.randn(2, 5)
    with quiet(model):
        forward = float32_forward(model)
        first = forward(x)
        assert torch.equal(forward(x), first)
        model.calls += 1
        assert not torch.equal(forward(x), first), "those of now, not those of when the forward was made"
    assert model.calls == 0


# -- compiled models -------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_compiled_models_are_neither_recompiled_nor_changed() -> None:
    from torch._dynamo.utils import counters

    plain = Frozen()
    model = torch.compile(plain, backend="eager")
    try:
        model(torch.randn(4, 5))
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {error}")
    before = {name: module.training for name, module in model.named_modules()}
    compiled = counters["stats"]["unique_graphs"]
    assert compiled
    with quiet(model):
        forward = float32_forward(model)
        for size in (1, 3, 17, 200):
            x = torch.randn(size, 5)
            assert torch.equal(forward(x), plain(x))
    assert counters["stats"]["unique_graphs"] == compiled
    assert {name: module.training for name, module in model.named_modules()} == before
    model(torch.randn(4, 5))
    assert counters["stats"]["unique_graphs"] == compiled
