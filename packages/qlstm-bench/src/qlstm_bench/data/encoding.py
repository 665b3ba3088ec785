"""From a text that is read once, piece by piece, to codes in memory or in a memory-mapped file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.data.cache import cache_folder
from qlstm_bench.data.errors import DataError
from qlstm_bench.data.text import Codes, Text, Unit, check_splittable, split_in_order

Raw = NDArray[np.uint32]
"""Numbers as they are met: code points, or words in the order of their first use."""

IN_MEMORY_BYTES = 2**26
"""Texts up to this size (4 bytes a symbol) are held in memory; larger ones are kept beside the cache."""

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"

_UNICODE = 0x110000
_CHUNK = 2**22
_FORMAT = 1
_MOSTLY_STRANGE = 0.5


@dataclass(frozen=True)
class Corpus:
    """A text before it is encoded.

    Args:
        name: the dataset's name, or the file's.
        sha256: of its bytes.
        parts: the training, validation and test parts, or one part that is to be split. Each is called once
            and yields pieces: any for characters, whole lines for words.
        split: where validation and test begin in a text of so many symbols; for one part.
        least: words that training has fewer times than this are unknown, unless the text marks them itself.
    """

    name: str
    sha256: str
    parts: tuple[Callable[[], Iterable[str]], ...]
    split: Callable[[int], tuple[int, int]] = split_in_order
    least: int = 2


def encode(corpus: Corpus, unit: Unit) -> Text:
    """Return a corpus as codes; a large one from the cache, where it was encoded before.

    Raises:
        DataError: a text too short to be split, or a vocabulary that does not fit.
    """
    folder = cache_folder() / "encoded" / f"{unit}-{corpus.sha256[:16]}-{_FORMAT}"
    if (folder / "text.json").exists():
        return _open(corpus, unit, folder)
    with tempfile.TemporaryDirectory(prefix="qlstm-") as scratch:
        raw, bounds, words = _read(corpus, unit, Path(scratch))
        symbols, table = _vocabulary(corpus, raw, bounds, words)
        if raw.nbytes <= IN_MEMORY_BYTES:
            codes = _translate(raw, table, np.empty(len(raw), table.dtype))
            return _cut(corpus, unit, symbols, codes, bounds)
        _save(folder, raw, table, symbols, bounds)
    return _open(corpus, unit, folder)


def _cut(corpus: Corpus, unit: Unit, symbols: list[str], codes: Codes, bounds: tuple[int, int]) -> Text:
    parts = (codes[: bounds[0]], codes[bounds[0] : bounds[1]], codes[bounds[1] :])
    return Text(
        corpus.name, unit, "".join(symbols) if unit == "characters" else symbols, *parts, corpus.sha256
    )


def _read(corpus: Corpus, unit: Unit, scratch: Path) -> tuple[Raw, tuple[int, int], dict[str, int] | None]:
    """Number everything as it is met; return the numbers, where the parts begin, and the words met."""
    words: dict[str, int] | None = {} if unit == "words" else None
    lengths = []
    with (scratch / "raw").open("w+b") as file:
        for part in corpus.parts:
            before = file.tell()
            for numbers in _number(part(), words):
                file.write(numbers.tobytes())
            lengths.append((file.tell() - before) // 4)
        raw = _map(file)
    if len(lengths) == 1:
        check_splittable(corpus.name, lengths[0], unit)
        bounds = corpus.split(lengths[0])
    else:
        bounds = (lengths[0], lengths[0] + lengths[1])
    return raw, bounds, words


def _number(pieces: Iterable[str], words: dict[str, int] | None) -> Iterator[Raw]:
    if words is None:
        for piece in pieces:
            yield np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        return
    batch: list[int] = []
    for line in pieces:
        for word in line.split():
            batch.append(words.setdefault(word, len(words)))
        batch.append(words.setdefault(END_OF_LINE, len(words)))
        if len(batch) >= _CHUNK:
            yield np.array(batch, dtype=np.uint32)
            batch.clear()
    yield np.array(batch, dtype=np.uint32)


def _map(file: IO[bytes]) -> Raw:
    """Return what a file of numbers holds: read, or mapped where it is large."""
    file.flush()
    size = file.tell()
    file.seek(0)
    if size <= IN_MEMORY_BYTES:
        return np.frombuffer(file.read(), dtype=np.uint32)
    return cast(Raw, np.memmap(file, dtype=np.uint32, mode="r"))


def _vocabulary(
    corpus: Corpus, raw: Raw, bounds: tuple[int, int], words: dict[str, int] | None
) -> tuple[list[str], Codes]:
    """Return the symbols, and the table from numbers to codes."""
    if words is None:
        used = np.zeros(_UNICODE, dtype=bool)
        for chunk in _chunks(raw):
            used[chunk] = True
        points = np.flatnonzero(used)
        table = np.zeros(_UNICODE, dtype=np.min_scalar_type(max(len(points) - 1, 0)))
        table[points] = np.arange(len(points))
        return [chr(point) for point in points], table
    counts = _count(raw[: bounds[0]], len(words))
    for part, content in (("validation", raw[bounds[0] : bounds[1]]), ("test", raw[bounds[1] :])):
        strange = _count(content, len(words))[counts == 0].sum() / max(1, len(content))
        if strange > _MOSTLY_STRANGE:
            raise DataError(
                f"{corpus.name}: {strange:.0%} of the words of its {part} part are not in its training part; "
                "expected parts of one text"
            )
    return _rank_words(corpus, list(words), counts)


def _count(raw: Raw, size: int) -> NDArray[np.int64]:
    counts = np.zeros(size, dtype=np.int64)
    for chunk in _chunks(raw):
        counts += np.bincount(chunk, minlength=size)
    return counts


def _rank_words(corpus: Corpus, words: list[str], counts: NDArray[np.int64]) -> tuple[list[str], Codes]:
    """Order words by their frequency in training, and give one code to all that are unknown there.

    A text that marks rare words itself (``<unk>``) keeps its vocabulary: a further word in validation or test
    is then unknown too. In any other text, words that training has fewer than ``least`` times are unknown.
    """
    marked = UNKNOWN in words and counts[words.index(UNKNOWN)] > 0
    kept = np.flatnonzero(counts >= (1 if marked else corpus.least)).tolist()
    symbols = [words[number] for number in sorted(kept, key=lambda number: (-counts[number], words[number]))]
    if len(kept) < len(words) and UNKNOWN not in symbols:
        symbols.append(UNKNOWN)
    if len(symbols) < 2:
        raise DataError(f"{corpus.name}: expected a text that repeats at least two words")
    codes = {symbol: code for code, symbol in enumerate(symbols)}
    unknown = codes.get(UNKNOWN, 0)
    dtype = np.min_scalar_type(len(symbols) - 1)
    return symbols, np.array([codes.get(word, unknown) for word in words], dtype)


def _chunks(raw: Raw) -> Iterator[Raw]:
    for start in range(0, len(raw), _CHUNK):
        yield raw[start : start + _CHUNK]


def _translate(raw: Raw, table: Codes, codes: Codes) -> Codes:
    for start in range(0, len(raw), _CHUNK):
        codes[start : start + _CHUNK] = table[raw[start : start + _CHUNK]]
    return codes


def _save(folder: Path, raw: Raw, table: Codes, symbols: list[str], bounds: tuple[int, int]) -> None:
    """Write codes and vocabulary to the cache; the folder appears whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".tmp"))
    except OSError as error:
        raise DataError(
            f"{folder.parent} cannot be written to: {error.strerror}; set QLSTM_CACHE to a folder with "
            f"{raw.size * table.itemsize / 1e9:.1f} GB of room for the encoded text"
        ) from error
    try:
        codes = np.lib.format.open_memmap(draft / "codes.npy", "w+", table.dtype, (len(raw),))
        _translate(raw, table, codes)
        codes.flush()
        (draft / "text.json").write_text(json.dumps({"symbols": symbols, "bounds": bounds}), encoding="utf-8")
        if not folder.exists():  # another process may have been faster
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _open(corpus: Corpus, unit: Unit, folder: Path) -> Text:
    """Return an encoded text from the cache, its codes memory-mapped."""
    try:
        record: dict[str, Any] = json.loads((folder / "text.json").read_text(encoding="utf-8"))
        codes = np.load(folder / "codes.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: damaged: {error}; remove the folder to have it made again") from error
    first, second = record["bounds"]
    return _cut(corpus, unit, record["symbols"], codes, (first, second))
