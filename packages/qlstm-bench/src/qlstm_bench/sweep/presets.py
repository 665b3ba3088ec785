"""The sweeps that come with the package: the papers' tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from qlstm_bench.config import ConfigError
from qlstm_bench.sweep.document import Document
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
    if not path.is_file():
        raise ConfigError(
            f"{source!r} is neither a file nor a preset{suggest(source, names)}; presets: {', '.join(names)}"
        )
    try:
        return Document.parse(path.read_text(encoding="utf-8"), source)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from error
