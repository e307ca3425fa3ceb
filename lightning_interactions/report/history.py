"""What is kept of a run: one record per measured epoch, in builtin containers only."""

from __future__ import annotations

import copy
import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from lightning_interactions.errors import ArgumentError, StateError, bad_argument
from lightning_interactions.phases.epochs import Unit, is_inside, plain_epoch, tell_place

Strength = Tensor | Sequence[Sequence[float]]
"""Positive and negative strength by order, ``(2, n)``."""

RESERVED = ("epoch", "step", "strength", "samples")
NOTEBOOK_ROWS = 12
SHOWN_NAMES = 6  # of columns, in the representation
NOTEBOOK_COLUMNS = (
    "mean_order", "val/mean_order", "mean_degree", "val/mean_degree", "high_order_share", "train_loss",
    "val_loss", "phase", "overfitting_risk", "seconds",
)  # fmt: skip


class History:
    """The measured epochs of one run, in order.

    Records may have different scalars (a loss that was not logged yet): columns are filled up with ``None``. A number
    that was measured but is undefined stays ``nan``. Beside the records stands one table, of the watched samples at the
    last measurement: `samples`.

    Attributes:
        unit: What the column ``epoch`` is counted in: ``"epoch"``, or ``"step"`` in a training without epochs, where it
            is 1199 after 1200 of them. All that is called an epoch elsewhere (of events, of the boundary, of onsets) is
            then a step too.

    Example:
        >>> history = History()
        >>> history.append(epoch=0, step=10, scalars={"mean_order": 3.5}, strength=[[1.0, 0.0], [0.5, 0.0]])
        >>> history.append(epoch=1, step=20, scalars={"val_loss": 0.7}, strength=[[2.0, 1.0], [0.5, 0.0]])
        >>> history
        History(2 epochs, 0 to 1: mean_order, val_loss, strength)
        >>> history.column("mean_order")
        [3.5, None]
    """

    def __init__(self) -> None:
        self.unit: Unit = "epoch"
        self._rows: list[dict[str, Any]] = []
        self._samples: list[dict[str, Any]] = []
        # Ordered sets: columns come in the order in which they were first seen, strengths last.
        self._scalars: dict[str, None] = {"epoch": None, "step": None}
        self._strengths: dict[str, None] = {"strength": None}

    def append(
        self,
        epoch: float,
        step: int,
        scalars: Mapping[str, SupportsFloat | None],
        strength: Strength | None,
        extra_strength: Mapping[str, Strength] = MappingProxyType({}),
    ) -> None:
        """Add the record of an epoch.

        Args:
            epoch: 3 at the end of epoch 3, 2.25 when a quarter of it was trained, -1 before the first; not before that
                of the last record.
            step: The optimizer step at which it was measured; greater than the last one if the epoch is the same.
            scalars: Numbers by name; ``None`` means the same as leaving the name out.
            strength: ``(2, n)``, mean strength over samples, in units of the score; ``None`` where no interactions are
                measured, as with sampled mean degrees: in all records or in none.
            extra_strength: More of the same by column name, for example ``{"train/strength": ...}``.

        Raises:
            ArgumentError: If a value is not a number, a shape is not ``(2, n)``, a name is taken, or the record is
                not after the last one. The history is unchanged then.
        """
        before = (self._rows[-1]["epoch"], self._rows[-1]["step"]) if self._rows else (-math.inf, -math.inf)
        if (epoch, step) <= before:
            raise bad_argument("(epoch, step)", f"after {before}, the last record", (epoch, step))
        taken = set(RESERVED) & {*scalars, *extra_strength} | (set(scalars) & set(extra_strength))
        if taken:
            raise ArgumentError(f"Expected other names for {sorted(taken)}: {', '.join(RESERVED)} are kept anyway.")
        row: dict[str, Any] = {"epoch": plain_epoch(epoch), "step": int(step)}
        for key, value in scalars.items():
            if value is not None:
                row[str(key)] = _number(key, value)
        names = dict.fromkeys(row)
        first = self._rows[0] if self._rows else row
        if self._rows and ("strength" in first) != (strength is not None):
            expected = "a tensor (2, n)" if "strength" in first else "None"
            raise bad_argument("strength", f"{expected}, as in the records before", strength)
        given = {} if strength is None else {"strength": strength}
        for key, rows in {**given, **extra_strength}.items():
            # Records of different numbers of players could not be put into one table or heat map.
            row[str(key)] = _nested(key, rows, first.get("strength"))
        if strength is None:
            self._strengths.pop("strength", None)
        self._rows.append(row)
        self._scalars |= names
        self._strengths |= dict.fromkeys(map(str, extra_strength))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        if not self._rows:
            return "History(empty)"
        names = [*self._scalars, *self._strengths][2:]
        more = [f"and {len(names) - SHOWN_NAMES} more"] * (len(names) > SHOWN_NAMES)
        columns = ", ".join(names[:SHOWN_NAMES] + more)
        epochs = [row["epoch"] for row in self._rows]
        told = count_records(epochs, self.unit).replace("measured ", "")
        return f"History({told}, {span(epochs, self.unit)}: {columns})"

    def _repr_html_(self) -> str:
        """Show the latest records in a notebook."""
        if not self._rows:
            return "<p>History(empty)</p>"
        rows = self._rows[-NOTEBOOK_ROWS:]
        known = [key for key in NOTEBOOK_COLUMNS if any(key in row for row in rows)]
        # Beside the mean order the mean degree is a detail.
        hidden = "mean_degree" if self._strengths else ""
        keys = ["epoch", *(key for key in known if key.removeprefix("val/") != hidden)]
        head = "".join(f"<th>{key}</th>" for key in [self.unit, *keys[1:]])
        body = "".join(f"<tr>{''.join(f'<td>{_short(row.get(key))}</td>' for key in keys)}</tr>" for row in rows)
        first = f"<caption>{escape(repr(self))}; the last {len(rows)}</caption>"
        return f"<table>{first}<tr>{head}</tr>{body}</table>"

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The watched samples as of the last measurement (a copy), those with the most cancelling strength first.

        One dictionary of builtin values per sample, see `sample_table`. Empty when other samples are drawn each time.
        """
        return copy.deepcopy(self._samples)

    @samples.setter
    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._samples = copy.deepcopy(list(map(dict, rows)))

    @property
    def last(self) -> dict[str, Any] | None:
        """The latest record as one flat dictionary (a copy), or ``None`` if there is none."""
        return _unshared(self._rows[-1]) if self._rows else None

    def column(self, key: str) -> list[Any]:
        """Return one column, an entry per record, ``None`` where a record lacks it.

        Raises:
            ArgumentError: If no record has it.
        """
        if key not in self._scalars and key not in self._strengths:
            raise bad_argument("key", f"one of {', '.join([*self._scalars, *self._strengths])}", key)
        return [_unshared(row.get(key)) for row in self._rows]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return all columns as plain lists of equal length (copies), ``None`` where a record lacks a scalar.

        First ``epoch``, ``step`` and the scalars, then, where there are interactions, ``strength`` and the extra
        strengths, nested lists ``2 x n``.
        """
        return {key: [_unshared(row.get(key)) for row in self._rows] for key in (*self._scalars, *self._strengths)}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy in builtin containers only, so that ``torch.load(weights_only=True)`` accepts it."""
        records = []
        for row in map(_unshared, self._rows):
            record = {"epoch": row.pop("epoch"), "step": row.pop("step")}
            record["strengths"] = {key: row.pop(key) for key in self._strengths if key in row}
            records.append({**record, "scalars": row})
        return {"records": records, "samples": self.samples, "unit": self.unit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the records by those of :meth:`state_dict`.

        Raises:
            StateError: If it is something else. The history is unchanged then.
        """
        restored = History()
        try:
            for record in state["records"]:
                strengths = dict(record["strengths"])
                main = strengths.pop("strength", None)
                restored.append(record["epoch"], record["step"], record["scalars"], main, strengths)
            restored.samples = state.get("samples", [])
            restored.unit = state.get("unit", "epoch")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"Expected the state of a History, but it cannot be read: {error!r}.") from error
        vars(self).update(vars(restored))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per record, strengths flattened into ``order_01_pos``, ``order_01_neg``, ...

        The columns of ``train/strength`` are called ``train/order_01_pos`` and so on. Missing values are empty,
        undefined ones ``nan``. An older file is replaced only once the new one is complete.
        """
        rows = []
        for row in self._rows:
            flat = {key: value for key, value in row.items() if key not in self._strengths}
            for key in [key for key in self._strengths if key in row]:
                stem = key.removesuffix("strength") if key.endswith("strength") else f"{key}/"
                for order, (up, down) in enumerate(zip(*row[key], strict=True), start=1):
                    flat |= {f"{stem}order_{order:02d}_pos": up, f"{stem}order_{order:02d}_neg": down}
            rows.append(flat)
        header = list(dict.fromkeys(key for row in rows for key in row)) or ["epoch", "step"]
        text = io.StringIO()
        writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, text.getvalue())


def count_records(epochs: Sequence[float], unit: Unit = "epoch") -> str:
    """Say how many records there are.

    Example:
        >>> count_records([0, 1]), count_records([-1, -0.75, 0])
        ('2 measured epochs', '3 records')
    """
    inside = unit == "step" or any(map(is_inside, epochs))
    return f"{len(epochs)} {'record' if inside else 'measured epoch'}{'s' * (len(epochs) > 1)}"


def span(epochs: Sequence[float], unit: Unit = "epoch") -> str:
    """Say from where to where records go.

    Example:
        >>> span([0, 1]), span([-1, -0.75, 0]), span([9, 19], "step")
        ('0 to 1', 'initialisation to epoch 0', 'step 9 to step 19')
    """
    ends = epochs[0], epochs[-1]
    plain = unit == "epoch" and not any(map(is_inside, ends))
    return " to ".join(str(end) if plain else tell_place(end, unit) for end in ends)


def _number(key: str, value: SupportsFloat) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument(f"scalars[{key!r}]", "a number", value) from error


def _nested(key: str, value: Strength, like: list[list[float]] | None) -> list[list[float]]:
    """Return a strength as lists, of as many orders as another one."""
    try:
        rows = torch.as_tensor(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument(key, "of shape (2, n)", value) from error
    if rows.ndim != 2 or rows.shape[0] != 2 or not rows.shape[1]:
        raise bad_argument(key, "of shape (2, n)", value)
    if like is not None and rows.shape[1] != len(like[0]):
        raise bad_argument(key, f"of shape (2, {len(like[0])}), as the strengths before it", tuple(rows.shape))
    nested: list[list[float]] = rows.tolist()
    return nested


def _unshared(value: Any) -> Any:
    """A copy of a row or an entry; `copy.deepcopy` takes ten times as long, at every checkpoint for all records."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def deciding(columns: Mapping[str, Any], key: str) -> Any:
    """Return an entry by its key; of two splits that of validation, which decides. ``None`` if there is neither."""
    return columns.get(key, columns.get(f"val/{key}"))


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file so that a run that is killed meanwhile leaves no half of it; missing folders are made.

    The path may also be ``s3://...`` and what else fsspec knows, as for Lightning's loggers.
    """
    if "://" in str(path):
        import fsspec  # comes with Lightning

        with fsspec.open(str(path), "w", encoding="utf-8") as file:
            file.write(text)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
