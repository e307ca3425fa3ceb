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
from typing import TypeGuard


class InteractionsError(Exception):
    """Base of every error raised on purpose by ``lightning_interactions``."""


class ArgumentError(InteractionsError, ValueError):
    """An argument has a value the package cannot work with."""


class BatchError(InteractionsError, ValueError):
    """A batch, or the targets in it, cannot be read."""


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
