"""Downloads that go on where they were interrupted, and whose bytes are checked before anyone sees them."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pooch
import requests
from filelock import FileLock

from qlstm_bench.data.cache import cache_folder
from qlstm_bench.data.published import DataFile
from qlstm_bench.errors import DataError
from qlstm_bench.progress import DownloadProgress

_TIMEOUT_S = 30
_CHUNK = 2**14  # of which a connection that breaks loses the last, incomplete one


def download(dataset: str, file: DataFile) -> Path:
    """Return a file's place in the cache, downloading it where it is not there or not what it should be.

    Bytes received before an interruption are kept as ``<name>.part``, and the next attempt asks for the rest;
    within one call that happens as long as each attempt brings something.

    Args:
        dataset: the dataset's name, for messages.
        file: what to download, from its :attr:`DataFile.source`.

    Raises:
        DataError: no connection, a server that has not got it, or bytes with another SHA-256.
    """
    path = PurePosixPath(file.path)
    folder = cache_folder() / path.parent
    pooch.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{path.name}.lock"), DownloadProgress(path.name) as progress:
            found: str = pooch.retrieve(
                file.source,
                known_hash=f"sha256:{file.sha256}",
                fname=path.name,
                path=folder,
                downloader=_Resuming(folder / f"{path.name}.part", file.size, progress),
            )
    except (ValueError, OSError, requests.RequestException) as error:
        # pooch raises a bare ValueError for a wrong hash, and has by then removed what it downloaded.
        reason = (
            "what it sent has another SHA-256"
            if type(error) is ValueError and "hash" in str(error)
            else (str(error).splitlines() or [type(error).__name__])[0]
        )
        raise DataError(
            f"{dataset}: {file.path} is missing (expected {file.expected}) and could not be downloaded "
            f"from {file.source}: {reason}; place it in a folder and set QLSTM_DATA to that folder"
        ) from error
    return Path(found)


class _Resuming:
    """A downloader as pooch calls it: appends to ``part`` until it is complete, then hands it over.

    Args:
        part: what an earlier attempt left, if anything.
        size: size of the whole file in bytes.
        progress: display that is told of what arrives.
    """

    def __init__(self, part: Path, size: int, progress: DownloadProgress) -> None:
        self._part, self._size, self._progress = part, size, progress

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Download ``url`` to ``output_file``."""
        while True:
            before = self._part.stat().st_size if self._part.exists() else 0
            try:
                self._receive(url, before)
            except _TooLongError:
                self._part.unlink()
                raise
            except requests.RequestException:
                # Dropped on the way: go on from there, unless not a byte came.
                if not self._part.exists() or self._part.stat().st_size <= before:
                    raise
            else:
                break
        os.replace(self._part, output_file)

    def _receive(self, url: str, have: int) -> None:
        """Ask for what is missing and append it.

        Raises:
            requests.RequestException: an error, or a connection that ended early.
            _TooLongError: more than the file's size.
        """
        if have >= self._size:
            return
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            resumed = response.status_code == requests.codes.partial_content
            packed = response.headers.get("Content-Encoding", "identity") != "identity"
            refused = response.status_code == requests.codes.requested_range_not_satisfiable
            if have and (refused or (resumed and packed)):  # the middle of something else: start again
                self._part.unlink()
                self._receive(url, 0)
                return
            response.raise_for_status()
            with self._part.open("ab" if resumed else "wb") as file:
                self._progress.start(have if resumed else 0, self._size)
                self._append(response, file)
                size = file.tell()
        if size < self._size:
            raise requests.ConnectionError(f"the connection ended after {size} of {self._size} bytes")

    def _append(self, response: requests.Response, file: IO[bytes]) -> None:
        """Write what arrives, up to the file's size, and unpacked where the server packed it nonetheless."""
        for chunk in response.iter_content(_CHUNK):
            if file.tell() + len(chunk) > self._size:
                raise _TooLongError(f"it sends more than {self._size} bytes")
            file.write(chunk)
            self._progress.update(len(chunk))


class _TooLongError(ValueError):
    """A server that sends more than there should be."""
