"""Masked forwards: the values of a plain double loop, whatever the chunks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import Recorder, cnn, mlp
from oracles import values_by_loops
from torch import Tensor, nn

from lightning_interactions.errors import ModelOutputError
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.samples import Samples, draw_players, join
from lightning_interactions.measure.values import count_cells, evaluate_coalitions, score_rows, table_of
from lightning_interactions.model.chunks import MAX_CHUNK, default_chunk_size
from lightning_interactions.model.layer import LayerCut
from lightning_interactions.model.memory import is_out_of_memory
from lightning_interactions.model.score import ScoreFn, log_odds, logit
from lightning_interactions.players import ImagePatches, TabularFeatures

N = 4
SAMPLES = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
TARGETS = torch.tensor([0, 1, 2, 0, 1])
MASKER = TabularFeatures("zero")
PLAYERS = draw_players(MASKER, Samples(SAMPLES, TARGETS, content_keys(SAMPLES)), N)[0]


def evaluate(model: nn.Module, chunk_size: int | None = None, score: ScoreFn = log_odds, **kwargs) -> Tensor:
    with torch.no_grad():
        return evaluate_coalitions(
            model, SAMPLES, PLAYERS, TARGETS, masker=MASKER, num_players=N, score=score, chunk_size=chunk_size, **kwargs
        )


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 16, 33, 64, 10_000, None])
def test_values_equal_a_plain_double_loop(chunk_size: int | None) -> None:
    model = mlp(features=6)
    found = evaluate(model, chunk_size)
    assert found.dtype == torch.float64
    assert found.shape == (5, 16)
    torch.testing.assert_close(found, values_by_loops(model, SAMPLES, PLAYERS, TARGETS, N), rtol=1e-5, atol=1e-6)


def test_values_of_images_equal_a_plain_double_loop() -> None:
    model, samples, targets = cnn(), torch.randn(2, 1, 8, 8), torch.tensor([2, 0])
    masker = ImagePatches(grid=3)
    players = draw_players(masker, Samples(samples, targets, content_keys(samples)), N)[0]
    with torch.no_grad():
        found = evaluate_coalitions(
            model, samples, players, targets, masker=masker, num_players=N, score=log_odds, chunk_size=9
        )
    torch.testing.assert_close(found, values_by_loops(model, samples, players, targets, N), rtol=1e-5, atol=1e-6)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 200))
def test_every_cell_is_visited_once_in_chunks_that_fit(samples: int, n: int, chunk_size: int) -> None:
    rows: list[int] = []

    def model(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x  # with a weight for every player, the score spells the sample and the coalition

    x = torch.arange(1.0, samples + 1).unsqueeze(1) * 2 ** torch.arange(float(n))
    found = evaluate_coalitions(
        model,
        x,
        torch.arange(n).expand(samples, n),
        torch.zeros(samples, dtype=torch.long),
        masker=MASKER,
        num_players=n,
        score=lambda logits, targets: logits.sum(1),
        chunk_size=chunk_size,
    )
    assert torch.equal(found, torch.arange(1.0, samples + 1).unsqueeze(1).double() * torch.arange(2**n))
    assert sum(rows) == samples * 2**n
    assert max(rows) <= chunk_size
    # equal shapes: a compiled or tuned model sees at most two
    assert len(set(rows)) <= 2


@pytest.mark.thorough
@given(st.data(), st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 40))
def test_shares_put_together_are_the_whole_table(data: st.DataObject, counts: list[int], chunk_size: int) -> None:
    """Samples with different numbers of players, cut at any cells."""
    rows: list[int] = []

    def model(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x

    n, size = max(counts), len(counts)
    x = torch.arange(1.0, size + 1).unsqueeze(1) * 2 ** torch.arange(float(n))
    players = torch.stack([torch.arange(n).where(torch.arange(n) < count, -1) for count in counts])
    options = {"masker": MASKER, "num_players": n, "score": lambda z, y: z.sum(1), "chunk_size": chunk_size}
    targets = torch.zeros(size, dtype=torch.long)
    whole = evaluate_coalitions(model, x, players, targets, **options)
    total = sum(2**count for count in counts)
    assert count_cells(players) == total == sum(rows)
    cuts = sorted({0, total, *data.draw(st.lists(st.integers(0, total), max_size=3))})
    shares = [evaluate_coalitions(model, x, players, targets, cells=range(*ends), **options) for ends in pairwise(cuts)]
    assert sum(rows) == 2 * total, "nothing runs twice"
    assert torch.equal(table_of(torch.cat(shares), players, n), whole)


@pytest.mark.parametrize("layer", [None, "0", "1"])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 16, 50])
def test_no_forward_is_larger_than_the_chunk(layer: str | None, chunk_size: int) -> None:
    model = mlp(features=6)
    recorder = Recorder(model)
    largest: list[int] = []
    model[2].register_forward_hook(lambda module, args, output: largest.append(len(output)))
    masker = TabularFeatures("zero")
    cut = LayerCut(model, layer) if layer else None
    masked = SAMPLES if cut is None else cut.features(model, SAMPLES)
    players = draw_players(masker, Samples(masked, TARGETS, content_keys(SAMPLES)), N)[0]
    largest.clear()
    with torch.no_grad():
        evaluate_coalitions(
            recorder, SAMPLES, players, TARGETS,
            masker=masker, num_players=N, score=log_odds, chunk_size=chunk_size, cut=cut,
        )  # fmt: skip
    most = chunk_size if cut is None else max(chunk_size, 2)  # models that squeeze mistake a single row
    assert max(recorder.rows) <= most
    assert max(largest) <= most


def test_the_default_chunk_shrinks_with_the_input() -> None:
    assert default_chunk_size(torch.zeros(9, 2)) == MAX_CHUNK
    assert default_chunk_size(torch.zeros(9, 3, 32, 32)) == 2**22 // 3072
    assert default_chunk_size(torch.zeros(1).expand(9, 3, 2048, 2048)) == 32


# -- memory ----------------------------------------------------------------------------------------------------------

MEMORY_ERRORS = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "runtime": RuntimeError("MPS backend out of memory"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", MEMORY_ERRORS.values(), ids=MEMORY_ERRORS.keys())
@pytest.mark.parametrize("limit", [1, 6, 30])
def test_chunks_are_halved_until_memory_suffices(error: Exception, limit: int) -> None:
    model = mlp(features=6)
    expected = evaluate(model)
    recorder = Recorder(model, limit, error)
    torch.testing.assert_close(evaluate(recorder, 64), expected, rtol=1e-6, atol=1e-7)
    sizes = sorted(set(recorder.rows), reverse=True)
    assert sizes[0] > limit >= min(sizes)
    assert all(a <= 2 * b for a, b in pairwise(sizes) if b >= limit)


def test_memory_may_run_out_before_the_layer() -> None:
    model = mlp(features=6)
    cut, masker = LayerCut(model, "1"), TabularFeatures("zero")
    players = draw_players(masker, Samples(cut.features(model, SAMPLES), TARGETS, content_keys(SAMPLES)), N)[0]
    found = []
    for forward in (model, Recorder(model, 2)):
        with torch.no_grad():
            found.append(
                evaluate_coalitions(
                    forward, SAMPLES, players, TARGETS, masker=masker, num_players=N, score=log_odds, cut=cut
                )
            )
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    recorder = Recorder(mlp(features=6), 0)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(recorder, 8)
    assert recorder.rows == [8, 4, 2, 1]


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError("x")]
)
def test_other_errors_are_not_retried(error: Exception) -> None:
    recorder = Recorder(mlp(features=6), 0, error)
    with pytest.raises(type(error)):
        evaluate(recorder, 8)
    assert recorder.rows == [8]


@pytest.mark.parametrize(("error", "expected"), [(e, True) for e in MEMORY_ERRORS.values()] + [
    (RuntimeError("CUDA error: device-side assert triggered"), False), (ValueError("x"), False)])  # fmt: skip
def test_errors_about_memory_are_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


# -- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("chunk_size", [1, 16, None])
def test_values_that_are_not_finite_stay_in_the_row_of_their_sample(bad: float, chunk_size: int | None) -> None:
    model = mlp(features=6)

    class Poisoned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            full = (x == SAMPLES[2]).all(1, keepdim=True)
            return torch.where(full, bad, model(x))

    players = PLAYERS.clone()
    players[2] = torch.arange(6).clamp(max=N - 1)  # so that the full coalition is the sample itself
    with torch.no_grad():
        found, expected = (
            evaluate_coalitions(
                m, SAMPLES, players, TARGETS, masker=MASKER, num_players=N, score=log_odds, chunk_size=chunk_size
            )
            for m in (Poisoned(), model)
        )
    assert not found[2, -1].isfinite()
    finite = torch.ones_like(found, dtype=torch.bool)
    finite[2, -1] = False
    torch.testing.assert_close(found[finite], expected[finite])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda x: x[:-1, :3], r"one row of logits per input \(16\).*returned 15"),
        (lambda x: x[:1, :3], "returned 1"),
        (lambda x: x.mean(), r"shape \(\)"),
        (lambda x: (x.sum(), x.long()), "tuple"),
        (lambda x: x.long(), "int64"),
    ],
    ids=["a row short", "one row", "a loss", "tuple", "integers"],
)
def test_outputs_that_are_no_logits_are_refused(model, says: str) -> None:
    with pytest.raises(ModelOutputError, match=says):
        evaluate(model, 16)


@pytest.mark.parametrize(
    ("score", "shape"),
    [(lambda z, y: z, (16, 3)), (lambda z, y: logit(z, y).mean(), ()), (lambda z, y: logit(z, y)[:3], (3,))],
    ids=["matrix", "mean", "too few"],
)
def test_scores_of_another_shape_are_refused(score: ScoreFn, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelOutputError) as caught:
        evaluate(mlp(features=6), 16, score)
    assert "`score`" in str(caught.value)
    assert str(shape) in str(caught.value)


def test_a_score_sees_matching_logits_and_targets() -> None:
    rows = score_rows(torch.eye(4), torch.tensor([0, 2]), 2, lambda z, y: z.argmax(1) * 10.0 + y)
    assert rows.tolist() == [[0.0, 10.0], [22.0, 32.0]]


# -- what is carried along, and images of different sizes --------------------------------------------------------------


class Carrying(nn.Module):
    """Needs two more tensors of every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(features=6)

    def forward(self, x: Tensor, kind: Tensor, weights: Tensor) -> Tensor:
        return self.net(x * (1 + kind.unsqueeze(1))) + weights


CARRIED = (torch.tensor([0, 2, 1, 1, 3]), torch.randn(5, 3, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("layer", [None, "net.0", "net.1"])
@pytest.mark.parametrize("chunk_size", [1, 7, 16, 40, None])
def test_what_is_carried_along_goes_with_every_coalition(layer: str | None, chunk_size: int | None) -> None:
    model = Carrying().eval()
    cut = LayerCut(model, layer) if layer else None
    with torch.no_grad():
        masked = SAMPLES if cut is None else cut.features(model, SAMPLES, CARRIED)
        if cut is not None:
            cut.check(model, SAMPLES, CARRIED)
        players = draw_players(MASKER, Samples(masked, TARGETS, content_keys(SAMPLES)), N)[0]
        options = {"masker": MASKER, "num_players": N, "score": log_odds, "cut": cut}
        found = evaluate_coalitions(
            model, SAMPLES, players, TARGETS, chunk_size=chunk_size, carried=CARRIED, **options
        )  # fmt: skip
        for i in range(5):
            own = slice(i, i + 1)
            alone = evaluate_coalitions(
                model, SAMPLES[own], players[own], TARGETS[own], carried=[x[own] for x in CARRIED], **options
            )  # fmt: skip
            torch.testing.assert_close(found[own], alone, rtol=1e-5, atol=1e-5)
    if cut is None:
        for i in range(5):
            fixed = lambda x, i=i: model(x, CARRIED[0][i : i + 1], CARRIED[1][i : i + 1])  # noqa: E731
            expected = values_by_loops(fixed, SAMPLES[i : i + 1], players[i : i + 1], TARGETS[i : i + 1], N)
            torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-5, atol=1e-5)


class AnySize(nn.Module):
    """Takes images of any size, and tells whether they were padded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        hidden = self.conv(x).tanh().mean((2, 3))
        return self.head(hidden) + x.shape[-1] * torch.tensor([1.0, 0.0, 0.1]) + bias.unsqueeze(1)


@given(
    st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3)), min_size=1, max_size=4),
    st.sampled_from([1, 5, 16, None]), st.data(),
)  # fmt: skip
def test_images_of_different_sizes_are_evaluated_as_they_were(
    sizes: list[tuple[int, int, int]], chunk_size: int | None, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(count, 2, height, width, generator=generator) for height, width, count in sizes]
    total = sum(map(len, batches))
    bias, targets = torch.randn(total, generator=generator), torch.arange(total) % 3
    parts = [Samples(x, torch.zeros(len(x)), content_keys(x)) for x in batches]
    together, masker, model = join(parts), ImagePatches(grid=2), AnySize().eval()
    order = torch.randperm(total, generator=generator)
    some, bias = together[order], bias[order]
    players, n = draw_players(masker, some, 3)
    options = {"masker": masker, "num_players": n, "score": log_odds}
    with torch.no_grad():
        found = evaluate_coalitions(
            model, some.inputs, players, targets, chunk_size=chunk_size, carried=[bias], sizes=some.sizes, **options
        )  # fmt: skip
        images = [image for x in batches for image in x]
        for row, place in enumerate(order.tolist()):
            image, own = images[place].unsqueeze(0), slice(row, row + 1)
            labels, _ = draw_players(masker, Samples(image, torch.zeros(1), some.keys[own]), 3)
            alone = evaluate_coalitions(model, image, labels, targets[own], carried=[bias[own]], **options)
            torch.testing.assert_close(found[own], alone, rtol=1e-4, atol=1e-5)
        cells = count_cells(players)
        cuts = sorted({0, cells, *data.draw(st.lists(st.integers(0, cells), max_size=2))})
        shares = [
            evaluate_coalitions(
                model, some.inputs, players, targets,
                carried=[bias], sizes=some.sizes, cells=range(*ends), **options,
            ) for ends in pairwise(cuts)
        ]  # fmt: skip
    whole = table_of(torch.cat(shares), players, n, some.sizes)
    torch.testing.assert_close(whole, found, rtol=1e-4, atol=1e-5)
