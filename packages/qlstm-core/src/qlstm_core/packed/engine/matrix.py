"""One matrix by itself, as the embedding and the output layer of a model are: products, and rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.engine.operands import Group, Memory
from qlstm_core.packed.engine.products import apply
from qlstm_core.packed.engine.program import VECTORS


@compiled()
def multiply(network: Any, x: Any, bias: Any, y: Any, workspace: Any) -> None:
    """``y = W x + b``.

    Args:
        network: :class:`~qlstm_core.packed.engine.operands.NetworkArrays` of one matrix, without cells.
        x: ``(rows, cols)`` float32.
        bias: ``(outputs,)`` float32, or none.
        y: ``(rows, outputs)`` float32, written.
        workspace: :class:`~qlstm_core.packed.engine.operands.Workspace`.
    """
    memory = Memory(
        network.kernel[0], network.matrices, network.blocks, network.floats, workspace.work,
        workspace.places[0],
    )  # fmt: skip
    none, one = np.int64(0), np.int64(1)
    m = memory.matrices[0]
    for done in range(0, x.shape[0], VECTORS):
        apply(memory, m, x, done, min(VECTORS, x.shape[0] - done), Group(none, one, one), y, done, none)
    for row in range(y.shape[0]):
        for k in range(len(bias)):
            y[row, k] += bias[k]


@compiled()
def read_rows(signs: Any, scales: Any, offset: Any, count: int, tokens: Any, y: Any) -> None:
    """``y[i] = W[tokens[i]]``, each number summed in float64 and rounded once.

    Args:
        signs: signs of the planes, as :class:`~qlstm_core.packed.network.Bits` stores them.
        scales: ``(planes, 1 or count)`` float32.
        offset: ``(1 or count,)`` float32.
        count: number of rows of W.
        tokens: ``(rows,)`` int64, from 0 to ``count − 1``.
        y: ``(rows, cols)`` float32, written.
    """
    cols = y.shape[1]
    for i in range(len(tokens)):
        token = tokens[i]
        scale = token if scales.shape[1] > 1 else 0
        lowest = np.float64(offset[token if len(offset) > 1 else 0])
        for j in range(cols):
            total = lowest
            for k in range(scales.shape[0]):
                at = (k * count + token) * cols + j
                own = np.float64(scales[k, scale])
                total += own if signs[at >> 3] >> (7 - (at & 7)) & 1 else -own
            y[i, j] = total
