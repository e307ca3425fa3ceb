"""The data of the examples: small real sets read from a folder, and stand-ins where the folder is missing.

Each function returns a `Data`. Stand-ins are scikit-learn's digits (images) and breast cancer (tables), and made-up
solids (point clouds); sentences have none.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot
from torch.utils.data import Dataset, TensorDataset

FOLDER = Path(__file__).resolve().parents[1] / "../shared/data"


@dataclass
class Data:
    """A training and a validation set, and what a network must know of them."""

    name: str
    train: Dataset[Any]
    val: Dataset[Any]
    num_classes: int
    groups: dict[str, list[int]] = field(default_factory=dict)
    """For tables: the columns of each variable, more than one where it is a category (one-hot)."""
    names: list[str] | None = None
    """For tables: what each column is called."""


def mnist(folder: Path, train: int, val: int, label_noise: float = 0.0) -> Data:
    """Grey images ``(1, 28, 28)`` in [0, 1]; a fraction ``label_noise`` of the training labels is drawn at random."""
    if (arrays := _arrays(folder / "mnist.npz", train, val)) is None:
        return _digits("28 x 28", train, val, 1, 28, label_noise)
    (x, y), (x_val, y_val) = ((x.unsqueeze(1) / 255, y) for x, y in arrays)
    return Data(
        f"MNIST, {len(x)} images{_told(label_noise)}",
        TensorDataset(x, _with_noise(y, label_noise, 10)),
        TensorDataset(x_val, y_val),
        10,
    )


def cifar10(folder: Path, train: int, val: int, label_noise: float = 0.0) -> Data:
    """Colour images ``(3, 32, 32)``, from -2 to 2."""
    if (arrays := _arrays(folder / "cifar10_jpeg.npz", train, val)) is None:
        return _digits("32 x 32", train, val, 3, 32, label_noise)
    (x, y), (x_val, y_val) = (((x.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25, y) for x, y in arrays)
    return Data(
        f"CIFAR-10, {len(x)} images{_told(label_noise)}",
        TensorDataset(x, _with_noise(y, label_noise, 10)),
        TensorDataset(x_val, y_val),
        10,
    )


def modelnet10(folder: Path, train: int, val: int, num_points: int = 256) -> Data:
    """Point clouds ``(num_points, 3)`` in the unit sphere."""
    if (arrays := _arrays(folder / "modelnet10_points.npz", train, val)) is None:
        train_set, val_set = _solids(train, num_points, seed=0), _solids(val, num_points, seed=1)
        return Data(f"noisy spheres, cubes and cylinders (made up), {train} clouds", train_set, val_set, 3)
    (x, y), (x_val, y_val) = arrays  # the order of the points is random, so the first ones are a fair draw
    train_set, val_set = TensorDataset(x[:, :num_points], y), TensorDataset(x_val[:, :num_points], y_val)
    return Data(f"ModelNet10, {len(x)} clouds of {num_points} points", train_set, val_set, 10)


def adult(folder: Path, train: int, val: int) -> Data:
    """Census rows, numbers standardised and categories one-hot; ``groups`` says which columns were one."""
    path = folder / "tabular_adult.npz"
    if (arrays := _arrays(path, train, val)) is None:
        return _breast_cancer()
    with np.load(path) as z:
        names, categories = z["feature_names"].tolist(), json.loads(str(z["categories_json"]))
        mean, std = torch.from_numpy(z["mean"]), torch.from_numpy(z["std"])
    sizes = [len(categories.get(name, "1")) for name in names]
    (x, y), (x_val, y_val) = ((_columns((x - mean) / std, x.long(), sizes), y) for x, y in arrays)
    groups = {name: part.tolist() for name, part in zip(names, torch.arange(sum(sizes)).split(sizes), strict=True)}
    called = [f"{name}={category}" if category else name for name in names for category in categories.get(name, [""])]
    return Data(f"adult, {len(x)} rows", TensorDataset(x, y), TensorDataset(x_val, y_val), 2, groups, called)


def sst2(folder: Path, train: int, val: int) -> tuple[Sequence[str], Tensor, Sequence[str], Tensor]:
    """Film reviews: training sentences and labels (1: positive), validation sentences and labels.

    The first ones of a shuffled training set, and the first ones of the development set. Where they are missing the
    script ends: there is no stand-in for language.
    """
    if not (folder / "sst2_train.tsv.gz").exists():
        print(f"Not run: {folder / 'sst2_train.tsv.gz'} is missing (--data names another folder).")
        raise SystemExit(0)
    (x, y), (x_val, y_val) = _sentences(folder / "sst2_train.tsv.gz"), _sentences(folder / "sst2_dev.tsv.gz")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:train]
    return [x[i] for i in order], y[order], x_val[:val], y_val[:val]


# -- reading -------------------------------------------------------------------------------------------------------


def _arrays(path: Path, train: int, val: int) -> list[tuple[Tensor, Tensor]] | None:
    """The first ``train`` and ``val`` samples, or ``None`` where the file is missing."""
    if not path.exists():
        print(f"{path} is missing: a stand-in takes its place (--data names another folder).")
        return None
    with np.load(path) as z:
        return [
            (torch.from_numpy(z[f"x_{split}"][:size]).float(), torch.from_numpy(z[f"y_{split}"][:size]).long())
            for split, size in (("train", train), ("test", val))
        ]


def _sentences(path: Path) -> tuple[list[str], Tensor]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").rsplit("\t", 1) for line in file][1:]
    return [sentence for sentence, _ in rows], torch.tensor([int(label) for _, label in rows])


def _columns(numbers: Tensor, codes: Tensor, sizes: Sequence[int]) -> Tensor:
    columns = [
        one_hot(codes[:, i], size).float() if size > 1 else numbers[:, i : i + 1] for i, size in enumerate(sizes)
    ]
    return torch.cat(columns, 1)


def _with_noise(labels: Tensor, fraction: float, num_classes: int) -> Tensor:
    noisy, generator = round(fraction * len(labels)), torch.Generator().manual_seed(0)
    labels = labels.clone()
    labels[:noisy] = torch.randint(num_classes, (noisy,), generator=generator)
    return labels


def _told(label_noise: float) -> str:
    return f", {label_noise:.0%} of the labels random" if label_noise else ""


# -- stand-ins -----------------------------------------------------------------------------------------------------


def _digits(size: str, train: int, val: int, channels: int, side: int, label_noise: float) -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.images[order], dtype=torch.float32).unsqueeze(1) / 16
    x = interpolate(x, (side, side), mode="bilinear").expand(-1, channels, -1, -1).contiguous()
    y = torch.tensor(digits.target[order])
    val = min(val, 597)
    x_train, y_train = x[val:][:train], y[val:][:train]
    return Data(
        f"scikit-learn digits scaled to {size}, {len(x_train)} images{_told(label_noise)}",
        TensorDataset(x_train, _with_noise(y_train, label_noise, 10)),
        TensorDataset(x[:val], y[:val]),
        10,
    )


def _breast_cancer() -> Data:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    order = torch.randperm(len(table.target), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(table.data, dtype=torch.float32)[order], torch.tensor(table.target)[order]
    x = (x - x.mean(0)) / x.std(0)
    groups = {name: [i] for i, name in enumerate(table.feature_names.tolist())}
    return Data("breast cancer, 300 rows", TensorDataset(x[:300], y[:300]), TensorDataset(x[300:], y[300:]), 2, groups)


def _solids(count: int, num_points: int, seed: int) -> TensorDataset:
    """Points near the surface of spheres (0), cubes (1) and upright cylinders (2)."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, num_points, 3, generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    flat = torch.cat([raw[..., :2].norm(dim=-1, keepdim=True).expand(-1, -1, 2), raw[..., 2:].abs()], -1)
    cylinder = raw / flat.amax(-1, keepdim=True)
    surfaces = torch.stack([raw / raw.norm(dim=-1, keepdim=True), raw / raw.abs().amax(-1, keepdim=True), cylinder])
    clouds = surfaces[labels, torch.arange(count)] + 0.1 * torch.randn(raw.shape, generator=generator)
    return TensorDataset(clouds / clouds.norm(dim=-1).amax(-1)[:, None, None], labels)
