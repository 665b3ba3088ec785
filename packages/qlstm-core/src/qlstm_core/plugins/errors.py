"""What the registry raises and warns of: every message is one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PluginError(ValueError):
    """A plugin, a name or an option that cannot be used; the base of this family."""


class UnknownNameError(PluginError):
    """A name that no installed plugin provides."""


class AmbiguousNameError(PluginError):
    """A name that several plugins claim."""


class OptionError(PluginError):
    """An option that does not exist, or a value that does not fit it."""


class PluginWarning(UserWarning):
    """A plugin that does not work and was left out."""


def describe(error: BaseException) -> str:
    """Return ``Type: message`` of an exception on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def suggest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return ``" (did you mean 'a' or 'b'?)"`` with the known names nearest to ``name``; maybe ``""``."""
    near = get_close_matches(name.lower(), list(known), n=most)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
