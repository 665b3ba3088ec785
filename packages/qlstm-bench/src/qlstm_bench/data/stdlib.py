"""The source of Python's own standard library as a text: a corpus that every user already has."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from pathlib import Path

from qlstm_bench.data.encoding import Corpus
from qlstm_bench.errors import DataError

MAX_BYTES = 4_500_000
"""Modules are taken in alphabetical order while the text stays within this size."""

_KEPT = frozenset({0x0A, *range(0x20, 0x7F)})
_DROPPED = bytes(sorted(set(range(256)) - _KEPT))


def stdlib_corpus(folder: Path | None = None) -> Corpus:
    """Return the source of the standard library's top-level modules, to be split 80/10/10 %.

    The modules are those of ``sys.stdlib_module_names`` that are single ``.py`` files, in alphabetical order,
    up to 4.5 MB; of their bytes, the printable ASCII characters and the newline are kept. The text depends on
    the Python version: its SHA-256 is recorded with every run.

    Args:
        folder: folder of the modules; this Python's own by default.

    Raises:
        DataError: no sources there (a Python that ships compiled files only).
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    content = bytearray()
    for path in sorted(folder.glob("*.py")):
        if path.stem not in sys.stdlib_module_names:
            continue
        source = path.read_bytes().translate(None, delete=_DROPPED)
        if len(content) + len(source) > MAX_BYTES:
            break
        content += source
    if not content:
        raise DataError(
            f"stdlib-char: no module sources (*.py) in {folder}, where this Python keeps its library; "
            "use a Python that ships its sources, or --data with a text file"
        )
    text = content.decode("ascii")
    return Corpus("stdlib-char", hashlib.sha256(content).hexdigest(), (lambda: [text],))
