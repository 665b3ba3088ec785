"""Products of bits with bits: k-bit weights times k-bit activations by exclusive-or and population count.

For states that are quantized themselves, ``x = Σ_j a_j A_j`` with ``A_j ∈ {−1, +1}``, two planes of n columns
give

    Σ_c B_c A_c = n − 2 · popcount(B ⊕ A),

64 columns per machine word. Neighbouring words belong to neighbouring rows: plain Numba loops over rows,
which LLVM turns into whatever vector code the CPU has.

Reference: Rastegari et al. 2016, arXiv:1603.05279; Xu et al. 2018, arXiv:1802.00150.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from qlstm_core.jit import compiled


def words_of(columns: int) -> int:
    """Return the number of 64-bit words that ``columns`` signs take."""
    return -(-columns // 64)


def pack_words(signs: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return the planes of a weight as words, zeros behind the last column.

    Args:
        signs: ``(planes, rows, cols)`` bool, True for +1.

    Returns:
        ``(planes, ⌈cols / 64⌉, rows)`` uint64; bit i of word w is column ``64·w + i``.
    """
    planes, rows, cols = signs.shape
    padded = np.zeros((planes, rows, 64 * words_of(cols)), np.bool_)
    padded[..., :cols] = signs
    words = np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)
    return np.ascontiguousarray(words.swapaxes(1, 2))


@compiled()
def sign_words(x: Any, words: Any) -> None:
    """Write the signs of a vector as words; the sign of 0 is +1.

    Args:
        x: ``(cols,)`` float32.
        words: ``(⌈cols / 64⌉,)`` uint64, written.
    """
    for w in range(words.shape[0]):
        word = np.uint64(0)
        first = 64 * w
        for i in range(min(64, x.shape[0] - first)):
            word |= np.uint64(x[first + i] >= 0) << np.uint64(i)
        words[w] = word


def _count_bits(context: Any, word: Any) -> Any:
    """The number of bits set in a uint64."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), emit


_population: Any = intrinsic(_count_bits)


@compiled()
def multiply_bits(weights: Any, activations: Any, cols: int, sums: Any) -> None:
    """Multiply every plane of a weight with every plane of every activation vector.

    Args:
        weights: ``(planes, words, rows)`` uint64, from :func:`pack_words`.
        activations: ``(columns, activation planes, words)`` uint64, zeros behind the last column.
        cols: number of columns n.
        sums: ``(columns, activation planes, planes, rows)`` int32, written: ``Σ_c B_c A_c``.
    """
    planes, words, rows = weights.shape
    columns, states, _ = activations.shape
    for column in range(columns):
        for state in range(states):
            a = activations[column, state]
            for plane in range(planes):
                b = weights[plane]
                out = sums[column, state, plane]
                out[:] = cols
                for w in range(0, words - 3, 4):
                    b0, b1, b2, b3 = b[w], b[w + 1], b[w + 2], b[w + 3]
                    a0, a1, a2, a3 = a[w], a[w + 1], a[w + 2], a[w + 3]
                    for r in range(rows):
                        first = _population(b0[r] ^ a0) + _population(b1[r] ^ a1)
                        out[r] -= 2 * (first + _population(b2[r] ^ a2) + _population(b3[r] ^ a3))
                for w in range(words - words % 4, words):
                    for r in range(rows):
                        out[r] -= 2 * _population(b[w, r] ^ a[w])
