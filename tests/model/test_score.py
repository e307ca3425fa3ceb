"""Scores, logits, targets and losses, against formulas written down naively."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_interactions.errors import ArgumentError, BatchError, ModelOutputError
from lightning_interactions.model.score import (
    SCORES,
    check_targets,
    log_odds,
    logit,
    probability,
    read_logits,
    resolve_score,
)

every_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())


def sample_logits(classes: int, seed: int = 0, batch: int = 7, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(max(classes, 2), (batch,), generator=generator)


def naive_probability(row: list[float], target: int) -> float:
    if len(row) == 1:
        p = 1 / (1 + math.exp(-row[0]))
        return p if target == 1 else 1 - p
    return math.exp(row[target]) / sum(math.exp(z) for z in row)


# -- scores ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 1000))
def test_scores_equal_the_naive_formulas(classes: int, seed: int) -> None:
    logits, targets = sample_logits(classes, seed)
    for row, target, odds, p, z in zip(
        logits.tolist(),
        targets.tolist(),
        log_odds(logits, targets).tolist(),
        probability(logits, targets).tolist(),
        logit(logits, targets).tolist(),
        strict=True,
    ):
        naive = naive_probability(row, target)
        assert odds == pytest.approx(math.log(naive / (1 - naive)), rel=1e-6, abs=1e-8)
        assert p == pytest.approx(naive, rel=1e-9)
        assert z == (row[target] if classes > 1 else row[0] * (1 if target else -1))


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [([100.0, 0.0], 0, 100.0), ([100.0, 0.0], 1, -100.0), ([800.0, -800.0], 0, 1600.0), ([100.0], 1, 100.0),
     ([100.0], 0, -100.0), ([0.0, 0.0, 0.0], 1, -math.log(2))],
    ids=str,
)  # fmt: skip
def test_log_odds_never_saturate(logits: list[float], target: int, expected: float) -> None:
    found = log_odds(read_logits(torch.tensor([logits])), torch.tensor([target]))
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_single_logit_is_two_logits_with_the_other_at_zero() -> None:
    z, targets = sample_logits(1)
    both = torch.cat([torch.zeros_like(z), z], 1)
    for score in (log_odds, probability):
        torch.testing.assert_close(score(z, targets), score(both, targets))
    flat = read_logits(z.squeeze(1))
    assert torch.equal(log_odds(flat, targets), log_odds(z, targets))


@every_score
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_row_is_scored_alike_alone_and_in_company(score, classes: int) -> None:
    logits, targets = sample_logits(classes)
    whole = score(logits, targets)
    assert whole.shape == (7,)
    for size in (1, 2, 3):
        parts = [score(z, y) for z, y in zip(logits.split(size), targets.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole)


@every_score
def test_scores_leave_the_logits_alone(score) -> None:
    logits, targets = sample_logits(4)
    before = logits.clone()
    score(logits, targets)
    assert torch.equal(logits, before)


@every_score
def test_a_score_is_known_by_its_name(score) -> None:
    names = {function: name for name, function in SCORES.items()}
    assert resolve_score(names[score]) is score


def test_callables_are_taken_as_they_are() -> None:
    def margin(logits: Tensor, targets: Tensor) -> Tensor:
        return logits[:, 0] - logits[:, 1]

    assert resolve_score(margin) is margin


@pytest.mark.parametrize("score", ["logodds", "", None, 3, ["log_odds"]], ids=repr)
def test_unknown_scores_are_refused(score: Any) -> None:
    with pytest.raises(ArgumentError, match=r"`score`.*'log_odds', 'logit', 'probability'") as caught:
        resolve_score(score)
    assert f"but got {score!r}" in str(caught.value)


# -- read_logits -----------------------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Any


LOGITS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    "output",
    [LOGITS, LOGITS.half(), LOGITS.bfloat16(), LOGITS.double(), Output(LOGITS), SimpleNamespace(logits=LOGITS, loss=0),
     {"logits": LOGITS, "loss": torch.tensor(0.0)}],
    ids=["float32", "float16", "bfloat16", "float64", "object", "namespace", "mapping"],
)  # fmt: skip
def test_logits_are_found(output: Any) -> None:
    found = read_logits(output)
    assert found.dtype == torch.float64
    assert torch.equal(found, LOGITS.double())


@pytest.mark.parametrize(
    "output",
    [(LOGITS, LOGITS + 1), (torch.tensor(0.5), LOGITS), [torch.zeros(2, 3, 4), torch.zeros(2).long(), LOGITS],
     {"scores": LOGITS}, {"loss": torch.tensor(1.0), "deep": {"hidden": torch.zeros(2, 1, 5), "scores": (LOGITS,)}},
     Output([torch.zeros(3, 2), LOGITS]), LOGITS[..., None, None]],
    ids=["tuple", "loss first", "list", "mapping", "nested", "dataclass", "trailing ones"],
)  # fmt: skip
def test_logits_are_the_first_tensor_that_could_be_some(output: Any) -> None:
    assert torch.equal(read_logits(output, 2), LOGITS.double())


def test_of_several_the_number_of_rows_decides() -> None:
    per_token, flat = torch.zeros(7, 3), torch.tensor([1.0, 2.0])
    assert torch.equal(read_logits((per_token, flat), 2), flat.double().unsqueeze(1))
    assert torch.equal(read_logits((per_token, flat)), per_token.double())


@pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=str)
def test_single_logits_become_a_column(shape: tuple[int, ...]) -> None:
    assert read_logits(torch.zeros(shape)).shape == (4, 1)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (None, "NoneType"),
        ((), "tuple"),
        ((LOGITS.mean(), LOGITS.long()), r"tuple of tensors \(\), \(2, 2\)"),
        ({"scores": LOGITS.unsqueeze(0)}, r"dict of tensors \(1, 2, 2\)"),
        ({"logits": LOGITS.mean(), "others": LOGITS}, "dict"),
        (Output(None), "Output"),
        (Output([1.0]), "Output"),
        (torch.tensor(0.5), r"shape \(\)"),
        (torch.zeros(2, 3, 4), r"shape \(2, 3, 4\)"),
        (torch.zeros(2, 3, dtype=torch.long), "int64"),
        (torch.zeros(2, 3, dtype=torch.bool), "bool"),
    ],
    ids=["none", "empty", "tuple", "mapping", "named", "empty object", "list", "scalar", "3-D", "integers", "booleans"],
)
def test_outputs_without_logits_are_refused(output: Any, says: str) -> None:
    with pytest.raises(ModelOutputError, match=says) as caught:
        read_logits(output)
    assert "forward_fn" in str(caught.value)


# -- check_targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "classes", "expected"),
    [
        (torch.tensor([0, 2]), 3, [0, 2]),
        (torch.tensor([0, 2], dtype=torch.uint8), 3, [0, 2]),
        (torch.tensor([[0], [1]]), 2, [0, 1]),
        (torch.tensor([0.0, 1.0]), 1, [0, 1]),
        (torch.tensor([[0.0], [1.0]]), 1, [0, 1]),
        (torch.tensor([True, False]), 1, [1, 0]),
        (torch.tensor([True, False]), 2, [1, 0]),
        (torch.tensor([2.0]), 3, [2]),
        (torch.zeros(0, dtype=torch.long), 3, []),
    ],
    ids=["long", "uint8", "column", "binary floats", "binary column", "bool 1", "bool 2", "one float", "none"],
)
def test_good_targets(targets: Tensor, classes: int, expected: list[int]) -> None:
    found = check_targets(targets, classes)
    assert found.dtype == torch.long
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("targets", "classes", "says"),
    [
        (None, 3, "NoneType"),
        ([0, 1], 3, "list"),
        (torch.tensor(1), 3, r"shape \(\)"),
        (torch.eye(3), 3, r"shape \(3, 3\)"),
        (torch.zeros(2, 1, 1), 3, r"shape \(2, 1, 1\)"),
        (torch.tensor([0.3, 0.7]), 1, "fractional"),
        (torch.tensor([0.0, torch.nan]), 1, "fractional"),
        (torch.tensor([0, 3]), 3, r"from 0 to 2 .* 3 logit\(s\).*3"),
        (torch.tensor([-1, 1]), 2, "from 0 to 1.*-1"),
        (torch.tensor([0, 2]), 1, r"from 0 to 1 .* 1 logit\(s\)"),
        (torch.tensor([-100, 1]), 4, "-100"),
    ],
    ids=["missing", "list", "scalar", "one-hot", "3-D", "soft", "nan", "too large", "-1", "binary 2", "ignored"],
)
def test_bad_targets(targets: Any, classes: int, says: str) -> None:
    with pytest.raises(BatchError, match=says) as caught:
        check_targets(targets, classes)
    assert "target_fn" in str(caught.value)
