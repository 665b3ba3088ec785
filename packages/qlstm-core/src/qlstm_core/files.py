"""Files, and folders of them, that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: what others removed there could not be told from what they still write
    fcntl = None  # type: ignore[assignment]


def replace_file(path: str | os.PathLike[str], content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Write a file that is there whole or not at all, even after a crash; it replaces one that exists.

    As with :func:`open`, a symbolic link is followed, the permissions of a file that exists are kept, and a
    pipe or a device is written to as it is. Until a file is whole it is a draft beside it, locked and called
    ``NAME.<32 hexadecimal digits>.partial``. An error removes the draft; what a killed process left goes with
    the next call for the same file, see :func:`remove_leftovers`.

    Args:
        path: the file, in a folder that exists.
        content: bytes; or text, which is written in UTF-8; or a function that writes to the open binary file
            it is given.

    Raises:
        OSError: the file cannot be written. Whatever ``content`` raises is passed on; the old file stays.
    """
    # Looked at as it is given: a pipe under /dev/fd has no other name to be opened by.
    if (given := Path(path)).exists() and not (given.is_file() or given.is_dir()):
        with given.open("wb") as special:
            _write(special, content)
        return
    target = Path(os.path.realpath(path))
    remove_leftovers(target)
    file, draft = _begin(target)
    try:
        with file:
            _write(file, content)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # most often there is no file yet
                shutil.copymode(target, draft)
            if fcntl is not None:  # locked until it has its name, so that nobody takes it for a leftover
                draft.replace(target)
        if fcntl is None:
            draft.replace(target)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def write_folder(path: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    """Write a folder of texts that is there whole or not at all.

    Until it is whole it is a draft beside it, called ``.NAME.<32 hexadecimal digits>.partial``. An error
    removes the draft.

    Args:
        path: the folder; the one that it lies in exists. An empty folder is replaced, nothing else is.
        texts: what each file holds, by its path in the folder, with ``/`` between the parts.

    Raises:
        OSError: the folder cannot be written, or something is there already.
    """
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    draft.mkdir()
    try:
        for name, text in texts.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(draft / name, text)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the drafts of a file that killed processes left behind; those of living ones are locked."""
    if fcntl is None:
        return
    target = Path(os.path.realpath(path))
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{32}\.partial")
    with contextlib.suppress(OSError):  # a folder that cannot be listed may still be written to
        for draft in [found for found in target.parent.iterdir() if ours.fullmatch(found.name)]:
            with contextlib.suppress(OSError), open(draft, "rb") as file:
                if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    draft.unlink()


def _write(file: BinaryIO, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content.encode() if isinstance(content, str) else content)


def _begin(target: Path) -> tuple[BinaryIO, Path]:
    while True:
        draft = target.with_name(f"{target.name}.{uuid4().hex}.partial")
        file = open(draft, "xb")  # noqa: SIM115
        # Another process may have taken it for a leftover before it was locked, and removed it.
        if fcntl is None or not _lock(file, fcntl.LOCK_EX) or draft.exists():
            return file, draft
        file.close()


def _lock(file: BinaryIO, operation: int) -> bool:
    """Lock a file; return whether this was possible: some file systems have no locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, operation)
        return True
    return False
