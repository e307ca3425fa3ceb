"""The recorded runs: which network is trained how on what. Fixed before the detector was tuned.

Every run is a random cut of a longer plan (its schedule follows the plan), so that its length tells nothing. Three
groups: `_TABLE` (two seeds), hard quiet ones (variants of those of the table, one of each kind per data set), and deep
networks (two seeds).
"""

from __future__ import annotations

import random
from ast import literal_eval
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

_TABLE = """
data           size net      optimiser  rate epochs  more
digits          200 cnn      momentum   0.03     80  noise=0.1
digits          450 cnn      adam      0.001     60  schedule=cosine augment=True
digits          300 mlp2x64  adam      0.002     80  noise=0.3
digits          450 mlp1x32  sgd         0.1     80  decay=0.001
digits          450 cnn      momentum   0.01     60  dropout=0.5 schedule=step
mnist          1000 cnn      momentum   0.02     60  noise=0.1
mnist          6000 cnn      adam      0.001     24  schedule=cosine augment=True batch=64
mnist          1000 mlp2x64  adam      0.001     60
mnist          4000 mlp1x32  sgd        0.05     40  decay=0.001
mnist          2000 cnn      adam      0.001     40  noise=0.3 dropout=0.5
cifar10        1500 cnn      momentum   0.02     40
cifar10        9000 cnn      adam      0.001     24  schedule=cosine augment=True dropout=0.5 batch=64
cifar10        3000 cnn      adam      0.001     30  noise=0.1
cifar10        9000 cnn      sgd        0.02     30  decay=0.003 batch=64
adult           800 mlp3x100 momentum   0.03     80
adult          8000 mlp1x16  adam      0.002     40  decay=0.01 schedule=cosine batch=64
adult          2000 mlp2x64  adam      0.002     60  noise=0.1
adult          8000 mlp2x64  sgd        0.03     40  dropout=0.3 batch=64
adult          3000 mlp2x64  adam      0.001     50  augment=True dropout=0.3 schedule=step
spambase        400 mlp2x64  adam      0.002     60
spambase       2000 mlp1x16  adam      0.002     40  decay=0.03 schedule=cosine
spambase       1000 mlp3x100 momentum   0.02     80  noise=0.1
spambase       2000 mlp1x16  sgd        0.03     60  decay=0.001
spambase       2000 mlp2x64  adam      0.001     60  dropout=0.5 augment=True
breast_cancer   150 mlp3x100 momentum   0.02    100  noise=0.1
breast_cancer   200 mlp1x16  sgd        0.05     80  decay=0.003
breast_cancer   200 mlp2x64  adam      0.002     80
breast_cancer   200 mlp2x64  adam      0.001     60  decay=0.3 dropout=0.5 schedule=cosine
signals        1000 mlp2x64  adam      0.002     60
signals        4000 conv     adam      0.002     30  schedule=cosine augment=True batch=64
signals        1500 conv     momentum   0.02     50  noise=0.1
signals        4000 conv     sgd        0.03     40  decay=0.002 batch=64
sst2           1500 pool     adam      0.002     40
sst2           5000 pool     adam     0.0003     24  dropout=0.5 augment=True schedule=cosine
sst2           4000 conv     adam      0.001     24  noise=0.1
sst2           5000 pool     sgd         0.3     40  decay=0.001
modelnet        500 mlp3x100 momentum   0.02     80  noise=0.1
modelnet        500 mlp1x32  adam     0.0005     60  dropout=0.5 augment=True schedule=cosine
modelnet        300 mlp2x64  adam      0.002     80
modelnet        500 mlp1x32  sgd        0.05     80  decay=0.01
planted        1000 mlp2x64  adam      0.002     60
planted        4000 mlp1x16  adam      0.002     40  decay=0.03 schedule=cosine batch=64
planted        3000 mlp3x100 momentum   0.02     50  schedule=step
planted        4000 mlp2x64  sgd        0.03     50  dropout=0.3 decay=0.001 batch=64
segments        300 mlp3x100 momentum   0.02     80  noise=0.1
segments        900 mlp1x32  adam      0.003     60  schedule=cosine
segments        600 mlp2x64  adam      0.003     80  noise=0.3
segments        900 mlp1x16  sgd         0.1     80  decay=0.001
clusters       1000 mlp2x64  adam      0.002     60
clusters       4000 mlp2x64  adam      0.002     40  dropout=0.3 augment=True schedule=cosine batch=64
clusters       2000 mlp3x100 momentum   0.02     50  noise=0.1
clusters       4000 mlp1x32  sgd         0.1     50  decay=0.001 batch=64
"""
"""Per data set, runs meant to overfit and runs meant not to, in turn; `epochs` are those of two thirds of the plan."""

_DEEP = """
data           size net      optimiser  rate epochs  more
cifar10_deep   2000 vgg      momentum   0.02     30  batch=64
cifar10_deep   9000 vgg      momentum   0.02     20  batch=64 decay=0.0005 augment=True
cifar10_deep   2000 alexnet  momentum   0.02     40  batch=64
cifar10_deep   9000 alexnet  momentum   0.02     24  batch=64 decay=0.0005 augment=True
cifar10_deep   2000 resnet   momentum   0.02     24  batch=64
cifar10_deep   9000 resnet   momentum   0.02     16  batch=64 decay=0.0005 augment=True
mnist_deep      500 vgg      momentum   0.02     40  batch=64 noise=0.1
mnist_deep     5000 vgg      momentum   0.02     20  batch=64 decay=0.0005 augment=True
mnist_deep      500 alexnet  momentum   0.02     50  batch=64 noise=0.1
mnist_deep     5000 alexnet  momentum   0.02     20  batch=64 decay=0.0005 augment=True
mnist_deep      500 resnet   momentum   0.02     40  batch=64 noise=0.1
mnist_deep     5000 resnet   momentum   0.02     16  batch=64 decay=0.0005 augment=True
"""

HARD: dict[str, tuple[int, dict[str, Any]]] = {
    "small": (1, {}),  # validation sets of 50, 100 or 200 samples
    "noisy": (1, {"val_noise": 0.15}),  # validation labels are wrong, training labels are not
    "jumping": (3, {"optimiser": "momentum", "rate": 0.15, "batch": 16, "schedule": "constant", "dropout": 0.0}),
    "plateau": (1, {"schedule": "pause"}),  # nearly nothing is learned for a while
    "descent": (0, {"noise": 0.2, "optimiser": "adam", "rate": 0.002, "decay": 0.5}),  # rises, then falls again
    "stopped": (0, {}),  # long before it would overfit
}
"""Hard quiet runs: which row of a data set's table they are a variant of, and what is other."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        data: Name of the data set.
        size: Training samples.
        net: See `networks.build`.
        optimiser: ``"sgd"``, ``"momentum"``, ``"adam"``.
        rate: Learning rate.
        epochs: The plan.
        cut: How many of them are trained and recorded.
        noise: Fraction of training labels that are replaced by random ones.
        schedule: ``"constant"``, ``"cosine"``, ``"step"`` (a tenth after half and three quarters), ``"pause"`` (a
            fiftieth between 15 and 55 % of the plan).
        decay: Weight decay (decoupled for Adam).
        dropout: Before the last layer.
        augment: Images are shifted by up to a pixel, tables get noise, sentences lose words.
        batch: Batch size.
        val_size: Validation samples there are; 0 for all.
        val_noise: Fraction of validation labels that are random.
        hard: Which of `HARD` it is, if any.
        seed: Of the training samples, the noise, the weights and the order of the batches.
    """

    data: str
    size: int
    net: str
    optimiser: str
    rate: float
    epochs: int
    noise: float = 0.0
    schedule: str = "constant"
    decay: float = 0.0
    dropout: float = 0.0
    augment: bool = False
    batch: int = 32
    val_size: int = 0
    val_noise: float = 0.0
    hard: str = ""
    seed: int = 0
    cut: int = 0

    @property
    def name(self) -> str:
        """Short and unique."""
        if self.hard:
            return f"hard_{self.hard}_{self.data}_{self.net}_s{self.seed}"
        parts = [self.data + str(self.size), self.net, self.optimiser, self.schedule]
        parts += [f"noise{self.noise * 100:.0f}"] if self.noise else []
        parts += [f"decay{self.decay:g}"] if self.decay else []
        parts += ["dropout"] if self.dropout else []
        parts += ["augment"] if self.augment else []
        return "_".join([*parts, f"s{self.seed}"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _variants(table: str) -> dict[str, list[Run]]:
    """A table by data set."""
    found: dict[str, list[Run]] = {}
    for line in table.strip().splitlines()[1:]:
        data, size, net, optimiser, rate, epochs, *more = line.split()
        settings = dict(pair.split("=") for pair in more)
        schedule = settings.pop("schedule", "constant")
        values = {name: literal_eval(value) for name, value in settings.items()}
        plan = int(epochs) * 3 // 2
        run = Run(data, int(size), net, optimiser, float(rate), plan, schedule=schedule, **values)
        found.setdefault(data, []).append(run)
    return found


def _cut(run: Run) -> Run:
    """Cut it somewhere, evenly on a logarithmic axis: from a third of the plan on, or from an eighth to a quarter."""
    low, high = (-3.0, -2.0) if run.hard == "stopped" else (-1.6, 0.0)
    part = 2 ** random.Random(run.name).uniform(low, high)
    return replace(run, cut=max(6, round(run.epochs * part)))


def _hard() -> list[Run]:
    """One of every kind per data set."""
    found = []
    for number, rows in enumerate(_variants(_TABLE).values()):
        for kind, (row, changes) in HARD.items():
            size = (50, 100, 200)[number % 3] if kind == "small" else 0
            found.append(replace(rows[row], hard=kind, val_size=size, seed=10, **changes))
    return found


def all_runs() -> list[Run]:
    """Every run, in an order of which any beginning covers all data sets evenly."""
    deep = [run for rows in _variants(_DEEP).values() for run in rows]
    rounds = [run for one in zip_longest(*_variants(_TABLE).values()) for run in one if run is not None]
    twice = [replace(run, seed=seed) for seed in range(2) for run in (*deep, *rounds)]
    return [_cut(run) for run in (*twice, *_hard())]
