"""Arrays from NumPy's ``.npz`` files; what a file says of itself is checked before anything is unpacked."""

from __future__ import annotations

import hashlib
import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.errors import DataError

_ROOM = 2**30
_PACKING = 100
"""An array over 1 GiB may be that many times smaller in its file; deflated numbers seldom are 20 times."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST_REASON = 200
_MOST_NAMES = 10


def read_npz(
    path: Path, layouts: Sequence[frozenset[str]], expected: str
) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the arrays of an ``.npz`` file by name, and the SHA-256 of its bytes.

    Args:
        path: path of the file.
        layouts: the sets of names that it may hold: one of them, and nothing else.
        expected: these sets in words, for messages.

    Raises:
        DataError: not such a file, a damaged one, or one whose arrays are far larger than itself.
    """
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy and Python warn of headers that they then refuse
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            with zipfile.ZipFile(stream) as archive:
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
                if len(members) < len(archive.infolist()):
                    raise ValueError("two of its arrays have one name")
                if members.keys() not in layouts:
                    raise DataError(f"data file {str(path)!r} holds {_listed(members)}; expected {expected}")
                for name, member in members.items():
                    _check_packing(path, name, member, size)
                return {name: _read_array(archive, member) for name, member in members.items()}, sha256
    except DataError:
        raise
    except Exception as error:  # zipfile, its decompressors and NumPy raise a dozen kinds for damaged bytes
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise DataError(f"data file {str(path)!r} is not a readable .npz: {reason}") from error


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    some = ", ".join(map(repr, list(names)[:_MOST_NAMES]))
    return (some + ", …" if len(names) > _MOST_NAMES else some) or "nothing"


def _check_packing(path: Path, name: str, member: zipfile.ZipInfo, size: int) -> None:
    """Refuse an array that would fill the memory from a small file."""
    packed = min(member.compress_size, size)
    if member.file_size > max(_ROOM, _PACKING * packed):
        raise DataError(
            f"data file {str(path)!r}: its array {name} is said to be {member.file_size / 1e9:.1f} GB, "
            f"packed into {packed} bytes; beyond 1 GB, expected {_PACKING} times its packed size at most: "
            "save it with np.savez, which does not pack"
        )


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        size = stream.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, expected numbers")
    if size != member.file_size:
        raise ValueError(
            f"{member.filename} has {member.file_size} bytes, expected {size} of its shape and dtype"
        )
    with archive.open(member) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
