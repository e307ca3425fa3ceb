"""LeNet on MNIST
==============

LeNet on MNIST with a few wrong labels, masked after the first ReLU as in the papers.

::

    python examples/images_lenet_mnist.py [--fast]
"""

from __future__ import annotations

from common import parse, run
from data import mnist
from models import Classifier, LeNet

from lightning_interactions import TwoPhaseMonitor


def main() -> None:
    options = parse(__doc__)
    data = mnist(options.data, train=options.size(1000), val=options.size(1000), label_noise=0.05)
    model = Classifier(LeNet(num_classes=data.num_classes), lr=0.01)
    monitor = TwoPhaseMonitor(layer="net.features.1", **options.measuring())
    run(model, data, monitor, options, epochs=80, batch_size=32)


if __name__ == "__main__":
    main()
