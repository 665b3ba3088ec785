"""The cache of encoded texts: too large for memory, they are written once and memory-mapped from then on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from qlstm_bench.data.cache import cache_folder
from qlstm_bench.data.files import hash_file
from qlstm_bench.data.text import Codes, Unit
from qlstm_bench.errors import DataError

Raw = NDArray[np.uint32]
"""Numbers as they are met: code points, or words in the order of their first use."""

IN_MEMORY_BYTES = 2**26
"""Texts up to this size (4 bytes a symbol) are held in memory; larger ones are kept in the cache."""

CHUNK = 2**22
"""Numbers that are worked on at once."""

_FORMAT = 2


@dataclass(frozen=True)
class Encoded:
    """An encoded text.

    Args:
        symbols: the vocabulary.
        bounds: indices where validation and test begin.
        codes: codes of all parts.
    """

    symbols: Sequence[str]
    bounds: tuple[int, int]
    codes: Codes


@dataclass(frozen=True)
class Place:
    """A text's folder in the cache.

    =========  ==============================================================================================
    codes.npy  the codes of all parts
    text.json  vocabulary, bounds, the text's SHA-256 and that of codes.npy; and the SHA-256 of all these
    =========  ==============================================================================================

    A folder appears whole or not at all. Whatever is damaged in it is noticed when it is opened, and the text
    is encoded anew.

    Args:
        folder: the text's folder in the cache; it need not exist.
        sha256: SHA-256 of the text.
    """

    folder: Path
    sha256: str

    @classmethod
    def of(cls, unit: Unit, sha256: str) -> Place:
        """Return the place of the text with this SHA-256, as characters or words."""
        return cls(cache_folder() / "encoded" / f"{unit}-{sha256[:16]}-{_FORMAT}", sha256)

    def open(self) -> Encoded | None:
        """Return the text, its codes memory-mapped; ``None`` where it is not there as it was written."""
        path = self.folder / "codes.npy"
        try:
            content = json.loads((self.folder / "text.json").read_text(encoding="utf-8"))
            record = content["record"]
            if content["sha256"] != _hash_record(record) or record["text"] != self.sha256:
                return None
            stat = path.stat()
            if record["codes"] != _hash_once(path, stat.st_ino, stat.st_size, stat.st_mtime_ns):
                return None
            first, second = record["bounds"]
            return Encoded(record["symbols"], (first, second), np.load(path, mmap_mode="r"))
        except Exception:  # absent, or damaged: what follows is the same
            return None

    def save(self, symbols: Sequence[str], bounds: tuple[int, int], raw: Raw, table: Codes) -> Encoded:
        """Write a text, and return it as :meth:`open` does.

        Args:
            symbols: the vocabulary.
            bounds: indices where validation and test begin.
            raw: numbers of all parts.
            table: code of each number.

        Raises:
            DataError: a cache that cannot be written to, or has no room.
        """
        draft = self.folder.with_name(f"{self.folder.name}.tmp")
        with self.writing(), FileLock(self.folder.with_name(f".{self.folder.name}.lock")):
            shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
            try:
                if self.open() is None:  # no other process was faster
                    (draft / "new").mkdir(parents=True)
                    codes = _write_codes(draft / "new" / "codes.npy", raw, table)
                    record = {"text": self.sha256, "codes": codes, "bounds": list(bounds), "symbols": symbols}
                    content = json.dumps({"sha256": _hash_record(record), "record": record})
                    (draft / "new" / "text.json").write_text(content, encoding="utf-8")
                    if os.path.lexists(self.folder):
                        os.replace(self.folder, draft / "damaged")
                    os.replace(draft / "new", self.folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        saved = self.open()
        if saved is None:
            raise DataError(f"{self.folder}: what was written there does not come back: is its disk damaged?")
        return saved

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder above, and turn what the system refuses there into one line."""
        folder = self.folder.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise DataError(
                f"{folder} cannot be written to: {error.strerror or error}; set QLSTM_CACHE to a folder with "
                "room for the encoded text: 1 to 4 bytes a symbol, and 4 more while it is made"
            ) from error


class Numbers:
    """Numbers that are appended: in memory, or once they are many, in a file that has no name.

    Such a file goes with its process, however that ends. It is not mapped before it is whole: a disk that
    fills up is an error then, and not a signal that ends the process. Use it in a ``with`` statement.

    Args:
        place: place in the cache beside which the file is made.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._held: list[Raw] = []
        self._file: IO[bytes] | None = None
        self._bytes = 0

    def __enter__(self) -> Numbers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take
                self._file.close()

    def __len__(self) -> int:
        return self._bytes // 4

    @property
    def in_memory(self) -> bool:
        """Whether there is no file."""
        return self._file is None

    def append(self, numbers: Raw) -> None:
        """Add some.

        Raises:
            DataError: no room for them.
        """
        self._bytes += numbers.nbytes
        self._held.append(numbers)
        if self._bytes <= IN_MEMORY_BYTES:
            return
        with self._place.writing():
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._place.folder.parent)  # noqa: SIM115
            for held in self._held:
                self._file.write(held.tobytes())
        self._held.clear()

    def array(self) -> Raw:
        """Return all of them, mapped where they are in a file.

        Raises:
            DataError: no room for them.
        """
        if self._file is None:
            return np.concatenate([np.empty(0, np.uint32), *self._held])
        with self._place.writing():
            self._file.flush()
            return cast(Raw, np.memmap(self._file, dtype=np.uint32, mode="r"))


def chunks(raw: Raw) -> Iterator[Raw]:
    """Yield numbers in order, some at a time."""
    for start in range(0, len(raw), CHUNK):
        yield raw[start : start + CHUNK]


def _write_codes(path: Path, raw: Raw, table: Codes) -> str:
    """Write codes as an ``.npy`` file, and return its SHA-256."""
    header = {"descr": np.lib.format.dtype_to_descr(table.dtype), "fortran_order": False, "shape": raw.shape}
    with path.open("w+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.seek(0)
        digest = hashlib.sha256(file.read())
        for chunk in chunks(raw):
            codes = table[chunk].tobytes()
            digest.update(codes)
            file.write(codes)
    return digest.hexdigest()


@cache
def _hash_once(path: Path, inode: int, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, read once in a process unless the file has changed since."""
    return hash_file(path)


def _hash_record(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
