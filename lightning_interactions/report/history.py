"""What is kept of a run: one record per measured epoch, in builtin containers only."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any, SupportsFloat, cast

from torch import Tensor

from lightning_interactions.errors import ArgumentError, StateError, bad_argument
from lightning_interactions.report.files import write_whole

Strength = Tensor | Sequence[Sequence[float]]
"""Positive and negative strength by order, ``(2, n)``."""

RESERVED = ("epoch", "step", "strength", "samples")
NOTEBOOK_ROWS = 12
NOTEBOOK_COLUMNS = (
    "mean_order",
    "val/mean_order",
    "high_order_share",
    "train_loss",
    "val_loss",
    "phase",
    "overfitting_risk",
    "seconds",
)


class History:
    """The measured epochs of one run, in order.

    Records may have different scalars (a loss that was not logged yet): columns are filled up with ``None``. A number
    that was measured but is undefined stays ``nan``. Beside the records stands one table, of the watched samples at the
    last measurement: `samples`.

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
        self._records: list[dict[str, Any]] = []
        self._samples: list[dict[str, Any]] = []

    def append(
        self,
        epoch: int,
        step: int,
        scalars: Mapping[str, SupportsFloat | None],
        strength: Strength,
        extra_strength: Mapping[str, Strength] = MappingProxyType({}),
    ) -> None:
        """Add the record of an epoch.

        Args:
            epoch: The epoch, not before that of the last record.
            step: The optimizer step at which it was measured; greater than the last one if the epoch is the same (an
                epoch is measured more than once where validation runs more than once in it).
            scalars: Numbers by name; ``None`` means the same as leaving the name out.
            strength: ``(2, n)``, mean strength over samples, in units of the score.
            extra_strength: More of the same by column name, for example ``{"train/strength": ...}``.

        Raises:
            ArgumentError: If a value is not a number, a shape is not ``(2, n)``, a name is taken, or the record is
                not after the last one. The history is unchanged then.
        """
        before = (self._records[-1]["epoch"], self._records[-1]["step"]) if self._records else None
        if before is not None and (epoch, step) <= before:
            raise bad_argument("(epoch, step)", f"after {before}, the last record", (epoch, step))
        strengths = {"strength": strength, **extra_strength}
        taken = set(RESERVED) & {*scalars, *extra_strength} | (set(scalars) & set(extra_strength))
        if taken:
            raise ArgumentError(f"Expected other names for {sorted(taken)}: {', '.join(RESERVED)} are kept anyway.")
        nested = {str(key): _nested(key, value) for key, value in strengths.items()}
        self._check_orders(nested)
        self._records.append(
            {
                "epoch": int(epoch),
                "step": int(step),
                "scalars": {str(key): _number(key, value) for key, value in scalars.items() if value is not None},
                "strengths": nested,
            }
        )

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        if not self._records:
            return "History(empty)"
        columns = ", ".join(key for key in self._keys() if key not in ("epoch", "step"))
        first, last = self._records[0]["epoch"], self._records[-1]["epoch"]
        return f"History({len(self)} epoch{'s' * (len(self) > 1)}, {first} to {last}: {columns})"

    def _repr_html_(self) -> str:
        """Show the latest records in a notebook."""
        if not self._records:
            return "<p>History(empty)</p>"
        rows = [_flat(record) for record in self._records[-NOTEBOOK_ROWS:]]
        keys = ["epoch", *(key for key in NOTEBOOK_COLUMNS if any(key in row for row in rows))]
        head = "".join(f"<th>{key}</th>" for key in keys)
        body = "".join(f"<tr>{''.join(f'<td>{_short(row.get(key))}</td>' for key in keys)}</tr>" for row in rows)
        first = f"<caption>{escape(repr(self))}; the last {len(rows)}</caption>"
        return f"<table>{first}<tr>{head}</tr>{body}</table>"

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The watched samples as of the last measurement (a copy), those with the most cancelling strength first.

        One dictionary of builtin values per sample, see :func:`~lightning_interactions.measure.onsets.sample_table`.
        Empty when other samples are drawn each time. It is no column of :meth:`to_dict`, whose columns have an
        entry per record.
        """
        return copy.deepcopy(self._samples)

    @samples.setter
    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._samples = [copy.deepcopy(dict(row)) for row in rows]

    @property
    def last(self) -> dict[str, Any] | None:
        """The latest record as one flat dictionary (a copy), or ``None`` if there is none."""
        return _flat(self._records[-1]) if self._records else None

    def column(self, key: str) -> list[Any]:
        """Return one column, an entry per record, ``None`` where a record lacks it.

        Args:
            key: ``"epoch"``, ``"step"``, ``"strength"``, or a name that was recorded.

        Raises:
            ArgumentError: If no record has it.
        """
        if key not in (keys := self._keys()):
            raise bad_argument("key", f"one of {', '.join(keys)}", key)
        return [_flat(record).get(key) for record in self._records]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return all columns as plain lists of equal length (copies).

        Returns:
            ``epoch``, ``step``, every scalar (``None`` where a record lacks it), then ``strength`` and the extra
            strengths (per record ``2 x n`` nested lists).
        """
        rows = [_flat(record) for record in self._records]
        return {key: [row.get(key) for row in rows] for key in self._keys()}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy in builtin containers only, so that ``torch.load(weights_only=True)`` accepts it."""
        return {"records": copy.deepcopy(self._records), "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the records by those of :meth:`state_dict`.

        Args:
            state: What :meth:`state_dict` returned.

        Raises:
            StateError: If it is something else. The history is unchanged then.
        """
        restored = History()
        try:
            for record in state["records"]:
                strengths = dict(record["strengths"])
                main = strengths.pop("strength")
                restored.append(record["epoch"], record["step"], record["scalars"], main, strengths)
            restored.samples = state.get("samples", [])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"Expected the state of a History, but it cannot be read: {error!r}.") from error
        self._records, self._samples = restored._records, restored._samples

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict` as JSON; numbers JSON does not have (nan, infinity) become ``null``.

        If there are `samples`, they follow the columns under that name: a list of objects, one per sample.

        Args:
            path: Where to. Missing folders are made; an older file is replaced only once the new one is complete.
        """
        content: dict[str, Any] = self.to_dict() | ({"samples": self.samples} if self._samples else {})
        write_whole(path, json.dumps(without_nan(content), allow_nan=False, indent=1) + "\n")

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per record, strengths flattened into ``order_01_pos``, ``order_01_neg``, ...

        The columns of ``train/strength`` are called ``train/order_01_pos`` and so on. Missing values are empty,
        undefined ones ``nan``.

        Args:
            path: Where to. Missing folders are made; an older file is replaced only once the new one is complete.
        """
        rows = [_spread(record) for record in self._records]
        header = list(dict.fromkeys(key for row in rows for key in row)) or ["epoch", "step"]
        text = io.StringIO()
        writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, text.getvalue())

    def _check_orders(self, strengths: Mapping[str, list[list[float]]]) -> None:
        # Records of different numbers of players could not be put into one table or heat map.
        reference = self._records[0]["strengths"] if self._records else strengths
        num_orders = len(reference["strength"][0])
        for key, (positive, _) in strengths.items():
            if len(positive) != num_orders:
                raise bad_argument(key, f"of shape (2, {num_orders}), as the strengths before it", (2, len(positive)))

    def _keys(self) -> list[str]:
        scalars = (key for record in self._records for key in record["scalars"])
        strengths = (key for record in self._records for key in record["strengths"])
        # A dictionary is an ordered set: columns come in the order in which they were first seen.
        return list(dict.fromkeys(["epoch", "step", *scalars, "strength", *strengths]))


def _number(key: str, value: SupportsFloat) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad_argument(f"scalars[{key!r}]", "a number", value) from error


def _nested(key: str, value: Strength) -> list[list[float]]:
    try:
        rows = value.detach().cpu().tolist() if isinstance(value, Tensor) else value
        nested = [[float(x) for x in row] for row in cast("Sequence[Sequence[float]]", rows)]
    except (TypeError, ValueError) as error:
        raise bad_argument(key, "of shape (2, n)", value) from error
    if len(nested) != 2 or len(nested[0]) != len(nested[1]) or not nested[0]:
        raise bad_argument(key, "of shape (2, n)", value)
    return nested


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    strengths = copy.deepcopy(record["strengths"])
    return {"epoch": record["epoch"], "step": record["step"], **record["scalars"], **strengths}


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _spread(record: Mapping[str, Any]) -> dict[str, Any]:
    row = {"epoch": record["epoch"], "step": record["step"], **record["scalars"]}
    for key, (positive, negative) in record["strengths"].items():
        stem = key.removesuffix("strength") if key.endswith("strength") else f"{key}/"
        for order, (up, down) in enumerate(zip(positive, negative, strict=True), start=1):
            row |= {f"{stem}order_{order:02d}_pos": up, f"{stem}order_{order:02d}_neg": down}
    return row


def without_nan(value: Any) -> Any:
    """Replace numbers JSON does not have (nan, infinity) by ``None``.

    Args:
        value: Nested dictionaries and lists.
    """
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
