"""``qlstm-bench asv``: benchmarks that follow a plugin from commit to commit."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from qlstm_bench.errors import BenchError

HELP = "Follow a plugin from commit to commit with airspeed velocity."

INIT_HELP = """Write asv.conf.json and benchmarks/ into a plugin's repository, so that asv follows the plugin.

What is measured at every commit, for each quantizer, normaliser and cell that the plugin provides: accuracy
and gradient stability after a short training, seconds of a training step and of a packed sequence, bytes, and
how many conformance checks fail. The benchmarks are those of the installed qlstm-bench; nothing is copied
but the plugin's names, into benchmarks/__init__.py. The plugin must be installed here.

\b
Examples:
  qlstm-bench asv init
  qlstm-bench asv init --out ../qlstm-my-quantizer

\b
Then:
  asv run --quick --python=same --dry-run      each benchmark once, on what is installed
  asv continuous HEAD~1 HEAD                   two commits: what became worse
  asv run v0.1..main && asv publish            all of them, as web pages
"""

app = typer.Typer(rich_markup_mode=None, help=HELP, no_args_is_help=True)

_SUITE: dict[str, dict[str, tuple[str, ...]]] = {
    "quantizer": {
        "accuracy": ("Characters", "Digits"),
        "gradients": ("Characters", "Digits"),
        "packed": ("Quantizers",),
        "size": ("Layer", "PackedFile"),
        "training": ("Quantizers",),
    },
    "normalizer": {
        "accuracy": ("Characters", "Digits"),
        "gradients": ("Characters", "Digits"),
        "size": ("Layer",),
        "training": ("Normalizers",),
    },
    "cell": {"accuracy": ("Cells",), "gradients": ("Cells",), "training": ("Cells",)},
}
"""The benchmarks that a plugin of each kind is seen in, by the suite's module; conformance is seen in all."""

_CHOICE = '''"""What asv measures of {distribution}: the suite of qlstm-bench, for these names."""

from qlstm_bench.benchmarks import follow

follow(
{names})
'''

_MODULE = """from qlstm_bench.benchmarks.{module} import {classes}

__all__ = {exported}
"""


@app.callback()
def asv() -> None:
    """Follow a plugin."""


@app.command("init", help=INIT_HELP)
def init(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The repository: a folder with .git and pyproject.toml.")
    ] = Path(),
) -> None:
    """Write the configuration and the benchmarks."""
    from qlstm_bench import __version__
    from qlstm_core.files import replace_file, write_folder

    distribution = _distribution(out)
    provided = _provided(distribution)
    config, benchmarks = out / "asv.conf.json", out / "benchmarks"
    for path in (config, benchmarks):
        if path.exists():
            raise BenchError(f"{str(path)!r} is there already: remove it to have it written again")
    template = Template((files("qlstm_bench.commands") / "asv.conf.json-tpl").read_text(encoding="utf-8"))
    try:
        write_folder(benchmarks, _modules(distribution, provided))
        # Last: without it there is nothing that asv would run.
        replace_file(config, template.substitute(project=distribution, version=__version__))
    except OSError as error:
        raise BenchError(f"--out {str(out)!r} cannot be written to: {error.strerror or error}") from error
    named = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in provided.items())
    print(f"wrote {config} and {benchmarks}, which follow {distribution} ({named}); next, in that folder:")
    print("  pip install asv virtualenv && asv machine --yes")
    print("  asv run --quick --python=same --dry-run")
    print("  asv continuous HEAD~1 HEAD")


def _distribution(folder: Path) -> str:
    """Return the name of the distribution whose repository ``folder`` is.

    Raises:
        BenchError: it is none.
    """
    if not (folder / ".git").exists():
        raise BenchError(f"--out {str(folder)!r} is not the root of a git repository: asv measures commits")
    path = folder / "pyproject.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{str(path)!r} cannot be read: {error}") from error
    project = document.get("project")
    if not isinstance(project, dict) or not isinstance(project.get("name"), str):
        raise BenchError(f"{str(path)!r} says no name below [project]: whose repository is it?")
    return str(project["name"])


def _provided(distribution: str) -> dict[str, list[str]]:
    """Return what the distribution provides that the suite measures: names by kind.

    Raises:
        BenchError: nothing, or it is not installed.
    """
    from qlstm_core.plugins import registry
    from qlstm_core.plugins.discovery import normalize
    from qlstm_core.plugins.errors import suggest

    records = registry.plugins()
    own = [record for record in records if normalize(record.distribution) == normalize(distribution)]
    if not own:
        nearest = suggest(distribution, {record.distribution for record in records}, most=1)
        raise BenchError(f"no plugin {distribution!r} is installed here{nearest}: `pip install -e .` first")
    names = {kind: [name for record in own for name in record.provides.get(kind, ())] for kind in _SUITE}
    if not any(names.values()):
        reasons = "; ".join(record.reason for record in own if record.reason)
        raise BenchError(
            f"{distribution!r} provides none of {', '.join(_SUITE)}, which the suite measures"
            + (f": {reasons}" if reasons else "")
        )
    return {kind: found for kind, found in names.items() if found}


def _modules(distribution: str, provided: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the text of each file of ``benchmarks/``."""
    names = "".join(f"    {kind}s={json.dumps(found)},\n" for kind, found in provided.items())
    files = {"__init__.py": _CHOICE.format(distribution=distribution, names=names)}
    classes = {"conformance": ["Plugins"]}
    for kind in provided:
        for module, given in _SUITE[kind].items():
            known = classes.setdefault(module, [])
            known += [name for name in given if name not in known]
    for module, found in classes.items():
        files[f"{module}.py"] = _MODULE.format(
            module=module, classes=", ".join(found), exported=json.dumps(found)
        )
    return files
