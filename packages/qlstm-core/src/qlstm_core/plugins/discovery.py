"""Finds the plugins among the installed distributions, and imports each by itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, EntryPoint, distributions

from qlstm_core.plugins.errors import describe, suggest
from qlstm_core.plugins.record import Plugin

DISABLE_VARIABLE = "QLSTM_DISABLE_PLUGINS"
"""Environment variable: plugins not to load, by distribution or entry-point name, separated by commas."""


def load_plugins(group: str) -> list[Plugin]:
    """Import the entry points of ``group``, in alphabetical order of distribution and name.

    One that is disabled or that cannot be imported is in the list with its reason and without its instance.
    Unlike :func:`importlib.metadata.entry_points` and pluggy's own loader, this gives up on none because of
    another: not for a damaged ``entry_points.txt``, nor two entry points of one name, nor a ``SystemExit``.
    """
    plugins = [plugin for distribution in _distributions() for plugin in _plugins(distribution, group)]
    return sorted(plugins, key=lambda plugin: (normalize(plugin.distribution), plugin.name))


def unknown_disabled(names: Iterable[str]) -> list[str]:
    """Return a message for each word in ``QLSTM_DISABLE_PLUGINS`` that is part of no plugin's name."""
    known = sorted({normalize(part) for name in names for part in name.split(":")})
    return [
        f"{DISABLE_VARIABLE} names {word!r}, which is not installed{suggest(word, known, most=1)}"
        for word in sorted(_disabled() - set(known))
    ]


def normalize(distribution: str) -> str:
    """Return a distribution's name as installers compare it: lower case, runs of ``-_.`` as one ``-``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _disabled() -> set[str]:
    words = (word.strip() for word in os.environ.get(DISABLE_VARIABLE, "").split(","))
    return {normalize(word) for word in words if word}


def _distributions() -> Iterator[Distribution]:
    """Yield the first distribution of each name along ``sys.path``, the one that an import would find."""
    seen: set[str] = set()
    for distribution in distributions():
        try:
            name = normalize(distribution.metadata["Name"])
        except Exception:  # the remains of an uninstallation that was cut short have no name to report
            continue
        if name not in seen:
            seen.add(name)
            yield distribution


def _plugins(distribution: Distribution, group: str) -> Iterator[Plugin]:
    name, version = distribution.metadata["Name"], distribution.metadata["Version"] or ""
    if f"[{group}]" not in (distribution.read_text("entry_points.txt") or ""):
        return
    try:
        entry_points = list(distribution.entry_points.select(group=group))
    except Exception as error:
        plugin = Plugin(f"{name}:entry_points.txt", name, version)
        plugin.mark("failed", f"its entry_points.txt cannot be read: {describe(error)}")
        yield plugin
        return
    for entry_point in entry_points:
        plugin = Plugin(f"{name}:{entry_point.name}", name, version)
        if _disabled() & {normalize(name), normalize(entry_point.name)}:
            plugin.mark("disabled", f"named in {DISABLE_VARIABLE}")
        else:
            _import(plugin, entry_point)
        yield plugin


def _import(plugin: Plugin, entry_point: EntryPoint) -> None:
    try:
        plugin.instance = entry_point.load()
    except (Exception, SystemExit) as error:
        plugin.mark("failed", f"{entry_point.value} cannot be imported: {describe(error)}")
