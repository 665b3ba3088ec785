"""The sweeps that come with the package: the papers' tables."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from qlstm_bench.bounded_yaml import read_text, short_repr
from qlstm_bench.config import ConfigError
from qlstm_bench.sweep.yaml_lines import Document
from qlstm_core.plugins.errors import suggest

_FOLDER = files("qlstm_bench.sweep") / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(
        file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml")
    )


def load(source: str) -> Document:
    """Return the sweep that a preset's name or the path of a YAML file means.

    Raises:
        ConfigError: there is neither, or the file cannot be read.
    """
    names = preset_names()
    if source in names:
        return Document.parse((_FOLDER / f"{source}.yaml").read_text(encoding="utf-8"), source)
    path = Path(source)
    if not os.path.exists(path):  # False for whatever the system takes for no path
        raise ConfigError(
            f"{short_repr(source)} is neither a file nor a preset{suggest(source, names)}; "
            f"presets: {', '.join(names)}"
        )
    return Document.parse(read_text(path), source)
