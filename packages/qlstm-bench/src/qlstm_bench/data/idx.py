"""Files in MNIST's IDX format, gzip-compressed, checked by their content."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlstm_bench.data.errors import DataError

_UNSIGNED_BYTE = 8


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the array of bytes that an IDX file holds.

    The file starts with two zero bytes, the type (8 for unsigned bytes) and the number of dimensions, then
    each dimension as a big-endian integer of four bytes.

    Args:
        path: of the compressed file.
        shape: expected.

    Raises:
        DataError: not gzip, truncated, another magic number, or another shape.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or not gzip: {' '.join(str(error).split())}") from error
    magic = bytes((0, 0, _UNSIGNED_BYTE, len(shape)))
    if content[:4] != magic:
        raise DataError(
            f"{path}: its magic number is 0x{content[:4].hex()}, expected 0x{magic.hex()} "
            f"(unsigned bytes, {len(shape)} dimensions)"
        )
    start = 4 + 4 * len(shape)
    if len(content) < start:
        raise DataError(f"{path}: ends within its header, after {len(content)} bytes")
    found = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if found != shape:
        raise DataError(f"{path}: has shape {found}, expected {shape}")
    if len(content) - start != np.prod(shape):
        raise DataError(
            f"{path}: has {len(content) - start} values after its header, expected {np.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
