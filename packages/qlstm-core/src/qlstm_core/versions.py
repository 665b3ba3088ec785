"""Which versions are installed: what a report of a mistake begins with."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version

from qlstm_core.plugins import PluginRecord
from qlstm_core.printable import printable

LIBRARIES = ("torch", "numpy", "numba")
"""What figures depend on, beside the packages of the plugins."""


def describe_versions(records: Iterable[PluginRecord]) -> str:
    """Return a line for each distribution that has plugins, for PyTorch, NumPy and Numba, and for Python.

    Args:
        records: of ``registry.plugins()``, which has this project's own packages among them.
    """
    versions = {record.distribution: record.version for record in records if record.version}
    versions |= {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    return "\n".join(printable(f"{name} {number}") for name, number in versions.items())
