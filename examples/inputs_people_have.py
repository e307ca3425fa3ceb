"""Inputs people have
==================

Series, sounds, pixels to label, texts to continue, columns by name, several heads.

Six small projects, each an ordinary Trainer with one more callback; only the one with two heads has to say which. What
the monitor took the data for is in the first line it prints of each.

::

    python examples/inputs_people_have.py          # two minutes on two cores
    python examples/inputs_people_have.py --fast   # a few seconds, to see that it runs
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_digits, load_wine
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from lightning_interactions import TwoPhaseMonitor

Losses = Callable[[nn.Module, Any], dict[str, Tensor]]


class Project(L.LightningModule):
    """Any network with the losses of a batch, by their names."""

    def __init__(self, net: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.net, self.losses = net, losses
        self.tokenizer = SimpleNamespace(unk_token_id=0)  # of texts: what is shown in the place of an absent character

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.stack([*self.losses(self.net, batch).values()]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for name, loss in self.losses(self.net, batch).items():
            self.log(f"val_{name}", loss, prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@dataclass
class Kind:
    """One project: samples, a network, and what has to be said to the monitor."""

    items: list[Any]
    net: nn.Module
    losses: Losses
    say: dict[str, Any] = field(default_factory=dict)


def pairs(net: nn.Module, batch: Any) -> dict[str, Tensor]:
    return {"loss": F.cross_entropy(net(batch[0]), batch[1])}


class LastState(nn.Module):
    """Reads a series step by step: (B, T, F)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(features, 32, batch_first=True), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Characters(nn.Module):
    """Scores of the next character at every place: (B, L, V)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(vocabulary, 16), nn.GRU(16, 64, batch_first=True)
        self.head = nn.Linear(64, vocabulary)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(input_ids))[0])


class Columns(nn.Module):
    """Takes columns by name, numbers and a category."""

    def __init__(self, numbers: int, categories: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(categories, 4)
        self.net = nn.Sequential(nn.Linear(numbers + 4, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        numbers = torch.stack([value for value in x.values() if value.is_floating_point()], 1)
        return self.net(torch.cat([numbers, self.vectors(x["shade"])], 1))


class TwoHeads(nn.Module):
    """What digit it is, and whether it is even."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.digit, self.parity = nn.Linear(16 * 64, 10), nn.Linear(16 * 64, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        shared = self.body(x)
        return {"digit": self.digit(shared), "parity": self.parity(shared)}


def kinds(size: int) -> dict[str, Kind]:
    """All of them, with so many samples each."""
    digits, numbers = (torch.tensor(x) for x in load_digits(return_X_y=True))
    rows, numbers = digits[:size].float().view(-1, 8, 8) / 16, numbers[:size]
    noisy = rows + 0.5 * torch.randn(rows.shape)

    pitch, onset = torch.arange(size) % 4, torch.randint(0, 300, (size, 1))
    time = torch.arange(400)
    tones = torch.sin(time * (0.3 + 0.1 * pitch).unsqueeze(1)) * (time >= onset) * (time < onset + 100)

    text = load_wine().DESCR
    letters = sorted(set(text))
    places = torch.randint(0, len(text) - 24, (size,)).tolist()
    lines = torch.tensor([[1 + letters.index(letter) for letter in text[i : i + 24]] for i in places])

    wine = load_wine()
    table = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0), dtype=torch.float32)
    names = [name.split("/")[0] for name in wine.feature_names]
    columns: dict[str, Tensor] = {n: table[:, i] for i, n in enumerate(names) if n != "color_intensity"}
    columns |= {"shade": torch.bucketize(table[:, 9].contiguous(), torch.tensor([-0.7, 0.0, 0.7]))}
    bottles = [{name: values[i] for name, values in columns.items()} for i in range(len(table))]
    order = torch.randperm(len(table)).tolist()

    def next_letter(net: nn.Module, batch: Any) -> dict[str, Tensor]:
        scores, following = net(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
        return {"loss": F.cross_entropy(scores.flatten(0, 1), following.flatten())}

    def both_heads(net: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {f"{name}_loss": F.cross_entropy(scores, batch[name]) for name, scores in net(batch["image"]).items()}

    sound = nn.Sequential(nn.Conv1d(1, 16, 16, 4), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 4))
    pixels = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1))
    return {
        "series: a digit, row by row": Kind(list(zip(rows, numbers, strict=True)), LastState(8, 10), pairs),
        "sound: the pitch of a tone": Kind(list(zip(tones.unsqueeze(1), pitch, strict=True)), sound, pairs),
        "pixels: where there is ink": Kind(
            list(zip(noisy.unsqueeze(1), (rows > 0.3).long(), strict=True)), pixels, pairs
        ),
        "text: the next letter": Kind(
            [{"input_ids": line, "labels": line} for line in lines], Characters(1 + len(letters)), next_letter
        ),
        "columns: wines": Kind([(bottles[i], int(wine.target[i])) for i in order], Columns(12, 4), pairs),
        "two heads: digit, parity": Kind(
            [{"image": x.unsqueeze(0), "digit": y, "parity": y % 2} for x, y in zip(rows, numbers, strict=True)],
            TwoHeads(), both_heads, {"head": "parity"},
        ),
    }  # fmt: skip


def main(fast: bool = False) -> None:
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    L.seed_everything(0)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, kind in kinds(64 if fast else 400).items():
        print(f"\n{name}")
        monitor = TwoPhaseMonitor(**({"num_samples": 4, "num_players": 5} if fast else {}), **kind.say)
        half = len(kind.items) // 2
        trainer = L.Trainer(
            max_epochs=2 if fast else 30, callbacks=[monitor], accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        )  # fmt: skip
        trainer.fit(
            Project(kind.net, kind.losses),
            DataLoader(Subset(kind.items, range(half)), batch_size=32, shuffle=True),
            DataLoader(Subset(kind.items, range(half, len(kind.items))), batch_size=256),
        )
        print(f"Phase boundary: epoch {monitor.boundary_epoch}")
        history = monitor.history.to_dict()
        axes.plot([epoch + 1 for epoch in history["epoch"]], history["mean_order"], label=name)
    axes.set_xlabel("epochs of training")
    axes.set_ylabel("mean order (players)")
    axes.set_title("Six kinds of input: which of them are learned by ever higher orders?")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig("inputs_people_have.png")


if __name__ == "__main__":
    main(fast="--fast" in sys.argv)
