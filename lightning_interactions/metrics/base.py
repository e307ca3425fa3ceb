"""What the metrics share: additive states that keep their precision, and the mean over samples of the strength."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.coalitions import check_num_players


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the widest float type of a device: float64, or float32 on Apple GPUs, which have no float64.

    Example:
        >>> accumulation_dtype(torch.device("cpu")), accumulation_dtype(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64


class SumMetric(Metric):
    """A metric of ``num_players`` players whose states are fixed-size sums over samples, kept in float64.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16.
    """

    is_differentiable: bool = False
    higher_is_better: bool | None = None
    full_state_update: bool = False

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_players = check_num_players(num_players)

    def _add_sum_state(self, name: str, *shape: int) -> None:
        """Add a float state of zeros that is summed over ranks."""
        dtype = accumulation_dtype(torch.get_default_device())
        self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _add_count_state(self, name: str, *shape: int) -> None:
        """Add an integer state of zeros that is summed over ranks."""
        self.add_state(name, default=torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

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


class StrengthMetric(SumMetric):
    """Base of the metrics that average per-sample strengths first and read their number off the mean.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    strength_sum: Tensor
    count: Tensor

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(num_players, **kwargs)
        self._add_sum_state("strength_sum", 2, self.num_players)
        self._add_count_state("count")

    def _add_strength(self, strength: Tensor) -> None:
        total, count = _order_strength_update(strength, self.num_players, self.strength_sum.dtype)
        # Not in place: states made under inference_mode (Trainer.validate) could not be written to afterwards.
        self.strength_sum = self.strength_sum + total
        self.count = self.count + count

    def _mean_strength(self) -> Tensor:
        return self.strength_sum / self.count


def _order_strength_update(strength: Tensor, num_players: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sum ``(..., 2, n)`` strengths over the samples that have no nan or infinity; return the sum and their number."""
    if strength.ndim < 2 or strength.shape[-2:] != (2, num_players):
        raise ArgumentError(
            f"Expected `strength` to have shape (..., 2, {num_players}), as order_strength returns it for "
            f"{num_players} players, but got {tuple(strength.shape)}."
        )
    rows = strength.detach().reshape(-1, 2, num_players).to(dtype)
    valid = torch.isfinite(rows).all(-1).all(-1)
    return torch.where(valid[:, None, None], rows, torch.zeros_like(rows)).sum(0), valid.sum()


def check_interactions(and_: Tensor, or_: Tensor, num_players: int, names: tuple[str, str] = ("and_", "or_")) -> None:
    """Check that two interaction tensors have equal shapes ``(..., 2**num_players)``.

    Args:
        and_: AND interactions.
        or_: OR interactions.
        num_players: ``n`` the metric was made for.
        names: How to call the two in the error.

    Raises:
        ArgumentError: If the shapes do not fit.

    Example:
        >>> check_interactions(torch.zeros(5, 8), torch.zeros(5, 8), num_players=3)
    """
    if and_.shape != or_.shape or and_.ndim < 1 or and_.shape[-1] != 2**num_players:
        raise ArgumentError(
            f"Expected `{names[0]}` and `{names[1]}` to have the same shape (..., {2**num_players}), one entry per "
            f"coalition of {num_players} players, but got {tuple(and_.shape)} and {tuple(or_.shape)}."
        )


def finite_samples(*interactions: Tensor) -> Tensor:
    """Tell which samples are finite in every tensor.

    Args:
        *interactions: Tensors ``(..., 2**n)``.

    Returns:
        Boolean tensor ``(...)``.

    Example:
        >>> finite_samples(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]))
        tensor([ True, False])
    """
    return torch.stack([torch.isfinite(x).all(-1) for x in interactions]).all(0)
