"""The sentences in which :class:`~lightning_interactions.phases.PhaseDetector` tells its events.

Each takes the place of detection (see `tell_epoch`) and the evidence (see :attr:`PhaseDetector.evidence`), and ends
with what to do.
"""

from __future__ import annotations

from collections.abc import Mapping

from lightning_interactions.phases.epochs import begin_with_epoch, tell_epoch

# Not "go back to the boundary": it is an early marker, and the validation loss mostly falls on for a while.
_ADVICE = "From here on keep the checkpoint of the lowest validation loss; more data or regularisation would help."
_ADVICE_WITHOUT_LOSS = "Keep checkpoints from here on and validate if you can; more data or regularisation would help."


def boundary_message(epoch: float, e: Mapping[str, float]) -> str:
    """Say where low-order dominance ended; ``e`` holds ``significant`` besides the usual numbers."""
    trough = tell_epoch(e["trough_epoch"])
    if not e["significant"]:
        return (
            f"{begin_with_epoch(epoch)}: phase 2 has begun by the losses, which show overfitting; the mean order was "
            f"lowest at {trough} ({e['trough']:.2f}) and has not risen significantly ({e['level']:.2f}, "
            f"z = {e['z']:.1f}). {_advice(e)}"
        )
    start = "" if e["fall"] > 0 else ", with no fall before it"
    widened = f" and the loss gap began to widen ({e['gap_low']:.3g} to {e['gap']:.3g})" if "gap" in e else ""
    return (
        f"{begin_with_epoch(epoch)}: low-order dominance ended (mean order rose from {e['trough']:.2f} at {trough} to "
        f"{e['level']:.2f}, z = {e['z']:.1f}{start}){widened}: the network has started to learn over-fitted features. "
        f"{_advice(e)}"
    )


def overfitting_message(epoch: float, e: Mapping[str, float]) -> str:
    """Say that the losses show overfitting, and which checkpoint to keep."""
    best = tell_epoch(e["best_val_epoch"])
    # Without a training loss the validation loss stands for the gap.
    gap = "" if e["gap"] == e["val_loss"] else f", loss gap from {e['gap_low']:.3g} to {e['gap']:.3g}"
    return (
        f"{begin_with_epoch(epoch)}: the network is overfitting (validation loss rose from {e['best_val_loss']:.3g} at "
        f"{best} to {e['val_loss']:.3g}{gap}). "
        f"Go back to the checkpoint of {best}; stop, or add data or regularisation."
    )


def retracted_message(epoch: float, e: Mapping[str, float]) -> str:
    """Say that a boundary is withdrawn."""
    return (
        f"{begin_with_epoch(epoch)}: the boundary at {tell_epoch(e['trough_epoch'])} is withdrawn (mean order fell "
        f"from {e['trough']:.2f} there to {e['level']:.2f}, z = {e['z']:.1f}): low orders are being learned again. "
        f"Go on training; the search for the turning point resumes."
    )


def _advice(e: Mapping[str, float]) -> str:
    return _ADVICE if "val_loss" in e else _ADVICE_WITHOUT_LOSS
