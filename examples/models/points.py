"""Point-cloud networks, in the two layouts people use."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PointNet(nn.Module):
    """PointNet (Qi et al. 2017) without its two alignment networks; clouds ``(B, 3, N)``.

    One perceptron shared by all points, a maximum over points, a classifier.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256), num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, width in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv1d(channels, width, 1), nn.BatchNorm1d(width), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(widths[-1], 128), nn.ReLU(), nn.Linear(128, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x).amax(-1))


class EdgeConv(nn.Module):
    """``x_i' = ReLU(BN(max_j theta (x_j - x_i) + phi x_i))`` over the k nearest neighbours j of i (Wang et al. 2019).

    The paper normalises before the maximum. After it, ``max_j theta x_j`` is all that an edge needs, so the linear maps
    run once for each point instead of once for each edge.
    """

    def __init__(self, channels: int, width: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.theta = nn.Linear(channels, width, bias=False)
        self.phi = nn.Linear(channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        near = nearest(x, self.k)
        theta = self.theta(x)
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        edges = theta[rows, near].amax(2) - theta + self.phi(x)
        return self.norm(edges.transpose(1, 2)).transpose(1, 2).relu()


class DGCNN(nn.Module):
    """Dynamic graph CNN (Wang et al. 2019): EdgeConvs on graphs built anew from each layer's features.

    Clouds are ``(B, N, 3)``. The paper's widths are ``(64, 64, 128, 256)`` with ``k=20`` and ``embedding=1024``.
    """

    def __init__(
        self, widths: tuple[int, ...] = (32, 32, 64), embedding: int = 256, k: int = 10, num_classes: int = 10
    ) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strict=False)
        self.convs = nn.ModuleList(EdgeConv(channels, width, k) for channels, width in pairs)
        self.embed = nn.Linear(sum(widths), embedding)
        self.head = nn.Sequential(nn.Linear(2 * embedding, 128), nn.ReLU(), nn.Linear(128, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        features = []
        for conv in self.convs:
            x = conv(x)
            features.append(x)
        points = self.embed(torch.cat(features, -1)).relu()
        return self.head(torch.cat([points.amax(1), points.mean(1)], -1))


def nearest(x: Tensor, k: int) -> Tensor:
    """Indices ``(B, N, k)`` of each point's nearest points, itself included."""
    products = x @ x.transpose(1, 2)
    squares = (x * x).sum(-1)
    return (2 * products - squares.unsqueeze(1)).topk(k, -1, sorted=False).indices
