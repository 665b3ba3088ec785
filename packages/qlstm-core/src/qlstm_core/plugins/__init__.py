"""Plugins: the hooks, what they return, and the registry that finds them."""

from qlstm_core.plugins.catalogue import Catalogue
from qlstm_core.plugins.errors import (
    AmbiguousNameError,
    OptionError,
    PluginError,
    PluginWarning,
    UnknownNameError,
)
from qlstm_core.plugins.markers import PROJECT, hookimpl, hookspec
from qlstm_core.plugins.plugin_state import PluginRecord
from qlstm_core.plugins.registry import Registry, registry
from qlstm_core.plugins.specs import (
    API_VERSION,
    CellSpec,
    KernelSpec,
    NormalizerSpec,
    QuantizerSpec,
    Spec,
)

__all__ = [
    "API_VERSION",
    "PROJECT",
    "AmbiguousNameError",
    "Catalogue",
    "CellSpec",
    "KernelSpec",
    "NormalizerSpec",
    "OptionError",
    "PluginError",
    "PluginRecord",
    "PluginWarning",
    "QuantizerSpec",
    "Registry",
    "Spec",
    "UnknownNameError",
    "hookimpl",
    "hookspec",
    "registry",
]
