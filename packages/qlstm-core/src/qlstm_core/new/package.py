"""A plugin's package out of templates.

The templates are the package's files with ``$names`` to replace, ``NAME-tpl`` in the folder beside; those
called after a kind are for that kind alone.
"""

from __future__ import annotations

import ast
import keyword
import os
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template

from qlstm_core import __version__
from qlstm_core.files import write_folder
from qlstm_core.plugins import PluginRecord

KINDS = {
    "quantizer": "1 bit: sign(w) times mean|w|",
    "normalizer": "each gate divided by its mean magnitude",
    "cell": "two gates: h_t = (1 - z) h_{t-1} + z tanh(n)",
    "task": "repeat the symbol of three steps ago",
}
"""What a package can provide, and what the plugin of that kind does that its author finds in it."""

_FILES = {
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "tox.ini": "tox.ini",
    ".gitignore": "gitignore",
    ".github/workflows/tests.yaml": "tests.yaml",
    "src/$package/__init__.py": "hooks.py",
    "src/$package/$kind.py": "$kind.py",
    "src/$package/py.typed": "py.typed",
    "tests/test_$kind.py": "test_$kind.py",
}
"""The template of each file."""


class NewPackageError(Exception):
    """A package that cannot be written; one line says why, and what is allowed."""


def write_package(
    kind: str, name: str, records: Iterable[PluginRecord], out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the package of a plugin that works, passes its tests, and is its author's to change.

    Args:
        kind: one of ``KINDS``.
        name: of the plugin, what users type; the distribution becomes ``qlstm-NAME``.
        records: the installed plugins, whose names are taken.
        out: the folder, empty or not there yet; default: one called after the distribution.

    Returns:
        The folder.

    Raises:
        NewPackageError: the name is none or is taken, or the folder cannot be written.
    """
    distribution = f"qlstm-{name}"
    _check_name(kind, name, records)
    folder = Path(distribution if out is None else out)
    texts = _texts(kind, name, distribution)
    _check_folder(folder)
    try:
        write_folder(folder, texts)
    except OSError as error:
        raise NewPackageError(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
    return folder


def first_command(kind: str, name: str) -> str:
    """Return the command that an author tries first, once the package is installed."""
    return f"qlstm-bench run {name} --steps 60" if kind == "task" else f"qlstm check {name}"


def _check_name(kind: str, name: str, records: Iterable[PluginRecord]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise NewPackageError(
            f"{name!r} is no name of a plugin: use small letters, digits and single hyphens between them, as "
            "in my-method; a letter comes first"
        )
    if name.startswith("qlstm-"):
        raise NewPackageError(f"leave 'qlstm-' out of {name!r}: the package gets it, users type the rest")
    if name == "none" or keyword.iskeyword(_class_name(name)):
        raise NewPackageError(f"{name!r} cannot be the name of a plugin: it has a meaning of its own")
    for record in records:
        if name in record.provides.get(kind, ()):
            raise NewPackageError(f"the name {name!r} is taken, by a {kind} of {record.name}; choose another")
    try:
        taken = version(f"qlstm-{name}")
    except PackageNotFoundError:
        return
    raise NewPackageError(f"the name {name!r} is taken: qlstm-{name} {taken} is installed; choose another")


def _check_folder(folder: Path) -> None:
    target = Path(os.path.realpath(folder))
    if target.is_dir() and any(target.iterdir()):
        raise NewPackageError(f"folder {str(folder)!r} is not empty; --out names another")
    if target.exists() and not target.is_dir():
        raise NewPackageError(f"{str(folder)!r} is a file; --out names another folder")
    if target == Path.cwd():  # which would be replaced under the feet of the shell
        raise NewPackageError(f"folder {str(folder)!r} is the one you are in; write it from the folder above")


def _texts(kind: str, name: str, distribution: str) -> dict[str, str]:
    """Return the text of each file, by its path.

    Raises:
        NewPackageError: the class would have the name of another that it meets.
    """
    of_bench = kind == "task"
    values = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "package": distribution.replace("-", "_"),
        "class_name": _class_name(name),
        "summary": KINDS[kind],
        "spec": f"{kind.capitalize()}Spec",
        "imports": (
            "from qlstm_bench import TaskSpec\nfrom qlstm_core.plugins import hookimpl"
            if of_bench
            else f"from qlstm_core.plugins import {kind.capitalize()}Spec, hookimpl"
        ),
        "needs": "qlstm-bench" if of_bench else "qlstm-core",
        "version": "{}.{}.0".format(*__version__.split(".")),
        "command": first_command(kind, name),
    }
    folder = files("qlstm_core.new") / "templates"

    def fill(text: str) -> str:
        return Template(text).substitute(values)

    texts = {
        fill(path): fill((folder / f"{fill(template)}-tpl").read_text(encoding="utf-8"))
        for path, template in _FILES.items()
    }
    for path in (f"src/{values['package']}/{kind}.py", f"tests/test_{kind}.py"):
        if list(_bound(texts[path])).count(values["class_name"]) > 1:
            raise NewPackageError(
                f"{name!r} would make a class {values['class_name']}, which there is already; choose another"
            )
    return texts


def _bound(code: str) -> Iterator[str]:
    """Yield the names that a module imports and those of its classes."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            yield node.name


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))
