"""The order of the source: no import circles, one direction between packages, a page that says where all is.

Imports and parameters are read off the syntax; nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "qlstm_core": set(),
    "qlstm_quant": {"qlstm_core"},
    "qlstm_norm": {"qlstm_core"},
    "qlstm_bench": {"qlstm_core", "qlstm_quant", "qlstm_norm"},
}
"""The packages that each package builds on."""


def sources() -> dict[str, Path]:
    """Return the file of every module, by the module's dotted name."""
    return {
        ".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__"): path
        for src in ROOT.glob("packages/*/src")
        for path in src.rglob("*.py")
    }


def imported(code: str, known: set[str]) -> set[str]:
    """Return the known modules that a module imports anywhere, in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known
            if names - known:
                found.add(node.module)
    return found & known


@cache
def graph() -> dict[str, set[str]]:
    """Return the modules that each module imports, itself left out."""
    files = sources()
    return {name: imported(path.read_text("utf-8"), set(files)) - {name} for name, path in files.items()}


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach one another, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for target in edges[node]:
            if target not in order:
                visit(target)
            if target in stack:
                lowest[node] = min(lowest[node], lowest[target])
        if lowest[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in order:
            visit(node)
    return sorted(found)


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a", "e"}, "g": set()}
    assert circles(edges) == [["a", "b", "c"], ["d", "e"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_form_of_import_counts() -> None:
    code = """
        import a.b, os
        from a import c, name
        if TYPE_CHECKING:
            from d import name
        def function():
            from e.f import g
    """
    known = {"a", "a.b", "a.c", "d", "e", "e.f", "e.f.g"}
    assert imported(code.replace("\n        ", "\n"), known) == {"a", "a.b", "a.c", "d", "e.f.g"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = graph()
    assert len(edges) > 150
    assert circles(edges) == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_build_on_one_another_in_one_direction(package: str) -> None:
    against = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in sorted(targets)
        if name.partition(".")[0] == package
        and target.partition(".")[0] not in {package, *MAY_IMPORT[package]}
    ]
    assert against == []


def parameters(function: ast.FunctionDef) -> int:
    """Return how many parameters a function names, ``self`` among them."""
    given = function.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)


def test_no_function_takes_more_than_fifteen_parameters() -> None:
    """torch.nn.LSTM's own ten, and four of ours, are the longest list that users have to read."""
    assert {
        f"{name}.{node.name}": parameters(node)
        for name, path in sources().items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and parameters(node) > 15
    } == {}


PAGE = ROOT / "docs" / "architecture.md"


def test_the_page_names_what_exists_and_every_source() -> None:
    linked = {
        (PAGE.parent / target).resolve()
        for target in re.findall(r"\]\(([^()#]+)\)", PAGE.read_text("utf-8"))
        if target.startswith("../packages")
    }
    assert {path for path in linked if not path.exists()} == set()
    files = [file for src in ROOT.glob("packages/*/src/*") for file in src.rglob("*.*") if file.is_file()]
    folders = {file.parent for file in files if "__pycache__" not in file.parts}
    modules = {path for path in sources().values() if path.name not in ("__init__.py", "__main__.py")}
    assert len(modules) > 150
    assert (folders | modules) - linked == set()


def test_the_page_names_functions_and_classes_of_the_files_beside_them() -> None:
    beside = re.findall(
        r"((?:`[\w.]+`(?:, | and )?)+) (?:in )?\(?\[[^\]]+\]\(([^()#]+\.py)\)", PAGE.read_text("utf-8")
    )
    named = [(name, path) for names, path in beside for name in re.findall(r"`([\w.]+)`", names)]
    assert len(named) > 30
    assert [
        f"{name} in {path}"
        for name, path in named
        if not re.search(rf"\b{name.rpartition('.')[2]}\b", (PAGE.parent / path).read_text("utf-8"))
    ] == []
