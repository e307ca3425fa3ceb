"""A project as users have them: a module with hyper-parameters and a datamodule, both importable by name."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from models import ColumnNet, column_data
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Net(ColumnNet):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(5, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 3))


class Data(L.LightningDataModule):
    def __init__(self, train: int = 48) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train = column_data(self.hparams["train"], seed=1)
        self.val = column_data(40, seed=2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=16, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=16)

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        return [2 * batch[0] + 1, *batch[1:]]


class Broken(Net):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__(hidden)
        if torch.is_grad_enabled():
            raise RuntimeError("needs a part that is not there")
