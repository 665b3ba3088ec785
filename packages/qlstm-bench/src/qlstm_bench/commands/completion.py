"""``qlstm-bench completion``: commands, options and names at the Tab key."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

HELP = """Print a script that completes commands, options and installed names at the Tab key.

It is made once and needs no Python when it completes: make it again when you have installed a plugin.

\b
Examples:
  qlstm-bench completion bash > ~/.local/share/bash-completion/completions/qlstm-bench
  qlstm-bench completion zsh > ~/.zfunc/_qlstm-bench    with fpath+=~/.zfunc before compinit in ~/.zshrc
  qlstm-bench completion fish > ~/.config/fish/completions/qlstm-bench.fish
"""


class Shell(StrEnum):
    """What there is completion for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    ctx: typer.Context, shell: Annotated[Shell, typer.Argument(help="Whose script.", show_default=False)]
) -> None:
    """Print a completion script."""
    import shtab

    root = ctx.find_root()
    parser = argparse.ArgumentParser(prog="qlstm-bench", add_help=False)
    _describe(root.command, root, parser, _installed_names())
    print(shtab.complete(parser, shell.value))


def _installed_names() -> dict[str, list[str]]:
    """Return what a parameter may be that is called so, or ends in it after an underscore."""
    from qlstm_bench.data import DATASETS
    from qlstm_bench.sweep.presets import preset_names
    from qlstm_bench.tasks import tasks_of
    from qlstm_core import cells_of
    from qlstm_core.plugins import registry

    tasks = tasks_of(registry).names()
    return {
        "quantizer": registry.quantizers.names(),
        "normalizer": registry.normalizers.names(),
        "cell": cells_of(registry).names(),
        "task": tasks,
        "name": tasks,
        "data": list(DATASETS),
        "source": preset_names(),
    }


def _describe(
    command: Any, context: Any, parser: argparse.ArgumentParser, names: Mapping[str, Sequence[str]]
) -> None:
    """Describe a command of typer to a parser of argparse, which shtab reads.

    (It reads click's commands, too, but typer brings a click of its own, whose types are others.)
    """
    import shtab

    parser.add_argument("--help", action="help", help="show what a command does and end")
    annotations = _annotations(command.callback)
    for parameter in command.params:
        about = _first_line(getattr(parameter, "help", None))
        if parameter.param_type_name == "argument":
            action = parser.add_argument(
                parameter.name, nargs="*" if parameter.nargs < 0 else "?", help=about
            )
        elif parameter.is_flag:
            parser.add_argument(*parameter.opts, *parameter.secondary_opts, action="store_true", help=about)
            continue
        else:
            action = parser.add_argument(*parameter.opts, help=about)
        kinds = set(_types(annotations.get(parameter.name)))
        metavar = parameter.metavar or ""
        if Path in kinds:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif enums := [kind for kind in kinds if issubclass(kind, Enum)]:
            action.choices = [str(value.value) for value in enums[0]]
        elif "|" in metavar and metavar.islower():  # the values that a setting may have
            action.choices = metavar.split("|")
        else:
            action.choices = names.get(parameter.name.rpartition("_")[2])
    if hasattr(command, "list_commands"):
        commands = parser.add_subparsers()
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            added = commands.add_parser(name, help=_first_line(below.help), add_help=False)
            _describe(below, context, added, names)


def _annotations(callback: Callable[..., Any] | None) -> dict[str, Any]:
    """Return the annotation of each parameter of a command's function."""
    if callback is None:
        return {}
    parameters = inspect.signature(callback, eval_str=True).parameters
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _types(annotation: Any) -> Iterator[type]:
    """Yield the types that an annotation is made of."""
    if parts := get_args(annotation):
        for part in parts:
            yield from _types(part)
    elif isinstance(annotation, type):
        yield annotation


def _first_line(text: str | None) -> str:
    """Return the first line of a help text; argparse replaces what follows a per cent sign."""
    return (text or "").strip().partition("\n")[0].replace("%", "%%")
