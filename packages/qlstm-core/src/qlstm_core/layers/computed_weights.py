"""Weights that are computed from other parameters: parametrised, pruned, or normalised by torch's older ways.

``torch.nn.utils.parametrize`` computes a weight whenever it is read; ``torch.nn.utils.prune`` and the older
``weight_norm`` and ``spectral_norm`` compute it in a hook before each forward call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

_SOURCES = ("_orig", "_v")
"""How the names of those parameters end from which a hook computes a weight, and which have its shape."""


def source_of(layer: nn.Module, name: str, shape: tuple[int, ...]) -> nn.Parameter:
    """Return the parameter that a weight is, or, where it is computed, the one of its shape behind it.

    Args:
        layer: the module that has the weight.
        name: name of the weight.
        shape: shape of the weight.

    Raises:
        ValueError: a weight that is computed from parameters of other shapes.
    """
    if (parameter := layer._parameters.get(name)) is not None:
        return parameter
    if is_parametrized(layer, name):
        sources = list(layer.get_submodule(f"parametrizations.{name}").parameters(recurse=False))
    else:
        sources = _sources(layer, name)
    for parameter in sources:
        if parameter.shape == shape:
            return parameter
    raise ValueError(
        f"{name} is computed from parameters of shapes {[tuple(p.shape) for p in sources]}, "
        f"none of them its own, {tuple(shape)}"
    )


@torch.no_grad()
def assign(layer: nn.Module, name: str, value: Tensor) -> None:
    """Give a computed weight or bias a value, as far as its parametrisation can take it."""
    if is_parametrized(layer, name):
        setattr(layer, name, value)
        return
    for parameter in _sources(layer, name):
        parameter.copy_(value)
    for computed, hook in _hooks(layer):
        if computed == name and (length := layer._parameters.get(f"{name}_g")) is not None:
            length.copy_(torch.norm_except_dim(value, 2, hook.dim))
    recompute(layer)


@torch.no_grad()
def recompute(layer: nn.Module) -> None:
    """Compute again what hooks compute before a forward call: pruned weights and those of the older norms."""
    for _, hook in _hooks(layer):
        hook(layer, ())


def _sources(layer: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters of a weight's shape from which a hook computes it."""
    return [p for end in _SOURCES if (p := layer._parameters.get(name + end)) is not None]


def _hooks(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield name and hook of each weight that a hook computes; hooks have ``name`` or ``_tensor_name``."""
    for hook in layer._forward_pre_hooks.values():
        name = getattr(hook, "_tensor_name", getattr(hook, "name", None))
        if isinstance(name, str) and _sources(layer, name):
            yield name, hook
