"""Clusters of a point cloud as players."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from lightning_interactions.errors import BatchError, bad_argument, is_whole
from lightning_interactions.functional.coalitions import MIN_PLAYERS
from lightning_interactions.players.base import MaskedRegions
from lightning_interactions.players.picture import Picture, count_of
from lightning_interactions.players.view import picture_of_points

COORDINATES = 3
MAX_ROUNDS = 50


class PointClusters(MaskedRegions):
    """Clusters of nearby points; the points of an absent cluster gather at its mean (arXiv 2407.19198, appendix).

    Each cloud is cut into clusters by K-means, with seeds spread by K-means++ and drawn from the sample's own random
    numbers; ``num_players`` of them play, the others stay as they are.

    Args:
        num_clusters: Clusters per cloud at most; the papers use 30. A cloud has at most half as many as different
            points: a cluster of one point alone is its own mean, so that nothing would change where it is absent.
        axis: Dimension of a sample ``(N, C)`` or ``(C, N)`` that holds the coordinates: 1, 0, or ``None`` for the one
            of size 3. The first three coordinates are x, y and z; more (normals, colours) are averaged with them.

    Raises:
        ArgumentError: If an argument has another form.

    Example:
        >>> clusters = PointClusters(num_clusters=2)
        >>> cloud = torch.tensor([[0.0, 0, 0], [2, 0, 0], [9, 9, 9], [9, 9, 9]])
        >>> players = clusters.draw(cloud, 2, torch.Generator().manual_seed(0))
        >>> clusters.mask(cloud, players, torch.tensor([[False, False]]))[0].tolist()
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]
    """

    uneven = True

    def __init__(self, num_clusters: int = 30, axis: int | None = None) -> None:
        if not is_whole(num_clusters, 2):
            raise bad_argument("num_clusters", "an integer of at least 2", num_clusters)
        if axis is not None and (isinstance(axis, bool) or axis not in (0, 1)):
            raise bad_argument("axis", "0, 1 or None", axis)
        self.num_clusters = num_clusters
        self.axis = axis

    def playable(self, samples: Tensor) -> Tensor:
        """Tell which clouds have finite coordinates; the others have no clusters."""
        if samples.ndim != 3 or not samples.is_floating_point():
            return super().playable(samples)  # `fit` says what is wrong
        points = samples.narrow(1 + self._axis_of(samples.shape[1:]), 0, COORDINATES)
        return points.isfinite().flatten(1).all(1)

    def fit(self, samples: Tensor) -> None:
        """Check that these are point clouds, and that it can be told which dimension holds the coordinates."""
        if samples.ndim != 3 or not samples.is_floating_point():
            raise BatchError(
                f"PointClusters needs floating-point clouds of shape (B, N, 3) or (B, 3, N), but got {samples.dtype} "
                f"of shape {tuple(samples.shape)}. Give `input_fn=batch -> points`, or other players."
            )
        self._axis_of(samples.shape[1:])

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        """Cut one cloud into clusters seeded by ``generator``: ``(N, 1)`` or ``(1, N)``, one id for every point."""
        axis = self._axis_of(sample.shape)
        points = (sample if axis == 1 else sample.T)[:, :COORDINATES].double()
        if not bool(points.isfinite().all()):
            raise BatchError(
                "A point cloud has coordinates that are not finite, so it has no clusters. Clean the data."
            )
        half = len(torch.unique(points, dim=0)) // 2
        return kmeans(points, min(self.num_clusters, max(half, MIN_PLAYERS)), generator).unsqueeze(axis)

    def finer(self, num_players: int) -> str:
        """See `Players.finer`."""
        return f"PointClusters(num_clusters={num_players})" if num_players > self.num_clusters else ""

    def names(self, players: Tensor) -> list[str]:
        """Number the clusters that play, from ``cluster 0`` on: they have nothing else to be called by.

        Example:
            >>> PointClusters().names(torch.tensor([[0], [1], [-1]]))
            ['cluster 0', 'cluster 1']
        """
        return [f"cluster {i}" for i in range(count_of(players))]

    def picture(self, sample: Tensor, players: Tensor) -> Picture:
        """Show the cloud from one side, a little from above; y is taken for the height."""
        names = self.names(players)
        try:
            axis = self._axis_of(sample.shape) if sample.ndim == 2 and not sample.is_complex() else None
        except ValueError:  # with two dimensions of size 3, or none
            axis = None
        if axis is None or players.numel() != sample.shape[1 - axis]:
            shapes = f"shape {tuple(sample.shape)}, players {tuple(players.shape)}"
            return Picture(names, None, f"not shown as a cloud of points: {shapes}")
        points = (sample if axis == 1 else sample.T)[:, :COORDINATES]
        return picture_of_points(names, points, players.flatten())

    def absent(self, samples: Tensor, players: Tensor) -> Tensor:
        """See `MaskedRegions.absent`: the mean of the point's own cluster."""
        axis = 1 + self._axis_of(samples.shape[1:])
        points = samples if axis == 2 else samples.transpose(1, 2)  # (S, N, C)
        labels = players.flatten(1) + 1  # background is a cluster of its own, though what it would show never counts
        member = torch.nn.functional.one_hot(labels).to(points.dtype)  # a product, as sums by index vary on a GPU
        count = member.sum(1).clamp(min=1).unsqueeze(-1)
        mean = member.transpose(1, 2) @ points / count
        own = mean.gather(1, labels.unsqueeze(-1).expand_as(points))
        return (own if axis == 2 else own.transpose(1, 2)).contiguous()

    def _axis_of(self, shape: torch.Size) -> int:
        if self.axis is not None:
            if shape[self.axis] < COORDINATES:
                raise bad_argument("axis", f"the dimension of the coordinates of a cloud {tuple(shape)}", self.axis)
            return self.axis
        threes = [axis for axis, size in enumerate(shape) if size == COORDINATES]
        if len(threes) != 1:
            raise BatchError(
                f"Cannot tell which dimension of a cloud of shape {tuple(shape)} holds the coordinates. "
                "Give `players=PointClusters(axis=1)` for (N, C), or axis=0 for (C, N)."
            )
        return threes[0]


def kmeans(points: Tensor, num_clusters: int, generator: Generator) -> Tensor:
    """Cluster points ``(N, D)``: K-means++ seeds (Arthur and Vassilvitskii, 2007), then Lloyd's rounds to the end.

    Where fewer points differ there are fewer clusters, and one may end up empty.
    """
    centres = _spread_seeds(points, num_clusters, generator)
    labels = torch.cdist(points, centres).argmin(1)
    for _ in range(MAX_ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        counts = torch.bincount(labels, minlength=len(centres)).unsqueeze(1)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        moved = torch.cdist(points, centres).argmin(1)
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels


def _spread_seeds(points: Tensor, num_clusters: int, generator: Generator) -> Tensor:
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < num_clusters and float(distance.max()) > 0:
        chosen.append(int(torch.multinomial(distance, 1, generator=generator)))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]
