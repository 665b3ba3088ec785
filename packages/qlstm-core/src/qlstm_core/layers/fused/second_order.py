"""The backward pass as a differentiable function, for gradients of gradients: the readable loop again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlstm_core.layers.fused.plan import Arguments, Plan
from qlstm_core.layers.linear import Dense, Factored, Grouped, LinearMap
from qlstm_core.layers.norm_contract import Norm
from qlstm_core.layers.prepared import PreparedCell
from qlstm_core.layers.sequence import run_loop


def replay(
    plan: Plan,
    arguments: Arguments,
    moments: dict[str, tuple[Tensor, Tensor]],
    gradients: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """Return the gradients of the arguments, connected to the graph.

    Args:
        plan: what was run.
        arguments: what it was run on, connected to the graph.
        moments: for ``"x"``, ``"h"`` and ``"c"``, mean and variance of each step, ``(steps, segments,
            units)``; used where a normaliser over the batch was given them.
        gradients: of the outputs and of each final state.
    """
    with torch.enable_grad():
        # One argument may have been computed from another: views keep the gradient of each to itself.
        own = Arguments(*(None if t is None else t.view_as(t) for t in arguments))  # type: ignore[arg-type]
        state = (own.h,) if own.c is None else (own.h, own.c)
        rows = torch.arange(plan.rows, device=own.h.device)
        x = own.input if own.weight_x is not None else rows if plan.tokens is None else plan.tokens
        y, final = run_loop(_prepared(plan, own, moments), x, state, plan.batch_sizes, reverse=plan.reverse)
        given = [(o, g) for o, g in zip((y, *final), gradients, strict=True) if g is not None]
        wanted = [t for t in own if t is not None and t.requires_grad]
        outputs, outer = zip(*given, strict=True)
        found = iter(torch.autograd.grad(outputs, wanted, outer, create_graph=True, allow_unused=True))
    return [next(found) if t is not None and t.requires_grad else None for t in own]


def _prepared(plan: Plan, own: Arguments, moments: dict[str, tuple[Tensor, Tensor]]) -> PreparedCell:
    shape = (plan.segments, plan.units)

    def norm(side: Norm | None, gain: Tensor | None, bias: Tensor | None, key: str) -> Any:
        return None if side is None else _Normalizer(side, gain, bias, moments[key])

    return PreparedCell(
        cell=plan.cell,
        input=_Table(own.input) if own.weight_x is None else Dense(own.weight_x.view(*shape, -1)),
        recurrent=_recurrent(plan, own),
        bias_ih=own.bias_x,
        bias_hh=own.bias_h,
        norm_ih=norm(plan.norm_x, own.gain_x, None, "x"),
        norm_hh=norm(plan.norm_h, own.gain_h, None, "h"),
        norm_cell=norm(plan.norm_c, own.gain_c, own.bias_c, "c"),
        projection=own.projection,
        groups=plan.groups,
    )


def _recurrent(plan: Plan, own: Arguments) -> LinearMap:
    shape = (plan.segments, plan.units)
    if own.inner is not None:
        return Factored(own.recurrent.view(*shape, -1), own.inner)
    if own.recurrent.dim() == 3:
        return Grouped(own.recurrent.view(*shape, -1), plan.groups)
    return Dense(own.recurrent.view(*shape, -1))


@dataclass(frozen=True)
class _Table:
    """A linear map whose columns are known: rows of ``table``, ``(rows, segments, units)``."""

    table: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.table.dtype

    @property
    def shape(self) -> torch.Size:
        return self.table.shape[1:]

    def __call__(self, x: Tensor) -> Tensor:
        return self.table[x.long()]


@dataclass(frozen=True)
class _Normalizer:
    """What a normaliser of declared statistics promises, without a change of its running statistics."""

    norm: Norm
    gain: Tensor | None
    bias: Tensor | None
    moments: tuple[Tensor, Tensor]

    def __call__(self, p: Tensor, count: int) -> Tensor:
        norm = self.norm
        mean, var = (m[count] for m in self.moments) if norm.uses_running else norm.measure(p)
        z, _ = norm.normalize(p, mean, var)
        z = z if self.gain is None else z * self.gain
        return z if self.bias is None else z + self.bias
