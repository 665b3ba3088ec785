"""The command line ``qlstm``: a command is a parser, in :func:`_parser`, and a function to run."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qlstm_core import __version__, terminal
from qlstm_core.new import KINDS, NewPackageError, first_command, write_package
from qlstm_core.plugins import PluginError, PluginRecord, PluginWarning, registry
from qlstm_core.plugins.discovery import unknown_disabled
from qlstm_core.plugins.errors import suggest
from qlstm_core.printable import printable
from qlstm_core.versions import describe_versions

if TYPE_CHECKING:
    from qlstm_core.packed.file_format import Content

_EPILOG = """\
example:
  $ qlstm plugins
  PLUGIN             VERSION  STATUS  PROVIDES
  qlstm-core:core    0.1.0    active  quantizer: none
                                      normalizer: none
                                      cell: f-lstm, g-lstm, gru, lstm

`qlstm COMMAND --help` says more about a command.
"""

_PLUGINS_DESCRIPTION = """\
List the installed plugins with version, status and what they provide. A plugin is an entry point of group
"qlstm", named distribution:entry-point.

status:
  active        works; a reason tells what looks like a mistake, for example a hook that nobody calls
  disabled      named in QLSTM_DISABLE_PLUGINS=a,b (distribution or entry point)
  failed        cannot be imported, or one of its hooks does not work; the reason says which
  incompatible  provides something for another version of the plugin interface, which is left out

The exit code is 0 even when plugins failed: the list was made, everything else works, and a script can ask
--json for the status it needs.
"""

_PLUGINS_EPILOG = """\
examples:
  qlstm plugins
  qlstm plugins --json
  QLSTM_DISABLE_PLUGINS=qlstm-norm qlstm plugins

--json prints {"format": 1, "qlstm_core": VERSION, "plugins": [{"name", "distribution", "version", "status",
"reason", "provides": {KIND: [NAME, ...]}}, ...]}; later versions may add keys, and change "format" otherwise.
"""

_CHECK_DESCRIPTION = """\
Run the conformance checks on installed quantizers, normalisers and cells, and print what became of each.
A NAME is that of a quantizer, normaliser or cell, with options or without, or that of a plugin or a
distribution, for all that it provides.

The exit code is 1 when a check fails.
"""

_CHECK_EPILOG = """\
examples:
  qlstm check bwn
  qlstm check alternating:bits=3 layer:cell=true gru
  qlstm check qlstm-quant --only check_bitplanes
  qlstm check --all
"""

_INSPECT_DESCRIPTION = """\
Say what is in a file that a packed layer or model was saved to: its sizes, quantizers and normalisers, the
bytes of each part, and how it will run here. A file that is damaged or holds something else is refused;
nothing in a file is executed.
"""

_INSPECT_EPILOG = """\
example:
  qlstm inspect model.safetensors
"""

_WARMUP_DESCRIPTION = """\
Compile the kernels of packed inference now, so that the first call of a program need not. Compiled code is
kept on disk for this version of qlstm-core and this kind of CPU: it is compiled again after an upgrade.
With a FILE, compile what that network needs; else what 1-bit and ternary networks need.
"""

_WARMUP_EPILOG = """\
examples:
  qlstm warmup
  qlstm warmup model.safetensors
  qlstm warmup --activation-bits 8
  QLSTM_KERNEL=portable qlstm warmup
"""

_NEW_DESCRIPTION = """\
Write the package of a new plugin: pyproject.toml with its entry point, a small plugin that works, tests
through the conformance kit, README, tox.ini and a CI workflow. It passes its tests as it is written; put your
method in the place of the one that is there.

KIND is quantizer, normalizer, cell or task; a task's package needs qlstm-bench. NAME is what users will type:
small letters, digits and hyphens. The package is called qlstm-NAME. The folder must be empty or not there
yet; it is written whole or not at all.
"""

_NEW_EPILOG = """\
examples:
  qlstm new quantizer my-sign
  qlstm new cell my-cell --out ~/code/qlstm-my-cell
"""

_COMPLETION_DESCRIPTION = """\
Print a script that completes commands, options and installed names at the Tab key. It is made once and needs
no Python when it completes: make it again when you have installed a plugin.
"""

_COMPLETION_EPILOG = """\
examples:
  qlstm completion bash > ~/.local/share/bash-completion/completions/qlstm
  qlstm completion zsh > ~/.zfunc/_qlstm         with fpath+=~/.zfunc before compinit in ~/.zshrc
  qlstm completion fish > ~/.config/fish/completions/qlstm.fish
"""

SHELLS = ("bash", "zsh", "fish")
"""What there is completion for."""

_EXPORT_DESCRIPTION = """\
Write a packed network as C: DIR/NAME.h and DIR/NAME.c, which need nothing but the C library and run on any
processor. The header says how they are called; docs/exporting-to-c.md says how they are compiled. DIR may
hold what an export wrote, and nothing else.
"""

_EXPORT_EPILOG = """\
example:
  qlstm export chars.safetensors --to c --out exported
"""


_Command = Callable[[argparse.Namespace], int]

_AS_WRITTEN: dict[str, Any] = {
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "allow_abbrev": False,
}
"""Texts keep their lines, and options are given in full."""


class _InputError(Exception):
    """What a user can put right."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage."""
        self.exit(2, f"qlstm: error: {printable(message)}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0; 1 where a check failed; 2 for unusable input.

    Args:
        arguments: the words behind the program's name; default: those of the process.
    """
    return terminal.run("qlstm", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parser()
    if words and not words[0].startswith("-") and words[0] not in commands:
        parser.error(
            f"unknown command {words[0]!r}{suggest(words[0], commands)}; commands: {', '.join(commands)}"
        )
    options, unknown = parser.parse_known_args(words)
    if unknown:
        asked = commands.get(options.command or "", parser)
        known = sorted(set(re.findall(r"--[a-z-]+", asked.format_help())))
        parser.error(
            f"unknown argument {unknown[0]!r}{suggest(unknown[0], known)}; see `{asked.prog} --help`"
        )
    if options.version:
        print(describe_versions(_records()))
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    try:
        code: int = options.run(options)
    # ImportError: Numba, beside a NumPy too new for it.
    except (PluginError, _InputError, NewPackageError, ImportError) as error:
        parser.error(str(error))
    return code


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser and those of its commands by name."""
    parser = _Parser(
        prog="qlstm",
        description="Recurrent layers with 1- to few-bit weights: what is installed, and whether it works.",
        epilog=_EPILOG,
        **_AS_WRITTEN,
    )
    parser.add_argument("--version", action="store_true", help="print what versions are installed and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def command(name: str, run: _Command, summary: str, description: str, epilog: str) -> _Parser:
        added: _Parser = commands.add_parser(
            name, help=summary, description=description, epilog=epilog, **_AS_WRITTEN
        )
        added.set_defaults(run=run)
        return added

    summary = "list the installed plugins and what they provide"
    plugins = command("plugins", _plugins, summary, _PLUGINS_DESCRIPTION, _PLUGINS_EPILOG)
    plugins.add_argument("--json", action="store_true", help="print a JSON document for programs")

    summary = "run the conformance checks on installed quantizers, normalisers and cells"
    check = command("check", _check, summary, _CHECK_DESCRIPTION, _CHECK_EPILOG)
    check.add_argument("names", nargs="*", metavar="NAME", help="what to check")
    check.add_argument("--all", action="store_true", help="check everything installed")
    check.add_argument(
        "--only", action="append", default=[], metavar="CHECK", help="run this check; may be repeated"
    )

    summary = "say what is in the file of a packed network"
    inspect = command("inspect", _inspect, summary, _INSPECT_DESCRIPTION, _INSPECT_EPILOG)
    inspect.add_argument("file", metavar="FILE", help="what save() of a packed layer or model wrote")

    summary = "write the package of a new plugin"
    new = command("new", _new, summary, _NEW_DESCRIPTION, _NEW_EPILOG)
    new.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    new.add_argument("name", metavar="NAME", help="what users will type, as my-method")
    new.add_argument("--out", metavar="DIR", help="the folder; default: qlstm-NAME")

    summary = "compile the kernels of packed inference ahead of time"
    warmup = command("warmup", _warmup, summary, _WARMUP_DESCRIPTION, _WARMUP_EPILOG)
    warmup.add_argument("file", nargs="?", metavar="FILE", help="compile for the network in this file")
    warmup.add_argument(
        "--activation-bits",
        type=int,
        choices=(8, 12, 16),
        metavar="BITS",
        help="8, 12 or 16; default: 12, or as saved",
    )

    summary = "print a script that completes commands and names at the Tab key"
    completion = command("completion", _completion, summary, _COMPLETION_DESCRIPTION, _COMPLETION_EPILOG)
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))

    summary = "write a packed network for programs without Python"
    export = command("export", _export, summary, _EXPORT_DESCRIPTION, _EXPORT_EPILOG)
    export.add_argument("file", metavar="FILE", help="what PackedLSTM.save wrote")
    export.add_argument(
        "--to", required=True, choices=("c",), metavar="FORM", help="c: a header and a C99 file"
    )
    export.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the files; made where it is missing"
    )
    export.add_argument("--name", help="begins all names in C; default: the file's name without its ending")

    return parser, dict(commands.choices)


def _plugins(options: argparse.Namespace) -> int:
    records = _records()
    for message in unknown_disabled(record.name for record in records):
        print(f"qlstm: warning: {message}", file=sys.stderr)
    if options.json:
        plugins = [
            {
                "name": record.name,
                "distribution": record.distribution,
                "version": record.version,
                "status": record.status,
                "reason": record.reason,
                "provides": {kind: list(names) for kind, names in record.provides.items()},
            }
            for record in records
        ]
        document = {"format": 1, "qlstm_core": __version__, "plugins": plugins}
        print(json.dumps(document, indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(_aligned(records, width)))
    return 0


def _records() -> list[PluginRecord]:
    # The list itself says what failed; and what a plugin prints while imported must not spoil the document.
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore", PluginWarning)
        return registry.plugins()


def _check(options: argparse.Namespace) -> int:
    from qlstm_core.testing.report import report  # costs time that `qlstm plugins` need not take

    if bool(options.names) == options.all:
        raise PluginError("say what to check: one or more names, or --all")
    return 0 if report(options.names, options.only) else 1


def _inspect(options: argparse.Namespace) -> int:
    from qlstm_core.packed.inspect import summarize  # imports numba, which `qlstm plugins` need not

    print("\n".join(summarize(*_read(options.file))))
    return 0


def _new(options: argparse.Namespace) -> int:
    if options.kind not in KINDS:
        raise _InputError(
            f"unknown kind {options.kind!r}{suggest(options.kind, KINDS)}; kinds: {', '.join(KINDS)}"
        )
    folder = write_package(options.kind, options.name, _records(), options.out)
    print(f"wrote {printable(str(folder))}, the package of a {options.kind} that works; next:")
    print(f"  cd {shlex.quote(str(folder))} && python -m pip install -e '.[test]'")
    print("  python -m pytest")
    print(f"  {first_command(options.kind, options.name)}")
    return 0


def _completion(options: argparse.Namespace) -> int:
    import shtab  # costs time that no other command need take

    parser, commands = _parser()
    checkable = {
        name
        for record in _records()
        for kind in ("quantizer", "normalizer", "cell")
        for name in record.provides.get(kind, ())
    }
    values = {"names": sorted(checkable), "kind": tuple(KINDS)}
    paths = {"file": shtab.FILE, "out": shtab.DIRECTORY}
    for command in commands.values():
        for action in command._actions:
            if action.dest in paths:
                action.complete = paths[action.dest]  # type: ignore[attr-defined]
            elif action.dest in values:
                action.choices = values[action.dest]
    print(shtab.complete(parser, options.shell))
    return 0


def _warmup(options: argparse.Namespace) -> int:
    if options.file is None:
        from qlstm_core.packed.warmup import warm_up

        for line in warm_up((options.activation_bits or 12,)):
            print(line, flush=True)
        return 0
    network, bits = _read(options.file)
    from qlstm_core.packed.warmup import warm

    print(warm(network, options.activation_bits or bits, printable(options.file)))
    return 0


def _export(options: argparse.Namespace) -> int:
    content, bits = _read(options.file)
    from qlstm_core.export.c import export_network
    from qlstm_core.packed.network import Network

    if not isinstance(content, Network):
        raise _InputError(
            f"{options.file}: a whole model, and layers alone are exported: give what pack(layer).save wrote"
        )
    try:
        name = Path(options.file).stem if options.name is None else options.name
        export = export_network(content, bits, options.out, name)
    except ValueError as error:
        raise _InputError(str(error)) from error
    except OSError as error:
        # Without a number of the system's, it is ours and names the folder.
        message = f"{options.out}: {error.strerror}" if error.strerror else str(error)
        raise _InputError(message) from error
    print(printable(f"{export.header} and {export.source.name}"))
    print(
        f"{export.constant_bytes:,} bytes of constants, {export.state_bytes:,} bytes of state for each stream"
    )
    return 0


def _read(path: str) -> tuple[Content, int]:
    from qlstm_core.packed import file_format

    try:
        return file_format.load(path)
    except file_format.PackedFileError as error:
        raise _InputError(str(error)) from error
    except OSError as error:
        raise _InputError(f"{path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise _InputError(f"{path}: too large for the memory of this machine") from error


def _aligned(records: Sequence[PluginRecord], width: int | None) -> list[str]:
    """Return aligned lines, the last column folded to ``width`` characters; a file or pipe has no width."""
    rows: list[tuple[str, str, str, list[str]]] = [("PLUGIN", "VERSION", "STATUS", ["PROVIDES"])]
    for record in records:
        details = [f"{kind}: {', '.join(names)}" for kind, names in record.provides.items()]
        if record.reason:
            details.append(f"reason: {record.reason}")
        cells = printable(record.name), printable(record.version) or "-", record.status
        rows.append((*cells, [printable(detail) for detail in details] or ["-"]))
    columns = [max(len(row[i]) for row in rows) for i in range(3)]
    indent = sum(columns) + 2 * len(columns)
    room = max(width - indent, 30) if width else None
    lines = []
    for name, release, status, details in rows:
        head = "".join(
            cell.ljust(column + 2) for cell, column in zip((name, release, status), columns, strict=True)
        )
        for detail in details:
            folded = (
                textwrap.wrap(detail, room, subsequent_indent="  ", break_on_hyphens=False)
                if room
                else [detail]
            )
            for line in folded:
                lines.append((head + line).rstrip())
                head = " " * indent
    counts = Counter(record.status for record in records)
    lines += [
        "",
        ", ".join(f"{count} {status}" for status, count in counts.items()) or "no plugin is installed",
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
