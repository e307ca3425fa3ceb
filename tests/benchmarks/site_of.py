"""Where the networks of the benchmarks are masked: values of the same game at every call, as the monitor has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lightning_interactions.measure.games import Game, find_rules
from lightning_interactions.measure.keys import content_keys
from lightning_interactions.measure.samples import Samples
from lightning_interactions.measure.values import evaluate_coalitions
from lightning_interactions.model.batch import Batch

CHUNK = {"cpu": 128, "cuda": 2048}


class Site:
    """Where a network is masked: its game, drawn once."""

    def __init__(
        self, net: nn.Module, samples: Samples, players: Any, num_players: int, layer: str, chunk: int = 0
    ) -> None:
        device = next(net.parameters()).device
        batch = Batch(samples.inputs.to(device), samples.targets.to(device))
        self.chunk = chunk or CHUNK[device.type]
        self.rules = find_rules(
            net, batch, players=players, num_players=num_players, layer=None if layer == "input" else layer,
            score="log_odds", target="label", seed=0,
        )  # fmt: skip
        for note in self.rules.notes:
            print(f"  {layer}: {note}", flush=True)
        keys = content_keys(batch.inputs, 0, self.rules.players.padding if layer == "input" else None).cpu()
        samples = replace(samples, keys=keys)
        with self.rules.model.quiet():
            self.game = Game.draw(self.rules.model, samples, self.rules.players, num_players, self.chunk)

    def values(self) -> Tensor:
        """Values ``(B, 2**n)`` as `compute_interactions` has them."""
        asked, game, task = self.rules.model, self.game, self.rules.task
        with asked.quiet():
            game.refit(asked, self.chunk)
            (inputs,) = asked.place(game.samples.inputs)
            targets = task.pick(game.samples.targets, asked.logits(inputs, self.chunk), game.samples.keys)
            return evaluate_coalitions(
                asked, inputs, game.labels.to(inputs.device), targets, masker=game.players,
                num_players=game.num_players, score=task.follow, chunk_size=self.chunk, cut=asked.cut,
            )  # fmt: skip
