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
from lightning_interactions.players.image import ImagePatches
from lightning_interactions.players.points import COORDINATES, PointClusters
from lightning_interactions.players.tabular import TabularFeatures
from lightning_interactions.players.text import Tokens


def check_players(players: object) -> None:
    """Raise an `ArgumentError` unless ``players`` is ``"auto"`` or a `Players` instance."""
    if not (isinstance(players, Players) or (isinstance(players, str) and players == "auto")):
        hint = "Call it: `players=" + players.__name__ + "(...)`." if isinstance(players, type) else ""
        raise bad_argument("players", '"auto" or an instance of Players such as ImagePatches()', players, hint)


def choose_players(inputs: Tensor, *, packed: bool = False) -> Players:
    """Choose players for a batch of inputs: the meaning of ``players="auto"``.

    They are `ImagePatches` for floating ``(B, C, H, W)``, `Tokens` for integer ``(B, L)`` or ids packed with their
    companions, ``(B, K, L)``, `TabularFeatures` for floating ``(B, F)``, `PointClusters` for floating ``(B, N, 3)`` or
    ``(B, 3, N)``. For any other form a `BatchError` lists what can be done.
    """
    if inputs.is_floating_point():
        if inputs.ndim == 4:
            return ImagePatches()
        if inputs.ndim == 2:
            return TabularFeatures()
        if inputs.ndim == 3 and list(inputs.shape[1:]).count(COORDINATES) == 1:
            return PointClusters()
    elif packed or (inputs.ndim == 2 and not inputs.is_complex() and inputs.dtype != torch.bool):
        return Tokens()
    raise BatchError(
        f'players="auto" recognises floating-point (B, C, H, W) as images, integer (B, L) as tokens, floating-point '
        f"(B, F) as columns and (B, N, 3) or (B, 3, N) as point clouds, but the inputs are {inputs.dtype} of shape "
        f"{tuple(inputs.shape)}. Say who the players are: `players=ImagePatches(...)`, `Tokens(...)`, "
        "`TabularFeatures(...)`, `PointClusters(...)`, `FeatureMask(mask)` with a region id per element (for a "
        "sequence (B, L, D): `FeatureMask(torch.arange(L).view(-1, 1))`), or your own subclass of `Players`; or give "
        "`input_fn=batch -> inputs`."
    )


def suited_players(players: Players | str, batch: Batch, model: nn.Module, tokenizer: Any = None) -> Players:
    """Choose players, or copy those the user chose, and let them learn from the model; they are not fitted yet."""
    packed = len(batch.fields) > 1
    chosen = copy.deepcopy(players) if isinstance(players, Players) else choose_players(batch.inputs, packed=packed)
    chosen.suit(model, [field.row for field in batch.fields], tokenizer)
    return chosen


def two_samples(batch: Batch, players: Players | None) -> Batch:
    """Take two samples with players enough, to try things on; the same sample twice if there is only one.

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
    rows = usable[[0, min(1, len(usable) - 1)]]
    return batch.rows(rows)


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
