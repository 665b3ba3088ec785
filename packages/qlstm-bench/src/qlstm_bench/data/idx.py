"""Files in MNIST's IDX format, plain or gzip-compressed, checked by their content."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.errors import DataError

_UNSIGNED_BYTE = 8
_GZIP = b"\x1f\x8b"


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the array of bytes that an IDX file holds.

    The file starts with two zero bytes, the type (8 for unsigned bytes) and the number of dimensions, then
    each dimension as a big-endian integer of four bytes. No more is unpacked than these announce.

    Args:
        path: path of the file, compressed or not.
        shape: expected.

    Raises:
        DataError: a file that is truncated or damaged, has another magic number, or another shape.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            return _read(path, cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or damaged: {' '.join(str(error).split())}") from error


def _read(path: Path, file: IO[bytes], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    magic = bytes((0, 0, _UNSIGNED_BYTE, len(shape)))
    found_magic = file.read(4)
    if found_magic != magic:
        raise DataError(
            f"{path}: its magic number is 0x{found_magic.hex()}, expected 0x{magic.hex()} "
            f"(unsigned bytes, {len(shape)} dimensions)"
        )
    sizes = file.read(4 * len(shape))
    if len(sizes) < 4 * len(shape):
        raise DataError(f"{path}: ends within its header, after {4 + len(sizes)} bytes")
    found = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if found != shape:
        raise DataError(f"{path}: has shape {found}, expected {shape}")
    count = math.prod(shape)
    content = file.read(count)
    more = file.read(1)  # at the end gzip compares its checksum
    if len(content) < count or more:
        has = f"more than {count}" if more else len(content)
        raise DataError(f"{path}: has {has} values after its header, expected {count}")
    return np.frombuffer(content, np.uint8).reshape(shape)
