"""Train networks and record the values of masked samples on the way: what splits, scales and statistics are judged on.

    python tests/benchmarks/signal/record.py --pack DATA                      # here: the rows that are needed, 36 MB
    python tests/benchmarks/signal/record.py --device cuda --jobs 14 --output OUT --data DATA --limit-seconds 400
    python tests/benchmarks/signal/record.py --fast --output OUT              # to see that it runs

Run by hand. The gallery's networks are trained as its scripts do (data, sizes, settings; a plain loop, so batches come
in another order), others as `kinds.py` says; every run is a process with one thread. Its values are those of 16
validation samples chosen as the monitor does, the same samples for every seed but the digits', whose data are drawn
with the seed; 10 players drawn once, log-odds of the label, masked in full float32.

Written are ``signal_0.npz`` and so on, below 15 MiB each, read by `recordings.read`. A run is ``<kind>_s<seed>``, its
arrays are ``<run>/<array>``, with ``L`` moments of the losses and ``M`` of the values:

| array | meaning |
| --- | --- |
| `run` | its settings, JSON; `complete` is false where time ran out |
| `loss_epoch` (L,) float32 | epochs trained so far, fractions too: 0 is before training |
| `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy` (L,) float32 | eval mode, 512 fixed samples at most |
| `epoch` (M,) float32 | likewise, where values were recorded |
| `values/<site>` (M, B, 2**n) float32 | values at the input (site ``input``) or a layer; bit i: player i is present |
| `counts/<site>` (B,) int8 | players of each sample: with fewer than n, the others make no difference |
| `targets` (B,) int8 | labels of the watched samples |
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a process that has begun to use CUDA cannot fork
ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples"), str(HERE.parent), str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from data import FOLDER  # noqa: E402
from kinds import APART, KINDS, Kind, Pair, Project  # noqa: E402
from pack import pack  # noqa: E402
from recordings import Arrays, read, write  # noqa: E402
from site_of import Site  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lightning_interactions.measure.samples import Pool  # noqa: E402
from lightning_interactions.model.batch import Batch  # noqa: E402

MOMENTS = 0, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80
SEEN = 512
GRACE = 20  # seconds a run is given to notice that time is up


@dataclass(frozen=True)
class Settings:
    """The command line, as far as runs need it."""

    data: Path
    device: str
    fast: bool
    deadline: float  # by time.time()

    def size(self, full: int) -> int:
        return min(full, 32) if self.fast else full


class Recorder:
    """One run: what is recorded of it on the way."""

    def __init__(self, kind: Kind, net: nn.Module, project: Project, settings: Settings) -> None:
        device = next(net.parameters()).device
        count, self.num_players = (2, 5) if settings.fast else (16, 10)
        pool = Pool(count, balanced=True)
        pool.offer(Batch(*project.val))
        samples = pool.result()
        assert samples is not None
        self.net, self.samples = net, samples
        self.sites = {site: Site(net, samples, project.players, self.num_players, site) for site in kind.sites}
        step = max(1, len(project.train[1]) // SEEN)  # wrong labels come first, so a beginning would not do
        self.seen = {
            "train": tuple(x[::step][:SEEN].to(device) for x in project.train),
            "val": tuple(x[:SEEN].to(device) for x in project.val),
        }
        self.rows: dict[str, list[Any]] = {"loss_epoch": [], "epoch": []}

    def losses(self, epoch: float) -> None:
        self.rows["loss_epoch"].append(epoch)
        for split, (x, y) in self.seen.items():
            loss, accuracy = evaluate(self.net, x, y)
            self.rows.setdefault(f"{split}_loss", []).append(loss)
            self.rows.setdefault(f"{split}_accuracy", []).append(accuracy)

    def values(self, epoch: float) -> None:
        self.rows["epoch"].append(epoch)
        for name, site in self.sites.items():
            self.rows.setdefault(f"values/{name}", []).append(site.values().float().cpu().numpy())

    def arrays(self) -> Arrays:
        found: Arrays = {key: np.asarray(rows, dtype=np.float32) for key, rows in self.rows.items()}
        for name, site in self.sites.items():
            found[f"counts/{name}"] = site.game.player_counts.cpu().numpy().astype(np.int8)
        return {**found, "targets": self.samples.targets.numpy().astype(np.int8)}


@torch.no_grad()
def evaluate(net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    net.eval()
    logits = torch.cat([net(part) for part in x.split(256)])
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


def record(kind: Kind, seed: int, settings: Settings) -> Arrays:
    """Train one network and record it."""
    device = torch.device(kind.device if settings.device == "cuda" else "cpu")
    torch.backends.cudnn.allow_tf32 = False
    started = time.time()
    project = kind.prepare(settings.data, settings.size, seed)
    torch.manual_seed(seed)
    net = project.build().to(device)
    recorder = Recorder(kind, net, project, settings)
    epochs = min(kind.epochs, 2) if settings.fast else kind.epochs
    batch = settings.size(kind.batch)
    x, y = (tensor.to(device) for tensor in project.train)
    steps = len(y) // batch if kind.drop_last else -(-len(y) // batch)
    moments = {round(moment * steps) for moment in (*MOMENTS, epochs) if moment <= epochs}
    optimiser = _optimiser(kind, net)
    torch.manual_seed(seed)
    recorder.losses(0)
    recorder.values(0)
    done = 0
    while done < epochs * steps and time.time() < settings.deadline:
        for rows in torch.randperm(len(y)).split(batch)[:steps]:
            _step(net, optimiser, *_batch(kind, x, y, rows.to(device)))
            done += 1
            if done in moments or done % steps == 0:
                recorder.losses(done / steps)
            if done in moments:
                recorder.values(done / steps)
    told = {
        "kind": kind.name, "seed": seed, "epochs": epochs, "batch": batch, "rate": kind.rate,
        "optimiser": kind.optimiser, "decay": kind.decay, "augment": kind.augment, "train": len(y),
        "steps": steps, "device": device.type, "seconds": round(time.time() - started, 1),
        "parameters": sum(p.numel() for p in net.parameters()), "complete": done == epochs * steps,
    }  # fmt: skip
    return {**recorder.arrays(), "run": np.array(json.dumps(told))}


def _optimiser(kind: Kind, net: nn.Module) -> torch.optim.Optimizer:
    if kind.optimiser == "adamw":
        return torch.optim.AdamW(net.parameters(), kind.rate, weight_decay=kind.decay)
    return torch.optim.SGD(net.parameters(), kind.rate, momentum=0.9, weight_decay=kind.decay)


def _batch(kind: Kind, x: Tensor, y: Tensor, rows: Tensor) -> Pair:
    return (augmented(x[rows]) if kind.augment else x[rows]), y[rows]


def _step(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    net.train()
    optimiser.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimiser.step()


def augmented(x: Tensor, margin: int = 4) -> Tensor:
    """Shift every image by up to ``margin`` pixels, zeros coming in, and mirror every other."""
    count, channels, height, width = x.shape
    down, right = torch.randint(0, 2 * margin + 1, (2, count, 1), device=x.device)
    rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
    flipped = torch.rand(count, 1, device=x.device) < 0.5
    columns = torch.where(flipped, width - 1 - columns, columns) + right
    rows = rows + down
    padded = F.pad(x, (margin,) * 4)
    index = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[index, channel, rows[:, None, :, None], columns[:, None, None, :]]


# -- many runs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run, and where its arrays go."""

    kind_name: str  # not the kind itself, which cannot be sent to a process that begins anew
    seed: int
    folder: Path

    @property
    def kind(self) -> Kind:
        return next(kind for kind in (*KINDS, *APART) if kind.name == self.kind_name)

    @property
    def name(self) -> str:
        return f"{self.kind_name}_s{self.seed}"

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.npz"


def work(job: Job, settings: Settings) -> None:
    """Do one run, in a process of its own."""
    torch.set_num_threads(1)
    try:
        arrays = record(job.kind, job.seed, settings)
    except Exception:
        print(f"FAILED {job.name}\n{traceback.format_exc()}", flush=True)
        raise SystemExit(1) from None
    partial = job.path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, job.path)
    run, val = json.loads(str(arrays["run"])), arrays["val_loss"]
    best = int(val.argmin())
    print(
        f"{job.name}: {run['seconds']:.0f} s on {run['device']}, {len(arrays['epoch'])} moments, validation loss "
        f"{val[0]:.3f}, lowest {val[best]:.3f} after epoch {arrays['loss_epoch'][best]:g}, at the end {val[-1]:.3f}, "
        f"train loss {arrays['train_loss'][-1]:.3f}, accuracy {arrays['val_accuracy'][-1]:.3f}"
        + ("" if run["complete"] else " (time ran out)"),
        flush=True,
    )


def _use_cuda() -> None:
    torch.zeros(1, device="cuda")


def way_to_start(device: str) -> str:
    """Forking saves every run its imports; where CUDA cannot be used after it, processes begin anew."""
    if device == "cpu":
        return "fork"
    trial = multiprocessing.get_context("fork").Process(target=_use_cuda)
    trial.start()
    trial.join(90)
    if trial.exitcode == 0:
        return "fork"
    trial.kill()
    print("CUDA cannot be used in a forked process: they begin anew", flush=True)
    return "spawn"


def run_all(jobs: list[Job], settings: Settings, at_once: int, on_gpu: int) -> list[str]:
    """Run them, of every seed the longest first, and return the names of those of which there is nothing."""
    context: Any = multiprocessing.get_context(way_to_start(settings.device))
    waiting = sorted(jobs, key=lambda job: (job.seed, -job.kind.seconds))
    running: list[tuple[Job, Any]] = []
    while (waiting and time.time() < settings.deadline) or running:
        running = [(job, process) for job, process in running if process.is_alive()]
        if time.time() > settings.deadline + GRACE:
            break
        busy = sum(job.kind.device == "cuda" for job, _ in running)
        full = settings.device == "cuda" and busy >= on_gpu
        job = next((job for job in waiting if not (full and job.kind.device == "cuda")), None)
        if job is None or len(running) >= at_once or time.time() >= settings.deadline:
            time.sleep(0.1)
            continue
        waiting.remove(job)
        process = context.Process(target=work, args=(job, settings))
        process.start()
        running.append((job, process))
    for _, process in running:
        process.terminate()
    return [job.name for job in jobs if not job.path.exists()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--gpu-jobs", type=int, default=9, help="so many of them on the GPU")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--only", default="", help="runs (<kind>_s<seed>) whose names begin with this expression")
    parser.add_argument("--fast", action="store_true", help="a few seconds each, to see that they run")
    parser.add_argument("--limit-seconds", type=float, default=1e6, help="then stop, and write what there is")
    parser.add_argument("--list", action="store_true", help="name the runs")
    parser.add_argument("--pack", type=Path, help="write the rows that are needed to this folder")
    options = parser.parse_args()
    if options.pack:
        print(f"{options.pack}: {pack(options.data, options.pack) / 2**20:.1f} MiB")
        return
    started = time.time()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        every = [
            Job(kind.name, seed, Path(folder))
            for kind in (*KINDS, *(APART if options.only else ()))
            for seed in range(kind.seeds)
        ]
        jobs = [job for job in every if re.match(options.only, job.name)]
        if options.list or not options.output:
            print("\n".join(job.name for job in jobs))
            return
        settings = Settings(options.data, options.device, options.fast, started + options.limit_seconds)
        missing = run_all(jobs, settings, options.jobs, options.gpu_jobs)
        options.output.mkdir(parents=True, exist_ok=True)
        paths = write([job.path for job in jobs if job.path.exists()], options.output)
    for path in paths:
        print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")
    print(f"{len(read(options.output))} runs in {time.time() - started:.0f} s; nothing of: {', '.join(missing) or '-'}")


if __name__ == "__main__":
    main()
