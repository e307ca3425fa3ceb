"""A model that multiplies two parts of its input shows exactly that pair first, for every kind of players; OR too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_interactions import Options, compute_interactions
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.pictures.exhibit import Shown, choose
from lightning_interactions.players import (
    FeatureMask,
    ImagePatches,
    Players,
    PointClusters,
    TabularFeatures,
    Tokens,
)

PLANTED = 1, 4
Presence = Callable[[Tensor, Tensor], Tensor]


class Planted(nn.Module):
    """Tells from what every player shows whether it is there, and multiplies (AND) or joins (OR) two of them."""

    def __init__(self, kind: str, present: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kind, self.present = kind, present

    def forward(self, x: Tensor) -> Tensor:
        a, b, other = (self.present(x)[:, player].double() for player in (*PLANTED, 0))
        both = a * b if self.kind == "and" else 1 - (1 - a) * (1 - b)
        return 3 * both - 0.5 * other


def looks_whole(sample: Tensor, labels: Tensor, spread: bool) -> Callable[[Tensor], Tensor]:
    """Presence ``(B, n)``: the elements of a player are those of the sample; of points, not all in one place."""

    def present(x: Tensor) -> Tensor:
        found = []
        for player in range(int(labels.max()) + 1):
            own = (labels == player).expand_as(sample)
            same = (x[:, own] - sample[own]).abs().amax(1) < 1e-6
            found.append(same if not spread else x[:, own].view(len(x), -1, 3).double().std(1).amax(1) > 1e-6)
        return torch.stack(found, 1)

    return present


CASES: dict[str, tuple[Players, Tensor]] = {
    "image": (ImagePatches(grid=4, margin=0), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5),
    "text": (Tokens(mask_token_id=99), torch.arange(1, 10)[None]),
    "table": (TabularFeatures("zero"), torch.rand(1, 8, generator=torch.Generator().manual_seed(1)) + 0.5),
    "points": (PointClusters(8), torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(2))),
    "regions": (FeatureMask(torch.arange(12) // 2), torch.ones(1, 12)),
}


@pytest.mark.parametrize("operation", ["and", "or"])
@pytest.mark.parametrize("case", CASES)
def test_the_planted_pair_comes_first(case: str, operation: str) -> None:
    players, x = CASES[case]
    arguments = {"num_players": 6, "score": "output"}
    labels = compute_interactions(
        lambda x: x.flatten(1)[:, :1].float(), x, torch.zeros(1), players, **arguments
    ).players
    model = Planted(operation, looks_whole(x[0], labels[0], spread=case == "points"))
    found = compute_interactions(model, x, torch.zeros(1), players, **arguments)
    shown = found._exhibit(0).shown
    assert [(one.kind, one.players, round(one.now, 3)) for one in shown] == [
        (operation, PLANTED, 3.0),
        ("and", (0,), -0.5),
    ]
    texts = [text.get_text() for text in found.plot(0).findobj(match=lambda artist: hasattr(artist, "get_text"))]
    assert any(f"{operation.upper()} +3.00" in text for text in texts), texts


@pytest.mark.parametrize("operation", ["and", "or"])
def test_the_monitor_shows_it_too(operation: str) -> None:
    x = torch.eye(6)[:4] + 1
    model = Planted(operation, lambda x: x > 0)
    options = Options(TabularFeatures("zero"), num_samples=4, num_players=6, score="output", noise_bound=0.0)
    monitor = InteractionMonitor(options, tell=lambda text: None)
    monitor.observe("val", (x, torch.zeros(4)))
    monitor.measure(model, 0)
    monitor.observe("val", (x, torch.zeros(4)))
    monitor.measure(model, 1)
    for row in monitor.history.samples:
        first = row["interactions"][0]
        assert (first["kind"], tuple(first["players"])) == (operation, PLANTED)
        assert (first["now"], first["start"]) == (pytest.approx(3, abs=1e-3), pytest.approx(3, abs=1e-3))
        assert row["salient_count"] == 2
        assert row["score"] - row["score_of_nothing"] == pytest.approx(2.5)


def test_what_is_shown_is_a_handful_and_what_is_gone_is_told() -> None:
    now, start = torch.zeros(2, 2, 16)
    now[0, 1:9] = torch.arange(1.0, 9.0)
    start[1, 9:13] = -torch.arange(1.0, 5.0)
    shown, gone = choose(now, start=start)
    assert [one.now for one in shown] == [8, 7, 6, 5, 4]
    assert [(one.start, one.status) for one in gone] == [(-4, "gone"), (-3, "gone")]
    assert shown[0] == Shown("and", (3,), 8.0, None, 0.0)
