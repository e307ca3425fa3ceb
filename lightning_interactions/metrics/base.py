"""What the metrics share: additive states that keep their precision, and the mean over samples of the strength."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.coalitions import check_num_players
from lightning_interactions.metrics.drawing import figure_and_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the widest float type of a device: float64, or float32 on Apple GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class SumMetric(Metric):
    """A metric whose states are fixed-size sums over samples, kept in float64; of 2 to 16 players unless it says so."""

    is_differentiable: bool = False
    higher_is_better: bool | None = None
    full_state_update: bool = False
    _check_players: Callable[[object], int] = staticmethod(check_num_players)

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_players = self._check_players(num_players)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw a result: by order, or the course of a number over several results.

        Args:
            val: A result of ``forward`` or ``compute``; where that is one number, a list of them will do. By default
                ``compute`` is called.
            ax: Axes to draw on; by default a new figure is made.

        Returns:
            The figure and the axes.

        Example:
            >>> from lightning_interactions.metrics import MeanOrder
            >>> metric = MeanOrder(num_players=2)
            >>> values = [metric(torch.rand(4, 2, 2)) for _ in range(3)]
            >>> figure, axes = metric.plot(values)
        """
        figure, axes = figure_and_axes(ax)
        self._draw(axes, self.compute() if val is None else val)
        return figure, axes

    @abstractmethod
    def _draw(self, ax: Axes, val: Any) -> None:
        """Draw a result, with its labels."""

    def _add_sum(self, name: str, *shape: int, counts: bool = False) -> None:
        """Add a state of zeros, whole numbers or floats, that is summed over ranks."""
        dtype = torch.long if counts else accumulation_dtype(torch.get_default_device())
        self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> SumMetric:
        """Follow a module to its device but not to its precision.

        A metric inside a module that is cast to bfloat16 would otherwise stop counting at 256, and a float64 state
        cannot be moved to an Apple GPU at all. :meth:`set_dtype` still does what it says.
        """
        if self._dtype_convert:
            super()._apply(fn, exclude_state)
            return self

        # torchmetrics recognises casts by the name of `fn`, so the wrapper has to carry it.
        @functools.wraps(fn)
        def move(tensor: Tensor) -> Tensor:
            device = fn(torch.zeros(1, device=tensor.device)).device
            dtype = accumulation_dtype(device) if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device=device, dtype=dtype)

        super()._apply(move, exclude_state)
        return self


class SampleMetric(SumMetric):
    """Base of the metrics whose sum is that of one row for every sample, and which count these."""

    count: Tensor

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(num_players, **kwargs)
        self._add_sum("count", counts=True)

    def _add_samples(self, name: str, rows: Tensor) -> None:
        """Add rows ``(..., *shape)``, one per sample, to a sum, and count them; those with a nan or an infinity not."""
        total: Tensor = getattr(self, name)
        rows = rows.detach().reshape(-1, *total.shape).to(total)
        valid = torch.isfinite(rows.flatten(1)).all(1)
        # Not in place: states made under inference_mode (Trainer.validate) could not be written to afterwards.
        setattr(self, name, total + torch.where(valid.view(-1, *[1] * total.ndim), rows, 0).sum(0))
        self.count = self.count + valid.sum()


class Number:
    """How metrics are drawn that are one number."""

    _title: str
    _label: str

    def _draw(self, ax: Axes, val: Tensor | Sequence[Tensor]) -> None:
        self._plot(val, ax)  # type: ignore[attr-defined]  # torchmetrics', which without axes of ours would use pyplot
        ax.set_title(self._title)
        ax.set_ylabel(self._label)


class StrengthMetric(SampleMetric):
    """Base of the metrics that average per-sample strengths first and read their number off the mean."""

    strength_sum: Tensor

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(num_players, **kwargs)
        self._add_sum("strength_sum", 2, self.num_players)

    def _add_strength(self, strength: Tensor) -> None:
        """Add strengths ``(..., 2, n)``; samples with a nan or an infinity are left out."""
        if strength.ndim < 2 or strength.shape[-2:] != (2, self.num_players):
            raise ArgumentError(
                f"Expected `strength` to have shape (..., 2, {self.num_players}), as order_strength returns it for "
                f"{self.num_players} players, but got {tuple(strength.shape)}."
            )
        self._add_samples("strength_sum", strength)


def check_interactions(and_: Tensor, or_: Tensor, num_players: int, names: tuple[str, str] = ("and_", "or_")) -> None:
    """Check that two tensors have equal shapes ``(..., 2**num_players)``; the error calls them by ``names``."""
    if and_.shape != or_.shape or and_.ndim < 1 or and_.shape[-1] != 2**num_players:
        raise ArgumentError(
            f"Expected `{names[0]}` and `{names[1]}` to have the same shape (..., {2**num_players}), one entry per "
            f"coalition of {num_players} players, but got {tuple(and_.shape)} and {tuple(or_.shape)}."
        )


def finite_samples(*interactions: Tensor) -> Tensor:
    """Tell ``(...)`` which samples are finite in every tensor ``(..., 2**n)``."""
    return torch.stack([torch.isfinite(x).all(-1) for x in interactions]).all(0)
