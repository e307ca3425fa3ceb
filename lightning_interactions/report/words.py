"""A run and its events in words: what happened, what to do, and the numbers one looks for first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_interactions.phases.epochs import exact_or, tell_place
from lightning_interactions.phases.event import PhaseEvent
from lightning_interactions.phases.messages import followed
from lightning_interactions.report.history import count_records
from lightning_interactions.report.record import RunRecord, lowest_index, nearest

LONGEST_LINE = 69
"""Characters of the headline that fit into the run figure."""

# -- a run ------------------------------------------------------------------------------------------------------------


def headline(run: RunRecord) -> str:
    """Say in a sentence what is to be seen in the run figure, on more lines if it is long."""
    epochs, at, maybe = run.history["epoch"], run.boundary_place, run.suspected_place
    parts = [f"No phase boundary so far ({_measured(run)})"]
    if at is not None:
        parts = [_ended_at(run, at)]
    elif maybe is not None:
        parts = [f"No phase boundary so far, but one is suspected at {run.tell(maybe)}"]
    if run.overfitting_place is not None:
        parts.append(f"overfitting began at {run.tell(run.overfitting_place)}")
    if (lowest := lowest_index(run.column("val_loss"))) is not None and len(epochs) > 1:
        now = lowest == len(epochs) - 1
        parts.append(
            f"validation loss {'is at its lowest now' if now else f'was lowest at {run.tell(epochs[lowest])}'}"
        )
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}; {part}"
        lines = [*lines[:-1], longer] if len(longer) <= LONGEST_LINE else [*lines, part]
    return ";\n".join(lines)


def verdict(run: RunRecord) -> str:
    """Say in two or three sentences what happened, and what to do."""
    return " ".join(filter(None, [_about_orders(run), _about_losses(run)]))


def _about_orders(run: RunRecord) -> str:
    orders, epochs, at, name = run.curve, run.history["epoch"], run.boundary_place, run.curve_name
    lowest, now = lowest_index(orders), orders[-1]
    if lowest is None:
        nothing = "No mean degree was" if run.is_sampled else "No salient interactions were"
        return f"{nothing} found in {_measured(run)}."
    if at is None:
        last, maybe = lowest == len(orders) - 1, run.suspected_place
        suspected = "" if maybe is None else f" One is suspected at {run.tell(maybe)}."
        return (
            f"No phase boundary was found in {_measured(run)}: the {name} was lowest ({orders[lowest]:.2f}) at "
            f"{run.tell(epochs[lowest])}, {'the last one' if last else f'and is {now:.2f} now'}.{suspected}"
        )
    turn = orders[nearest(epochs, at)]
    before = (
        f": the {name} fell from {orders[0]:.2f} to {turn:.2f} and then rose"
        if orders[0] > turn
        else f", with no fall of the {name} before it; it rose from {turn:.2f}"
    )
    return f"{_ended_at(run, at)}{before} to {now:.2f}, as the network learned ever higher orders."


def _about_losses(run: RunRecord) -> str:
    losses, epochs = run.column("val_loss"), run.history["epoch"]
    lowest = lowest_index(losses)
    if lowest is None:
        return ""
    best = run.tell(epochs[lowest])
    rose = f"from {losses[lowest]:.3g} at {best} to {losses[-1]:.3g} at {run.tell(epochs[-1])}"
    if run.overfitting_epoch is not None:
        return (
            f"The network overfitted: the validation loss went {rose}. Keep the checkpoint of {best}; more data "
            "or regularisation would help."
        )
    alarm = run.withdrawn_alarm
    early = f"The overfitting alarm of {run.tell(_alarm(alarm))} was withdrawn. " if alarm is not None else ""
    if lowest == len(losses) - 1:
        return f"{early}The validation loss is at its lowest now ({best}): train on."
    return (
        f"{early}The validation loss went {rose}, which is not overfitting yet. The checkpoint of {best} is the best "
        "so far."
    )


def summary(run: RunRecord) -> dict[str, str]:
    """Return the numbers one looks for first, by name; at least one epoch was measured."""
    epochs, losses, orders = run.history["epoch"], run.column("val_loss"), run.curve
    lowest, low = lowest_index(losses), lowest_index(orders)
    gaps, risk = finite(run.column("solver_gap")), run.column("overfitting_risk")[-1]
    rows = {
        "Phase boundary": _found_boundary(run),
        "Overfitting": _found_overfitting(run),
        "Overfitting risk": "unknown" if math.isnan(risk) else f"{risk:.2f} at the end",
        "Lowest validation loss": "none recorded"
        if lowest is None
        else f"{run.tell(epochs[lowest])} ({losses[lowest]:.3f}; at the end {losses[-1]:.3f})",
        run.curve_name.capitalize(): ("no score varied" if run.is_sampled else "no salient interactions")
        if low is None
        else f"{orders[0]:.2f} at the start, {orders[low]:.2f} at its lowest ({run.tell(epochs[low])}), "
        f"{orders[-1]:.2f} at the end",
    }
    if run.seconds:
        rows["Time spent"] = f"{run.seconds:.0f} s with logging and drawing, {run.seconds / len(epochs):.2f} s a record"
    if gaps:
        rows["Certificate"] = f"every split within {max(gaps):.1%} of the sparsest"
    return rows


def table(title: str, rows: Mapping[str, str]) -> str:
    """Set rows as text, below a title and with the values in one column."""
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def _found_boundary(run: RunRecord) -> str:
    at, maybe = run.boundary_place, run.suspected_place
    if at is None and maybe is not None:
        return f"suspected at {run.tell(maybe)}"
    return "none found" if at is None else run.tell(at)


def _found_overfitting(run: RunRecord) -> str:
    over, alarm = run.overfitting_place, run.withdrawn_alarm
    if alarm is not None:
        return f"alarm of {run.tell(_alarm(alarm))}, withdrawn in {alarm.unit} {alarm.detected_epoch}"
    return "none found" if over is None else f"found in {run.tell(over)}"


def finite(values: Sequence[float]) -> list[float]:
    """Leave out what is not finite."""
    return [value for value in values if math.isfinite(value)]


# -- an event ---------------------------------------------------------------------------------------------------------


def short_sentence(event: PhaseEvent) -> str:
    """Tell an event in one short sentence; ``event.message`` tells more."""
    e = event.evidence
    if event.kind in ("suspected", "boundary"):
        which = "boundary suspected" if event.kind == "suspected" else "phase boundary"
        what = (
            f"{which} at {tell_place(_turn(event), event.unit)}{_change(e, f'{followed(e)} rose', 'trough', 'level')}."
        )
    elif event.kind == "overfitting":
        best = e.get("best_val_epoch", math.nan)
        since = f" of {tell_place(best, event.unit)}" if math.isfinite(best) else ""
        rose = _change(e, "validation loss rose", "best_val_loss", "val_loss")
        what = f"overfitting{rose}. Keep the checkpoint{since}."
    elif event.retracts == "overfitting":
        low = f" (validation loss {e['val_loss']:.3g}, its lowest)" if "val_loss" in e else ""
        what = f"the overfitting alarm of {tell_place(_alarm(event), event.unit)} is withdrawn{low}."
    elif event.kind == "retracted":
        what = f"the phase boundary at {tell_place(_turn(event), event.unit)} is withdrawn."
    else:
        return event.message
    return f"{event.unit.capitalize()} {event.detected_epoch}: {what}"


def event_markdown(event: PhaseEvent) -> str:
    """Tell an event in Markdown: its sentence, and a table of the evidence.

    Example:
        >>> print(event_markdown(PhaseEvent("boundary", 3, 5, message="Epoch 5: it ended.", evidence={"z": 2.5})))
        **boundary** (epoch 3, found in epoch 5)
        <BLANKLINE>
        Epoch 5: it ended.
        <BLANKLINE>
        | evidence | value |
        | --- | ---: |
        | z | 2.5 |
    """
    later = f", found in {event.unit} {event.detected_epoch}" if event.epoch != event.detected_epoch else ""
    parts = [f"**{event.kind.replace('_', ' ')}** ({event.unit} {event.epoch}{later})", event.message]
    if event.evidence:
        rows = [f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in event.evidence.items()]
        parts.append("\n".join(["| evidence | value |", "| --- | ---: |", *rows]))
    return "\n\n".join(parts)


# -- words that return ------------------------------------------------------------------------------------------------


def _ended_at(run: RunRecord, place: float) -> str:
    return f"Low-order dominance ended at {run.tell(place)}"


def _turn(event: PhaseEvent) -> float:
    """Where the turning point is that an event speaks of: inside of its epoch, or at its end."""
    return exact_or(event.epoch, event.evidence.get("trough_epoch", math.nan))


def _alarm(event: PhaseEvent) -> float:
    """Where the alarm was given that an event withdraws."""
    return exact_or(event.epoch, event.evidence.get("alarm_epoch", math.nan))


def _measured(run: RunRecord) -> str:
    return count_records(run.history["epoch"], run.unit)


def _change(evidence: Mapping[str, float], what: str, before: str, after: str) -> str:
    if before not in evidence or after not in evidence:
        return ""
    return f" ({what} from {evidence[before]:.3g} to {evidence[after]:.3g})"
