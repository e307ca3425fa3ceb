"""How a step calls the model is seen: with what, before anything is written into it, and without a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from lightning.pytorch.strategies.strategy import _ForwardRedirection
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_interactions.model import seen as seen_module
from lightning_interactions.model.reader import Sight, seeing
from lightning_interactions.model.seen import MAX_CALLS, Recorder, SeenCall, can_be_seen, judge_of, sizes_of


class Two(nn.Module):
    """A backbone and a head, with more to be given to them than they need."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
        self.head = nn.Linear(4, 3)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor, *others: Any, scale: Any = 1.0, **more: Any) -> Tensor:
        return self.head(self.backbone(x)) * scale

    def training_step(self, x: Tensor) -> Tensor:
        return self(x).sum()


def calls_of(model: nn.Module, step: Callable[[], Any], rows: int | None = None, **options: Any) -> list[SeenCall]:
    recorder = Recorder(model, **options).start(() if rows is None else (rows,))
    try:
        step()
    finally:
        recorder.stop()
    return recorder.calls


def places(calls: list[SeenCall]) -> list[str]:
    """Where calls were; those the model makes of its parts in angle brackets."""
    return [f"<{call.site}>" if call.inside else call.site for call in calls]


WHOLE = ["", "<backbone>", "<head>"]
"""A call of `Two`, and those it makes of its parts."""


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


# -- what is seen ----------------------------------------------------------------------------------------------------


def test_arguments_are_seen_by_position_and_by_name() -> None:
    model, mask, note = Two().eval(), torch.ones(6, 2), object()
    call, *parts = calls_of(model, lambda: model(X, [mask, "text"], scale=torch.tensor(2.0), note=note))
    assert (call.site, call.rows, call.training, call.judge, call.inside) == ("", 6, False, "", False)
    assert places(parts) == WHOLE[1:]
    assert torch.equal(call.args[0], X)
    assert torch.equal(call.args[1][0], mask)
    assert call.args[1][1] == "text"
    assert set(call.kwargs) == {"scale", "note"}
    assert call.kwargs["scale"] == 2
    assert call.kwargs["note"] is note
    assert torch.equal(call.output, model(X, scale=2.0))
    assert not call.output.requires_grad


def test_arguments_and_outputs_are_as_they_were_before_anything_was_written_into_them() -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor, deep: dict[str, Tensor]) -> Tensor:
            deep["mask"].zero_()
            return x.mul_(0).add_(3)

    model, x, deep = Writing(), X.clone(), {"mask": torch.ones(6)}
    (call,) = calls_of(model, lambda: model(x, deep).mul_(7))
    assert torch.equal(call.args[0], X)
    assert call.args[1]["mask"].tolist() == [1.0] * 6
    assert torch.equal(call.output, torch.full((6, 5), 3.0))


def test_only_the_calls_of_the_step_itself_and_of_the_model_are_seen() -> None:
    """What a part calls in its turn is not: the layers of the backbone."""
    model = Two()
    assert places(calls_of(model, lambda: model(X))) == WHOLE

    def parts() -> None:
        model.loss(model.head(model.backbone(X)), torch.zeros(6).long())

    calls = calls_of(model, parts)
    assert [(call.site, call.judge) for call in calls] == [("backbone", ""), ("head", ""), ("loss", "loss")]
    assert not any(call.inside for call in calls)
    assert torch.equal(calls[0].output, calls[1].args[0])
    assert [call.training for call in calls] == [True] * 3


def test_a_part_that_another_calls_is_seen_only_where_the_step_calls_it() -> None:
    model = Two()

    def step() -> None:
        model(X)
        model.head(torch.zeros(6, 4))

    assert places(calls_of(model, step)) == [*WHOLE, "head"]


def test_after_a_failed_part_others_are_still_seen() -> None:
    model = Two()

    def step() -> None:
        with pytest.raises(RuntimeError):
            model(torch.zeros(6, 99))
        model(X)

    calls = calls_of(model, step)
    assert places(calls) == ["", "<backbone>", *WHOLE]
    assert [call.output is None for call in calls] == [True, True, False, False, False]


@pytest.mark.parametrize("first", [1, 2])
def test_a_step_that_is_redirected_through_a_wrapper_is_no_call(first: int) -> None:
    class Wrapper(nn.Module):  # as DistributedDataParallel is one
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

    model = Two()
    wrapper = Wrapper(model)
    calls = calls_of(model, lambda: [_ForwardRedirection()(wrapper, model, "training_step", X) for _ in range(first)])
    assert places(calls) == WHOLE * first
    for call in calls:
        expected = model.backbone(X) if call.site == "backbone" else model(X)
        assert torch.equal(call.output, expected), "what the model returned, not the loss"
    direct = calls_of(model, lambda: model.training_step(X))
    assert torch.equal(direct[0].output, calls[0].output)


def test_a_failed_step_that_is_redirected_does_not_confuse_the_next() -> None:
    model = Two()
    recorder = Recorder(model).start()
    with pytest.raises(RuntimeError):
        _ForwardRedirection()(model, model, "training_step", torch.zeros(6, 99))
    recorder.start()
    model(X)
    assert places(recorder.stop()) == WHOLE


def test_calls_without_samples_are_left_out() -> None:
    class Free(nn.Module):
        def forward(self, *args: Any) -> Tensor:
            return torch.zeros(3)

    model = Free()
    calls = calls_of(model, lambda: (model(), model("text"), model(torch.tensor(1.0)), model(torch.zeros(2, 2))))
    assert [call.rows for call in calls] == [2]


@pytest.mark.parametrize(("batch", "rows"), [(6, [6]), (2, [2]), (None, [2]), (7, [])])
def test_calls_are_about_as_many_samples_as_the_batch_has(batch: int | None, rows: list[int]) -> None:
    """Those with other tensors only are not about its samples: a table of embeddings, say."""
    model = nn.Identity()
    calls = calls_of(model, lambda: model([torch.zeros(2, 3), X]), batch)
    assert [call.rows for call in calls] == rows


def test_of_several_sizes_the_likeliest_counts() -> None:
    model = nn.Identity()
    recorder = Recorder(model).start((2, 6))
    model([X, torch.zeros(2, 3)])
    model(X)
    assert [call.rows for call in recorder.stop()] == [2, 6]


def test_what_is_called_inside_keeps_its_arguments_and_outputs() -> None:
    model = Two().eval()
    whole, backbone, head = calls_of(model, lambda: model(X, scale=torch.tensor(2.0)), 6)
    assert torch.equal(backbone.args[0], X)
    assert torch.equal(backbone.output, model.backbone(X))
    assert torch.equal(head.args[0], backbone.output)
    assert torch.equal(whole.output, 2 * head.output)
    assert [call.training for call in (backbone, head)] == [False, False]


def test_parts_that_are_called_inside_with_other_tensors_confuse_nothing() -> None:
    class Attending(Two):
        def forward(self, x: Tensor, *others: Any, scale: Any = 1.0, **more: Any) -> Tensor:
            table = self.backbone(torch.ones(9, 5))  # of no samples
            return self.head(self.backbone(x) + table.mean(0))

    model = Attending()
    calls = calls_of(model, lambda: (model(X), model.loss(model(X), torch.zeros(6).long())), 6)
    assert places(calls) == [*WHOLE, *WHOLE, "loss"]
    assert all(torch.equal(call.output, model(X)) for call in calls if call.site in ("", "head"))


def test_what_a_part_calls_is_not_inside_the_model() -> None:
    model = nn.ModuleDict({"outer": Two()})
    assert places(calls_of(model, lambda: model["outer"](X))) == ["outer"]


def test_a_deep_model_hides_no_loss() -> None:
    """However many parts it calls, the step's own calls count before those."""

    class Deep(Two):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(MAX_CALLS + 3))

        def forward(self, x: Tensor, *others: Any, scale: Any = 1.0, **more: Any) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.head(self.backbone(x))

    model = Deep()
    calls = calls_of(model, lambda: model.loss(model(X), torch.zeros(6).long()))
    assert [call.site for call in calls if not call.inside] == ["", "loss"]


def test_only_so_many_calls_are_kept_and_no_outputs_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Two()
    assert len(calls_of(model, lambda: [model.head(torch.ones(2, 4)) for _ in range(MAX_CALLS + 5)])) == MAX_CALLS
    monkeypatch.setattr(seen_module, "OUTPUT_NUMBERS", 17)
    assert calls_of(model, lambda: model(X))[0].output is None
    monkeypatch.setattr(seen_module, "OUTPUT_NUMBERS", 18)
    assert calls_of(model, lambda: model(X))[0].output.shape == (6, 3)


def test_something_may_be_done_just_before_the_first_call() -> None:
    model, modes = Two(), list[bool]()

    def step() -> None:
        model.eval()
        model(X)
        model.train()
        model(X)

    calls = calls_of(model, step, before=lambda: modes.append(model.training))
    assert modes == [False]
    assert [call.training for call in calls if not call.inside] == [False, True]


# -- where hooks are -------------------------------------------------------------------------------------------------


def test_only_the_sites_asked_for_get_hooks() -> None:
    model = Two()
    recorder = Recorder(model, sites=["head"]).start()
    assert hooks(model) == hooks(model.head) == 2
    model.head(model.backbone(X))
    assert [call.site for call in recorder.stop()] == ["head"]
    assert calls_of(model, lambda: model(X), sites=()) == []


def test_no_hook_stays() -> None:
    model = Two()
    recorder = Recorder(model).start()
    assert hooks(model) > 0
    recorder.start()
    model(X)
    assert places(recorder.stop()) == WHOLE, "started twice, it sees once"
    assert hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_stays_after_a_failure_and_nothing_is_handed_on(error: type[BaseException]) -> None:
    def fail(module: nn.Module, args: Any, output: Any) -> None:
        raise error

    model, found = Two(), list[Any]()
    handle = model.head.register_forward_hook(fail)
    with pytest.raises(error), seeing(Sight(model), [X], found.append):
        model(X)
    handle.remove()
    assert hooks(model) == 0
    assert found == []


def test_a_step_that_is_seen_gives_the_same_gradients_and_draws_no_random_numbers() -> None:
    model = Two()
    model(X).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    random = torch.get_rng_state()
    calls_of(model, lambda: model(X).square().sum().backward())
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), random)


def test_a_sight_copies_the_batch_before_the_step() -> None:
    model, found = Two(), []
    batch = {"x": X.clone(), "labels": torch.arange(6)}
    with seeing(Sight(model), batch, found.append):
        batch.pop("labels")
        model(batch["x"].mul_(2))
    (sighting,) = found
    assert len(sighting) == 6
    assert torch.equal(sighting.batch["x"], X)
    assert sighting.batch["labels"].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(sighting.calls[0].args[0], 2 * X)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_computes_again_undisturbed(reentrant: bool) -> None:
    class Checkpointed(Two):
        def forward(self, x: Tensor, *others: Any, scale: Any = 1.0, **more: Any) -> Tensor:
            return self.head(checkpoint(self.backbone, x, use_reentrant=reentrant)) * scale

    model, plain, x = Checkpointed(), Two(), X.clone().requires_grad_()
    plain.load_state_dict(model.state_dict())
    plain(x).square().sum().backward()
    calls = calls_of(model, lambda: model(x).square().sum().backward())
    assert calls[0].site == ""
    assert torch.equal(calls[0].output, plain(x))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
    assert calls_of(model, lambda: model(x))[0].site == "", "the next step is seen as ever"


# -- compiled and scripted models ------------------------------------------------------------------------------------


@pytest.fixture
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_nothing_inside_of_what_is_compiled_gets_a_hook() -> None:
    model = Two().eval()
    inner = model.backbone
    model.backbone = torch.compile(inner, backend="eager")  # type: ignore[assignment]
    expected = model(X)
    recorder = Recorder(model).start()
    assert hooks(inner) == 0
    assert hooks(model) == 2 * 4, "the model, the compiled part from outside, head and loss"
    model(X)
    model.head(model.backbone(X))
    calls = recorder.stop()
    assert places(calls) == [*WHOLE, "backbone", "head"]
    assert torch.equal(calls[0].output, expected)
    assert torch.equal(calls[-1].output, expected)
    assert hooks(model) == 0


@pytest.mark.usefixtures("_fresh_compiler")
def test_parts_compiled_in_place_are_left_alone() -> None:
    model = Two().eval()
    model.backbone.compile(backend="eager")
    recorder = Recorder(model).start()
    assert hooks(model.backbone) == 0
    model(X)
    assert places(recorder.stop()) == ["", "<head>"]


def test_models_that_are_compiled_as_a_whole_cannot_be_seen() -> None:
    assert can_be_seen(Two())
    assert not can_be_seen(torch.compile(Two(), backend="eager"))  # type: ignore[arg-type]
    in_place, through_lightning = Two(), Two()
    in_place.compile(backend="eager")
    assert not can_be_seen(in_place)
    through_lightning._compiler_ctx = {"compiler": "dynamo"}  # type: ignore[assignment]
    assert not can_be_seen(through_lightning)
    assert Sight(in_place).open([X]).close().calls is None


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_parts_do_no_harm() -> None:
    model = Two()
    model.backbone = torch.jit.script(model.backbone)  # type: ignore[assignment]
    expected = model(X)
    call, *parts = calls_of(model, lambda: model(X))
    assert call.site == ""
    assert torch.equal(call.output, expected)
    assert all(part.inside for part in parts)
    assert hooks(model) == 0


# -- what a module is, and how many samples --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "judge"),
    [(nn.CrossEntropyLoss(), "loss"), (nn.BCEWithLogitsLoss(), "loss"), (nn.MSELoss(), "loss"),
     (type("Own", (nn.NLLLoss,), {})(), "loss"), (torchmetrics.Accuracy("multiclass", num_classes=3), "metric"),
     (torchmetrics.MeanMetric(), "metric"), (nn.Linear(2, 2), ""), (nn.Softmax(), "")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_losses_and_metrics_are_told_from_models(module: nn.Module, judge: str) -> None:
    assert judge_of(module) == judge


@pytest.mark.parametrize(
    ("batch", "rows"),
    [([X, torch.zeros(6)], [6]), ({"a": torch.zeros(3, 3), "b": {"c": X, "d": torch.zeros(6)}}, [6, 3]),
     (torch.tensor(1.0), []), ("text", []), ([], []), ([torch.tensor(2.0), torch.zeros(4, 1)], [4])],
)  # fmt: skip
def test_the_size_of_a_batch_is_what_most_tensors_have(batch: Any, rows: list[int]) -> None:
    assert sizes_of(batch) == rows
