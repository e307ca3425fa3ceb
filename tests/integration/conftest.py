"""Integration tests train for real; the helper modules beside them are importable by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
