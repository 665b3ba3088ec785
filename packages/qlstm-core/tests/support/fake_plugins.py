"""Plugins made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from qlstm_core import Normalizer, Quantizer
from qlstm_core.plugins import NormalizerSpec, QuantizerSpec, hookimpl


class Sign(Quantizer):
    bits = 1

    def __init__(self, scale: float = 1.0, per_row: bool = False, label: str = "") -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be positive,\ngot {scale}")
        self.scale, self.per_row, self.label = scale, per_row, label


def quantizer(name: str, **fields: Any) -> QuantizerSpec:
    defaults: dict[str, Any] = {"summary": f"the quantizer {name}", "factory": Sign}
    return QuantizerSpec(name=name, **defaults | fields)


def normalizer(name: str, **fields: Any) -> NormalizerSpec:
    defaults: dict[str, Any] = {"summary": f"the normaliser {name}", "factory": Normalizer}
    return NormalizerSpec(name=name, **defaults | fields)


def plugin(version: str = "", **hooks: Callable[..., Any]) -> ModuleType:
    """A module whose functions are the given hook implementations."""
    module = ModuleType("fake_plugin")
    module.__version__ = version  # type: ignore[attr-defined]
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


def quantizer_plugin(*specs: QuantizerSpec, version: str = "") -> ModuleType:
    """A plugin that provides quantizers."""
    return plugin(version, qlstm_quantizers=lambda: specs)
