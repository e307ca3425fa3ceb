"""Small models, and the package's numbers the slow way: one sample, one coalition, one player at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def members(index: int) -> list[int]:
    """Players of the coalition with this index."""
    return [player for player in range(index.bit_length()) if index >> player & 1]


def subsets(index: int) -> Iterator[int]:
    """All coalitions within a coalition, itself and the empty one included."""
    yield from (other for other in range(index + 1) if other & index == other)


def masked_by_loops(sample: Tensor, labels: Tensor, index: int, baseline: Tensor | float) -> Tensor:
    """Mask one sample for one coalition, element by element."""
    labels = labels.expand(sample.shape)
    values = torch.as_tensor(baseline, dtype=sample.dtype).expand(sample.shape).flatten()
    present = set(members(index)) | {-1}
    kept = [
        float(x) if int(player) in present else float(absent)
        for x, player, absent in zip(sample.flatten(), labels.flatten(), values, strict=True)
    ]
    return torch.tensor(kept, dtype=sample.dtype).view(sample.shape)


def values_by_loops(
    model: Callable[[Tensor], Tensor], samples: Tensor, players: Tensor, targets: Tensor, num_players: int
) -> Tensor:
    """Log-odds of every sample at every coalition with absent players at zero, the model called one by one."""
    rows = []
    for sample, labels, target in zip(samples, players, targets.tolist(), strict=True):
        row = []
        for index in range(2**num_players):
            with torch.no_grad():
                z = model(masked_by_loops(sample, labels, index, 0.0).unsqueeze(0))[0].double()
            others = torch.cat([z[:target], z[target + 1 :]])
            row.append(float(z[target] - others.logsumexp(0)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def mlp(features: int = 5, classes: int = 3, seed: int = 0) -> nn.Sequential:
    """A small network on columns."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, classes)).eval()


def cnn(seed: int = 0) -> nn.Sequential:
    """A small network on ``(B, 1, 8, 8)`` images; module ``"1"`` is the first activation, written in place."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * 16, 3),
        ).eval()


class Recorder(nn.Module):
    """Calls a model and keeps the number of rows of every call; pretends that more than `limit` need too much memory.

    Args:
        model: The model.
        limit: Largest number of rows that fit.
        error: What to raise beyond.
    """

    def __init__(self, model: nn.Module, limit: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.model = model
        self.limit = limit
        self.error = error or torch.OutOfMemoryError("out of memory")
        self.rows: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows.append(len(inputs))
        if self.limit is not None and len(inputs) > self.limit:
            raise self.error
        return self.model(inputs)
