"""Which way a layer is run, and why: torch's own operator, the fused route, or the readable loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from qlstm_core.layers.border import misfit, transformed, watched
from qlstm_core.layers.fused import FUSED_CELLS
from qlstm_core.layers.linear import Dense, Factored, Grouped
from qlstm_core.layers.norm_contract import norm_obstacle
from qlstm_core.layers.packing import EXACT
from qlstm_core.layers.prepared import PreparedCell

_loop_only: ContextVar[bool] = ContextVar("loop_only", default=False)


@dataclass(frozen=True)
class Route:
    """How one layer in one direction is run.

    Args:
        kind: ``"torch"``, torch's own operator on the effective weights (oneDNN on CPU, cuDNN on GPU);
            ``"fused"``, a whole sequence as one autograd function; ``"loop"``, one readable step after the
            other, the reference.
        reason: why the faster routes listed before it do not apply.
        products: where packed products are asked for, what they are made with, or why they are exact.
    """

    kind: Literal["torch", "fused", "loop"]
    reason: str
    products: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" + (f"; {self.products}" if self.products else "")


@contextmanager
def readable_loop() -> Iterator[None]:
    """Run every layer by its readable loop within the ``with`` block.

    For gradients of gradients where torch's own operator has none, and to compare with the faster routes::

        with readable_loop():
            output, _ = layer(x)
    """
    token = _loop_only.set(True)
    try:
        yield
    finally:
        _loop_only.reset(token)


def choose_route(
    prepared: PreparedCell,
    x: Tensor,
    state: tuple[Tensor, ...],
    batch_sizes: Sequence[int],
    *,
    traced: bool = False,
) -> Route:
    """Return the fastest way to compute what :func:`qlstm_core.layers.sequence.run_loop` would.

    Args:
        prepared: the layer in one direction.
        x: its input, ``(Σ batch_sizes, features)``, or tokens.
        state: its initial state.
        batch_sizes: how many sequences are alive at each time step; empty: not known yet.
        traced: whether every state is to be kept.
    """
    route = _choose(prepared, x, state, batch_sizes, traced)
    if prepared.products == EXACT or route.products:
        return route
    return replace(route, products=f"exact products: the {route.kind} has no others")


def _choose(
    prepared: PreparedCell, x: Tensor, state: tuple[Tensor, ...], batch_sizes: Sequence[int], traced: bool
) -> Route:
    if traced:
        return Route("loop", "record_states() keeps every state")
    compiling = torch.compiler.is_compiling()
    if not compiling and (demand := _loop_demanded(prepared, x, state)) is not None:
        return Route("loop", demand)
    why_not_torch, products = _torch_obstacle(prepared, x), ""
    if prepared.products != EXACT and not compiling:
        why_not_fused = _fused_obstacle(prepared, x, state, batch_sizes)
        packing = None if why_not_fused else prepared.packing.of_input(x)
        products = f"exact products: {why_not_fused}" if packing is None else str(packing)
        if packing is not None and packing.packs:
            return Route("fused", why_not_torch or "torch has no operator for packed bits", products)
    if why_not_torch is None:
        return Route("torch", "nothing acts between the products and the gates", products)
    if compiling:
        return Route("loop", "torch.compile traces the readable steps")
    if (why_not_fused := _fused_obstacle(prepared, x, state, batch_sizes)) is None:
        return Route("fused", why_not_torch, products)
    return Route("loop", why_not_fused)


def _loop_demanded(prepared: PreparedCell, x: Tensor, state: tuple[Tensor, ...]) -> str | None:
    """Return what only the loop can do, of whatever layer."""
    if _loop_only.get():
        return "readable_loop() is active"
    if (transform := transformed()) is not None:
        return transform
    if forward_ad._current_level >= 0 and any(
        forward_ad.unpack_dual(t).tangent is not None for t in _tensors(prepared, x, state)
    ):
        return "forward-mode differentiation"
    return None


def _tensors(prepared: PreparedCell, x: Tensor, state: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """Yield all that a layer in one direction computes with."""
    yield x
    yield from state
    linears = [linear for linear in (prepared.input, prepared.recurrent) if linear is not None]
    weights = [value for linear in linears for value in vars(linear).values()]
    for value in (prepared.bias_ih, prepared.bias_hh, prepared.projection, *weights):
        if isinstance(value, Tensor):
            yield value
    for norm in (prepared.norm_ih, prepared.norm_hh, prepared.norm_cell):
        if norm is not None:
            yield from norm.parameters()
            yield from norm.buffers()


def _torch_obstacle(prepared: PreparedCell, x: Tensor) -> str | None:
    """Return why torch's own operator does not compute the same."""
    for norm in (prepared.norm_ih, prepared.norm_hh, prepared.norm_cell):
        if norm is not None:
            return f"{type(norm).__name__} acts on activations"
    if prepared.state_quantizer is not None:
        return "the state is quantized"
    if prepared.cell.operator is None:
        return "torch has no operator for this cell"
    if not isinstance(prepared.input, Dense) or not isinstance(prepared.recurrent, Dense):
        return "torch has no operator for weights that are not one matrix per gate"
    if not x.is_floating_point():
        return "tokens pick columns of the weight"
    if prepared.cell.operator is torch.lstm and x.is_cpu and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        if not _runs_on_this_cpu(dtype):
            return f"torch's operator has no kernel in {dtype} for this processor"
    return None


@cache
def _runs_on_this_cpu(dtype: torch.dtype) -> bool:
    """Whether oneDNN, which runs torch.lstm under autocast, has kernels of this dtype here."""
    asked: Any = torch.ops.mkldnn
    if dtype == torch.bfloat16:
        return bool(asked._is_mkldnn_bf16_supported())
    return dtype == torch.float32 or bool(asked._is_mkldnn_fp16_supported())


def _fused_obstacle(
    prepared: PreparedCell, x: Tensor, state: tuple[Tensor, ...], batch_sizes: Sequence[int]
) -> str | None:
    """Return why the fused route does not compute the same."""
    dtype = prepared.input.dtype
    if prepared.state_quantizer is not None:
        return "the state is quantized"
    if prepared.cell not in FUSED_CELLS:
        return "the cell is not one of those with a hand-written gradient"
    if not all(
        isinstance(linear, Dense | Factored | Grouped) for linear in (prepared.input, prepared.recurrent)
    ):
        return "the linear map is not one of those with a hand-written gradient"
    if torch._C._is_any_autocast_enabled():
        return "autocast is active"
    if dtype not in (torch.float32, torch.float64):
        return f"the fused route computes in float32 or float64, here {x.dtype} meets {dtype}"
    if (observer := watched()) is not None:
        return observer
    norms = [norm for norm in (prepared.norm_ih, prepared.norm_hh, prepared.norm_cell) if norm is not None]
    for norm in norms:
        if (obstacle := norm_obstacle(norm, prepared)) is not None:
            return f"{type(norm).__name__} {obstacle}"
    if (difference := misfit(_tensors(prepared, x, state), dtype)) is not None:
        return difference
    if len({norm.statistics for norm in norms}) > 1:
        return "statistics over features and over the batch meet"
    if batch_sizes and batch_sizes[-1] < 2 and any(n.statistics == "batch" and n.training for n in norms):
        return "a sequence is alone at some steps, which has no batch statistics"
    return None
