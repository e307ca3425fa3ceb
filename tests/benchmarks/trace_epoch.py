"""How long is the way through the package in one validation epoch: functions that run, files they are in, depth.

Run by hand: ``python tests/benchmarks/trace_epoch.py [--all]``. The demo's network and data, two epochs with a
TensorBoard logger; the second validation is traced by ``sys.setprofile``, functions of the package only. Writes
``trace_epoch.json`` beside it; ``--all`` prints every function and the deepest chain of calls.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

import lightning_interactions
from lightning_interactions import TwoPhaseMonitor
from lightning_interactions.demo import DigitsData, DigitsNet

PACKAGE = str(Path(lightning_interactions.__file__).parent)


class Trace(L.Callback):
    """Listens during the validation of epoch 1; listed before the monitor."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.open: list[str] = []
        self.deepest: list[str] = []

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_filename.endswith("demo.py"):
            return
        name = f"{Path(code.co_filename).relative_to(PACKAGE)} {getattr(code, 'co_qualname', code.co_name)}"
        if event == "call":
            self.calls[f"{name} {code.co_firstlineno}"] += 1
            self.open.append(name)
            self.deepest = max(self.deepest, self.open[:], key=len)
        elif event == "return" and self.open:
            self.open.pop()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            sys.setprofile(self.note)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sys.setprofile(None)


def main() -> None:
    torch.manual_seed(0)
    trace, monitor = Trace(), TwoPhaseMonitor(num_samples=8, num_players=6, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=2, accelerator="cpu", callbacks=[trace, monitor], logger=TensorBoardLogger(folder),
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(DigitsNet(), datamodule=DigitsData())
    found = {
        "functions": len(trace.calls),
        "without comprehensions and lambdas": sum("<" not in name.split(".")[-1] for name in trace.calls),
        "files": len({name.split()[0] for name in trace.calls}),
        "deepest": len(trace.deepest),
        "calls": sum(trace.calls.values()),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name}: {value}" for name, value in found.items()))
    if "--all" in sys.argv:
        print(*sorted(trace.calls), "", *trace.deepest, sep="\n")


if __name__ == "__main__":
    main()
