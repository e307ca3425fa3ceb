"""How interactions are read off the values: the unit of residual and threshold, both of them, the certificate."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_interactions.functional import BOUNDED_TOLERANCE, SPLIT_TOLERANCE, SparseAndOr, sparse_and_or


@dataclass(frozen=True)
class Reading:
    """How interactions are read off the values."""

    noise_bound: float = 0.05  # largest residual, in units of the scale
    salience: float = 0.07  # smallest interaction that counts, likewise
    scale: str = "std"  # see `value_scale`
    tolerance: float | None = None  # largest gap of the split

    @property
    def gap(self) -> float:
        """The largest certified gap that is accepted."""
        default = BOUNDED_TOLERANCE if self.noise_bound else SPLIT_TOLERANCE
        return default if self.tolerance is None else self.tolerance

    def split(self, values: Tensor, scale: Tensor) -> SparseAndOr:
        """Split values, with a residual in units of the scale of all samples."""
        return sparse_and_or(values, noise_bound=self.noise_bound, scale=scale, tol=self.gap)
