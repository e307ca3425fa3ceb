"""PointNet on ModelNet10
======================

PointNet on clouds (B, 3, N): 10 of 30 K-means clusters play, an absent one collapses to its mean.

::

    python examples/points_pointnet_modelnet10.py [--fast] [--accelerator auto]
"""

from __future__ import annotations

from common import parse, run
from data import modelnet10
from models import Classifier, PointNet
from torch.utils.data import TensorDataset

from lightning_interactions import TwoPhaseMonitor


def channels_first(clouds: TensorDataset) -> TensorDataset:
    points, labels = clouds.tensors
    return TensorDataset(points.transpose(1, 2).contiguous(), labels)


def main() -> None:
    options = parse(__doc__)
    data = modelnet10(options.data, train=options.size(1000), val=options.size(400))
    data.train, data.val = channels_first(data.train), channels_first(data.val)
    model = Classifier(PointNet(num_classes=data.num_classes), lr=0.01)
    monitor = TwoPhaseMonitor(**options.measuring(num_samples=12, every_n_epochs=2))
    run(model, data, monitor, options, epochs=30, batch_size=32)


if __name__ == "__main__":
    main()
