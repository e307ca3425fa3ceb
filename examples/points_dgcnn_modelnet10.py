"""DGCNN on ModelNet10
===================

A slim DGCNN on clouds (B, N, 3): 10 of 30 K-means clusters play, an absent one collapses to its mean.

::

    python examples/points_dgcnn_modelnet10.py [--fast] [--accelerator auto]
"""

from __future__ import annotations

from common import parse, run
from data import modelnet10
from models import DGCNN, Classifier

from lightning_interactions import TwoPhaseMonitor


def main() -> None:
    options = parse(__doc__)
    data = modelnet10(options.data, train=options.size(300), val=options.size(200))
    model = Classifier(DGCNN(num_classes=data.num_classes), lr=0.01)
    monitor = TwoPhaseMonitor(**options.measuring(num_samples=8, num_players=8, every_n_epochs=2))
    run(model, data, monitor, options, epochs=40, batch_size=32)


if __name__ == "__main__":
    main()
