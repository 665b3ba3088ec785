"""Links of the documentation lead somewhere; what docstrings and pages refer to by name exists."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "results/**/*.md", "packages/**/*.md", "examples/*/*.md")
    for page in ROOT.glob(pattern)
    if ".asv" not in page.parts
)
MODULES = {
    ".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__"): path
    for src in ROOT.glob("packages/*/src")
    for path in sorted(src.rglob("*.py"))
}
LINK = re.compile(r"\[([^\]]*)\]\(([^()\s]+)\)")
ROLE = re.compile(r":(?:func|class|mod|data|meth|attr|exc):`(?:[^`<]*<)?~?([\w.]+)>?`")
DOTTED = re.compile(r"`(qlstm_\w+(?:\.\w+)+)`")
PAGE_NAME = re.compile(r"\b(?:docs|results)/[\w/-]+\.\w+")


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", LINK.sub(r"\1", prose(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> Iterator[str]:
    """Yield the links of a page to files or headings of this repository that do not exist."""
    for _, link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`, [linked](page.md)\n"
        "[here](#a-title-linked) [there](page.md#a-title-linked) [web](https://example.org)\n"
        "[gone](gone.md) [no such heading](#a-title)\n```python\nx[0](gone)\n```\n"
    )
    assert list(broken_links(page)) == ["gone.md", "#a-title"]


def member(owner: Any, path: str) -> bool:
    """Return whether ``path`` leads from ``owner`` to an attribute, or to a field that its instances have."""
    first, _, rest = path.partition(".")
    if hasattr(owner, first):
        return not rest or member(getattr(owner, first), rest)
    classes = getattr(owner, "__mro__", ())
    return not rest and any(first in vars(cls).get("__annotations__", ()) for cls in classes)


def exists(name: str, module: str) -> bool:
    """Return whether a name means something in a module: by its full path, or there, also in a class."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        if end == len(parts) or member(found, ".".join(parts[end:])):
            return True
    here = importlib.import_module(module)
    classes = (value for value in vars(here).values() if isinstance(value, type))
    return member(here, name) or any(member(cls, name) for cls in classes)


@pytest.mark.parametrize("package", ["qlstm_core", "qlstm_quant", "qlstm_norm", "qlstm_bench"])
def test_docstrings_refer_to_what_exists(package: str) -> None:
    missing = [
        f"{module}: {name}"
        for module, path in MODULES.items()
        if module.partition(".")[0] == package
        for name in dict.fromkeys(ROLE.findall(path.read_text("utf-8")))
        if not exists(name, module)
    ]
    assert missing == []


def test_missing_names_are_found() -> None:
    assert exists("Quantizer.prepare", "qlstm_core.interfaces")
    assert exists("qlstm_core.BitPlanes.scales", "qlstm_core.interfaces")
    assert exists("torch.nn.LSTM", "qlstm_core.interfaces")
    assert not exists("Quantizer.prepared", "qlstm_core.interfaces")
    assert not exists("qlstm_core.BitPlanes.scale", "qlstm_core.interfaces")
    assert not exists("qlstm_core.no_such_module", "qlstm_core.interfaces")


def test_pages_name_modules_and_functions_that_exist() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in DOTTED.findall(prose(page))
        if not exists(name, "qlstm_core")
    ]
    assert missing == []


def test_sources_name_pages_that_exist() -> None:
    files = [
        path
        for suffix in ("py", "json", "toml", "ini", "yaml")
        for path in ROOT.rglob(f"*.{suffix}")
        if not {".tox", ".asv", "build"} & set(path.parts) and path != Path(__file__)
    ]
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in PAGE_NAME.findall(path.read_text("utf-8"))
        if not (ROOT / name).exists()
    ]
    assert missing == []
