"""The large products over the rows of a chunk: gradients of the weights and of the input.

On a CPU by the tiles of the recurrent product, in the threads that run the steps: a library's own threads,
which wait actively for their next work, would take the processors from ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qlstm_core.layers.border import compiles


def write_outer(out: Tensor, d: Tensor, h: Tensor, *, add: bool) -> None:
    """``out = dᵀ h``, or with ``add`` ``out += dᵀ h``, for ``d`` ``(rows, n)`` and ``h`` ``(rows, k)``."""
    if _compiled(out):
        from qlstm_core.layers.fused.compiled_products import outer

        outer(out, d, h, add=add)
    else:
        torch.addmm(out, d.t(), h, beta=int(add), out=out)


def write_product(out: Tensor, a: Tensor, matrix: Tensor) -> None:
    """``out = a · matrix``, for ``a`` ``(rows, k)`` and ``matrix`` ``(k, n)``."""
    if _compiled(out):
        from qlstm_core.layers.fused.compiled_products import write_product as write

        write(out, a, matrix)
    else:
        torch.mm(a, matrix, out=out)


def _compiled(out: Tensor) -> bool:
    return out.device.type == "cpu" and compiles()
