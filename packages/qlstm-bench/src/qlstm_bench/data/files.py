"""Finding a published data file: in ``$QLSTM_DATA``, else in the cache, else downloaded; always checked."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qlstm_bench.data.errors import DataError

_TIMEOUT_S = 30


@dataclass(frozen=True)
class DataFile:
    """A published file.

    Args:
        path: folder and name, as in ``ptb/ptb.char.train.txt``.
        size: bytes.
        sha256: of its bytes.
        url: where it is published.
    """

    path: str
    size: int
    sha256: str
    url: str

    @property
    def expected(self) -> str:
        """What a right copy is, for messages."""
        return f"{self.size} bytes with SHA-256 {self.sha256}"


def read_checked(dataset: str, file: DataFile) -> bytes:
    """Return the bytes of a published file, from the first place that has it.

    ``$QLSTM_DATA`` is searched first, for the file's folder and name and for the bare name; then the cache
    (``$QLSTM_CACHE``, else the system's cache folder); then it is downloaded from its URL, or from
    ``$QLSTM_DATA_URL/<folder>/<name>`` where a mirror is set.

    Args:
        dataset: the dataset's name, for messages.
        file: what to find.

    Raises:
        DataError: a copy whose size or SHA-256 differs, or none to be had.
    """
    local = _in_data_folder(dataset, file)
    if local is not None:
        content = local.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise DataError(
                f"{dataset}: {local} is truncated or altered: found {len(content)} bytes with "
                f"SHA-256 {found}, expected {file.expected}; replace it with a copy from {file.url}, "
                "or remove it to have it downloaded"
            )
        return content
    return _download(dataset, file).read_bytes()


def _in_data_folder(dataset: str, file: DataFile) -> Path | None:
    """Return the file's place under ``$QLSTM_DATA``, or ``None`` where the variable or the file is absent."""
    setting = os.environ.get("QLSTM_DATA")
    if not setting:
        return None
    folder = Path(setting).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{dataset}: QLSTM_DATA is {setting!r}, which is not a folder; "
            f"set it to the folder that holds {file.path}"
        )
    candidates = (folder / file.path, folder / PurePosixPath(file.path).name)
    return next((path for path in candidates if path.is_file()), None)


def _download(dataset: str, file: DataFile) -> Path:
    """Return the file's place in the cache, downloading it where it is not there or not what it should be."""
    import pooch
    import requests

    from qlstm_bench.data.progress import DownloadProgress

    mirror = os.environ.get("QLSTM_DATA_URL")
    url = f"{mirror.rstrip('/')}/{file.path}" if mirror else file.url
    cache = Path(os.environ.get("QLSTM_CACHE") or pooch.os_cache("qlstm"))
    path = PurePosixPath(file.path)
    pooch.get_logger().setLevel("WARNING")
    try:
        with DownloadProgress(path.name) as progress:
            found: str = pooch.retrieve(
                url,
                known_hash=f"sha256:{file.sha256}",
                fname=path.name,
                path=cache / path.parent,
                downloader=pooch.HTTPDownloader(progressbar=progress, timeout=_TIMEOUT_S),
            )
    except (ValueError, OSError, requests.RequestException) as error:
        # pooch raises ValueError for a wrong hash, and has by then removed what it downloaded.
        reason = (
            "what it sent has another SHA-256"
            if isinstance(error, ValueError) and "hash" in str(error)
            else _first_line(error)
        )
        raise DataError(
            f"{dataset}: {file.path} is missing (expected {file.expected}) and could not be downloaded "
            f"from {url}: {reason}; place it in a folder and set QLSTM_DATA to that folder"
        ) from error
    return Path(found)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
