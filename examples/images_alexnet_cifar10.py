"""AlexNet on CIFAR-10
===================

An AlexNet on CIFAR-10, masked after the first ReLU as in the papers; a quarter of the width on a CPU.

::

    python examples/images_alexnet_cifar10.py [--fast] [--accelerator auto]
"""

from __future__ import annotations

from common import parse, run
from data import cifar10
from models import AlexNet, Classifier

from lightning_interactions import TwoPhaseMonitor


def main() -> None:
    options = parse(__doc__)
    data = cifar10(options.data, train=options.size(3000), val=options.size(1000))
    width = 1.0 if options.on_gpu else 0.25
    model = Classifier(AlexNet(width, data.num_classes), lr=0.01)
    monitor = TwoPhaseMonitor(layer="net.features.1", **options.measuring(num_samples=16))
    run(model, data, monitor, options, epochs=40, batch_size=64)


if __name__ == "__main__":
    main()
