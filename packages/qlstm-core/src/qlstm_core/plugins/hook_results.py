"""What a plugin's hook returned: specs, each with a name of its own, entries without one, or nonsense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from qlstm_core.plugins.specs import Spec

E = TypeVar("E")

_RESERVED = "none"


class HookResultError(Exception):
    """A hook gave something else than it should; the message completes "the hook gave …"."""


def check_entries(results: list[Any], entry_type: type[E]) -> list[E]:
    """Return the entries in one plugin's results of a hook call, from which pluggy has dropped any None.

    Args:
        results: what the plugin's implementations returned.
        entry_type: a class of specs, or that of a collection's entries.

    Raises:
        HookResultError: something in place of entries.
    """
    entries: list[E] = []
    for result in results or [None]:
        if not isinstance(result, Iterable):
            raise HookResultError(f"{_type(result)}, not an iterable of {entry_type.__name__}")
        for entry in result:
            if not isinstance(entry, entry_type):
                raise HookResultError(f"{_type(entry)} in place of {entry_type.__name__}")
            entries.append(entry)
    return entries


def check_names(specs: Iterable[Spec], taken: Iterable[Spec], *, core: bool) -> None:
    """Refuse a name given twice by one distribution, and ``none`` unless the core gives it.

    Args:
        specs: what one plugin gives.
        taken: what other plugins of its distribution gave; ``distribution/name`` must stay unique.
        core: whether the distribution is qlstm-core.

    Raises:
        HookResultError: such a name.
    """
    counts = Counter(name for spec in (*taken, *specs) for name in spec.names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise HookResultError(f"a name twice: {', '.join(map(repr, twice))}")
    if _RESERVED in counts and not core:
        raise HookResultError(f"the name {_RESERVED!r}, every layer's default, which belongs to qlstm-core")


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__
