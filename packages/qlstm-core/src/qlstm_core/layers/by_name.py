"""Families of recurrent layers by name, as the installed plugins provide them."""

from __future__ import annotations

import inspect
from typing import Any

from qlstm_core.layers.stack import RecurrentLayer
from qlstm_core.plugins import Catalogue, CellSpec, PluginError, Registry, registry


def cells_of(registry: Registry) -> Catalogue[CellSpec]:
    """Return the catalogue of all cells that the installed plugins provide."""
    arguments = frozenset(inspect.signature(RecurrentLayer).parameters)
    return registry.catalogue("qlstm_cells", CellSpec, "cell", product=RecurrentLayer, arguments=arguments)


def layer_by_name(cell: str, *arguments: Any, **keywords: Any) -> RecurrentLayer:
    """Return a freshly initialised layer of the family that ``cell`` names.

    Example::

        layer = layer_by_name("f-lstm:rank=16", 64, 128, quantizer="bwn", normalizer="layer")

    Args:
        cell: a name, or a name with options; ``qlstm plugins`` lists those installed.
        *arguments: as the family's class takes them: ``input_size``, ``hidden_size`` and so on.
        **keywords: the same by name, and options.

    Raises:
        PluginError: an unknown name or option, or a factory that does not return a layer.
        TypeError, ValueError: the family's own, for arguments.
    """
    layer = cells_of(registry).factory(cell)(*arguments, **keywords)
    if not isinstance(layer, RecurrentLayer):
        raise PluginError(f"cell {cell!r}: its factory returned {type(layer).__name__}, not RecurrentLayer")
    return layer
