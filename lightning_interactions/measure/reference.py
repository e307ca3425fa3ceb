"""A trained network to compare with: which of the interactions it has too, and so would be learned again."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import ArgumentError, BatchError, InteractionsError, bad_argument
from lightning_interactions.functional.changes import generalizable_share
from lightning_interactions.measure.extras import cutoff_order
from lightning_interactions.measure.games import Game, Rules
from lightning_interactions.measure.measurement import Measurement, measure, part_of
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.samples import Samples
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.model import Model, find_model
from lightning_interactions.model.task import Target, Task
from lightning_interactions.players import two_rows

Given = nn.Module | str | os.PathLike[str]
"""A model, trained elsewhere; or a checkpoint of the model that is being trained."""


def check_reference(reference: Any, layer: str | None, target: Target = "label") -> None:
    """Raise an `ArgumentError` unless it is a model, a file that exists, or ``None``.

    With a layer, or the score of the predicted class, which need not be the same in both networks, it must be ``None``.
    """
    if reference is None:
        return
    if isinstance(reference, (str, os.PathLike)):
        if not Path(reference).is_file():
            raise bad_argument("reference", "a checkpoint that exists, or a model", str(reference))
    elif not isinstance(reference, nn.Module):
        raise bad_argument("reference", "a trained nn.Module, or the path of a checkpoint", reference)
    if layer is not None:
        raise ArgumentError(
            "Expected argument `reference` to be None with `layer=`: two networks can be compared on the same masked "
            "inputs, not inside of one of them."
        )
    if target == "predicted":
        raise ArgumentError(
            'Expected argument `reference` to be None with `target="predicted"`: two networks can be compared on the '
            "score of the same class."
        )


class Reference:
    """The network of ``reference=``, a copy of its own, asked about the samples and players of the watched one.

    ``None`` is compared with nothing. ``tell`` takes the text of a problem that comes up later; ``chunk_size`` is the
    largest number of masked inputs in one forward pass; for ``extras`` see `EXTRAS`.
    """

    def __init__(
        self,
        given: Given | None,
        tell: Callable[[str], object],
        chunk_size: int | None = None,
        extras: Collection[str] = (),
    ) -> None:
        self._given, self._tell, self._chunks, self._extras = given, tell, ChunkSize(chunk_size), extras
        self._model: Model | None = None
        self._found: dict[str, tuple[Samples, Tensor]] = {}  # by split: the samples, and their salient interactions

    def prepare(self, rules: Rules, batch: Batch) -> None:
        """Find out how it is asked, on two samples of a batch.

        It must take what the model takes, and have as many outputs.

        Raises:
            ArgumentError: If it cannot be asked, or answers something else.
        """
        if self._given is None:
            return
        own, few = rules.model, rules.along(batch.rows(two_rows(batch, rules.players)))
        try:
            module = self._copy(own.module)
        except ArgumentError:
            raise
        except Exception as error:  # a module, or a file, may refuse in any manner
            raise ArgumentError(
                f"Expected argument `reference` to be a model that can be copied, or a checkpoint that loads, but got "
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'}."
            ) from error
        with own.quiet():
            expected = own.logits(few.inputs, None, few.carried).shape
        problem = ""
        for model in (own.of(module), None):  # as the step was seen to call its own model, or else plainly
            try:
                asked = model or _plainly(module, few, own)
                with asked.quiet():
                    answer = asked.logits(few.inputs, None, few.carried).shape
            except (InteractionsError, AttributeError, TypeError) as error:
                problem = problem or str(error)
                continue
            if answer != expected:
                raise ArgumentError(
                    f"Expected argument `reference` to be a model with {expected[1]} outputs, as the one that is "
                    f"trained, but {type(module).__name__} has {answer[1]}."
                )
            self._model, self._found = asked, {}
            return
        raise ArgumentError(
            f"Expected argument `reference` to be a model that takes the same inputs as the one that is trained, but "
            f"{type(module).__name__} does not: {problem}"
        )

    def compare(
        self,
        found: Mapping[str, Measurement],
        games: Mapping[str, Game],
        ranks: Ranks,
        tasks: Mapping[str, Task],
        reading: Reading,
    ) -> dict[str, float]:
        """Return what is logged: the share of the strength that the reference has too, with the same sign.

        It is asked on all ranks together, and only where other samples are watched than before. If that fails, which
        all ranks know of, it is let go.
        """
        if self._model is None:
            return {}
        try:
            self._ask(self._model, games, ranks, tasks, reading)
        except InteractionsError as error:
            self._model = None
            self._tell(f"the reference cannot be measured, and is left out: {error}")
            return {}
        scalars: dict[str, float] = {}
        for split, own in found.items():
            share = generalizable_share(own.salient, self._found[split][1])
            scalars |= share.named(f"{part_of(split, found)}reference/shared_share")
            if "cutoff_order" in self._extras:
                theory = cutoff_order(own.salient, self._found[split][1])
                scalars |= {part_of(split, found) + key: value for key, value in theory.items()}
        return scalars

    def _ask(
        self, model: Model, games: Mapping[str, Game], ranks: Ranks, tasks: Mapping[str, Task], reading: Reading
    ) -> None:
        known = {split: samples for split, (samples, _) in self._found.items()}
        fresh = {split: game for split, game in games.items() if known.get(split) is not game.samples}
        if fresh:
            measured, _, _ = measure(model, fresh, {}, ranks, tasks=tasks, reading=reading, chunks=self._chunks)
            self._found |= {split: (games[split].samples, own.salient) for split, own in measured.items()}

    def _copy(self, trained: nn.Module) -> nn.Module:
        """A copy that is nobody else's, where the model is; of a checkpoint the model with those weights."""
        device = next((p.device for p in trained.parameters()), torch.device("cpu"))
        if isinstance(self._given, nn.Module):
            return copy.deepcopy(self._given).to(device)
        assert self._given is not None
        content = torch.load(self._given, map_location="cpu", weights_only=False)
        weights = content.get("state_dict", content) if isinstance(content, Mapping) else content
        module = copy.deepcopy(trained)
        try:
            module.load_state_dict(weights)
        except (RuntimeError, TypeError) as error:
            raise ArgumentError(
                f"Expected argument `reference` to be a checkpoint of the model that is trained, but {self._given} is "
                f"not: {str(error).strip().splitlines()[0]} Give the other model itself."
            ) from error
        return module


def _plainly(module: nn.Module, few: Batch, own: Model) -> Model:
    """Call a module with the inputs only, and leave out what goes along with them in the step."""
    labels = few.carried[-1:] if own.dense is not None else ()
    alone = replace(few, carried=labels, names=few.names[-len(labels) :] if labels else ())
    try:
        model = find_model(module, alone, precision=own.precision, whole=own.whole, dense=own.dense)
    except BatchError as error:
        raise ArgumentError(str(error)) from error
    call = model.call
    return replace(model, call=lambda net, inputs, *carried: call(net, inputs))
