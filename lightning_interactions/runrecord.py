"""What a run leaves behind: a JSON file with history, events, settings and versions; and what it says in words."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_interactions.errors import ArgumentError, StateError
from lightning_interactions.files import write_whole
from lightning_interactions.history import without_nan
from lightning_interactions.phases import PhaseEvent

FORMAT = "lightning-interactions run, version 1"
PACKAGES = ("lightning-interactions", "torch", "lightning", "pytorch-lightning", "torchmetrics", "numpy")


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
    """

    history: Mapping[str, Sequence[Any]]
    events: Sequence[PhaseEvent] = ()
    boundary_epoch: int | None = None
    overfitting_epoch: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: versions())

    def to_json(self) -> str:
        """Return all of it as JSON; numbers JSON does not have become ``null``."""
        content = {
            "format": FORMAT,
            "boundary_epoch": self.boundary_epoch,
            "overfitting_epoch": self.overfitting_epoch,
            "events": [event.to_dict() for event in self.events],
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "samples": [dict(row) for row in self.samples],
            "history": dict(self.history),
        }
        return json.dumps(without_nan(content), allow_nan=False, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read what `to_json` gave.

        Args:
            text: The JSON.

        Raises:
            StateError: If it is something else.
        """
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
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"Expected a {FORMAT}, but it cannot be read: {error!r}.") from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all.

        Args:
            path: Where to.
        """
        write_whole(path, self.to_json())

    def column(self, key: str) -> list[float]:
        """Return a column of numbers, ``nan`` where there is none; with several splits that of the deciding one.

        Args:
            key: Its name.
        """
        values = self.history.get(key) or self.history.get(f"val/{key}") or [None] * len(self.history["epoch"])
        return [math.nan if value is None else float(value) for value in values]


def find_run(path: str | os.PathLike[str]) -> Path:
    """Find the file a run left.

    Args:
        path: The file itself, or a folder somewhere above exactly one.

    Raises:
        ArgumentError: If there is none, or more than one.
    """
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


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# -- in words ---------------------------------------------------------------------------------------------------------


def verdict(run: RunRecord) -> str:
    """Say in two or three sentences what happened, and what to do.

    Args:
        run: The run; at least one epoch was measured.

    Example:
        >>> verdict(RunRecord({"epoch": [0, 1], "mean_order": [2.0, 1.5]}))
        'No phase boundary was found in 2 measured epochs: the mean order was lowest (1.50) at epoch 1, the last one.'
    """
    sentences = [_about_orders(run)]
    lowest = lowest_index(run.column("val_loss"))
    if lowest is None:
        return sentences[0]
    losses, epochs = run.column("val_loss"), run.history["epoch"]
    best, last = losses[lowest], losses[-1]
    rose = f"from {best:.3g} at epoch {epochs[lowest]} to {last:.3g} at epoch {epochs[-1]}"
    if run.overfitting_epoch is not None:
        sentences.append(
            f"The network overfitted: the validation loss went {rose}. Keep the checkpoint of epoch {epochs[lowest]}; "
            "more data or regularisation would help."
        )
    elif lowest == len(losses) - 1:
        sentences.append(f"The validation loss is at its lowest now (epoch {epochs[lowest]}): train on.")
    else:
        sentences.append(
            f"The validation loss went {rose}, which is not overfitting yet. The checkpoint of epoch {epochs[lowest]} "
            "is the best so far."
        )
    return " ".join(sentences)


def _about_orders(run: RunRecord) -> str:
    orders, epochs = run.column("mean_order"), run.history["epoch"]
    count = f"{len(epochs)} measured epoch{'s' * (len(epochs) > 1)}"
    lowest = lowest_index(orders)
    if lowest is None:
        return f"No salient interactions were found in {count}."
    if run.boundary_epoch is None:
        at = f"epoch {epochs[lowest]}" + (", the last one" if lowest == len(orders) - 1 else "")
        return f"No phase boundary was found in {count}: the mean order was lowest ({orders[lowest]:.2f}) at {at}" + (
            f", and is {orders[-1]:.2f} now." if lowest < len(orders) - 1 else "."
        )
    turn = nearest(epochs, run.boundary_epoch)
    if by_the_losses(run):
        return (
            f"Phase 2 has begun by the losses: the mean order was lowest at epoch {run.boundary_epoch} "
            f"({orders[turn]:.2f}) and has not risen significantly ({orders[-1]:.2f} now)."
        )
    before = (
        f": the mean order fell from {orders[0]:.2f} to {orders[turn]:.2f} and then rose"
        if orders[0] > orders[turn]
        else f", with no fall of the mean order before it; it rose from {orders[turn]:.2f}"
    )
    return (
        f"Low-order dominance ended at epoch {run.boundary_epoch}{before} to {orders[-1]:.2f}, as the network learned "
        "ever higher orders."
    )


def by_the_losses(run: RunRecord) -> bool:
    """Whether the boundary rests on the losses alone."""
    told = [event for event in run.events if event.kind == "boundary"]
    return bool(told) and told[-1].evidence.get("significant") == 0


def summary(run: RunRecord) -> dict[str, str]:
    """Return the numbers one looks for first, by name.

    Args:
        run: The run; at least one epoch was measured.
    """
    epochs, losses, orders = run.history["epoch"], run.column("val_loss"), run.column("mean_order")
    lowest, low = lowest_index(losses), lowest_index(orders)
    seconds, gaps = _known(run.column("seconds")), _known(run.column("solver_gap"))
    risk = run.column("overfitting_risk")[-1]
    rows = {
        "Phase boundary": "none found"
        if run.boundary_epoch is None
        else f"epoch {run.boundary_epoch}" + (", by the losses alone" if by_the_losses(run) else ""),
        "Overfitting": "none found" if run.overfitting_epoch is None else f"found in epoch {run.overfitting_epoch}",
        "Overfitting risk": "unknown" if math.isnan(risk) else f"{risk:.2f} at the end",
        "Lowest validation loss": "none recorded"
        if lowest is None
        else f"epoch {epochs[lowest]} ({losses[lowest]:.3f}; at the end {losses[-1]:.3f})",
        "Mean order": "no salient interactions"
        if low is None
        else f"{orders[0]:.2f} at the start, {orders[low]:.2f} at its lowest (epoch {epochs[low]}), "
        f"{orders[-1]:.2f} at the end",
    }
    if seconds:
        rows["Time spent measuring"] = f"{sum(seconds):.0f} s, {sum(seconds) / len(seconds):.2f} s a measurement"
    if gaps:
        rows["Certificate"] = f"every split within {max(gaps):.1%} of the sparsest"
    return rows


def lowest_index(values: Sequence[float]) -> int | None:
    """Return the index of the lowest number, leaving out those that are not finite.

    Args:
        values: Numbers.
    """
    known = [i for i, value in enumerate(values) if math.isfinite(value)]
    return min(known, key=lambda i: values[i]) if known else None


def nearest(epochs: Sequence[int], epoch: int) -> int:
    """Return the index of the record nearest to an epoch.

    Args:
        epochs: Of the records.
        epoch: The epoch.
    """
    return min(range(len(epochs)), key=lambda i: abs(epochs[i] - epoch))


def _with_nan(value: Any) -> Any:
    """Strengths have no gaps: what JSON holds as ``null`` was not a number."""
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
