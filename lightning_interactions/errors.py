"""Every error and warning the package raises on purpose.

.. code-block:: text

    Exception
    └── InteractionsError            catch this one to catch them all
        ├── ArgumentError            an argument is wrong          (also a ValueError)
        ├── BatchError               a batch cannot be read        (also a ValueError)
        ├── ModelOutputError         the model's output is unusable (also a ValueError)
        └── StateError               a checkpoint does not fit     (also a RuntimeError)
    UserWarning
    └── InteractionsWarning          something was worked around; training is unaffected
"""

from __future__ import annotations


class InteractionsError(Exception):
    """Base of every error raised on purpose by ``lightning_interactions``."""


class ArgumentError(InteractionsError, ValueError):
    """An argument has a value the package cannot work with."""


class BatchError(InteractionsError, ValueError):
    """A batch, or the targets in it, cannot be read."""


class ModelOutputError(InteractionsError, ValueError):
    """The model returned something that is not a ``(B, C)`` or ``(B,)`` tensor of scores."""


class StateError(InteractionsError, RuntimeError):
    """A restored checkpoint was written with settings that differ from the present ones."""


class InteractionsWarning(UserWarning):
    """Something was worked around or skipped; the training run itself is unaffected."""


def bad_argument(name: str, expected: str, got: object, hint: str = "") -> ArgumentError:
    """Build the one error text every argument check uses.

    Args:
        name: The argument as the user wrote it.
        expected: What would have been accepted, completing "to be ...".
        got: The value that came; shown with ``repr``.
        hint: What to do about it, as a sentence.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> str(bad_argument("num_players", "an integer from 2 to 16", 40, "Use fewer players."))
        'Expected argument `num_players` to be an integer from 2 to 16, but got 40. Use fewer players.'
    """
    return ArgumentError(f"Expected argument `{name}` to be {expected}, but got {got!r}.{' ' + hint if hint else ''}")
