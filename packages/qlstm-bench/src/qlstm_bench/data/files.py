"""Finding a published data file: in ``$QLSTM_DATA``, else in the cache, else downloaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from qlstm_bench.data.cache import cache_folder
from qlstm_bench.data.published import DataFile
from qlstm_bench.errors import DataError

Place = Literal["data folder", "cache", "missing"]


def locate(dataset: str, file: DataFile) -> tuple[Place, Path]:
    """Return where a file is without reading or downloading it: the place, and the path there.

    Args:
        dataset: the dataset's name, for messages.
        file: what to find.

    Raises:
        DataError: ``$QLSTM_DATA`` is not a folder.
    """
    local = _in_data_folder(dataset, file)
    if local is not None:
        return "data folder", local
    cached = cache_folder() / file.path
    return ("cache" if cached.is_file() else "missing"), cached


def fetch(dataset: str, file: DataFile) -> Path:
    """Return the path of a published file, from the first place that has it.

    ``$QLSTM_DATA`` is searched first, for the file's folder and name and for the bare name; then the cache
    (``$QLSTM_CACHE``, else the system's cache folder); then it is downloaded.

    Args:
        dataset: the dataset's name, for messages.
        file: what to find.

    Raises:
        DataError: a copy whose size or SHA-256 differs, or none to be had.
    """
    from qlstm_bench.data.download import download

    local = _in_data_folder(dataset, file)
    if local is None:
        return download(dataset, file)
    if file.exact:
        found = hash_file(local)
        if found != file.sha256:
            raise DataError(
                f"{dataset}: {local} is truncated or altered: found {local.stat().st_size} bytes with "
                f"SHA-256 {found}, expected {file.expected}; replace it with a copy from {file.url}, "
                "or remove it to have it downloaded"
            )
    return local


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, which is not held in memory.

    Raises:
        DataError: a file that cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"data file {str(path)!r} cannot be read: {error.strerror or error}") from error


def join_digests(digests: Sequence[str]) -> str:
    """Return the SHA-256 of data in several parts from those of the parts: it says where each begins.

    Of one part, it is that part's own.
    """
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _in_data_folder(dataset: str, file: DataFile) -> Path | None:
    """Return the file's place under ``$QLSTM_DATA``, or ``None`` where the variable or the file is absent."""
    setting = os.environ.get("QLSTM_DATA")
    if not setting:
        return None
    folder = Path(os.path.expanduser(setting))
    if not folder.is_dir():
        raise DataError(
            f"{dataset}: QLSTM_DATA is {setting!r}, which is not a folder; "
            f"set it to the folder that holds {file.path}"
        )
    names = [file.path] if file.exact else [file.path, file.path.removesuffix(".gz")]
    candidates = [path for name in names for path in (folder / name, folder / PurePosixPath(name).name)]
    return next((path for path in candidates if os.path.isfile(path)), None)
