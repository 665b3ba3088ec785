"""The loop over time, compiled: products and passes of a range of steps in one call.

Several calls, one for each part of the batch or of the units, may run at the same time.

Arguments that the loops share:
    steps: first row and number of sequences alive of each step in the order of processing, ``(steps, 2)``.
    fresh: whether the input side is computed step by step, into ``x`` of one step's rows. Otherwise ``x`` has
        it for the whole sequence, or for every token.
    inputs, weight_x: the input and its packed weight; no panels: x needs no product.
    own_x: whether x is the product of input and weight, rather than given for every row or token.
    first, second, between: the recurrent product, in one factor or in two; no panels: one. ``between`` has
        room for what passes from one to the other, ``(batch, rank)``.
    projection: packed; no panels: none.
    All else, and what follows in ``rest``, as the passes of rows.py and columns.py have it; a name that ends
    in ``2`` is a view with one row per sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qlstm_core.jit import compiled
from qlstm_core.layers.fused import columns, rows
from qlstm_core.layers.fused.features import back
from qlstm_core.layers.fused.meeting import meet
from qlstm_core.layers.fused.tape import GAIN_X
from qlstm_core.layers.fused.tiles import multiply
from qlstm_core.moments import moments


@compiled(None)
def _through(
    a: Any, a_row: int, count: int, first: Any, second: Any, between: Any, row: int,
    c: Any, c_row: int, add: bool, share: int, shares: int, meeting: Any,
) -> None:  # fmt: skip
    """Multiply rows of ``a`` by one matrix, or by two, into rows of ``c``; ``row`` is theirs in between."""
    if second.shape[0] == 0:
        multiply(a, a_row, count, first, c, c_row, add, share, shares)
    else:
        multiply(a, a_row, count, first, between, row, False, share, shares)
        meet(meeting, shares)
        multiply(between, row, count, second, c, c_row, add, share, shares)


def _rows_forward(variant: str, step: Callable[..., None]) -> Callable[..., None]:
    @compiled(variant)
    def forward(
        share: int, shares: int, begin: int, end: int, steps: Any, keep: bool, fresh: bool, meeting: Any,
        inputs: Any, weight_x: Any, x2: Any, h2: Any, first: Any, second: Any, between: Any, p2: Any,
        projection: Any, hidden2: Any, y2: Any, norm_x: int, eps_x: float,
        x: Any, index: Any, x_mean: Any, x_scale: Any, *rest: Any,
    ) -> None:  # fmt: skip
        # Products are divided by columns, of all rows, or not: then each part needs its own rows only.
        top = 0 if shares > 1 else begin
        for k in range(steps.shape[0]):
            row, alive = steps[k, 0], steps[k, 1]
            stop = min(end, alive)
            count = (alive if shares > 1 else stop) - top
            slot = row if keep else 0
            x_row = row if fresh else 0
            if weight_x.shape[0] > 0:
                multiply(inputs, row + top, count, weight_x, x2, row - x_row + top, False, share, shares)
            _through(
                h2, top, count, first, second, between, top, p2, slot + top, False, share, shares, meeting
            )
            meet(meeting, shares)
            if weight_x.shape[0] > 0:
                for r in range(row - x_row + begin, row - x_row + stop):
                    for s in range(x.shape[1]):
                        x_mean[r, s], x_scale[r, s] = moments(x, r, s, norm_x, eps_x)
            step(begin, stop, row, slot, x, index, x_row, x_mean, x_scale, *rest)
            meet(meeting, shares)
            if projection.shape[0] > 0:
                multiply(hidden2, top, count, projection, h2, top, False, share, shares)
                meet(meeting, shares)
                for r in range(begin, stop):
                    for j in range(h2.shape[1]):
                        y2[row + r, j] = h2[r, j]

    return forward


def _rows_backward(variant: str, step: Callable[..., None], add: bool) -> Callable[..., None]:
    @compiled(variant)
    def backward(
        part: int, share: int, shares: int, begin: int, end: int, start: int, stop: int, steps: Any,
        fresh: bool, meeting: Any, inputs: Any, weight_x: Any, x2: Any, dp2: Any, first: Any, second: Any,
        between: Any, dh2: Any, pull_start: bool, projection: Any, d_hidden2: Any, d_outputs2: Any, dy2: Any,
        d_row: int, own_x: bool, norm_x: int, eps_x: float, gain_x: Any, dx: Any, sums: Any,
        x: Any, index: Any, x_mean: Any, x_scale: Any, *rest: Any,
    ) -> None:  # fmt: skip
        own = sums[4 * part : 4 * part + 4]
        top = 0 if shares > 1 else begin
        for k in range(stop - 1, start - 1, -1):
            row, alive = steps[k, 0], steps[k, 1]
            last = min(end, alive)
            count = (alive if shares > 1 else last) - top
            x_row = row if fresh else 0
            to = row - d_row
            if fresh:
                multiply(inputs, row + top, count, weight_x, x2, top, False, share, shares)
            if projection.shape[0] > 0:
                meet(meeting, shares)
                for r in range(begin, last):
                    for j in range(dh2.shape[1]):
                        dh2[r, j] += dy2[row + r, j]
                        d_outputs2[to + r, j] = dh2[r, j]
                meet(meeting, shares)
                multiply(dh2, top, count, projection, d_hidden2, top, False, share, shares)
            meet(meeting, shares)
            if fresh:
                for r in range(begin, last):
                    for s in range(x.shape[1]):
                        x_mean[r, s], x_scale[r, s] = moments(x, r, s, norm_x, eps_x)
            step(begin, last, part, row, x, index, x_row, x_mean, x_scale, *rest)
            if own_x:
                for r in range(begin, last):
                    at = row - x_row + r
                    for s in range(x.shape[1]):
                        back(dx, to + r, x, at, s, x_mean, x_scale, at, gain_x, norm_x, own, GAIN_X)
            meet(meeting, shares)
            if k > 0 or pull_start:
                _through(
                    dp2, to + top, count, first, second, between, top, dh2, top, add, share, shares, meeting
                )

    return backward


def _columns_forward(variant: str, step: Callable[..., None]) -> Callable[..., None]:
    @compiled(variant)
    def forward(
        share: int, shares: int, begin: int, end: int, steps: Any, keep: bool, fresh: bool, meeting: Any,
        inputs: Any, weight_x: Any, x2: Any, h2: Any, first: Any, second: Any, between: Any, p2: Any,
        projection: Any, hidden2: Any, y2: Any, order: Any,
        x: Any, index: Any, x_mean: Any, x_var: Any, *rest: Any,
    ) -> None:  # fmt: skip
        for k in range(steps.shape[0]):
            row, count = steps[k, 0], steps[k, 1]
            slot = row if keep else 0
            x_row = row if fresh else 0
            if weight_x.shape[0] > 0:
                multiply(inputs, row, count, weight_x, x2, row - x_row, False, share, shares)
            _through(h2, 0, count, first, second, between, 0, p2, slot, False, share, shares, meeting)
            meet(meeting, shares)
            step(begin, end, count, k, row, slot, order, x, index, x_row, x_mean, x_var, *rest)
            meet(meeting, shares)
            if projection.shape[0] > 0:
                multiply(hidden2, 0, count, projection, h2, 0, False, share, shares)
                meet(meeting, shares)
                for r in range(count * share // shares, count * (share + 1) // shares):
                    for j in range(h2.shape[1]):
                        y2[row + r, j] = h2[r, j]

    return forward


def _columns_backward(variant: str, step: Callable[..., None], add: bool) -> Callable[..., None]:
    @compiled(variant)
    def backward(
        share: int, shares: int, begin: int, end: int, start: int, stop: int, steps: Any, fresh: bool,
        meeting: Any, inputs: Any, weight_x: Any, x2: Any, dp2: Any, first: Any, second: Any, between: Any,
        dh2: Any, pull_start: bool, projection: Any, d_hidden2: Any, d_outputs2: Any, dy2: Any, d_row: int,
        order: Any, x: Any, index: Any, x_mean: Any, x_var: Any, *rest: Any,
    ) -> None:  # fmt: skip
        for k in range(stop - 1, start - 1, -1):
            row, count = steps[k, 0], steps[k, 1]
            x_row = row if fresh else 0
            if fresh:
                multiply(inputs, row, count, weight_x, x2, 0, False, share, shares)
            if projection.shape[0] > 0:
                for r in range(count * share // shares, count * (share + 1) // shares):
                    for j in range(dh2.shape[1]):
                        dh2[r, j] += dy2[row + r, j]
                        d_outputs2[row - d_row + r, j] = dh2[r, j]
                meet(meeting, shares)
                multiply(dh2, 0, count, projection, d_hidden2, 0, False, share, shares)
            meet(meeting, shares)
            step(begin, end, count, k, row, order, x, index, x_row, x_mean, x_var, *rest)
            meet(meeting, shares)
            if k > 0 or pull_start:
                _through(
                    dp2, row - d_row, count, first, second, between, 0, dh2, 0, add, share, shares, meeting
                )
                meet(meeting, shares)

    return backward


# (statistics over the batch, family) → loop.
FORWARD = {
    (False, "lstm"): _rows_forward("lstm", rows.lstm_forward),
    (False, "gru"): _rows_forward("gru", rows.gru_forward),
    (True, "lstm"): _columns_forward("lstm", columns.lstm_forward),
    (True, "gru"): _columns_forward("gru", columns.gru_forward),
}
# The GRU's state also has a direct way back, to which the recurrent product adds.
BACKWARD = {
    (False, "lstm"): _rows_backward("lstm", rows.lstm_backward, False),
    (False, "gru"): _rows_backward("gru", rows.gru_backward, True),
    (True, "lstm"): _columns_backward("lstm", columns.lstm_backward, False),
    (True, "gru"): _columns_backward("gru", columns.gru_backward, True),
}
