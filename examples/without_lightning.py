"""Without Lightning: a plain PyTorch loop, `compute_interactions` and `PhaseDetector`.

python examples/without_lightning.py          # a minute on two cores
python examples/without_lightning.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_interactions import History, PhaseDetector, compute_interactions
from lightning_interactions.demo import load_digits_data
from lightning_interactions.functional import mean_order
from lightning_interactions.report.figures import run_figure


def main(fast: bool = False) -> None:
    torch.manual_seed(0)
    epochs, samples, n = (3, 8, 5) if fast else (60, 32, 8)
    train, val = load_digits_data(train_size=200, label_noise=0.1, seed=0)
    x, y = train.tensors
    val_x, val_y = val.tensors
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    detector, history = PhaseDetector(), History()

    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            train_loss, val_loss = (float(cross_entropy(model(a), b)) for a, b in ((x, y), (val_x, val_y)))
        # The same samples each time, so that the epochs can be compared in pairs.
        found = compute_interactions(model, val_x[:samples], val_y[:samples], num_players=n)
        strength = found.strength()  # (samples, 2, n)
        for event in detector.update(epoch, strength, train_loss, val_loss):
            print(event.message)
        mean = strength.mean(0)
        scalars = {"mean_order": mean_order(mean), "train_loss": train_loss, "val_loss": val_loss}
        history.append(epoch, step=epoch, scalars=scalars, strength=mean)

    print(f"Phase boundary: epoch {detector.boundary_epoch}")
    history.to_csv("without_lightning.csv")
    figure = run_figure(
        history.to_dict(), boundary_epoch=detector.boundary_epoch, overfitting_epoch=detector.overfitting_epoch
    )
    figure.savefig("without_lightning.png")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
