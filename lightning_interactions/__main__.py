"""Command line: ``lightning-interactions demo``, ``report`` and ``analyze``, also as ``python -m``.

The options are the arguments of the functions here and of those they pass ``options`` on to.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lightning_interactions.errors import ArgumentError, InteractionsError, bad_argument, sentence


def demo(*, output: str = "lightning_interactions_demo", **options: Any) -> None:
    """Train a small CNN on real digits with the monitor (about a minute).

    Args:
        output: Folder to write to (also -o).
        options: Arguments of `run_demo`.
    """
    from lightning_interactions.demo import run_demo

    run_demo(folder=output, **options)


def report(run_dir: str, *, output: str | None = None, **options: Any) -> None:
    """Write a monitored run as one HTML file.

    Args:
        run_dir: Folder the run logged to, or the interactions.json in it.
        output: The HTML file (also -o); beside interactions.json by default.
        options: Arguments of `write_report`.
    """
    from lightning_interactions.report.html import write_report

    print(write_report(run_dir, path=output, **options))


def analyze(
    *,
    model: str,
    data: str,
    checkpoints: str,
    output: str = "analysis",
    model_args: dict[str, Any] | None = None,
    data_args: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Measure the saved checkpoints of a finished run: when did it begin to overfit?

    Checkpoints are unpickled; analyse only those you trust.

    Args:
        model: LightningModule by import path, package.module.Class.
        data: LightningDataModule by import path.
        checkpoints: Folder with ``*.ckpt`` files in it.
        output: Folder to write to (also -o); an interrupted analysis goes on.
        model_args: Arguments of the model as JSON; those in the checkpoint by default.
        data_args: The same for the data.
        options: Arguments of `analyze_checkpoints`.
    """
    from lightning_interactions.monitor.checkpoints import RUN_FILE, analyze_checkpoints
    from lightning_interactions.report.html import write_report
    from lightning_interactions.report.record import RunRecord
    from lightning_interactions.report.words import summary, table, verdict

    folder = Path(output)
    monitor = analyze_checkpoints(
        model=_import("model", model, model_args),
        data=_import("data", data, data_args),
        checkpoints=checkpoints,
        output=folder,
        **options,
    )
    run_file = folder / RUN_FILE
    page = write_report(run_file, title=f"Checkpoints of {checkpoints}")
    monitor.plot().savefig(folder / "run.png")
    run = RunRecord.from_json(run_file.read_text(encoding="utf-8"))
    rows = summary(run) | {"Report": str(page), "Run figure": str(folder / "run.png")}
    print(f"\n{verdict(run)}\n\n{table('Found', rows)}")


COMMANDS: dict[str, Callable[..., None]] = {"demo": demo, "report": report, "analyze": analyze}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 after an error that was explained."""
    words = [_spelled(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    name = next((word for word in words if word in COMMANDS), None)
    if name == "analyze":
        sys.path.insert(0, os.getcwd())  # as `python -m` does: the model is rarely an installed package
    parser = _parser(name)
    try:
        options = parser.parse_args(words)
        make = parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes  # before 4.49
        chosen = make(options)[str(name)]
        COMMANDS[str(name)](**chosen)
    except InteractionsError as error:
        print(f"lightning-interactions: {error}", file=sys.stderr)
        return 2
    return 0


def _spelled(word: str) -> str:
    """Let ``--train-size`` stand for ``--train_size``, and ``-o`` for ``--output``."""
    name, equals, value = word.partition("=")
    if re.fullmatch(r"--[\w.+-]+", name):
        name = "--" + name[2:].replace("-", "_")
    return "--output" if word == "-o" else name + equals + value


def _parser(name: str | None) -> ArgumentParser:
    """Know all commands, but only one with its options: to read those, torch and lightning must be imported."""
    parser = ArgumentParser(
        prog="lightning-interactions",
        description="See which interactions a network learns, and when it begins to overfit.",
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(metavar="COMMAND")
    for known, function in COMMANDS.items():
        about = str(function.__doc__).partition("    Args:")[0]
        command = ArgumentParser(description=about, allow_abbrev=False)
        if known == name:
            command.add_function_arguments(function, as_group=False, as_positional=known == "report", skip=_skip(name))
        commands.add_subcommand(known, command, help=about.splitlines()[0])
    return parser


def _skip(name: str) -> set[str | int]:
    """Options of the monitor that mean nothing here."""
    if name != "analyze":
        return set()
    from lightning_interactions.monitor.checkpoints import LIVE_ONLY

    return set(LIVE_ONLY)


def _import(argument: str, path: str, arguments: dict[str, Any] | None) -> Any:
    """Import a class, and make an object of it if there are arguments."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise bad_argument(argument, "an import path such as package.module.Class", path)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        text = sentence(f"Expected `{argument}` to be an import path, but {path!r} fails: {error}")
        raise ArgumentError(text) from error
    return found if arguments is None else found(**arguments)


if __name__ == "__main__":
    sys.exit(main())
