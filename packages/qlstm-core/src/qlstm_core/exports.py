"""Names that a package exports without importing what they come from until they are used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, origins: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package that imports on demand (:pep:`562`).

    Example::

        __getattr__, __dir__ = lazily(__name__, {"pack": "qlstm_core.packed.layer"})

    Args:
        package: name of the package.
        origins: the module that defines each exported name.
    """

    def find(name: str) -> Any:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(origins[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *origins})

    return find, names
