"""Networks and data of the benchmarks. Speed does not depend on the weights, so nothing here is trained."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "threads_used": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
    }


def lenet() -> nn.Module:
    features = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    head = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*features, nn.MaxPool2d(2), nn.Flatten(), *head)


def vgg11(width: float = 1.0) -> nn.Module:
    """VGG-11 for 32 x 32 images; ``width`` scales the channels. Its second ReLU is the module ``"4"``."""
    layers: list[nn.Module] = []
    channels = 3
    for item in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        if isinstance(item, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, round(item * width), 3, padding=1), nn.ReLU()]
            channels = round(item * width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


def mlp() -> nn.Module:
    hidden = [nn.Linear(12, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(100, 2))


class PatchTransformer(nn.Module):
    """A small vision transformer: 4 x 4 patches of a 32 x 32 image are 64 tokens."""

    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(torch.randn(64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, dropout=0.0)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x).flatten(2).transpose(1, 2) + self.position).mean(1))


def load(name: str, count: int, split: str = "train") -> tuple[Tensor, Tensor] | None:
    """The first ``count`` samples of ``"mnist"``, ``"cifar10"`` or ``"adult"``; ``None`` where the data is missing."""
    path = DATA / {"mnist": "mnist.npz", "cifar10": "cifar10_jpeg.npz", "adult": "tabular_adult.npz"}[name]
    if not path.exists():
        return None
    with np.load(path) as z:
        y = torch.from_numpy(z[f"y_{split}"][:count].astype("int64"))
        x = z[f"x_{split}"][:count]
        if name == "adult":
            return torch.from_numpy((x - z["mean"]) / z["std"]).float(), y
        x = torch.from_numpy(x).float() / 255
        return (x.unsqueeze(1) if name == "mnist" else x.permute(0, 3, 1, 2).contiguous()), y


def load_or_noise(name: str, count: int) -> tuple[Tensor, Tensor, str]:
    """As `load`; noise of the same shape where the data is missing, which is as fast. The last entry says which."""
    found = load(name, count)
    if found is not None:
        return *found, name
    shape = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "adult": (12,)}[name]
    classes = 2 if name == "adult" else 10
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, *shape, generator=generator), torch.arange(count) % classes, f"noise shaped like {name}"


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Markdown table: heading to format string; ``-`` where a row lacks the number."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = []
        for template in columns.values():
            try:
                cells.append(template.format(**row))
            except (KeyError, TypeError, ValueError):
                cells.append("-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
