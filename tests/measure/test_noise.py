"""The estimate of rounding noise, against noise that is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions import TabularFeatures
from lightning_interactions.functional.coalitions import coalition_masks
from lightning_interactions.measure.noise import Perturbed, noise_by_order
from lightning_interactions.measure.values import evaluate_coalitions
from lightning_interactions.model.model import ROUNDING
from lightning_interactions.model.score import logit

N = 8


def test_noise_is_the_sum_of_absolute_interactions_of_half_the_difference() -> None:
    n = 4
    first, second = torch.randn(3, 2**n).double(), torch.randn(3, 2**n).double()
    expected = torch.zeros(3, n).double()
    for sample, members in itertools.product(range(3), range(1, 2**n)):
        inside = [t for t in range(2**n) if t & members == t]
        signs = [(-1) ** (bin(members).count("1") - bin(t).count("1")) for t in inside]
        total = sum(s * float(second[sample, t] - first[sample, t]) / 2 for s, t in zip(signs, inside, strict=True))
        expected[sample, bin(members).count("1") - 1] += abs(total)
    assert torch.allclose(noise_by_order(first, second), expected)


def test_independent_noise_grows_with_the_root_of_two_to_the_order() -> None:
    """Noise of size s in v is noise of size s * 2**(k/2) in an interaction of order k (arXiv 2407.19198, lemma 1)."""
    difference = torch.randn(400, 2**N, generator=torch.Generator().manual_seed(0)).double() * 2
    measured = noise_by_order(torch.zeros_like(difference), difference).mean(0)
    for k in range(1, N + 1):
        expected = math.comb(N, k) * 2 ** (k / 2) * math.sqrt(2 / math.pi)
        assert float(measured[k - 1]) == pytest.approx(expected, rel=0.1)


def test_perturbed_players_are_off_by_one_rounding_and_leave_the_random_state_alone() -> None:
    players, x = TabularFeatures("zero"), torch.randn(3, N)
    labels, masks = torch.arange(N).repeat(3, 1), coalition_masks(N)
    exact, state = players.mask_batch(x, labels, masks), torch.get_rng_state()
    noisy = Perturbed(players, 1e-3)
    off = noisy.mask_batch(x, labels, masks)
    assert torch.equal(torch.get_rng_state(), state)
    change = (off / exact - 1)[exact != 0]
    assert torch.allclose(change.abs(), torch.full_like(change, 1e-3), rtol=1e-2)
    assert 0.3 < (change > 0).double().mean() < 0.7
    parts = [noisy.mask_batch(x[:1], labels[:1], part) for part in masks.split([1, 3, 2**N - 4])]
    assert torch.equal(torch.cat(parts), off[: 2**N]), "the signs do not depend on the chunks"
    assert torch.equal(off, Perturbed(players, 1e-3).mask_batch(x, labels, masks)), "and are the same in every run"


@pytest.mark.parametrize("precision", ["bf16", "32"])
def test_estimate_has_the_size_of_the_true_noise(precision: str) -> None:
    """A network evaluated in low precision, compared with the same network in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(N, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    dtype = {"bf16": torch.bfloat16, "32": torch.float32}[precision]
    low, exact = net.to(dtype), nn.Sequential(*(type(m)(*_shape(m)) for m in net)).double()
    exact.load_state_dict({k: v.double() for k, v in low.state_dict().items()})
    x = torch.randn(6, N).to(dtype)

    def values(model: nn.Module, masker: object, wide: bool) -> Tensor:
        def forward(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return model(inputs.double() if wide else inputs.to(dtype))

        labels = torch.arange(N).repeat(6, 1)
        options = {"masker": masker, "num_players": N, "score": logit}
        return evaluate_coalitions(forward, x.float(), labels, torch.ones(6).long(), **options)

    players = TabularFeatures("zero")
    plain = values(low, players, wide=False)
    true = noise_by_order(torch.zeros_like(plain), 2 * (plain - values(exact, players, wide=True))).mean(0)
    estimate = noise_by_order(plain, values(low, Perturbed(players, ROUNDING[precision]), wide=False)).mean(0)
    middle = slice(2, N - 1)
    ratio = float(estimate[middle].sum() / true[middle].sum())
    assert 0.2 < ratio < 5


def _shape(module: nn.Module) -> tuple[int, ...]:
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else ()
