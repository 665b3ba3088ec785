"""The published files that named datasets are made from.

Two addresses are plain http, all that their servers offer: what arrives is held to its SHA-256 in any case.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_PTB = (
    "https://raw.githubusercontent.com/townie/PTB-dataset-from-Tomas-Mikolov-s-webpage/"
    "06529ac968955ffc29a4668d68b93dadcfe55f2e/data/"
)
_WAR_AND_PEACE = "https://raw.githubusercontent.com/MrHereward/machine_learning_sandbox/39611e746794ccd7f046d10546eaf436f86db6b4/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_BILLION = "1-billion-word-language-modeling-benchmark-r13output.tar.gz"


@dataclass(frozen=True)
class DataFile:
    """A published file.

    Args:
        path: folder and name, as in ``ptb/ptb.char.train.txt``.
        size: bytes.
        sha256: SHA-256 of its bytes.
        url: address where it is published.
        exact: whether a copy in ``$QLSTM_DATA`` must be the published bytes. Where it need not, its content
            is checked instead, and a ``.gz`` file may be there unpacked, under its name without that ending.
    """

    path: str
    size: int
    sha256: str
    url: str
    exact: bool = True

    @property
    def expected(self) -> str:
        """What a right copy is, for messages."""
        return f"{self.size} bytes with SHA-256 {self.sha256}"

    @property
    def source(self) -> str:
        """Where it is downloaded from: its URL, or ``$QLSTM_DATA_URL/<folder>/<name>`` of a mirror."""
        mirror = os.environ.get("QLSTM_DATA_URL")
        return f"{mirror.rstrip('/')}/{self.path}" if mirror else self.url


def _ptb(name: str, size: int, sha256: str) -> DataFile:
    return DataFile(f"ptb/{name}", size, sha256, _PTB + name)


def _mnist(name: str, size: int, sha256: str) -> DataFile:
    return DataFile(f"mnist/{name}", size, sha256, _MNIST + name, exact=False)


PTB_CHARACTERS = (
    _ptb("ptb.char.train.txt", 10034964, "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9"),
    _ptb("ptb.char.valid.txt", 786084, "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8"),
    _ptb("ptb.char.test.txt", 884846, "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe"),
)

PTB_WORDS = (
    _ptb("ptb.train.txt", 5101618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
    _ptb("ptb.valid.txt", 399782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
    _ptb("ptb.test.txt", 449945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
)

WAR_AND_PEACE = (
    DataFile(
        "war-and-peace/warpeace_input.txt",
        3196228,
        "b0fc81c399971eaf738c8be89809e6a0d95c151749112b04f06b6af648d8a39f",
        _WAR_AND_PEACE + "warpeace_input.txt",
    ),
)

TEXT8 = (
    DataFile(
        "text8/text8.zip",
        31344016,
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        "http://mattmahoney.net/dc/text8.zip",
    ),
)

MNIST = (
    _mnist(
        "train-images-idx3-ubyte.gz",
        9912422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    _mnist(
        "train-labels-idx1-ubyte.gz",
        28881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    _mnist(
        "t10k-images-idx3-ubyte.gz",
        1648877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    _mnist(
        "t10k-labels-idx1-ubyte.gz",
        4542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)

BILLION_WORDS = (
    DataFile(
        f"billion-word/{_BILLION}",
        1792209805,
        "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
        f"http://www.statmt.org/lm-benchmark/{_BILLION}",
    ),
)
