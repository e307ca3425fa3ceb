"""What training keeps, adds and takes away of the salient interactions, on MNIST with wrong labels and on SST-2.

    python tests/benchmarks/changes/run.py          # half an hour on one core; needs ../shared/data

Three seeds each, with the monitor's defaults. Preserved, emerged and removed are those of `functional/changes.py`, seen
from three records: the first one (before training; as the monitor logs it), the turning point of the mean order, and
the lowest validation loss. What has emerged since the latter two is what is learned late. It writes `changes.json` and
`changes.png`; `changes.md` has the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2] / "examples"), str(HERE.parents[2])]

import lightning as L  # noqa: E402
import torch  # noqa: E402
from data import FOLDER, Data, mnist, sst2  # noqa: E402
from models import Classifier, LeNet, TextTransformer, WordTokenizer  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from lightning_interactions import TwoPhaseMonitor  # noqa: E402
from lightning_interactions.functional import interaction_changes, still_preserved  # noqa: E402
from lightning_interactions.players import Tokens  # noqa: E402

SEEDS = 0, 1, 2
KINDS = "preserved", "emerged", "removed"
NUMBERS = "share", "order", "ratio"


def mnist_run(folder: Path, fast: bool) -> tuple[Classifier, Data, dict[str, Any], int]:
    """LeNet on 1000 digits, 5 % of them with a wrong label."""
    data = mnist(folder, train=64 if fast else 1000, val=64 if fast else 1000, label_noise=0.05)
    return Classifier(LeNet(num_classes=data.num_classes), lr=0.01), data, {}, 80


def sst2_run(folder: Path, fast: bool) -> tuple[Classifier, Data, dict[str, Any], int]:
    """A small transformer on 4000 film reviews."""
    sentences, labels, val_sentences, val_labels = sst2(folder, train=64 if fast else 4000, val=64 if fast else 872)
    tokenizer = WordTokenizer(sentences)
    val = TensorDataset(tokenizer(val_sentences), val_labels)
    data = Data("SST-2", TensorDataset(tokenizer(sentences), labels), val, 2)
    words = Tokens(mask_token_id=tokenizer.mask_token_id, special_token_ids=tokenizer.all_special_ids)
    model = Classifier(TextTransformer(len(tokenizer)), lr=5e-4, optimizer="adamw", weight_decay=0.01)
    return model, data, {"players": words}, 20


RUNS = {"MNIST, 5 % wrong labels, LeNet": mnist_run, "SST-2, transformer": sst2_run}


def train(name: str, seed: int, folder: Path, fast: bool) -> dict[str, Any]:
    """Train once; return the curves of the changes seen from each base."""
    L.seed_everything(seed, verbose=False)
    model, data, options, epochs = RUNS[name](folder, fast)
    options |= {"num_samples": 4, "num_players": 5} if fast else {}
    monitor = TwoPhaseMonitor(verbose=False, on_event=None, max_overhead=None, **options)
    seen: list[Tensor] = []
    keep = monitor.run.keep

    def keep_all(record: Any) -> None:
        seen.append(record.found["val"].salient.to_sparse())
        keep(record)

    monitor.run.keep = keep_all  # type: ignore[method-assign]
    trainer = L.Trainer(
        max_epochs=2 if fast else epochs, callbacks=[monitor], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, DataLoader(data.train, 32, shuffle=True, drop_last=True), DataLoader(data.val, 256))
    history = monitor.history.to_dict()
    order, loss = history["mean_order"], [math.inf if x is None or math.isnan(x) else x for x in history["val_loss"]]
    bases = {"first record": 0, "turn": order.index(min(order)), "lowest loss": loss.index(min(loss))}
    return {
        "data": name, "seed": seed, "epoch": history["epoch"], "mean_order": order, "val_loss": history["val_loss"],
        "train_loss": history["train_loss"], "boundary": monitor.boundary_epoch, "bases": bases,
        "changes": {base: changes_since(seen, start) for base, start in bases.items()},
        "at_random": {base: at_random(seen, start) for base, start in bases.items()},
    }  # fmt: skip


def changes_since(seen: list[Tensor], start: int) -> dict[str, list[list[float]]]:
    """Numbers with their intervals at every record from ``start`` on."""
    first = seen[start].to_dense()
    preserved, found = first != 0, []
    for record in seen[start:]:
        now = record.to_dense()
        preserved = still_preserved(preserved, first, now)
        found.append(interaction_changes(first, preserved, now))
    return {key: [[round(x, 4) for x in one[key]] for one in found] for key in found[0]}


def at_random(seen: list[Tensor], start: int) -> dict[str, float]:
    """What the ratios at the last record would be if every interaction had its sign by a coin."""
    first, now = seen[start].to_dense(), seen[-1].to_dense()
    preserved = first != 0
    for record in seen[start:]:
        preserved = still_preserved(preserved, first, record.to_dense())
    zero = torch.zeros(())
    parts = {
        "preserved": torch.where(preserved, now, zero),
        "emerged": torch.where(preserved, zero, now),
        "removed": torch.where(first * now > 0, zero, first),
    }
    generator, found = torch.Generator().manual_seed(0), {}
    for kind, part in parts.items():
        size = part.abs().flatten(1)
        signs = 2 * torch.randint(2, (64, *size.shape), generator=generator) - 1
        found[kind] = float((signs * size).sum(2).abs().mean(0).sum() / size.sum())
    return found


# -- telling ----------------------------------------------------------------------------------------------------------


def tables(runs: list[dict[str, Any]]) -> str:
    """At the end of training, by data set and base: each number for the seeds, and their mean."""
    lines = [
        "# What training keeps, adds and takes away",
        "",
        __doc__.split("\n\n")[2].partition(" It writes")[0].replace("\n", " "),
        "",
    ]
    lines += [
        "Values at the last record, one per seed, and in bold their mean. *Share*: of the strength (of that at the "
        "base for what was removed); *order*: strength-weighted mean order; *ratio*: |sum I| / sum |I| within a "
        "sample, 1: nothing cancels; *at random*: that ratio if each interaction had its sign by a coin.",
        "",
    ]
    for name in RUNS:
        own = [run for run in runs if run["data"] == name]
        places = "; ".join(
            f"seed {run['seed']}: turn at epoch {run['epoch'][run['bases']['turn']]:.3g}, lowest validation loss at "
            f"{run['epoch'][run['bases']['lowest loss']]:.3g}, boundary told for {run['boundary']}, "
            f"{run['epoch'][-1] + 1:.0f} epochs"
            for run in own
        )
        head = ["| since | | share | mean order | ratio | at random |", "| --- | --- | --- | --- | --- | --- |"]
        lines += [f"## {name}", "", f"{places}.", "", *head]
        for base in own[0]["bases"]:
            for kind in KINDS:
                cells = [cell([run["changes"][base][f"{kind}_{number}"][-1][0] for run in own]) for number in NUMBERS]
                cells.append(cell([run["at_random"][base][kind] for run in own]))
                lines.append(f"| {base} | {kind} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    mean = f"{sum(known) / len(known):.2f}" if known else "none"
    return f"{', '.join('none' if math.isnan(value) else f'{value:.2f}' for value in values)}; **{mean}**"


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """One column for each data set and base: share, order and ratio over epochs, a line for every seed."""
    from matplotlib.figure import Figure

    colours = dict(zip(KINDS, ("#0072B2", "#D55E00", "0.55"), strict=True))
    columns = [(name, base) for name in RUNS for base in ("first record", "turn")]
    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(3, len(columns), sharex=False)
    titles = "share of strength", "mean order", "ratio that does not cancel"
    for column, (name, base) in enumerate(columns):
        for row, number in enumerate(NUMBERS):
            ax = axes[row][column]
            for run in (run for run in runs if run["data"] == name):
                x = [epoch + 2 for epoch in run["epoch"][run["bases"][base] :]]
                for kind in KINDS:
                    values = run["changes"][base][f"{kind}_{number}"]
                    label = kind if run["seed"] == 0 else None
                    ax.plot(x, [value[0] for value in values], color=colours[kind], linewidth=1.4, label=label)
                    if run["seed"] == 0:
                        ax.fill_between(x, *zip(*(v[1:] for v in values), strict=True), color=colours[kind], alpha=0.12)
            ax.set_xscale("log")
            ax.xaxis.set_minor_formatter("")
            ax.grid(color="0.92")
            ax.set_ylabel(titles[row] if column == 0 else "")
            ax.set_ylim(*((0, 1.02) if number != "order" else (1, None)))
        axes[0][column].set_title(f"{name}\nsince the {base}")
        axes[-1][column].set_xlabel("epoch + 2 (log scale; 1: before training)")
    axes[0][0].legend(frameon=False)
    figure.suptitle("Salient interactions that stay, come and go; 3 seeds, the band is the 95 % interval of seed 0")
    figure.savefig(path, dpi=80)


def read(file: Path) -> list[dict[str, Any]]:
    """Runs of before, with what JSON has no number for."""
    runs: list[dict[str, Any]] = json.loads(file.read_text().replace("null", "NaN"))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--again", action="store_true", help="tables and figure of the runs in changes.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.output / "changes.json"
    runs = read(file) if args.again else []
    for name in RUNS if not args.again else ():
        for seed in SEEDS:
            runs.append(train(name, seed, args.data, args.fast))
            print(name, seed, {base: runs[-1]["epoch"][at] for base, at in runs[-1]["bases"].items()}, flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(runs).replace("NaN", "null") + "\n")
    (args.output / "changes.md").write_text(tables(runs))
    draw(runs, args.output / "changes.png")
    print(tables(runs))


if __name__ == "__main__":
    main()
