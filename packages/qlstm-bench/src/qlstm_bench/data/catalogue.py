"""The named datasets, and any file of the user's."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from qlstm_bench.data import corpora, published
from qlstm_bench.data.encoding import Corpus, encode
from qlstm_bench.data.files import fetch, hash_file, join_digests
from qlstm_bench.data.idx import read_idx
from qlstm_bench.data.published import DataFile
from qlstm_bench.data.sequences import (
    Part,
    Sequences,
    from_dataset,
    load_npz,
    make_sequences,
    split_sequences,
)
from qlstm_bench.data.stdlib import stdlib_corpus
from qlstm_bench.data.text import Text, Unit
from qlstm_bench.errors import DataError
from qlstm_core.plugins.errors import suggest

Kind = Literal["characters", "words", "sequences"]

_MNIST_VALIDATION = 10_000


@dataclass(frozen=True)
class Dataset:
    """A named dataset.

    Args:
        name: what users type.
        kind: what it holds: text of characters or of words, or labelled sequences.
        summary: one line that says what it is and how it is split.
        load: returns it as a :class:`Corpus` or as :class:`Sequences`, given its name and files.
        files: the published files that it is made from; none where it needs nothing from outside.
    """

    name: str
    kind: Kind
    summary: str
    load: Callable[[str, tuple[DataFile, ...]], Corpus | Sequences]
    files: tuple[DataFile, ...] = ()


def load_text(data: Any, unit: Unit = "characters") -> Text:
    """Return a dataset by name, a text file by path (split 80/10/10 %), or what a program gives.

    A name of the catalogue wins over a file of the same name: write ``./name`` for the file.

    Args:
        data: a name, a path, or an object: a :class:`Text`, or a torch Dataset of pieces of text or of tokens
            (see :func:`text_from_dataset`).
        unit: what one code of the result stands for.

    Raises:
        DataError: an unknown name, a missing or damaged file, or one that is not such a text.
    """
    if not isinstance(data, str | Path):
        return data if isinstance(data, Text) else text_from_dataset(type(data).__name__, data, unit)
    found = _find(str(data), unit, "a text file in UTF-8")
    if isinstance(found, Path):
        return encode(corpora.file_corpus(found.name, found, lines=unit == "words"), unit)
    return encode(cast(Corpus, found.load(found.name, found.files)), unit)


def load_sequences(data: Any) -> Sequences:
    """Return a dataset by name, an ``.npz`` file by path, or what a program gives.

    Args:
        data: a name, a path, or an object: :class:`Sequences`, or a torch Dataset of pairs (see
            :func:`qlstm_bench.data.sequences.from_dataset`).

    Raises:
        DataError: an unknown name, a missing or damaged file, or one that holds no labelled sequences.
    """
    if not isinstance(data, str | Path):
        return data if isinstance(data, Sequences) else from_dataset(type(data).__name__, data)
    found = _find(str(data), "sequences", "an .npz file of x and y")
    if isinstance(found, Path):
        return load_npz(found)
    return cast(Sequences, found.load(found.name, found.files))


def text_from_dataset(name: str, data: Any, unit: Unit) -> Text:
    """Return the text of a torch Dataset, or of a mapping ``{"train": …, "valid": …, "test": …}`` of them.

    Args:
        name: what to call it.
        data: each with ``len()`` and items that are strings, which are joined by line ends: the text is that
            of a file of these lines. A single one is split 80/10/10 %.
        unit: what one code of the result stands for.

    Raises:
        DataError: items of another form.
    """
    if isinstance(data, Mapping):
        if set(data) != {"train", "valid", "test"}:
            raise DataError(f"{name}: expected the parts train, valid, test, got {', '.join(map(str, data))}")
        parts = [data[part] for part in ("train", "valid", "test")]
    else:
        parts = [data]
    texts = [_joined_lines(name, part) for part in parts]
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    # The lines of words are those of the text, as in a file, where an item holds line ends itself.
    pieces = tuple(
        (lambda t=text: io.StringIO(t, newline=None) if unit == "words" else [t]) for text in texts
    )
    return encode(Corpus(name, join_digests(digests), pieces), unit)


def _joined_lines(name: str, part: Any) -> str:
    if isinstance(part, str):
        raise DataError(f"{name}: expected a dataset of strings, got one: give its lines, text.splitlines()")
    try:
        items = [part[index] for index in range(len(part))]
    except Exception as error:  # whatever the user's own code raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{name}: expected a dataset with a length and items, got {reason}") from error
    odd = next((item for item in items if not isinstance(item, str)), None)
    if odd is not None:
        raise DataError(f"{name}: items of a text must be strings, got {type(odd).__name__}")
    return "".join(f"{item}\n" for item in items)


def _find(data: str, kind: Kind, file_title: str) -> Dataset | Path:
    """Return the dataset called ``data``, or the path of that file."""
    fitting = [name for name, dataset in DATASETS.items() if dataset.kind == kind]
    names = ", ".join(fitting)
    if data in DATASETS:
        dataset = DATASETS[data]
        if dataset.kind != kind:
            raise DataError(
                f"dataset {data!r} holds {dataset.kind}, this task needs {kind}: expected one of {names}, "
                f"or {file_title}"
            )
        return dataset
    path = Path(os.path.expanduser(data))
    found = _what_is_at(path)
    if found == "a file":
        return path
    if os.sep in data or path.suffix or found not in (None, "a folder"):
        problem = "does not exist" if found is None else f"is {found}"
        raise DataError(f"data file {data!r} {problem}: expected {file_title}, or one of {names}")
    raise DataError(
        f"unknown dataset {data!r}{suggest(data, DATASETS)}; expected one of {names}, "
        f"or the path of {file_title}"
    )


def _what_is_at(path: Path) -> str | None:
    """Return what a path names, or why that cannot be seen; ``None`` for nothing."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link to nothing" if path.is_symlink() else None
    except (OSError, ValueError) as error:
        return f"not to be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISREG(mode):
        return "a file"
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe, which can be read only once (a run that goes on reads its data again: make it a file)"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _load_mnist(name: str, files: tuple[DataFile, ...]) -> Sequences:
    """Return MNIST's images as sequences of 784 pixels; the last 10,000 training images validate."""
    paths = [fetch(name, file) for file in files]
    shapes = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    train, labels, test, test_labels = (
        read_idx(path, shape) for path, shape in zip(paths, shapes, strict=True)
    )
    pixels, cut = train.reshape(len(train), -1), len(train) - _MNIST_VALIDATION
    for path, values in ((paths[1], labels), (paths[3], test_labels)):
        if values.max() > 9:
            raise DataError(f"{path}: has label {values.max()}, expected 0 to 9")
    parts: dict[str, Part] = {
        "train": (pixels[:cut], labels[:cut].astype(np.int64)),
        "valid": (pixels[cut:], labels[cut:].astype(np.int64)),
        "test": (test.reshape(len(test), -1), test_labels.astype(np.int64)),
    }
    return make_sequences(name, parts, join_digests([hash_file(path) for path in paths]))


def _load_digits(name: str, files: tuple[DataFile, ...]) -> Sequences:
    """Return scikit-learn's digits as sequences of 64 numbers from 0 to 1."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    values = (bunch.data / 16).astype(np.float32)
    sha256 = hashlib.sha256(bunch.data.tobytes() + bunch.target.tobytes()).hexdigest()
    return split_sequences(name, values, bunch.target, sha256)


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "stdlib-char",
            "characters",
            "source of Python's own standard library, 96 symbols, split 80/10/10; nothing to download",
            lambda name, files: stdlib_corpus(),
        ),
        Dataset(
            "ptb-char",
            "characters",
            "Penn Treebank characters (Mikolov), 50 symbols, its own three files",
            corpora.three_spaced_files,
            published.PTB_CHARACTERS,
        ),
        Dataset(
            "war-and-peace",
            "characters",
            "Tolstoy's War and Peace in English, 82 symbols, split 80/10/10",
            corpora.single_file,
            published.WAR_AND_PEACE,
        ),
        Dataset(
            "text8",
            "characters",
            "the first 100 MB of Wikipedia's text, 27 symbols, split 90/5/5 million",
            corpora.text8,
            published.TEXT8,
        ),
        Dataset(
            "ptb-word",
            "words",
            "Penn Treebank words (Mikolov), vocabulary of 10,000, its own three files",
            corpora.three_line_files,
            published.PTB_WORDS,
        ),
        Dataset(
            "billion-word",
            "words",
            "One Billion Word Benchmark, vocabulary of 793,470; 1.8 GB to download, 3 GB encoded",
            corpora.billion_words,
            published.BILLION_WORDS,
        ),
        Dataset(
            "digits",
            "sequences",
            "scikit-learn's 1,797 images of 8×8, 64 steps, split 80/10/10; nothing to download",
            _load_digits,
        ),
        Dataset(
            "mnist",
            "sequences",
            "70,000 images of 28×28, 784 steps; the last 10,000 of the training images validate",
            _load_mnist,
            published.MNIST,
        ),
    )
}
"""The named datasets, by name."""
