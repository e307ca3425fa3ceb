"""A cloud of points as it is seen from one side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interactions.players.picture import Picture, PointsContent

MOST_POINTS = 1024
"""Points of a picture, at most."""

TURN, TILT = math.radians(30), math.radians(20)
"""How far the cloud is turned around its upright axis, and from how far above it is seen."""


def picture_of_points(names: Sequence[str], points: Tensor, labels: Tensor) -> Picture:
    """Show points ``(N, 3)`` with their players ``(N,)``: x to the right, y up, z to the front, then turned.

    Example:
        >>> picture = picture_of_points(["a"], torch.tensor([[0.0, 0, 0], [0, 5, 0]]), torch.tensor([0, -1]))
        >>> picture.content.places[:, :2].tolist()  # the second is above the first
        [[0.5, 0.0], [0.5, 1.0]]
    """
    finite = points.isfinite().all(1)
    if not bool(finite.any()):
        return Picture(names, None, "not shown as a cloud of points: no coordinates that are finite")
    points, labels = points[finite].detach().double(), labels[finite]
    kept = _some(labels)
    return Picture(names, PointsContent(_placed(_turned(points[kept])).numpy(), labels[kept].to(torch.int16).numpy()))


def _some(labels: Tensor) -> Tensor:
    """Numbers of the points that are shown: every k-th, and one of each player that has none of these."""
    players = set(labels[labels >= 0].tolist())
    if len(labels) <= MOST_POINTS:
        return torch.arange(len(labels))
    step = math.ceil(len(labels) / max(MOST_POINTS - len(players), 1))
    kept = torch.arange(0, len(labels), step)
    lost = players - set(labels[kept].tolist())
    more = [int((labels == player).nonzero()[0]) for player in lost]
    return torch.cat([kept, torch.tensor(more, dtype=torch.long)]).sort().values


def _turned(points: Tensor) -> Tensor:
    """Coordinates to the right, up and towards the one who looks."""
    x, y, z = points.unbind(1)
    right, front = x * math.cos(TURN) + z * math.sin(TURN), z * math.cos(TURN) - x * math.sin(TURN)
    up, near = y * math.cos(TILT) - front * math.sin(TILT), front * math.cos(TILT) + y * math.sin(TILT)
    return torch.stack([right, up, near], 1)


def _placed(points: Tensor) -> Tensor:
    """Points within 0 and 1: in the picture centred and in proportion, in depth from end to end."""
    low, high = points.amin(0), points.amax(0)
    size = high - low
    size[:2] = size[:2].max()
    size[size == 0] = 1.0  # all in one place, which is the middle
    return (points - (low + high) / 2) / size + 0.5
