"""Choosing the kind of players from what the inputs look like."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_interactions.errors import BatchError, bad_argument
from lightning_interactions.model.batch import Batch
from lightning_interactions.players.base import Players
from lightning_interactions.players.evidence import (
    lies_at_random,
    lies_in_order,
    order_matters,
    reads_images_alone,
    reads_time,
    takes_steps,
    time_axis,
    widths,
)
from lightning_interactions.players.image import ImagePatches
from lightning_interactions.players.points import COORDINATES, PointClusters
from lightning_interactions.players.tabular import TabularFeatures
from lightning_interactions.players.text import Tokens
from lightning_interactions.players.windows import TimeWindows


def check_players(players: object) -> None:
    """Raise an `ArgumentError` unless ``players`` is ``"auto"`` or a `Players` instance."""
    if not (isinstance(players, Players) or (isinstance(players, str) and players == "auto")):
        hint = "Call it: `players=" + players.__name__ + "(...)`." if isinstance(players, type) else ""
        raise bad_argument("players", '"auto" or an instance of Players such as ImagePatches()', players, hint)


def choose_players(inputs: Tensor, *, packed: bool = False, model: nn.Module | None = None) -> Players:
    """Choose players for a batch of inputs: the meaning of ``players="auto"``.

    They are `ImagePatches` for floating or byte ``(B, C, H, W)`` or ``(B, H, W, C)``, `Tokens` for integer
    ``(B, L)`` or ids packed with their companions, ``(B, K, L)``, `TabularFeatures` for floating ``(B, F)``. These are
    `TimeWindows` instead where layers of the ``model`` that are made for time take one number at each step, or where no
    layer takes all ``F`` of them and they are many and lie in order, as a sound does of which the model makes a
    spectrogram. Floating 3-D inputs can be more than one thing:

    - ``(B, H, W)`` are `ImagePatches` where the model's convolutions take one channel;
    - ``(B, N, 3)`` or ``(B, 3, N)`` are `PointClusters` where the order of the ``N`` cannot matter to the ``model``, or
      where its layers leave that open but many points lie in no order; `TimeWindows` where it has layers made for time;
    - others are `TimeWindows` (series, sounds, vectors) where one dimension is of size 1, or where the model's first
      layer that takes as many numbers as one of them has says that the other one is time.

    For any other form, and where none of this tells, a `BatchError` lists what can be done.
    """
    if inputs.is_floating_point():
        found = _of_numbers(inputs, model)
        if found is not None:
            return found
    elif inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return ImagePatches()
    elif packed or (inputs.ndim == 2 and not inputs.is_complex() and inputs.dtype != torch.bool):
        return Tokens()
    raise BatchError(
        f'players="auto" recognises floating-point (B, C, H, W) or (B, H, W, C) as images, integer (B, L) as tokens, '
        f"floating-point (B, F) as columns, (B, N, 3) or (B, 3, N) as point clouds and, where the model's layers say "
        f"which dimension is time, (B, T, F) or (B, C, T) as series, but the inputs are {inputs.dtype} of shape "
        f"{tuple(inputs.shape)}. Say who the players are: `players=ImagePatches(...)`, `Tokens(...)`, "
        "`TabularFeatures(...)`, `PointClusters(...)`, `TimeWindows(axis=...)`, `FeatureMask(mask)` with a region id "
        f"per element{_more_of(inputs)}, or your own subclass of `Players`; or give `input_fn=batch -> inputs`."
    )


def _of_numbers(inputs: Tensor, model: nn.Module | None) -> Players | None:
    """Choose players for floating-point inputs; ``None`` where their shape does not tell."""
    if inputs.ndim == 4:
        return ImagePatches()
    if inputs.ndim == 2:
        return TimeWindows() if model is not None and _is_series(inputs, model) else TabularFeatures()
    if inputs.ndim != 3:
        return None
    if list(inputs.shape[1:]).count(COORDINATES) == 1 and 1 not in inputs.shape[1:]:
        return _cloud_or_ask(inputs, model)
    if model is not None and reads_images_alone(model, inputs.shape[1:]):
        return ImagePatches()
    layers = widths(model) if model is not None else ()
    return TimeWindows() if time_axis(layers, inputs.shape[1:]) is not None else None


def _is_series(inputs: Tensor, model: nn.Module) -> bool:
    """Whether ``(B, T)`` are series, not columns: the model's layers tell, or else many numbers that lie in order."""
    steps = takes_steps(model, inputs.shape[1])
    return lies_in_order(inputs, 1) if steps is None else steps


def suited_players(players: Players | str, batch: Batch, model: nn.Module, tokenizer: Any = None) -> Players:
    """Choose players, or copy those the user chose, and let them learn from the model; they are not fitted yet."""
    chosen = copy.deepcopy(players) if isinstance(players, Players) else _chosen(batch, model)
    chosen.suit(model, [field.row for field in batch.fields], tokenizer)
    if batch.table is not None:
        chosen.suit_table(batch.table)
    chosen.see(batch.inputs)
    return chosen


def _chosen(batch: Batch, model: nn.Module) -> Players:
    if batch.table is not None:
        return TabularFeatures()
    return choose_players(batch.inputs, packed=len(batch.fields) > 1, model=model)


def _cloud_or_ask(inputs: Tensor, model: nn.Module | None) -> Players:
    """Choose clusters of points for ``(B, N, 3)`` or ``(B, 3, N)``, unless this may as well be a series of time."""
    along = 2 if inputs.shape[1] == COORDINATES else 1
    length = inputs.shape[along]
    ordered = False if model is None else order_matters(model, inputs.shape[1:], along - 1)
    if ordered is False or (ordered is None and lies_at_random(inputs, along)):
        return PointClusters()
    if model is not None and reads_time(model) and time_axis(widths(model), inputs.shape[1:]) == along - 1:
        return TimeWindows()
    because = "the order along it matters to the model" if ordered else "the model's layers do not tell"
    raise BatchError(
        f"The inputs of shape {tuple(inputs.shape)} can be clouds of {length} points or series of {length} steps in "
        f"{COORDINATES} channels; {because}. Say which: for clouds `players=PointClusters()`, for series "
        f"`players=TimeWindows(axis={along - 1})`."
    )


def _more_of(inputs: Tensor) -> str:
    """Say what inputs ``(B, H, W)`` can be."""
    if inputs.ndim != 3 or not inputs.is_floating_point():
        return ""
    length, width = inputs.shape[1:]
    kinds = [f"gray images of {length} x {width} pixels: `ImagePatches()`"] if min(length, width) > 1 else []
    for axis, steps, numbers in ((0, length, width), (1, width, length)):
        if steps > 1:
            kinds.append(f"series of {steps} steps with {numbers} numbers each: `TimeWindows(axis={axis})`")
    return f" ({'; '.join(kinds)})" if kinds else ""


def two_rows(batch: Batch, players: Players | None) -> Tensor:
    """Find two samples with players enough, to try things on; the same sample twice if there is only one.

    ``players`` are ``None`` where they cannot tell yet; a `BatchError` says that no sample has two of them.
    """
    usable = torch.arange(len(batch.inputs), device=batch.inputs.device)
    if players is not None:
        usable = players.playable(batch.inputs).nonzero().flatten()
    if not len(usable):
        raise BatchError(
            f"None of the {len(batch.inputs)} samples of the first batch has 2 players for {players!r}. Give other "
            "`players`, or `input_fn=batch -> inputs` if the wrong inputs were read."
        )
    return usable[[0, min(1, len(usable) - 1)]]


@contextmanager
def of_layer(layer: str | None, output: Tensor) -> Iterator[None]:
    """Say in an error about what is masked that it is the output of a layer, not the input."""
    try:
        yield
    except BatchError as error:
        if layer is None:
            raise
        raise BatchError(
            f"The output of layer {layer!r}, of shape {tuple(output.shape)}, does not suit the players: {error} "
            "(`layer=None` masks the input.)"
        ) from error
