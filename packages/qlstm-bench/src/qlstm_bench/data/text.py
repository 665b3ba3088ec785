"""A text as small integers: one code per character or word, in parts for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.errors import DataError

Codes = NDArray[np.unsignedinteger[Any]]
"""Symbol numbers, of the smallest unsigned dtype that holds the vocabulary; maybe memory-mapped."""

Unit = Literal["characters", "words"]
"""What one code stands for."""

SMALLEST = 16
"""Symbols that a text needs to be split 80/10/10: validation and test then have two each, one to predict."""


@dataclass(frozen=True)
class Text:
    """A text and its vocabulary.

    Args:
        name: the dataset's name, or the file's.
        unit: what one code stands for.
        symbols: the vocabulary; code ``k`` stands for ``symbols[k]``. Characters are those of the whole text,
            sorted; words those of the training part, the most frequent first.
        train: codes of the training part, ``(symbols,)``.
        valid: codes of the validation part.
        test: codes of the test part.
        sha256: SHA-256 of the bytes that the text was made from, one file after the other.
    """

    name: str
    unit: Unit
    symbols: Sequence[str]
    train: Codes
    valid: Codes
    test: Codes
    sha256: str

    def split(self, name: str) -> Codes:
        """Return the codes of ``"train"``, ``"valid"`` or ``"test"``."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def decode(self, codes: Codes) -> str:
        """Return the text that ``codes`` stand for; words are separated by spaces."""
        return ("" if self.unit == "characters" else " ").join(self.symbols[int(code)] for code in codes)


def split_in_order(length: int) -> tuple[int, int]:
    """Return where validation and test begin: the first 80 % train, the next 10 % validate, the rest test."""
    return length * 8 // 10, length * 9 // 10


def check_splittable(name: str, length: int, unit: str, smallest: int) -> None:
    """Raise :class:`DataError` for fewer than ``smallest`` symbols or sequences."""
    if length < smallest:
        raise DataError(
            f"{name}: {length} {unit} cannot be split 80/10/10; expected {smallest} or more {unit}"
        )
