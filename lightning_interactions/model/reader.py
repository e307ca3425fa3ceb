"""From what passes by, batches and the calls a step made with them, to samples: inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import BatchError, EmptyBatchError, bad_argument
from lightning_interactions.model.batch import TARGET_KEYS, Batch, ask, describe_structure, read_batch, target_leaf
from lightning_interactions.model.heads import Wanted, choose_head, find_heads
from lightning_interactions.model.plan import Plan, between, make_plan, model_calls
from lightning_interactions.model.positions import find_positions, may_be_labels
from lightning_interactions.model.score import read_whole
from lightning_interactions.model.seen import Recorder, SeenCall, can_be_seen, sizes_of
from lightning_interactions.model.targets import MISSING, known_rows
from lightning_interactions.model.tree import Path, copied, rebuild, same, tensors


@dataclass
class Sighting:
    """A batch, and what the step did with it; copies, so that both may be written into."""

    batch: Any
    calls: Sequence[SeenCall] | None = None  # None where it was not looked at, or cannot be
    rows: int | None = None  # only so many of its samples are new; the others a sampler has repeated

    def __len__(self) -> int:
        """Number of samples."""
        return next(iter(sizes_of(self.batch)), 0)

    def to(self, device: torch.device) -> Sighting:
        """Move the tensors of a batch that waited."""
        batch = rebuild(self.batch, lambda _, leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf)
        return replace(self, batch=batch)


class Sight:
    """Sees one step: between `open` and `close` it runs with a batch, which is copied first."""

    def __init__(self, model: nn.Module, sites: Collection[str] | None = None) -> None:
        self._recorder = Recorder(model, sites) if can_be_seen(model) else None
        self._batch: Any = None

    def open(self, batch: Any) -> Sight:
        """Begin to look."""
        self._batch = copied(batch)
        if self._recorder is not None:
            self._recorder.start(sizes_of(batch))
        return self

    def close(self) -> Sighting:
        """Look no longer."""
        return Sighting(self._batch, self._recorder.stop() if self._recorder is not None else None)


@contextmanager
def seeing(sight: Sight, batch: Any, take: Callable[[Sighting], object]) -> Iterator[None]:
    """See what runs inside, and hand it on if it did not fail."""
    sight.open(batch)
    try:
        yield
    except BaseException:
        sight.close()
        raise
    take(sight.close())


Source = tuple[str, Any]  # where targets are: ("batch", path), ("call", name of what is carried) or ("loss", module)


@dataclass
class Reader:
    """Reads samples from sightings; learned from the first one.

    With a ``plan`` inputs are what the model was called with, else what the batch holds.
    """

    plan: Plan | None
    input_fn: Callable[[Any], Any] | None = None
    target_fn: Callable[[Any], Any] | None = None
    sources: dict[str, Source] = field(default_factory=dict)  # of each split
    ignored: set[int] = field(default_factory=set)  # class indices that stand for a missing target
    sites: dict[str, set[str]] = field(default_factory=dict)  # of each split: the modules its steps call
    head: Wanted = None  # which of several outputs is followed
    leaf: Path | None = None  # where it is in what the model returns, once that was seen

    def read(self, split: str, seen: Sighting) -> Batch:
        """Return the samples; a `BatchError` says what is missing. Those without a target are left out."""
        if self.plan is None:
            batch = read_batch(seen.batch, self.input_fn, self.target_fn)
        else:
            batch = self._follow(self.plan, split, seen)
        rows = torch.arange(len(batch.inputs))[: seen.rows]
        known = known_rows(batch.targets.cpu())
        return batch if bool(known.all()) and len(rows) == len(known) else batch.rows(rows[known[: len(rows)]])

    def _follow(self, plan: Plan, split: str, seen: Sighting) -> Batch:
        match = plan.match(seen.calls or ())
        inputs, carried = plan.arrange(match.own)
        names = tuple(plan.carried.values())
        if self.target_fn is not None:
            if self.leaf is None:
                self._follow_head(seen, len(inputs))
            targets: Any = ask("target_fn", self.target_fn, seen.batch)
        else:
            known = dict(zip(names, carried, strict=True))
            if split not in self.sources:
                own = self._follow_head(seen, len(inputs))
                self.sources[split] = own or _find_targets(seen, inputs, known, match.calls[0])
            targets = _at(self.sources[split], seen, inputs, known)
        if not isinstance(targets, Tensor) or not targets.ndim or len(targets) != len(inputs):
            raise _no_targets(seen.batch, len(inputs))
        self.sites[split] = {call.site for call in match.calls}
        self.ignored |= {call.ignored for call in seen.calls or () if call.ignored is not None}
        for index in self.ignored if not targets.is_floating_point() else ():
            targets = torch.where(targets == index, MISSING, targets)
        return Batch(inputs, targets.detach().to(inputs.device), plan.fields, carried, names, leaf=self.leaf)

    def _follow_head(self, seen: Sighting, rows: int) -> Source | None:
        """Find the head that is followed, if there are several; return where its own targets are."""
        heads = find_heads(seen.calls or (), seen.batch, rows)
        if self.leaf is not None and not any(head.leaf == self.leaf for head in heads):
            return None  # a step of training may call something else
        head = choose_head(heads, self.head, ask=self.target_fn is None)
        if head is None:
            return None
        self.leaf = head.leaf
        if head.target is None and self.target_fn is None:
            raise BatchError(
                f"No targets of the output {head.name!r} {head.shape} were found in the batch "
                f"{describe_structure(seen.batch)}. Give `target_fn=batch -> targets`."
            )
        return None if head.target is None else ("batch", head.target)

    def sites_of(self, split: str) -> set[str] | None:
        """Names of the modules whose calls in the steps of a split matter; ``None`` while that is not known."""
        if self.plan is None:
            return set()
        kind, where = self.sources.get(split, ("", None))
        known = self.sites.get(split)
        return None if known is None else known | ({where} if kind == "loss" else set())

    def skips(self, seen: Sighting) -> bool:
        """Whether the step did not call the model at all, as where it skips a batch."""
        return self.plan is not None and not model_calls(seen.calls or ())

    def first(self, split: str, seen: Sighting) -> Batch:
        """Return the samples of a first sighting, with what the model returned for them; an error if none counts."""
        batch = self.read(split, seen)
        if not len(batch.inputs):
            raise EmptyBatchError("all targets are missing in the batches so far")
        last = self.plan.calls[-1] if self.plan is not None else None
        complete = last is not None and not last.training and len(batch.inputs) == last.rows
        if last is None or not complete:
            return batch
        losses = [call for call in seen.calls or () if call.judge == "loss"]
        judged = next((x for call in losses for x in list(call.given.values())[:1]), None)
        return replace(batch, seen=last.output, judged=judged)


def defines_forward(module: nn.Module) -> bool:
    """Whether a module has a forward of its own, not the one of its base class that only says so."""
    return "forward" in vars(module) or ".core.module" not in type(module).forward.__module__


def learn(
    seen: Sighting,
    *,
    wanted: str | int | None = None,
    input_fn: Callable[[Any], Any] | None = None,
    target_fn: Callable[[Any], Any] | None = None,
    forward_fn: Callable[[Any, Any], Any] | None = None,
    has_forward: bool = False,
    head: Wanted = None,
) -> tuple[Reader, str | None]:
    """Learn to read what passes by from the first sighting; return what is to be told too.

    Where the user says how inputs are read or the model is called, or its step calls nothing with the batch's tensors,
    the batch is read instead; also where the step computes something between two modules, if the model has a
    ``forward`` of its own.
    """
    if head is not None and (input_fn is not None or forward_fn is not None):
        raise bad_argument("head", "None beside `input_fn` and `forward_fn`: let the latter return that output", head)
    plain = Reader(None, input_fn, target_fn)
    if input_fn is not None or forward_fn is not None:
        return plain, None
    asked = model_calls(seen.calls or ())
    plan = make_plan(asked, wanted, seen.batch) if asked else None
    gap = between(plan, asked, seen.batch) if plan is not None else None
    if gap is not None and has_forward:
        return (
            plain,
            f"the step computes between `{gap[0]}` and `{gap[1]}`, so the model's own forward is called instead",
        )
    if gap is not None:
        raise BatchError(
            f"The step computes something between `{gap[0]}` and `{gap[1]}`, so no call of a module gives the model's "
            "answer. Define `forward(inputs) -> logits`, or give `forward_fn=(module, inputs) -> logits`."
        )
    if plan is None and head is not None:
        raise bad_argument("head", "None, for the step was not seen to call a module with the batch's tensors", head)
    if plan is None:
        text = "the step calls no module with the batch's tensors, so its inputs are read from the batch"
        return plain, text if seen.calls is not None else None
    return Reader(plan, None, target_fn, head=head), None


def _find_targets(seen: Sighting, inputs: Tensor, carried: Mapping[str, Tensor], call: SeenCall) -> Source:
    """Find out where targets are: what a loss was given, what has a usual name, what the model was not given.

    The first ``call`` of the model was given the inputs, and what is ``carried`` along by name.
    """
    rows = len(inputs)
    batch = {path: x for path, x in tensors(seen.batch).items() if x.ndim and len(x) == rows}
    judged = _judged(seen, rows)
    for _, tensor in judged:
        for path, leaf in batch.items():
            if _same(leaf, tensor):
                return "batch", path
    named = target_leaf(seen.batch)
    if named is not None and named in batch:
        return "batch", named
    calls = [other for other in seen.calls or () if not other.judge]
    output = _last_output(calls)
    given = list(call.given.values())
    given += [x for other in calls if not other.inside and other.site for x in other.given.values()]
    unread = _targets_of(output, {path: x for path, x in batch.items() if not any(_same(x, y) for y in given)})
    if unread is not None:
        return "batch", unread
    if judged:
        return "loss", judged[0][0]
    own = next((name for name in carried if name.rpartition(".")[2] in TARGET_KEYS), None)
    own = own or next((name for name, x in carried.items() if x.ndim > 1 and _is_answer(x, output)), None)
    if own is not None:
        return "call", own
    taken = [path for path, leaf in batch.items() if leaf.ndim == 1 and not _same(leaf, inputs)]
    if taken:  # by the model, which takes the whole batch or returns its loss
        return "batch", taken[-1]
    if any(x.shape == inputs.shape and x.is_floating_point() for x in tensors(call.output).values()):
        return "input", None  # it is reconstructed
    raise _no_targets(seen.batch, rows)


def _targets_of(output: Any, unread: Mapping[Path, Tensor]) -> Path | None:
    """Find, in what no module was given, what can be targets of what the model returned last."""
    others = [path for path, x in unread.items() if x.ndim <= 2 or _are_answers(x, output)]
    others = [path for path in others if _fits(unread[path], output)] or others
    if not others or (1,) in others:
        return (1,) if others else None
    return min(others, key=lambda path: (unread[path].is_floating_point(), unread[path].ndim))


def _at(source: Source, seen: Sighting, inputs: Tensor, carried: Mapping[str, Tensor]) -> Any:
    kind, where = source
    if kind == "batch":
        return tensors(seen.batch).get(where)
    if kind == "loss":
        return dict(_judged(seen, len(inputs))).get(where)
    return carried[where] if kind == "call" else inputs


def _judged(seen: Sighting, rows: int) -> list[tuple[str, Tensor]]:
    """What losses and metrics were given besides the model's output, by the name of the module; losses first."""
    found = []
    for call in seen.calls or ():
        own = [x for x in call.given.values() if x.ndim and len(x) == rows]
        if call.judge and len(own) >= 2:
            found.append((call, own[1]))
    found.sort(key=lambda pair: pair[0].judge != "loss")
    return [(call.site, tensor) for call, tensor in found]


def _are_answers(targets: Tensor, output: Any) -> bool:
    """Whether a model can have been meant to return these, or scores of positions of which these are labels.

    Any labels of positions may be, where what it returned was too large to be kept.
    """
    if output is None:
        return may_be_labels(targets)
    return _is_answer(targets, output) or find_positions(output, targets) is not None


def _is_answer(numbers: Tensor, output: Any) -> bool:
    """Whether a model returned something of the form of these."""
    return numbers.is_floating_point() and read_whole(output, numbers.shape[1:]) is not None


def _last_output(calls: Sequence[SeenCall]) -> Any:
    return next((call.output for call in reversed(calls) if not call.inside), None)


def _fits(targets: Tensor, output: Any) -> bool:
    """Whether whole numbers can be classes of what a model returned."""
    outputs = [x for x in tensors(output).values() if x.is_floating_point() and x.ndim]
    if targets.is_floating_point() or targets.ndim > 1 or not outputs:
        return True
    return any(int(targets.max()) < max(x.shape[1:].numel(), 2) for x in outputs if len(x) == len(targets))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and same(a.flatten().to(b), b.flatten())


def _no_targets(batch: Any, rows: int) -> BatchError:
    return BatchError(
        f"Expected one target for each of {rows} samples, but none was found in the batch {describe_structure(batch)}. "
        "Give `target_fn=batch -> targets`."
    )
