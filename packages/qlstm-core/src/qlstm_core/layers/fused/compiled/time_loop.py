"""The loop over time, compiled: products and passes of a range of steps in one call.

Several calls, one for each part of the batch or of the units, may run at the same time. What the loops take
is described in operands.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qlstm_core.kernels.barrier import wait
from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.gemm import multiply
from qlstm_core.kernels.packed_weight import call_multiply_rows
from qlstm_core.layers.cell import GRU_CELL, LSTM_CELL, Cell
from qlstm_core.layers.fused.compiled import step_batch_norm, step_feature_norm
from qlstm_core.layers.fused.compiled.feature_norm import back
from qlstm_core.layers.fused.compiled.operands import GAIN_X

Multiply = Callable[..., None]
"""Writes, or adds, ``count`` rows of ``a``, from ``a_row`` on, times a matrix to those of ``c``: a share of
the columns of all rows or, with a weight in bits, of the rows."""


@compiled(None)
def _by_panels(
    a: Any, a_row: int, count: int, panels: Any, c: Any, c_row: int, add: bool, share: Any
) -> None:
    multiply(a, a_row, count, panels, c, c_row, add, share.share, share.shares)


@compiled(None)
def _by_bits(a: Any, a_row: int, count: int, weight: Any, c: Any, c_row: int, add: bool, share: Any) -> None:
    if weight.address == 0:
        multiply(a, a_row, count, weight.panels, c, c_row, add, share.share, share.shares)
    else:
        begin, end = count * share.share // share.shares, count * (share.share + 1) // share.shares
        call_multiply_rows(
            weight.address, weight, a, a_row + begin, end - begin, c, c_row + begin, add, share.part
        )


def _through_factors(multiply: Multiply) -> Callable[..., None]:
    @compiled(None)
    def recurrent_product(
        a: Any, a_row: int, count: int, matrices: Any, between: Any, row: int, c: Any, c_row: int, add: bool,
        share: Any, barrier: Any,
    ) -> None:  # fmt: skip
        """Multiply rows of ``a`` by one matrix, or two, into rows of ``c``; ``row`` is theirs in between."""
        if not matrices.factored:
            multiply(a, a_row, count, matrices.first, c, c_row, add, share)
        else:
            multiply(a, a_row, count, matrices.first, between, row, False, share)
            wait(barrier, share.shares)
            multiply(between, row, count, matrices.second, c, c_row, add, share)

    return recurrent_product


def _rows_forward(variant: str, step: Callable[..., None], multiply: Multiply) -> Callable[..., None]:
    recurrent_product = _through_factors(multiply)

    @compiled(variant)
    def forward(
        share: Any, steps: Any, matrices: Any, flat: Any, x: Any, p: Any, previous: Any, cell: Any,
        h: Any, y: Any,
    ) -> None:  # fmt: skip
        # Products are divided by columns, of all rows, or not: then each part needs its own rows only.
        shares, begin, barrier = share.shares, share.begin, steps.barrier
        top = 0 if shares > 1 else begin
        for k in range(steps.start, steps.stop):
            row, alive = steps.order[k, 0], steps.order[k, 1]
            stop = min(share.end, alive)
            count = (alive if shares > 1 else stop) - top
            slot = row if steps.keep else 0
            x_row = row if steps.fresh else 0
            if steps.own_x:
                multiply(
                    flat.inputs, row + top, count, matrices.input, flat.x, row - x_row + top, False, share
                )
            recurrent_product(
                flat.h, top, count, matrices, flat.between, top, flat.p, slot + top, False, share, barrier
            )
            wait(barrier, shares)
            if steps.own_x:
                for r in range(row - x_row + begin, row - x_row + stop):
                    step_feature_norm.measure(x, r)
            step(begin, stop, row, slot, x, x_row, p, previous, cell, h, y)
            wait(barrier, shares)
            if matrices.projected:
                multiply(flat.hidden, top, count, matrices.projection, flat.h, top, False, share)
                wait(barrier, shares)
                for r in range(begin, stop):
                    for j in range(flat.h.shape[1]):
                        flat.y[row + r, j] = flat.h[r, j]

    return forward


def _rows_backward(
    variant: str, step: Callable[..., None], multiply: Multiply, add: bool
) -> Callable[..., None]:
    recurrent_product = _through_factors(multiply)

    @compiled(variant)
    def backward(
        share: Any, steps: Any, matrices: Any, flat: Any, x: Any, p: Any, previous: Any, cell: Any, d: Any
    ) -> None:
        shares, begin, barrier = share.shares, share.begin, steps.barrier
        sums = d.sums[4 * share.part : 4 * share.part + 4]
        top = 0 if shares > 1 else begin
        for k in range(steps.stop - 1, steps.start - 1, -1):
            row, alive = steps.order[k, 0], steps.order[k, 1]
            last = min(share.end, alive)
            count = (alive if shares > 1 else last) - top
            x_row = row if steps.fresh else 0
            to = row - d.first
            if steps.fresh:
                multiply(flat.inputs, row + top, count, matrices.input, flat.x, top, False, share)
            if matrices.projected:
                wait(barrier, shares)
                for r in range(begin, last):
                    for j in range(flat.h.shape[1]):
                        flat.h[r, j] += flat.y[row + r, j]
                        flat.d_outputs[to + r, j] = flat.h[r, j]
                wait(barrier, shares)
                multiply(flat.h, top, count, matrices.projection, flat.hidden, top, False, share)
            wait(barrier, shares)
            if steps.fresh:
                for r in range(begin, last):
                    step_feature_norm.measure(x, r)
            step(begin, last, share.part, row, x, x_row, p, previous, cell, d)
            if steps.own_x:
                for r in range(begin, last):
                    at = row - x_row + r
                    for s in range(d.dx.shape[1]):
                        back(
                            d.dx, to + r, x.values, at, s, x.mean, x.spread, at, x.gain, x.norm, sums, GAIN_X
                        )
            wait(barrier, shares)
            if k > 0 or steps.pull_start:
                recurrent_product(
                    flat.p, to + top, count, matrices, flat.between, top, flat.h, top, add, share, barrier
                )

    return backward


def _columns_forward(variant: str, step: Callable[..., None], multiply: Multiply) -> Callable[..., None]:
    recurrent_product = _through_factors(multiply)

    @compiled(variant)
    def forward(
        share: Any, steps: Any, matrices: Any, flat: Any, x: Any, p: Any, previous: Any, cell: Any,
        h: Any, y: Any,
    ) -> None:  # fmt: skip
        own, shares, barrier = share.share, share.shares, steps.barrier
        for k in range(steps.start, steps.stop):
            row, count = steps.order[k, 0], steps.order[k, 1]
            slot = row if steps.keep else 0
            x_row = row if steps.fresh else 0
            if steps.own_x:
                multiply(flat.inputs, row, count, matrices.input, flat.x, row - x_row, False, share)
            recurrent_product(
                flat.h, 0, count, matrices, flat.between, 0, flat.p, slot, False, share, barrier
            )
            wait(barrier, shares)
            step(share.begin, share.end, count, k, row, slot, x, x_row, p, previous, cell, h, y)
            wait(barrier, shares)
            if matrices.projected:
                multiply(flat.hidden, 0, count, matrices.projection, flat.h, 0, False, share)
                wait(barrier, shares)
                for r in range(count * own // shares, count * (own + 1) // shares):
                    for j in range(flat.h.shape[1]):
                        flat.y[row + r, j] = flat.h[r, j]

    return forward


def _columns_backward(
    variant: str, step: Callable[..., None], multiply: Multiply, add: bool
) -> Callable[..., None]:
    recurrent_product = _through_factors(multiply)

    @compiled(variant)
    def backward(
        share: Any, steps: Any, matrices: Any, flat: Any, x: Any, p: Any, previous: Any, cell: Any, d: Any
    ) -> None:
        own, shares, barrier = share.share, share.shares, steps.barrier
        for k in range(steps.stop - 1, steps.start - 1, -1):
            row, count = steps.order[k, 0], steps.order[k, 1]
            x_row = row if steps.fresh else 0
            if steps.fresh:
                multiply(flat.inputs, row, count, matrices.input, flat.x, 0, False, share)
            if matrices.projected:
                for r in range(count * own // shares, count * (own + 1) // shares):
                    for j in range(flat.h.shape[1]):
                        flat.h[r, j] += flat.y[row + r, j]
                        flat.d_outputs[row - d.first + r, j] = flat.h[r, j]
                wait(barrier, shares)
                multiply(flat.h, 0, count, matrices.projection, flat.hidden, 0, False, share)
            wait(barrier, shares)
            step(share.begin, share.end, count, k, row, x, x_row, p, previous, cell, d)
            wait(barrier, shares)
            if k > 0 or steps.pull_start:
                recurrent_product(
                    flat.p, row - d.first, count, matrices, flat.between, 0, flat.h, 0, add, share, barrier
                )
                wait(barrier, shares)

    return backward


# (statistics over the batch, cell) → one step forward and one back.
_STEPS: dict[tuple[bool, Cell], tuple[Callable[..., None], Callable[..., None]]] = {
    (False, LSTM_CELL): (step_feature_norm.lstm_forward, step_feature_norm.lstm_backward),
    (False, GRU_CELL): (step_feature_norm.gru_forward, step_feature_norm.gru_backward),
    (True, LSTM_CELL): (step_batch_norm.lstm_forward, step_batch_norm.lstm_backward),
    (True, GRU_CELL): (step_batch_norm.gru_forward, step_batch_norm.gru_backward),
}


def _loops(bits: bool, over_batch: bool, cell: Cell) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the loops forward and back: of weights some of which are in bits, or all in panels."""
    forward, backward = _STEPS[over_batch, cell]
    variant, multiply = f"{cell.name}_bits" if bits else cell.name, _by_bits if bits else _by_panels
    # The GRU's state also has a direct way back, to which the recurrent product adds.
    add = cell is GRU_CELL
    if over_batch:
        return (
            _columns_forward(variant, forward, multiply),
            _columns_backward(variant, backward, multiply, add),
        )
    return _rows_forward(variant, forward, multiply), _rows_backward(variant, backward, multiply, add)


LOOPS = {(bits, *key): _loops(bits, *key) for bits in (False, True) for key in _STEPS}
"""The loops forward and back: (weights in bits, statistics over the batch, cell) → loops."""
