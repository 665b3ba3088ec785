"""The sweeps that come with the package: the papers' tables."""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from qlstm_bench.bounded_yaml import read_text, short_repr
from qlstm_bench.config import ConfigError
from qlstm_bench.sweep.yaml_lines import Document
from qlstm_core.plugins.errors import suggest

_FOLDER = files("qlstm_bench.sweep") / "presets"


def preset_names(folder: Traversable = _FOLDER) -> list[str]:
    """Return the names of the presets, or of the other YAML files that a folder of the package holds."""
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load(source: str, folder: Traversable = _FOLDER, kind: str = "preset") -> Document:
    """Return what a name in a folder of the package, or the path of a YAML file, means.

    Args:
        source: the name, or the path.
        folder: holds the files that go by name; default: the presets.
        kind: what one of them is called in messages.

    Raises:
        ConfigError: there is neither, or the file cannot be read.
    """
    names = preset_names(folder)
    if source in names:
        return Document.parse((folder / f"{source}.yaml").read_text(encoding="utf-8"), source)
    path = Path(source)
    if not os.path.exists(path):  # False for whatever the system takes for no path
        raise ConfigError(
            f"{short_repr(source)} is neither a file nor a {kind}{suggest(source, names)}; "
            f"{kind}s: {', '.join(names)}"
        )
    return Document.parse(read_text(path), source)
