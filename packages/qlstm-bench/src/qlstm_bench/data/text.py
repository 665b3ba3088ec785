"""A text as small integers: one code per character, split into training, validation and test parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.data.errors import DataError

Codes = NDArray[np.unsignedinteger[Any]]
"""Symbol numbers, ``uint8`` up to 256 symbols and ``uint16`` beyond."""

_UNICODE = 0x110000


@dataclass(frozen=True)
class Text:
    """A text and its vocabulary.

    Args:
        name: the dataset's name, or the file's.
        symbols: the distinct characters of the whole text, sorted; code ``k`` stands for ``symbols[k]``.
        train: codes of the training part, ``(characters,)``.
        valid: codes of the validation part.
        test: codes of the test part.
        sha256: of the bytes that the text was made from, one file after the other.
    """

    name: str
    symbols: str
    train: Codes
    valid: Codes
    test: Codes
    sha256: str

    def split(self, name: str) -> Codes:
        """Return the codes of ``"train"``, ``"valid"`` or ``"test"``."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def decode(self, codes: Codes) -> str:
        """Return the characters that ``codes`` stand for."""
        return "".join(self.symbols[int(code)] for code in codes)


def encode(parts: Sequence[str]) -> tuple[str, list[Codes]]:
    """Number the characters of several texts with one vocabulary.

    Args:
        parts: the texts.

    Returns:
        The distinct characters, sorted, and one array of codes per text.
    """
    points = [np.frombuffer(part.encode("utf-32-le", "surrogatepass"), dtype="<u4") for part in parts]
    used = np.zeros(_UNICODE, dtype=bool)
    for part in points:
        used[part] = True
    vocabulary = np.flatnonzero(used)
    codes = np.zeros(_UNICODE, dtype=np.min_scalar_type(max(len(vocabulary) - 1, 0)))
    codes[vocabulary] = np.arange(len(vocabulary))
    return "".join(map(chr, vocabulary)), [codes[part] for part in points]


def split_text(name: str, text: str, sha256: str) -> Text:
    """Split a text in its own order: the first 80 % train, the next 10 % validate, the last 10 % test.

    Args:
        name: what to call it in messages and reports.
        text: all of it.
        sha256: of the bytes that it was made from.

    Raises:
        DataError: fewer than ten characters.
    """
    if len(text) < 10:
        raise DataError(
            f"{name}: {len(text)} characters cannot be split 80/10/10; expected a text of 10 or more"
        )
    symbols, (codes,) = encode([text])
    train, valid = len(text) * 8 // 10, len(text) * 9 // 10
    return Text(name, symbols, codes[:train], codes[train:valid], codes[valid:], sha256)
