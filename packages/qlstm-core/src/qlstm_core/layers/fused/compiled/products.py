"""Products over the rows of a chunk by Numba kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from qlstm_core.kernels.barrier import wait
from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.float_vectors import first, lanes, load, store
from qlstm_core.kernels.gemm import multiply, multiply_panel, pack, pack_panels, panel_width
from qlstm_core.kernels.threads import parts_worth, share_work

_DEPTH = 256
"""Rows that are summed at a time: few enough for their factors to stay in the cache."""
_AT_ONCE = 64
"""Rows that share one reading of the matrix."""
_THIN = 8
"""Columns of h up to which most of a panel would be empty."""


@compiled("")
def _outer(share: int, shares: int, barrier: Any, d: Any, h: Any, out: Any, room: Any, add: bool) -> None:
    """Write, or add, a share of the rows of ``out``, from ``d`` and ``h`` ``(1, rows, …)``."""
    width, across, block = d.shape[2], room.shape[1], lanes(d)
    each = -(-h.shape[2] // across)
    blocks = -(-width // block)
    packed = np.empty((1, _DEPTH, block), d.dtype)
    for start in range(0, d.shape[1], _DEPTH):
        depth = min(_DEPTH, d.shape[1] - start)
        panels = room[: each * depth].reshape(each, depth, across)
        pack_panels(h, start, panels, share, shares)
        wait(barrier, shares)
        for g in range(blocks * share // shares * block, blocks * (share + 1) // shares * block, block):
            inside = first(d, width - g)
            for r in range(depth):
                store(packed, 0, r, 0, first(d, block), load(d, 0, start + r, g, inside))
            for panel in range(each):
                column = panel * across
                multiply_panel(
                    packed, 0, 1, block, min(block, width - g), panels, panel,
                    out, g * out.shape[1] + column, out.shape[1] - column, add or start > 0,
                )  # fmt: skip
        wait(barrier, shares)


@compiled("")
def _outer_thin(begin: int, end: int, d: Any, h: Any, sums: Any) -> None:
    """Add columns of ``hᵀ d`` to ``sums``, ``(1, k, n)``, each row of d being read once."""
    for r in range(d.shape[1]):
        for j in range(begin, end, lanes(d)):
            inside = first(d, end - j)
            row = load(d, 0, r, j, inside)
            for k in range(h.shape[2]):
                store(sums, 0, k, j, inside, load(sums, 0, k, j, inside) + row * h[0, r, k])


@compiled("")
def _write_product(begin: int, end: int, a: Any, panels: Any, out: Any) -> None:
    for row in range(begin, end, _AT_ONCE):
        multiply(a, row, min(_AT_ONCE, end - row), panels, out, row, False, 0, 1)


def write_outer(out: Tensor, d: Tensor, h: Tensor, *, add: bool) -> None:
    """``out = dᵀ h``, or with ``add`` ``out += dᵀ h``, for ``d`` ``(rows, n)`` and ``h`` ``(rows, k)``."""
    width, count = out.shape
    blocks = -(-width // 16)
    parts = parts_worth(d.numel() * max(count, _THIN), blocks)
    arrays = (d.unsqueeze(0).numpy(), h.unsqueeze(0).numpy())
    if count <= _THIN:
        sums = out.new_zeros(1, count, width)
        bounds = [min(blocks * part // parts * 16, width) for part in range(parts)] + [width]
        share_work(parts, lambda p: _outer_thin(bounds[p], bounds[p + 1], *arrays, sums.numpy()))
        out.copy_(out + sums[0].t() if add else sums[0].t())
        return
    across = panel_width(out)
    room = out.new_empty(-(-count // across) * _DEPTH, across).numpy()
    barrier = np.zeros(1, dtype=np.int64)
    share_work(parts, lambda part: _outer(part, parts, barrier, *arrays, out.numpy(), room, add))


def write_product(out: Tensor, a: Tensor, matrix: Tensor) -> None:
    """``out = a · matrix``, for ``a`` ``(rows, k)`` and ``matrix`` ``(k, n)``."""
    parts = parts_worth(a.numel() * matrix.shape[1], len(a))
    panels = pack(matrix, out)
    arrays = (a.numpy(), panels, out.numpy())
    bounds = [len(a) * part // parts for part in range(parts + 1)]
    share_work(parts, lambda part: _write_product(bounds[part], bounds[part + 1], *arrays))
