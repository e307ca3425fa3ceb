"""What the monitor needs from a Lightning Trainer, in one place: where we are, who the ranks are, where to log.

The `pytorch_lightning` distribution has its own classes, so nothing here asks ``isinstance`` of Lightning's: states are
compared by value and classes by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_interactions.measure.noise import rounding_of
from lightning_interactions.measure.ranks import Ranks

UNSUPPORTED_STRATEGIES = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAStrategy")
"""Strategies under which a rank does not hold the whole model, so that it cannot be called on its own."""


def callback_base() -> type:
    """Choose what the monitor derives from: Lightning's `Callback`.

    Before 2.6 the Trainer of `pytorch_lightning` refuses callbacks that are not its own; there the monitor is both.
    """
    try:
        older = tuple(map(int, version("pytorch-lightning").split(".")[:2])) < (2, 6)
    except (PackageNotFoundError, ValueError):
        return Callback
    if not older:
        return Callback
    return type("Callback", (Callback, import_module("pytorch_lightning").Callback), {})


def is_fitting(trainer: Any) -> bool:
    """Whether the Trainer is in ``fit`` and past the sanity check.

    Args:
        trainer: The Trainer.
    """
    return getattr(trainer.state.fn, "value", None) == "fit" and not trainer.sanity_checking


def logged_step(trainer: Any) -> int:
    """Step at which Lightning itself logs at this moment, so that our curves share its x axis.

    Args:
        trainer: The Trainer.
    """
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))


def is_fast_dev_run(trainer: Any) -> bool:
    """Whether the run is only a smoke test: nobody wants files or alerts of it.

    Args:
        trainer: The Trainer.
    """
    return bool(getattr(trainer, "fast_dev_run", False))


def is_below_minimum(trainer: Any) -> bool:
    """Whether the Trainer's ``min_epochs`` or ``min_steps`` still keep it from stopping.

    Args:
        trainer: The Trainer.
    """
    return bool(trainer.current_epoch < (trainer.min_epochs or 0) or trainer.global_step < (trainer.min_steps or 0))


def unsupported_strategy(trainer: Any) -> str | None:
    """Name of the Trainer's strategy if the monitor cannot work under it.

    Args:
        trainer: The Trainer.
    """
    names = {cls.__name__ for cls in type(trainer.strategy).__mro__}
    return next((name for name in UNSUPPORTED_STRATEGIES if name in names), None)


def tokenizer_of(trainer: Any, pl_module: Any) -> Any:
    """Find the tokenizer of a text model.

    Args:
        trainer: The Trainer.
        pl_module: The LightningModule.

    Returns:
        The attribute ``tokenizer`` of the module, or else of the data module; ``None`` if neither has one.
    """
    owners = (pl_module, getattr(trainer, "datamodule", None))
    return next((found for owner in owners if (found := getattr(owner, "tokenizer", None)) is not None), None)


def averaging_before(trainer: Any, callback: Any) -> str | None:
    """Name of a weight-averaging callback that gives the live weights back before another callback measures.

    Args:
        trainer: The Trainer.
        callback: The other callback.
    """
    for other in trainer.callbacks:
        if other is callback:
            return None
        if "WeightAveraging" in {cls.__name__ for cls in type(other).__mro__}:
            return type(other).__name__
    return None


def ranks_of(trainer: Any) -> Ranks:
    """Describe the processes that take part in the training.

    Args:
        trainer: The Trainer.
    """
    if trainer.world_size == 1:
        return Ranks()

    def gather(local: Tensor) -> Tensor:
        own = local.to(trainer.strategy.root_device).contiguous()
        everyone = [torch.empty_like(own) for _ in range(trainer.world_size)]
        dist.all_gather(everyone, own)
        return torch.cat(everyone)

    return Ranks(trainer.global_rank, trainer.world_size, gather, lambda item: gather_objects(trainer, item))


def gather_objects(trainer: Any, item: Any) -> list[Any]:
    """Exchange one picklable object per rank; every rank gets all of them, in order of ranks.

    Args:
        trainer: The Trainer.
        item: This rank's object.
    """
    if trainer.world_size == 1:
        return [item]
    items: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(items, item)
    return items


def same_on_all_ranks(trainer: Any, decision: bool) -> bool:
    """Let rank 0 decide for all.

    Args:
        trainer: The Trainer.
        decision: What this rank would do.
    """
    return bool(trainer.strategy.broadcast(decision)) if trainer.world_size > 1 else decision


def is_fresh(trainer: Any, key: str, stale: object) -> bool:
    """Whether a metric was logged since an earlier value was read: a new value is a new object.

    Args:
        trainer: The Trainer.
        key: Its key.
        stale: The earlier value, ``None`` if there was none.
    """
    value = trainer.callback_metrics.get(key)
    return value is not None and value is not stale


def logged_value(trainer: Any, key: str, stale: object = None) -> float | None:
    """Read a logged metric, averaged over ranks: they differ where the user logs without ``sync_dist``.

    Args:
        trainer: The Trainer.
        key: Its key.
        stale: An earlier value that does not count any more.

    Returns:
        The mean over the ranks that have it (all ranks ask, or they would wait for each other), ``None`` if none has.
    """
    fresh = is_fresh(trainer, key, stale)
    own = torch.tensor([[float(trainer.callback_metrics[key]) if fresh else 0.0, float(fresh)]], dtype=torch.float64)
    values, present = ranks_of(trainer).gather(own).unbind(1)
    return float(values.sum() / present.sum()) if present.any() else None


def rounding(trainer: Any, precision: str) -> float:
    """Relative rounding of the masked forward passes.

    Args:
        trainer: The Trainer.
        precision: The monitor's: ``"32-true"``, or ``"inherit"`` for the Trainer's.
    """
    own = str(trainer.precision)
    if precision == "32-true":
        return rounding_of("64" if own.startswith("64") else "32")
    tf32 = trainer.strategy.root_device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return rounding_of("16" if tf32 and own.startswith("32") else own)


def log_late(trainer: Any, metrics: Mapping[str, float]) -> None:
    """Log where ``self.log`` is no longer allowed, so that callbacks that run later still see the values.

    Args:
        trainer: The Trainer.
        metrics: Full keys and values.
    """
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=logged_step(trainer))
