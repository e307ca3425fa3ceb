"""Command line: ``lightning-interactions demo``, ``report`` and ``analyze``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_interactions.errors import ArgumentError, InteractionsError, bad_argument


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process by default.

    Returns:
        The exit status: 0, or 2 after an error that was explained.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except InteractionsError as error:
        print(f"lightning-interactions: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-interactions",
        description="See which interactions a network learns, and when it begins to overfit.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_report(commands)
    _add_analyze(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="train a small CNN on real digits with the monitor (about a minute)",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--epochs", type=int, default=40, help="epochs to train")
    demo.add_argument("--train-size", type=int, default=200, help="training images, 10 to 1000")
    demo.add_argument("--label-noise", type=float, default=0.1, help="fraction of training images with a random label")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything")
    demo.add_argument("--output", default="lightning_interactions_demo", help="folder to write to")
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from lightning_interactions.demo import run_demo  # imports torch and lightning, which --help should not wait for

    run_demo(
        epochs=options.epochs,
        train_size=options.train_size,
        label_noise=options.label_noise,
        seed=options.seed,
        folder=options.output,
    )
    return 0


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="write a monitored run as one HTML file")
    report.add_argument("run_dir", metavar="RUN_DIR", help="folder the run logged to, or interactions.json in it")
    report.add_argument("--output", help="the HTML file; beside interactions.json by default")
    report.add_argument("--title", default="Interactions by order", help="headline of the page")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from lightning_interactions.report import write_report

    print(write_report(options.run_dir, options.output, title=options.title))
    return 0


def _add_analyze(commands: Any) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="measure the saved checkpoints of a finished run",
        description="Measure the saved checkpoints of a finished run: when did it begin to overfit? Checkpoints are "
        "unpickled; analyse only those you trust.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    analyze.add_argument("--model", required=True, help="LightningModule by import path: package.module.Class")
    analyze.add_argument("--data", required=True, help="LightningDataModule by import path")
    analyze.add_argument("--checkpoints", required=True, metavar="DIR", help="folder with *.ckpt files in it")
    analyze.add_argument("--output", default="analysis", help="folder to write to; an interrupted analysis goes on")
    analyze.add_argument(
        "--model-args", type=_json, metavar="JSON", help="arguments of the model; those in the checkpoint by default"
    )
    analyze.add_argument("--data-args", type=_json, metavar="JSON", help="the same for the data")
    analyze.add_argument("--num-samples", type=int, default=32, help="watched samples")
    analyze.add_argument("--num-players", type=int, default=10, help="players per sample; the cost doubles with each")
    analyze.add_argument("--layer", help="mask the output of this module instead of the input")
    analyze.add_argument("--watch", choices=("val", "train", "both"), default="val", help="whose samples are watched")
    analyze.add_argument("--seed", type=int, default=0, help="seed of the choice of samples and players")
    analyze.add_argument("--accelerator", default="auto", help="of the Trainer")
    analyze.set_defaults(run=_analyze)


def _analyze(options: argparse.Namespace) -> int:
    sys.path.insert(0, os.getcwd())  # as `python -m` does: the model is rarely an installed package
    from lightning_interactions.postmortem import RUN_FILE, analyze_checkpoints
    from lightning_interactions.report import write_report
    from lightning_interactions.runrecord import RunRecord, summary, verdict
    from lightning_interactions.terminal import table

    folder = Path(options.output)
    monitor = analyze_checkpoints(
        _import("model", options.model, options.model_args),
        _import("data", options.data, options.data_args),
        options.checkpoints,
        output=folder,
        accelerator=options.accelerator,
        num_samples=options.num_samples,
        num_players=options.num_players,
        layer=options.layer,
        watch=options.watch,
        seed=options.seed,
    )
    run_file = folder / RUN_FILE
    report = write_report(run_file, title=f"Checkpoints of {options.checkpoints}")
    monitor.plot().savefig(folder / "run.png")
    run = RunRecord.from_json(run_file.read_text(encoding="utf-8"))
    rows = summary(run) | {"Report": str(report), "Run figure": str(folder / "run.png")}
    print(f"\n{verdict(run)}\n\n{table('Found', rows)}")
    return 0


def _json(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('expected a JSON object such as {"hidden": 64}')
    return value


def _import(argument: str, path: str, arguments: dict[str, Any] | None) -> Any:
    """Import a class, and make an object of it if there are arguments."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise bad_argument(argument, "an import path such as package.module.Class", path)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"Expected `{argument}` to be an import path, but {path!r} fails: {error}.") from error
    return found if arguments is None else found(**arguments)
