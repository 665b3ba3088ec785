"""Plugins: the hooks, what they return, and the registry that finds them."""

from qlstm_core.plugins.hookspecs import PROJECT, hookimpl, hookspec
from qlstm_core.plugins.registry import PluginRecord, PluginWarning, Registry, registry
from qlstm_core.plugins.specs import API_VERSION, NormalizerSpec, QuantizerSpec, Spec

__all__ = [
    "API_VERSION",
    "PROJECT",
    "NormalizerSpec",
    "PluginRecord",
    "PluginWarning",
    "QuantizerSpec",
    "Registry",
    "Spec",
    "hookimpl",
    "hookspec",
    "registry",
]
