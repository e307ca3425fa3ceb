"""The data sets of the recorded runs: each gives training, validation and test samples and the kind of players.

Validation and test samples never change with the seed of a run; training samples are drawn from the rest. Three sets
are made here, the others are real (`../shared/data`, scikit-learn, river). Inputs are standardised or in 0 to 1, and
rounded to half precision, so that a packed copy of them (`pack`) gives the same runs.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from lightning_interactions.players import FeatureMask, ImagePatches, Players, TabularFeatures
from lightning_interactions.players.base import with_background

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

TUNING = ("digits", "cifar10", "spambase", "signals", "planted", "segments", "cifar10_deep")
REPORTING = ("mnist", "adult", "breast_cancer", "sst2", "modelnet", "clusters", "mnist_deep")
"""The halves were fixed before anything was tuned. Each has images, tables, one set that is neither, deep networks."""

UNKNOWN_WORD, WORDS, LENGTH = 1, 2000, 16


@dataclass(frozen=True)
class DataSet:
    """Samples and players.

    Attributes:
        pool: Training samples to draw from, ``(inputs, targets)``.
        val: Up to 1000 samples the detectors see.
        test: Samples only hindsight sees.
        classes: Number of classes.
        players: Who plays.
    """

    pool: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    players: Players


class Words(Players):
    """Words of a padded sentence as players; an absent one becomes the unknown word."""

    def partition(self, sample: Tensor, generator: Generator) -> Tensor:
        return torch.where(sample > 0, torch.arange(len(sample)), -1)

    def mask(self, sample: Tensor, players: Tensor, coalitions: Tensor) -> Tensor:
        return torch.where(with_background(coalitions)[:, players], sample, UNKNOWN_WORD)


def load(name: str, packed: Path | None = None) -> DataSet:
    """Load one of `TUNING` or `REPORTING`, from the folder of `pack` where there is one."""
    base = name.removesuffix("_deep")
    if packed is None:
        found = _LOADERS[base]()
    else:
        with np.load(packed / f"{base}.npz") as z:
            arrays = [torch.from_numpy(z[key]) for key in _ARRAYS]
        pairs = [(_unpacked(x), y.long()) for x, y in zip(arrays[::2], arrays[1::2], strict=True)]
        found = DataSet(*pairs, classes=1 + max(int(y.max()) for _, y in pairs), players=_PLAYERS[base])
    change = {"cifar10": _halved, "cifar10_deep": _same, "mnist": _halved, "mnist_deep": _three_channels}.get(
        name, _same
    )
    pool, val, test = ((change(_rounded(x)), y) for x, y in (found.pool, found.val, found.test))
    return replace(found, pool=pool, val=val, test=test)


def pack(folder: Path) -> int:
    """Write all data sets for a machine without their sources; return how many bytes they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, loader in _LOADERS.items():
        found = loader()
        pairs = [(_packed(x), y.to(torch.int16)) for x, y in (found.pool, found.val, found.test)]
        arrays = zip(_ARRAYS, (tensor.numpy() for pair in pairs for tensor in pair), strict=True)
        np.savez_compressed(folder / f"{name}.npz", **dict(arrays))
    return sum(path.stat().st_size for path in folder.glob("*.npz"))


_ARRAYS = "x_pool", "y_pool", "x_val", "y_val", "x_test", "y_test"


def _packed(x: Tensor) -> Tensor:
    """Images as bytes, other floats in half precision."""
    if x.is_floating_point():
        return (x * 255).round().to(torch.uint8) if x.ndim == 4 and x.shape[-1] >= 28 else x.half()
    return x.to(torch.int16)


def _unpacked(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x if x.is_floating_point() else x.long()


def _rounded(x: Tensor) -> Tensor:
    return x.half().float() if x.is_floating_point() else x


def _same(x: Tensor) -> Tensor:
    return x


def _halved(x: Tensor) -> Tensor:
    """Images of half the size: a quarter of the time."""
    return F.avg_pool2d(x, 2)


def _three_channels(x: Tensor) -> Tensor:
    """Digits in the shape that networks for 32 x 32 pictures take."""
    return F.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1)


def _split(x: Tensor, y: Tensor, val: int, test: int, players: Players) -> DataSet:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    parts = [(x[a:b], y[a:b]) for a, b in ((val + test, len(y)), (0, val), (val, val + test))]
    return DataSet(*parts, classes=int(y.max()) + 1, players=players)


def _standardised(x: NDArray[np.float64]) -> Tensor:
    spread = x.std(0)
    return torch.from_numpy((x - x.mean(0)) / np.where(spread > 0, spread, 1)).float().clamp(-8, 8)


def _npz(name: str) -> dict[str, NDArray[np.float32]]:
    with np.load(SHARED / name, allow_pickle=False) as z:
        return {key: z[key] for key in z.files}


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    found = load_digits()
    return _split(
        torch.tensor(found.images).float().unsqueeze(1) / 16, torch.tensor(found.target), 300, 1000, _PLAYERS["digits"]
    )


def _mnist() -> DataSet:
    z = _npz("mnist.npz")
    x = np.concatenate([z["x_train"][:8000], z["x_test"][:3000]])
    y = np.concatenate([z["y_train"][:8000], z["y_test"][:3000]])
    images = torch.from_numpy(x).float().unsqueeze(1) / 255
    return _split(images, torch.from_numpy(y).long(), 1000, 2000, _PLAYERS["mnist"])


def _cifar10() -> DataSet:
    z = _npz("cifar10_jpeg.npz")
    x, y = np.concatenate([z["x_train"], z["x_test"]]), np.concatenate([z["y_train"], z["y_test"]])
    images = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    return _split(images, torch.from_numpy(y).long(), 1000, 2000, _PLAYERS["cifar10"])


def _adult() -> DataSet:
    z = _npz("tabular_adult.npz")
    x, y = np.concatenate([z["x_train"], z["x_test"]]), np.concatenate([z["y_train"], z["y_test"]])
    return _split(_standardised(x.astype(np.float64)), torch.from_numpy(y).long(), 1000, 4000, _PLAYERS["adult"])


def _spambase() -> DataSet:
    z = _npz("tabular_spambase.npz")
    x, y = np.concatenate([z["x_train"], z["x_test"]]), np.concatenate([z["y_train"], z["y_test"]])
    return _split(_standardised(x.astype(np.float64)), torch.from_numpy(y).long(), 1000, 1200, _PLAYERS["spambase"])


def _breast_cancer() -> DataSet:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return _split(_standardised(found.data), torch.tensor(found.target), 100, 250, _PLAYERS["breast_cancer"])


def _segments() -> DataSet:
    """UCI image segmentation, as shipped with river."""
    from river.datasets import ImageSegments

    rows = list(ImageSegments())
    names = sorted({y for _, y in rows})
    x = np.array([list(row.values()) for row, _ in rows], dtype=np.float64)
    y = torch.tensor([names.index(y) for _, y in rows])
    return _split(_standardised(x), y, 400, 1000, _PLAYERS["segments"])


def _modelnet() -> DataSet:
    """Occupancy of a 5 x 5 x 5 grid by the points of a shape: 125 columns."""
    z = _npz("modelnet10_points.npz")
    points = np.concatenate([z["x_train"], z["x_test"]]).astype(np.float32)
    y = np.concatenate([z["y_train"], z["y_test"]])
    cell = np.clip(((points + 1) / 2 * 5).astype(int), 0, 4)
    index = cell[..., 0] * 25 + cell[..., 1] * 5 + cell[..., 2]
    counts = np.stack([np.bincount(row, minlength=125) for row in index])
    return _split(_standardised(np.sqrt(counts)), torch.from_numpy(y).long(), 300, 600, _PLAYERS["modelnet"])


def _sst2() -> DataSet:
    """Phrases of 8 to 16 words; words beyond the 2000 most frequent are one unknown word."""
    with gzip.open(SHARED / "sst2_train.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").rsplit("\t", 1) for line in file][1:]
    texts = [(text.split(), int(label)) for text, label in rows]
    texts = [(words, label) for words, label in texts if 8 <= len(words) <= LENGTH][:9000]
    frequent = Counter(word for words, _ in texts for word in words).most_common(WORDS - 2)
    number = {word: i + 2 for i, (word, _) in enumerate(frequent)}
    x = torch.zeros(len(texts), LENGTH, dtype=torch.long)
    for row, (words, _) in zip(x, texts, strict=True):
        row[: len(words)] = torch.tensor([number.get(word, UNKNOWN_WORD) for word in words])
    return _split(x, torch.tensor([label for _, label in texts]), 1000, 3000, _PLAYERS["sst2"])


def _signals() -> DataSet:
    """One-dimensional shapes in the manner of MNIST-1D (arXiv 2011.14439), with ten smooth templates of our own.

    Each is padded, scaled, sheared, shifted around, put under correlated noise and sampled at 40 points.
    """
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 1, 12)
    waves = np.stack([np.sin(np.pi * k * steps) for k in range(1, 6)])
    templates = rng.normal(size=(10, 5)) / np.arange(1, 6) ** 0.5 @ waves
    y = rng.integers(0, 10, 8000)
    x = np.zeros((len(y), 72))
    x[:, :12] = templates[y] * (1 + 0.4 * rng.normal(size=(len(y), 1)))
    x += 0.75 * rng.uniform(-1, 1, (len(y), 1)) * np.linspace(-0.5, 0.5, 72)
    noise = 0.25 * rng.normal(size=x.shape)
    x += np.apply_along_axis(lambda row: np.convolve(row, np.ones(4) / 2, mode="same"), 1, noise)
    x = np.stack([np.roll(row, shift) for row, shift in zip(x, rng.integers(0, 48, len(y)), strict=True)])
    x = np.stack([np.interp(np.linspace(0, 71, 40), np.arange(72), row) for row in x])
    return _split(
        torch.from_numpy(x).float() / float(x.std()), torch.from_numpy(y).long(), 1000, 3000, _PLAYERS["signals"]
    )


def _planted() -> DataSet:
    """A sum of random products of 1 to 4 of 14 columns decides, with noise: the true orders are known."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8000, 14))
    logit = x[:, :6] @ rng.normal(size=6)
    for order, count in ((2, 6), (3, 4), (4, 2)):
        for _ in range(count):
            logit += rng.normal() * np.sign(x[:, rng.choice(14, order, replace=False)]).prod(1)
    y = (logit + rng.logistic(size=len(x)) * 0.7 > 0).astype(np.int64)
    return _split(torch.from_numpy(x).float(), torch.from_numpy(y), 1000, 3000, _PLAYERS["planted"])


def _clusters() -> DataSet:
    """Scikit-learn's `make_classification`: clusters at the corners of a hypercube, as in the Madelon challenge."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        8000, 20, n_informative=8, n_redundant=4, n_classes=4, n_clusters_per_class=3, flip_y=0.05, random_state=0
    )
    return _split(_standardised(x), torch.from_numpy(y).long(), 1000, 3000, _PLAYERS["clusters"])


_LOADERS: dict[str, Callable[[], DataSet]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "adult": _adult,
    "spambase": _spambase,
    "breast_cancer": _breast_cancer,
    "signals": _signals,
    "sst2": _sst2,
    "modelnet": _modelnet,
    "planted": _planted,
    "segments": _segments,
    "clusters": _clusters,
}
_PLAYERS: dict[str, Players] = {
    "digits": ImagePatches(),
    "mnist": ImagePatches(),
    "cifar10": ImagePatches(baseline="mean"),
    "signals": FeatureMask(torch.arange(40) // 2, baseline="zero"),  # windows of two points
    "sst2": Words(),
    "modelnet": FeatureMask(torch.arange(125) // 5, baseline="mean"),  # columns of cells along z
} | dict.fromkeys(("adult", "spambase", "breast_cancer", "planted", "segments", "clusters"), TabularFeatures())
