"""Choosing the kind of players from what the inputs look like."""

from __future__ import annotations

from torch import Tensor

from lightning_interactions.errors import BatchError, bad_argument
from lightning_interactions.players.base import Players
from lightning_interactions.players.image import ImagePatches
from lightning_interactions.players.tabular import TabularFeatures


def check_players(players: object) -> None:
    """Raise unless ``players`` is ``"auto"`` or a `Players` instance.

    Args:
        players: The argument as the user gave it.

    Raises:
        ArgumentError: If it is anything else.
    """
    if not (isinstance(players, Players) or (isinstance(players, str) and players == "auto")):
        hint = "Call it: `players=" + players.__name__ + "(...)`." if isinstance(players, type) else ""
        raise bad_argument("players", '"auto" or an instance of Players such as ImagePatches()', players, hint)


def choose_players(inputs: Tensor) -> Players:
    """Choose players for a batch of inputs: the meaning of ``players="auto"``.

    Args:
        inputs: One batch, ``(B, *shape)``.

    Returns:
        `ImagePatches` for floating ``(B, C, H, W)``, `TabularFeatures` for floating ``(B, F)``.

    Raises:
        BatchError: If the inputs are of any other form; the text lists what can be done.

    Example:
        >>> import torch
        >>> choose_players(torch.zeros(8, 3, 32, 32))
        ImagePatches(baseline='zero', grid=None, margin=None)
    """
    if inputs.is_floating_point() and inputs.ndim == 4:
        return ImagePatches()
    if inputs.is_floating_point() and inputs.ndim == 2:
        return TabularFeatures()
    raise BatchError(
        f'players="auto" recognises floating-point (B, C, H, W) as images and (B, F) as columns, but the inputs are '
        f"{inputs.dtype} of shape {tuple(inputs.shape)}. Say who the players are: `players=ImagePatches(...)`, "
        "`TabularFeatures(...)`, `FeatureMask(mask)` with a region id per element, or your own subclass of `Players`; "
        "or give `input_fn=batch -> inputs`."
    )
