"""A whole sequence through a whole packed network as one compiled call.

What the network is comes as arrays (see :mod:`qlstm_core.packed.engine.program`), so one compiled engine
runs them all, with any kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.packed.engine import gates
from qlstm_core.packed.engine.products import Group, apply, side
from qlstm_core.packed.engine.program import CHUNK, COLUMNS, NOWHERE
from qlstm_core.packed.engine.workspace import Memory, copy, inner, steps_of, table


@inner
def _ahead(sizes: Any, done: int, reverse: bool) -> tuple[Any, Any]:
    """Return up to which step the input's products are made at once, and of how many rows."""
    until = done
    rows = 0
    while until < len(sizes) and rows < CHUNK:
        rows += sizes[len(sizes) - 1 - until if reverse else until]
        until += 1
    return until, rows


@inner
def _run_cell(
    memory: Any, gru: bool, cell: Any, x: Any, tokens: Any, sizes: Any, starts: Any, reverse: bool,
    h: Any, c: Any, y: Any, begin: Any, step: int,
) -> None:  # fmt: skip
    none, one = np.int64(0), np.int64(1)
    split, units, steps, floats = cell.split, cell.units, cell.steps, memory.floats
    segments = split * (3 if gru else 4)
    factor_x = steps_of(floats, cell.factor_ih, steps, segments, units)
    factor_p = steps_of(floats, cell.factor_hh, steps, segments, units)
    shift = steps_of(floats, cell.shift, steps, segments, units)
    new_shift = steps_of(floats, cell.new_shift, steps, one, units)
    factor_c = steps_of(floats, cell.factor_cell, steps, split, units)
    shift_c = steps_of(floats, cell.shift_cell, steps, split, units)
    batch = h.shape[0]
    p = table(memory.work, memory.places.recurrent_side, batch, segments * units)
    p3 = p.reshape((batch, segments, units))
    state = h if cell.hr == NOWHERE else table(memory.work, memory.places.raw, batch, split * units)
    h3 = state.reshape((batch, split, units))
    c3 = c.reshape((batch, split, c.shape[1] // split))
    done = 0
    while done < len(sizes):
        # The input's products of several steps are made at once: each weight is read once for all.
        until, ahead = _ahead(sizes, done, reverse)
        earliest = starts[len(sizes) - until if reverse else done]
        from_x = table(memory.work, memory.places.input_side, ahead, segments * units)
        side(memory, cell.inner_ih, cell.outer_ih, split, cell.parts, x, tokens, earliest, ahead, from_x)
        x3 = from_x.reshape((ahead, segments, units))
        gates.standardize(x3, ahead, cell.norm_ih, cell.eps_ih)
        for count in range(done, until):
            t = len(sizes) - 1 - count if reverse else count
            alive, row = sizes[t], starts[t] - earliest
            side(memory, cell.inner_hh, cell.outer_hh, split, one, h, tokens[:0], none, alive, p)
            gates.standardize(p3, alive, cell.norm_hh, cell.eps_hh)
            at = min(step + count, steps - 1)
            if gru:
                gates.gru(x3, row, p3, alive, factor_x, factor_p, shift, new_shift, at, h3)
            else:
                gates.lstm(
                    x3, row, p3, alive, factor_x, factor_p, shift, at,
                    cell.norm_cell, cell.eps_cell, factor_c, shift_c, h3, c3,
                )  # fmt: skip
            if cell.hr != NOWHERE:
                for k in range(0, alive, COLUMNS):
                    some = min(COLUMNS, alive - k)
                    projection = memory.matrices[cell.hr]
                    apply(memory, projection, state, k, some, Group(none, one, one), h, k, none)
            for k in range(alive):
                copy(h[k], y[starts[t] + k, begin : begin + h.shape[1]])
        done = until


@compiled()
def run(
    gru: bool, kernel: Any, cells: Any, matrices: Any, blocks: Any, floats: Any, x: Any, tokens: Any,
    sizes: Any, starts: Any, h: Any, c: Any, y: Any, step: int, work: Any, places: Any,
) -> None:  # fmt: skip
    """Run a program over a sequence.

    Args:
        gru: whether it is a GRU.
        kernel: one record of :data:`qlstm_core.packed.engine.kernel_calls.KERNEL`.
        cells, matrices, blocks, floats: of the :class:`~qlstm_core.packed.engine.program.Program`.
        x: ``(rows, features)`` float32, all steps one after the other; without rows where there are tokens.
        tokens: ``(rows,)`` int64, or none.
        sizes, starts: ``(steps,)`` int64: how many sequences are alive at each step, never increasing, and
            where its rows start.
        h, c: the state, ``(layers · directions, batch, …)``, read and written; c of a GRU has no features.
        y: ``(rows, features)``, written.
        step: how many steps the network has processed before.
        work, places: as :meth:`Program.places`.
    """
    memory = Memory(kernel[0], matrices, blocks, floats, work, places[0])
    rows, out = y.shape[0], h.shape[2]
    directions = y.shape[1] // out
    layers = len(cells) // directions
    # Outputs between layers take turns in two parts of the workspace.
    odd = table(work, memory.places.above, rows if layers > 1 else 0, directions * out)
    even = table(work, memory.places.below, rows if layers > 1 else 0, directions * out)
    for layer in range(layers):
        below = x if layer == 0 else (odd if layer % 2 == 0 else even)
        above = y if layer == layers - 1 else (even if layer % 2 == 0 else odd)
        words = tokens if layer == 0 else tokens[:0]
        for direction in range(directions):
            k = layer * directions + direction
            _run_cell(
                memory, gru, cells[k], below, words, sizes, starts, direction == 1, h[k], c[k], above,
                direction * out, step,
            )  # fmt: skip
