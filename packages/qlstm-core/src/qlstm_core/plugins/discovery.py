"""Finds the plugins among the installed distributions, and imports each by itself."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, DistributionFinder, EntryPoint

from qlstm_core.plugins.errors import blame, suggest
from qlstm_core.plugins.plugin_state import Plugin

DISABLE_VARIABLE = "QLSTM_DISABLE_PLUGINS"
"""Environment variable: plugins not to load, by distribution or entry-point name, separated by commas."""


def load_plugins(group: str) -> list[Plugin]:
    """Import the entry points of ``group``, in alphabetical order of distribution and name.

    What is disabled, what cannot be imported and a distribution whose metadata cannot be read are in the list
    with their reason and without their instance: neither ``importlib.metadata.entry_points()`` nor pluggy's
    own loader goes on after the first that fails. Of several distributions of one name, the first on the path
    that can be read counts.
    """
    plugins: dict[str, Plugin] = {}
    seen: set[str] = set()
    for distribution in _distributions(plugins):
        folder, name, version = _folder(distribution)
        if folder.startswith("~"):  # pip's, left over from an upgrade that did not end
            continue
        try:
            key = normalize(name or distribution.name)
            if key in seen:
                continue
            entry_points = [entry for entry in distribution.entry_points if entry.group == group]
            if entry_points:
                name, version = _identity(distribution)
        except BaseException as error:
            reason = (
                f"the metadata of {folder or type(distribution).__name__!r} cannot be read: {blame(error)}"
            )
            name = name or "unknown"
            _note(plugins, Plugin(f"{name}:{folder}", name, version), reason)
            continue
        seen.add(key)
        for entry_point in entry_points:
            plugin = Plugin(f"{name}:{entry_point.name}", name, version)
            if plugin.name in plugins:  # another line of the same name
                plugin.name += f"={entry_point.value}"
            plugins[plugin.name] = plugin
            _load(plugin, entry_point)
    return sorted(plugins.values(), key=lambda plugin: (normalize(plugin.distribution), plugin.name))


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


def _distributions(plugins: dict[str, Plugin]) -> Iterator[Distribution]:
    """Yield what each finder of ``sys.meta_path`` finds; note one that fails in ``plugins``."""
    for finder in sys.meta_path:
        try:
            find = getattr(finder, "find_distributions", None)
            found = [] if find is None else list(find(DistributionFinder.Context()))
        except BaseException as error:
            name = getattr(finder, "__name__", type(finder).__name__)
            reason = f"the finder {name!r} on sys.meta_path finds no distributions: {blame(error)}"
            _note(plugins, Plugin(f"{name}:sys.meta_path", name, ""), reason)
        else:
            yield from found


def _folder(distribution: Distribution) -> tuple[str, str, str]:
    """Return the name of the folder of metadata, and what it says of name and version; each may be empty."""
    folder = str(getattr(getattr(distribution, "_path", None), "name", ""))  # has no public name
    stem, suffix = os.path.splitext(folder)
    if suffix not in (".dist-info", ".egg-info"):
        return folder, "", ""
    name, _, rest = stem.partition("-")
    return folder, name, rest.partition("-")[0]


def _identity(distribution: Distribution) -> tuple[str, str]:
    """Return name and version as the metadata give them."""
    metadata = distribution.metadata
    given = {field: metadata[field] for field in ("Name", "Version") if field in metadata}
    if not given.get("Name"):
        raise ValueError("it has no Name")
    return given["Name"], given.get("Version", "")


def _note(plugins: dict[str, Plugin], plugin: Plugin, reason: str) -> None:
    """Put a failed or disabled plugin among ``plugins``."""
    if not _disable(plugin):
        plugin.mark("failed", reason)
    plugins[plugin.name] = plugin


def _disable(plugin: Plugin) -> bool:
    disabled = not _disabled().isdisjoint(map(normalize, plugin.name.split(":", 1)))
    if disabled:
        plugin.mark("disabled", f"named in {DISABLE_VARIABLE}")
    return disabled


def _load(plugin: Plugin, entry_point: EntryPoint) -> None:
    if _disable(plugin):
        return
    try:
        plugin.instance = entry_point.load()
    except BaseException as error:
        plugin.mark("failed", f"{entry_point.value} cannot be imported: {blame(error)}")
