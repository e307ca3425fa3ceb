"""Every error and warning the package raises on purpose.

.. code-block:: text

    Exception
    └── InteractionsError            catch this one to catch them all
        ├── ArgumentError            an argument is wrong          (also a ValueError)
        ├── BatchError               a batch cannot be read        (also a ValueError)
        ├── ModelOutputError         the model's output is unusable (also a ValueError)
        ├── ModelCallError           the model fails when called   (also a RuntimeError)
        ├── StateError               a checkpoint does not fit     (also a RuntimeError)
        └── MeasureError             a measurement failed          (also a RuntimeError)
    UserWarning
    └── InteractionsWarning          something was worked around; training is unaffected
"""

from __future__ import annotations

import math
import os
import sys
import sysconfig
import warnings
from functools import cache
from typing import TypeGuard

_PACKAGE = __name__.partition(".")[0]
_OWN = os.path.dirname(os.path.abspath(__file__))


class InteractionsError(Exception):
    """Base of every error raised on purpose by ``lightning_interactions``."""


class ArgumentError(InteractionsError, ValueError):
    """An argument has a value the package cannot work with."""


class BatchError(InteractionsError, ValueError):
    """A batch, or the targets in it, cannot be read."""


class EmptyBatchError(BatchError):
    """A batch has no samples that count; others may."""


class ModelOutputError(InteractionsError, ValueError):
    """The model returned something that is not a ``(B, C)`` or ``(B,)`` tensor of scores."""


class ModelCallError(InteractionsError, RuntimeError):
    """The model raised an error when the monitor called it."""


class StateError(InteractionsError, RuntimeError):
    """A restored checkpoint was written with settings that differ from the present ones."""


class MeasureError(InteractionsError, RuntimeError):
    """A measurement failed, on this rank or on another."""


class InteractionsWarning(UserWarning):
    """Something was worked around or skipped; the training run itself is unaffected."""


def bad_argument(name: str, expected: str, got: object, hint: str = "") -> ArgumentError:
    """Build the error of every argument check: ``expected`` completes "to be ...", ``hint`` is a sentence of advice."""
    return ArgumentError(f"Expected argument `{name}` to be {expected}, but got {got!r}.{' ' + hint if hint else ''}")


def is_whole(value: object, least: float = -math.inf) -> TypeGuard[int]:
    """Whether a value is an integer, not below ``least``; ``True`` and ``False`` are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is an integer or a float, which need not be finite; ``True`` and ``False`` are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def sentence(text: str) -> str:
    """End a text with a full stop, unless it ends a sentence already: nested messages mostly do.

    Example:
        >>> sentence("It failed: no file"), sentence("It failed: Give another one.")
        ('It failed: no file.', 'It failed: Give another one.')
    """
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else text + "."


def warn(text: str) -> None:
    """Warn as from the line of the user's own code that led here: a line of a library helps nobody.

    That is the innermost one outside of this package and of whatever is installed, such as Lightning; in a training it
    is the call of ``fit``. Where there is none (a console script) the warning is that of the package, without a path.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_of_a_library(frame.f_code.co_filename):
        frame = frame.f_back
    if _is_of_a_library(frame.f_code.co_filename):
        warnings.warn_explicit(text, InteractionsWarning, _PACKAGE, 0, _PACKAGE)
        return
    told = frame.f_globals.setdefault("__warningregistry__", {})  # as `warnings.warn` does, for filters such as "once"
    module = frame.f_globals.get("__name__")
    warnings.warn_explicit(text, InteractionsWarning, frame.f_code.co_filename, frame.f_lineno, module, told)


@cache
def _is_of_a_library(file: str) -> bool:
    places = [_OWN, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))]
    parts = file.replace(os.sep, "/").split("/")
    installed = "site-packages" in parts or "dist-packages" in parts
    return installed or file.startswith(("<frozen ", *(os.path.join(place, "") for place in places)))
