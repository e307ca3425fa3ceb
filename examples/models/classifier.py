"""One LightningModule for every example: nothing in it knows of the monitor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Classifier(L.LightningModule):
    """Cross-entropy training of any network that returns logits.

    A batch is ``(inputs, labels)``, or a mapping with ``"labels"`` whose other entries the network takes by name.
    """

    def __init__(self, net: nn.Module, lr: float, optimizer: str = "sgd", weight_decay: float = 0.0) -> None:
        super().__init__()
        self.net, self.lr, self.optimizer, self.weight_decay = net, lr, optimizer, weight_decay

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.net(*inputs, **named)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(*self._logits_and_labels(batch))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, labels = self._logits_and_labels(batch)
        metrics = {
            "val_loss": cross_entropy(logits, labels),
            "val_accuracy": (logits.argmax(-1) == labels).float().mean(),
        }
        self.log_dict(metrics, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "adamw":
            return torch.optim.AdamW(self.parameters(), self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)

    def _logits_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, Mapping):
            output = self(**{key: value for key, value in batch.items() if key != "labels"})
            return getattr(output, "logits", output), batch["labels"]
        inputs, labels = batch
        return self(inputs), labels
