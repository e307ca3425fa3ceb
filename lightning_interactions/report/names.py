"""Full names of what is logged: the curves that a person reads in one group, all others in a second one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

READ = frozenset(
    {
        "mean_order", "low_order_share", "high_order_share", "cancellation", "train_loss", "val_loss", "loss_gap",
        "phase", "boundary_epoch", "overfitting_risk", "val_loss_before_alarm",
    }
)  # fmt: skip
"""Keys of the first group. Checkpoints are kept by them, so they stay where they are."""


def curve_of(*, sampled: bool) -> str:
    """Return the key of the curve that turns at the boundary: without interactions that of the mean degree."""
    return "mean_degree" if sampled else "mean_order"


@dataclass(frozen=True)
class Names:
    """How a key is named in the loggers, and for other callbacks; in the history it stays as it is.

    Figures, texts and the order distribution are few: they are always named by the prefix.

    Args:
        prefix: Start of the names of the first group.
        one_group: Name all of them by it.
        sampled: Whether there are no interactions: the mean degree is read first then, in the place of the mean order.

    Example:
        >>> names = Names("interactions/")
        >>> names.full("val/mean_order"), names.full("val/scale")
        ('interactions/val/mean_order', 'interactions_detail/val/scale')
        >>> Names("mon_").full("scale"), Names("mon_", one_group=True).full("scale")
        ('mon_detail_scale', 'mon_scale')
        >>> names.full("mean_degree"), Names("interactions/", sampled=True).full("mean_degree")
        ('interactions_detail/mean_degree', 'interactions/mean_degree')
    """

    prefix: str
    one_group: bool = False
    sampled: bool = False

    @cached_property
    def detail(self) -> str:
        """Start of the names of the second group."""
        if self.one_group:
            return self.prefix
        stem = self.prefix.removesuffix("/")
        return f"{stem}_detail/" if stem != self.prefix else f"{stem.rstrip('_')}_detail_"

    @property
    def curve(self) -> str:
        """Key of the curve that is followed."""
        return curve_of(sampled=self.sampled)

    def full(self, key: str) -> str:
        """Name a key, which may begin with the part that names a split."""
        plain = key.removeprefix("val/").removeprefix("train/")
        return (self.prefix if plain in READ or plain == self.curve else self.detail) + key

    def is_own(self, name: str) -> bool:
        """Whether something logged is ours."""
        return name.startswith((self.prefix, self.detail))
