"""What a run leaves behind: a JSON file with history, events, settings and versions."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, StateError
from lightning_interactions.phases.epochs import Unit, exact_or, tell_place
from lightning_interactions.phases.event import PhaseEvent
from lightning_interactions.phases.messages import CURVES
from lightning_interactions.report.history import deciding, write_whole
from lightning_interactions.report.names import curve_of

FORMAT = "lightning-interactions run, version 1"
PACKAGES = ("lightning-interactions", "torch", "lightning", "pytorch-lightning", "torchmetrics", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that matter."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # Looked up once: with many packages installed, finding one takes milliseconds.
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class RunRecord:
    """A monitored run.

    Attributes:
        history: Columns of equal length, as ``History.to_dict`` gives them.
        events: What happened.
        boundary_epoch: Epoch of the phase boundary, or ``None``.
        overfitting_epoch: Epoch in which overfitting was declared, or ``None``.
        settings: The monitor's settings by name.
        samples: What is known of single watched samples, a row each; may be empty.
        versions: Of the packages in use.
        seconds_after: What the monitor took after its last record, which ``seconds`` of the records leave out.
        unit: What all epochs in it are counted in, see `History`.
    """

    history: Mapping[str, Sequence[Any]]
    events: Sequence[PhaseEvent] = ()
    boundary_epoch: int | None = None
    overfitting_epoch: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=versions)
    seconds_after: float = 0.0
    unit: Unit = "epoch"

    def to_json(self) -> str:
        """Return all of it as JSON; numbers JSON does not have become ``null``."""
        content = {
            "format": FORMAT,
            "unit": self.unit,
            "boundary_epoch": self.boundary_epoch,
            "overfitting_epoch": self.overfitting_epoch,
            "events": [event.to_dict() for event in self.events],
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "seconds_after": self.seconds_after,
            "samples": list(map(dict, self.samples)),
            "history": dict(self.history),
        }
        # Read back with a gap for each number that JSON does not have.
        strict = json.loads(json.dumps(content, default=str), parse_constant=lambda number: None)
        return json.dumps(strict, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read what `to_json` gave; anything else is a `StateError`."""
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            return cls(
                {
                    key: _with_nan(column) if key.endswith("strength") else column
                    for key, column in content["history"].items()
                },
                [PhaseEvent.from_dict(event) for event in content["events"]],
                content["boundary_epoch"],
                content["overfitting_epoch"],
                content["settings"],
                content.get("samples", []),
                content["versions"],
                content.get("seconds_after", 0.0),
                content.get("unit", "epoch"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"Expected a {FORMAT}, but it cannot be read: {error!r}.") from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_whole(path, self.to_json())

    def column(self, key: str) -> list[float]:
        """Return a column of numbers, ``nan`` where there is none; with several splits that of the deciding one."""
        values = deciding(self.history, key) or [None] * len(self.history["epoch"])
        return [math.nan if value is None else float(value) for value in values]

    def tell(self, place: float, *, short: bool = False) -> str:
        """Name a place of this run in words, see `tell_place`."""
        return tell_place(place, self.unit, short=short)

    @property
    def is_sampled(self) -> bool:
        """Whether the records have no interactions, but a mean degree from random mask pairs."""
        return "strength" not in self.history and deciding(self.history, "mean_degree") is not None

    @property
    def curve_key(self) -> str:
        """Key of the curve that turns at the boundary."""
        return curve_of(sampled=self.is_sampled)

    @property
    def curve_name(self) -> str:
        """What people call it."""
        return CURVES[self.curve_key]

    @property
    def curve(self) -> list[float]:
        """The curve itself."""
        return self.column(self.curve_key)

    @property
    def seconds(self) -> float:
        """All seconds the monitor took."""
        return sum(filter(math.isfinite, self.column("seconds"))) + self.seconds_after

    @cached_property
    def strength(self) -> Tensor:
        """Positive and negative strength by order of all records, ``(epochs, 2, n)``; without any an error."""
        for key in ("epoch", "strength"):
            if not self.history.get(key):
                raise ArgumentError(f"Expected `history` to have records in column {key!r}, but nothing was measured.")
        count, named = len(self.history["epoch"]), ("strength", "train_loss", "val_loss")
        unequal = [key for key in named if len(self.history.get(key, [0] * count)) != count]
        if unequal:
            raise ArgumentError(f"Expected columns of equal length ({count}, as `epoch`), but {unequal} differ.")
        strength = torch.as_tensor(self.history["strength"], dtype=torch.float64)
        if strength.ndim != 3 or strength.shape[1] != 2:
            raise ArgumentError(f"Expected `strength` of shape (epochs, 2, n), but got {tuple(strength.shape)}.")
        return strength

    @cached_property
    def place(self) -> Tensor:
        """Where the records are on an axis of epochs, ``(epochs,)``: several ones of an epoch share its width."""
        epoch = torch.as_tensor(self.history["epoch"], dtype=torch.float64)
        same = epoch[:, None] == epoch
        return epoch + same.tril(-1).sum(1) / same.sum(1)

    @property
    def boundary_place(self) -> float | None:
        """Where exactly the boundary is, an epoch or a place inside of one."""
        return self._place_of("boundary", self.boundary_epoch)

    @property
    def overfitting_place(self) -> float | None:
        """Where exactly overfitting was declared, likewise."""
        return self._place_of("overfitting", self.overfitting_epoch)

    @property
    def suspected_epoch(self) -> int | None:
        """Epoch of a boundary that is suspected at present, but not confirmed; else ``None``."""
        told = [event.epoch for event in self.events if event.kind == "suspected"]
        return told[-1] if told and self.boundary_epoch is None and self.column("suspected")[-1] == 1 else None

    @property
    def suspected_place(self) -> float | None:
        """Where exactly that is."""
        return self._place_of("suspected", self.suspected_epoch)

    @property
    def withdrawn_alarm(self) -> PhaseEvent | None:
        """The event by which the last overfitting alarm was withdrawn, if none stands."""
        told = [event for event in self.events if event.retracts == "overfitting"]
        return told[-1] if told and self.overfitting_epoch is None else None

    def _place_of(self, kind: str, epoch: int | None) -> float | None:
        """Read it off the last event of a kind: from its evidence, or from the record that was made then."""
        told = [event for event in self.events if event.kind == kind and event.epoch == epoch]
        if epoch is None or not told:
            return epoch
        steps = self.history.get("step", ())
        made = [place for place, step in zip(self.history["epoch"], steps, strict=False) if step == told[-1].step]
        known = made if kind == "overfitting" else [told[-1].evidence.get("trough_epoch", math.nan)]
        return next((x for x in reversed(known) if exact_or(epoch, x) == x), epoch)


def middle_record(run: RunRecord, orders: Sequence[float]) -> tuple[str, int] | None:
    """Name and index of the record nearest to the boundary, or else of the lowest of these mean orders."""
    at = run.boundary_place
    if at is not None:
        return "Boundary", nearest(run.history["epoch"], at)
    lowest = lowest_index(orders)
    return None if lowest is None else ("Lowest", lowest)


def lowest_index(values: Sequence[float]) -> int | None:
    """Return the index of the lowest number, leaving out those that are not finite."""
    known = [(value, i) for i, value in enumerate(values) if math.isfinite(value)]
    return min(known)[1] if known else None


def nearest(epochs: Sequence[float], epoch: float) -> int:
    """Return the index of the record nearest to a place."""
    return min(range(len(epochs)), key=lambda i: abs(epochs[i] - epoch))


def find_run(path: str | os.PathLike[str]) -> Path:
    """Find the file a run left: the path itself, or the only one somewhere below this folder."""
    root = Path(path)
    if root.is_file():
        return root
    if not root.is_dir():
        raise ArgumentError(f"Expected a folder a run logged to, but there is no {str(root)!r}.")
    found = [file for file in sorted(root.rglob("*.json")) if _is_run(file)]
    if not found:
        raise ArgumentError(
            f"No run was found in {str(root)!r}. A TwoPhaseMonitor leaves interactions.json in the folder of the run's "
            "TensorBoard or CSV logger; without one, call `monitor.report(path)`."
        )
    if len(found) > 1:
        names = "\n  ".join(map(str, found[:20]))
        raise ArgumentError(f"{len(found)} runs were found in {str(root)!r}; name one of them:\n  {names}")
    return found[0]


def _is_run(file: Path) -> bool:
    with open(file, encoding="utf-8", errors="replace") as opened:
        return FORMAT in opened.read(200)


def _with_nan(value: Any) -> Any:
    """Strengths have no gaps: what JSON holds as ``null`` was not a number."""
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value
