"""A run in words: what happened, what to do, and the numbers one looks for first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_interactions.report.record import RunRecord

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


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
