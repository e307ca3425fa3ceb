"""A network for rows of a table."""

from __future__ import annotations

from torch import nn


class MLP(nn.Sequential):
    """Linear layers with ReLUs between them."""

    def __init__(self, num_inputs: int, hidden: tuple[int, ...] = (100, 100, 100), num_classes: int = 2) -> None:
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(num_inputs, size), nn.ReLU()]
            num_inputs = size
        super().__init__(*layers, nn.Linear(num_inputs, num_classes))
