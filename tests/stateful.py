"""Lightning modules whose forward keeps something between batches, each in another place.

What they keep changes what they return, so that a single forward pass of the monitor which left a trace would change
the training. `memory` shows what they keep. All work on any number of ranks.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from models import ColumnNet
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric


class StatefulNet(ColumnNet):
    """A small network that remembers."""

    def memory(self) -> Any:
        """What it keeps besides parameters and buffers."""
        raise NotImplementedError


class HiddenState(StatefulNet):
    """A recurrent network that goes on where the last batch ended; both splits begin with an empty state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 5, batch_first=True)
        self.hidden: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        out, hidden = self.lstm(x.unsqueeze(1), self.hidden)
        self.hidden = (hidden[0].detach(), hidden[1].detach())
        return super().forward(x + out.squeeze(1))

    def on_train_epoch_start(self) -> None:
        self.hidden = None

    def on_validation_epoch_start(self) -> None:
        self.hidden = None

    def on_validation_epoch_end(self) -> None:
        self.hidden = None

    def memory(self) -> Any:
        return self.hidden


class StaleHiddenState(HiddenState):
    """The same, but nobody empties the state after validation, when the last batch is still in it."""

    def on_validation_epoch_end(self) -> None:
        pass


class TolerantHiddenState(StaleHiddenState):
    """It begins anew with a batch of another size, and never else."""

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden is not None and self.hidden[0].shape[1] != len(x):
            self.hidden = None
        return super().forward(x)

    def on_train_epoch_start(self) -> None:
        pass

    def on_validation_epoch_start(self) -> None:
        self.hidden = None

    def on_validation_end(self) -> None:
        self.hidden = None if self.hidden is None else tuple(part.clone() for part in self.hidden)


class Counting(StatefulNet):
    """A counter that warms up."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (1 + 0.1 * self.calls)

    def memory(self) -> Any:
        return self.calls


class OwnGenerators(StatefulNet):
    """Noise from random generators of its own: of torch, NumPy and Python."""

    def __init__(self) -> None:
        super().__init__()
        self.torchs = torch.Generator().manual_seed(1)
        self.others = {"numpy": [np.random.default_rng(2), np.random.RandomState(3)], "python": random.Random(4)}

    def forward(self, x: Tensor) -> Tensor:
        (new, old), own = self.others["numpy"], self.others["python"]
        noise = torch.randn(x.shape, generator=self.torchs) + new.normal() + old.normal() + own.gauss(0, 1)
        return super().forward(x + 0.1 * noise)

    def memory(self) -> Any:
        (new, old), own = self.others["numpy"], self.others["python"]
        return [self.torchs.get_state(), new.bit_generator.state, old.get_state(), own.getstate()]


class RunningMean(StatefulNet):
    """A mean that is written in place, in a tensor which is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(5)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return super().forward(x - self.mean)

    def memory(self) -> Any:
        return self.mean


class AssignedMean(RunningMean):
    """The same, but each time a new tensor."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return ColumnNet.forward(self, x - self.mean)


class MetricsInForward(StatefulNet):
    """Metrics with a state of one tensor and with one of many, updated in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.level = MeanMetric()
        self.all = CatMetric()
        self.hidden = [MeanMetric()]  # not registered

    def forward(self, x: Tensor) -> Tensor:
        seen = x.detach().mean()
        self.all.update(seen)
        now = self.level(seen)
        self.hidden[0].update(seen)
        return super().forward(x - self.level.mean_value / self.level.weight + now + 0.1 * self.all.update_count)

    def memory(self) -> Any:
        metrics = (self.level, self.all, self.hidden[0])
        return [(m.update_count, dict(m.metric_state), m._computed, m._forward_cache) for m in metrics]


class Cached(StatefulNet):
    """A cache of what was computed for a batch, the latest at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, OrderedDict[bytes, Tensor]] = {"means": OrderedDict()}

    def forward(self, x: Tensor) -> Tensor:
        means, key = self.cache["means"], x.detach().numpy().tobytes()
        means.setdefault(key, x.detach().mean(0))
        means.move_to_end(key)
        return super().forward(x) * (1 + 0.1 * len(means))

    def memory(self) -> Any:
        return self.cache


class FeaturesByHook(StatefulNet):
    """A hook that collects features in a list of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[Tensor] = []
        self.net[0].register_forward_hook(lambda module, args, out: self.features.append(out.detach().mean()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 0.1 * len(self.features))

    def memory(self) -> Any:
        return self.features


class FeaturesOutside(StatefulNet):
    """Hooks that collect features in lists which only they know, as `logger.watch` does."""

    def __init__(self) -> None:
        super().__init__()
        outside: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> None:
            outside.append(args[0].detach().mean())

        self.net[0].register_forward_pre_hook(before, with_kwargs=True)
        self.net.register_forward_hook(lambda *args: outside.append(args[-1].detach().mean()), always_call=True)
        self.remembered: Callable[[], list[Tensor]] = lambda: outside

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 0.1 * len(self.remembered()))

    def memory(self) -> Any:
        return self.remembered()


class AveragedCopy(StatefulNet):
    """A moving average of the weights, hidden in a list, and updated in forward without autograd's notice."""

    def __init__(self) -> None:
        super().__init__()
        self.averaged = [copy.deepcopy(self.net).eval()]

    def forward(self, x: Tensor) -> Tensor:
        for mean, weight in zip(self.averaged[0].parameters(), self.net.parameters(), strict=True):
            mean.data.mul_(0.9).add_(0.1 * weight.data)
        return super().forward(x) + self.averaged[0](x).detach()

    def memory(self) -> Any:
        return dict(self.averaged[0].state_dict())


class NormalizedWeights(StatefulNet):
    """Normalizes a weight in forward, in every mode, without autograd's notice."""

    def forward(self, x: Tensor) -> Tensor:
        self.net[4].weight.data.mul_(0.99)
        self.net[0].weight.data = self.net[0].weight.data * 0.99
        return super().forward(x)

    def memory(self) -> Any:
        return None


class LazyLayers(StatefulNet):
    """Layers that take their shape from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Dropout(0.3), nn.LazyLinear(3))

    def memory(self) -> Any:
        return [type(module).__name__ for module in self.modules()]


class SpectralHook(StatefulNet):
    """Spectral norm by a hook, which leaves the weight as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.spectral_norm(self.net[4])

    def memory(self) -> Any:
        return self.net[4].weight.detach()


class SpectralParametrization(StatefulNet):
    """Spectral norm as a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.net[4])

    def memory(self) -> Any:
        return self.net[4].weight.detach()


STATEFUL: dict[str, type[StatefulNet]] = {
    "hidden-state": HiddenState,
    "hidden-state-left-over": StaleHiddenState,
    "hidden-state-by-size": TolerantHiddenState,
    "counter": Counting,
    "own-generators": OwnGenerators,
    "running-mean": RunningMean,
    "assigned-mean": AssignedMean,
    "metrics": MetricsInForward,
    "cache": Cached,
    "features-by-hook": FeaturesByHook,
    "features-outside": FeaturesOutside,
    "averaged-copy": AveragedCopy,
    "normalized-weights": NormalizedWeights,
    "lazy-layers": LazyLayers,
    "spectral-hook": SpectralHook,
    "spectral-parametrization": SpectralParametrization,
}
