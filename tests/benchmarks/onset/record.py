"""Train the runs of `runs.py` and record what detectors, rivals and hindsight need, one file a run.

    python tests/benchmarks/onset/record.py FOLDER --jobs 2     # about two hours on two cores
    python tests/benchmarks/onset/record.py FOLDER --store      # all of them into recordings.npz

It needs `../shared/data`, scikit-learn and river, or a folder that `--pack` made of them (`--data`), and gives the same
numbers every time, up to the last digits of the forward passes. A file that is there already is not made again. With
`M` records at the places `epoch` (as the monitor counts: -1 before training, 2.25 inside epoch 3, 3 at its end), `L`
places where losses are known (the same and the ends of all epochs), `E` epochs, `B` watched samples, `n` players:

| array | meaning |
| --- | --- |
| `epoch` (M,), `scale_<split>` (M,), `gap` (M,) | place; unit of residual and threshold; largest certified gap |
| `bounded_<split>` (M, B, 2, n) | salient strength of the bounded split, the default reading; in units of the scale |
| `exact_val` (M, B, n) | the same of the exact split, both signs together |
| `tail_val` (M, B, n) | strength of the exact split without a threshold |
| `energy_<split>` (M, B, n), `effect_<split>` (M, B) | energy by degree; the effect of the whole input |
| `loss_epoch` (L,), `train_loss`, `test_loss`, `train_acc`, `test_acc` (L,) | in eval mode |
| `val_loss`, `val_acc` (L, V), `val_sizes` (V,) | of nested validation sets |
| `val_each` (L, up to 200) | losses of single validation samples |
| `gwa` (L,) | gradient-weight alignment (arXiv 2510.25480) of the last layer on training samples |
| `changes` (E,) | training samples whose prediction differs from the last epoch's (Label Wave) |
| `values_val` (M, B, 2**n) | only with `--values`: scores of all masked inputs |
| `run` | the settings, JSON |
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
# In this order: `examples` has a `data` of its own, and the folder above a `models`.
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "examples"), str(HERE.parent), str(HERE.parents[2])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from data import DataSet, load, pack  # noqa: E402
from networks import DEEP, augmented, build  # noqa: E402
from recordings import store  # noqa: E402
from runs import Run, all_runs  # noqa: E402
from site_of import Site  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lightning_interactions.functional import degree_energy, order_strength, sparse_and_or, value_scale  # noqa: E402
from lightning_interactions.measure.reading import Reading  # noqa: E402
from lightning_interactions.measure.samples import Pool, Samples  # noqa: E402
from lightning_interactions.model.batch import Batch  # noqa: E402
from lightning_interactions.monitor.rhythm import is_due, marks, marks_per_epoch  # noqa: E402

SAMPLES = {False: {"val": 32, "train": 16}, True: {"val": 16, "train": 8}}  # the latter of deep networks
PLAYERS = 10  # the default
FRONTIER_PLAYERS, FRONTIER_SAMPLES = (6, 8, 10, 12), 64  # for the choice of the defaults
TRAIN_LOSS = 1000  # training samples whose loss is measured
VAL_SIZES = 100, 300, 1000
EACH = 200
PER_OCTAVE, MOST = 16, 4
Pair = tuple[Tensor, Tensor]
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The command line, as far as runs need it."""

    folder: Path
    data: Path | None
    device: str
    values: bool
    frontier: bool
    deadline: float  # by time.time()


def training_samples(run: Run, data: DataSet) -> Pair:
    """Draw the training samples of a run and spoil some labels."""
    generator = torch.Generator().manual_seed(run.seed)
    chosen = torch.randperm(len(data.pool[1]), generator=generator)[: run.size]
    return data.pool[0][chosen], _spoiled(data.pool[1][chosen], run.noise, data.classes, generator)


def validation_samples(run: Run, data: DataSet) -> Pair:
    """What detectors see: it may be little, or have wrong labels."""
    generator = torch.Generator().manual_seed(1000 + run.seed)
    size = run.val_size or len(data.val[1])
    return data.val[0][:size], _spoiled(data.val[1][:size], run.val_noise, data.classes, generator, scattered=True)


def _spoiled(y: Tensor, part: float, classes: int, generator: torch.Generator, *, scattered: bool = False) -> Tensor:
    """Replace a part of the labels by random ones: the first, or any."""
    y, count = y.clone(), round(part * len(y))
    rows = torch.randperm(len(y), generator=generator)[:count] if scattered else torch.arange(count)
    y[rows] = torch.randint(0, classes, (count,), generator=generator)
    return y


class Watched:
    """The watched samples of both splits and what is read of them."""

    def __init__(
        self, run: Run, net: nn.Module, data: DataSet, splits: dict[str, tuple[Pair, int, int]], device: str
    ) -> None:
        self.net = copy.deepcopy(net).to(device)
        self.sites, self.values = {}, dict[str, list[Tensor]]()
        for split, (samples, count, players) in splits.items():
            chosen = _chosen(samples, count, run.seed)
            self.sites[split] = Site(
                self.net, chosen, data.players, players, "input", 8192 if device == "cuda" else 256
            )

    def look(self, net: nn.Module) -> None:
        """Record the present network."""
        self.net.load_state_dict(net.state_dict())
        for split, site in self.sites.items():
            self.values.setdefault(split, []).append(site.values().double())

    def arrays(self, *, values: bool) -> Arrays:
        """Split all values at once: what the package would have found record by record."""
        found, gaps = {}, []
        for split, rows in self.values.items():
            v = torch.stack(rows)
            scale = torch.stack([value_scale(row) for row in v])
            flat = (v / scale[:, None, None]).flatten(0, 1)
            reading = Reading()
            bounded = reading.split(flat, torch.ones((), dtype=flat.dtype, device=flat.device))
            exact = sparse_and_or(flat, tol=0.02)
            effect = flat[:, -1] - flat[:, 0]
            gaps += [part.gap.reshape(v.shape[:2]).amax(1) for part in (bounded, exact)]
            shape = v.shape[:2]
            found |= {
                f"bounded_{split}": _strength(bounded, reading.salience, shape),
                f"energy_{split}": degree_energy(flat).unflatten(0, shape),
                f"effect_{split}": effect.abs().unflatten(0, shape),
                f"scale_{split}": scale,
            }
            if split == "val":
                found["exact_val"] = _strength(exact, reading.salience, shape).sum(2)
                found["tail_val"] = _strength(exact, 0.0, shape).sum(2)
            if values and split == "val":
                found["values_val"] = v
        return {key: _half(value) for key, value in {**found, "gap": torch.stack(gaps).amax(0)}.items()}

    def fewer_players(self) -> Arrays:
        """Strengths ``players_<n>`` if only so many had been players, and the others always present."""
        v, found = torch.stack(self.values["val"]), {}
        for n in FRONTIER_PLAYERS:
            others = (v.shape[-1] - 1) >> n << n
            part = v[..., torch.arange(2**n, device=v.device) + others]
            scale = torch.stack([value_scale(row) for row in part])
            flat = (part / scale[:, None, None]).flatten(0, 1)
            split = Reading().split(flat, torch.ones((), dtype=flat.dtype, device=flat.device))
            found |= {f"players_{n}": _strength(split, Reading().salience, v.shape[:2]), f"scale_{n}": scale}
        return {key: _half(value) for key, value in found.items()}


def _half(x: Tensor) -> Any:
    """Numbers in units of the scale need no more digits; the scale itself may be any."""
    return (x.float() if x.ndim == 1 else x.clamp(max=6e4).half()).cpu().numpy()


def _strength(split: Any, salience: float, shape: torch.Size) -> Tensor:
    return order_strength(split.and_, split.or_, salience).unflatten(0, shape)


def _chosen(samples: Pair, size: int, seed: int) -> Samples:
    """Choose the watched samples as the monitor would."""
    pool = Pool(size, seed=seed, balanced=True)
    pool.offer(Batch(*samples))
    found = pool.result()
    assert found is not None
    return found


class Losses:
    """Losses and what rivals need, at all places so far."""

    def __init__(self, train: Pair, val: Pair, test: Pair) -> None:
        step = max(1, len(train[1]) // TRAIN_LOSS)  # the noisy labels come first, so a beginning would not do
        self.samples = {"train": (train[0][::step], train[1][::step]), "val": val, "test": test}
        self.sizes = sorted({min(size, len(val[1])) for size in VAL_SIZES})
        self.rows: Arrays = {"loss_epoch": [], "val_each": [], "gwa": []}

    @torch.no_grad()
    def look(self, net: nn.Module, epoch: float) -> None:
        net.eval()
        self.rows["loss_epoch"].append(epoch)
        for split, (x, y) in self.samples.items():
            logits, inner = _outputs(net, x)
            loss, right = F.cross_entropy(logits, y, reduction="none"), (logits.argmax(1) == y).float()
            for what, each in (("loss", loss), ("acc", right)):
                means = [float(each[:end].mean()) for end in (self.sizes if split == "val" else [len(y)])]
                self.rows.setdefault(f"{split}_{what}", []).append(means if split == "val" else means[0])
            if split == "val":
                self.rows["val_each"].append(loss[:EACH].clamp(max=6e4).half().cpu().numpy())
            if split == "train":
                self.rows["gwa"].append(alignment(logits, inner, y, _last(net).weight))


def alignment(logits: Tensor, inner: Tensor, y: Tensor, weight: Tensor) -> float:
    """Gradient-weight alignment: mean over excess kurtosis + 1.2 of the cosines of -gradient and weight.

    A sample's gradient of the last layer is ``(p - y) h'``, so the cosine is ``-<h, W'(p - y)> / (|h| |p - y| |W|)``.
    """
    error = logits.softmax(1) - F.one_hot(y, logits.shape[1])
    cosine = -((error @ weight) * inner).sum(1) / (inner.norm(dim=1) * error.norm(dim=1) * weight.norm()).clamp(1e-12)
    centred = cosine - cosine.mean()
    kurtosis = centred.pow(4).mean() / centred.square().mean().square().clamp(1e-24) - 3
    return (cosine.mean() / (kurtosis + 1.2).clamp(1e-3)).item()


def _last(net: nn.Module) -> nn.Linear:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]


@torch.no_grad()
def _outputs(net: nn.Module, x: Tensor) -> Pair:
    """Logits, and what goes into the last layer."""
    inner: list[Tensor] = []
    handle = _last(net).register_forward_pre_hook(lambda _, args: inner.append(args[0]))
    logits = torch.cat([net(part) for part in x.split(1024)])
    handle.remove()
    return logits, torch.cat(inner)


def record(run: Run, settings: Settings) -> Arrays:
    """Train one network and record it."""
    started = time.time()
    device = settings.device if run.net in DEEP else "cpu"
    data = load(run.data, settings.data)
    train, val = training_samples(run, data), validation_samples(run, data)
    torch.manual_seed(run.seed)
    net = build(run.net, train[0][0], data.classes, run.dropout)
    net(train[0][:2])  # lazy layers
    counts = SAMPLES[run.net in DEEP]
    splits = {"val": (val, counts["val"], PLAYERS), "train": (train, counts["train"], PLAYERS)}
    if settings.frontier:
        splits = {"val": (val, FRONTIER_SAMPLES, FRONTIER_PLAYERS[-1])}
    watched = Watched(run, net, data, splits, settings.device)
    net.to(device)
    pairs = [(x.to(device), y.to(device)) for x, y in (train, val, data.test)]
    losses, places = Losses(*pairs), list[float]()

    def look(epoch: float, steps: int) -> None:
        last = {"epoch": places[-1], "step": steps} if places else None
        due = is_due(epoch, steps, last, per_octave=PER_OCTAVE, every_n_epochs=None)
        if due:
            places.append(epoch)
            watched.look(net)
        if due or epoch == int(epoch):
            losses.look(net, epoch)

    look(-1.0, 0)
    changes = _train(run, net, pairs[0], look, settings.deadline)
    told = {**run.to_dict(), "seconds": round(time.time() - started, 1), "complete": len(changes) == run.cut}
    rows = {
        k: np.asarray(value, dtype=np.float16 if k == "val_each" else np.float32) for k, value in losses.rows.items()
    }
    found = watched.fewer_players() if settings.frontier else watched.arrays(values=settings.values)
    return {
        **rows, **found, "epoch": np.array(places, dtype=np.float32),
        "changes": np.array(changes), "val_sizes": np.array(losses.sizes), "run": np.array(json.dumps(told)),
    }  # fmt: skip


def _train(run: Run, net: nn.Module, train: Pair, look: Any, deadline: float) -> list[int]:
    """Train and look around; return how many predictions changed in each epoch."""
    optimiser, schedule = _optimiser(run, net)
    device = train[1].device
    predictions, changes = torch.full((len(train[1]),), -1, device=device), []
    for epoch in range(run.cut):
        if time.time() > deadline:
            break
        net.train()
        before, batches = predictions.clone(), torch.randperm(len(train[1])).to(device).split(run.batch)
        stops = marks(len(batches), marks_per_epoch(epoch, PER_OCTAVE, MOST))
        for done, rows in enumerate(batches, 1):
            x, y = train[0][rows], train[1][rows]
            if len(rows) == 1:  # batch norm cannot
                continue
            logits = net(augmented(x) if run.augment else x)
            optimiser.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimiser.step()
            predictions[rows] = logits.detach().argmax(1)
            if done in stops and done < len(batches):
                look(epoch - 1 + done / len(batches), epoch * len(batches) + done)
                net.train()
        schedule.step()
        changes.append(int((before != predictions).sum()))
        look(float(epoch), (epoch + 1) * len(batches))
    return changes


def _optimiser(run: Run, net: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    if run.optimiser == "adam":
        optimiser: torch.optim.Optimizer = torch.optim.AdamW(net.parameters(), run.rate, weight_decay=run.decay)
    else:
        momentum = 0.9 if run.optimiser == "momentum" else 0.0
        optimiser = torch.optim.SGD(net.parameters(), run.rate, momentum=momentum, weight_decay=run.decay)
    plan = run.epochs
    if run.schedule == "cosine":
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan)
    if run.schedule == "pause":
        return optimiser, torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda epoch: 0.02 if 0.15 * plan <= epoch < 0.55 * plan else 1.0
        )
    steps = [plan // 2, plan * 3 // 4] if run.schedule == "step" else []
    return optimiser, torch.optim.lr_scheduler.MultiStepLR(optimiser, steps)


# -- many runs -----------------------------------------------------------------------------------------------------


def work(run: Run, settings: Settings) -> str:
    """Record one run into its file, and say what came of it."""
    path = settings.folder / f"{'frontier_' if settings.frontier else ''}{run.name}.npz"
    if path.exists():
        return f"{run.name}: there already"
    if time.time() > settings.deadline:
        return f"{run.name}: no time"
    try:
        arrays = record(run, settings)
    except Exception:
        return f"FAILED {run.name}\n{traceback.format_exc()}"
    told = json.loads(str(arrays["run"]))
    if not told["complete"]:
        return f"{run.name}: time ran out"
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)
    test, places = arrays["test_loss"], arrays["loss_epoch"]
    return (
        f"{run.name}: {told['seconds']:.0f} s, {len(arrays['epoch'])} records, test "
        f"loss {test[0]:.3f}, lowest {test.min():.3f} at {places[test.argmin()]:g} of {run.cut}, at the end "
        f"{test[-1]:.3f} ({test[-1] / test.min():.2f})"
    )


def _mixed(runs: list[Run]) -> list[Run]:
    """Deep networks evenly between the others, so that neither the GPU nor the CPU has to wait."""
    deep, others = ([run for run in runs if (run.net in DEEP) is wanted] for wanted in (True, False))
    places = [(i / max(len(part), 1), run.name, run) for part in (deep, others) for i, run in enumerate(part)]
    return [run for *_, run in sorted(places, key=lambda place: place[:2])]


def _work(job: tuple[Run, Settings]) -> str:
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    return work(*job)


def _said(jobs: list[tuple[Run, Settings]], processes: int, device: str) -> Iterator[str]:
    if processes == 1:
        yield from map(_work, jobs)
        return
    with multiprocessing.get_context("spawn" if device == "cuda" else "fork").Pool(processes) as pool:
        yield from pool.imap_unordered(_work, jobs)


def main() -> None:
    """Record all runs that are not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of deep networks and masked passes")
    parser.add_argument("--data", type=Path, help="a folder that --pack made")
    parser.add_argument("--only", default="", help="runs whose names match this expression")
    parser.add_argument("--every", type=int, default=1, help="every k-th of them")
    parser.add_argument("--values", action="store_true", help="keep the values too: 1 to 5 MB a run")
    parser.add_argument(
        "--frontier", action="store_true", help="strengths of more samples with 6 to 12 players instead"
    )
    parser.add_argument("--limit-seconds", type=float, default=1e6, help="then stop; runs that are not done are lost")
    parser.add_argument("--pack", action="store_true", help="write the data sets into the folder, and nothing else")
    parser.add_argument("--store", action="store_true", help="put the files of the folder into recordings.npz")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.pack:
        print(f"{options.folder}: {pack(options.folder) / 2**20:.1f} MiB")
        return
    if options.store:
        store(options.folder)
        return
    deadline = time.time() + options.limit_seconds
    settings = Settings(options.folder, options.data, options.device, options.values, options.frontier, deadline)
    runs = _mixed([run for run in all_runs() if re.search(options.only, run.name)][:: options.every])
    for i, said in enumerate(_said([(run, settings) for run in runs], options.jobs, options.device), 1):
        print(f"{i}/{len(runs)} {said}", flush=True)


if __name__ == "__main__":
    main()
