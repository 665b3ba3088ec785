"""Options of a command line out of the fields of a model, which say once what each setting is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from qlstm_bench.errors import BenchError

AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON list for programs.")]
"""The option of a command that lists something."""


def settings_as_options(fields: dict[str, FieldInfo]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, in place of its ``**settings``, an option for each field.

    The command gets what the command line says, as numbers or as text, and ``None`` for the rest: the model
    checks the values and knows the defaults.

    Args:
        fields: fields of a model, by name.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        options = [option(name, field) for name, field in fields.items() if name not in signature.parameters]
        here = sum(one.kind is not one.KEYWORD_ONLY for one in own)
        parameters = [*own[:here], *options, *own[here:]]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return give


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the command line gives."""
    return {name: value for name, value in settings.items() if value is not None}


def option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the parameter of a command that typer makes a field's option of."""
    described = typer.Option(help=help_of(field), metavar=_metavar(field), show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_number_or_text(field.annotation) | None, described],
    )


def check_file(name: str, path: Path) -> None:
    """Find out before the work whether a file can be written.

    Args:
        name: name of the option that gives it.
        path: the file.

    Raises:
        BenchError: it cannot.
    """
    if path.is_dir() or not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        why = "it is a folder" if path.is_dir() else f"{str(path.parent)!r} is no folder to write in"
        raise BenchError(f"{name} {str(path)!r} cannot be written: {why}")


def help_of(field: FieldInfo) -> str:
    """Return a field's description as a sentence, with the default unless the description says it."""
    text = field.description or ""
    if text[:2].isascii() and text[:2].isalpha():  # a symbol keeps its case
        text = text[:1].upper() + text[1:]
    if "default:" in text or field.default in (None, [], ...) or field.is_required():
        return f"{text}."
    return f"{text}.  [default: {spelled(field.default)}]"


def spelled(value: Any) -> str:
    """Return a value as the command line takes it: several with commas between."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def merged(fields: Iterable[tuple[str, FieldInfo]]) -> dict[str, FieldInfo]:
    """Return one field for each name, which takes text and has the descriptions of all of that name."""
    descriptions: dict[str, list[str]] = {}
    for name, field in fields:
        known = descriptions.setdefault(name, [])
        if field.description and field.description not in known:
            known.append(field.description)
    return {
        name: FieldInfo(annotation=str, default=None, description="; ".join(found))
        for name, found in descriptions.items()
    }


def _number_or_text(annotation: Any) -> type:
    """Return what an option takes: a number where the field is one or ``None``, else text."""
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in (int, float) else str


def _metavar(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    if isinstance(extra, dict):
        return str(extra["metavar"])
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    if get_origin(field.annotation) is tuple:
        kind = get_args(field.annotation)[0]
        return f"{getattr(kind, '__origin__', kind).__name__}[,…]"
    return None
