"""Everything a user can choose, checked when it is chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from lightning_interactions.errors import ArgumentError, bad_argument, is_number, is_whole
from lightning_interactions.functional.coalitions import MAX_PLAYERS
from lightning_interactions.functional.mask_pairs import check_pairs, check_sampled_players
from lightning_interactions.functional.strength import SCALES
from lightning_interactions.measure.coalitions import ENDS
from lightning_interactions.measure.extras import check_extras
from lightning_interactions.measure.fingerprint import fingerprint
from lightning_interactions.measure.interactions import check_chunk_size
from lightning_interactions.measure.measurement import part_of
from lightning_interactions.measure.reading import Reading
from lightning_interactions.measure.reference import Given, check_reference
from lightning_interactions.model.heads import check_head_option
from lightning_interactions.model.plan import check_input_option
from lightning_interactions.model.score import ScoreFn, resolve_score
from lightning_interactions.model.task import Target, check_target_option
from lightning_interactions.phases import PhaseDetector
from lightning_interactions.players import Players, check_players
from lightning_interactions.report.alerts import describe_alerts, resolve_alerts
from lightning_interactions.report.names import Names

_CHOICES: dict[str, tuple[object, ...]] = {
    "watch": ("val", "train", "both"),
    "scale": SCALES,
    "keep_samples": ("keys", "inputs", "nothing"),
    "stop_on": (None, "boundary", "overfitting"),
    "sharded": ("auto", "lockstep", "off"),
    "precision": ("32-true", "inherit"),
    "on_error": ("warn", "raise"),
    "resample": (True, False),
    "one_group": (True, False),
    "log_figures": (True, False),
    "show_samples": (True, False),
    "verbose": (True, False),
}

_IDENTITY = (
    "players", "score", "target", "num_samples", "num_players", "resample", "layer", "head", "scale", "noise_bound",
    "salience", "precision", "seed", "pairs",
)  # fmt: skip
"""Settings under which records can be compared with each other."""

DEFAULT_PAIRS = 96
"""Mask pairs of a sample with more than 16 players: from so many on the interval of one sample alone holds too."""

_OF_INTERACTIONS = "scale", "noise_bound", "salience", "tolerance", "reference", "extras"
"""Options that say nothing where no interactions are found."""


_OBJECTS = "players", "score"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Options:
    """The arguments of `TwoPhaseMonitor`, where each is described; for `InteractionMonitor` too.

    Raises:
        ArgumentError: For the first one that is wrong.

    Attributes:
        identity: The settings under which records can be compared, as plain values that differ if the settings do.

    Example:
        >>> Options(num_samples=8).splits
        ('val',)
    """

    players: Players | str = "auto"
    num_samples: int = 32
    num_players: int = 10
    num_pairs: int | None = None
    watch: str = "val"
    resample: bool = False
    keep_samples: str = "keys"
    layer: str | None = None
    score: str | ScoreFn = "log_odds"
    target: Target = "label"
    scale: str = Reading.scale
    noise_bound: float = Reading.noise_bound
    salience: float = Reading.salience
    tolerance: float | None = Reading.tolerance
    per_octave: int = 16
    max_per_epoch: int = 4
    every_n_epochs: int | None = None
    start_epoch: int = 0
    max_overhead: float | None = 0.25
    detector: PhaseDetector | None = None
    monitor: str | None = None
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None
    on_event: Any = "warn"
    stop_on: str | None = None
    chunk_size: int | None = None
    sharded: str = "auto"
    precision: str = "32-true"
    input: str | int | None = None
    head: str | int | None = None
    input_fn: Callable[[Any], Any] | None = None
    forward_fn: Callable[[Any, Any], Any] | None = None
    target_fn: Callable[[Any], Any] | None = None
    log_key_prefix: str = "interactions/"
    one_group: bool = False
    log_figures: bool = True
    show_samples: bool = True
    reference: Given | None = None
    extras: Sequence[str] = ()
    seed: int = 0
    on_error: str = "warn"
    verbose: bool = True
    identity: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every argument."""
        check_players(self.players)
        self._check_sampling()
        check_chunk_size(self.chunk_size)
        resolve_score(self.score)
        check_target_option(self.target)
        resolve_alerts(self.on_event)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
                raise bad_argument(name, f"one of {', '.join(map(repr, choices))}", value)
        self._check_numbers()
        for name in ("layer", "monitor"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise bad_argument(name, "a string or None", getattr(self, name))
        check_input_option(self.input)
        check_head_option(self.head)
        check_extras(self.extras, self.reference)
        object.__setattr__(self, "extras", tuple(self.extras))  # lists of configuration files too
        self._check_unused()
        check_reference(self.reference, self.layer, self.target)
        for name in ("input_fn", "forward_fn", "target_fn", "loss_fn"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise bad_argument(name, "a callable or None", getattr(self, name))
        if not isinstance(self.log_key_prefix, str) or not self.log_key_prefix:
            raise bad_argument("log_key_prefix", 'a string such as "interactions/"', self.log_key_prefix)
        if not self.show_samples and self.keep_samples == "inputs":
            raise bad_argument("keep_samples", '"keys" or "nothing" where show_samples=False', self.keep_samples)
        if self.detector is not None and not isinstance(self.detector, PhaseDetector):
            raise bad_argument("detector", "a PhaseDetector or None", self.detector)
        # Of what was given, not of what became of it: a function may count its calls.
        told_apart = {name: getattr(self, name) for name in _IDENTITY}
        told_apart |= {name: x if isinstance(x := told_apart[name], str) else fingerprint(x) for name in _OBJECTS}
        object.__setattr__(self, "identity", told_apart)

    def _check_sampling(self) -> None:
        check_sampled_players(self.num_players)
        if self.num_pairs is not None:
            check_pairs("num_pairs", self.num_pairs)

    def _check_unused(self) -> None:
        """Say so if something was chosen that only interactions have."""
        given = [f.name for f in fields(self) if f.name in _OF_INTERACTIONS and getattr(self, f.name) != f.default]
        if self.pairs is None or not given:
            return
        why = f"num_players={self.num_players}" if self.num_pairs is None else f"num_pairs={self.num_pairs}"
        raise ArgumentError(
            f"Expected no argument `{given[0]}` with {why}: the mean degree is sampled from random mask pairs then, "
            f"and there are no interactions. Leave it out, or use at most {MAX_PLAYERS} players without `num_pairs`."
        )

    def _check_numbers(self) -> None:
        leasts = {"num_samples": 2, "per_octave": 1, "max_per_epoch": 1, "start_epoch": 0, "seed": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            if not is_whole(value, least):
                raise bad_argument(name, f"an integer of at least {least}", value)
        if self.every_n_epochs is not None and not is_whole(self.every_n_epochs, 1):
            raise bad_argument("every_n_epochs", "an integer of at least 1, or None", self.every_n_epochs)
        for name in ("noise_bound", "salience"):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                raise bad_argument(name, "a fraction of the scale, at least 0 and below 1", getattr(self, name))
        if self.tolerance is not None and not (is_number(self.tolerance) and 0 < self.tolerance < 1):
            raise bad_argument("tolerance", "a gap above 0 and below 1, such as 0.02, or None", self.tolerance)
        share = self.max_overhead
        if share is not None and not (is_number(share) and share > 0):
            raise bad_argument("max_overhead", "a share above 0, such as 0.1, or None", share)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose interactions are measured, the deciding one first."""
        return ("val", "train") if self.watch == "both" else (self.watch,)

    @property
    def pairs(self) -> int | None:
        """Random mask pairs asked of each sample; ``None``: all coalitions, split into interactions."""
        if self.num_pairs is None and self.num_players > MAX_PLAYERS:
            return DEFAULT_PAIRS
        return self.num_pairs

    @property
    def follows(self) -> bool:
        """Whether samples are followed one by one: the same every time, and their interactions."""
        return not self.resample and self.pairs is None

    @property
    def rows(self) -> int:
        """Masked inputs asked for each sample, at most."""
        return 1 << self.num_players if self.pairs is None else ENDS + 2 * self.pairs

    @property
    def reading(self) -> Reading:
        """How interactions are read off the values."""
        return Reading(self.noise_bound, self.salience, self.scale, self.tolerance)

    @property
    def chosen(self) -> list[str]:
        """Names of the options by which the user said how data and model are read."""
        named = "players", "layer", "input", "head", "input_fn", "forward_fn", "target_fn", "loss_fn", "target", "score"
        return [f.name for f in fields(self) if f.name in named and getattr(self, f.name) != f.default]

    @property
    def explicit(self) -> bool:
        """Whether the user said anything about how data and model are read."""
        return bool(self.chosen)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the logged keys that name these splits, see `part_of`."""
        return tuple(part_of(split, self.splits) for split in self.splits)

    @cached_property
    def names(self) -> Names:
        """How logged keys are named."""
        return Names(self.log_key_prefix, self.one_group, sampled=self.pairs is not None)

    @property
    def loss_splits(self) -> tuple[str, ...]:
        """The splits whose loss is measured on fixed samples."""
        return ("train", "val") if self.monitor is None else ("train",)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All of them as plain values for people to read; nothing secret is in them."""
        told = {f.name: _readable(getattr(self, f.name)) for f in fields(self) if f.init}
        return {**told, "on_event": describe_alerts(resolve_alerts(self.on_event))}


def _readable(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return type(value).__qualname__
    if value is None or isinstance(value, (str, int, float)):
        return value
    return getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value))
