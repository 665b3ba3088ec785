"""From what a user gives as ``quantizer=`` or ``normalizer=`` to templates."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from qlstm_core.interfaces import Normalizer, Quantizer
from qlstm_core.plugins import registry

QuantizerLike = str | Quantizer
NormalizerLike = str | Normalizer

Kind = Literal["quantizer", "normalizer"]


def resolve(kind: Kind, value: Any) -> Any:
    """Return the quantizer or normaliser that ``value`` names or is.

    Raises:
        ValueError: an unknown name or option.
        TypeError: something that is neither a name nor of the kind.
    """
    base: type = Quantizer if kind == "quantizer" else Normalizer
    if isinstance(value, str):
        value = (registry.quantizers if kind == "quantizer" else registry.normalizers).create(value)
    if not isinstance(value, base):
        raise TypeError(f"{kind} must be a name or a {base.__name__}, got {type(value).__name__}: {value!r}")
    return value


def resolve_each(kind: Kind, value: Any, allowed: tuple[str, ...], default: list[str]) -> dict[str, Any]:
    """Return one template for each key: all of ``default`` from a single value, or those that a dict names.

    Args:
        kind: ``"quantizer"`` or ``"normalizer"``.
        value: a name, an object, or a dict of these.
        allowed: keys that a dict may have; those of ``default`` that it leaves out become ``none``.
        default: keys that a single value applies to.

    Raises:
        ValueError: a dict with unknown keys.
    """
    if not isinstance(value, dict):
        return dict.fromkeys(default, resolve(kind, value))
    unknown = set(value) - set(allowed)
    if unknown:
        raise ValueError(f"{kind} has unknown keys {sorted(unknown)}; allowed: {', '.join(allowed)}")
    return {key: resolve(kind, value.get(key, "none")) for key in default} | {
        key: resolve(kind, item) for key, item in value.items()
    }


def labels(**given: Any) -> dict[str, str]:
    """Return what extra_repr shows of the quantizers and normalisers: the arguments that are not ``none``."""

    def label(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key}: {label(item)}" for key, item in value.items()) + "}"
        return value if isinstance(value, str) else type(value).__name__

    return {key: label(value) for key, value in given.items() if value != "none"}


def prepare_anew(module: nn.Module, weight: Tensor) -> None:
    """Let a quantizer or normaliser start anew, keeping Parameter objects that an optimizer may hold."""
    assert isinstance(module, Quantizer | Normalizer)
    before = dict(module.named_parameters(recurse=False))
    module.prepare(weight.detach())
    for name, old in before.items():
        new = getattr(module, name, None)
        if (
            isinstance(new, nn.Parameter)
            and new is not old
            and new.shape == old.shape
            and new.device == old.device
        ):
            old.data.copy_(new.data)
            setattr(module, name, old)
