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
from lightning_interactions.players.evidence import lies_at_random, order_matters, reads_images_alone
from lightning_interactions.players.image import ImagePatches
from lightning_interactions.players.points import COORDINATES, PointClusters
from lightning_interactions.players.tabular import TabularFeatures
from lightning_interactions.players.text import Tokens

WINDOWS = 10
"""Windows of time that are proposed for a series: as many as there are players by default."""


def check_players(players: object) -> None:
    """Raise an `ArgumentError` unless ``players`` is ``"auto"`` or a `Players` instance."""
    if not (isinstance(players, Players) or (isinstance(players, str) and players == "auto")):
        hint = "Call it: `players=" + players.__name__ + "(...)`." if isinstance(players, type) else ""
        raise bad_argument("players", '"auto" or an instance of Players such as ImagePatches()', players, hint)


def choose_players(inputs: Tensor, *, packed: bool = False, model: nn.Module | None = None) -> Players:
    """Choose players for a batch of inputs: the meaning of ``players="auto"``.

    They are `ImagePatches` for floating or byte ``(B, C, H, W)`` or ``(B, H, W, C)``, `Tokens` for integer
    ``(B, L)`` or ids packed with their companions, ``(B, K, L)``, `TabularFeatures` for floating ``(B, F)``. Floating
    ``(B, N, 3)`` or
    ``(B, 3, N)`` are `PointClusters` where the order of the ``N`` cannot matter to the ``model``, or where its layers
    leave that open but many points lie in no order; else they may be a series of time, and a `BatchError` asks.
    Floating ``(B, H, W)`` are `ImagePatches` where the model's convolutions take one channel. For any other form a
    `BatchError` lists what can be done.
    """
    if inputs.is_floating_point():
        if inputs.ndim == 4:
            return ImagePatches()
        if inputs.ndim == 2:
            return TabularFeatures()
        if inputs.ndim == 3 and list(inputs.shape[1:]).count(COORDINATES) == 1:
            return _cloud_or_ask(inputs, model)
        if inputs.ndim == 3 and model is not None and reads_images_alone(model, inputs.shape[1:]):
            return ImagePatches()
    elif inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return ImagePatches()
    elif packed or (inputs.ndim == 2 and not inputs.is_complex() and inputs.dtype != torch.bool):
        return Tokens()
    raise BatchError(
        f'players="auto" recognises floating-point (B, C, H, W) or (B, H, W, C) as images, integer (B, L) as tokens, '
        f"floating-point (B, F) as columns and (B, N, 3) or (B, 3, N) as point clouds, but the inputs are "
        f"{inputs.dtype} of shape {tuple(inputs.shape)}. Say who the players are: `players=ImagePatches(...)`, "
        "`Tokens(...)`, `TabularFeatures(...)`, `PointClusters(...)`, `FeatureMask(mask)` with a region id per "
        f"element{_more_of(inputs)}, or your own subclass of `Players`; or give `input_fn=batch -> inputs`."
    )


def suited_players(players: Players | str, batch: Batch, model: nn.Module, tokenizer: Any = None) -> Players:
    """Choose players, or copy those the user chose, and let them learn from the model; they are not fitted yet."""
    chosen = copy.deepcopy(players) if isinstance(players, Players) else _chosen(batch, model)
    chosen.suit(model, [field.row for field in batch.fields], tokenizer)
    chosen.see(batch.inputs)
    return chosen


def _chosen(batch: Batch, model: nn.Module) -> Players:
    return choose_players(batch.inputs, packed=len(batch.fields) > 1, model=model)


def _cloud_or_ask(inputs: Tensor, model: nn.Module | None) -> PointClusters:
    """Choose clusters of points for ``(B, N, 3)`` or ``(B, 3, N)``, unless this may as well be a series of time."""
    along = 2 if inputs.shape[1] == COORDINATES else 1
    length = inputs.shape[along]
    ordered = False if model is None else order_matters(model, inputs.shape[1:], along - 1)
    if ordered is False or (ordered is None and lies_at_random(inputs, along)):
        return PointClusters()
    because = "the order along it matters to the model" if ordered else "the model's layers do not tell"
    raise BatchError(
        f"The inputs of shape {tuple(inputs.shape)} can be clouds of {length} points or series of {length} steps in "
        f"{COORDINATES} channels; {because}. Say which: for clouds `players=PointClusters()`, for series, in "
        f"{min(WINDOWS, length)} windows of time, `players=FeatureMask({_windows(length, last=along == 2)})`."
    )


def _more_of(inputs: Tensor) -> str:
    """Say what inputs ``(B, H, W)`` can be."""
    if inputs.ndim != 3 or not inputs.is_floating_point():
        return ""
    length, width = inputs.shape[1:]
    kinds = [f"gray images of {length} x {width} pixels: `ImagePatches()`"] if min(length, width) > 1 else []
    for steps, numbers, last in ((length, width, False), (width, length, True)):
        if steps > 1:
            windows = _windows(steps, last=last)
            kinds.append(f"series of {steps} steps with {numbers} numbers each: `FeatureMask({windows})`")
    return f" ({'; '.join(kinds)})" if kinds else ""


def _windows(length: int, *, last: bool) -> str:
    """Code of a mask that cuts a series into windows; ``last``: time is the last dimension, else the one before."""
    windows = f"torch.arange({length}) * {min(WINDOWS, length)} // {length}"
    return windows if last else f"({windows}).view(-1, 1)"


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
