"""Checks of what the user configured, before anything runs."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_interactions.errors import ArgumentError, InteractionsWarning, bad_argument
from lightning_interactions.functional.coalitions import check_num_players
from lightning_interactions.measure.interactions import check_chunk_size
from lightning_interactions.model.score import resolve_score
from lightning_interactions.model.task import check_target_option
from lightning_interactions.monitor import bridge
from lightning_interactions.phases.detector import PhaseDetector
from lightning_interactions.players import check_players
from lightning_interactions.report.alerts import describe_alerts, resolve_alerts

_CHOICES: dict[str, tuple[object, ...]] = {
    "watch": ("val", "train", "both"),
    "keep_samples": ("keys", "inputs", "nothing"),
    "stop_on": (None, "boundary", "overfitting"),
    "precision": ("32-true", "inherit"),
    "on_error": ("warn", "raise"),
    "resample": (True, False),
    "log_figures": (True, False),
    "verbose": (True, False),
}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NEEDS = "so the monitor cannot see what it should measure"


def check_options(options: Mapping[str, Any]) -> None:
    """Check the arguments of `TwoPhaseMonitor` one by one.

    Args:
        options: Arguments by name.

    Raises:
        ArgumentError: For the first one that is wrong.
    """
    check_players(options["players"])
    check_num_players(options["num_players"])
    check_chunk_size(options["chunk_size"])
    resolve_score(options["score"])
    check_target_option(options["target"])
    for name, choices in _CHOICES.items():
        if not any(options[name] is c or (isinstance(c, str) and options[name] == c) for c in choices):
            raise bad_argument(name, f"one of {', '.join(map(repr, choices))}", options[name])
    _check_numbers(options)
    for name in ("layer", "monitor", "train_monitor"):
        if not isinstance(options[name], (str, type(None))):
            raise bad_argument(name, "a string or None", options[name])
    for name in ("input_fn", "forward_fn", "target_fn"):
        if options[name] is not None and not callable(options[name]):
            raise bad_argument(name, "a callable or None", options[name])
    if not isinstance(options["log_key_prefix"], str) or not options["log_key_prefix"]:
        raise bad_argument("log_key_prefix", 'a string such as "interactions/"', options["log_key_prefix"])
    if options["detector"] is not None and not isinstance(options["detector"], PhaseDetector):
        raise bad_argument("detector", "a PhaseDetector or None", options["detector"])


def _check_numbers(options: Mapping[str, Any]) -> None:
    for name, least in (("num_samples", 2), ("every_n_epochs", 1), ("seed", 0)):
        if not _is_int(options[name]) or options[name] < least:
            raise bad_argument(name, f"an integer of at least {least}", options[name])
    for name in ("noise_bound", "salience"):
        if not _is_number(options[name]) or not 0 <= options[name] < math.inf:
            raise bad_argument(name, "a number not below 0", options[name])
    share = options["max_overhead"]
    if share is not None and not (_is_number(share) and share > 0):
        raise bad_argument("max_overhead", "a share above 0, such as 0.1, or None", share)


def check_trainer(trainer: Any, pl_module: Any, watch: str, forward_fn: object) -> bool:
    """Check that Trainer and module are such that the monitor can work.

    Args:
        trainer: The Trainer, about to fit.
        pl_module: The LightningModule.
        watch: The monitor's ``watch``.
        forward_fn: The monitor's ``forward_fn``.

    Returns:
        Whether the monitor should be active; if not, a warning has said why.

    Raises:
        ArgumentError: If there is nothing to watch, or no way to call the model.
    """
    strategy = bridge.unsupported_strategy(trainer)
    if strategy is not None:
        return _inactive(f"{strategy} splits the model over ranks, {_NEEDS}")
    own_forward = "forward" in vars(pl_module) or ".core.module" not in type(pl_module).forward.__module__
    if forward_fn is None and not own_forward:
        raise ArgumentError(
            f"{type(pl_module).__name__} defines no `forward`, {_NEEDS}. Define forward(inputs) -> logits, or give "
            "`forward_fn=(module, inputs) -> logits`."
        )
    if watch == "train" or trainer.enable_validation:
        return True
    if trainer.limit_val_batches == 0:
        return _inactive(f'validation is switched off (limit_val_batches=0), {_NEEDS}; watch="train" would do without')
    raise ArgumentError(
        f"There is no validation loader (or no `validation_step`), {_NEEDS}. Give the Trainer validation data, or use "
        'TwoPhaseMonitor(watch="train").'
    )


def describe_options(monitor: Any) -> dict[str, Any]:
    """Return the arguments a monitor was made with as plain values, without secrets.

    Args:
        monitor: The monitor.
    """
    # A subclass may take its arguments as ``**options``: the classes it derives from know their names.
    makers = [vars(cls)["__init__"] for cls in type(monitor).__mro__ if "__init__" in vars(cls) and cls is not object]
    names = dict.fromkeys(name for maker in makers for name in inspect.signature(maker).parameters)
    return {name: _plain(name, getattr(monitor, name)) for name in names if name in vars(monitor)}


def _plain(name: str, value: Any) -> Any:
    if name == "on_event":
        return describe_alerts(resolve_alerts(value))
    if value is None or isinstance(value, (str, int, float)):
        return value
    return getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value))


def _inactive(reason: str) -> bool:
    rank_zero_warn(f"TwoPhaseMonitor is switched off for this run: {reason}.", category=InteractionsWarning)
    return False


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
