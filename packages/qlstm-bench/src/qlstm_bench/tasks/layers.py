"""The recurrent layer that a run's settings ask for, and the state that it begins from."""

from __future__ import annotations

from typing import Any

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_core import InitialState, RecurrentLayer, layer_by_name
from qlstm_core.init import INITIALIZERS
from qlstm_core.plugins import PluginError


def make_layer(
    config: RunConfig,
    input_size: int,
    quantizer: str,
    normalizer: str,
    *,
    dropout: float | None = None,
    tokens: bool = False,
) -> RecurrentLayer:
    """Return a freshly initialised recurrent layer; what every task builds its model around.

    Args:
        config: gives the cell and its options, units, layers, dropout, how weights start and multiply, and
            maybe another quantizer of the input's side and one of the state.
        input_size: features, or number of tokens.
        quantizer, normalizer: names, as text; without quantizer the input's side has none either.
        dropout: dropout between layers, instead of the setting.
        tokens: whether the layer reads tokens.

    Raises:
        ConfigError: sizes that do not fit the cell.
        PluginError: an unknown name.
    """
    options: dict[str, Any] = {
        name: value
        for name, value in (("proj_size", config.proj), ("rank", config.rank), ("groups", config.groups))
        if value is not None
    }
    apart = config.input_quantizer is not None and quantizer != "none"
    try:
        layer = layer_by_name(
            config.cell,
            input_size,
            config.hidden,
            config.layers,
            dropout=config.dropout if dropout is None else dropout,
            quantizer={"ih": config.input_quantizer, "hh": quantizer} if apart else quantizer,
            normalizer=normalizer,
            state_quantizer=config.state_quantizer,
            tokens=tokens,
            **options,
        )
        layer.products = config.products
        if config.start != "torch":  # which is how a new layer has started
            INITIALIZERS[config.start](layer)
        return layer
    except PluginError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"{config.cell} of hidden {config.hidden} on {input_size} inputs: {error}"
        ) from error


def make_initial_state(config: RunConfig, layer: RecurrentLayer) -> InitialState | None:
    """Return the state that a layer's sequences begin from; ``None`` stands for zeros."""
    if config.initial_state == "zeros":
        return None
    return InitialState(layer, config.initial_state_noise)
