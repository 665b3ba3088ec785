"""The named datasets, and any text file of the user's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qlstm_bench.data.errors import DataError
from qlstm_bench.data.files import DataFile, read_checked
from qlstm_bench.data.stdlib import load_stdlib
from qlstm_bench.data.text import Text, encode, split_text
from qlstm_core.plugins.errors import suggest

_PTB = (
    "https://raw.githubusercontent.com/townie/PTB-dataset-from-Tomas-Mikolov-s-webpage/"
    "06529ac968955ffc29a4668d68b93dadcfe55f2e/data/"
)
_WAR_AND_PEACE = "https://raw.githubusercontent.com/MrHereward/machine_learning_sandbox/39611e746794ccd7f046d10546eaf436f86db6b4/"


@dataclass(frozen=True)
class Dataset:
    """A named dataset.

    Args:
        name: what users type.
        summary: one line that says what it is and how it is split.
        load: returns it as a :class:`Text`, given this record.
        files: the published files that it is made from; none where it needs nothing from outside.
    """

    name: str
    summary: str
    load: Callable[[Dataset], Text]
    files: tuple[DataFile, ...] = ()


def load_text(data: str) -> Text:
    """Return a dataset by name, or a text file by path, split 80/10/10 %.

    A name of the catalogue wins over a file of the same name: write ``./name`` for the file.

    Raises:
        DataError: an unknown name, a missing or damaged file, or a file that is not text.
    """
    if data in DATASETS:
        dataset = DATASETS[data]
        return dataset.load(dataset)
    path = Path(data).expanduser()
    if path.is_file():
        return _load_file(path)
    if os.sep in data or path.suffix:
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(
            f"data file {data!r} {problem}: expected a text file in UTF-8, or one of {', '.join(DATASETS)}"
        )
    raise DataError(
        f"unknown dataset {data!r}{suggest(data, DATASETS)}; expected one of {', '.join(DATASETS)}, "
        "or the path of a text file"
    )


def _load_file(path: Path) -> Text:
    """Return any text file in UTF-8."""
    content = path.read_bytes()
    return split_text(path.name, _decode(str(path), content), hashlib.sha256(content).hexdigest())


def _load_single(dataset: Dataset) -> Text:
    """Return a dataset of one plain text file, split 80/10/10 %."""
    (file,) = dataset.files
    content = read_checked(dataset.name, file)
    return split_text(dataset.name, _decode(file.path, content), file.sha256)


def _load_spaced(dataset: Dataset) -> Text:
    """Return a dataset of three files, whose symbols are separated by spaces and whose blank is ``_``."""
    contents = [read_checked(dataset.name, file) for file in dataset.files]
    parts = [content.decode("ascii")[::2].replace("_", " ") for content in contents]
    symbols, (train, valid, test) = encode(parts)
    sha256 = hashlib.sha256(b"".join(contents)).hexdigest()
    return Text(dataset.name, symbols, train, valid, test, sha256)


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"data file {name!r} is not text in UTF-8: byte {error.start} is 0x{content[error.start]:02x}; "
            "convert it first"
        ) from error


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "stdlib-char",
            "source of Python's own standard library, 96 symbols, split 80/10/10; nothing to download",
            lambda _: load_stdlib(),
        ),
        Dataset(
            "ptb-char",
            "Penn Treebank characters (Mikolov), 50 symbols, its own three files",
            _load_spaced,
            (
                DataFile(
                    "ptb/ptb.char.train.txt",
                    10034964,
                    "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9",
                    _PTB + "ptb.char.train.txt",
                ),
                DataFile(
                    "ptb/ptb.char.valid.txt",
                    786084,
                    "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8",
                    _PTB + "ptb.char.valid.txt",
                ),
                DataFile(
                    "ptb/ptb.char.test.txt",
                    884846,
                    "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe",
                    _PTB + "ptb.char.test.txt",
                ),
            ),
        ),
        Dataset(
            "war-and-peace",
            "Tolstoy's War and Peace in English, 82 symbols, split 80/10/10",
            _load_single,
            (
                DataFile(
                    "war-and-peace/warpeace_input.txt",
                    3196228,
                    "b0fc81c399971eaf738c8be89809e6a0d95c151749112b04f06b6af648d8a39f",
                    _WAR_AND_PEACE + "warpeace_input.txt",
                ),
            ),
        ),
    )
}
"""The named datasets, by name."""
