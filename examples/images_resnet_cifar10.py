"""ResNet on CIFAR-10
==================

A small ResNet with batch norm on CIFAR-10, masked after the first ReLU.

::

    python examples/images_resnet_cifar10.py [--fast] [--accelerator auto]
"""

from __future__ import annotations

from common import parse, run
from data import cifar10
from models import Classifier, SlimResNet

from lightning_interactions import TwoPhaseMonitor


def main() -> None:
    options = parse(__doc__)
    data = cifar10(options.data, train=options.size(3000), val=options.size(1000))
    model = Classifier(SlimResNet(num_classes=data.num_classes), lr=0.01)
    monitor = TwoPhaseMonitor(layer="net.features.2", **options.measuring(num_samples=16))
    run(model, data, monitor, options, epochs=24, batch_size=64)


if __name__ == "__main__":
    main()
