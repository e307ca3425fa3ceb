"""Vision transformer on CIFAR-10
==============================

A small vision transformer on CIFAR-10; what is masked are its 8 x 8 patch embeddings, not the pixels.

::

    python examples/images_vit_cifar10.py [--fast] [--accelerator auto]
"""

from __future__ import annotations

from common import parse, run
from data import cifar10
from models import Classifier, VisionTransformer

from lightning_interactions import TwoPhaseMonitor


def main() -> None:
    options = parse(__doc__)
    data = cifar10(options.data, train=options.size(3000), val=options.size(1000))
    model = Classifier(VisionTransformer(num_classes=data.num_classes), lr=1e-3, optimizer="adamw")
    monitor = TwoPhaseMonitor(layer="net.embed", **options.measuring(num_samples=12, every_n_epochs=2))
    run(model, data, monitor, options, epochs=30, batch_size=64)


if __name__ == "__main__":
    main()
