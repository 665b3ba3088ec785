"""Runs one layer in one direction over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qlstm_core.interfaces import Normalizer, Quantizer
from qlstm_core.layers.border import check_result
from qlstm_core.layers.checks import check_states
from qlstm_core.layers.linear import Dense
from qlstm_core.layers.prepared import PreparedCell, StateTrace


def quantize_state(quantizer: Quantizer, state: Tensor) -> Tensor:
    """Quantize each row of ``(n, features)`` by itself, as a matrix of its own."""
    matrices = state.unsqueeze(1)
    return check_result(quantizer, "the state", matrices, quantizer(matrices)).squeeze(1)


def run_loop(
    prepared: PreparedCell,
    x: Tensor,
    state: tuple[Tensor, ...],
    batch_sizes: Sequence[int],
    *,
    reverse: bool = False,
    trace: StateTrace | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over time, one readable step after the other: the reference for every faster route.

    Args:
        prepared: the layer in one direction.
        x: inputs of all steps one after the other, ``(Σ batch_sizes, features)``, or integer tokens ``(Σ
            batch_sizes,)``.
        state: initial state, each ``(batch, features)``.
        batch_sizes: how many sequences are alive at each time step; never increasing.
        reverse: from the last step to the first.
        trace: receives every state and every pre-activation.

    Returns:
        ``(Σ batch_sizes, out)`` outputs and the final state of every sequence.
    """
    inputs = prepared.input(x).split(list(batch_sizes))
    times = range(len(batch_sizes))
    outputs: list[Tensor] = [x] * len(times)
    for count, t in enumerate(reversed(times) if reverse else times):
        alive = batch_sizes[t]
        live = tuple(s[:alive] for s in state)
        gates_x = _side(inputs[t], prepared.norm_ih, prepared.bias_ih, count, prepared.groups)
        new, gates_h = run_step(prepared, gates_x, live, count)
        # Sequences that have ended (or, in reverse, not begun) keep their state.
        state = (
            new
            if alive == state[0].shape[0]
            else tuple(torch.cat([n, s[alive:]]) for n, s in zip(new, state, strict=True))
        )
        outputs[t] = new[0]
        if trace is not None:
            trace.keep(gates_x, gates_h, new)
    if trace is not None and reverse:
        trace.reverse()
    return torch.cat(outputs), state


def run_step(
    prepared: PreparedCell, gates_x: Tensor, state: tuple[Tensor, ...], count: int
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Run a cell for one time step.

    Args:
        prepared: the layer in one direction.
        gates_x: N(W_x x_t) + b, ``(batch, gates, hidden)``.
        state: of the step before, each ``(batch, features)``.
        count: number of steps before this one.

    Returns:
        The new state, and the recurrent side of the gates, N(W_h h_{t−1}) + b, ``(batch, gates, hidden)``;
        ``None`` where the cell has none.

    Raises:
        TypeError, ValueError: a step that returns something else than the cell's states.
    """
    gates_h = _recurrent_side(prepared, state[0], count)
    sides = (gates_x,) if gates_h is None else (gates_x, gates_h)
    new = prepared.cell.step(*sides, *state, **_cell_normalizer(prepared, count))
    check_states(prepared.cell, new, state, gates_x)
    if prepared.projection is not None:
        new = (F.linear(new[0], prepared.projection), *new[1:])
    return new, gates_h


def _recurrent_side(prepared: PreparedCell, h: Tensor, count: int) -> Tensor | None:
    """Return N(W_h h_{t−1}) + b, ``(batch, gates, hidden)``, if the cell has a recurrent matrix."""
    if prepared.recurrent is None:
        return None
    if prepared.state_quantizer is not None:
        h = quantize_state(prepared.state_quantizer, h)
    return _side(prepared.recurrent(h), prepared.norm_hh, prepared.bias_hh, count, prepared.groups)


def _side(
    preactivation: Tensor, norm: Normalizer | None, bias: Tensor | None, count: int, groups: int
) -> Tensor:
    """Return N(W x) + b, ``(batch, gates, hidden)``, from ``(batch, groups · gates, rows)``."""
    if norm is not None:
        preactivation = check_result(norm, "a pre-activation", preactivation, norm(preactivation, count))
    if bias is not None:
        preactivation = preactivation + bias
    if groups > 1:
        preactivation = preactivation.unflatten(1, (groups, -1)).transpose(1, 2).flatten(2)
    return preactivation


def _cell_normalizer(prepared: PreparedCell, count: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the step's ``norm_cell``, from ``(batch, hidden)`` to the same, where there is one."""
    norm = prepared.norm_cell
    if norm is None:
        return {}

    def norm_cell(c: Tensor) -> Tensor:
        c = c.unflatten(1, (prepared.groups, -1))
        return check_result(norm, "the cell state", c, norm(c, count)).flatten(1)

    return {"norm_cell": norm_cell}


def run_torch(
    layers: Sequence[Sequence[PreparedCell]],
    x: Tensor,
    state: tuple[Tensor, ...],
    batch_sizes: Sequence[int],
    *,
    dropout: float = 0.0,
    training: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run layers with torch's own operator (oneDNN on CPU, cuDNN on GPU) on the effective weights.

    Args:
        layers: the paths, per layer and direction, all of which :func:`qlstm_core.layers.route.choose_route`
            finds fit for it.
        x: ``(Σ batch_sizes, features)``.
        state: each ``(layers · directions, batch, features)``.
        batch_sizes: as in :func:`run_loop`.
        dropout: probability of dropout between the layers.
        training: whether dropout is active.
    """
    weights: list[Tensor] = []
    for prepared in (prepared for directions in layers for prepared in directions):
        assert isinstance(prepared.input, Dense)
        assert isinstance(prepared.recurrent, Dense)
        weights += [prepared.input.matrix, prepared.recurrent.matrix]
        if prepared.bias_ih is not None:
            bias = prepared.bias_ih.flatten()
            weights += [
                bias,
                torch.zeros_like(bias) if prepared.bias_hh is None else prepared.bias_hh.flatten(),
            ]
        if prepared.projection is not None:
            weights.append(prepared.projection)
    operator = layers[0][0].cell.operator
    assert operator is not None
    has_bias = layers[0][0].bias_ih is not None
    bidirectional = len(layers[0]) == 2
    hx = state if len(state) > 1 else state[0]
    settings = (weights, has_bias, len(layers), dropout, training, bidirectional)
    steps, batch = len(batch_sizes), batch_sizes[0]
    if batch_sizes[-1] == batch:
        y, *final = operator(_copied(x).view(steps, batch, x.shape[-1]), hx, *settings, False)
        return _copied(y.flatten(0, 1)), tuple(final)
    y, *final = operator(x, torch.tensor(batch_sizes, device="cpu"), hx, *settings)
    return y, tuple(final)


def _copied(rows: Tensor) -> Tensor:
    """Return a copy where torch.export traces: the steps of a view would fix the size of the batch."""
    return rows.clone(memory_format=torch.contiguous_format) if torch.compiler.is_compiling() else rows
