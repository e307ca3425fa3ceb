"""Train the runs of `runs.py` and record what detectors, rivals and hindsight need, one file a run.

    python tests/benchmarks/onset/record.py FOLDER --part 0/2   # and 1/2 beside it: an hour on two cores
    python tests/benchmarks/onset/record.py FOLDER --store      # all of them into recordings.npz

It needs `../shared/data`, scikit-learn and river, and gives the same numbers every time (up to the last digits of the
masked forward passes). A file that is there already is not made again. Each holds, with `E` epochs, `M` measured ones
and `V` validation sets:

| array | meaning |
| --- | --- |
| `epoch` (M,) | measured epochs; -1 is before training, epoch e is after it, as in the monitor |
| `strength_val`, `strength_train` (M, samples, 2, n) float16 | as `order_strength` gives it, salience 0.03 |
| `gap` (M,) | largest certified gap of a split |
| `train_loss`, `test_loss` (E + 1,), `val_loss` (E + 1, V) | in eval mode, after epoch -1 to E - 1 |
| `train_acc`, `test_acc` (E + 1,), `val_acc` (E + 1, V) | likewise |
| `val_sizes` (V,) | samples in the validation set: nested |
| `changes` (E,) | training samples whose prediction in the training pass differs from the last epoch's (Label Wave) |
| `run` | the settings, JSON |
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from data import DataSet, load
from networks import augmented, build
from recordings import store
from runs import Run, all_runs
from torch import Tensor, nn

from lightning_interactions import compute_interactions
from lightning_interactions.measure.samples import Pool, Samples
from lightning_interactions.model.batch import Batch

SAMPLES = {"val": 32, "train": 16}  # fewer of the latter: each costs as much as a short training
PLAYERS = {"adult": 10, "spambase": 10}  # the default; 8 for the others, which takes a quarter of the time
TRAIN_LOSS = 1000  # training samples whose loss is measured
VAL_SIZES = 100, 300, 1000
Arrays = dict[str, Any]


def measured(epoch: int) -> bool:
    """Every epoch at first, every second from 16, every fifth from 30."""
    return epoch < 16 or (epoch < 30 and epoch % 2 == 0) or epoch % 5 == 0


def training_samples(run: Run, data: DataSet) -> tuple[Tensor, Tensor]:
    """Draw the training samples of a run and spoil some labels."""
    generator = torch.Generator().manual_seed(run.seed)
    chosen = torch.randperm(len(data.pool[1]), generator=generator)[: run.size]
    x, y = data.pool[0][chosen], data.pool[1][chosen].clone()
    noisy = round(run.noise * len(y))
    y[:noisy] = torch.randint(0, data.classes, (noisy,), generator=generator)
    return x, y


def probe(samples: tuple[Tensor, Tensor], size: int, seed: int) -> Samples:
    """Choose the watched samples as the monitor would."""
    collector = Pool(size, seed=seed, balanced=True)
    collector.offer(Batch(*samples))
    found = collector.result()
    assert found is not None
    return found


def record(run: Run, *, measure: bool = True) -> Arrays:
    """Train one network and record it."""
    data = load(run.data)
    train = training_samples(run, data)
    torch.manual_seed(run.seed)
    net = build(run.net, train[0][0], data.classes, run.dropout)
    net(train[0][:2])  # lazy layers
    optimiser, schedule = _optimiser(run, net)
    probes = {
        split: probe(samples, SAMPLES[split], run.seed) for split, samples in (("val", data.val), ("train", train))
    }
    step = max(1, len(train[1]) // TRAIN_LOSS)  # the noisy labels come first, so a beginning would not do
    sizes = sorted({min(size, len(data.val[1])) for size in VAL_SIZES})
    players = PLAYERS.get(run.data, 8)
    rows: Arrays = {key: [] for key in ("epoch", "strength_val", "strength_train", "gap", "changes")}
    rows |= {f"{split}_{what}": [] for split in ("train", "val", "test") for what in ("loss", "acc")}
    predictions = torch.full((len(train[1]),), -1)
    for epoch in range(-1, run.epochs):
        if epoch >= 0:
            before = predictions.clone()
            _train_epoch(run, net, optimiser, train, predictions)
            schedule.step()
            rows["changes"].append(int((before != predictions).sum()))
        seen = train[0][::step], train[1][::step]
        for split, samples, ends in (("train", seen, None), ("val", data.val, sizes), ("test", data.test, None)):
            loss, right = _evaluate(net, samples)
            means = [[float(values[:end].mean()) for end in ends or [len(loss)]] for values in (loss, right)]
            rows[f"{split}_loss"].append(means[0] if ends else means[0][0])
            rows[f"{split}_acc"].append(means[1] if ends else means[1][0])
        if measure and measured(epoch):
            rows["epoch"].append(epoch)
            gaps = []
            for split, watched in probes.items():
                found = compute_interactions(
                    net, watched.inputs, watched.targets, data.players, num_players=players, chunk_size=256
                )
                rows[f"strength_{split}"].append(found.strength().numpy())
                gaps.append(float(found.gap.max()))
            rows["gap"].append(max(gaps))
    return _packed(rows, run, sizes)


def _optimiser(run: Run, net: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    if run.optimiser == "adam":
        optimiser: torch.optim.Optimizer = torch.optim.AdamW(net.parameters(), run.rate, weight_decay=run.decay)
    else:
        momentum = 0.9 if run.optimiser == "momentum" else 0.0
        optimiser = torch.optim.SGD(net.parameters(), run.rate, momentum=momentum, weight_decay=run.decay)
    if run.schedule == "cosine":
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, run.epochs)
    steps = [run.epochs // 2, run.epochs * 3 // 4] if run.schedule == "step" else []
    return optimiser, torch.optim.lr_scheduler.MultiStepLR(optimiser, steps)


def _train_epoch(
    run: Run, net: nn.Module, optimiser: torch.optim.Optimizer, train: tuple[Tensor, Tensor], predictions: Tensor
) -> None:
    net.train()
    for rows in torch.randperm(len(train[1])).split(run.batch):
        x, y = train[0][rows], train[1][rows]
        logits = net(augmented(x) if run.augment else x)
        optimiser.zero_grad()
        F.cross_entropy(logits, y).backward()
        optimiser.step()
        predictions[rows] = logits.detach().argmax(1)


@torch.no_grad()
def _evaluate(net: nn.Module, samples: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    net.eval()
    logits = torch.cat([net(x) for x in samples[0].split(1024)])
    return F.cross_entropy(logits, samples[1], reduction="none"), (logits.argmax(1) == samples[1]).float()


def _packed(rows: Arrays, run: Run, sizes: list[int]) -> Arrays:
    arrays = {key: np.asarray(value, dtype=np.float32) for key, value in rows.items()}
    for key in ("epoch", "changes"):
        arrays[key] = arrays[key].astype(np.int32)
    for key in ("strength_val", "strength_train"):
        arrays[key] = arrays[key].clip(max=6e4).astype(np.float16)
    return {**arrays, "val_sizes": np.array(sizes), "run": np.array(json.dumps(run.to_dict()))}


def _record_to(run: Run, folder: Path, *, measure: bool) -> str:
    path = folder / f"{run.name}.npz"
    if path.exists():
        return f"{run.name}: there already"
    started = time.perf_counter()
    arrays = record(run, measure=measure)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)
    test = arrays["test_loss"]
    return (
        f"{run.name}: {time.perf_counter() - started:.0f} s, test loss {test[0]:.3f}, lowest {test.min():.3f} after "
        f"epoch {int(test.argmin()) - 1} of {run.epochs}, at the end {test[-1]:.3f} ({test[-1] / test.min():.2f})"
    )


def main() -> None:
    """Record all runs that are not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", default="0/1", help="i/k: record every k-th run from the i-th on, one process each")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--losses-only", action="store_true", help="train without measuring, to look at the runs")
    parser.add_argument("--store", action="store_true", help="put the files of the folder into recordings.npz")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.store:
        store(options.folder)
        return
    first, parts = map(int, options.part.split("/"))
    runs = all_runs(options.seeds)[first::parts]
    for i, run in enumerate(runs, 1):
        print(f"{i}/{len(runs)} {_record_to(run, options.folder, measure=not options.losses_only)}", flush=True)


if __name__ == "__main__":
    main()
