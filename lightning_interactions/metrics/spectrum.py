"""Metrics of the spectrum of the value function, and of the split read without its noise: degrees and orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_interactions.errors import ArgumentError
from lightning_interactions.functional.mask_pairs import DegreeSums, SampledDegree, check_sampled_players
from lightning_interactions.functional.spectrum import degree_energy, effect_order, mean_degree
from lightning_interactions.metrics.base import Number, SampleMetric, SumMetric
from lightning_interactions.metrics.drawing import draw_energy, draw_estimates
from lightning_interactions.metrics.strength import StrengthNumber

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class EnergyMetric(SampleMetric):
    """Base of the metrics that average the energies by degree over samples."""

    energy_sum: Tensor

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(num_players, **kwargs)
        self._add_sum("energy_sum", self.num_players)


class DegreeEnergy(EnergyMetric):
    r"""Energy of the value function by degree, averaged over samples.

    .. math::
        E(k) = \mathbb{E}_x \sum_{|S|=k} \hat v(S|x)^2, \qquad
        \hat v(S|x) = 2^{-n} \sum_T (-1)^{|S \cap T|} v(T|x)

    the part of the variance over all coalitions that only ``k`` players together explain (Walsh-Hadamard, Parseval). It
    needs no split, and a little noise stays a little energy.

    ``forward`` and ``update`` accept ``values``, ``(..., 2**n)``: the value function of every sample. Samples with a
    value that is not finite are left out and not counted.

    ``forward`` and ``compute`` return ``(n,)``, in units of the score squared; ``nan`` as long as no sample has been
    counted.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16, or in ``update`` a shape does not fit it.

    Example:
        >>> import torch
        >>> metric = DegreeEnergy(num_players=2)
        >>> metric.update(torch.tensor([[0.0, 1.0, 2.0, 7.0], [0.0, 2.0, 0.0, 2.0]]))
        >>> metric.compute()
        tensor([3.6250, 0.5000], dtype=torch.float64)
    """

    plot_lower_bound: float = 0.0

    def update(self, values: Tensor) -> None:
        """Add the energies of a batch."""
        if values.ndim < 1 or values.shape[-1] != 2**self.num_players:
            raise ArgumentError(
                f"Expected `values` to have shape (..., {2**self.num_players}), one entry per coalition of "
                f"{self.num_players} players, but got {tuple(values.shape)}."
            )
        self._add_samples("energy_sum", degree_energy(values.detach()))

    def compute(self) -> Tensor:
        """Return the mean energies ``(n,)``."""
        return self.energy_sum / self.count

    def _draw(self, ax: Axes, val: Tensor) -> None:
        draw_energy(ax, val)
        ax.set_title("Energy of the value function by degree")


class MeanDegree(Number, EnergyMetric):
    r"""Mean degree of the value function, weighted by energy.

    .. math::
        \bar{d} = \frac{\sum_k k\,E(k)}{\sum_k E(k)}

    of the mean energies over all samples: averaged first, then formed into a ratio. It falls and rises with the mean
    order of the interactions, but needs no split and is not moved by a little noise.

    ``forward`` and ``update`` accept ``energy``, ``(..., n)``: one per sample, as
    :func:`~lightning_interactions.functional.degree_energy` returns it. Samples with an entry that is not finite are
    left out and not counted.

    ``forward`` and ``compute`` return a scalar from 1 to ``n``; ``nan`` where nothing varies.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16, or in ``update`` a shape does not fit it.

    Example:
        >>> import torch
        >>> metric = MeanDegree(num_players=2)
        >>> metric.update(torch.tensor([[6.0, 0.0], [0.0, 2.0]]))
        >>> metric.compute()
        tensor(1.2500, dtype=torch.float64)
    """

    plot_lower_bound: float = 1.0
    _title = "Mean degree of the value function"
    _label = "mean degree (number of players)"

    def update(self, energy: Tensor) -> None:
        """Add the energies ``(..., n)`` of a batch."""
        if energy.ndim < 1 or energy.shape[-1] != self.num_players:
            raise ArgumentError(
                f"Expected `energy` to have shape (..., {self.num_players}), as degree_energy returns it for "
                f"{self.num_players} players, but got {tuple(energy.shape)}."
            )
        self._add_samples("energy_sum", energy)

    def compute(self) -> Tensor:
        """Return the mean degree."""
        return mean_degree(self.energy_sum / self.count)


class EffectOrder(StrengthNumber):
    r"""Mean order of the effect of the interactions, each weighted by the share of coalitions in which it acts.

    .. math::
        \frac{\sum_k k\,2^{-k}\,(J^{+}(k) + J^{-}(k))}{\sum_k 2^{-k}\,(J^{+}(k) + J^{-}(k))}

    of the mean strengths over all samples. The weight takes back the growth of noise with the order.

    ``forward`` and ``update`` accept ``strength``, ``(..., 2, n)``: one per sample, as
    :func:`~lightning_interactions.functional.order_strength` returns it. Samples with an entry that is not finite are
    left out and not counted.

    ``forward`` and ``compute`` return a scalar from 1 to ``n``; ``nan`` without any strength.

    Args:
        num_players: ``n``, the number of players, 2 to 16.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 16, or in ``update`` a shape does not fit it.

    Example:
        >>> import torch
        >>> metric = EffectOrder(num_players=2)
        >>> metric.update(torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 5.0]]]))
        >>> metric.compute()
        tensor(1.5000, dtype=torch.float64)
    """

    plot_lower_bound: float = 1.0
    _title = "Mean order of the effect"
    _label = "effect order (number of players)"

    def compute(self) -> Tensor:
        """Return the effect order."""
        return effect_order(self.strength_sum / self.count)


class SampledMeanDegree(SumMetric):
    r"""Mean degree of the value function for any number of players, from random mask pairs.

    .. math::
        \bar{d} = \frac{n\,\mathbb{E}_{x,T,i}\,(v(T|x) - v(T \oplus i|x))^2}{4\,\mathbb{E}_x \mathrm{Var}_T\, v(T|x)}

    influence and variance each without bias, averaged first, then formed into a ratio whose bias is subtracted: that of
    :func:`~lightning_interactions.functional.pooled_mean_degree`. Draw the masks anew for every sample.

    ``forward`` and ``update`` accept ``values``, ``(..., pairs, 2)``: ``v`` of every sample at the masks and flipped
    masks of :func:`~lightning_interactions.functional.random_mask_pairs`. Samples with a value that is not finite are
    left out. The number of pairs may differ from batch to batch.

    ``forward`` and ``compute`` return a :class:`~lightning_interactions.functional.SampledDegree` of scalars; its
    standard error is over samples, or over the pairs where one sample alone varies; ``nan`` where none does.

    Args:
        num_players: ``n``, the number of players, 2 to 512.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ArgumentError: If ``num_players`` is not an integer from 2 to 512, or in ``update`` the shape does not fit or
            there are fewer than 16 pairs.

    Example:
        >>> import torch
        >>> metric = SampledMeanDegree(num_players=3)
        >>> metric.update(torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 8))  # every flip changes v
        >>> metric.compute().mean_degree
        tensor(3., dtype=torch.float64)
    """

    plot_lower_bound: float = 1.0
    _check_players = staticmethod(check_sampled_players)

    totals: Tensor
    moments: Tensor
    alone: Tensor
    counts: Tensor

    def __init__(self, num_players: int, **kwargs: Any) -> None:
        super().__init__(num_players, **kwargs)
        self._add_sum("totals", 2)
        self._add_sum("moments", 3)
        self._add_sum("alone", 3)
        self._add_sum("counts", 2, counts=True)

    def update(self, values: Tensor) -> None:
        """Add the pairs ``(..., pairs, 2)`` of a batch of samples."""
        added = DegreeSums.of(values.detach(), self.num_players)
        # Not in place: states made under inference_mode (Trainer.validate) could not be written to afterwards.
        for name, sums in added._asdict().items():
            state = getattr(self, name)
            setattr(self, name, state + sums.to(state))

    def compute(self) -> SampledDegree:
        """Return the estimate."""
        return DegreeSums(self.totals, self.moments, self.alone, self.counts).estimate()

    def _draw(self, ax: Axes, val: SampledDegree | Sequence[SampledDegree]) -> None:
        estimates = [val] if isinstance(val, SampledDegree) else list(val)
        ends = [estimate.interval() for estimate in estimates]
        lower, upper = ([float(end[side]) for end in ends] for side in (0, 1))
        draw_estimates(ax, [float(estimate.mean_degree) for estimate in estimates], lower, upper)
        ax.set_title("Mean degree of the value function, from mask pairs")
        ax.set_ylabel("mean degree (number of players)")
