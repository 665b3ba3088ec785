"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import IO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: what others removed there could not be told from what they still write
    fcntl = None  # type: ignore[assignment]


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, which is there whole or not at all, and replaces one that exists.

    What a killed process left of an earlier write of the same file is removed: files beside it, called
    ``NAME.<32 hexadecimal digits>.partial``, that no living process holds.
    """
    target = Path(path)
    _remove_leftovers(target)
    file, partial = _begin(target)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # held until it has its name, so that nobody takes it for a leftover
                partial.replace(target)
        if fcntl is None:
            partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _begin(target: Path) -> tuple[IO[bytes], Path]:
    while True:
        partial = target.with_name(f"{target.name}.{uuid4().hex}.partial")
        file = open(partial, "xb")  # noqa: SIM115
        # Another process may have taken it for a leftover before it was locked, and removed it.
        if fcntl is None or not _lock(file, fcntl.LOCK_EX) or partial.exists():
            return file, partial
        file.close()


def _lock(file: IO[bytes], operation: int) -> bool:
    """Lock a file; return whether this was possible: some file systems have no locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, operation)
        return True
    return False


def _remove_leftovers(target: Path) -> None:
    if fcntl is None:
        return
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{32}\.partial")
    with contextlib.suppress(OSError):  # a folder that cannot be listed may still be written to
        for path in [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    path.unlink()
