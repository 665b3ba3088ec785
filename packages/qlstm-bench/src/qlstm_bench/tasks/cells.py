"""The settings of a run that only some cells have: a projection, and options such as rank and groups."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_core import Cell, cells_of
from qlstm_core.plugins import PluginError, registry
from qlstm_core.plugins.options import split_options

OPTION_SETTINGS = ("rank", "groups")
"""Options of cells that are settings of their own."""


def cell_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the text of a run's cell stands for, in their one spelling.

    ``"f-lstm:rank=64"`` is the cell f-lstm with the setting ``rank`` 64; other options stay with the name.

    Args:
        settings: of the run, as given; ``cell`` is a name, or a name with options.

    Raises:
        PluginError: an unknown name or option.
        ConfigError: an option that differs from the setting of its name.
    """
    text = settings.get("cell", "lstm")
    name, options = split_options(cells_of(registry).canonical(text))
    own = {option: options.pop(option) for option in OPTION_SETTINGS if option in options}
    for option, value in own.items():
        if str(other := settings.get(option, value)) != value:
            raise ConfigError(f"{option}={other} and cell={text} differ: give one of them")
    kept = ",".join(f"{option}={value}" for option, value in options.items())
    return {"cell": f"{name}:{kept}" if kept else name, **own}


def check_cell(config: RunConfig) -> None:
    """Refuse a projection, rank, groups, start or quantizer of the input that the cell does not have.

    Raises:
        ConfigError: such a setting, with the cells that have it.
        PluginError: a cell that cannot be loaded.
    """
    settings = ("proj", *OPTION_SETTINGS)
    given = {name: value for name in settings if (value := getattr(config, name)) is not None}
    for name, value in given.items():
        if name not in _taken(config.cell):
            cells = " or ".join(cell for cell in cells_of(registry).names() if _takes(cell, name))
            raise ConfigError(f"{name}={value} is for cell {cells}, and cell is {config.cell}")
    factorized = config.cell.partition(":")[0] == "f-lstm"
    if config.start == "identity" and (factorized or config.proj is not None):
        raise ConfigError(
            "start=identity is for square recurrent weights: cell lstm, gru or g-lstm without proj"
        )
    if config.input_quantizer is not None and factorized:
        raise ConfigError(
            f"input_quantizer={config.input_quantizer} is for cell lstm, gru or g-lstm: the weights of "
            "f-lstm belong to both sides"
        )


def _takes(cell: str, setting: str) -> bool:
    try:
        return setting in _taken(cell)
    except PluginError:  # another cell, which cannot be loaded
        return False


def _taken(text: str) -> set[str]:
    """Return which of these settings a cell takes; one that does not say its equations may project."""
    cells = cells_of(registry)
    factory = cells.factory(text)
    cell = getattr(factory.func if isinstance(factory, partial) else factory, "cell", None)
    projects = not isinstance(cell, Cell) or cell.projection
    return {*cells.options(text.partition(":")[0]), *(["proj"] if projects else [])}
