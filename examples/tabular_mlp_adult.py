"""MLP on census rows
==================

An MLP on census rows: the columns of a one-hot category are one player.

::

    python examples/tabular_mlp_adult.py [--fast]
"""

from __future__ import annotations

from common import parse, run
from data import adult
from models import MLP, Classifier

from lightning_interactions import TwoPhaseMonitor
from lightning_interactions.players import TabularFeatures


def main() -> None:
    options = parse(__doc__)
    data = adult(options.data, train=options.size(2000), val=options.size(1000))
    model = Classifier(MLP(num_inputs=sum(map(len, data.groups.values()))), lr=0.02)
    monitor = TwoPhaseMonitor(players=TabularFeatures(groups=data.groups, names=data.names), **options.measuring())
    run(model, data, monitor, options, epochs=40, batch_size=32)


if __name__ == "__main__":
    main()
