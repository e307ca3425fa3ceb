"""What every test can rely on: no display, and random states as they were before it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"  # before anything imports pyplot

# The same examples in every run, however slow the machine: a failure can be repeated by anyone.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``cuda`` are written here once and run wherever there is such a device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def random_states() -> Iterator[None]:
    """Give every test the same random numbers, and leave none of its own behind."""
    python, numpy, torch_ = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()  # a Trainer may switch it on, and does so for good
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_)
    torch.use_deterministic_algorithms(deterministic)
