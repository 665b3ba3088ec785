"""Links of the pages, made to work in the site as they do on the code host.

A page links to other pages, to sources and to results by paths within the repository, or, in what a package
index shows, by their addresses on the code host. In the site, pages and pictures are linked to as they lie,
and all other files on the code host.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Container
from pathlib import Path

_FENCED = re.compile(r"^```.*?^```[^\n]*$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]+)\)")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return Markdown with what is not a fenced block changed."""
    parts, end = [], 0
    for block in _FENCED.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def for_site(text: str, page: str, pages: Container[str], root: Path, repository: str) -> str:
    """Return the Markdown of a page with its links as the site needs them.

    Args:
        text: the page.
        page: its path within the repository.
        pages: paths of the pages that the site has.
        root: the repository.
        repository: its address on the code host, without a slash at the end.
    """

    def link(match: re.Match[str]) -> str:
        target = _target(match["target"], page, pages, root, repository, picture=bool(match["picture"]))
        return f"{match['picture']}[{match['text']}]({target})"

    return outside_code(text, lambda part: _LINK.sub(link, part))


def _target(
    target: str, page: str, pages: Container[str], root: Path, repository: str, *, picture: bool
) -> str:
    here = posixpath.dirname(page)
    own = re.match(
        rf"{re.escape(repository)}/(?:blob|tree|raw)/main/(?P<path>[^#]*)(?P<anchor>#.*)?$", target
    )
    if own:
        if own["path"] in pages or (picture and (root / own["path"]).is_file()):
            return posixpath.relpath(own["path"], here or ".") + (own["anchor"] or "")
        return target
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return target
    whole = posixpath.normpath(posixpath.join(here, path))
    if whole in pages or picture:
        return target
    return address(whole, root, repository) + (f"#{anchor}" if anchor else "")


def address(path: str, root: Path, repository: str) -> str:
    """Return the address of a file or folder on the code host."""
    return f"{repository}/{'tree' if (root / path).is_dir() else 'blob'}/main/{path}"
