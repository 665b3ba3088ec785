"""How each kind of published or own text is read, piece by piece."""

from __future__ import annotations

import codecs
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from qlstm_bench.data.encoding import Corpus
from qlstm_bench.data.files import fetch, hash_file, join_digests
from qlstm_bench.data.published import DataFile
from qlstm_bench.errors import DataError

_PIECE = 2**20
_BILLION_TRAINING = "training-monolingual.tokenized.shuffled/"
_BILLION_HELD_OUT = "heldout-monolingual.tokenized.shuffled/news.en.heldout-000"
_BILLION_LEAST = 3
"""Words rarer than that are unknown in the published vocabulary of 793,471."""


def file_corpus(name: str, path: Path, *, lines: bool, sha256: str | None = None) -> Corpus:
    """Return one text file in UTF-8, to be split 80/10/10 %.

    Args:
        name: what to call it.
        path: path of the file.
        lines: whether to read whole lines, as words need.
        sha256: SHA-256 of its bytes, where known.

    Raises:
        DataError: a file that cannot be read, now, or that is not UTF-8, when it is.
    """
    before = _look(path)
    sha256 = sha256 or hash_file(path)
    return Corpus(name, sha256, (partial(_unchanged, path, before, _lines if lines else _pieces),))


def single_file(name: str, files: tuple[DataFile, ...]) -> Corpus:
    """Return a dataset of one plain text file, split 80/10/10 %."""
    (file,) = files
    return file_corpus(name, fetch(name, file), lines=False, sha256=file.sha256)


def three_line_files(name: str, files: tuple[DataFile, ...]) -> Corpus:
    """Return a dataset of words in three files, a sentence a line."""
    paths = [fetch(name, file) for file in files]
    return Corpus(name, _joined(files), tuple(partial(_lines, path) for path in paths))


def three_spaced_files(name: str, files: tuple[DataFile, ...]) -> Corpus:
    """Return a dataset of three files, whose symbols are separated by spaces and whose blank is ``_``."""
    paths = [fetch(name, file) for file in files]
    return Corpus(name, _joined(files), tuple(partial(_spaced, path) for path in paths))


def text8(name: str, files: tuple[DataFile, ...]) -> Corpus:
    """Return text8: the one member of a zip file, of which the last 10 M characters validate and test."""
    (file,) = files
    path = fetch(name, file)

    def split(length: int) -> tuple[int, int]:
        return length - length // 10, length - length // 20

    return Corpus(name, file.sha256, (partial(_zipped, path),), split)


def billion_words(name: str, files: tuple[DataFile, ...]) -> Corpus:
    """Return the One Billion Word Benchmark, from its archive: held-out file 0 tests, file 1 validates."""
    (file,) = files
    path = fetch(name, file)
    sections = (_BILLION_TRAINING, f"{_BILLION_HELD_OUT}01-", f"{_BILLION_HELD_OUT}00-")
    parts: tuple[Callable[[], Iterable[str]], ...] = tuple(
        partial(_archived, path, section) for section in sections
    )
    return Corpus(name, file.sha256, parts, least=_BILLION_LEAST)


def _joined(files: Sequence[DataFile]) -> str:
    return join_digests([file.sha256 for file in files])


def _look(path: Path) -> tuple[int, int, int]:
    """Return what is different once a file has been written to or replaced."""
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _unchanged(
    path: Path, before: tuple[int, int, int], read: Callable[[Path], Iterable[str]]
) -> Iterator[str]:
    """Yield the pieces of a text, which must still be the one that was hashed once it is read."""
    try:
        yield from read(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if _look(path) != before:
        raise DataError(f"data file {str(path)!r} changed while it was read; try again when it is complete")


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"data file {str(path)!r} cannot be read: {error.strerror or error}")


def _pieces(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield decoder.decode(piece)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_text(path) from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise _not_text(path) from error


def _not_text(path: Path) -> DataError:
    """Return the error of a file that is not UTF-8, which names its first wrong byte."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0
    with path.open("rb") as file:
        while True:
            held, _ = decoder.getstate()
            piece = file.read(_PIECE)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                where, byte = start - len(held) + error.start, error.object[error.start]
                return DataError(
                    f"data file {str(path)!r} is not text in UTF-8: byte {where} is 0x{byte:02x}; "
                    "convert it first"
                )
            if not piece:
                return DataError(f"data file {str(path)!r} changed while it was read")
            start += len(piece)


def _spaced(path: Path) -> Iterator[str]:
    with path.open(encoding="ascii", newline="") as file:
        while piece := file.read(_PIECE):  # of even length: symbols stay at even places
            yield piece[::2].replace("_", " ")


def _zipped(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
            while piece := file.read(_PIECE):
                yield piece.decode("ascii")
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def _archived(path: Path, section: str) -> Iterator[str]:
    """Yield the lines of every file of an archive whose name contains ``section``."""
    found = False
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if section in member.name and member.isfile():
                    found = True
                    stream = archive.extractfile(member)
                    assert stream is not None
                    for line in stream:
                        yield line.decode("utf-8")
    except (tarfile.TarError, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged: {error}") from error
    if not found:
        raise DataError(f"{path}: has no file {section}…: not the One Billion Word Benchmark")
