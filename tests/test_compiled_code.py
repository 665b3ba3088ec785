"""Compiled code is made of its own folder and the toolkit alone, as its digest on disk believes."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGES = {
    name: Path(str(importlib.util.find_spec(name).origin)).parent  # type: ignore[union-attr]
    for name in ("qlstm_core", "qlstm_quant", "qlstm_norm", "qlstm_bench")
}
TOOLKIT = PACKAGES["qlstm_core"] / "kernels"


class Module:
    """The names at the top of a source file."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.defined: dict[str, ast.stmt] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                self.imported |= {a.asname or a.name: (node.module or "", a.name) for a in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    self.defined |= {n.id: node for n in ast.walk(target) if isinstance(n, ast.Name)}


@cache
def module_of(path: Path) -> Module:
    return Module(path)


def source_of(dotted: str) -> Path | None:
    """The file of a module of ours."""
    package, *parts = dotted.split(".")
    base = PACKAGES.get(package, Path("nowhere")).joinpath(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def compiles(path: Path, name: str) -> bool:
    """Whether a name is a decorator that makes compiled code: Numba's, ours, or made with one of these."""
    module = module_of(path)
    if name in module.imported:
        origin, there = module.imported[name]
        if origin.startswith("numba") or (origin, there) == ("qlstm_core.kernels.compile", "compiled"):
            return True
        source = source_of(origin)
        return source is not None and compiles(source, there)
    made = module.defined.get(name)
    return isinstance(made, ast.Assign | ast.AnnAssign) and any(
        compiles(path, used) for used in names_in(made.value) if used != name
    )


def compiled_names(path: Path) -> list[str]:
    """The functions of a file that are compiled, or make functions that are."""
    return [
        name
        for name, node in module_of(path).defined.items()
        if isinstance(node, ast.FunctionDef)
        and any(
            compiles(path, used)
            for inner in ast.walk(node)
            if isinstance(inner, ast.FunctionDef)
            for decorator in inner.decorator_list
            for used in names_in(decorator)
        )
    ]


def taken_from(path: Path, name: str, seen: set[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    """Yield every name of ours that a name is made of, with the file that defines it."""
    module = module_of(path)
    if (path, name) in seen:
        return
    seen.add((path, name))
    if name in module.defined:
        yield path, name
        for used in names_in(module.defined[name]):
            yield from taken_from(path, used, seen)
    elif name in module.imported:
        origin, there = module.imported[name]
        if (whole := source_of(f"{origin}.{there}")) is not None:
            for inside in module_of(whole).defined:
                yield from taken_from(whole, inside, seen)
        elif (source := source_of(origin)) is not None:
            yield from taken_from(source, there, seen)


def strangers(path: Path) -> set[str]:
    """What the compiled code of a file takes from elsewhere than its folder and the toolkit."""
    seen: set[tuple[Path, str]] = set()
    taken = [origin for name in compiled_names(path) for origin in taken_from(path, name, seen)]
    return {f"{name} of {source}" for source, name in taken if source.parent not in (path.parent, TOOLKIT)}


COMPILED = [
    path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py")) if compiled_names(path)
]


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: "-".join(path.parts[-2:]))
def test_compiled_code_takes_nothing_from_elsewhere(path: Path) -> None:
    assert strangers(path) == set()


def test_compiled_code_of_all_folders_is_found() -> None:
    folders = {path.parent.name for path in COMPILED}
    assert folders == {"kernels", "compiled", "engine", "rounded_training"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a folder of compiled code and constants elsewhere."""
    monkeypatch.setitem(PACKAGES, "made_up", tmp_path)
    (tmp_path / "elsewhere.py").write_text("SIZE = 3\nLIMIT = 4\ndef plain(): ...\n")
    folder = tmp_path / "compiled"
    folder.mkdir()
    (folder / "how.py").write_text(
        "from qlstm_core.kernels.compile import compiled\ninner = compiled(None, inline='always')\n"
    )
    (folder / "sizes.py").write_text("from made_up.elsewhere import LIMIT\nHALF = LIMIT // 2\nOWN = 1\n")
    return folder


FOUND = {
    "in the function": ("from made_up.elsewhere import SIZE", "return x + SIZE", {"SIZE"}),
    "through a module": (
        "from made_up import elsewhere",
        "return x + elsewhere.SIZE",
        {"SIZE", "LIMIT", "plain"},
    ),
    "through a constant": (
        "from made_up.elsewhere import SIZE\nTWICE = 2 * SIZE",
        "return x + TWICE",
        {"SIZE"},
    ),
    "through its folder": ("from made_up.compiled.sizes import HALF", "return x + HALF", {"LIMIT"}),
    "its folder's own": ("from made_up.compiled.sizes import OWN", "return x + OWN", set()),
    "beside it": ("from made_up.elsewhere import SIZE\ndef wrapper(): return f(SIZE)", "return x", set()),
}


@pytest.mark.parametrize("way", FOUND)
def test_what_is_taken_from_elsewhere_is_found(folder: Path, way: str) -> None:
    above, body, names = FOUND[way]
    path = folder / "code.py"
    path.write_text(f"from made_up.compiled.how import inner\n{above}\n\n@inner\ndef f(x):\n    {body}\n")
    assert compiled_names(path) == ["f"]
    assert strangers(path) == {f"{name} of {folder.parent / 'elsewhere.py'}" for name in names}
