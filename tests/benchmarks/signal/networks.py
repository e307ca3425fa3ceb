"""Networks that neither the gallery nor the choice of the package's constants has seen, and a wrapper for MiniLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MobileNet(nn.Module):
    """Inverted residuals with batch norm (Sandler et al. 2018), small, for 32 x 32 images; masked at ``features.2``."""

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        plan = [(width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)]
        blocks, channels = [], width
        for size, stride in plan:
            blocks.append(InvertedResidual(channels, size, stride))
            channels = size
        self.features = nn.Sequential(*stem, *blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, expansion: int = 3) -> None:
        super().__init__()
        inner = expansion * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class ConvNeXt(nn.Module):
    """Patches of 2 x 2, then 7 x 7 depthwise convolutions, layer norm and GELU (Liu et al. 2022); small."""

    def __init__(self, width: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 2, 2)
        self.features = nn.Sequential(
            *(ConvNeXtBlock(width) for _ in range(2)),
            nn.Conv2d(width, 2 * width, 2, 2),
            *(ConvNeXtBlock(2 * width) for _ in range(2)),
        )
        self.head = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.embed(x)).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.points = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.points(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WordGRU(nn.Module):
    """A GRU over word ids; logits from its state after the last word."""

    def __init__(self, vocab_size: int, width: int = 64, num_classes: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.gru(self.words(ids))
        last = (ids != 0).sum(1) - 1
        return self.head(states[torch.arange(len(ids), device=ids.device), last])


class WordConv(nn.Module):
    """Convolutions over three and two words in turn, then a maximum over the sentence."""

    def __init__(self, vocab_size: int, width: int = 64, num_classes: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        self.convs = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, width, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.convs(self.words(ids).transpose(1, 2)).amax(-1))


class OfIds(nn.Module):
    """A Hugging Face classifier called with padded ids alone: they tell its mask, the longest its length."""

    def __init__(self, net: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.net, self.pad_id = net, pad_id

    def forward(self, ids: Tensor) -> Any:
        mask = (ids != self.pad_id).long()
        longest = int(mask.sum(1).max())
        return self.net(ids[:, :longest], mask[:, :longest]).logits
