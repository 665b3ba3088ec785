"""Checks of the options that users give to a method."""

from __future__ import annotations

from collections.abc import Collection


def check_flag(method: str, option: str, value: object) -> bool:
    """Return ``value`` if it is a bool.

    Raises:
        TypeError: anything else, naming method, option and value.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{method}: {option} must be true or false, got {value!r}")
    return value


def check_bits(method: str, value: object, allowed: Collection[int]) -> int:
    """Return ``value`` if it is one of the ``allowed`` numbers of bits.

    Raises:
        TypeError: not an int, naming the method.
        ValueError: an int outside the allowed ones, naming them.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{method}: bits must be an int, got {value!r}")
    if value not in allowed:
        raise ValueError(f"{method}: bits must be {min(allowed)} to {max(allowed)}, got {value}")
    return value


def check_count(method: str, option: str, value: object) -> int:
    """Return ``value`` if it is an int of 0 or more.

    Raises:
        TypeError: not an int, naming method, option and value.
        ValueError: a negative one.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{method}: {option} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{method}: {option} must be 0 or more, got {value}")
    return value
