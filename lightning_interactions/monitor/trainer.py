"""What the monitor needs from a Lightning Trainer, in one place: where we are, who the ranks are, where to log.

The `pytorch_lightning` distribution has its own classes, so nothing here asks ``isinstance`` of Lightning's: states are
compared by value and classes by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sized
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from lightning_interactions.errors import ArgumentError, sentence, warn
from lightning_interactions.measure.processes import process_ranks
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.reader import defines_forward
from lightning_interactions.monitor.options import Options
from lightning_interactions.report.names import Names

WHOLE = "SingleDeviceStrategy", "SingleDeviceXLAStrategy", "DDPStrategy"
"""Strategies under which each rank has the whole model; a user's own that derives from one of them has it too."""

SPLIT = "ModelParallelStrategy"
"""Splits it in ways that are tested here (FSDP2, tensor parallelism)."""

UNTESTED = "FSDPStrategy", "DeepSpeedStrategy"
"""Split it in ways that are not: they need GPUs."""

OTHER = ("XLAStrategy",)
"""Derive from one of these, but exchange in another way."""

LOSS_WORDS = {"nll", "ce", "bce", "mse", "mae", "xent", "elbo", "error", "objective"}
"""Words in the names of logged metrics that are losses, besides "loss"."""

COLUMN_ATTRIBUTES = "feature_names", "column_names", "columns"
"""What data sets call the names of their columns."""

MOST_COLUMNS = 10_000
"""More names than that are not listed."""

_NEEDS = "so the monitor cannot see what it should measure"


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


# -- before training --------------------------------------------------------------------------------------------------


def check_trainer(trainer: Any, options: Options) -> bool:
    """Say whether the monitor can work here; if not, a warning has said why."""
    kinds = [cls.__name__ for cls in type(trainer.strategy).__mro__]
    kind = next((name for name in kinds if name in (*WHOLE, SPLIT, *UNTESTED, *OTHER)), None)
    if kind in UNTESTED and options.sharded != "lockstep":
        return _inactive(
            f"{kind} splits the model over ranks, which is not tested for want of GPUs; "
            'sharded="lockstep" asks it all the same'
        )
    if kind == SPLIT and options.sharded == "off":
        return _inactive(f'{kind} splits the model over ranks, and sharded="off"')
    if kind is None or kind in OTHER:
        known = ", ".join((*WHOLE, SPLIT, *UNTESTED))
        return _inactive(f"it does not know the strategy {kind or kinds[0]}, only {known}")
    return True


def wrapper_of(trainer: Any, module: Any) -> Any:
    """Return what has to be called in the place of the module, so that weights are gathered; ``None``: itself."""
    model = getattr(trainer.strategy, "model", None)
    return model if _is(trainer.strategy, *UNTESTED) and model is not module else None


def _is(thing: Any, *names: str) -> bool:
    return not {cls.__name__ for cls in type(thing).__mro__}.isdisjoint(names)


def lacks_validation(trainer: Any, options: Options) -> str | None:
    """Say why there is no validation to watch, if one should be watched."""
    if options.watch == "train" or trainer.enable_validation:
        return None
    if trainer.limit_val_batches == 0:
        return "validation is switched off (limit_val_batches=0)"
    return "there is no validation loader (or no `validation_step`)"


def check_forward(module: Any, options: Options) -> None:
    """Raise unless there is a way to call the module."""
    if options.forward_fn is None and not defines_forward(module):
        raise ArgumentError(
            f"{type(module).__name__} defines no `forward`, {_NEEDS}. Define forward(inputs) -> logits, or give "
            "`forward_fn=(module, inputs) -> logits`."
        )


def check_layer(module: Any, options: Options) -> None:
    """Raise unless the module has the layer that is to be masked."""
    if options.layer is not None:
        LayerCut(module, options.layer)


def _inactive(reason: str) -> bool:
    rank_zero_only(warn)(sentence(f"TwoPhaseMonitor is switched off for this run: {reason}"))
    return False


def averaging_before(trainer: Any, callback: Any) -> str | None:
    """Name a weight-averaging callback that gives the live weights back before ``callback`` measures."""
    for other in trainer.callbacks:
        if other is callback:
            return None
        if _averages(other):
            return type(other).__name__
    return None


def averages_weights(trainer: Any) -> bool:
    """Whether validation uses averaged weights, which are not those that are trained."""
    return any(map(_averages, trainer.callbacks))


def _averages(callback: Any) -> bool:
    return _is(callback, "WeightAveraging")


def tokenizer_of(trainer: Any, module: Any) -> Any:
    """Return the attribute ``tokenizer`` of the module, the data module, a collator or a dataset, or ``None``.

    A collator may be a method of what has it, or a `functools.partial` that was given it.
    """
    owners = [module, getattr(trainer, "datamodule", None)]
    for loader in loaders_of(trainer).values():
        collator = _attribute(loader, "collate_fn")
        given = _attribute(collator, "keywords")
        owners += [collator, _attribute(collator, "__self__")]
        owners += [SimpleNamespace(**given)] if isinstance(given, dict) else []
    owners += _data_of(trainer)
    return next((found for owner in owners if (found := _attribute(owner, "tokenizer")) is not None), None)


def columns_of(trainer: Any, module: Any) -> list[list[str]]:
    """Return lists of names that the data, the data module or the module has for columns, the likeliest first."""
    owners = (*_data_of(trainer), getattr(trainer, "datamodule", None), module)
    found = [_texts(_attribute(owner, name)) for owner in owners for name in COLUMN_ATTRIBUTES]
    return [names for names in found if names]


def _data_of(trainer: Any) -> list[Any]:
    """Return the data sets of the loaders, and those of which they are subsets."""
    data = [_attribute(loader, "dataset") for loader in loaders_of(trainer).values()]
    return data + [_attribute(outer, "dataset") for outer in data]


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property of the user's may raise anything
        return None


def _texts(found: Any) -> list[str]:
    """Different texts, if that is what some object of the user's holds, and not too many to be names."""
    try:
        sized = (
            isinstance(found, Sized) and isinstance(found, Iterable) and not isinstance(found, (str, bytes, Mapping))
        )
        listed = list(found) if sized and len(found) <= MOST_COLUMNS else []
    except Exception:
        return []
    return listed if all(isinstance(text, str) for text in listed) and len(set(listed)) == len(listed) else []


# -- where we are -----------------------------------------------------------------------------------------------------


def is_fitting(trainer: Any) -> bool:
    """Whether the Trainer is in ``fit`` and past the sanity check."""
    return getattr(trainer.state.fn, "value", None) == "fit" and not trainer.sanity_checking


def logged_step(trainer: Any) -> int:
    """Return the step at which Lightning itself logs at this moment, so that our curves share its x axis."""
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))


def batches_done(trainer: Any) -> int:
    """Return how many batches of this epoch have been trained on."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def has_epochs(trainer: Any, batches: int | None) -> bool:
    """Whether there are epochs to count by, of so many ``batches`` (``None``: nobody knows); all ranks ask alike.

    Not where the first one will not be over. Where its length is not known, only if several are to come and nothing
    happens inside of them: an endless stream, too, may be one epoch among a thousand that never come.
    """
    if batches is not None:
        return not 0 < trainer.max_steps * trainer.accumulate_grad_batches < batches
    at_ends = not trainer.enable_validation or trainer.val_check_batch == math.inf
    return at_ends and (trainer.max_epochs or 0) > 1


def validation_interval(trainer: Any) -> int | None:
    """Return how many batches there are between validations; ``None`` where these go by time, or none will come."""
    each, last = trainer.val_check_batch, trainer.max_steps * trainer.accumulate_grad_batches
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or each is None or math.isinf(each) or 0 < last < each:
        return None
    return None if every is not None and (trainer.current_epoch + 1) % every else int(each)


def validations_in(trainer: Any, batches: int) -> frozenset[int] | None:
    """Return after which batches of this epoch a validation will run; ``None``: nobody knows, it goes by time."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every):
        return frozenset()
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        return None
    each = trainer.val_check_batch
    if each is None or math.isinf(each):
        return frozenset([batches])
    loop = trainer.fit_loop.epoch_loop
    before = loop.total_batch_idx + 1 - loop.batch_progress.current.ready if every is None else 0
    return frozenset(range(int(each) - before % int(each), batches + 1, int(each)))


def batches_counted(trainer: Any) -> int:
    """Return how many batches have been trained on, counted as Lightning does it to find the next validation."""
    loop = trainer.fit_loop.epoch_loop
    return int(loop.total_batch_idx) + 1 if trainer.check_val_every_n_epoch is None else batches_done(trainer)


def own_step(trainer: Any) -> float | None:
    """Return the value of a metric ``step`` that was logged with the scalars of an epoch: the user's own axis."""
    if not trainer.validating:
        value = trainer.logged_metrics.get("step")
    else:
        # Not `logged_metrics`, where a step from training would still stand. All of them have been computed by now, so
        # that no rank waits for others here.
        value = trainer._results.metrics(on_step=False)["log"].get("step")
    return None if value is None else float(value)


def scalar_step(trainer: Any, step: int) -> int:
    """Return the step at which Lightning has just logged the scalars of an epoch, where ours belong too.

    That is the value of a metric called ``step`` if one was logged with them. Else it is the step given, by which they
    were measured; at the end of a training epoch Lightning steps back by one, since the last batch has been counted.
    """
    own = own_step(trainer)
    if own is not None:
        return int(own)
    return step if trainer.validating else max(step - 1, 0)


def last_epoch(trainer: Any) -> float | None:
    """Return the place at which the training will be over, by ``max_epochs`` or ``max_steps``; all ranks ask.

    ``None`` where that is not known: without either, or before the first step.
    """
    ends = [float(trainer.max_epochs - 1)] if (trainer.max_epochs or 0) > 0 else []
    batches = of_rank_0(trainer, trainer.num_training_batches) if trainer.max_steps > 0 else math.inf
    if trainer.global_step and math.isfinite(batches) and batches > 0:
        # A step may take several batches, or a batch several steps.
        batches_a_step = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) / trainer.global_step
        ends.append(trainer.max_steps * batches_a_step / batches - 1)
    return min(ends, default=None)


def last_step(trainer: Any, step: int) -> float | None:
    """Return the step at which the training will be over by ``max_steps``, asked at a step; ``None``: nobody knows."""
    if trainer.max_steps <= 0 or not trainer.global_step:
        return None
    return float(trainer.max_steps * (step + 1) / trainer.global_step - 1)  # a batch may take several steps


def is_fast_dev_run(trainer: Any) -> bool:
    """Whether the run is only a smoke test: nobody wants files or alerts of it."""
    return bool(getattr(trainer, "fast_dev_run", False))


def is_below_minimum(trainer: Any) -> bool:
    """Whether the Trainer's ``min_epochs`` or ``min_steps`` still keep it from stopping."""
    return bool(trainer.current_epoch < (trainer.min_epochs or 0) or trainer.global_step < (trainer.min_steps or 0))


# -- ranks ------------------------------------------------------------------------------------------------------------


def ranks_of(trainer: Any) -> Ranks:
    """Describe the processes that take part in the training; under tensor parallelism, those with data of their own."""
    if trainer.world_size == 1:
        return Ranks()
    device = trainer.strategy.root_device
    if not _is(trainer.strategy, SPLIT):
        return process_ranks(device)
    share = trainer.strategy.distributed_sampler_kwargs
    return process_ranks(device, rank=share["rank"], size=share["num_replicas"])


def same_on_all_ranks(trainer: Any, decision: bool) -> bool:
    """Let rank 0 decide for all."""
    return bool(of_rank_0(trainer, decision))


def of_rank_0(trainer: Any, value: Any) -> Any:
    """Return what rank 0 has; all ranks ask."""
    return trainer.strategy.broadcast(value) if trainer.world_size > 1 else value


# -- logged values ----------------------------------------------------------------------------------------------------


def logged_value(trainer: Any, key: str) -> float | None:
    """Read a logged metric, averaged over the ranks that have it (without ``sync_dist`` they differ); all ranks ask."""
    value = trainer.callback_metrics.get(key)
    own = torch.tensor([[0.0 if value is None else float(value), value is not None]], dtype=torch.float64)
    values, present = ranks_of(trainer).gather(own).unbind(1)
    return float(values.sum() / present.sum()) if present.any() else None


def logged_losses(trainer: Any, before: Mapping[str, Any], names: Names) -> dict[str, float]:
    """Return what may be validation losses among the metrics logged since ``before``, averaged over the ranks."""
    own = {}
    for key, value in trainer.callback_metrics.items():
        words = set(re.split(r"[^a-z]+", key.lower()))
        fresh = key not in before or not torch.equal(torch.as_tensor(before[key]), torch.as_tensor(value))
        other = names.is_own(key) or words & {"train", "training"}
        if fresh and not other and math.isfinite(float(value)) and ("loss" in key.lower() or words & LOSS_WORDS):
            own[str(key)] = float(value)
    everyone = ranks_of(trainer).gather_objects(own)
    keys = [key for key in everyone[0] if all(key in other for other in everyone)]
    keys.sort(key=lambda key: ("val" not in key.lower(), "loss" not in key.lower(), len(key)))
    return {key: sum(other[key] for other in everyone) / len(everyone) for key in keys}


def logged_train_loss(trainer: Any, key: str) -> float | None:
    """Read the training loss that goes by its name with a logged validation loss; all ranks ask."""
    plain = re.sub(r"/dataloader_idx_\d+$", "", key)
    names = [re.sub(r"validation|valid|val|dev|eval", "train", plain, count=1, flags=re.IGNORECASE)]
    names = [name + suffix for name in names if name != plain for suffix in ("_epoch", "", "_step")]
    values = [logged_value(trainer, name) for name in names]
    return next((value for value in values if value is not None and math.isfinite(value)), None)


def own_rows(loader: Any, rank: int, ranks: int) -> int | None:
    """Return how many samples of a pass are a rank's own, where a distributed sampler repeats some; else ``None``."""
    sampler = getattr(loader, "sampler", None)
    if ranks == 1 or getattr(sampler, "num_replicas", None) != ranks or getattr(sampler, "drop_last", True):
        return None
    try:
        return -(-(len(sampler.dataset) - rank) // ranks)  # type: ignore[union-attr]
    except TypeError:
        return None


def loaders_of(trainer: Any) -> dict[str, Any]:
    """Return the loaders by split, as far as they are known: the training loader, and the first of validation."""
    val = trainer.val_dataloaders
    first = val[0] if isinstance(val, (list, tuple)) and val else val
    return {
        split: loader for split, loader in (("train", trainer.train_dataloader), ("val", first)) if loader is not None
    }


def log_scalars(trainer: Any, module: Any, metrics: Mapping[str, float]) -> None:
    """Log the usual way, visible to every other callback.

    The values are equal on all ranks already; ``sync_dist`` only keeps Lightning from warning about it.
    """
    if not getattr(trainer, "barebones", False):  # there Lightning would warn that it logs nothing
        module.log_dict(dict(metrics), on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1)
