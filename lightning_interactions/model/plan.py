"""How the model is asked, learned from a step that was seen: what is masked, what is carried along, what stays.

The calls of a step are linked where one takes what another returned, so a module that normalises, a backbone and a head
become one. Of the tensors that come from outside, those with a row for each sample are carried along; one of them is
masked; everything else is constant.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import BatchError, bad_argument
from lightning_interactions.model.batch import companion_role, pick_columns, pick_input
from lightning_interactions.model.packing import Field, column_field, pack, unpack
from lightning_interactions.model.seen import SeenCall
from lightning_interactions.model.tree import Path, leaves, rebuild, same, tensors

Place = tuple[int, Path]
"""A tensor of a step: the number of the call, and where it stands in its arguments ``(args, kwargs)``."""


@dataclass(frozen=True)
class Match:
    """What of another step is what a plan asks for."""

    calls: Sequence[SeenCall]
    own: Sequence[Tensor]  # masked and carried tensors, in the order of the plan


@dataclass(frozen=True)
class Plan:
    """One call that does what several calls of a step did, with other samples.

    It is called with the module, the masked tensor (packed with its companions, see `read_batch`) and the tensors that
    are carried along; it returns what the last call of the step returned.
    """

    calls: tuple[SeenCall, ...]
    fields: tuple[Field, ...]  # the masked tensor, and what is packed with it
    places: tuple[Place, ...]  # where these stand
    carried: Mapping[Place, str]  # where the tensors that are carried along stand, and their names
    links: Mapping[Place, Place] = field(default_factory=dict)  # arguments that are outputs of earlier calls
    repeats: Mapping[Place, Place] = field(default_factory=dict)  # arguments that earlier calls were given as well
    counts: frozenset[Place] = frozenset()  # arguments that are the number of samples
    lengths: Place | None = None  # of the carried tensors, the lengths of the texts where no mask tells them

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the modules that are called."""
        return tuple(call.site for call in self.calls)

    def match(self, calls: Sequence[SeenCall]) -> Match:
        """Find the tensors of this plan in the calls of another step; a `BatchError` says that they differ."""
        found = self._same(calls) or self._alike(calls)
        if found is None:
            shapes = [tuple(x.shape) for call in calls[:1] for x in call.given.values()]
            raise BatchError(f"the model is called in another way than in the first batch, with tensors {shapes}")
        return found

    def read(self, calls: Sequence[SeenCall]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Find the masked and the carried tensors in the calls of another step."""
        return self.arrange(self.match(calls).own)

    def arrange(self, own: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return masked and carried tensors of what was matched."""
        packed, carried = own[: len(self.places)], own[len(self.places) :]
        lengths = None if self.lengths is None else carried[list(self.carried).index(self.lengths)]
        return pack(packed, self.fields, lengths), tuple(carried)

    def slim(self) -> None:
        """Let go of the samples of the step this was learned from; their form is remembered."""
        for number, call in enumerate(self.calls):
            for path in [path for n, path in (*self.places, *self.carried, *self.links, *self.repeats) if n == number]:
                call.args, call.kwargs = rebuild((call.args, call.kwargs), partial(_emptied, path))
            call.output = None

    @property
    def _wanted(self) -> dict[Place, str]:
        """Where the tensors stand that are masked and carried, and their names."""
        return {**dict(zip(self.places, (field.name for field in self.fields), strict=False)), **self.carried}

    def _same(self, calls: Sequence[SeenCall]) -> Match | None:
        """The tensors of calls of the same modules with the same arguments."""
        found: list[SeenCall] = []
        for call in calls:
            if len(found) < len(self.calls) and call.site == self.calls[len(found)].site:
                found.append(call)
        if len(found) < len(self.calls):
            return None
        tables = [call.given for call in found]
        if any(path not in tables[number] for number, path in self._wanted):
            return None
        own = [tables[number][path] for number, path in self._wanted]
        fits = all(tensor.ndim and len(tensor) == found[0].rows for tensor in own)
        return Match(found, own) if fits else None

    def _alike(self, calls: Sequence[SeenCall]) -> Match | None:
        """The tensors of a call with arguments of the same names, or that differ so that none can be mistaken.

        A step may hand over by name what another one does by position, or call a part of the model directly.
        """
        wanted = self._wanted
        likes = [self.calls[n].given[path] for n, path in wanted]
        for call in (call for call in calls if not call.judge):
            named = {_name(path, call.parameters): x for path, x in call.samples.items()}
            if len(named) != len(wanted):
                continue
            if set(named) == set(wanted.values()):
                own = [named[name] for name in wanted.values()]
            else:
                forms = [_form(x) for x in likes]
                own = [x for form in forms for x in named.values() if _form(x) == form]  # more of them if two are alike
            if len(own) == len(likes) and all(_form(x) == _form(y) for x, y in zip(own, likes, strict=True)):
                return Match([call], own)
        return None

    def __call__(self, module: nn.Module, inputs: Tensor, *carried: Tensor) -> Any:
        """Call the module, or those of its parts, with other samples."""
        values = dict(zip(self.places, unpack(inputs, self.fields).values(), strict=True))
        values |= dict(zip(self.carried, carried, strict=True))
        outputs: list[Any] = []
        for number, call in enumerate(self.calls):
            args, kwargs = rebuild((call.args, call.kwargs), self._filler(number, values, outputs, len(inputs)))
            outputs.append(module.get_submodule(call.site)(*args, **kwargs))
        return outputs[-1]

    def _filler(self, number: int, values: Mapping[Place, Tensor], outputs: Sequence[Any], rows: int) -> Any:
        first = next(iter(values.values()))

        def fill(path: Path, leaf: Any) -> Any:
            place = number, path
            place = self.repeats.get(place, place)
            if place in values:
                return values[place]
            if place in self.links:
                source, where = self.links[place]
                return tensors(outputs[source])[where]
            if isinstance(leaf, Tensor):
                half = leaf.dtype in (torch.float16, torch.bfloat16) and first.dtype in (torch.float32, torch.float64)
                return leaf.to(first.device, first.dtype if half else leaf.dtype)
            return rows if place in self.counts else leaf

        return fill


def make_plan(calls: Sequence[SeenCall], wanted: str | int | None = None, batch: Any = None) -> Plan:
    """Learn from the calls of a step how the model is asked.

    Args:
        calls: What was seen, without losses and metrics (see `model_calls`).
        wanted: The option ``input``: name or position of the tensor that is masked.
        batch: That of the step: later calls may be given tensors of it besides what earlier ones returned.

    Raises:
        BatchError: If the calls have no tensor whose parts could play.
        ArgumentError: If there is no ``wanted`` tensor.
    """
    found = [_chain(calls[start:], list(tensors(batch).values())) for start in range(len(calls))]
    # A teacher that is frozen may be asked first.
    chain, links, repeats = next((own for own in found if not all(call.frozen for call in own[0])), found[0])
    rows = chain[0].rows
    counts = set()
    own: dict[Place, Tensor] = {}
    names: dict[Place, str] = {}
    for number, call in enumerate(chain):
        parameters = call.parameters
        for path, tensor in call.given.items():
            taken = (number, path) in links or (number, path) in repeats
            if not taken and tensor.ndim and len(tensor) == rows:
                own[number, path], names[number, path] = tensor, _name(path, parameters)
        for path, leaf in leaves((call.args, call.kwargs)):
            if type(leaf) is int and leaf == rows and "batch" in _name(path, parameters):
                counts.add((number, path))
    named = {names[place]: tensor for place, tensor in reversed(own.items())}
    by_name = {names[place]: place for place in reversed(own)}
    named = dict(reversed(named.items()))
    positional = [name for name, (_, path) in by_name.items() if path[0] == 0 and len(path) == 2]
    columns = pick_columns(named, positional) if wanted is None else []
    chosen = columns or pick_input(named, wanted)
    places, ids = [by_name[name] for name in chosen], named[chosen[0]]
    carried = {place: names[place] for place in own if place not in places}
    fields = [column_field(names[p], own[p]) for p in places] if columns else [
        Field(names[p], own[p].dtype, companion_role(names[p], own[p], ids) if p != places[0] else "") for p in places
    ]  # fmt: skip
    lengths = None
    if not columns and ids.ndim == 2 and not ids.is_floating_point() and not any(found.role for found in fields):
        lengths = next((place for place, name in carried.items() if _are_lengths(name, own[place], ids)), None)
    if lengths is not None:
        fields.append(Field("", torch.bool, "lengths"))
    return Plan(
        tuple(map(copy.copy, chain)), tuple(fields), tuple(places), carried, links, repeats, frozenset(counts), lengths
    )


def model_calls(calls: Sequence[SeenCall]) -> list[SeenCall]:
    """Return the calls of the model, without those of losses and metrics.

    Where the model itself was called, what was called before it prepares nothing it depends on. If it returned nothing
    like logits (a loss and an accuracy, say), but one of its parts did, the calls it made of its parts take its place.
    """
    asked = [call for call in calls if not call.judge and not call.inside]
    first = next((number for number, call in enumerate(asked) if not call.site), 0)
    asked = asked[first:]
    inner = [call for call in calls if call.inside and not call.judge]
    if inner and asked and not asked[0].site and asked[0].output is not None and not _answers(asked[0]):
        return inner if any(map(_answers, inner)) else asked
    return asked


def is_criterion(call: SeenCall) -> bool:
    """Whether a module that was given an output, and a tensor of the batch, is a loss of the user's own."""
    shaped = [x for x in tensors(call.output).values() if x.ndim]
    return not shaped or (not call.weights and all(x.ndim == 1 for x in shaped))


def between(plan: Plan, calls: Sequence[SeenCall], batch: Any) -> tuple[str, str] | None:
    """Name two modules between which the step computes something itself, so that the plan does not reach the end."""
    leaves_of_batch = list(tensors(batch).values())
    for call in calls:
        computed = any(not any(same(x, leaf) for leaf in leaves_of_batch) for x in call.samples.values())
        if call.weights and computed and not call.judge and call.site not in plan.sites:
            return plan.sites[-1], call.site
    return None


def _answers(call: SeenCall) -> bool:
    """Whether a call returned a tensor with a row for every sample, or something that holds logits."""
    if isinstance(getattr(call.output, "logits", None), Tensor):
        return True
    return any(x.is_floating_point() and x.ndim and len(x) == call.rows for x in tensors(call.output).values())


def _chain(
    calls: Sequence[SeenCall], batch: Sequence[Tensor]
) -> tuple[list[SeenCall], dict[Place, Place], dict[Place, Place]]:
    """Follow what the first call returned through later calls, to the last one whose tensors are all accounted for.

    They are outputs of earlier calls, at least one of them, or what those were given too, or tensors of the batch.
    """
    chain, links, repeats = [calls[0]], dict[Place, Place](), dict[Place, Place]()
    for call in calls[1:]:
        inputs = call.samples
        outputs = {path: _find(x, [tensors(c.output) for c in chain]) for path, x in inputs.items()}
        given = {path: _find(x, [c.given for c in chain]) for path, x in inputs.items()}
        linked = {path: source for path, source in outputs.items() if source is not None}
        again = {path: source for path, source in given.items() if source is not None and path not in linked}
        others = [x for path, x in inputs.items() if path not in linked and path not in again]
        known = all(any(same(x, leaf) for leaf in batch) for x in others)
        if linked and others and is_criterion(call):
            call.judge = "loss"
        elif linked and known and call.rows == calls[0].rows:
            links |= {(len(chain), path): source for path, source in linked.items()}
            repeats |= {(len(chain), path): source for path, source in again.items()}
            chain.append(call)
    return chain, links, repeats


def _find(tensor: Tensor, tables: Sequence[Mapping[Path, Tensor]]) -> Place | None:
    """Find a tensor of the same content, the latest first."""
    for number in reversed(range(len(tables))):
        for path, other in tables[number].items():
            if same(other, tensor):
                return number, path
    return None


def _emptied(at: Path, path: Path, leaf: Any) -> Any:
    """Leave a tensor without rows at one place."""
    return leaf[:0].clone() if path == at else leaf


def _form(tensor: Tensor) -> tuple[Any, ...]:
    """What tensors of two steps have in common; the length of token ids may differ."""
    return tensor.dtype, tensor.ndim, tensor.shape[1:] if tensor.is_floating_point() else None


def _name(path: Path, parameters: Mapping[int, str]) -> str:
    """Name an argument as its function does; one inside a structure by its keys too."""
    side, first, *rest = path
    name = str(first) if side == 1 else parameters.get(int(first), f"argument {first}")
    return ".".join([name, *map(str, rest)])


def _are_lengths(name: str, tensor: Tensor, ids: Tensor) -> bool:
    whole = tensor.ndim == 1 and not tensor.is_floating_point()
    return (
        whole
        and "len" in name.rpartition(".")[2].lower()
        and 1 <= int(tensor.min()) <= int(tensor.max()) <= ids.shape[1]
    )


def check_input_option(wanted: object) -> None:
    """Raise an `ArgumentError` unless ``wanted`` is a name, a position or ``None``."""
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, (str, int))):
        raise bad_argument("input", "the name or position of an argument of the model, or None", wanted)
