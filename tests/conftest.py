"""What every test can rely on: no display, one thread, random states as they were before, and no unexpected warning."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from lightning_interactions import InteractionsWarning

os.environ["MPLBACKEND"] = "Agg"  # before anything imports pyplot
torch.set_num_threads(1)  # small models are slower on several, and workers side by side all the more

# The same examples in every run, however slow the machine: a failure can be repeated by anyone.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")

TESTS = Path(__file__).resolve().parent
ROOMS = {path.parent.name for path in (TESTS.parent / "lightning_interactions").glob("*/__init__.py")}


def is_fast(item: pytest.Item) -> bool:
    """Whether a test belongs to a room, or is a doctest, and is not marked as one that takes long."""
    if any(item.get_closest_marker(name) for name in ("slow", "thorough")):
        return False
    return isinstance(item, pytest.DoctestItem) or item.path.relative_to(TESTS).parts[0] in ROOMS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is fast; tests marked ``cuda`` are written here once and run wherever there is such a device."""
    for item in items:
        if is_fast(item):
            item.add_marker("fast")
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test in which the package warns unexpectedly: where warnings are errors, the monitor only logs its own."""
    with warnings.catch_warnings(record=True) as caught:
        result = yield
    ours = [str(w.message) for w in caught if issubclass(w.category, InteractionsWarning)]
    for w in caught:
        if not issubclass(w.category, InteractionsWarning):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno, source=w.source)
    if ours:
        pytest.fail("the test does not expect that the package warns: " + "; ".join(ours), pytrace=False)
    return result


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
