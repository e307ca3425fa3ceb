"""Entry point ``lightning.pytorch.callbacks_factory``: a monitor in every Trainer, where the environment asks for it.

Lightning calls this whenever a Trainer is made, in every program of an environment this package is installed in. So
nothing is imported, and nothing is done, unless ``LIGHTNING_INTERACTIONS_AUTO=1`` is set. Arguments of the monitor can
be given by ``LIGHTNING_INTERACTIONS_CONFIG``: the path of a YAML or JSON file with one entry per argument.
"""

from __future__ import annotations

import os
from typing import Any

SWITCH = "LIGHTNING_INTERACTIONS_AUTO"
CONFIG = "LIGHTNING_INTERACTIONS_CONFIG"


def callbacks_from_environment() -> list[Any]:
    """Return the callbacks the environment asks for: none by default."""
    if os.environ.get(SWITCH) != "1":
        return []
    from lightning_interactions.monitor.auto import AutoMonitor

    return [AutoMonitor(**_options())]


def _options() -> dict[str, Any]:
    path = os.environ.get(CONFIG)
    if not path:
        return {}
    import inspect

    import yaml

    from lightning_interactions.errors import bad_argument
    from lightning_interactions.monitor.auto import AutoMonitor

    known = list(inspect.signature(AutoMonitor).parameters)
    try:
        with open(path, encoding="utf-8") as file:
            options = yaml.safe_load(file) or {}
    except (OSError, yaml.YAMLError) as error:
        raise bad_argument(CONFIG, "the path of a YAML or JSON file", path, str(error)) from error
    if not isinstance(options, dict) or not set(options) <= set(known):
        raise bad_argument(CONFIG, f"a file with entries among {', '.join(known)}", options)
    return options
