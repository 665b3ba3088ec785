"""Views of parts of the memory that compiled code runs from."""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.engine.program import NOWHERE

# Called from compiled code only.
inner = compiled(None, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@inner
def vector(work: Any, at: Any, count: Any) -> Any:
    """A float32 array ``(count,)`` of the workspace."""
    return work[at : at + 4 * count].view(np.float32)


@inner
def matrix_view(work: Any, at: Any, rows: Any, columns: int) -> Any:
    """A float32 array ``(rows, columns)`` of the workspace."""
    return vector(work, at, rows * columns).reshape((rows, columns))


@inner
def integers(work: Any, at: Any, count: Any) -> Any:
    """An int32 array ``(count,)`` of the workspace."""
    return work[at : at + 4 * count].view(np.int32)


@inner
def steps_of(floats: Any, at: Any, steps: Any, segments: Any, units: Any) -> Any:
    """An array ``(steps, segments, units)`` of the program; without steps where it has none."""
    if at == NOWHERE:
        return floats[:0].reshape((0, segments, units))
    return floats[at : at + steps * segments * units].reshape((steps, segments, units))


@inner
def blocks_of(memory: Any, m: Any) -> Any:
    """The blocks of a matrix of bits."""
    size = 8 * memory.kernel.span
    return memory.blocks[m.at : m.at + m.tiles * m.groups * size].reshape((m.tiles, m.groups, size))


@inner
def scales_of(memory: Any, m: Any) -> tuple[Any, Any]:
    """Scales ``(sums, rows)`` and offsets ``(rows,)``, or none, of a matrix of bits."""
    scales = memory.floats[m.scales : m.scales + m.sums * m.rows].reshape((m.sums, m.rows))
    if m.offsets == NOWHERE:
        return scales, memory.floats[:0]
    return scales, memory.floats[m.offsets : m.offsets + m.rows]


@inner
def length_of(m: Any) -> Any:
    """Number of integers that the product of a matrix of bits writes for one vector."""
    return m.tiles * (32 if m.pairing else 64)


@inner
def copy(source: Any, to: Any) -> None:
    """Copy one row to another."""
    for k in range(len(source)):
        to[k] = source[k]
