"""What a notebook shows while a run goes on. IPython is there already, or there is no notebook."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from lightning_interactions.errors import ArgumentError
from lightning_interactions.metrics.drawing import png_of
from lightning_interactions.pictures.card import STYLE
from lightning_interactions.report.figures import run_figure
from lightning_interactions.report.record import RunRecord
from lightning_interactions.report.words import summary

LEAST_SECONDS = 2.0
"""Between two drawings: one takes a tenth of that."""


def run_html(name: str, run: RunRecord, cards: Sequence[str]) -> str:
    """Show a run in the output of a cell: its numbers, its figure, and cards of samples."""
    rows = [f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in summary(run).items()]
    figure = base64.b64encode(png_of(run_figure(run))).decode()
    alt = "Strength by order at three epochs, share of every order over epochs, and the losses"
    if run.is_sampled:
        alt = "Sampled mean degree with its band, spread of the scores, and the losses over epochs"
    return (
        f"<table><caption>{escape(name)}</caption>{''.join(rows)}</table>"
        f'<img alt="{alt}" src="data:image/png;base64,{figure}"><style>{STYLE}</style>{"".join(cards)}'
    )


class LiveFigure:
    """The figure of a run in the output of a notebook's cell, drawn anew as records come in.

    Raises:
        ArgumentError: Outside of a notebook.
    """

    def __init__(self) -> None:
        self._handle = _display("<p>TwoPhaseMonitor: nothing measured so far</p>")
        self._drawn = -LEAST_SECONDS

    def update(self, record: Callable[[], RunRecord], *, last: bool = False) -> None:
        """Draw the run, unless that was done just now; ``last``: it is over."""
        now = time.monotonic()
        if last or now - self._drawn >= LEAST_SECONDS:
            from IPython.display import Image

            self._handle.update(Image(data=png_of(run_figure(record()))))
            self._drawn = time.monotonic()


def _display(html: str) -> Any:
    """Show something that can be replaced later."""
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display

        handle = display(HTML(html), display_id=True) if get_ipython() is not None else None
    except ImportError:
        handle = None
    if handle is None:
        raise ArgumentError(
            "Expected argument `live` to be False outside of a notebook. Call `plot()` again for a newer figure."
        )
    return handle
