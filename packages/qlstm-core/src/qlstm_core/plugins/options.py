"""``name:key=value,key=value``: a thing and its options as text, checked against its factory's signature."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from torch import nn

from qlstm_core.plugins.errors import OptionError, blame, suggest

_PLAIN = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    type(None): "none",
    str: "text",
    tuple: "values in parentheses, as in (1,2)",
}

_BETWEEN_OPTIONS = re.compile(r",(?![^(=]*\))")
"""A comma that stands in no value's parentheses."""


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """Split ``"name:key=value,key=value"`` into the name and the options as written.

    A value may be several in parentheses, ``key=(value,value)``.

    Raises:
        OptionError: options that are not of that form, or one given twice.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, str] = {}
    for item in _BETWEEN_OPTIONS.split(rest) if colon else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise OptionError(
                f"{text!r}: option {item.strip()!r} must be written option=value, as in name:option=value"
            )
        if key in options:
            raise OptionError(f"{text!r}: option {key!r} is given twice")
        options[key] = value
    return name.strip(), options


def parse_options(
    factory: Callable[..., Any], given: Mapping[str, str], title: str, arguments: Collection[str] = ()
) -> dict[str, Any]:
    """Turn options as written into the factory's keyword arguments.

    ``true`` and ``false`` become bool, ``none`` None, digits int, then float, several in parentheses a tuple,
    anything else str; of these, the first that the parameter's annotation (or, without one, the type of its
    default) admits.

    Args:
        factory: what will be called.
        given: options as written.
        title: what the factory builds, for messages, for example ``"quantizer 'bwn'"``.
        arguments: as :func:`option_parameters`.

    Raises:
        OptionError: an unknown option, a value of the wrong type, or a required option that is missing.
    """
    parameters, takes_any = option_parameters(factory, arguments)
    values: dict[str, Any] = {}
    for key, text in given.items():
        if key not in parameters and not takes_any:
            allowed = f"allowed: {', '.join(parameters)}" if parameters else "it takes no options"
            raise OptionError(f"{title} has no option {key!r}{suggest(key, parameters)}; {allowed}")
        choices = _choices(parameters[key]) if key in parameters else None
        try:
            values[key] = _convert(text, choices)
        except ValueError:
            wanted = " or ".join(_describe(choice) for choice in choices or ())
            raise OptionError(f"{title}: option {key!r} must be {wanted}, got {text!r}") from None
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in given
    ]
    if missing:
        raise OptionError(
            f"{title} needs a value for {', '.join(map(repr, missing))}, as in name:{missing[0]}=value"
        )
    return values


def format_options(
    factory: Callable[..., Any], values: Mapping[str, Any], arguments: Collection[str] = ()
) -> str:
    """Return ``":key=value,…"`` in alphabetical order, leaving out what equals its default; maybe ``""``."""
    parameters, _ = option_parameters(factory, arguments)
    items = [
        f"{key}={_spell(value)}"
        for key, value in sorted(values.items())
        if key not in parameters or not _equal(parameters[key].default, value)
    ]
    return ":" + ",".join(items) if items else ""


def option_parameters(
    factory: Callable[..., Any], arguments: Collection[str] = ()
) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that are options, by name, and whether any other option may be given too.

    Args:
        factory: what will be called.
        arguments: names of the parameters that are no options. A class with such parameters may hand on
            ``**keywords`` to its bases: what these take are options too, and nothing else is.
    """
    if not arguments:
        return _parameters(factory)
    callables: list[Callable[..., Any]] = [factory]
    if isinstance(factory, type):
        callables = [cls for cls in factory.__mro__ if "__init__" in vars(cls)]
    found: dict[str, inspect.Parameter] = {}
    for one in callables:
        named, hands_on = _parameters(one)
        found = {**named, **found}
        if not hands_on:
            break
    return {name: parameter for name, parameter in found.items() if name not in arguments}, False


def _parameters(factory: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters that may be given by keyword, and whether any other may be given too."""
    if isinstance(factory, type) and factory.__init__ is nn.Module.__init__:  # type: ignore[misc]
        return {}, False  # its signature is (*args, **kwargs), yet it accepts none
    try:
        signature = inspect.signature(factory, eval_str=True)
    except BaseException as error:  # annotations that exist for type checkers only
        blame(error)
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError):  # callables written in C
            return {}, True
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name: parameter for name, parameter in signature.parameters.items() if parameter.kind in kinds}
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())


def _choices(parameter: inspect.Parameter) -> list[Any] | None:
    """Return the types and literal values that a parameter admits; None where text cannot be checked."""
    annotation, default = parameter.annotation, parameter.default
    if annotation is parameter.empty or isinstance(annotation, str):
        if default is parameter.empty or default is None or type(default) not in _PLAIN:
            return None
        return [int, float] if type(default) is int else [type(default)]
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    choices: list[Any] = []
    for member in members:
        if get_origin(member) is Literal:
            choices.extend(get_args(member))
        elif (kind := get_origin(member) or member) in _PLAIN:
            choices.append(kind)
        else:
            return None
    return choices


def _convert(text: str, choices: list[Any] | None) -> Any:
    """Return the value that ``text`` spells; ValueError where no choice admits it."""
    for choice in choices or ():
        if not isinstance(choice, type) and text == _spell(choice):
            return choice
    if text.lower() in ("true", "false") and (choices is None or bool in choices):
        return text.lower() == "true"
    if text.lower() == "none" and choices is not None and type(None) in choices:
        return None
    for number in (int, float):
        if choices is None or number in choices:
            try:
                return number(text)
            except ValueError:
                continue
    if text[0] + text[-1] == "()" and (choices is None or tuple in choices):
        return tuple(_convert(part.strip(), None) for part in text[1:-1].split(",") if part.strip())
    if choices is None or str in choices:
        return text
    raise ValueError(text)


def _equal(default: object, value: object) -> bool:
    # True == 1, but true and 1 are different options.
    return (
        type(default) in _PLAIN and isinstance(default, bool) == isinstance(value, bool) and default == value
    )


def _spell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({','.join(map(_spell, value))})"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _describe(choice: Any) -> str:
    return _PLAIN[choice] if isinstance(choice, type) else repr(choice)
