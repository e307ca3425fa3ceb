"""Models that keep something in forward train as without the monitor, bit by bit; on two ranks: test_strategies.py."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
from identity import Spy, assert_identical, outcome
from models import fit, listening, small_monitor
from stateful import STATEFUL, StatefulNet

OPTIONS = {"lazy-layers": {"num_sanity_val_steps": 0}}  # they cannot train if they are built in inference mode


ONLY_AT_VALIDATIONS = dict.fromkeys(("hidden-state", "hidden-state-left-over"), "asked at validations only")
"""In the middle of an epoch these hold the state of a training batch, and take no batch of another size."""

INSIDE = ONLY_AT_VALIDATIONS | {"hidden-state-by-size": "rounding noise of the forward passes may exceed"}
"""The last goes on with that state in batches of that size, and in no others: its answers depend on the chunks."""


def left_by(name: str, monitor: L.Callback | None, *, inside: bool = False, **options: Any) -> dict[str, Any]:
    """What is left of a training, the model's own memory included; of random answers the monitor tells."""
    spy = Spy()
    with listening() as told:
        trainer = fit(monitor, model=STATEFUL[name], callbacks=(spy,), seed=7, **(OPTIONS.get(name, {}) | options))
    kinds = {"own-generators": "answers otherwise than in the step"} | (INSIDE if inside else {})
    assert [kinds.get(name, "nothing") in text for text in told] == [True] * len(told)
    assert bool(told) == (name in kinds and monitor is not None)
    module = trainer.lightning_module
    assert isinstance(module, StatefulNet)
    return outcome(trainer, spy) | {"memory": module.memory()}


@pytest.mark.parametrize("name", STATEFUL)
def test_training_of_a_stateful_model_is_bit_identical(name: str) -> None:
    monitor = small_monitor()
    with_monitor = left_by(name, monitor)
    assert len(monitor.history) == 3, "it must have measured, or the comparison says nothing"
    assert_identical(left_by(name, None), with_monitor)


@pytest.mark.parametrize("name", STATEFUL)
def test_it_is_in_the_middle_of_an_epoch_and_on_both_splits(name: str) -> None:
    monitor = small_monitor(watch="both")
    with_monitor = left_by(name, monitor, val_check_interval=0.5, accumulate_grad_batches=2)
    assert len(monitor.history) == 6
    assert_identical(left_by(name, None, val_check_interval=0.5, accumulate_grad_batches=2), with_monitor)


@pytest.mark.parametrize("name", STATEFUL)
def test_it_is_in_the_default_rhythm(name: str) -> None:
    monitor = small_monitor(every_n_epochs=None, on_event=None)
    with_monitor = left_by(name, monitor, inside=True)
    epochs = monitor.history.column("epoch")
    if name in ONLY_AT_VALIDATIONS:
        assert epochs == [-1, 0, 1, 2]
    else:  # the lazy layers train without a sanity check
        assert epochs == [x / 4 for x in range(0 if name == "lazy-layers" else -4, 9)]
    assert_identical(left_by(name, None), with_monitor)


@pytest.mark.parametrize("name", sorted(set(STATEFUL) - {"lazy-layers", "spectral-hook", "spectral-parametrization"}))
def test_a_forward_pass_that_left_a_trace_would_be_seen(name: str) -> None:
    """The same comparison finds a callback that simply calls the model after a validation."""

    class Careless(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
            if index == 2:
                net, mode = module.net, module.net.training
                net.eval()
                module(batch[0] + 1)
                net.train(mode)

    with pytest.raises(AssertionError):
        assert_identical(left_by(name, None), left_by(name, Careless()))
