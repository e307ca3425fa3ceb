"""Image networks: `features` (or `embed`) is what `TwoPhaseMonitor(layer=...)` names to mask inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """LeNet-5 with ReLUs for 28 x 28 images (LeCun et al. 1998); the first ReLU is ``features.1``."""

    def __init__(self, channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class AlexNet(nn.Module):
    """AlexNet's five convolutions (Krizhevsky et al. 2012) with 3 x 3 kernels, for 32 x 32 images.

    ``width`` scales all channels; the first ReLU is ``features.1``.
    """

    def __init__(self, width: float = 1.0, num_classes: int = 10) -> None:
        super().__init__()
        c1, c2, c3, c4, hidden = (round(c * width) for c in (64, 192, 384, 256, 1024))
        self.features = nn.Sequential(
            nn.Conv2d(3, c1, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(c1, c2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c4, c4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(4 * c4, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class VGG11(nn.Module):
    """VGG-11 (Simonyan & Zisserman 2015) for 32 x 32 images.

    ``width`` scales all channels: 1 is the paper's, 0.25 learns on a CPU. The second ReLU is ``features.4``. Behind the
    convolutions is one linear layer, or with ``head="papers"`` the paper's own end: two hidden layers of 4096 (times
    ``width``) with dropout.
    """

    blocks: tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512), (512, 512))

    def __init__(self, width: float = 1.0, num_classes: int = 10, head: str = "linear") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in self.blocks:
            for size in block:
                layers += [nn.Conv2d(channels, round(size * width), 3, padding=1), nn.ReLU()]
                channels = round(size * width)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden: list[nn.Module] = []
        for size in (round(4096 * width),) * 2 if head == "papers" else ():
            hidden += [nn.Linear(channels, size), nn.ReLU(), nn.Dropout(0.5)]
            channels = size
        self.head = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(channels, num_classes))
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class VGG13(VGG11):
    """VGG-13; its second ReLU is ``features.3``."""

    blocks = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))


class VGG16(VGG11):
    """VGG-16; its second ReLU is ``features.3``."""

    blocks = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)


class SlimResNet(nn.Module):
    """A ResNet (He et al. 2016) of three stages for 32 x 32 images: seven 3 x 3 convolutions, all batch-normalised.

    The first ReLU is ``features.2``; the stages have ``width``, two and four times as many channels.
    """

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            ResidualBlock(width, width, 1), ResidualBlock(width, 2 * width, 2), ResidualBlock(2 * width, 4 * width, 2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ResidualBlock(nn.Module):
    """Two convolutions past which the input is added, by a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.skip = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.skip(x)).relu()


class VisionTransformer(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021) with mean pooling, for 32 x 32 images in 4 x 4 patches.

    ``embed`` returns the patch embeddings as a map ``(B, width, 8, 8)``: with ``layer="net.embed"`` the monitor masks
    them there, before positions are added; without ``layer`` it masks pixels.
    """

    def __init__(self, width: int = 64, depth: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(64, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.blocks(tokens).mean(1))


def _kaiming(net: nn.Module) -> None:
    """He et al. 2015: deep ReLU networks without normalisation hardly begin to learn from PyTorch's default."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
