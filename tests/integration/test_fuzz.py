"""Random Trainer options, models, batches and monitors: bit-identical training with a history, or our error at once.

A few configurations in the default run; ``pytest -m slow tests/integration/test_fuzz.py`` tries 600.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from identity import Spy, assert_identical, outcome
from models import Stream, fit, listening
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_interactions import TabularFeatures, Tokens, TwoPhaseMonitor
from lightning_interactions.errors import InteractionsError

INPUTS = ("columns", "image", "tokens", "cloud", "volume", "ragged")
TARGETS = ("classes", "column", "one-hot", "binary", "binary-float", "labels", "number", "numbers", "text", "none")
STRUCTURES = ("tuple", "triple", "dict", "odd-dict", "nested", "bare")
OUTPUTS = ("plain", "squeezed", "dict", "tuple", "deep", "nan")


@dataclass(frozen=True)
class World:
    """What a user brings: one kind of input, target, batch and model."""

    inputs: str
    targets: str
    structure: str
    output: str
    style: str
    batch_size: int
    size: int
    stream: bool


class Samples(Dataset[Any]):
    def __init__(self, world: World, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.world = world

        def numbers(*shape: int) -> Tensor:
            return torch.randn(size, *shape, generator=generator)

        self.x: Any = {
            "columns": lambda: numbers(5),
            "image": lambda: numbers(1, 6, 6),
            "tokens": lambda: torch.randint(2, 12, (size, 6), generator=generator),
            "cloud": lambda: numbers(12, 3),
            "volume": lambda: numbers(2, 3, 4, 4),
            "ragged": lambda: numbers(5),
        }[world.inputs]()
        classes = torch.randint(0, 3, (size,), generator=generator)
        self.y: Any = {
            "classes": classes,
            "column": classes.unsqueeze(1),
            "one-hot": F.one_hot(classes, 3),
            "binary": classes.clamp(max=1),
            "binary-float": classes.clamp(max=1).float(),
            "labels": torch.randint(0, 2, (size, 3), generator=generator).float(),
            "number": numbers(),
            "numbers": numbers(3),
            "text": [str(c) for c in classes.tolist()],
            "none": classes,
        }[world.targets]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        x, y = self.x[i], self.y[i]
        return {
            "tuple": (x, y),
            "triple": (x, y, i),
            "dict": {"x": x, "y": y},
            "odd-dict": {"signal": x, "outcome": y},
            "nested": ((x, x), y),
            "bare": x,
        }[self.world.structure]


def ragged(items: list[Any]) -> Any:
    """A batch whose number of columns differs from that of others."""
    width = 3 + int(abs(float(items[0][0][0])) * 10) % 3
    return torch.stack([item[0][:width] for item in items]), torch.utils.data.default_collate([i[1] for i in items])


class AnyNet(L.LightningModule):
    """Trains on any world; what it returns is the world's whim."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.automatic_optimization = world.style != "manual"
        self.outputs = 1 if world.targets in ("binary", "binary-float", "number") else 3
        width = {"columns": 5, "image": 36, "tokens": 48, "cloud": 36, "volume": 96, "ragged": 5}[world.inputs]
        self.embedding = nn.Embedding(12, 8)
        self.net = nn.Sequential(
            nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, self.outputs)
        )

    def forward(self, x: Tensor) -> Any:
        flat = (self.embedding(x) if not x.is_floating_point() else x).flatten(1)
        if self.world.inputs == "ragged":
            flat = F.pad(flat, (0, 5 - flat.shape[1]))
        logits = self.net(flat)
        return {
            "plain": logits,
            "squeezed": logits.squeeze(),
            "dict": {"logits": logits},
            "tuple": (logits, flat),
            "deep": logits.unsqueeze(-1).expand(-1, -1, 2),
            "nan": logits if self.training else logits * torch.nan,
        }[self.world.output]

    def loss_of(self, batch: Any) -> Tensor:
        if isinstance(batch, dict):
            x, y = batch.values()
        elif isinstance(batch, Tensor):
            x, y = batch, None
        else:
            x, y = batch[0], batch[1]
        out = self(x[0] if isinstance(x, list) else x)
        out = out["logits"] if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out
        out = out.reshape(-1, self.outputs, 2)[..., 0] if self.world.output == "deep" else out.reshape(-1, self.outputs)
        if y is None or not isinstance(y, Tensor):
            return out.square().mean()
        if self.world.targets in ("classes", "column", "none"):
            return F.cross_entropy(out, y.flatten())
        if self.world.targets == "one-hot":
            return F.cross_entropy(out, y.to(out.dtype))
        compare = F.mse_loss if self.world.targets.startswith("number") else F.binary_cross_entropy_with_logits
        return compare(out, y.reshape(out.shape).to(out.dtype))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = self.loss_of(batch)
        self.log("train_loss", loss, batch_size=1)
        if self.world.style == "manual":
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None
        return None if self.world.style == "skipping" and batch_idx == 1 else loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss_of(batch), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


@st.composite
def worlds(draw: Any) -> World:
    usual = draw(st.integers(0, 3)) > 0  # mostly worlds that can be measured
    return World(
        inputs=draw(st.sampled_from(INPUTS[:4] if usual else INPUTS)),
        targets=draw(st.sampled_from(TARGETS[:8] if usual else TARGETS)),
        structure=draw(st.sampled_from(STRUCTURES[:3] if usual else STRUCTURES)),
        output=draw(st.sampled_from(OUTPUTS[:3] if usual else OUTPUTS)),
        style=draw(st.sampled_from(["automatic", "automatic", "manual", "skipping"])),
        batch_size=draw(st.integers(3, 9)),
        size=draw(st.integers(20, 33)),
        stream=draw(st.sampled_from([False, False, False, True])),
    )


def some(**choices: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A few options away from their defaults, which the lists do not contain."""
    options = {name: st.sampled_from(values) for name, values in choices.items()}
    return st.lists(st.sampled_from(sorted(choices)), max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: options[name] for name in names})
    )


TRAINER = some(
    max_epochs=[1, 3], precision=["bf16-mixed", "bf16-true", "64-true"], accumulate_grad_batches=[2, 3],
    val_check_interval=[0.5, 2], check_val_every_n_epoch=[2], num_sanity_val_steps=[0, 1, -1],
    limit_train_batches=[2, 0.5], limit_val_batches=[0, 1, 0.5], gradient_clip_val=[0.1], overfit_batches=[2],
    fast_dev_run=[True, 2], deterministic=[True], reload_dataloaders_every_n_epochs=[1], max_steps=[3],
    inference_mode=[False], min_epochs=[1], log_every_n_steps=[1],
)  # fmt: skip

MONITOR = some(
    watch=["train", "both"], num_samples=[2, 100], num_players=[2, 5], resample=[True], every_n_epochs=[1, 2],
    per_octave=[1, 100], max_per_epoch=[1, 3],
    max_overhead=[0.001], layer=["net.2", "net", "nowhere"], noise_bound=[0.05], salience=[0.0], chunk_size=[1, 5],
    score=["logit", "probability", lambda z, y: z.sum(1), lambda z, y: z], target=["predicted", 0, 7],
    monitor=["val_loss", "unknown"], precision=["inherit"], seed=[5],
    players=[TabularFeatures("zero"), Tokens(mask_token_id=1)], log_figures=[False],
    log_key_prefix=["interactions/other/"], one_group=[True],
)  # fmt: skip


def loaders_of(world: World) -> dict[str, Any]:
    found = {}
    for seed, (name, size) in enumerate({"train_dataloaders": world.size, "val_dataloaders": world.size // 2}.items()):
        data: Any = Samples(world, size, seed)
        collate = ragged if world.inputs == "ragged" and world.structure == "tuple" else None
        found[name] = DataLoader(
            Stream(data) if world.stream else data, world.batch_size, collate_fn=collate, drop_last=True
        )
    return found


def train(world: World, options: dict[str, Any], monitor: TwoPhaseMonitor | None) -> tuple[Any, BaseException | None]:
    """What is left of a run, or the exception that ended it; and how many validations could have been measured."""
    spy = Spy()

    class Count(L.Callback):
        validations = trained = 0

        def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            self.validations += not trainer.sanity_checking

        def on_train_batch_end(self, *args: Any) -> None:
            self.trained += 1

    count = Count()
    try:
        trainer = fit(
            monitor, model=lambda: AnyNet(world), data=loaders_of(world), callbacks=(spy, count),
            **({"max_epochs": 2} | options),
        )  # fmt: skip
    except Exception as error:
        return count, error
    return (outcome(trainer, spy), count), None


def check(world: World, options: dict[str, Any], chosen: dict[str, Any]) -> str:
    """Assert the property; say in a word what happened."""
    with listening() as told:
        plain, refused = train(world, options, None)
        if refused is not None:
            return "refused without the monitor"
        try:
            monitor = TwoPhaseMonitor(**({"num_samples": 4, "num_players": 3, "verbose": False} | chosen))
        except InteractionsError:
            return "our error in the constructor"
        found, error = train(world, options, monitor)
    if error is not None:
        assert isinstance(error, InteractionsError), f"not ours: {error!r}"
        assert found.trained == 0, f"an error of ours in the middle of training: {error!r}"
        return "our error before training"
    assert_identical(plain[0], found[0])
    unusual = [text for text in told if " failed: " in text]
    if any("switched off for this run" in text for text in told):
        assert len(monitor.history) == 0
        return "switched off with a warning"
    if unusual:
        assert any("no batch with usable samples has passed" in text for text in unusual), unusual
        return "nothing to measure, and told so"
    measurable = found[1].validations or options.get("limit_val_batches") == 0  # then the training samples are watched
    if measurable:
        assert len(monitor.history), "measured where it could be"
    elif len(monitor.history):  # a run that ends before its first validation, measured before and beside it
        assert "every_n_epochs" not in chosen
        assert monitor.history.column("epoch")[0] == -1
    return "trained with a history" if monitor.history.last else "no validation came to pass"


def try_out(examples: int) -> Counter[str]:
    """How often each outcome came up in so many random configurations."""
    seen: Counter[str] = Counter()

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(worlds(), TRAINER, MONITOR)
    def try_one(world: World, options: dict[str, Any], chosen: dict[str, Any]) -> None:
        seen[check(world, options, chosen)] += 1

    try_one()
    return seen


def test_any_configuration_trains_as_without_the_monitor_or_is_refused() -> None:
    seen = try_out(40)
    assert seen["trained with a history"] >= 8, seen


@pytest.mark.slow
def test_hundreds_of_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    seen = try_out(600)
    with capsys.disabled():
        print(f"\n{sum(seen.values())} configurations: {dict(seen.most_common())}")
    assert sum(seen.values()) >= 500
    assert seen["trained with a history"] >= 150
