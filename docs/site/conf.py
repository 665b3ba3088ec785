"""The documentation site, built by ``python -m tox run -e docs``.

Sphinx and not MkDocs: the docstrings refer to one another by roles (``:meth:``) and have formulas in
``.. math::``, both of which mkdocstrings shows as they are typed. Sources are the Markdown pages where they
lie, read from the root of the repository. Nothing is fetched: the inventories of other projects are lists in
inventories/, and formulas become MathML.
"""

from __future__ import annotations

import re
import sys
import tomllib
import zlib
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pydantic import BaseModel
from pygments.lexers.special import TextLexer
from sphinx.util.nodes import make_refnode

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from links import address, for_site  # noqa: E402
from measured import TABLES  # noqa: E402
from reference import locate, reference  # noqa: E402

_METADATA = tomllib.loads((ROOT / "packages/qlstm-core/pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = _METADATA["urls"]["Source"]
"""The code host's address of this repository: files that are not in the site are linked to there."""

project = "qlstm"
release = version = _METADATA["version"]
root_doc = "docs/site/index"
include_patterns = [
    "docs/**.md", "results/**.md", "packages/*/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md",
]  # fmt: skip
exclude_patterns = [".*", "build", "packages/*/src", "packages/*/tests", "**/__pycache__"]

extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx", "sphinx_copybutton",
]  # fmt: skip
myst_heading_anchors = 4
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(pydantic|pluggy|pytest|torch\.utils\.hooks|PluginManager|Figure)\b.*")]
autodoc_member_order = "bysource"
napoleon_attr_annotations = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 88
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"qlstm {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": ""}


def inventory(name: str) -> str:
    """Return the path of an inventory in intersphinx's form, made of a list in inventories/."""
    lines = (HERE / "inventories" / f"{name}.txt").read_bytes()
    target = ROOT / "build" / "inventories" / f"{name}.inv"
    target.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n# Compressed with zlib.\n"
    target.write_bytes(head.encode() + zlib.compress(lines))
    return str(target)


intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable", inventory("torch")),
    "numpy": ("https://numpy.org/doc/stable", inventory("numpy")),
    "pandas": ("https://pandas.pydata.org/docs", inventory("pandas")),
    "python": ("https://docs.python.org/3", inventory("python")),
}

_SITE = re.compile(r"<!-- site: (?P<name>\w+)(?: (?P<argument>[\w.]+))? -->")
_TITLED = re.compile(r'^```(?P<language>\w+) title="(?P<title>[^"]*)"$', re.MULTILINE)


def read(app: Any, docname: str, source: list[str]) -> None:
    """Fill in a page's tables and reference, caption files, and make its links the site's."""

    def made(match: re.Match[str]) -> str:
        name, argument = match["name"], match["argument"]
        return reference(argument) if name == "reference" else TABLES[name]()

    text = _SITE.sub(made, source[0])
    text = _TITLED.sub(r"```{code-block} \g<language>\n:caption: \g<title>\n", text)
    pages = {f"{name}.md" for name in app.env.found_docs}
    source[0] = for_site(text, f"{docname}.md", pages, ROOT, REPOSITORY)


def refer(app: Any, env: Any, node: Any, content: Any) -> nodes.reference | None:
    """Link what a docstring or signature names to its public name, or to the source that defines it."""
    if node.get("refdomain") != "py" or not (found := locate(node["reftarget"])):
        return None
    name, file = found
    for full, entry in env.domains["py"].find_obj(env, None, None, name, None):
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, full)
    if file is None:
        return None
    uri = address(file.resolve().relative_to(ROOT).as_posix(), ROOT, REPOSITORY)
    return nodes.reference("", "", content, internal=False, refuri=uri)


_SIGNS = str.maketrans(
    {
        "⊙": r"\odot ", "‖": r"\Vert ", "≈": r"\approx ", "−": "-", "∼": r"\sim ", "×": r"\times ",
        "…": r"\ldots ", "←": r"\leftarrow ",
    }
)  # fmt: skip
"""Signs that docutils' reader of formulas knows by command only."""


def sign(
    app: Any, what: str, name: str, value: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None] | None:
    """Leave out arguments of a pydantic model, which its description lists, and defaults that are no code."""
    if what == "class" and issubclass(value, BaseModel):
        return "", None
    return (re.sub(r"<[^<>]*>", "...", arguments), result) if arguments else None


def bases(app: Any, name: str, value: Any, options: Any, found: list[Any]) -> None:
    """Leave out that a class is an object."""
    found[:] = [base for base in found if base is not object]


_COLON = "\ue000"


def hide_colon(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon in an attribute's description for its type."""
    if what in ("attribute", "property", "data"):
        lines[:1] = [line.replace(":", _COLON) for line in lines[:1]]


def show_colon(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Put back what :func:`hide_colon` has taken away, once napoleon is done."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def mathml(visitor: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers set by themselves."""
    text, block = node.astext().translate(_SIGNS), isinstance(node, nodes.math_block)
    if block and ("&" in text or r"\\" in text):
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    written = tex2mathml(text, as_block=block)
    visitor.body.append(f'<div class="formula">{written}</div>' if block else written)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Connect what this file adds to Sphinx."""
    app.connect("source-read", read)
    app.connect("missing-reference", refer)
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-process-bases", bases)
    app.connect("autodoc-process-docstring", hide_colon, priority=400)
    app.connect("autodoc-process-docstring", show_colon, priority=600)
    app.add_lexer("output", TextLexer)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
