"""Finds the plugins among the installed distributions, and imports each by itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from qlstm_core.plugins.errors import describe, suggest
from qlstm_core.plugins.record import Plugin

DISABLE_VARIABLE = "QLSTM_DISABLE_PLUGINS"
"""Environment variable: plugins not to load, by distribution or entry-point name, separated by commas."""


def load_plugins(group: str) -> list[Plugin]:
    """Import the entry points of ``group``, in alphabetical order of distribution and name.

    One that is disabled or that cannot be imported is in the list with its reason and without its instance.
    Unlike pluggy's own loader, this does not stop at the first that fails, nor skip a second of one name.
    """
    plugins = [_load(entry_point) for entry_point in entry_points(group=group)]
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


def _load(entry_point: EntryPoint) -> Plugin:
    distribution, version = "unknown", ""
    if entry_point.dist is not None:
        distribution, version = entry_point.dist.name, entry_point.dist.version
    plugin = Plugin(f"{distribution}:{entry_point.name}", distribution, version)
    if _disabled() & {normalize(distribution), normalize(entry_point.name)}:
        plugin.mark("disabled", f"named in {DISABLE_VARIABLE}")
        return plugin
    try:
        plugin.instance = entry_point.load()
    except (Exception, SystemExit) as error:
        plugin.mark("failed", f"{entry_point.value} cannot be imported: {describe(error)}")
    return plugin
