"""What figures and claims of papers check of themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qlstm_bench.config import RunConfig
from qlstm_core.plugins.errors import suggest


def check_line(title: str, field: str, value: object) -> None:
    """Refuse what is not one non-empty printable line.

    Raises:
        TypeError, ValueError: such a value; names the field.
    """
    if not isinstance(value, str):
        raise TypeError(f"{title}: {field} must be text, got {value!r}")
    if not value.strip() or not value.isprintable():
        raise ValueError(f"{title}: {field} must be one non-empty printable line, got {value!r}")


def check_number(title: str, field: str, value: object, *, above: float = -math.inf) -> None:
    """Refuse what is not a finite number beyond a limit.

    Raises:
        TypeError, ValueError: such a value; names the field.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{title}: {field} must be a number, got {value!r}")
    if not math.isfinite(value) or value <= above:
        wanted = "finite" if above == -math.inf else f"above {above:g}, and finite"
        raise ValueError(f"{title}: {field} must be {wanted}, got {value!r}")


def check_settings(
    title: str, field: str, settings: object, taken: Iterable[str] = (), *, lists: bool = False
) -> None:
    """Refuse what does not map settings of a run to values that they can have, or to ``"any"``.

    Args:
        title: what is checked, for messages.
        field: its field.
        settings: the mapping.
        taken: settings that have a field of their own.
        lists: whether a list may stand for several values.

    Raises:
        TypeError, ValueError: no mapping, a setting that does not exist, with the nearest, or a value that it
            cannot have.
    """
    if not isinstance(settings, Mapping):
        raise TypeError(f"{title}: {field} must map settings of a run to values, got {settings!r}")
    known = [name for name in RunConfig.model_fields if name not in set(taken)]
    for name in settings:
        if name not in known:
            raise ValueError(f"{title}: {field}: no setting {name!r}{suggest(str(name), known)}")
    for name, value in settings.items():
        several = isinstance(value, list | tuple) and lists
        if several and not value:
            raise ValueError(f"{title}: {field}: {name} must list at least one value")
        for one in value if several else [value]:
            try:
                if one != "any":
                    kind: Any = RunConfig.model_fields[name].annotation
                    TypeAdapter(kind).validate_python(one, strict=True)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ValueError(f"{title}: {field}: {name} cannot be {one!r}: {reason}") from None


def task_fits(wanted: str, task: str) -> bool:
    """Return whether a run's task is the one wanted: the same name, and all options that are wanted.

    Args:
        wanted: name of a task, with options or without, as in ``"mnist:permuted=true"``.
        task: task of a run; further options do not matter.
    """
    name, _, options = wanted.partition(":")
    own_name, _, own_options = task.partition(":")
    return name == own_name and set(filter(None, options.split(","))) <= set(own_options.split(","))


def settings_fit(wanted: Mapping[str, Any], config: RunConfig) -> bool:
    """Return whether a run has all settings that are wanted.

    Args:
        wanted: value of each setting; ``"any"`` is fitted by all.
        config: settings of the run; of its quantizer and normaliser those options are not looked at that
            :func:`as_published` leaves out.
    """
    return all(
        value == "any" or _plain(name, getattr(config, name)) == _plain(name, value)
        for name, value in wanted.items()
    )


def _plain(name: str, value: Any) -> Any:
    return as_published(value) if name in ("quantizer", "normalizer") else value


def as_published(method: str) -> str:
    """Return a quantizer or normaliser without the options that a paper's table does not tell.

    They are how long sequences are, where a gain starts, and whether full-precision weights are clipped.
    """
    name, _, options = method.partition(":")
    untold = ("max_steps=", "gain", "clip=")
    kept = [option for option in options.split(",") if option and not option.startswith(untold)]
    return f"{name}:{','.join(kept)}" if kept else name
