"""Where a run's figures can go beside its own folder; each module is a plugin of this package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from qlstm_bench.config import ConfigError

NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Loggers by name, and the packages that each needs."""


def check_installed(names: Sequence[str]) -> None:
    """See, before any training, that loggers can work.

    Raises:
        ConfigError: a logger without its packages.
    """
    for name in names:
        missing = [package for package in NEEDS[name] if find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"log: {name} needs {', '.join(missing)}: "
                f"run `pip install 'qlstm-bench[{name}]'`, or leave it out"
            )
