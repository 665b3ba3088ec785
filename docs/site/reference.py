"""The reference: every name that the public modules export, and where to find what docstrings refer to."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

MODULES = (
    "qlstm_core", "qlstm_core.export", "qlstm_core.packed", "qlstm_core.plugins", "qlstm_core.testing",
    "qlstm_quant", "qlstm_norm", "qlstm_bench",
)  # fmt: skip
"""The public modules; a name that two of them export is described with the first."""


@cache
def exported() -> dict[tuple[str, str], str]:
    """Return the public name of everything exported, by the module that defines it and its name there."""
    found: dict[tuple[str, str], str] = {}
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            found.setdefault(_identity(module, name), f"{module}.{name}")
    return found


def _identity(module: str, name: str) -> tuple[str, str]:
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__module__, value.__qualname__
    return module, name


def reference(module: str) -> str:
    """Return the description of a public module's names as MyST Markdown."""
    lines = ["```{eval-rst}", f".. automodule:: {module}", "   :no-members:", "```", ""]
    for name in importlib.import_module(module).__all__:
        public = exported()[_identity(module, name)]
        lines += [f"## {name}", ""]
        if public != f"{module}.{name}":
            lines += [f"The same as {{py:obj}}`{public}`.", ""]
        else:
            lines += ["```{eval-rst}", *_directive(public), "```", "", *_settings(module, name)]
    return "\n".join(lines)


def _settings(module: str, name: str) -> list[str]:
    """Return a table of the fields of a model whose fields have descriptions, as the settings of a run."""
    fields = getattr(getattr(importlib.import_module(module), name), "model_fields", {})
    described = {field: info for field, info in fields.items() if info.description}
    if not described:
        return []
    rows = [
        f"| `{field}` | {'' if info.is_required() else f'`{info.default}`'} | {info.description} |"
        for field, info in described.items()
    ]
    return ["| field | default | |", "|---|---|---|", *rows, ""]


def _directive(public: str) -> list[str]:
    module, _, name = public.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if inspect.ismodule(value):
        return [f".. automodule:: {public}", "   :members:"]
    if inspect.isclass(value):
        options = ["   :members:", "   :exclude-members: twin", "   :show-inheritance:"]
        return [f".. autoclass:: {public}", *options, *_inherited(value)]
    kind = "autofunction" if inspect.isfunction(value) else "autodata"
    return [f".. {kind}:: {public}", *(["   :no-value:"] if kind == "autodata" else [])]


def _inherited(value: type) -> list[str]:
    """Return the option that shows what a class has from classes of ours that are not in the reference."""
    elsewhere = [
        base
        for base in value.__mro__[1:]
        if not base.__module__.startswith("qlstm_") or (base.__module__, base.__qualname__) in exported()
    ]
    if len(elsewhere) == len(value.__mro__) - 1:
        return []
    return [f"   :inherited-members: {', '.join(base.__name__ for base in elsewhere)}"]


def locate(target: str) -> tuple[str, Path | None] | None:
    """Return where a name that a docstring refers to is described, or ``None`` if it is not ours.

    Args:
        target: a full path, ``qlstm_core.layers.route.choose_route``, or a name within the module or class
            that refers to it, ``choose_route`` or ``Quantizer.prepare``.

    Returns:
        The name in the reference, whether or not it is there, and the file that defines it.
    """
    for module, path in _readings(target):
        owner, found = path, False
        while owner and not found:
            found = (module, owner) in exported()
            owner = owner if found else owner.rpartition(".")[0]
        file = getattr(sys.modules[module], "__file__", None)
        if found:
            return exported()[module, owner] + path.removeprefix(owner), Path(file) if file else None
        if file:
            return f"{module}.{path}".rstrip("."), Path(file)
    return None


def _readings(target: str) -> Iterator[tuple[str, str]]:
    """Yield what a name may mean: the defining module, and the path of attributes within it."""
    if target.startswith("qlstm_"):
        parts = target.split(".")
        for end in range(len(parts), 0, -1):
            try:
                module = importlib.import_module(".".join(parts[:end]))
            except ImportError:
                continue
            yield from _within(module, parts[end:])
            return
    for module_name, name in exported():
        defining = importlib.import_module(module_name)
        yield from _within(defining, target.split("."))
        yield from _within(defining, [*name.split("."), *target.split(".")])
    for module_name in sorted(name for name in sys.modules if name.startswith("qlstm_")):
        yield from _within(sys.modules[module_name], target.split("."))


def _within(module: Any, path: list[str]) -> Iterator[tuple[str, str]]:
    """Yield where the first name of a path is defined, if the module has the path."""
    value: Any = module
    for name in path:
        if not _has(value, name):
            return
        value = getattr(value, name, None)
    if not path:
        yield module.__name__, ""
        return
    first = getattr(module, path[0])
    if inspect.isclass(first) or inspect.isfunction(first):
        if first.__module__.startswith("qlstm_"):
            yield first.__module__, ".".join([first.__qualname__, *path[1:]])
    elif not inspect.ismodule(first):
        yield module.__name__, ".".join(path)


def _has(value: Any, name: str) -> bool:
    """Return whether a value has an attribute, or its instances a field of that name."""
    classes = getattr(value, "__mro__", ())
    return hasattr(value, name) or any(name in vars(cls).get("__annotations__", ()) for cls in classes)
