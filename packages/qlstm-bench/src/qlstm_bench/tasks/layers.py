"""The recurrent layer that a run's settings ask for."""

from __future__ import annotations

from typing import Any

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_core import RecurrentLayer, layer_by_name
from qlstm_core.plugins import PluginError


def make_layer(
    config: RunConfig, input_size: int, quantizer: str, normalizer: str, *, dropout: float | None = None
) -> RecurrentLayer:
    """Return a freshly initialised recurrent layer; what every task builds its model around.

    Args:
        config: gives the cell and its options, units, layers and dropout.
        input_size: features, or number of tokens.
        quantizer, normalizer: names, as text.
        dropout: dropout between layers, instead of the setting.

    Raises:
        ConfigError: sizes that do not fit the cell.
        PluginError: an unknown name.
    """
    options: dict[str, Any] = {
        name: value
        for name, value in (("proj_size", config.proj), ("rank", config.rank), ("groups", config.groups))
        if value is not None
    }
    try:
        return layer_by_name(
            config.cell,
            input_size,
            config.hidden,
            config.layers,
            dropout=config.dropout if dropout is None else dropout,
            quantizer=quantizer,
            normalizer=normalizer,
            **options,
        )
    except PluginError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"{config.cell} of hidden {config.hidden} on {input_size} inputs: {error}"
        ) from error
