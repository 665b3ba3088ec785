"""Products by table look-up in plain Numba: for any CPU, with the same integers as every other kernel."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.kernels.choose import Kernel


def kernel() -> Kernel:
    """Return the portable kernel."""
    return Kernel(name="portable", fill_tables=_fill_tables, product=_product)


def _entry_type(activation_bits: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if activation_bits == 8 else np.uint16


@cache
def _fill_tables(activation_bits: int) -> Any:
    entry_type = _entry_type(activation_bits)

    @compiled(f"{activation_bits}")
    def fill(codes: Any, tables: Any) -> None:
        count, _, groups = codes.shape
        for vector in range(count):
            entries = tables[vector].reshape(-1).view(entry_type)
            for g in range(groups):
                for n in range(16):
                    entry = codes[vector, 4, g]
                    for i in range(4):
                        entry += (n >> i & 1) * codes[vector, i, g]
                    entries[16 * g + n] = entry & 0xFFFF

    return fill


@cache
def _product(activation_bits: int, pairing: int) -> Any:
    entry_type = _entry_type(activation_bits)
    lines = 32 if pairing else 64
    weight = 1 + pairing

    @compiled(f"{activation_bits}-{pairing}")
    def product(blocks: Any, tables: Any, norms: Any, sums: Any) -> None:
        tiles, groups, size = blocks.shape
        for vector in range(sums.shape[0]):
            entries = tables[vector].reshape(-1).view(entry_type)
            out = sums[vector]
            out[:] = -weight * norms[vector]
            for tile in range(tiles):
                for byte in range(size):
                    low = 0
                    high = 0
                    for g in range(groups):
                        nibbles = blocks[tile, g, byte]
                        low += entries[16 * g + (nibbles & 15)]
                        high += entries[16 * g + (nibbles >> 4)]
                    j, odd = byte // 2, byte % 2
                    line = lines * tile + j + (0 if pairing else 16 * odd)
                    times = 2 * pairing if pairing and odd else 2
                    out[line] += times * low
                    out[line + lines // 2] += times * high

    return product
