"""What a plugin's hook returned: specs, each with a name of its own, or nonsense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from qlstm_core.plugins.specs import Spec

S = TypeVar("S", bound=Spec)

_RESERVED = "none"


class HookResultError(Exception):
    """A hook gave something else than it should; the message completes "the hook gave …"."""


def check_specs(results: list[Any], spec_type: type[S]) -> list[S]:
    """Return the specs in one plugin's results of a hook call, from which pluggy has dropped any None.

    Raises:
        HookResultError: something in place of specs.
    """
    specs: list[S] = []
    for result in results or [None]:
        if not isinstance(result, Iterable):
            raise HookResultError(f"{_type(result)}, not an iterable of {spec_type.__name__}")
        for spec in result:
            if not isinstance(spec, spec_type):
                raise HookResultError(f"{_type(spec)} in place of {spec_type.__name__}")
            specs.append(spec)
    return specs


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
