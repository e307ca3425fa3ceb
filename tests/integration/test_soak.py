"""2 000 measured epochs: memory stays flat, the state grows by its history alone, and no measurement gets slower."""

from __future__ import annotations

import gc
import io
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from models import QuietNet, column_data, fit, small_monitor
from torch.utils.data import DataLoader

EPOCHS = 2000
EVERY = 100


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def tensors() -> int:
    gc.collect()
    return sum(1 for item in gc.get_objects() if type(item) is torch.Tensor)


def stored_bytes(state: Any) -> int:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


class Watch(L.Callback):
    """Looks at memory and state every hundredth epoch."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor
        self.rows: list[dict[str, float]] = []
        self.cpu = time.process_time()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if (trainer.current_epoch + 1) % EVERY:
            return
        spent = time.process_time() - self.cpu  # on a busy machine it says more than the clock
        state = self.monitor.state_dict()
        history = state.pop("history")
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "resident_mb": resident_megabytes(),
                "tensors": tensors(),
                "history_kb": stored_bytes(history) / 1024,
                "detector_kb": stored_bytes(state["detector"]) / 1024,
                "rest_kb": stored_bytes({k: v for k, v in state.items() if k != "detector"}) / 1024,
                "ms": 1000 * statistics.median(self.monitor.history.column("seconds")[-EVERY:]),
                "cpu_ms_per_epoch": 1000 * spent / EVERY,
            }
        )
        self.cpu = time.process_time()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident size is read from Linux's /proc")
def test_two_thousand_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = small_monitor(num_samples=4, num_players=4, on_event=None)
    watch = Watch(monitor)
    data = {
        "train_dataloaders": DataLoader(column_data(16, seed=1), 16),
        "val_dataloaders": DataLoader(column_data(16, seed=2), 16),
    }
    fit(monitor, model=QuietNet, data=data, callbacks=(watch,), max_epochs=EPOCHS)
    assert len(monitor.history) == EPOCHS
    with capsys.disabled():
        print()
        for row in watch.rows:
            print("  ".join(f"{key} {value:8.1f}" for key, value in row.items()))
    half = watch.rows[len(watch.rows) // 2 :]
    assert len({row["tensors"] for row in half}) == 1, "no tensor is left behind"
    assert max(row["rest_kb"] for row in half) <= 1.05 * half[0]["rest_kb"], "only the history grows"
    per_epoch = (watch.rows[-1]["history_kb"] - watch.rows[0]["history_kb"]) / (EPOCHS - EVERY)
    assert per_epoch < 4, "a record of a few dozen numbers"
    grown = half[-1]["resident_mb"] - half[0]["resident_mb"]
    assert grown < 20 + 8 * per_epoch * len(half) * EVERY / 1024, "what the records need as Python numbers, and slack"
