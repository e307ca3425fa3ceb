"""Networks of the recorded runs: small and ordinary, and the gallery's deep ones (`examples/` must be on the path)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from data import WORDS
from models import VGG11, AlexNet, SlimResNet
from torch import Tensor, nn

DEEP: dict[str, Callable[[int], nn.Module]] = {
    "vgg": lambda classes: VGG11(0.25, classes),
    "alexnet": lambda classes: AlexNet(0.25, classes),
    "resnet": lambda classes: SlimResNet(16, classes),  # with batch norm
}


def build(kind: str, sample: Tensor, classes: int, dropout: float) -> nn.Module:
    """Make a network.

    Args:
        kind: ``"mlp<depth>x<width>"``, ``"cnn"`` for images, ``"conv"`` for sequences and words, ``"pool"`` for words,
            one of `DEEP` for images of 32 x 32.
        sample: One input; integers are words.
        classes: Number of logits.
        dropout: Before the last layer.
    """
    if kind in DEEP:
        return DEEP[kind](classes)
    drop = [nn.Dropout(dropout)] if dropout else []
    if kind.startswith("mlp"):
        depth, width = map(int, kind.removeprefix("mlp").split("x"))
        sizes = [sample.numel(), *[width] * depth]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, *drop, nn.Linear(width, classes))
    if kind == "cnn":
        return _cnn(sample, classes, drop)
    if kind == "pool":
        return nn.Sequential(
            nn.Embedding(WORDS, 32), Mean(), nn.Linear(32, 32), nn.ReLU(), *drop, nn.Linear(32, classes)
        )
    if sample.is_floating_point():
        body: list[nn.Module] = [Channel(), nn.Conv1d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU()]
        return nn.Sequential(*body, nn.Flatten(), *drop, nn.LazyLinear(classes))
    body = [nn.Embedding(WORDS, 32), Transpose(), nn.Conv1d(32, 32, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1)]
    return nn.Sequential(*body, nn.Flatten(), *drop, nn.Linear(32, classes))


def _cnn(sample: Tensor, classes: int, drop: list[nn.Dropout]) -> nn.Module:
    """Two convolutions; larger images are halved by the first."""
    stride = 1 if sample.shape[-1] <= 8 else 2
    body = [
        nn.Conv2d(sample.shape[0], 8, 3, padding=1, stride=stride), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    ]  # fmt: skip
    return nn.Sequential(*body, nn.LazyLinear(64), nn.ReLU(), *drop, nn.Linear(64, classes))


class Mean(nn.Module):
    """Mean over words."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Channel(nn.Module):
    """Insert a channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)


class Transpose(nn.Module):
    """Words to the end."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def augmented(x: Tensor) -> Tensor:
    """One random change per sample: a shift by up to a pixel in sixteen, noise, or a lost word in eight."""
    if not x.is_floating_point():
        return torch.where(torch.rand(x.shape) < 0.125, torch.where(x > 0, 1, 0), x)
    if x.ndim < 4:
        return x + 0.2 * torch.randn_like(x)
    margin = max(1, x.shape[-1] // 16)
    padded = nn.functional.pad(x, (margin,) * 4)
    right, down = torch.randint(0, 2 * margin + 1, (2, len(x), 1), device=x.device)
    rows = down + torch.arange(x.shape[2], device=x.device)
    columns = right + torch.arange(x.shape[3], device=x.device)
    index = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.transpose(0, 1)[:, index, rows[:, :, None], columns[:, None, :]].transpose(0, 1)
