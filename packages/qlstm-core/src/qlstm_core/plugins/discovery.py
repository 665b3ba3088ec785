"""Finds the entry points of installed distributions, without importing any of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions


@dataclass(frozen=True)
class Discovered:
    """One entry point.

    Args:
        distribution: name of the distribution that has it.
        version: the distribution's version.
        entry_point: the entry point's name.
        load: imports the plugin and returns it; may raise whatever the plugin raises.
    """

    distribution: str
    version: str
    entry_point: str
    load: Callable[[], object]


def discover(group: str) -> Iterator[Discovered]:
    """Yield the entry points of ``group``, of the first distribution of each name along ``sys.path``.

    :func:`importlib.metadata.entry_points` gives up on all distributions when one has a damaged
    ``entry_points.txt``; here a damaged one costs itself alone.
    """
    seen: set[str] = set()
    for distribution in distributions():
        name = _name(distribution)
        if not name or normalize(name) in seen:
            continue
        seen.add(normalize(name))
        if f"[{group}]" in (distribution.read_text("entry_points.txt") or ""):
            yield from _entry_points(distribution, name, group)


def normalize(distribution: str) -> str:
    """Return a distribution's name as installers compare it: lower case, runs of ``-_.`` as one ``-``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _name(distribution: Distribution) -> str:
    """Return its name, or nothing for the remains of an uninstallation that was cut short."""
    try:
        return distribution.metadata["Name"] or ""
    except Exception:
        return ""


def _entry_points(distribution: Distribution, name: str, group: str) -> Iterator[Discovered]:
    version = distribution.metadata["Version"] or ""
    try:
        entry_points = list(distribution.entry_points.select(group=group))
    except Exception as error:
        message = f"its entry_points.txt cannot be read: {error}"

        def refuse() -> object:
            raise ValueError(message)

        yield Discovered(name, version, "entry_points.txt", refuse)
        return
    for entry_point in entry_points:
        yield Discovered(name, version, entry_point.name, entry_point.load)
