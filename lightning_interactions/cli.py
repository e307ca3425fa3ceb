"""Command line: ``lightning-interactions demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lightning_interactions.errors import InteractionsError


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
    return parser


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
