"""Ranks that ask a split model in step: none waits for one that is gone, whatever each has to do. Ranks are threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import mlp, on_ranks
from torch import Tensor, nn

from lightning_interactions.errors import MeasureError
from lightning_interactions.measure.ranks import Ranks
from lightning_interactions.model.chunks import ChunkSize
from lightning_interactions.model.lockstep import GaveUpError, Lockstep
from lightning_interactions.model.shards import dtype_inside, is_split


class Collective:
    """Passes that need all ranks: each counts those it took part in, and notes with whom it met."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.passes = ranks, 0
        self.lockstep = Lockstep(nn.Identity(), lambda own: ranks.gather(own[None]))
        self.lockstep.remember(self.take_part)

    def take_part(self) -> None:
        self.passes += 1
        met = self.ranks.gather(torch.tensor([7]))  # what all ranks must reach together
        assert met.tolist() == [7] * self.ranks.world_size

    def ask(self) -> None:
        self.lockstep.call(self.take_part)


PLANS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "", "", "before", "after"])), min_size=2, max_size=3)


@given(plans=PLANS, sections=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_all_make_as_many_passes_and_all_give_up_together(plans: list[tuple[int, str]], sections: int) -> None:
    def work(ranks: Ranks) -> tuple[int, str]:
        model, (passes, fault) = Collective(ranks), plans[ranks.rank]
        outcome = "done"
        for _ in range(sections):
            try:
                with model.lockstep.section():
                    if fault == "before":
                        raise ValueError("mine")
                    for _ in range(passes):
                        model.ask()
                    if fault == "after":
                        raise ValueError("mine")
            except (ValueError, GaveUpError) as error:
                outcome = str(error)
        return model.passes, outcome

    found = on_ranks(len(plans), work)
    assert not [x for x in found if not isinstance(x, tuple)], found
    assert len({passes for passes, _ in found}) == 1
    faulty = [bool(fault) for _, fault in plans]
    told = [outcome for _, outcome in found]
    well = [x for x, own in zip(told, faulty, strict=True) if not own]
    assert well == ["another rank failed" if any(faulty) else "done"] * len(well)
    # Who would fail later may hear of another one first.
    assert {x for x, own in zip(told, faulty, strict=True) if own} <= {"mine", "another rank failed"}
    assert ("mine" in told) == any(faulty)
    if not any(faulty):
        assert found[0][0] == sections * max(passes for passes, _ in plans)


def test_work_done_together_tells_all_ranks_what_went_wrong_on_one() -> None:
    def work(ranks: Ranks) -> str:
        model = Collective(ranks)
        together = Ranks(ranks.rank, ranks.world_size, ranks.gather, ranks.gather_objects, model.lockstep)
        try:
            with together.together():
                for _ in range(3):
                    if ranks.rank == 1 and model.passes == 1:
                        raise KeyError("no mask")
                    model.ask()
        except MeasureError as error:
            return str(error)
        return "done"

    assert on_ranks(2, work) == ["on rank 1: KeyError: 'no mask'", "KeyError: 'no mask'"]


@pytest.mark.parametrize("prepared", [True, False])
def test_memory_that_runs_out_on_one_rank_makes_the_passes_of_all_smaller(prepared: bool) -> None:
    def work(ranks: Ranks) -> list[int]:
        model, sizes = Collective(ranks), []
        chunks = ChunkSize(16, lockstep=model.lockstep)

        def step(position: int, at_most: int) -> int:
            def ask() -> None:
                model.take_part()
                if ranks.rank == 0 and at_most > 4:
                    raise MemoryError

            if not prepared and ranks.rank == 0 and at_most > 4:  # before the pass: masked inputs need memory too
                raise MemoryError
            model.lockstep.call(ask)
            sizes.append(at_most)
            return at_most

        with model.lockstep.section():
            chunks.run(64, step, torch.device("cpu"))
        return sizes

    first, second = on_ranks(2, work)
    assert first[:4] == [4] * 4
    assert second[:6] == [16, 8, 4, 4, 4, 4], "they follow before the next pass"


class Engine(nn.Module):
    """Wraps a module as FSDP does: its weights are there only while its own forward runs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.here = False

    def forward(self, *inputs: Tensor) -> Any:
        self.here = True
        try:
            return self.module(*inputs)
        finally:
            self.here = False


@pytest.mark.parametrize("own_forward", [False, True])
def test_what_wraps_a_module_is_called_in_its_place(own_forward: bool) -> None:
    net = mlp()
    if own_forward:  # somebody has put another one on the instance
        net.forward = nn.Sequential.forward.__get__(net)  # type: ignore[method-assign]
    engine = Engine(net)
    before = dict(net.__dict__)

    def ask(*inputs: Tensor) -> Tensor:
        assert engine.here
        return net(inputs[0]) + inputs[1]

    lockstep = Lockstep(net, lambda own: own[None], wrapper=engine)
    through: Callable[..., Tensor] = lockstep.through(ask)
    x = torch.randn(4, 5)
    assert torch.equal(through(x, torch.ones(3)), net(x) + 1)
    assert net.__dict__ == before
    with pytest.raises(AssertionError):
        ask(x, x)


def test_a_module_that_is_whole_needs_no_lockstep() -> None:
    assert not is_split(mlp())
    assert dtype_inside(mlp()) is None
    assert Lockstep.of(mlp()) is None
