"""From a text that is read once, piece by piece, to codes in memory or in a memory-mapped file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.data import encoded
from qlstm_bench.data.encoded import Raw
from qlstm_bench.data.text import SMALLEST, Codes, Text, Unit, check_splittable, split_in_order
from qlstm_bench.errors import DataError

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"

_UNICODE = 0x110000
_MOSTLY_STRANGE = 0.5


@dataclass(frozen=True)
class Corpus:
    """A text before it is encoded.

    Args:
        name: the dataset's name, or the file's.
        sha256: SHA-256 of its bytes; of several parts, see :func:`qlstm_bench.data.files.join_digests`.
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
    kept = encoded.Place.of(unit, corpus.sha256)
    found = kept.open()
    if found is None:
        with encoded.Numbers(kept) as numbers:
            bounds, words = _read(corpus, unit, numbers)
            raw = numbers.array()
            symbols, table = _vocabulary(corpus, raw, bounds, words)
            if numbers.in_memory:
                found = encoded.Encoded(symbols, bounds, table[raw])
            else:
                found = kept.save(symbols, bounds, raw, table)
    first, second = found.bounds
    parts = (found.codes[:first], found.codes[first:second], found.codes[second:])
    vocabulary = "".join(found.symbols) if unit == "characters" else found.symbols
    return Text(corpus.name, unit, vocabulary, *parts, corpus.sha256)


def _read(
    corpus: Corpus, unit: Unit, numbers: encoded.Numbers
) -> tuple[tuple[int, int], dict[str, int] | None]:
    """Number everything as it is met; return where the parts begin, and the words met."""
    words: dict[str, int] | None = {} if unit == "words" else None
    lengths = []
    for part in corpus.parts:
        before = len(numbers)
        for piece in _number(part(), words):
            numbers.append(piece)
        lengths.append(len(numbers) - before)
    if len(lengths) == 1:
        check_splittable(corpus.name, lengths[0], unit, SMALLEST)
        bounds = corpus.split(lengths[0])
    else:
        bounds = (lengths[0], lengths[0] + lengths[1])
    return bounds, words


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
        if len(batch) >= encoded.CHUNK:
            yield np.array(batch, dtype=np.uint32)
            batch.clear()
    yield np.array(batch, dtype=np.uint32)


def _vocabulary(
    corpus: Corpus, raw: Raw, bounds: tuple[int, int], words: dict[str, int] | None
) -> tuple[list[str], Codes]:
    """Return the symbols, and the table from numbers to codes."""
    if words is None:
        used = np.zeros(_UNICODE, dtype=bool)
        for chunk in encoded.chunks(raw):
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
    for chunk in encoded.chunks(raw):
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
