"""What is done inside `quiet` in tests of what it leaves behind, whether it ends well or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from lightning_interactions.model.quiet import quiet


class BoomError(Exception):
    """Raised inside the context on purpose."""


def run(model: nn.Module, body: Callable[[], object], *, fails: bool) -> None:
    try:
        with quiet(model):
            body()
            if fails:
                raise BoomError
    except BoomError:
        assert fails


however = pytest.mark.parametrize("fails", [False, True], ids=["ends well", "raises"])
