"""Scores of every pixel or token: where they are, which label is whose, and what becomes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import Recorder, Words
from torch import Generator, Tensor, nn

from lightning_interactions import ArgumentError, BatchError, ImagePatches, Tokens, compute_interactions
from lightning_interactions.errors import ModelOutputError
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.measure.games import find_rules
from lightning_interactions.model.batch import Batch
from lightning_interactions.model.positions import OUTPUT_NUMBERS, Positions, find_positions
from lightning_interactions.model.score import logit

IDS = torch.randint(2, 9, (4, 6), generator=Generator().manual_seed(0))


def odds(scores: Tensor, label: int) -> float:
    """Log-odds of one label, from the definition."""
    if len(scores) == 1:
        return float(scores[0] if label else -scores[0])
    p = scores.double().softmax(0)[label]
    return float(p.log() - (1 - p).log())


def by_loops(scores: Tensor, labels: Tensor) -> list[list[float]]:
    """Log-odds of all labels that are known, of scores ``(B, P, C)``."""
    return [
        [odds(at, int(label)) for at, label in zip(own, wanted, strict=True) if 0 <= int(label) < max(len(at), 2)]
        for own, wanted in zip(scores, labels, strict=True)
    ]


@given(st.integers(0, 99), st.sampled_from(["first", "last", "single", "text"]), st.sampled_from([-100, 255]))
def test_score_loss_and_answer_of_each_sample(seed: int, form: str, missing: int) -> None:
    generator = Generator().manual_seed(seed)
    classes = 1 if form == "single" else 4
    table = 3 * torch.randn(3, 6, classes, generator=generator)
    labels = torch.randint(0, max(classes, 2), (3, 6), generator=generator)
    labels[torch.rand(3, 6, generator=generator) < 0.3] = missing
    labels[:, 0] = 0  # at least one is known
    output, targets = table, labels
    if form != "text":
        output, targets = table.view(3, 2, 3, classes), labels.view(3, 2, 3)
    if form in ("first", "single"):
        output = output.permute(0, 3, 1, 2)
    found = find_positions(output, targets)
    assert found is not None
    assert found.classes == classes
    score, loss, right = found.read(output, targets).unbind(1)
    expected = by_loops(table, labels)
    for i, own in enumerate(expected):
        total = sum(own)
        assert float(score[i]) == pytest.approx(total if form == "text" else total / len(own), rel=1e-6)
        assert float(loss[i]) == pytest.approx(sum(F.softplus(-torch.tensor(own))).item() / len(own), rel=1e-5)
        if classes > 1:
            kept = (labels[i] >= 0) & (labels[i] < classes)
            assert float(loss[i]) == pytest.approx(float(F.cross_entropy(table[i][kept], labels[i][kept])), rel=1e-5)
            assert float(right[i]) == pytest.approx(
                float((table[i][kept].argmax(-1) == labels[i][kept]).double().mean())
            )


@pytest.mark.parametrize("channel", [True, False])
def test_coarse_scores_are_those_of_the_pixels_in_between(channel: bool) -> None:
    scores, labels = torch.randn(2, 4, 3, 2), torch.randint(0, 4, (2, 12, 8))
    labels[:, :3] = 255
    targets = labels.unsqueeze(1) if channel else labels
    fine = F.interpolate(scores, (12, 8), mode="bilinear", align_corners=False)
    coarse, found = find_positions(scores, targets), find_positions(fine, targets)
    assert coarse is not None
    assert found is not None
    torch.testing.assert_close(coarse.read(scores, targets), found.read(fine, targets))
    assert coarse.rows_at_once == found.rows_at_once
    both = find_positions([scores, fine], targets)  # the loss is that of the whole size, others help to train
    assert both is not None
    assert (both.leaf, both.coarse) == ((1,), False)


SHAPES: dict[str, tuple[tuple[int, ...], Tensor, tuple[int, bool, bool] | None]] = {
    "pixels": ((2, 5, 8, 8), torch.full((2, 8, 8), 4), (5, False, False)),
    "pixels, labels with a channel": ((2, 5, 8, 8), torch.full((2, 1, 8, 8), 4), (5, False, False)),
    "channels last": ((2, 8, 8, 5), torch.full((2, 8, 8), 4), (5, True, False)),
    "volumes": ((2, 5, 4, 4, 4), torch.full((2, 4, 4, 4), 4), (5, False, False)),
    "two classes": ((2, 2, 8, 8), torch.ones(2, 8, 8).long(), (2, False, False)),
    "one logit": ((2, 1, 8, 8), torch.ones(2, 1, 8, 8), (1, False, False)),
    "one logit, no channel": ((2, 8, 8), torch.ones(2, 8, 8).long(), (1, False, False)),
    "several labels of each pixel": ((2, 3, 8, 8), torch.ones(2, 3, 8, 8), (1, False, False)),
    "tokens": ((2, 7, 99), torch.full((2, 7), 98), (99, True, True)),
    "steps, classes first": ((2, 5, 30), torch.full((2, 30), 4), (5, False, False)),
    "as long as classes": ((2, 7, 7), torch.full((2, 7), 6), (7, True, True)),
    "one more step than classes": ((2, 6, 7), torch.full((2, 7), 5), (6, False, False)),
    "logits": ((2, 5), torch.full((2, 5), 1), None),
    "logits with dimensions of one": ((2, 5, 1, 1), torch.ones(2, 5), None),
    "half the size": ((2, 5, 4, 4), torch.full((2, 8, 8), 4), (5, False, False)),
    "half the size, labels with a channel": ((2, 5, 4, 4), torch.full((2, 1, 8, 8), 4), (5, False, False)),
    "half of one side": ((2, 5, 4, 8), torch.full((2, 8, 8), 4), None),
    "another size": ((2, 5, 3, 3), torch.full((2, 8, 8), 4), None),
    "half the size, one logit": ((2, 1, 4, 4), torch.ones(2, 8, 8), None),
    "half a volume": ((2, 5, 2, 2, 2), torch.full((2, 4, 4, 4), 4), None),
    "numbers of every pixel": ((2, 1, 8, 8), torch.rand(2, 1, 8, 8), None),
    "one class": ((2, 5, 8, 8), torch.tensor([1, 2]), None),
    "no tokens ahead": ((2, 6, 99), torch.full((2, 7), 98), None),
}


@pytest.mark.parametrize(("shape", "targets", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_scores_are_found_by_their_shape(
    shape: tuple[int, ...], targets: Tensor, expected: tuple[int, bool, bool] | None
) -> None:
    for output in (torch.zeros(shape), {"loss": torch.tensor(1.0), "out": torch.zeros(shape)}):
        found = find_positions(output, targets)
        assert (None if found is None else (found.classes, found.last, found.total)) == expected
    if expected is not None:
        named = find_positions(SimpleNamespace(hidden=1, logits=torch.zeros(shape)), targets)
        assert named is not None
        assert named.leaf == ("logits",)


MASKED = torch.where(torch.arange(6) < 2, -100, IDS)
NEXT = torch.cat([IDS[:, 1:], torch.full((4, 1), 3)], 1)
FILLED = torch.where(torch.arange(6) == 3, 9 - IDS, -100)
AHEAD: dict[str, tuple[Tensor | None, Tensor, int]] = {
    "the tokens themselves": (IDS, IDS, 1),
    "without the prompt": (IDS, MASKED, 1),
    "the tokens moved by one": (IDS, NEXT, 0),
    "one token more": (IDS, torch.cat([IDS, NEXT[:, -1:]], 1), 1),
    "filling gaps": (IDS, FILLED, 0),
    "tags": (IDS, (IDS > 4).long(), 0),
    "no tokens": (None, IDS, 0),
}


@pytest.mark.parametrize(("ids", "labels", "ahead"), AHEAD.values(), ids=AHEAD.keys())
def test_whose_label_it_is_is_seen_in_the_labels(ids: Tensor | None, labels: Tensor, ahead: int) -> None:
    output = torch.randn(4, 6, 9)
    found = find_positions(output, labels, ids)
    assert found is not None
    assert found.ahead == ahead
    length = min(6, labels.shape[1] - ahead)
    wanted = labels[:, ahead : ahead + length]
    expected = F.cross_entropy(output[:, :length].transpose(1, 2), wanted, reduction="none").sum(1) / (
        wanted != -100
    ).sum(1)
    torch.testing.assert_close(found.read(output, labels)[:, 1], expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_loss_the_model_returned_decides(ahead: int) -> None:
    """Whatever the labels look like: an autoencoder of texts has the tokens at their own places."""
    output = torch.randn(4, 6, 9, generator=Generator().manual_seed(1))
    loss = F.cross_entropy(output[:, : 6 - ahead].flatten(0, 1), IDS[:, ahead:].flatten())
    for told, expected in ((float(loss), ahead), (9.0, 1), (None, 1)):
        found = find_positions(output, IDS, IDS, told)
        assert found is not None
        assert found.ahead == expected


def test_labels_go_along_and_are_counted() -> None:
    found = find_positions(torch.zeros(4, 6, 9), MASKED, IDS)
    assert found is not None
    batch = found.along(Batch(IDS, MASKED))
    assert batch.targets.tolist() == [4, 4, 4, 4]
    assert batch.carried[0] is MASKED
    assert "sum of log_odds over the labels of all positions, each of the next" in found.describe("log_odds")


def test_labels_that_are_no_classes_are_refused() -> None:
    found = find_positions(torch.zeros(2, 5, 8, 8), torch.zeros(2, 8, 8).long())
    assert found is not None
    with pytest.raises(BatchError, match=r"from 0 to 4.*-100 or 255.*from -7 to 9.*`target_fn"):
        found.along(Batch(torch.zeros(2, 1, 8, 8), torch.tensor([9, 255, -7, -100]).repeat(2, 8, 2)))


def test_a_sample_without_labels_has_no_score() -> None:
    for total in (True, False):
        read = Positions(4, last=True, numbers=8, total=total).read(torch.zeros(1, 2, 4), torch.tensor([[-100, -100]]))
        assert bool(read.isnan().all())


class Pixels(nn.Module):
    """Scores of three classes at every pixel; each looks around."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def masked(model: nn.Module, x: Tensor, players: Tensor, n: int) -> Tensor:
    """Outputs of one sample for all coalitions, absent pixels at zero."""
    present = torch.cat([coalition_masks(n), torch.ones(2**n, 1, dtype=torch.bool)], 1)[:, players]
    with torch.no_grad():
        return model(torch.where(present.unsqueeze(1), x, 0.0))


@pytest.mark.parametrize("layer", [None, "conv.1"])
def test_the_game_of_a_segmentation(layer: str | None) -> None:
    torch.manual_seed(0)
    model, x = Pixels(), torch.randn(2, 1, 6, 6)
    y = torch.randint(0, 3, (2, 6, 6))
    y[:, 0] = 255
    found = compute_interactions(model, x, y, num_players=4, layer=layer)
    rest = model if layer is None else model.conv[2]
    inputs = x if layer is None else model.conv[:2](x)
    for i in range(2):
        scores = masked(rest, inputs[i], found.players[i], 4).flatten(2).transpose(1, 2)
        expected = [sum(own) / len(own) for own in by_loops(scores, y[i].flatten().expand(16, -1))]
        torch.testing.assert_close(found.values[i], torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("score", ["log_odds", "logit"])
def test_the_game_of_a_language_model(score: Any) -> None:
    torch.manual_seed(0)
    model = Words(9)
    found = compute_interactions(model, IDS, MASKED, Tokens(mask_token_id=1), num_players=4, score=score)
    present = torch.cat([coalition_masks(4), torch.ones(16, 1, dtype=torch.bool)], 1)
    with torch.no_grad():
        scores = torch.stack([model(torch.where(present[:, p], x, 1)) for x, p in zip(IDS, found.players, strict=True)])
    for i in range(4):
        for j in range(16):
            at = [(scores[i, j, t], int(MASKED[i, t + 1])) for t in range(5) if MASKED[i, t + 1] != -100]
            expected = sum(odds(z, y) if score == "log_odds" else float(z[y]) for z, y in at)
            assert float(found.values[i, j]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_layers_before_a_cut_run_once_for_each_sample() -> None:
    x, y = torch.randn(2, 1, 6, 6), torch.randint(0, 3, (2, 6, 6))
    rules = find_rules(Pixels().eval(), Batch(x, y), layer="conv.1", num_players=4)
    assert rules.model.cut is not None
    assert not rules.model.cut._repeat_inputs


def test_few_rows_at_a_time_where_the_vocabulary_is_large() -> None:
    many = Positions(4, last=True, numbers=OUTPUT_NUMBERS // 5)
    assert many.rows_at_once == 5
    assert Positions(4, last=True, numbers=3 * OUTPUT_NUMBERS).rows_at_once == 2


def test_the_model_is_asked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, y = Recorder(Pixels()), torch.randint(0, 3, (2, 6, 6))
    x = torch.randn(2, 1, 6, 6)
    whole = compute_interactions(model, x, y, num_players=4).values
    assert max(model.rows) > 4
    few = Recorder(model.model)
    monkeypatch.setattr("lightning_interactions.model.positions.OUTPUT_NUMBERS", 4 * 3 * 36)
    pieces = compute_interactions(few, x, y, num_players=4).values
    assert max(few.rows) <= 4
    torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [({"target": "predicted"}, ArgumentError, "`target`.*scores of every position"),
     ({"score": "output"}, ModelOutputError, "`target_fn=batch -> labels`")],
)  # fmt: skip
def test_what_does_not_go_with_positions(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        compute_interactions(Pixels(), torch.randn(2, 1, 6, 6), torch.ones(2, 6, 6).long(), ImagePatches(), **options)


def test_a_score_of_ones_own() -> None:
    x, y, model = torch.randn(2, 1, 6, 6), torch.randint(0, 3, (2, 6, 6)), Pixels()
    own = compute_interactions(model, x, y, num_players=3, score=lambda z, y: z.gather(1, y.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(own.values, compute_interactions(model, x, y, num_players=3, score=logit).values)
