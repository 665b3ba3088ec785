"""From a prepared cell to the plan and the arguments of the fused function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer
from qlstm_core.layers.fused.function import run
from qlstm_core.layers.fused.plan import Arguments, Plan
from qlstm_core.layers.fused.recurrent_product import features, weights
from qlstm_core.layers.linear import Dense, LinearMap
from qlstm_core.layers.norm_contract import Norm, gain_and_bias
from qlstm_core.layers.packing import EXACT
from qlstm_core.layers.prepared import PreparedCell


def run_fused(
    prepared: PreparedCell,
    x: Tensor,
    state: tuple[Tensor, ...],
    batch_sizes: Sequence[int],
    *,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over time; arguments and results as :func:`qlstm_core.layers.sequence.run_loop`."""
    assert prepared.recurrent is not None
    recurrent = weights(prepared.recurrent)
    cell, states = prepared.cell, dict(zip(prepared.cell.states, state, strict=True))
    units = state[-1].shape[1] // prepared.groups
    gain_x, bias_x = _gain_and_bias(prepared.norm_ih)
    gain_h, bias_h = _gain_and_bias(prepared.norm_hh)
    gain_c, bias_c = _gain_and_bias(prepared.norm_cell)
    bias_x, bias_h = _add(prepared.bias_ih, bias_x), _add(prepared.bias_hh, bias_h)
    if not cell.separate:
        bias_x, bias_h = _add(bias_x, bias_h), None
    source, tokens = _input(prepared.input, x, (prepared.groups * len(cell.gates), units))
    dense = source.dim() == 2
    packing = prepared.packing.of_input(x) if prepared.products != EXACT else None
    plan = Plan(
        cell=cell,
        groups=prepared.groups,
        units=units,
        batch_sizes=tuple(batch_sizes),
        reverse=reverse,
        norm_x=None if prepared.norm_ih is None else Norm.of(prepared.norm_ih),
        norm_h=None if prepared.norm_hh is None else Norm.of(prepared.norm_hh),
        norm_c=None if prepared.norm_cell is None else Norm.of(prepared.norm_cell),
        tokens=tokens,
        packing=packing if packing is not None and packing.packs else None,
    )
    arguments = Arguments(
        input=source,
        weight_x=weights(prepared.input)[0] if dense else None,
        bias_x=bias_x,
        bias_h=bias_h,
        gain_x=gain_x,
        gain_h=gain_h,
        gain_c=gain_c,
        bias_c=bias_c,
        projection=prepared.projection,
        h=states["h"],
        c=states.get("c"),
        recurrent=recurrent[0],
        inner=recurrent[1] if len(recurrent) == 2 else None,
    )
    y, *final = run(plan, arguments)
    return y, tuple(final)


def _input(linear: LinearMap, x: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Return what stands for the input: itself, or a table of pre-activations, ``(rows, S, units)``.

    A one-hot vector picks a column of the weight: a table of all columns stands for the whole input, unless
    there are more columns than rows of the sequence.
    """
    if x.is_floating_point():
        return (x, None) if isinstance(linear, Dense) else (linear(x), None)
    count = features(linear)
    if count > len(x):
        return linear(x), None
    if isinstance(linear, Dense):
        return linear.matrix.t().unflatten(1, shape), x
    return linear(torch.arange(count, device=x.device)), x


def _gain_and_bias(normalizer: Normalizer | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if normalizer is None else gain_and_bias(normalizer)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
