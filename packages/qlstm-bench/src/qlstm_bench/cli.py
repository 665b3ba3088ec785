"""The command line ``qlstm-bench``: the commands together, and errors of one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from qlstm_bench.commands import (
    asv,
    compare,
    completion,
    datasets,
    demo,
    generate,
    gradients,
    pack,
    report,
    run,
    speed,
    sweep,
    tasks,
    theory,
)
from qlstm_bench.errors import BenchError
from qlstm_bench.tables import shorten
from qlstm_core import terminal
from qlstm_core.printable import printable

# Heavy modules are imported by the commands that need them: `qlstm-bench --help` answers at once.

_INTERRUPTED = 130

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train recurrent networks with few-bit weights, compare them, and see why some do not learn.",
    epilog="First: `qlstm-bench demo`. `qlstm-bench COMMAND --help` says more about a command.",
)

app.command("run", help=run.HELP)(run.run)
app.command("tasks", help=tasks.HELP)(tasks.tasks)
app.command("datasets", help=datasets.HELP)(datasets.datasets)
app.command("demo", help=demo.HELP)(demo.demo)
app.command("sweep", help=sweep.HELP)(sweep.sweep)
app.command("report", help=report.HELP)(report.report)
app.command("compare", help=compare.HELP)(compare.compare)
app.command("gradients", help=gradients.HELP)(gradients.gradients)
app.command("pack", help=pack.HELP)(pack.pack)
app.command("generate", help=generate.HELP)(generate.generate)
app.add_typer(speed.app, name="speed")
app.add_typer(theory.app, name="theory")
app.add_typer(asv.app, name="asv")
app.command("completion", help=completion.HELP)(completion.completion)


def _print_versions(asked: bool) -> None:
    if asked:
        from qlstm_core.plugins import registry
        from qlstm_core.versions import describe_versions

        print(describe_versions(registry.plugins()))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_versions, help="Print what versions are installed."
        ),
    ] = False,
) -> None:
    """Take the options before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 0; 1 where the output or the workers were lost; 2 for bad input; 130 when interrupted.

    Args:
        arguments: without the program's name; default: those of the process.
    """
    return terminal.run("qlstm-bench", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    from qlstm_core.plugins import PluginError

    command = typer.main.get_command(app)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            words = list(sys.argv[1:] if arguments is None else arguments)
            code = command.main(args=words or ["--help"], prog_name="qlstm-bench", standalone_mode=False)
        except BenchError as error:
            return _refuse(str(error), error.exit_code)
        except PluginError as error:
            return _refuse(str(error))
        except Exception as error:
            # typer brings its own copy of click, or uses the installed one: told by what it can do.
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error)
                return 0
            if hasattr(error, "format_message"):
                return _refuse(_usage_message(error))
            cause = error.__cause__
            if type(error).__name__ == "Abort" and isinstance(cause, EOFError):
                raise cause from None  # typer takes it for ctrl-D at a prompt, and there is none here
            if _lacks_memory(error):
                return _refuse(f"there is not enough memory: {shorten(str(error) or type(error).__name__)}")
            raise
        except KeyboardInterrupt:
            return _interrupted()
    return _interrupted() if code == _INTERRUPTED else 0


def _refuse(message: str, code: int = 2) -> int:
    print(f"qlstm-bench: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _lacks_memory(error: Exception) -> bool:
    """Return whether Python, torch on the CPU or torch on a GPU could not allocate what was asked for."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _interrupted() -> int:
    print(
        "qlstm-bench: interrupted; the same command goes on from the last checkpoint, if there is one yet",
        file=sys.stderr,
    )
    return _INTERRUPTED


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    print(f"qlstm-bench: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _usage_message(error: Any) -> str:
    """Return click's complaint about the command line, with what is allowed and the nearest name."""
    from qlstm_core.plugins.errors import suggest

    context = getattr(error, "ctx", None)
    message: str = error.format_message()
    if context is None:
        return message
    commands = getattr(context.command, "commands", None)
    if commands and "No such command" in message:
        typed = message.split("'")[1]
        return f"unknown command {typed!r}{suggest(typed, commands)}; commands: {', '.join(commands)}"
    option = getattr(error, "option_name", None)
    if option and "No such option" in message:
        known = [name for parameter in context.command.params for name in parameter.opts if name[:2] == "--"]
        return f"unknown option {option!r}{suggest(option, known)}; allowed: {', '.join(known)}"
    return f"{message} (see `{context.command_path} --help`)"
