"""What the registry raises and warns of: every message is one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from qlstm_core.printable import printable


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
    """Return ``Type: message`` of an exception on one line that steers no terminal."""
    name, message = printable(type(error).__name__), message_of(error)
    return f"{name}: {message}" if message else name


def message_of(error: BaseException) -> str:
    """Return the message of an exception on one line that steers no terminal; one without is empty."""
    try:
        return printable(" ".join(str(error).split()))
    except BaseException as second:
        return f"(its message cannot be shown, {blame(second)})"


def blame(error: BaseException) -> str:
    """Return :func:`describe` of what a plugin's code raised; raise the user's interrupt again.

    Plugins are called inside ``try: … except BaseException as error: … blame(error)``: whatever else they
    raise, SystemExit, GeneratorExit and pytest's Skipped included, is their own failure and not the host's.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    return describe(error)


def suggest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return ``" (did you mean 'a' or 'b'?)"`` with the known names nearest to ``name``; maybe ``""``."""
    near = get_close_matches(name.lower(), list(known), n=most)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
