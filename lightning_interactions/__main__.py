"""``python -m lightning_interactions``."""

import sys

from lightning_interactions.cli import main

if __name__ == "__main__":
    sys.exit(main())
