"""A trained network to compare with."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_interactions import ArgumentError, InteractionsWarning, Options, TwoPhaseMonitor
from lightning_interactions.measure.reference import check_reference
from lightning_interactions.monitor.loop import InteractionMonitor
from lightning_interactions.players import TabularFeatures

X = torch.rand(12, 5, generator=torch.Generator().manual_seed(0)) + 0.5
Y = torch.arange(12) % 2


class Sum(nn.Module):
    """Two logits from products of columns: each term a weight and the columns it multiplies."""

    def __init__(self, *terms: tuple[float, tuple[int, ...]]) -> None:
        super().__init__()
        self.terms = terms
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        score = sum(w * x[:, list(columns)].prod(1) for w, columns in self.terms) * self.weight
        return torch.stack([-score / 2, score / 2], 1)


def watched(reference: Any, model: nn.Module | None = None, **options: Any) -> tuple[InteractionMonitor, list[str]]:
    told: list[str] = []
    given = Options(
        TabularFeatures("zero"), num_samples=6, num_players=5, noise_bound=0.0, reference=reference, target=1, **options
    )
    monitor = InteractionMonitor(given, tell=told.append)
    for split in ("train", "val"):
        monitor.observe(split, (X, Y))
    monitor.measure(model or Sum((3.0, (0, 1)), (1.0, (2, 3)), (-2.0, (3, 4))), 0)
    return monitor, told


def shared(monitor: InteractionMonitor) -> float:
    return monitor.history.column("reference/shared_share")[-1]


def test_the_share_is_that_of_equal_signs() -> None:
    """Of AND(0, 1), AND(2, 3) and -AND(3, 4) the other has the first, and the second with the other sign."""
    monitor, _ = watched(Sum((1.0, (0, 1)), (-5.0, (2, 3)), (1.0, (0, 4))))
    strong = 3.0 * X[:, :2].prod(1), X[:, 2:4].prod(1), 2.0 * X[:, 3:].prod(1)
    low, high = (float(f(strong[0] / sum(strong))) for f in (torch.min, torch.max))
    assert low < shared(monitor) < high
    lower, upper = (monitor.history.column(f"reference/shared_share_{end}")[-1] for end in ("lower", "upper"))
    assert lower <= shared(monitor) <= upper


def test_it_shares_everything_with_itself_and_nothing_with_its_negative() -> None:
    own = Sum((3.0, (0, 1)), (1.0, (2, 3)))
    assert shared(watched(copy.deepcopy(own), own)[0]) == 1
    assert shared(watched(Sum((-3.0, (0, 1)), (-1.0, (2, 3))), own)[0]) == 0


def test_another_architecture_is_called_with_the_inputs() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Sum((3.0, (0, 1)))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model = Sum((3.0, (0, 1)))
    told: list[str] = []
    options = Options(TabularFeatures("zero"), num_samples=6, num_players=5, reference=Wrapped(), target=1)
    monitor = InteractionMonitor(options, tell=told.append)

    class Parts(nn.Module):
        """Its step calls a part that the other has not."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

    net = Parts()
    for split in ("train", "val"):
        with monitor.step(split, net, (X, Y)):
            nn.functional.cross_entropy(net.inner(X), Y)
    monitor.measure(net, 0)
    assert shared(monitor) == 1


def test_a_checkpoint_of_the_model_will_do(tmp_path: Path) -> None:
    model = Sum((3.0, (0, 1)))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight.neg_()
    for content in (other.state_dict(), {"state_dict": other.state_dict(), "epoch": 3}):
        torch.save(content, tmp_path / "other.ckpt")
        assert shared(watched(tmp_path / "other.ckpt", model)[0]) == 0
    assert model.weight.item() == 1, "the model that is trained keeps its weights"


def test_the_reference_is_asked_once_and_left_alone() -> None:
    calls: list[int] = []

    class Counting(Sum):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().forward(x)

    given = Counting((3.0, (0, 1))).train()
    monitor, _ = watched(given)
    before = len(calls)
    assert before > 0
    monitor.measure(Sum((3.0, (0, 1))), 1)
    assert len(calls) == before
    assert given.training
    assert not math.isnan(shared(monitor))


def test_with_both_splits_each_has_its_own() -> None:
    monitor, _ = watched(Sum((3.0, (0, 1))), watch="both")
    assert {"val/reference/shared_share", "train/reference/shared_share"} <= set(monitor.history.to_dict())


def test_one_that_fails_later_is_let_go() -> None:
    class Moody(Sum):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 4:
                raise RuntimeError("not today")
            return super().forward(x)

    monitor, told = watched(Moody((3.0, (0, 1))))
    assert "reference/shared_share" not in monitor.history.to_dict()
    assert any("the reference cannot be measured" in text and "not today" in text for text in told)
    assert monitor.measure(Sum((3.0, (0, 1))), 1) == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (nn.Linear(5, 3), "has 3"),
        (nn.Linear(7, 2), "does not: "),
    ],
)
def test_one_that_does_not_fit_is_an_error_at_once(reference: nn.Module, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        watched(reference)


def test_a_checkpoint_of_another_model_is_an_error(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.ckpt")
    with pytest.raises(ArgumentError, match="a checkpoint of the model that is trained"):
        watched(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("reference", "layer", "message"),
    [("nowhere.ckpt", None, "a checkpoint that exists"), (3, None, "nn.Module"), (nn.Linear(1, 1), "0", "`layer=`")],
)
def test_what_is_no_reference_is_an_error_in_the_constructor(reference: Any, layer: str | None, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        TwoPhaseMonitor(reference=reference, layer=layer)
    check_reference(None, layer)


def test_the_score_of_the_predicted_class_is_not_compared() -> None:
    with pytest.raises(ArgumentError, match="score of the same class"):
        TwoPhaseMonitor(reference=nn.Linear(1, 1), target="predicted")


def test_one_that_cannot_be_copied_or_loaded_is_an_error_that_names_it(tmp_path: Path) -> None:
    locked = nn.Linear(5, 2)
    locked.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ArgumentError, match=r"`reference` to be a model that can be copied.*TypeError"):
        watched(locked)
    (tmp_path / "broken.ckpt").write_bytes(b"nothing of the kind")
    with pytest.raises(ArgumentError, match=r"`reference`.*UnpicklingError"):
        watched(tmp_path / "broken.ckpt")


def test_the_chunk_size_holds_for_it_too() -> None:
    rows: list[int] = []

    class Counting(Sum):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return super().forward(x)

    watched(Counting((3.0, (0, 1))), chunk_size=4)
    assert max(rows) == 4


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(
    reference: Any, epochs: int = 2, module: L.LightningModule | None = None, sanity: int = 2, **options: Any
) -> tuple[TwoPhaseMonitor, L.Trainer]:
    torch.manual_seed(0)
    monitor = TwoPhaseMonitor(num_samples=6, num_players=5, verbose=False, reference=reference, **options)
    loaders = [DataLoader(TensorDataset(X, Y), 4) for _ in range(2)]
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[monitor], logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=sanity,
    )  # fmt: skip
    trainer.fit(module or Classifier(), *loaders)
    return monitor, trainer


def test_under_a_trainer_a_checkpoint_of_the_end_shares_all_at_the_end(tmp_path: Path) -> None:
    _, trainer = fit(None, epochs=4)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    monitor, again = fit(str(tmp_path / "end.ckpt"), epochs=4)
    column = monitor.history.column("reference/shared_share")
    assert column[-1] == 1
    assert column[0] < 1
    for name, value in trainer.lightning_module.state_dict().items():
        assert torch.equal(value, again.lightning_module.state_dict()[name]), "training is the same"
    assert pickle.loads(pickle.dumps(monitor)).reference == str(tmp_path / "end.ckpt")
    assert monitor.record().settings["reference"] == str(tmp_path / "end.ckpt")


class Wider(Classifier):
    """Its training step calls another part, with other columns, than that of validation."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(7, 2)

    def training_step(self, batch: Any, index: int) -> Tensor:
        wide = nn.functional.pad(batch[0], (0, 2))
        return nn.functional.cross_entropy(self.wide(wide), batch[1])


def test_it_is_tried_on_validation_batches_only() -> None:
    with pytest.warns(InteractionsWarning, match="called in another way than in the first batch"):
        monitor, _ = fit(nn.Linear(5, 2), module=Wider(), sanity=0, players=TabularFeatures())
    assert len(monitor.history.column("reference/shared_share")) > 1


def test_under_a_trainer_a_wrong_reference_raises_before_training() -> None:
    with pytest.raises(ArgumentError, match="2 outputs"):
        fit(nn.Linear(5, 3))
