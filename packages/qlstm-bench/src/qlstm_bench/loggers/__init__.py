"""Where a run's figures can go beside its own folder; each module is a plugin of this package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qlstm_bench.config import ConfigError

NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Loggers by name, and the packages that each needs."""


def check_loggers(names: Sequence[str], out: Path) -> None:
    """See, before any training, that loggers can work.

    Args:
        names: names of the loggers.
        out: folder of the runs.

    Raises:
        ConfigError: a logger without its packages, or a folder that its files cannot be in.
    """
    for name in names:
        missing = [package for package in NEEDS[name] if find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"log: {name} needs {', '.join(missing)}: "
                f"run `pip install 'qlstm-bench[{name}]'`, or leave it out"
            )
    path = str(out.absolute())
    strange = [character for character in "?%" if character in path]
    if "mlflow" in names and strange and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigError(
            f"log: mlflow names its store by a URL, in which {strange[0]!r} of {path!r} has another meaning: "
            "choose another --out, or set MLFLOW_TRACKING_URI"
        )
