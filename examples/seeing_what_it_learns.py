"""Seeing what it learns
=====================

What a network has learned, seen in a single sample: a digit, a photograph, a sentence, a census row, a point cloud.

Each network is trained with a monitor; then the watched sample whose interactions of high order cancel the most is
drawn, with its strongest interactions now, at the boundary and at the start: ``seeing_<kind>.png``.

::

    python examples/seeing_what_it_learns.py [--fast] [--accelerator auto]    # ten minutes on two cores
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from common import Options, parse, run
from data import Data, adult, cifar10, mnist, modelnet10, sst2
from models import MLP, AlexNet, Classifier, LeNet, PointNet, TextTransformer, WordTokenizer
from torch.utils.data import TensorDataset

from lightning_interactions import TwoPhaseMonitor
from lightning_interactions.players import PointClusters, TabularFeatures, Tokens


@dataclass
class Case:
    """What is trained, on what, and for how long."""

    model: Classifier
    data: Data
    monitor: TwoPhaseMonitor
    epochs: int


def monitor_of(options: Options, **settings: object) -> TwoPhaseMonitor:
    fast = {"num_samples": 4, "num_players": 5, "every_n_epochs": 1} if options.fast else {"num_samples": 16}
    return TwoPhaseMonitor(max_overhead=None, **(fast | settings))


def digit(options: Options) -> Case:
    data = mnist(options.data, train=options.size(1000), val=options.size(1000), label_noise=0.05)
    return Case(Classifier(LeNet(), lr=0.01), data, monitor_of(options), 40)


def photograph(options: Options) -> Case:
    data = cifar10(options.data, train=options.size(3000), val=options.size(500))
    return Case(Classifier(AlexNet(width=0.25), lr=0.01), data, monitor_of(options, per_octave=8), 20)


def sentence(options: Options) -> Case:
    sentences, labels, val_sentences, val_labels = sst2(options.data, train=options.size(4000), val=options.size(872))
    tokenizer = WordTokenizer(sentences)
    train = TensorDataset(tokenizer(sentences), labels)
    data = Data("SST-2", train, TensorDataset(tokenizer(val_sentences), val_labels), num_classes=2)
    model = Classifier(TextTransformer(len(tokenizer)), lr=5e-4, optimizer="adamw", weight_decay=0.01)
    model.tokenizer = tokenizer  # where the monitor finds the words, the mask token and the special ones
    return Case(model, data, monitor_of(options, players=Tokens()), 8)


def census_row(options: Options) -> Case:
    data = adult(options.data, train=options.size(2000), val=options.size(1000))
    columns = TabularFeatures(groups=data.groups, names=data.names)
    model = Classifier(MLP(num_inputs=sum(map(len, data.groups.values()))), lr=0.02)
    return Case(model, data, monitor_of(options, players=columns), 40)


def cloud(options: Options) -> Case:
    data = modelnet10(options.data, train=options.size(1000), val=options.size(400))
    for part in (data.train, data.val):
        points, labels = part.tensors
        part.tensors = points.transpose(1, 2).contiguous(), labels
    model = Classifier(PointNet(num_classes=data.num_classes), lr=0.01)
    return Case(model, data, monitor_of(options, players=PointClusters(num_clusters=10), per_octave=4), 20)


KINDS: dict[str, Callable[[Options], Case]] = {
    "digit": digit,
    "photograph": photograph,
    "census_row": census_row,
    "cloud": cloud,
    "sentence": sentence,  # the last one: without the data it ends the script
}


def main() -> None:
    options = parse(__doc__)
    for kind, make in KINDS.items():
        case = make(options)
        run(case.model, case.data, case.monitor, replace(options, name=f"{options.name}_{kind}"), epochs=case.epochs,
            batch_size=32)  # fmt: skip
        case.monitor.show(sample=0).savefig(options.output / f"seeing_{kind}.png")
        for found in case.monitor.history.samples[0]["interactions"]:
            print(f"{found['kind']:<3} of players {found['players']}: {found['now']:+.2f}")


if __name__ == "__main__":
    main()
