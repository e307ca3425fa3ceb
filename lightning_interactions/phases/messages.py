"""The sentences in which :class:`~lightning_interactions.phases.PhaseDetector` tells its events.

Each takes the place of detection (see `tell_place`), the evidence (see :attr:`PhaseDetector.evidence`) and what places
are counted in, and ends with what to do.
"""

from __future__ import annotations

from collections.abc import Mapping

from lightning_interactions.phases.epochs import Unit, begin_with_place, tell_place

# Not "go back to the boundary": it is an early marker, and the validation loss mostly falls on for a while.
_ADVICE = "From here on keep the checkpoint of the lowest validation loss; more data or regularisation would help."
_ADVICE_WITHOUT_LOSS = "Keep checkpoints from here on and validate if you can; more data or regularisation would help."


CURVES = {"mean_order": "mean order", "mean_degree": "sampled mean degree"}
"""What people call the curve that is followed, by its key in the evidence, which is that in the history too."""


def followed(e: Mapping[str, float]) -> str:
    """Name the curve that was followed.

    Example:
        >>> followed({"mean_order": 1.5}), followed({"mean_degree": 1.5})
        ('mean order', 'sampled mean degree')
    """
    return next((name for key, name in CURVES.items() if key in e), CURVES["mean_order"])


def suspected_message(epoch: float, e: Mapping[str, float], unit: Unit = "epoch") -> str:
    """Say that low-order dominance may have ended."""
    return (
        f"{begin_with_place(epoch, unit)}: low-order dominance may have ended ({followed(e)} {e['trough']:.2f} at "
        f"{tell_place(e['trough_epoch'], unit)}, now {e['level']:.2f}; e-value {e['e_value']:.2g}). Nothing to do yet."
    )


def boundary_message(epoch: float, e: Mapping[str, float], unit: Unit = "epoch") -> str:
    """Say where low-order dominance ended."""
    start = "" if e["fall"] > 0 else ", with no fall before it"
    widened = f" and the loss gap began to widen ({e['gap_low']:.3g} to {e['gap']:.3g})" if "gap" in e else ""
    return (
        f"{begin_with_place(epoch, unit)}: low-order dominance ended ({followed(e)} rose from {e['trough']:.2f} at "
        f"{tell_place(e['trough_epoch'], unit)} to {e['level']:.2f}, z = {e['z']:.1f}{start}){widened}: the network "
        f"has started to learn over-fitted features. {_advice(e)}"
    )


def overfitting_message(epoch: float, e: Mapping[str, float], unit: Unit = "epoch") -> str:
    """Say that the losses show overfitting, how sure that is, and which checkpoint to keep."""
    best = tell_place(e["best_val_epoch"], unit)
    # Without a training loss the validation loss stands for the gap.
    gap = "" if e["gap"] == e["val_loss"] else f", loss gap from {e['gap_low']:.3g} to {e['gap']:.3g}"
    return (
        f"{begin_with_place(epoch, unit)}: the network is overfitting (validation loss rose from "
        f"{e['best_val_loss']:.3g} at {best} to {e['val_loss']:.3g}, {tell_rise(e)}{gap}). "
        f"Go back to the checkpoint of {best}; stop, or add data or regularisation."
    )


def tell_rise(e: Mapping[str, float]) -> str:
    """Say by how much the validation loss is above its lowest, with the standard error where it is known.

    Example:
        >>> tell_rise({"val_loss": 1.12, "best_val_loss": 1.0, "val_growth_error": 0.038, "growth_unit": 1.0})
        '+12.0 % +- 3.8 %'
    """
    percent = 100 / (abs(e["best_val_loss"]) or e["growth_unit"])
    error = f" +- {percent * e['val_growth_error'] * e['growth_unit']:.1f} %" if "val_growth_error" in e else ""
    return f"{percent * (e['val_loss'] - e['best_val_loss']):+.1f} %{error}"


def boundary_retracted_message(epoch: float, e: Mapping[str, float], unit: Unit = "epoch") -> str:
    """Say that a boundary is withdrawn."""
    return (
        f"{begin_with_place(epoch, unit)}: the boundary at {tell_place(e['trough_epoch'], unit)} is withdrawn "
        f"({followed(e)} fell from {e['trough']:.2f} there to {e['level']:.2f}, z = {e['z']:.1f}): low orders are "
        f"being learned again. Go on training; the search for the turning point resumes."
    )


def overfitting_retracted_message(epoch: float, e: Mapping[str, float], unit: Unit = "epoch") -> str:
    """Say that an alarm is withdrawn; ``e`` holds ``alarm_epoch`` and ``alarm_low`` besides the usual numbers."""
    return (
        f"{begin_with_place(epoch, unit)}: the overfitting alarm of {tell_place(e['alarm_epoch'], unit)} is withdrawn "
        f"(validation loss {e['best_val_loss']:.3g}, below the {e['alarm_low']:.3g} it had risen from): the network "
        f"still gets better. Go on training; the checkpoint of {tell_place(e['best_val_epoch'], unit)} is the best so "
        "far."
    )


def _advice(e: Mapping[str, float]) -> str:
    return _ADVICE if "val_loss" in e else _ADVICE_WITHOUT_LOSS
